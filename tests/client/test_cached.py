"""`@cached`: what is computed, by whom and how often."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_client import InvalidRequest, NodeLost, Unavailable, cached
from milena_client.core.retry import RetryPolicy
from milena_client.testing import FakeAsyncMilena, FakeMilena
from milena_common.api.errors import AccessDenied

WAIT_SECONDS = 30.0
NEVER_AGAIN = RetryPolicy(tokens=0)


@pytest.fixture(name="milena")
def _milena() -> FakeMilena:
    return FakeMilena()


@pytest.fixture(name="async_milena")
def _async_milena() -> FakeAsyncMilena:
    return FakeAsyncMilena()


class Counted:
    """A function that counts its calls, and may be held up."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, name: str, size: int = 1) -> bytes:
        self.calls.append(name)
        self.begun.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return name.encode() * size


def counted(client: FakeMilena, **options: Any) -> tuple[Any, Counted]:
    computed = Counted()

    @cached(client, key="page:{name}:{size}", **options)
    def page(name: str, size: int = 1) -> bytes:
        """A page."""
        return computed(name, size)

    return page, computed


def in_threads(number: int, work: Callable[[], object]) -> list[object]:
    """What each of `number` threads that do `work` at once comes to."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    return results


def test_a_result_is_computed_once_and_is_an_object_of_the_bucket(milena: FakeMilena) -> None:
    page, computed = counted(milena)
    assert page("a") == page("a", 1) == page(name="a") == b"a"
    assert page("a", size=2) == b"aa"
    assert computed.calls == ["a", "a"]
    assert milena.get("page:a:1") == b"a"
    assert page.key("b", size=3) == "page:b:3"
    assert page.__name__ == "page"
    assert page.__doc__ == "A page."


def test_a_result_ends_with_its_ttl(milena: FakeMilena) -> None:
    page, computed = counted(milena, ttl=60.0)
    page("a")
    milena._caller.clock.sleep(59.0)
    page("a")
    assert computed.calls == ["a"]
    milena._caller.clock.sleep(2.0)
    page("a")
    assert computed.calls == ["a", "a"]


def test_a_ttl_that_is_none_is_rejected_at_once(milena: FakeMilena) -> None:
    with pytest.raises(InvalidRequest, match="ttl"):
        cached(milena, key="k", ttl=0)


def test_invalidate_forgets(milena: FakeMilena) -> None:
    page, computed = counted(milena)
    page("a")
    page.invalidate("a")
    page.invalidate("never computed")
    assert milena.get("page:a:1") is None
    page("a")
    assert computed.calls == ["a", "a"]


def test_the_key_may_be_a_function(milena: FakeMilena) -> None:
    @cached(milena, key=lambda *parts: b"sum/" + "+".join(map(str, parts)).encode())
    def total(*parts: int) -> bytes:
        return str(sum(parts)).encode()

    assert total(1, 2, 3) == b"6"
    assert total.key(1, 2) == b"sum/1+2"
    assert milena.get(b"sum/1+2+3") == b"6"


def test_other_values_go_through_dumps_and_loads_also_for_the_first_caller(milena: FakeMilena) -> None:
    @cached(milena, key="user:{number}", dumps=json.dumps, loads=json.loads)
    def user(number: int) -> dict[str, Any]:
        return {"number": number, "tags": ("a", "ö")}

    assert user(7) == user(7) == {"number": 7, "tags": ["a", "ö"]}
    assert user(7) is not user(7)


def test_without_dumps_a_result_is_bytes(milena: FakeMilena) -> None:
    @cached(milena, key="k")
    def text() -> str:
        return "text"

    with pytest.raises(TypeError, match="a value is bytes"):
        text()
    assert milena.get("k") is None
    with pytest.raises(TypeError, match="go together"):
        cached(milena, key="k", dumps=json.dumps)


def test_methods_can_be_cached(milena: FakeMilena) -> None:
    class Shop:
        name = "x"

        @cached(milena, key=lambda shop, item: f"{shop.name}/{item}")
        def price(self, item: str) -> bytes:
            return f"{self.name}{item}".encode()

    shop = Shop()
    assert shop.price("a") == b"xa"
    shop.price.invalidate(shop, "a")  # type: ignore[attr-defined]
    assert milena.get("x/a") is None


def test_the_function_fits_the_client(milena: FakeMilena, async_milena: FakeAsyncMilena) -> None:
    async def page() -> bytes:
        return b""

    with pytest.raises(TypeError, match="Milena needs a def"):
        cached(milena, key="k")(page)
    with pytest.raises(TypeError, match="AsyncMilena needs an async def"):
        cached(async_milena, key="k")(lambda: b"")  # type: ignore[arg-type, return-value]
    assert inspect.iscoroutinefunction(cached(async_milena, key="k")(page))


def test_a_generator_has_no_result(milena: FakeMilena) -> None:
    def lines() -> Iterator[bytes]:
        yield b""

    with pytest.raises(TypeError, match="lines is a generator"):
        cached(milena, key="k")(lines)


@pytest.mark.parametrize("key", ["page:{nmae}", "page:{}", "page:{0}", "{nmae.first}", "{nmae[0]}"])
def test_a_key_of_other_parameters_raises_at_once(milena: FakeMilena, key: str) -> None:
    def page(name: str) -> bytes:
        return b""

    with pytest.raises(TypeError, match=r"is no parameter of .*page"):
        cached(milena, key=key)(page)


# Milena cannot be asked.


def test_without_milena_the_function_is_computed_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeMilena(retry=NEVER_AGAIN)
    page, computed = counted(client)
    client.fail_with(NodeLost("gone"), times=None)
    with caplog.at_level(logging.WARNING):
        assert page("a") == page("a") == b"a"
    assert computed.calls == ["a", "a"]
    assert len(caplog.records) == 1
    assert "gone" in caplog.text
    assert "without the cache" in caplog.text
    client.fail_with(NodeLost("gone"), times=0)
    assert page("a") == page("a") == b"a"
    assert len(computed.calls) == 3


@pytest.mark.parametrize("error", [Unavailable("S3 is down"), AccessDenied("not yours")])
def test_a_result_that_cannot_be_kept_is_returned(error: Exception) -> None:
    client = FakeMilena(retry=NEVER_AGAIN)

    @cached(client, key="k")
    def value() -> bytes:
        client.fail_with(error)  # type: ignore[arg-type]
        return b"v"

    assert value() == b"v"
    assert client.get("k") is None


def test_a_key_that_can_be_none_is_an_error(milena: FakeMilena) -> None:
    page, computed = counted(milena)
    with pytest.raises(InvalidRequest, match="key"):
        page("x" * 2000)
    assert computed.calls == []


def test_an_exception_is_raised_and_not_kept(milena: FakeMilena) -> None:
    failures = [ValueError("first"), None]

    @cached(milena, key="k")
    def value() -> bytes:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return b"v"

    with pytest.raises(ValueError, match="first"):
        value()
    assert value() == value() == b"v"


# At once.


def test_threads_compute_a_key_once() -> None:
    client = FakeMilena()
    page, computed = counted(client)
    assert in_threads(8, lambda: page("a")) == [b"a"] * 8
    assert computed.calls == ["a"]


def test_threads_are_given_the_exception() -> None:
    client = FakeMilena()
    calls: list[int] = []

    @cached(client, key="k")
    def value() -> bytes:
        calls.append(1)
        raise ValueError("no")

    results = in_threads(8, value)
    assert len(results) == 8
    assert all(isinstance(result, ValueError) for result in results)
    assert len({id(result) for result in results}) == len(calls)


def test_a_function_that_requests_its_own_key_does_not_wait_for_itself(milena: FakeMilena) -> None:
    depth: list[int] = []

    @cached(milena, key="k")
    def value() -> bytes:
        depth.append(1)
        return b"bottom" if len(depth) == 3 else value()

    assert value() == b"bottom"
    assert milena.get("k") == b"bottom"


def test_an_interrupted_computation_is_taken_up_by_another_thread() -> None:
    client = FakeMilena()
    begun, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    @cached(client, key="k")
    def value() -> bytes:
        calls.append(1)
        if len(calls) == 1:
            begun.set()
            assert go_on.wait(WAIT_SECONDS)
            raise KeyboardInterrupt
        return b"v"

    outcomes: list[object] = []
    leader = threading.Thread(target=lambda: outcomes.extend(in_threads(1, value)))
    leader.start()
    assert begun.wait(WAIT_SECONDS)
    waiter = threading.Thread(target=lambda: outcomes.append(value()))
    waiter.start()
    go_on.set()
    leader.join(WAIT_SECONDS)
    waiter.join(WAIT_SECONDS)
    assert b"v" in outcomes
    assert any(isinstance(each, KeyboardInterrupt) for each in outcomes)


def test_what_was_being_computed_when_it_was_invalidated_is_not_kept() -> None:
    client = FakeMilena()
    page, computed = counted(client)
    computed.go_on.clear()
    old = threading.Thread(target=lambda: page("a"))
    old.start()
    assert computed.begun.wait(WAIT_SECONDS)
    page.invalidate("a")
    computed.go_on.set()
    old.join(WAIT_SECONDS)
    assert client.get("page:a:1") is None
    page("a")
    assert client.get("page:a:1") == b"a"


# For an event loop.


class Slow:
    """A coroutine function whose calls end when they are let."""

    def __init__(self, client: FakeAsyncMilena) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

        @cached(client, key="k:{name}", ttl=60)
        async def value(name: str) -> bytes:
            self.calls += 1
            number = self.calls
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            return f"{name}{number}".encode()

        self.value = value

    async def begin(self, number: int = 1) -> list[asyncio.Task[bytes]]:
        tasks = [asyncio.ensure_future(self.value("a")) for _ in range(number)]
        for _ in range(20):
            await asyncio.sleep(0)
        return tasks


async def test_tasks_compute_a_key_once(async_milena: FakeAsyncMilena) -> None:
    slow = Slow(async_milena)
    tasks = await slow.begin(5)
    slow.gate.set()
    assert await asyncio.gather(*tasks) == [b"a1"] * 5
    assert await slow.value("a") == b"a1"
    assert await async_milena.get("k:a") == b"a1"
    assert slow.value.key("b") == "k:b"
    await slow.value.invalidate("a")
    assert await slow.value("a") == b"a2"


async def test_an_exception_goes_to_all_waiters_and_is_not_kept(async_milena: FakeAsyncMilena) -> None:
    slow = Slow(async_milena)
    slow.failure = ValueError("no")
    tasks = await slow.begin(3)
    slow.gate.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [slow.failure] * 3
    slow.failure = None
    assert await slow.value("a") == b"a2"


async def test_a_coroutine_that_requests_its_own_key_does_not_wait_for_itself(
    async_milena: FakeAsyncMilena,
) -> None:
    depth: list[int] = []

    @cached(async_milena, key="k")
    async def value() -> bytes:
        depth.append(1)
        return b"bottom" if len(depth) == 3 else await value()

    async with asyncio.timeout(WAIT_SECONDS):
        assert await value() == b"bottom"
    assert await async_milena.get("k") == b"bottom"


async def test_a_cancelled_computation_is_taken_up_by_a_waiter(async_milena: FakeAsyncMilena) -> None:
    slow = Slow(async_milena)
    leader, *waiters = await slow.begin(4)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    slow.gate.set()
    assert await asyncio.gather(*waiters) == [b"a2"] * 3
    assert slow.calls == 2


async def test_a_cancelled_waiter_does_not_affect_the_others(async_milena: FakeAsyncMilena) -> None:
    slow = Slow(async_milena)
    leader, waiter, other = await slow.begin(3)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    slow.gate.set()
    assert await leader == await other == b"a1"


async def test_tasks_do_without_milena(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeAsyncMilena(retry=NEVER_AGAIN)
    slow = Slow(client)
    slow.gate.set()
    client.fail_with(NodeLost("gone"), times=None)
    with caplog.at_level(logging.WARNING):
        assert await slow.value("a") == b"a1"
        assert await slow.value("a") == b"a2"
    assert len(caplog.records) == 1
    with pytest.raises(NodeLost):
        await slow.value.invalidate("a")


async def test_what_a_task_was_computing_when_it_was_invalidated_is_not_kept(async_milena: FakeAsyncMilena) -> None:
    slow = Slow(async_milena)
    (old,) = await slow.begin()
    await slow.value.invalidate("a")
    (new,) = await slow.begin()
    slow.gate.set()
    assert [await old, await new] == [b"a1", b"a2"]
    assert await async_milena.get("k:a") == b"a2"


STEPS = st.lists(st.sampled_from(["call", "cancel first", "cancel last", "let one go", "fail one"]), max_size=25)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_however_callers_come_and_go_one_computes_and_all_get_the_result(steps: list[str]) -> None:
    async def scenario() -> None:
        client = FakeAsyncMilena()
        waiting: list[asyncio.Future[bytes]] = []
        maximum = 0

        @cached(client, key="k")
        async def value() -> bytes:
            nonlocal maximum
            ends: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            waiting.append(ends)
            maximum = max(maximum, len(waiting))
            try:
                return await ends
            finally:
                waiting.remove(ends)

        tasks: list[asyncio.Task[bytes]] = []
        for step in steps:
            left = [task for task in tasks if not task.done()]
            if step == "call":
                tasks.append(asyncio.ensure_future(value()))
            elif step.startswith("cancel") and left:
                left[0 if step.endswith("first") else -1].cancel()
            elif step == "let one go" and waiting and not waiting[0].done():
                waiting[0].set_result(b"v")
            elif step == "fail one" and waiting and not waiting[0].done():
                waiting[0].set_exception(ValueError("no"))
            for _ in range(10):
                await asyncio.sleep(0)
        for _ in range(len(tasks) + 1):
            for ends in waiting:
                if not ends.done():
                    ends.set_result(b"v")
            for _ in range(10):
                await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        assert maximum <= 1
        for task in tasks:
            if not task.cancelled():
                assert isinstance(task.exception(), ValueError) or task.result() == b"v"

    asyncio.run(scenario())
