"""Batches: a bounded window, each key's own time, and failures collected at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from google.protobuf.message import Message

from milena_client import AsyncMilena, BatchError, Milena, RateLimited, Unavailable
from milena_client.core.limits import BATCH_WINDOW
from milena_client.testing import FakeAsyncMilena, FakeClock, FakeMilena
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.scripted import ManualTransport
from tests.support.fake_clock import FakeClock as LivedClock


def _found(request: Message) -> pb.GetResponse:
    assert isinstance(request, pb.GetRequest)
    return pb.GetResponse(successful=True, value=request.key)


def test_at_most_a_window_is_in_flight_and_replies_may_come_in_any_order() -> None:
    def when_started(transport: ManualTransport) -> None:
        if len(transport.flying) == BATCH_WINDOW:
            for request, future in reversed(transport.flying):
                future.set_result(_found(request))
            transport.flying.clear()

    transport = ManualTransport(when_started)
    keys = [str(number) for number in range(BATCH_WINDOW * 5)]
    found = Milena(transport=transport, clock=FakeClock()).get_many(keys)
    assert found == {key: key.encode() for key in keys}
    assert transport.maximum == BATCH_WINDOW


def test_a_batch_that_is_interrupted_gives_up_what_is_in_flight() -> None:
    def when_started(transport: ManualTransport) -> None:
        if len(transport.flying) == 3:
            raise KeyboardInterrupt

    transport = ManualTransport(when_started)
    with pytest.raises(KeyboardInterrupt):
        Milena(transport=transport, clock=FakeClock()).get_many(["a", "b", "c", "d"])
    assert [future.cancelled() for _, future in transport.flying[:2]] == [True, True]


class _RateLimited:
    """A router that lets 100 calls a second through, after a burst of 100, and takes no time for any."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._start = now()
        self._through = 0

    def _reply(self, request: Message) -> Message:
        allowed = 100 + (self._now() - self._start) * 100
        if self._through + 1 > allowed:
            raise RateLimited("slow down", (self._through + 1 - allowed) / 100)
        self._through += 1
        return _found(request)


class _RateLimitedTransport(_RateLimited):
    def call(self, method: str, request: Message, timeout: float) -> Message:
        return self._reply(request)

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        future: Future[Message] = Future()
        try:
            future.set_result(self._reply(request))
        except RateLimited as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        pass


class _RateLimitedAsyncTransport(_RateLimited):
    async def call(self, method: str, request: Message, timeout: float) -> Message:
        return self._reply(request)

    async def close(self) -> None:
        pass


KEYS = [str(number) for number in range(1500)]


def test_a_batch_goes_as_fast_as_the_rate_limit_lets_it() -> None:
    clock = FakeClock()
    found = Milena(transport=_RateLimitedTransport(clock.now), clock=clock).get_many(KEYS)
    assert len(found) == len(KEYS)
    assert 14 <= clock.time <= 20


async def test_an_async_batch_goes_as_fast_as_the_rate_limit_lets_it() -> None:
    clock = LivedClock()
    client = AsyncMilena(transport=_RateLimitedAsyncTransport(clock.now), clock=clock)
    batch = asyncio.create_task(client.get_many(KEYS))
    started = clock.now()
    while not batch.done() and clock.now() - started < 60:
        await clock.advance(0.5)
    assert len(await batch) == len(KEYS)
    assert 14 <= clock.now() - started <= 20


@pytest.fixture(params=[FakeMilena, FakeAsyncMilena])
def fake(request: pytest.FixtureRequest) -> Any:
    return request.param({"a": b"1", "b": b"2"})


def _do(result: Any) -> Any:
    if not asyncio.iscoroutine(result):
        return result

    async def wait() -> Any:
        return await result

    return asyncio.run(wait())


def test_only_what_exists_is_found_under_the_key_as_given(fake: Any) -> None:
    assert _do(fake.get_many(["a", "b", "c", "a"])) == {"a": b"1", "b": b"2"}
    assert _do(fake.get_many([b"a", "b"])) == {b"a": b"1", "b": b"2"}
    assert _do(fake.get_many(key for key in ("a",))) == {"a": b"1"}
    assert _do(fake.get_many([])) == {}


def test_one_bad_key_does_not_stop_the_others(fake: Any) -> None:
    with pytest.raises(BatchError, match="1 keys failed; the first, ''") as failed:
        _do(fake.set_many({"": b"x", "c": b"3"}))
    assert isinstance(failed.value.errors[""], InvalidRequest)
    assert _do(fake.get("c")) == b"3"
    with pytest.raises(BatchError) as failed:
        _do(fake.get_many(["", "a", "absent"]))
    assert failed.value.results == {"a": b"1", "absent": None}


def test_failures_are_by_key(fake: Any) -> None:
    fake.fail_with(Unavailable("down"), times=None)
    with pytest.raises(BatchError) as failed:
        _do(fake.delete_many(["a", b"b"]))
    assert {key: type(error) for key, error in failed.value.errors.items()} == {"a": Unavailable, b"b": Unavailable}
    fake.fail_with(Unavailable("down"), times=0)
    assert _do(fake.get("a")) == b"1"


def test_a_wrong_type_raises_before_anything_is_sent(fake: Any) -> None:
    with pytest.raises(TypeError, match="encode it"):
        _do(fake.set_many({"x": b"x", "y": "text"}))
    with pytest.raises(TypeError, match="not int"):
        _do(fake.delete_many(["a", 5]))
    with pytest.raises(TypeError, match="list"):
        _do(fake.get_many("ab"))
    with pytest.raises(TypeError, match="'str'"):
        _do(fake.set_many({"x": b"x"}, ttl="5"))
    assert _do(fake.get_many(["a", "x"])) == {"a": b"1"}


def test_a_timeout_that_is_none_is_rejected(fake: Any) -> None:
    with pytest.raises(MilenaError, match="timeout"):
        _do(fake.get_many(["a"], timeout=0))


def test_a_short_outage_is_survived_by_reads(fake: Any) -> None:
    fake.fail_with(Unavailable("down"), times=2)
    assert _do(fake.get_many(["a", "b"])) == {"a": b"1", "b": b"2"}
