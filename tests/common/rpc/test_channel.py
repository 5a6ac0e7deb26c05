"""The gRPC transports against a real server: what each failure of the network or the router becomes."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from milena_client import (
    AccessDenied,
    AsyncMilena,
    BatchError,
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    Milena,
    MilenaError,
    NodeLost,
    NoNodes,
    OriginUnavailable,
    Overloaded,
    RateLimited,
    RetryPolicy,
    Unavailable,
)
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.router import router

ONCE = RetryPolicy(tokens=0)


def sync_get(address: str, timeout: float = 2.0) -> bytes | None:
    with Milena(address, timeout=timeout, retry=ONCE) as client:
        return client.get("k")


def many_get(address: str, timeout: float = 2.0) -> bytes | None:
    with Milena(address, timeout=timeout, retry=ONCE) as client:
        try:
            return client.get_many(["k"]).get("k")
        except BatchError as error:
            raise error.errors["k"] from None


def async_get(address: str, timeout: float = 2.0) -> bytes | None:
    async def get() -> bytes | None:
        async with AsyncMilena(address, timeout=timeout, retry=ONCE) as client:
            return await client.get("k")

    return asyncio.run(get())


@pytest.fixture(params=[sync_get, many_get, async_get])
def get(request: pytest.FixtureRequest) -> Callable[..., bytes | None]:
    """A get of key "k" by one of the three ways that there are through a connection."""
    way: Callable[..., bytes | None] = request.param
    return way


ERRORS: list[MilenaError] = [
    InvalidRequest("key: no"),
    AccessDenied("bucket x is not served here"),
    RateLimited("slow down", 30.0),
    Overloaded("too much in hand"),
    FailedPrecondition("not now"),
    ConditionFailed("if_match: the object's ETag is another"),
    Unavailable("later"),
    NoNodes("no node in the ring"),
    NodeLost("node a:1, which owns slot 5, is gone"),
    OriginUnavailable("S3: 503 SlowDown – später"),
    InternalError("a defect"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_the_class_and_text_that_was_sent(get: Any, error: MilenaError) -> None:
    def reply(*_: Any) -> Message:
        raise error

    with router(reply) as address, pytest.raises(type(error)) as raised:
        get(address)
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    if isinstance(raised.value, RateLimited):
        assert raised.value.retry_after == 30.0


def test_a_value_arrives(get: Any) -> None:
    with router(lambda *_: pb.GetResponse(successful=True, value=b"v" * 5_000_000)) as address:
        assert get(address) == b"v" * 5_000_000


def test_nothing_listens(get: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unavailable, match="refused") as error:
            get(address)
    assert address in str(error.value)
    assert isinstance(error.value, ConnectionError)


def test_a_server_that_listens_and_sends_nothing(get: Any) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"get 'k': not finished within 0\.3 s"):
            get(f"127.0.0.1:{mute.getsockname()[1]}", timeout=0.3)
        assert time.monotonic() - started < 2


def test_something_else_listens(get: Any) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.raises(Unavailable, match="is this its gRPC address"):
            get(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_router_without_the_method(get: Any) -> None:
    with (
        router(lambda *_: pb.GetResponse(), methods=("Put",)) as address,
        pytest.raises(FailedPrecondition, match="Router/Get"),
    ):
        get(address)


def test_a_router_that_breaks_without_a_word(get: Any) -> None:
    def reply(*_: Any) -> Message:
        raise ZeroDivisionError

    with router(reply) as address, pytest.raises(InternalError, match="UNKNOWN"):
        get(address)


def test_a_call_that_a_proxy_breaks_off_is_no_closed_client(get: Any) -> None:
    def reply(_: str, __: Any, context: grpc.ServicerContext) -> Message:
        context.abort(grpc.StatusCode.CANCELLED, "")
        raise AssertionError("abort raises")

    with router(reply) as address, pytest.raises(Unavailable, match="broke off the call"):
        get(address)


def test_a_reply_that_grpc_has_dropped(get: Any) -> None:
    """As when the time ends while the reply arrives: the status is OK, and there is no message."""
    nothing = grpc.unary_stream_rpc_method_handler(lambda *_: iter(()))
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("router_server.Router", {"Get": nothing}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(DeadlineExceeded, match="get 'k'"):
                get(f"127.0.0.1:{port}")
        finally:
            server.stop(0).wait()


@pytest.fixture
def slow_router() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """(address, requested, gone): never replies to a Get; the events: one arrived, its caller gave up."""
    requested, gone = threading.Event(), threading.Event()

    def reply(method: str, request: Any, context: grpc.ServicerContext) -> Message:
        context.add_callback(gone.set)
        requested.set()
        gone.wait(10)
        return pb.GetResponse()

    with router(reply) as address:
        yield address, requested, gone


def test_a_slow_router(get: Any, slow_router: tuple[str, threading.Event, threading.Event]) -> None:
    address, _, gone = slow_router
    with pytest.raises(DeadlineExceeded, match="get 'k'"):
        get(address, timeout=0.2)
    assert gone.wait(5)


async def test_cancelling_a_call_gives_it_up(slow_router: tuple[str, threading.Event, threading.Event]) -> None:
    address, requested, gone = slow_router
    async with AsyncMilena(address, timeout=30) as client:
        call = asyncio.create_task(client.get("k"))
        await asyncio.to_thread(requested.wait, 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(gone.wait, 5)


async def test_closing_ends_async_calls_in_progress(
    slow_router: tuple[str, threading.Event, threading.Event],
) -> None:
    address, requested, _ = slow_router
    client = AsyncMilena(address, timeout=30)
    call = asyncio.create_task(client.get("k"))
    await asyncio.to_thread(requested.wait, 5)
    await client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        await call


def test_closing_ends_sync_calls_in_progress(slow_router: tuple[str, threading.Event, threading.Event]) -> None:
    address, requested, _ = slow_router
    client = Milena(address, timeout=30)
    raised: list[BaseException] = []

    def call(get: Callable[[], object]) -> None:
        try:
            get()
        except MilenaError as error:
            raised.append(error)

    threads = [
        threading.Thread(target=call, args=(get,))
        for get in (lambda: client.get("k"), lambda: client.get_many(["k"]))
    ]
    for thread in threads:
        thread.start()
    assert requested.wait(5)
    client.close()
    for thread in threads:
        thread.join(5)
    assert sorted(type(error).__name__ for error in raised) == ["BatchError", "FailedPrecondition"]


async def test_a_closed_client_says_so() -> None:
    client = Milena("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.get("k")
    with pytest.raises(BatchError, match="closed"):
        client.get_many(["k"])
    for used in (True, False):
        async_client = AsyncMilena("127.0.0.1:1", retry=ONCE)
        if used:
            with pytest.raises(Unavailable):
                await async_client.get("k")
        await async_client.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            await async_client.get("k")


def test_the_default_address_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"milena://127.0.0.1:{taken.getsockname()[1]}?timeout=1s"
        monkeypatch.setenv("MILENA_URL", url)
        with Milena.from_env(retry=ONCE) as client, pytest.raises(Unavailable, match="MILENA_URL"):
            client.get("k")
        with Milena.from_url(url, retry=ONCE) as client, pytest.raises(Unavailable) as error:
            client.get("k")
        assert "MILENA_URL" not in str(error.value)


def test_a_client_that_lost_its_router_finds_it_again() -> None:
    def reply(*_: Any) -> Message:
        return pb.GetResponse(successful=True, value=b"1")

    with router(reply) as address:
        client = Milena(address)
        assert client.get("k") == b"1"
    with pytest.raises(Unavailable):
        client.get("k", timeout=0.3)
    with router(reply, port=int(address.rpartition(":")[2])):
        assert client.get("k") == b"1"
    client.close()


async def test_many_async_callers_share_one_connection() -> None:
    peers = set()

    def reply(method: str, request: Any, context: grpc.ServicerContext) -> Message:
        peers.add(context.peer())
        return pb.GetResponse(successful=True, value=request.key)

    with router(reply) as address:
        async with AsyncMilena(address) as client:
            values = await asyncio.gather(*(client.get(str(number)) for number in range(200)))
    assert values == [str(number).encode() for number in range(200)]
    assert len(peers) == 1
