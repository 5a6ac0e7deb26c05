"""The router's connection to a node, over a real socket: the error that each way of failing raises."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.access.principals import END_USER
from milena_common.api.credentials import END_USER_METADATA
from milena_common.api.errors import (
    AccessDenied,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MilenaError,
    NodeLost,
    NodeUnreachable,
    OriginUnavailable,
)
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.resp.identity import ANY
from milena_common.rpc.server import GrpcServer
from milena_router.forwarding.node_connection import LARGE_BYTES, GrpcNodeConnection, RespNodeConnection, connect
from tests.support.fake_resp_node import FakeRespNode
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

SOON = 10.0
REQUEST = pb.GetRequest(key=b"k").SerializeToString()


class Node:
    """A node that raises or replies with what a test puts into `says`; None: nothing, until it is cancelled."""

    def __init__(self) -> None:
        self.says: bytes | Exception | None = b""
        self.requested = asyncio.Event()
        self.given: list[float | None] = []

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        self.given.append(remaining)
        self.requested.set()
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
    server = GrpcServer("cache_server.Cache", 1000, ByteBudget(10_000), 5)
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await server.start({"Get": ("get", pb.GetRequest, node.get)}, CallCounts(("get",)))
    connection = GrpcNodeConnection(str(address))
    yield connection
    await connection.close(0)
    await server.stop(0)


async def test_bytes_pass_through(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = b"\x00\xff any bytes"
    assert await connection.call("Get", REQUEST, SOON) == b"\x00\xff any bytes"
    assert node.given == [pytest.approx(SOON, abs=2)]


@pytest.mark.parametrize(
    "error", [InvalidRequest("key: no"), AccessDenied("bucket"), OriginUnavailable("S3: 503 SlowDown")]
)
async def test_the_reply_of_the_node_arrives_unchanged(
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


async def test_a_call_that_a_proxy_breaks_off_may_have_been_done() -> None:
    """It is no overload of the node: that has other details, see tests/common/rpc/test_channel_shed_calls.py."""

    async def cancelled(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED, "reset by a proxy")
        raise AssertionError("abort always raises")

    server = grpc.aio.server()
    handlers = {"Get": grpc.unary_unary_rpc_method_handler(cancelled)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cache_server.Cache", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = GrpcNodeConnection(f"127.0.0.1:{port}")
    with pytest.raises(NodeLost, match="reset by a proxy"):
        await connection.call("Get", REQUEST, SOON)
    await connection.close(0)
    await server.stop(0)


async def test_a_method_that_the_node_does_not_have_is_internal(connection: GrpcNodeConnection) -> None:
    with pytest.raises(InternalError, match="UNIMPLEMENTED"):
        await connection.call("Fly", REQUEST, SOON)


async def test_a_node_that_is_not_there_is_lost_at_once() -> None:
    with ReservedPort() as unused:
        connection = GrpcNodeConnection(unused.address)
        started = time.monotonic()
        with pytest.raises(NodeUnreachable, match=r"^cannot be reached: "):
            await connection.call("Get", REQUEST, SOON)
        assert time.monotonic() - started < SOON / 2
        await connection.close(0)


async def test_a_node_that_exits_with_a_call_in_flight_may_have_done_it() -> None:
    node = grpc.aio.server()
    requested = asyncio.Event()

    async def never(_: bytes, __: Any) -> bytes:
        requested.set()
        return await asyncio.Future()

    handlers = {"Put": grpc.unary_unary_rpc_method_handler(never)}
    node.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cache_server.Cache", handlers),))
    alive = GrpcNodeConnection(f"127.0.0.1:{node.add_insecure_port('127.0.0.1:0')}")
    await node.start()
    call = asyncio.create_task(alive.call("Put", REQUEST, SOON))
    await requested.wait()
    await node.stop(0)
    with pytest.raises(NodeLost) as lost:
        await call
    assert type(lost.value) is NodeLost
    await alive.close(0)


async def test_a_silent_node_is_lost_when_its_time_is_over(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    with pytest.raises(NodeLost, match=r"^did not respond within 0\.2 s"):
        await connection.call("Get", REQUEST, 0.2)


async def test_a_reply_that_grpc_has_dropped_and_one_that_is_empty(
    node: Node, connection: GrpcNodeConnection
) -> None:
    """If the time ends while the reply arrives, the status is OK, and there is no message."""
    assert await connection.call("Get", REQUEST, SOON) == b""
    server = grpc.aio.server()

    async def nothing(_: bytes, __: Any) -> AsyncIterator[bytes]:
        for none in ():
            yield none

    handlers = {"Get": grpc.unary_stream_rpc_method_handler(nothing)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cache_server.Cache", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    dropping = GrpcNodeConnection(f"127.0.0.1:{port}")
    with pytest.raises(NodeLost, match="did not respond"):
        await dropping.call("Get", REQUEST, SOON)
    await dropping.close(0)
    await server.stop(0)


async def test_a_port_that_accepts_and_says_nothing_is_lost_when_its_time_is_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = GrpcNodeConnection(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(NodeLost):
            await connection.call("Get", REQUEST, 0.3)
        await connection.close(0)


async def test_closing_breaks_off_what_waits(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    call = asyncio.create_task(connection.call("Get", REQUEST, SOON))
    await node.requested.wait()
    await connection.close(0)
    with pytest.raises(NodeLost, match="left the ring during the call"):
        await asyncio.wait_for(call, SOON / 2)


async def test_closing_with_grace_lets_calls_finish(node: Node, connection: GrpcNodeConnection) -> None:
    gate = asyncio.Event()

    async def slowly(_: pb.GetRequest, __: float | None) -> bytes:
        node.requested.set()
        await gate.wait()
        return b"late"

    server = GrpcServer("cache_server.Cache", 1000, ByteBudget(10_000), 5)
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await server.start({"Get": ("get", pb.GetRequest, slowly)}, CallCounts(("get",)))
    graceful = GrpcNodeConnection(str(address))
    call = asyncio.create_task(graceful.call("Get", REQUEST, SOON))
    await node.requested.wait()
    closing = asyncio.create_task(graceful.close(SOON))
    await asyncio.sleep(0.02)
    with pytest.raises(NodeLost, match="left the ring"):
        await graceful.call("Get", REQUEST, SOON)
    gate.set()
    assert await call == b"late"
    await closing
    await server.stop(0)


async def test_after_closing_the_node_has_left(connection: GrpcNodeConnection) -> None:
    await connection.call("Get", REQUEST, SOON)
    await connection.close(0)
    with pytest.raises(NodeLost, match="left the ring"):
        await connection.call("Get", REQUEST, SOON)


async def test_a_caller_that_gives_up_is_cancelled(node: Node, connection: GrpcNodeConnection) -> None:
    node.says = None
    call = asyncio.create_task(connection.call("Get", REQUEST, SOON))
    await node.requested.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


# ---- the Redis protocol


@pytest.fixture
def server() -> Iterator[FakeRespNode]:
    server = FakeRespNode(MemoryCluster(lambda: 0.0).respond)
    yield server
    server.close()


class Other:
    """The connection that is there for what does not go over the Redis protocol."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.closed_with: float | None = None

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        self.calls.append(method)
        return b"other"

    async def close(self, grace: float) -> None:
        self.closed_with = grace


