"""The token bucket: never more than its rate and one burst, and never less either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_router.limiter import TokenBucket

rates = st.floats(0.1, 10_000)
gaps = st.lists(st.floats(0, 3), min_size=1, max_size=60)


@given(rates, gaps)
def test_no_window_sees_more_than_a_burst_and_the_rate(rate: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now, taken = 0.0, []
    for pause in pauses:
        now += pause
        for _ in range(3):
            if not bucket.take(now):
                taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            length = taken[last] - taken[first]
            assert last - first + 1 <= max(1.0, rate) + rate * length + 1e-6


@given(rates, gaps)
def test_the_wait_is_exactly_long_enough(rate: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now = 0.0
    for pause in pauses:
        now += pause
        while not (wait := bucket.take(now)):
            pass
        assert 0 < wait <= 1 / rate * (1 + 1e-9)
        if wait * rate > 1e-6:  # below, the early moment and the right one are the same number
            assert bucket.take(now + wait * 0.98) > 0, "too early"
        now += wait * (1 + 1e-9) + 1e-9
        assert bucket.take(now) == 0


def test_it_starts_with_one_seconds_worth() -> None:
    bucket = TokenBucket(5, 100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [0] * 5
    assert bucket.take(100.0) == pytest.approx(0.2)


def test_waiting_longer_saves_no_more_than_a_burst() -> None:
    bucket = TokenBucket(5, 0.0)
    assert [bucket.take(1e9) == 0 for _ in range(7)] == [True] * 5 + [False] * 2


def test_callers_at_exactly_the_rate_all_get_through() -> None:
    bucket = TokenBucket(8, 0.0)
    assert all(bucket.take(n / 8) == 0 for n in range(1000))


def test_below_one_a_second_the_burst_is_one() -> None:
    bucket = TokenBucket(0.5, 0.0)
    assert bucket.take(0) == 0
    assert bucket.take(0) == pytest.approx(2)
    assert bucket.take(2.1) == 0


def test_a_rate_of_0_is_no_limit() -> None:
    bucket = TokenBucket(0, 0.0)
    assert not any(bucket.take(0.0) for _ in range(10_000))
