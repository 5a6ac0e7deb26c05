"""Large requests over gRPC: their bytes are taken before they are received, and given back at each kind of end."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from milena_common.api.errors import DeadlineExceeded, InvalidRequest, NodeLost, Overloaded
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, ENVELOPE_BYTES
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc import receive as grpc_receive
from milena_common.rpc.calls import Method
from milena_common.rpc.options import REQUEST_BYTES, SMALLEST_FRAME_LIMIT, channel_options
from milena_common.rpc.server import GrpcServer
from milena_common.rpc.status import from_grpc
from tests.support.waiting import eventually

SERVICE = "cache_server.Cache"
SOON = 10.0
MAX_VALUE = 2**20
LIMIT = 4 * MAX_VALUE


def put(size: int) -> bytes:
    return pb.PutRequest(key=b"k", value=bytes(size)).SerializeToString()


class RunningServer:
    """A server with the methods Put and Get, its budget, and a channel to it."""

    def __init__(self, channel: grpc.aio.Channel, budget: ByteBudget) -> None:
        self.channel = channel
        self.budget = budget

    def put(
        self, request: bytes, *, announced: int | None = None, timeout: float = SOON
    ) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """A unary client's call; `announced` None: it says its size, as Milena's clients do, -1: it does not."""
        size = len(request) if announced is None else announced
        metadata = ((REQUEST_BYTES, str(size)),) if size >= 0 else None
        return self.channel.unary_unary(f"/{SERVICE}/Put")(request, timeout=timeout, metadata=metadata)

    async def error(self, call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> Exception:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        return from_grpc(error.code(), error.details(), error.trailing_metadata())

    async def all_given_back(self) -> None:
        await eventually(lambda: self.budget.used == 0)


@asynccontextmanager
async def server_for(method: Method, request_timeout: float = SOON) -> AsyncIterator[RunningServer]:
    budget = ByteBudget(LIMIT)
    server = GrpcServer(SERVICE, MAX_VALUE, budget, request_timeout)
    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    methods = {"Put": ("put", pb.PutRequest, method), "Get": ("get", pb.GetRequest, method)}
    await server.start(methods, CallCounts(("put", "get")))
    try:
        async with grpc.aio.insecure_channel(str(address), options=channel_options()) as channel:
            yield RunningServer(channel, budget)
    finally:
        await server.stop(0)


async def length(request: pb.PutRequest, _: float | None) -> bytes:
    return b"%d" % len(request.value)


@pytest.mark.parametrize("announced", [None, -1], ids=["announced", "unannounced"])
async def test_a_unary_clients_request_is_served_and_its_bytes_are_given_back(announced: int | None) -> None:
    async with server_for(length) as server:
        for size in (0, 10, MAX_VALUE):
            assert await server.put(put(size), announced=announced) == b"%d" % size
        await server.all_given_back()


async def test_a_request_that_is_announced_as_too_large_is_rejected_unread_and_the_limit_is_named() -> None:
    async with server_for(length) as server:
        error = await server.error(server.put(put(10), announced=5_000_000_000))
        assert isinstance(error, InvalidRequest)
        assert "5000000000" in str(error)
        assert str(MAX_VALUE + ENVELOPE_BYTES) in str(error)
        assert "MAX_VALUE_BYTES" in str(error)
        assert server.budget.used == 0


async def test_requests_beyond_the_budget_wait_for_those_before_them() -> None:
    working, maximum, go_on = 0, 0, asyncio.Event()

    async def method(request: pb.PutRequest, _: float | None) -> bytes:
        nonlocal working, maximum
        working += 1
        maximum = max(maximum, working)
        await go_on.wait()
        working -= 1
        return b"done"

    async with server_for(method) as server:
        calls = [asyncio.ensure_future(_reply(server.put(put(MAX_VALUE // 2)))) for _ in range(8)]
        await eventually(lambda: server.budget.queued > 0 and working == 2)
        assert server.budget.used <= LIMIT
        go_on.set()
        assert await asyncio.gather(*calls) == [b"done"] * 8
        assert maximum == 2
        await server.all_given_back()


async def _reply(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> bytes:
    return await call


async def test_a_request_without_room_in_its_time_gets_a_time_to_retry() -> None:
    async with server_for(length, request_timeout=0.05) as server:
        assert server.budget.try_take(LIMIT)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.channel.unary_unary(f"/{SERVICE}/Put")(
                put(1000), metadata=((REQUEST_BYTES, "1000"),), timeout=None
            )
        error = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(from_grpc(error.code(), error.details(), error.trailing_metadata()), Overloaded)
        assert "MAX_IN_FLIGHT_BYTES" in str(error.details())
        assert "retry-after-ms" in dict(error.trailing_metadata() or ())
        server.budget.release(LIMIT)
        assert await server.put(put(5)) == b"5"


async def test_a_call_with_a_deadline_that_finds_no_room_learns_the_limit_before_its_deadline() -> None:
    async with server_for(length) as server:
        assert server.budget.try_take(LIMIT)
        for announced in (None, -1):
            error = await server.error(server.put(put(1000), announced=announced, timeout=3))
            assert isinstance(error, Overloaded)
            assert "MAX_IN_FLIGHT_BYTES" in str(error)
        assert server.budget.rejected == 2


async def test_a_caller_that_gives_up_gives_back_its_bytes_at_every_stage() -> None:
    begun = asyncio.Event()

    async def method(_: pb.PutRequest, __: float | None) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with server_for(method) as server:
        # While it works.
        call = server.put(put(MAX_VALUE))
        await begun.wait()
        assert server.budget.used == COPIES * len(put(MAX_VALUE))
        call.cancel()
        await server.all_given_back()
        # While it waits for room.
        assert server.budget.try_take(LIMIT)
        call = server.put(put(MAX_VALUE))
        await eventually(lambda: server.budget.queued == 1)
        call.cancel()
        await eventually(lambda: server.budget.queued == 0)
        server.budget.release(LIMIT)
        await server.all_given_back()
        # While its request is awaited, which never comes.
        stream = server.channel.stream_unary(f"/{SERVICE}/Put")(metadata=((REQUEST_BYTES, "1000"),))
        await eventually(lambda: server.budget.used == COPIES * 1000)
        stream.cancel()
        await server.all_given_back()


class Large:
    """Stands for what a failed call's frames hold; it can be referred to weakly."""


