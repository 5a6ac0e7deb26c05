"""One budget of bytes in flight: order, bounds, and nothing lost when callers give up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import Overloaded
from milena_common.limits import byte_budget
from milena_common.limits.byte_budget import ByteBudget


async def test_bytes_are_free_again_after_their_release() -> None:
    budget = ByteBudget(100)
    await budget.take(60, None)
    assert not budget.try_take(50)
    budget.release(60)
    assert budget.try_take(50)
    assert budget.used == 50


async def test_a_request_larger_than_the_limit_is_granted_when_it_is_alone() -> None:
    budget = ByteBudget(100)
    assert budget.try_take(1)
    large = budget.request(500)
    assert not large.done()
    budget.release(1)
    assert large.done()
    assert not budget.try_take(1)


async def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    budget = ByteBudget(100)
    await budget.take(60, None)
    large = budget.request(90)
    small = budget.request(10)
    assert not budget.try_take(10)
    budget.release(60)
    assert large.done()
    assert small.done()
    assert budget.used == 100


async def test_one_that_waits_too_long_is_rejected_with_the_limit_and_leaves_no_trace() -> None:
    budget = ByteBudget(100)
    await budget.take(100, None)
    with pytest.raises(Overloaded, match="MAX_IN_FLIGHT_BYTES"):
        await budget.take(10, 0.0)
    assert budget.rejected == 1
    budget.release(100)
    assert budget.used == 0
    assert budget.try_take(100)


async def test_one_that_gives_up_lets_those_behind_it_pass() -> None:
    budget = ByteBudget(100)
    await budget.take(60, None)
    large, small = budget.request(90), budget.request(40)
    budget.abandon(90, large)
    assert small.done()
    assert budget.used == 100


async def test_a_caller_cancelled_after_its_grant_gives_the_bytes_back() -> None:
    budget = ByteBudget(100)
    await budget.take(100, None)
    taking = asyncio.create_task(budget.take(50, None))
    await asyncio.sleep(0)
    budget.release(100)  # grants the 50
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert budget.used == 0


async def test_a_timeout_is_counted_as_rejected_and_a_cancelled_caller_is_not() -> None:
    budget = ByteBudget(100)
    await budget.take(100, None)
    late, gone = budget.request(10), budget.request(20)
    budget.reject(10, late)
    budget.abandon(20, gone)
    assert (budget.rejected, budget.queued, budget.queued_bytes) == (1, 0, 0)


async def test_one_granted_as_its_time_is_up_gives_the_bytes_back_and_is_not_counted() -> None:
    budget = ByteBudget(100)
    await budget.take(100, None)
    late = budget.request(10)
    budget.release(100)
    budget.reject(10, late)
    assert (budget.rejected, budget.used) == (0, 0)


async def test_those_that_gave_up_behind_one_that_waits_keep_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_budget, "MAX_QUEUED", 2)
    budget = ByteBudget(100)
    await budget.take(60, None)
    large = budget.request(90)
    for _ in range(5):
        budget.abandon(10, budget.request(10))
    assert (budget.queued, budget.queued_bytes) == (1, 90)
    small = budget.request(10)
    budget.release(60)
    assert large.done()
    assert small.done()


async def test_more_than_the_queue_holds_are_rejected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_budget, "MAX_QUEUED", 2)
    budget = ByteBudget(10)
    await budget.take(10, None)
    waiting = [budget.request(1), budget.request(1)]
    with pytest.raises(Overloaded):
        budget.request(1)
    assert budget.queued == len(waiting)


@given(st.lists(st.tuples(st.sampled_from(["ask", "release", "abandon"]), st.integers(0, 150)), max_size=60))
def test_the_sum_of_grants_is_what_is_used_and_within_the_limit(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        budget = ByteBudget(100)
        requests: list[tuple[int, asyncio.Future[None]]] = []
        for what, number in steps:
            granted = [pair for pair in requests if pair[1].done()]
            if what == "ask":
                requests.append((number, budget.request(number)))
            elif what == "release" and granted:
                pair = granted[number % len(granted)]
                requests.remove(pair)
                budget.release(pair[0])
            elif what == "abandon" and requests:
                pair = requests.pop(number % len(requests))
                budget.abandon(*pair)
            held = [size for size, future in requests if future.done()]
            assert budget.used == sum(held)
            assert budget.used <= 100 or len([size for size in held if size]) == 1
            waiting = [size for size, future in requests if not future.done()]
            assert not waiting or budget.used + waiting[0] > 100
        for size, future in requests:
            budget.abandon(size, future)
        assert budget.used == 0

    asyncio.run(run())
