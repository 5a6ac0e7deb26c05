"""Methods of the gRPC server that reply again and again: what callers see, what is counted, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc._cython.cygrpc import ExecuteBatchError

from milena_common.api.errors import FailedPrecondition, Overloaded
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc.calls import StreamMethod, Streams
from milena_common.rpc.options import channel_options
from milena_common.rpc.server import GrpcServer, _exchange_handler, _stream_handler
from milena_common.rpc.status import from_grpc

SERVICE = "cache_server.Cache"
REQUEST = pb.GetRequest(key=b"k").SerializeToString()
SOON = 10.0
MAX_STREAMS = 3

Call = grpc.aio.UnaryStreamCall[bytes, bytes]


class RunningServer:
    """A running server: its `Watch` is the stream under test, its `Get` replies when `go_on` is set."""

    def __init__(self) -> None:
        self.server = GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5, MAX_STREAMS)
        self.calls = CallCounts(("get", "watch"))
        self.counts = self.calls["watch"]
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()
        self.channel: grpc.aio.Channel

    async def get(self, request: pb.GetRequest, _: float | None) -> bytes:
        self.entered.set()
        await self.go_on.wait()
        return b"answer to " + request.key

    def call(self) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        return self.channel.unary_unary(f"/{SERVICE}/Get")(REQUEST, timeout=SOON)

    def watch(self, request: bytes = REQUEST) -> Call:
        return self.channel.unary_stream(f"/{SERVICE}/Watch")(request)

    @property
    def observed(self) -> int:
        return sum(self.counts.durations.counts)


@asynccontextmanager
async def server_for(method: StreamMethod) -> AsyncIterator[RunningServer]:
    server = RunningServer()
    address = server.server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await server.server.start(
        {"Get": ("get", pb.GetRequest, server.get)}, server.calls, {"Watch": ("watch", pb.GetRequest, method)}
    )
    try:
        async with grpc.aio.insecure_channel(str(address), options=channel_options()) as server.channel:
            yield server
    finally:
        await server.server.stop(0)


async def rejected(call: Call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call.read(), SOON)
    return error.value


async def endless(_: pb.GetRequest, __: float | None) -> AsyncGenerator[bytes, None]:
    yield b"first"
    await asyncio.Event().wait()


async def test_each_message_arrives_and_then_the_end() -> None:
    async def method(request: pb.GetRequest, remaining: float | None) -> AsyncGenerator[bytes, None]:
        assert remaining is None
        for number in range(3):
            yield request.key + b"%d" % number

    async with server_for(method) as server:
        assert [message async for message in server.watch()] == [b"k0", b"k1", b"k2"]
        assert (server.counts.requests, server.counts.errors, server.observed) == (1, {}, 1)


@pytest.mark.parametrize("before", [0, 2])
async def test_an_error_of_ours_is_its_status_with_code_word(before: int) -> None:
    async def method(_: pb.GetRequest, __: float | None) -> AsyncGenerator[bytes, None]:
        for _each in range(before):
            yield b"m"
        raise FailedPrecondition("not for you")

    async with server_for(method) as server:
        call = server.watch()
        for _ in range(before):
            assert await call.read() == b"m"
        error = await rejected(call)
        ours = from_grpc(error.code(), error.details(), error.trailing_metadata())
        assert type(ours) is FailedPrecondition
        assert str(ours) == "not for you"
        assert (server.counts.errors, server.observed) == ({"failed_precondition": 1}, 1)


async def test_a_defect_is_internal_and_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def method(_: pb.GetRequest, __: float | None) -> AsyncGenerator[bytes, None]:
        yield b"m"
        raise ZeroDivisionError("secret of the house")

    async with server_for(method) as server:
        call = server.watch()
        assert await call.read() == b"m"
        error = await rejected(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(error.details())
        assert server.counts.errors == {"internal": 1}
    assert "secret of the house" in caplog.text


class DeadCall:
    """The context of a call whose caller has gone, as gRPC 1.80 behaves before it cancels the handler."""

    def time_remaining(self) -> None:
        return None

    async def write(self, _: bytes) -> None:
        raise ExecuteBatchError("Failed grpc_call_start_batch: 4")

    async def read(self) -> bytes:
        return REQUEST


@pytest.mark.parametrize("kind", ["stream", "exchange"])
async def test_a_caller_that_goes_while_a_message_is_written_is_no_defect(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    counts, closed = CallCounts(("watch",))["watch"], list[pb.GetRequest]()

    async def method(request: pb.GetRequest, _: float | None) -> bytes:
        return request.key

    if kind == "stream":
        handler = _stream_handler(endless, pb.GetRequest, counts, Streams(1), None, None).unary_stream
    else:
        stopping = asyncio.Event()
        exchange = _exchange_handler(method, pb.GetRequest, counts, Streams(1), stopping, closed.append, None, None)
        handler = exchange.stream_stream
    with pytest.raises(asyncio.CancelledError):
        await handler(REQUEST, DeadCall())
    assert "internal" not in counts.errors
    assert [request.key for request in closed] == ([] if kind == "stream" else [b"k"])
    assert caplog.text == ""


async def test_bytes_that_are_no_request_are_invalid() -> None:
    async with server_for(endless) as server:
        assert (await rejected(server.watch(b"\xff"))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_that_goes_ends_the_method_and_is_no_error() -> None:
    finished = asyncio.Event()

    async def method(_: pb.GetRequest, __: float | None) -> AsyncGenerator[bytes, None]:
        try:
            yield b"m"
            await asyncio.Event().wait()
        finally:
            finished.set()

    async with server_for(method) as server:
        call = server.watch()
        assert await call.read() == b"m"
        call.cancel()
        await asyncio.wait_for(finished.wait(), SOON)
        assert server.counts.errors == {}


async def test_streams_are_bounded_and_take_no_room_from_calls() -> None:
    finished = asyncio.Event()

    async def method(request: pb.GetRequest, remaining: float | None) -> AsyncGenerator[bytes, None]:
        try:
            async for message in endless(request, remaining):
                yield message
        finally:
            finished.set()

    async with server_for(method) as server:
        server.go_on.set()
        calls = [server.watch() for _ in range(MAX_STREAMS)]
        for call in calls:
            assert await call.read() == b"first"
        error = await rejected(server.watch())
        assert isinstance(from_grpc(error.code(), error.details(), error.trailing_metadata()), Overloaded)
        assert await server.call() == b"answer to k"
        calls[0].cancel()
        await asyncio.wait_for(finished.wait(), SOON)
        assert await server.watch().read() == b"first"


async def test_a_reader_that_does_not_read_does_not_hold_up_a_stop() -> None:
    written = 0

    async def method(_: pb.GetRequest, __: float | None) -> AsyncGenerator[bytes, None]:
        nonlocal written
        while True:
            yield bytes(2**20)
            written += 1

    async with server_for(method) as server:
        call = server.watch()
        assert len(await call.read()) == 2**20  # type: ignore[arg-type]
        before = -1
        while before != written:  # until nothing more is taken
            before = written
            await asyncio.sleep(0.2)
        # A stop that waited for the stream would wait for all of this.
        await asyncio.wait_for(server.server.stop(3600), SOON)


async def test_a_call_in_flight_has_its_time_though_streams_are_open() -> None:
    async with server_for(endless) as server:
        stream = server.watch()
        assert await stream.read() == b"first"
        call = server.call()
        await server.entered.wait()
        stopping = asyncio.ensure_future(server.server.stop(3600))
        await asyncio.sleep(1)
        assert not stopping.done()
        server.go_on.set()
        assert await call == b"answer to k"
        await asyncio.wait_for(stopping, SOON)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await stream.read()