@pytest.fixture
async def resp(server: FakeRespNode) -> AsyncIterator[RespNodeConnection]:
    resp = RespNodeConnection(server.address, Other())
    yield resp
    await resp.close(0)


async def until(what: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_until, "what the test waits for", what, SOON)


async def test_what_clients_wait_for_goes_over_the_redis_protocol(
    server: FakeRespNode, resp: RespNodeConnection
) -> None:
    put = pb.PutRequest(key=b"k", value=b"v" * 100_000, owned_since=7).SerializeToString()
    assert pb.PutResponse.FromString(await resp.call("Put", put, SOON)).successful
    assert pb.GetResponse.FromString(await resp.call("Get", REQUEST, SOON)).value == b"v" * 100_000
    server.says = lambda argv: b"$2\r\n\x08\x01\r\n"
    assert await resp.call("Invalidate", REQUEST, SOON) == b"\x08\x01"
    assert await resp.call("Delete", REQUEST, SOON) == b"\x08\x01"
    assert [argv[:2] for argv in server.received] == [
        [b"MILENA.CALL", method] for method in (b"Put", b"Get", b"Invalidate", b"Delete")
    ]
    assert server.received[0][3] == put
    assert server.connections == 1


async def test_rare_methods_do_not(server: FakeRespNode) -> None:
    other = Other()
    resp = RespNodeConnection(server.address, other)
    assert await resp.call("Stats", b"", SOON) == b"other"
    assert server.received == []
    await resp.close(0)
    assert other.closed_with == 0


async def test_large_requests_and_replies_do_not_either(server: FakeRespNode) -> None:
    other = Other()
    resp = RespNodeConnection(server.address, other)
    await resp.call("Get", REQUEST, SOON)
    large = pb.PutRequest(key=b"k", value=b"v" * (LARGE_BYTES + 1)).SerializeToString()
    assert await resp.call("Put", large, SOON) == b"other"
    assert await resp.call("Get", REQUEST, SOON, LARGE_BYTES + 1) == b"other"
    assert other.calls == ["Put", "Get"]
    assert await resp.call("Get", REQUEST, SOON, LARGE_BYTES) != b"other"
    assert [argv[1] for argv in server.received] == [b"Get", b"Get"]
    await resp.close(0)