@pytest.mark.parametrize("method", ["Put", "Get"])
@pytest.mark.parametrize("replaced", [NodeLost("is gone"), ZeroDivisionError()], ids=["refused", "defect"])
async def test_what_a_failed_call_held_is_free_before_the_garbage_collector_runs(
    method: str, replaced: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Or pytest keeps the log's record of the defect, which has its frames.
    monkeypatch.setattr(logging.getLogger("milena_common.rpc.calls"), "disabled", True)
    held: list[weakref.ref[Large]] = []

    def lose(large: Large) -> None:
        raise ConnectionError

    async def fails(request: pb.PutRequest, _: float | None) -> bytes:
        large = Large()
        held.append(weakref.ref(large))
        try:
            lose(large)
        except ConnectionError:
            raise replaced from None
        return b""

    async with server_for(fails) as server:
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(grpc.aio.AioRpcError):
                await server.channel.unary_unary(f"/{SERVICE}/{method}")(put(10), timeout=SOON)
            await eventually(lambda: held[0]() is None)
        finally:
            gc.enable()


async def test_a_request_that_does_not_arrive_ends_in_its_time() -> None:
    async with server_for(length, request_timeout=0.05) as server:
        stream = server.channel.stream_unary(f"/{SERVICE}/Put")(metadata=((REQUEST_BYTES, "1000"),))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream
        error = caught.value
        assert isinstance(from_grpc(error.code(), error.details(), error.trailing_metadata()), DeadlineExceeded)
        await server.all_given_back()


async def test_a_call_without_a_request_is_invalid() -> None:
    async with server_for(length) as server:
        stream = server.channel.stream_unary(f"/{SERVICE}/Put")(iter(()), timeout=SOON)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await server.all_given_back()


async def test_a_request_larger_than_announced_is_counted_as_large_as_it_is() -> None:
    held: list[int] = []

    async with server_for(length) as server:

        async def method(request: pb.PutRequest, _: float | None) -> bytes:
            held.append(server.budget.used)
            return b""

        inner = GrpcServer(SERVICE, MAX_VALUE, server.budget, SOON)
        address = inner.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
        await inner.start({"Put": ("put", pb.PutRequest, method)}, CallCounts(("put",)))
        async with grpc.aio.insecure_channel(str(address), options=channel_options()) as channel:
            await RunningServer(channel, server.budget).put(put(MAX_VALUE), announced=1)
        await inner.stop(0)
    assert held == [COPIES * len(put(MAX_VALUE))]


async def test_an_unannounced_request_that_is_far_too_large_is_given_up_while_it_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = iter([0, COPIES * max(MAX_VALUE + ENVELOPE_BYTES, SMALLEST_FRAME_LIMIT) + 1])
    monkeypatch.setattr(grpc_receive, "resident_bytes", lambda: next(sizes))
    async with server_for(length) as server:
        stream = server.channel.stream_unary(f"/{SERVICE}/Put")(timeout=SOON)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "MAX_VALUE_BYTES" in str(caught.value.details())
        await server.all_given_back()
