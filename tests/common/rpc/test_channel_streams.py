"""Streams of the transports, against a real server: what comes, and how they end."""

from __future__ import annotations

import asyncio
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from milena_common.api.errors import FailedPrecondition, MilenaError, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map_watch import RingWatch
from milena_common.rpc.channel import AsyncGrpcTransport, GrpcTransport
from milena_common.rpc.options import server_options
from milena_common.rpc.status import to_grpc

SOON = 10.0
REQUEST = pb.WatchRingRequest(node_id="me")

Events = Iterator[pb.RingUpdate]


@contextmanager
def watched_router(events: Callable[[pb.WatchRingRequest, grpc.ServicerContext], Events]) -> Iterator[str]:
    """Serve WatchRing with `events`."""

    def handle(request: pb.WatchRingRequest, context: grpc.ServicerContext) -> Events:
        try:
            yield from events(request, context)
        except MilenaError as error:
            status, details, metadata = to_grpc(error)
            context.set_trailing_metadata(metadata)
            context.abort(status, details)

    handler = grpc.unary_stream_rpc_method_handler(
        handle,
        request_deserializer=pb.WatchRingRequest.FromString,
        response_serializer=pb.RingUpdate.SerializeToString,
    )
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=server_options(1000))
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("router_server.Router", {"WatchRing": handler}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


class OpenRouter:
    """Sends one update and then nothing, until its caller has left."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, request: pb.WatchRingRequest, context: grpc.ServicerContext) -> Events:
        context.add_callback(self.left.set)
        yield pb.RingUpdate(epoch=5, default_bucket=request.node_id)
        self.left.wait(SOON)


def two(_: pb.WatchRingRequest, __: grpc.ServicerContext) -> Events:
    yield pb.RingUpdate(epoch=1)
    yield pb.RingUpdate(epoch=2)


def withheld(_: pb.WatchRingRequest, __: grpc.ServicerContext) -> Events:
    yield pb.RingUpdate(epoch=1)
    raise FailedPrecondition("DIRECT_ACCESS")


def of_threads(address: str) -> list[Any]:
    """All that comes, the error that ended it last."""
    transport = GrpcTransport(address)
    seen: list[Any] = []
    try:
        for update in transport.watch("WatchRing", REQUEST):
            seen.append(update.epoch)
    except MilenaError as error:
        seen.append(error)
    finally:
        transport.close()
    return seen


def of_a_loop(address: str) -> list[Any]:
    async def run() -> list[Any]:
        transport = AsyncGrpcTransport(address)
        seen: list[Any] = []
        try:
            async for update in transport.watch("WatchRing", REQUEST):
                seen.append(update.epoch)
        except MilenaError as error:
            seen.append(error)
        finally:
            await transport.close()
        return seen

    return asyncio.run(run())


both = pytest.mark.parametrize("watch", [of_threads, of_a_loop])


@both
def test_what_comes_and_the_end(watch: Callable[[str], list[Any]]) -> None:
    with watched_router(two) as address:
        assert watch(address) == [1, 2]


@both
def test_an_error_arrives_as_what_was_sent(watch: Callable[[str], list[Any]]) -> None:
    with watched_router(withheld) as address:
        first, error = watch(address)
    assert first == 1
    assert type(error) is FailedPrecondition
    assert str(error) == "DIRECT_ACCESS"


@both
def test_nothing_listens(watch: Callable[[str], list[Any]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (error,) = watch(f"127.0.0.1:{taken.getsockname()[1]}")
    assert type(error) is Unavailable
    assert "cannot be reached" in str(error)


@both
def test_a_router_that_has_no_streams(watch: Callable[[str], list[Any]]) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        (error,) = watch(f"127.0.0.1:{port}")
        server.stop(0).wait()
    assert type(error) is FailedPrecondition
    assert "Router/WatchRing" in str(error)


def test_closing_ends_a_threads_stream() -> None:
    router = OpenRouter()
    with watched_router(router) as address:
        transport = GrpcTransport(address)
        seen: queue.Queue[Any] = queue.Queue()

        def follow() -> None:
            try:
                for update in transport.watch("WatchRing", REQUEST):
                    seen.put(update)
            except MilenaError as error:
                seen.put(error)

        thread = threading.Thread(target=follow)
        thread.start()
        assert seen.get(timeout=SOON) == pb.RingUpdate(epoch=5, default_bucket="me")
        transport.close()
        error = seen.get(timeout=SOON)
        assert isinstance(error, FailedPrecondition)
        assert "closed" in str(error)
        thread.join(SOON)
        assert router.left.wait(SOON)
        with pytest.raises(FailedPrecondition, match="closed"):
            next(transport.watch("WatchRing", REQUEST))


def test_a_thread_that_stops_reading_ends_its_stream() -> None:
    router = OpenRouter()
    with watched_router(router) as address:
        transport = GrpcTransport(address)
        updates = transport.watch("WatchRing", REQUEST)
        assert next(updates).epoch == 5
        updates.close()
        assert router.left.wait(SOON)
        transport.close()


async def test_closing_ends_a_loops_stream() -> None:
    router = OpenRouter()
    with watched_router(router) as address:
        transport = AsyncGrpcTransport(address)
        updates = transport.watch("WatchRing", REQUEST)
        assert (await anext(updates)).epoch == 5
        waiting = asyncio.ensure_future(anext(updates))
        await asyncio.sleep(0)
        await transport.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            await asyncio.wait_for(waiting, SOON)
        assert await asyncio.to_thread(router.left.wait, SOON)
        with pytest.raises(FailedPrecondition, match="closed"):
            await anext(transport.watch("WatchRing", REQUEST))


async def test_cancelling_ends_a_loops_stream() -> None:
    router = OpenRouter()
    with watched_router(router) as address:
        transport = AsyncGrpcTransport(address)
        updates = transport.watch("WatchRing", REQUEST)
        await anext(updates)
        waiting = asyncio.ensure_future(anext(updates))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(router.left.wait, SOON)
        await transport.close()


def test_a_ring_watch_of_threads_over_grpc() -> None:
    router = OpenRouter()
    with watched_router(router) as address:
        known = threading.Event()
        watch = RingWatch(GrpcTransport(address), lambda: 0.5, lambda _: known.set())
        watch.start()
        assert known.wait(SOON)
        assert watch.current.epoch == 5
        watch.close()
        assert router.left.wait(SOON)


def test_a_program_ends_though_it_watches() -> None:
    code = """
import sys, threading
from milena_common.rpc.channel import GrpcTransport
from milena_common.cluster.slot_map_watch import RingWatch
known = threading.Event()
watch = RingWatch(GrpcTransport(sys.argv[1]), lambda: 0.5, lambda _: known.set())
watch.start()
assert known.wait(10)
print("known")
"""
    with watched_router(OpenRouter()) as address:
        finished = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=60, check=False
        )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "known\n", "")


def test_a_stream_that_its_loop_cancels_has_ended_before_the_loop_is_closed() -> None:
    """Or gRPC brings its end to a closed loop, and the next one logs `RuntimeError: Event loop is closed`."""
    failures: list[dict[str, Any]] = []
    first_came = 0

    async def run(transport: AsyncGrpcTransport) -> None:
        nonlocal first_came
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        came = asyncio.Event()

        async def watch() -> None:
            async for _ in transport.watch("WatchRing", REQUEST):
                came.set()

        watching = asyncio.create_task(watch())
        await came.wait()
        first_came += 1
        del watching  # asyncio.run() cancels it

    def endless(request: pb.WatchRingRequest, context: grpc.ServicerContext) -> Events:
        return OpenRouter()(request, context)

    with watched_router(endless) as address:
        transport = AsyncGrpcTransport(address)
        for _ in range(8):
            asyncio.run(run(transport))
    assert first_came == 8
    assert failures == []
