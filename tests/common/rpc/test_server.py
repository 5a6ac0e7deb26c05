"""The gRPC server, over a real socket: what its callers see, and what it counts."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from milena_common.api.errors import InvalidRequest, NodeLost, RateLimited
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.network.listening import CannotListen
from milena_common.resp.identity import Identity
from milena_common.rpc.calls import Method
from milena_common.rpc.options import MAX_CALLS_PER_CONNECTION, channel_options
from milena_common.rpc.server import MAX_CHECKED_HANDLERS, GrpcServer
from milena_common.rpc.status import from_grpc
from tests.support.waiting import eventually

ANY_PORT = Address("127.0.0.1", 0)
SERVICE = "cache_server.Cache"
REQUEST = pb.GetRequest(key=b"k").SerializeToString()
SOON = 10.0


class RunningServer:
    """A running server with one method, and a channel to it."""

    def __init__(
        self,
        server: GrpcServer,
        address: Address,
        counts: CallCounts,
        channel: grpc.aio.Channel,
        budget: ByteBudget,
        name: str,
    ) -> None:
        self.server = server
        self.budget = budget
        self.address = address
        self.counts = counts["get"]
        self.channel = channel
        self.name = name

    def call(self, request: bytes = REQUEST, timeout: float | None = SOON) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        return self.channel.unary_unary(f"/{SERVICE}/{self.name}")(request, timeout=timeout)

    async def rejected(self, request: bytes = REQUEST) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call(request)
        return error.value


@asynccontextmanager
async def server_for(method: Method, name: str = "Get") -> AsyncIterator[RunningServer]:
    budget = ByteBudget(10_000)
    server = GrpcServer(SERVICE, 1000, budget, 5)
    address = server.bind(ANY_PORT, "LISTEN_ADDR")
    counts = CallCounts(("get",))
    await server.start({name: ("get", pb.GetRequest, method)}, counts)
    try:
        async with grpc.aio.insecure_channel(str(address), options=channel_options()) as channel:
            yield RunningServer(server, address, counts, channel, budget, name)
    finally:
        await server.stop(0)


async def reply(request: pb.GetRequest, _: float | None) -> bytes:
    return b"answer to " + request.key


async def test_a_methods_bytes_are_the_reply() -> None:
    async with server_for(reply) as server:
        assert await server.call() == b"answer to k"
        assert (server.counts.requests, server.counts.errors) == (1, {})
        assert sum(server.counts.durations.counts) == 1


async def test_the_method_learns_how_long_its_caller_waits() -> None:
    seen: list[float | None] = []

    async def method(_: pb.GetRequest, remaining: float | None) -> bytes:
        seen.append(remaining)
        return b""

    async with server_for(method) as server:
        await server.call(timeout=None)
        await server.call(timeout=7)
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1] == pytest.approx(7, abs=2)


async def test_an_error_of_ours_is_its_status_with_code_word() -> None:
    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        raise NodeLost("node a:1 is gone: ü")

    async with server_for(method) as server:
        error = await server.rejected()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "node a:1 is gone: ü"
        assert isinstance(from_grpc(error.code(), error.details(), error.trailing_metadata()), NodeLost)
        assert server.counts.errors == {"unavailable": 1}
        assert sum(server.counts.durations.counts) == 1


async def test_a_request_beyond_the_budget_waits_for_the_one_before_it() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        entered.set()
        await go_on.wait()
        return b"done"

    large = pb.GetRequest(key=b"x" * 100_000).SerializeToString()
    async with server_for(method) as server:
        first = asyncio.ensure_future(server.call(large))  # one is taken, however large
        await entered.wait()
        second = asyncio.ensure_future(server.call(large))
        await eventually(lambda: server.budget.queued == 1)
        go_on.set()
        assert await first == b"done"
        assert await second == b"done"
        assert await server.call(large) == b"done"


async def test_a_rate_limit_says_when_to_come_back() -> None:
    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        raise RateLimited("slow down", 0.0421)

    async with server_for(method) as server:
        error = await server.rejected()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after-ms", "43") in tuple(error.trailing_metadata())


async def test_a_defect_is_internal_and_logged_without_details_for_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        raise ZeroDivisionError("secret of the house")

    async with server_for(method) as server:
        error = await server.rejected()
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(error.details())
        assert server.counts.errors == {"internal": 1}
        assert await server.rejected()
    record = caplog.records[0]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "secret of the house" in str(record.exc_info[1])


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 10, b"\x0a\x7f", pb.GetRequest(key=b"k").SerializeToString() + b"\x12\x02\xff\xff"]
)
async def test_bytes_that_are_no_request_are_invalid_and_not_unknown(garbage: bytes) -> None:
    async with server_for(reply) as server:
        error = await server.rejected(garbage)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(error.details()).startswith("request: ")
        assert server.counts.errors == {"invalid_argument": 1}


@pytest.mark.parametrize("text", ["x" * 100_000, "🙂" * 100_000, "\ud800" * 10_000, "new\nline\x00"])
async def test_an_error_of_any_length_arrives_with_its_status(text: str) -> None:
    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        raise InvalidRequest("key: " + text)

    async with server_for(method) as server:
        error = await server.rejected()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(error.details()).startswith("key: ")


async def test_a_method_that_is_not_there_is_unimplemented() -> None:
    async with server_for(reply) as server:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await server.channel.unary_unary(f"/{SERVICE}/Fly")(b"", timeout=SOON)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_caller_that_gives_up_cancels_the_method_and_is_counted() -> None:
    begun, finished = asyncio.Event(), asyncio.Event()

    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            finished.set()
        return b""

    async with server_for(method) as server:
        call = server.call()
        await begun.wait()
        call.cancel()
        await asyncio.wait_for(finished.wait(), SOON)
        await asyncio.sleep(0)
        assert server.counts.errors == {"cancelled": 1}


@pytest.mark.parametrize("name", ["Get", "Put"])
async def test_any_number_of_calls_may_fail_on_one_connection(name: str) -> None:
    """gRPC rejects calls beyond MAX_CALLS_PER_CONNECTION, and counts those whose objects are still there."""

    async def method(request: pb.GetRequest, _: float | None) -> bytes:
        if request.key == b"silent":
            await asyncio.Event().wait()
        raise NodeLost("gone")

    gc.disable()
    try:
        async with server_for(method, name) as server:
            for _ in range(MAX_CALLS_PER_CONNECTION + 50):
                assert (await server.rejected()).details() == "gone"
                call = server.call(pb.GetRequest(key=b"silent").SerializeToString())
                call.cancel()
            assert (await server.rejected()).details() == "gone"
    finally:
        gc.enable()


async def test_a_frame_over_the_transports_limit_reads_as_a_value_that_is_too_large() -> None:
    async with server_for(reply) as server:
        error = await server.rejected(bytes(64 * 2**20 + 128 * 1024))
        ours = from_grpc(error.code(), error.details(), error.trailing_metadata())
        assert isinstance(ours, InvalidRequest)
        assert str(64 * 2**20 + 128 * 1024) in str(ours)
        assert await server.call() == b"answer to k"


async def health(server: RunningServer, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SOON)).status


async def test_the_health_service_responds_for_the_process_and_the_service() -> None:
    states = health_pb2.HealthCheckResponse
    async with server_for(reply) as server:
        assert [await health(server, name) for name in ("", SERVICE)] == [states.SERVING] * 2
        await server.server.set_serving(False)
        assert [await health(server, name) for name in ("", SERVICE)] == [states.NOT_SERVING] * 2
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await health(server, "no.such.Service")
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_calls_in_flight_finish_when_the_server_closes() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def method(_: pb.GetRequest, __: float | None) -> bytes:
        begun.set()
        await go_on.wait()
        return b"finished"

    async with server_for(method) as server:
        call = server.call()
        await begun.wait()
        stopping = asyncio.ensure_future(server.server.stop(SOON))
        await asyncio.sleep(0.05)
        go_on.set()
        assert await call == b"finished"
        await stopping


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64]
)
async def test_garbage_ends_its_own_connection_and_no_other(garbage: bytes) -> None:
    async with server_for(reply) as server:
        assert await server.call() == b"answer to k"
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(garbage)
        try:
            async with asyncio.timeout(SOON):
                while await reader.read(4096):
                    pass
        except ConnectionError:
            pass
        writer.close()
        assert await server.call() == b"answer to k"


async def test_a_port_in_use_is_named_with_its_variable_and_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=rf"^LISTEN_ADDR: cannot listen on 127.0.0.1:{port}: .*in use"):
            GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5).bind(Address("127.0.0.1", port), "LISTEN_ADDR")


async def test_two_doors_do_not_share_a_port() -> None:
    async with server_for(reply) as server:
        with pytest.raises(CannotListen, match="in use"):
            GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5).bind(server.address, "LISTEN_ADDR")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(CannotListen, match=f"^LISTEN_ADDR: cannot listen on {host}:50051: "):
        GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5).bind(Address(host, 50051), "LISTEN_ADDR")


async def test_a_call_is_checked_for_the_process_that_it_names_as_often_as_it_comes() -> None:
    me, checked = Identity("cluster", "bucket", "me"), 0

    def check(meant: Identity) -> None:
        nonlocal checked
        checked += 1
        me.check(meant)

    server = GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5, check=check)
    address = server.bind(ANY_PORT, "LISTEN_ADDR")
    await server.start({"Get": ("get", pb.GetRequest, reply)}, CallCounts(("get",)))
    try:
        async with grpc.aio.insecure_channel(str(address), options=channel_options()) as channel:
            get = channel.unary_unary(f"/{SERVICE}/Get")
            # More names than handlers are kept for.
            others = [Identity("cluster", "bucket", f"other{number}") for number in range(MAX_CHECKED_HANDLERS + 2)]
            for meant in (me, *others, me, others[0]):
                call = get(REQUEST, timeout=SOON, metadata=meant.metadata())
                if meant is me:
                    assert await call == b"answer to k"
                else:
                    with pytest.raises(grpc.aio.AioRpcError, match="is for node 'other"):
                        await call
            assert checked == len(others) + 3
            assert await get(REQUEST, timeout=SOON) == b"answer to k"
            assert checked == len(others) + 3
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await channel.unary_unary(f"/{SERVICE}/None")(REQUEST, timeout=SOON, metadata=me.metadata())
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.stop(0)


async def test_what_grpc_logs_of_callers_that_have_gone_is_dropped_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    GrpcServer(SERVICE, 1000, ByteBudget(10_000), 5)
    log = logging.getLogger("grpc._cython.cygrpc")
    gone, other = "ExecuteBatchError raised in core by servicer method [%s]", "Unexpected [%s] raised"
    log.error(gone, "/Get")
    log.error(other, "ZeroDivisionError")
    assert [record.msg for record in caplog.records] == [other]
    library = await asyncio.to_thread(Path(cygrpc.__file__).read_bytes)
    assert gone.encode() in library, "the installed gRPC does not log this any more"