async def test_a_node_whose_resp_server_is_shut_is_called_over_grpc(node: Node) -> None:
    with ReservedPort() as unused:
        other = Other()
        resp = RespNodeConnection(unused.address, other)
        assert await resp.call("Get", REQUEST, SOON) == b"other"
        assert await resp.call("Put", REQUEST, SOON) == b"other"
        await resp.close(0)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"-ERR key: no\r\n", InvalidRequest),
        (b"-ORIGINDOWN S3: 503\r\n", OriginUnavailable),
        (b"-TIMEOUT S3 took too long\r\n", DeadlineExceeded),
        (b"*0\r\n", InternalError),
    ],
)
async def test_an_error_of_the_resp_server_is_raised(
    server: FakeRespNode, resp: RespNodeConnection, line: bytes, kind: type[MilenaError]
) -> None:
    server.says = lambda argv: line if argv[0] == b"MILENA.CALL" else None
    with pytest.raises(kind) as raised:
        await resp.call("Get", REQUEST, SOON)
    assert type(raised.value) is kind


async def test_a_slow_read_does_not_delay_others(server: FakeRespNode, resp: RespNodeConnection) -> None:
    server.defers = lambda argv: argv[1] == b"Get"
    slow = asyncio.create_task(resp.call("Get", REQUEST, SOON))
    assert await resp.call("Put", pb.PutRequest(key=b"k", value=b"v").SerializeToString(), SOON)
    assert not slow.done()
    server.release()
    assert pb.GetResponse.FromString(await slow).value == b"v"


async def test_a_silent_resp_server_is_a_lost_node_after_the_timeout(
    server: FakeRespNode, resp: RespNodeConnection
) -> None:
    await resp.call("Get", REQUEST, SOON)
    server.silent = True
    with pytest.raises(NodeLost, match=r"^did not respond within 0\.2 s"):
        await resp.call("Get", REQUEST, 0.2)


async def test_a_broken_connection_is_a_lost_node(server: FakeRespNode, resp: RespNodeConnection) -> None:
    server.defers = lambda argv: True
    call = asyncio.create_task(resp.call("Put", REQUEST, SOON))
    await until(lambda: server.held)
    server.disconnect()
    with pytest.raises(NodeLost, match=r"^broke off the connection"):
        await call


async def test_closing_a_connection_to_the_resp_server(server: FakeRespNode) -> None:
    server.defers = lambda argv: True
    for grace, ends in ((0, False), (SOON, True)):
        resp = RespNodeConnection(server.address, Other())
        call = asyncio.create_task(resp.call("Get", REQUEST, SOON))
        await until(lambda: server.held)
        closing = asyncio.create_task(resp.close(grace))
        await asyncio.sleep(0)
        with pytest.raises(NodeLost, match="left the ring"):
            await resp.call("Get", REQUEST, SOON)
        if ends:
            server.release()
            await call
        else:
            with pytest.raises(NodeLost, match="left the ring during the call"):
                await call
            server.held.clear()
        await closing


async def test_which_connection_a_node_gets() -> None:
    for addresses, kind in (({"resp": "a:1"}, RespNodeConnection), ({"ops": "a:1"}, GrpcNodeConnection)):
        connection = connect("127.0.0.1:1", addresses, ANY)
        assert type(connection) is kind
        await connection.close(0)


async def test_calls_name_the_user_for_whom_they_are_made(server: FakeRespNode, resp: RespNodeConnection) -> None:
    server.says = lambda argv: b"$2\r\n\x08\x01\r\n" if argv[0] == b"MILENA.CALL" else None
    END_USER.set("jörg")
    await resp.call("Get", REQUEST, SOON)
    await resp.call("Invalidate", REQUEST, SOON)  # the cluster's own, in the course of a user's write
    assert [argv[4:] for argv in server.received] == [[b"", "jörg".encode()], []]


async def test_calls_over_grpc_do_so_too() -> None:
    seen: list[dict[str, Any]] = []

    async def got(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        seen.append(dict(context.invocation_metadata() or ()))
        return b""

    server = grpc.aio.server()
    handlers = {name: grpc.unary_unary_rpc_method_handler(got) for name in ("Flush", "Invalidate")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("cache_server.Cache", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = GrpcNodeConnection(f"127.0.0.1:{port}")
    END_USER.set("jörg")
    for method in handlers:
        await connection.call(method, b"", SOON)
    assert [each.get(END_USER_METADATA) for each in seen] == ["jörg".encode(), None]
    await connection.close(0)
    await server.stop(0)
