"""Calls that a server's gRPC ends because they waited too long to begin, as both clients see them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from milena_client import AsyncMilena, BatchError, Milena, Overloaded, RetryPolicy
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.rpc.options import MAX_PENDING_SECONDS, server_options
from milena_router.forwarding.node_connection import GrpcNodeConnection

ONCE = RetryPolicy(tokens=0)
TIMEOUT = 60.0
# gRPC compares real time: the event loop stands still for so long after the last call was sent.
HELD_SECONDS = MAX_PENDING_SECONDS + 1.0
CALLS = 4

# Makes two calls to a server at an address, the second after `between` has returned; returns its result.
Way = Callable[[str, Callable[[], None]], object]


class HeldServer:
    """A server whose event loop can stand still. `done`: the names of the calls that it has begun."""

    def __init__(self) -> None:
        self.address = ""
        self.done: list[str] = []
        self._held, self._go_on = threading.Event(), threading.Event()
        self._ready = threading.Event()
        self._stop: Callable[[], object] = bool
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        server = grpc.aio.server(options=server_options(10**6))
        for service in ("router_server.Router", "cache_server.Cache"):
            handlers = {
                "Get": grpc.unary_unary_rpc_method_handler(self._reply("Get", pb.GetResponse(successful=True))),
                "Put": grpc.unary_unary_rpc_method_handler(self._reply("Put", pb.PutResponse(successful=True))),
                "Nodes": grpc.unary_unary_rpc_method_handler(self._hold),
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._ready.set()
        await stop.wait()
        await server.stop(0)

    def _reply(self, method: str, response: Any) -> Any:
        async def reply(_: bytes, __: Any) -> bytes:
            self.done.append(method)
            message: bytes = response.SerializeToString()
            return message

        return reply

    async def _hold(self, _: bytes, __: Any) -> bytes:
        self._held.set()
        assert self._go_on.wait(TIMEOUT)
        return b""

    def __enter__(self) -> HeldServer:
        self._thread.start()
        assert self._ready.wait(TIMEOUT)
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._stop()
        self._thread.join()

    def outcomes(self, ways: Sequence[Way]) -> list[object]:
        """Return result or error of the second call of each of `ways`, made while the event loop stands still."""
        connected = threading.Barrier(len(ways) + 1)
        sent = threading.Semaphore(0)

        def between() -> None:
            connected.wait(TIMEOUT)
            assert self._held.wait(TIMEOUT)
            sent.release()

        def outcome(way: Way) -> object:
            try:
                return way(self.address, between)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(ways)) as pool, grpc.insecure_channel(self.address) as channel:
            running = [pool.submit(outcome, way) for way in ways]
            connected.wait(TIMEOUT)
            self.done.clear()
            holding = channel.unary_unary("/router_server.Router/Nodes").future(b"", timeout=TIMEOUT)
            for _ in ways:
                assert sent.acquire(timeout=TIMEOUT)
            threading.Event().wait(HELD_SECONDS)
            self._go_on.set()
            holding.result()
            return [each.result() for each in running]


def sync_get(address: str, between: Callable[[], None]) -> object:
    with Milena(address, timeout=TIMEOUT, retry=ONCE) as client:
        client.get("k")
        between()
        return client.get("k")


def many_get(address: str, between: Callable[[], None]) -> object:
    with Milena(address, timeout=TIMEOUT, retry=ONCE) as client:
        client.get("k")
        between()
        try:
            return client.get_many(["k"])
        except BatchError as error:
            raise error.errors["k"] from None


def async_get(address: str, between: Callable[[], None]) -> object:
    async def get() -> object:
        async with AsyncMilena(address, timeout=TIMEOUT, retry=ONCE) as client:
            await client.get("k")
            between()
            return await client.get("k")

    return asyncio.run(get())


def router_get(address: str, between: Callable[[], None]) -> object:
    async def get() -> object:
        connection = GrpcNodeConnection(address)
        try:
            await connection.call("Get", b"", TIMEOUT)
            between()
            return await connection.call("Get", b"", TIMEOUT)
        finally:
            await connection.close(0)

    return asyncio.run(get())


def sync_set(address: str, between: Callable[[], None]) -> object:
    with Milena(address, timeout=TIMEOUT) as client:
        client.get("k")
        between()
        return client.set("k", b"v")


def async_set(address: str, between: Callable[[], None]) -> object:
    async def set_() -> object:
        async with AsyncMilena(address, timeout=TIMEOUT) as client:
            await client.get("k")
            between()
            return await client.set("k", b"v")

    return asyncio.run(set_())


@pytest.mark.parametrize("way", [sync_get, many_get, async_get, router_get])
def test_a_call_that_was_not_begun_is_an_overload(way: Way) -> None:
    with HeldServer() as server:
        errors = [each for each in server.outcomes([way] * CALLS) if isinstance(each, Exception)]
        assert errors
        for error in errors:
            assert type(error) is Overloaded
            assert "nothing was done" in str(error)
            assert error.retry_after > 0
            if way is not router_get:
                assert "RATE_LIMIT" in str(error)
                assert server.address in str(error)
        assert server.done == ["Get"] * (CALLS - len(errors))


def test_a_write_that_was_not_begun_is_made_again_and_once() -> None:
    with HeldServer() as server:
        outcomes = server.outcomes([sync_set, async_set] * CALLS)
        assert [each for each in outcomes if isinstance(each, Exception)] == []
        assert server.done == ["Put"] * len(outcomes)
