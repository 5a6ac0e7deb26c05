"""The router's connection to a node, over a real socket: what each way of failing is told as."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from milena_common.addresses import Address
from milena_common.calls import CallCounts
from milena_common.errors import (
    AccessDenied,
    InternalError,
    InvalidRequest,
    MilenaError,
    NodeLost,
    OriginUnavailable,
)
from milena_common.grpc_door import GrpcDoor
from milena_common.pb import cache_server_pb2 as pb
from milena_router.node_connection import GrpcNodeConnection
from tests.support.ports import ReservedPort

SOON = 10.0
REQUEST = pb.GetRequest(key=b"k").SerializeToString()


class Node:
    """A node that raises or answers what a test puts into `says`; None: nothing, until it is cancelled."""

    def __init__(self) -> None:
        self.says: bytes | Exception | None = b""
        self.asked = asyncio.Event()
        self.given: list[float | None] = []

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        self.given.append(remaining)
        self.asked.set()
        if self.says is None:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says or b""


@pytest.fixture
async def node() -> Node:
    return Node()


@pytest.fixture
async def connection(node: Node) -> AsyncIterator[GrpcNodeConnection]:
    door = GrpcDoor("cache_server.Cache", 1000, 10_000)
    address = door.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await door.start({"Get": ("get", pb.GetRequest, node.get)}, CallCounts(("get",)))
    connection = GrpcNodeConnection(str(address))
    yield connection
    await connection.close(0)
    await door.stop(0)


async def test_bytes_pass_through(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = b"\x00\xff any bytes"
    assert await connection.call("Get", REQUEST, SOON) == b"\x00\xff any bytes"
    assert node.given == [pytest.approx(SOON, abs=2)]


@pytest.mark.parametrize(
    "error", [InvalidRequest("key: no"), AccessDenied("bucket"), OriginUnavailable("S3: 503 SlowDown")]
)
async def test_what_the_node_answers_arrives_as_it_was(
    node: Node, connection: GrpcNodeConnection, error: MilenaError
) -> None:
    node.says = error
    with pytest.raises(type(error), match=str(error)) as raised:
        await connection.call("Get", REQUEST, SOON)
    assert type(raised.value) is type(error)


async def test_a_defect_of_the_node_is_no_lost_node(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = ZeroDivisionError()
    with pytest.raises(InternalError):
        await connection.call("Get", REQUEST, SOON)


async def test_a_method_that_the_node_does_not_have_is_internal(connection: GrpcNodeConnection) -> None:
    with pytest.raises(InternalError, match="UNIMPLEMENTED"):
        await connection.call("Fly", REQUEST, SOON)


async def test_a_node_that_is_not_there_is_lost_at_once() -> None:
    with ReservedPort() as nobody:
        connection = GrpcNodeConnection(nobody.address)
        started = time.monotonic()
        with pytest.raises(NodeLost, match=r"^cannot be reached: "):
            await connection.call("Get", REQUEST, SOON)
        assert time.monotonic() - started < SOON / 2
        await connection.close(0)


async def test_a_silent_node_is_lost_when_its_time_is_over(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    with pytest.raises(NodeLost, match=r"^did not answer within 0\.2 s"):
        await connection.call("Get", REQUEST, 0.2)


async def test_a_port_that_accepts_and_says_nothing_is_lost_when_its_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = GrpcNodeConnection(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(NodeLost):
            await connection.call("Get", REQUEST, 0.3)
        await connection.close(0)


async def test_closing_breaks_off_what_waits(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    call = asyncio.create_task(connection.call("Get", REQUEST, SOON))
    await node.asked.wait()
    await connection.close(0)
    with pytest.raises(NodeLost, match="left the ring while it was asked"):
        await asyncio.wait_for(call, SOON / 2)


async def test_closing_with_grace_lets_calls_finish(node: Node, connection: GrpcNodeConnection) -> None:
    gate = asyncio.Event()

    async def slowly(_: pb.GetRequest, __: float | None) -> bytes:
        node.asked.set()
        await gate.wait()
        return b"late"

    door = GrpcDoor("cache_server.Cache", 1000, 10_000)
    address = door.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await door.start({"Get": ("get", pb.GetRequest, slowly)}, CallCounts(("get",)))
    graceful = GrpcNodeConnection(str(address))
    call = asyncio.create_task(graceful.call("Get", REQUEST, SOON))
    await node.asked.wait()
    closing = asyncio.create_task(graceful.close(SOON))
    await asyncio.sleep(0.02)
    with pytest.raises(NodeLost, match="left the ring"):
        await graceful.call("Get", REQUEST, SOON)
    gate.set()
    assert await call == b"late"
    await closing
    await door.stop(0)


async def test_after_closing_the_node_has_left(connection: GrpcNodeConnection) -> None:
    await connection.call("Get", REQUEST, SOON)
    await connection.close(0)
    with pytest.raises(NodeLost, match="left the ring"):
        await connection.call("Get", REQUEST, SOON)


async def test_a_caller_that_gives_up_is_cancelled(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    call = asyncio.create_task(connection.call("Get", REQUEST, SOON))
    await node.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
