"""The token bucket: never more than its rate and one burst, and never less either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.limits.token_bucket import TokenBucket, over_limit

rates = st.floats(0.1, 10_000)
gaps = st.lists(st.floats(0, 3), min_size=1, max_size=60)


@given(rates, gaps)
def test_no_window_sees_more_than_a_burst_and_the_rate(rate: float, pauses: list[float]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now, taken = 0.0, []
    for pause in pauses:
        now += pause
        for _ in range(3):
            if not bucket.take_tokens(now):
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
        while not (wait := bucket.take_tokens(now)):
            pass
        assert 0 < wait <= 1 / rate * (1 + 1e-9)
        if wait * rate > 1e-6:  # below, the early moment and the right one are the same number
            assert bucket.take_tokens(now + wait * 0.98) > 0, "too early"
        now += wait * (1 + 1e-9) + 1e-9
        assert bucket.take_tokens(now) == 0


def test_it_starts_with_one_seconds_worth() -> None:
    bucket = TokenBucket(5, 100.0)
    assert [bucket.take_tokens(100.0) for _ in range(5)] == [0] * 5
    assert bucket.take_tokens(100.0) == pytest.approx(0.2)


def test_waiting_longer_saves_no_more_than_a_burst() -> None:
    bucket = TokenBucket(5, 0.0)
    assert [bucket.take_tokens(1e9) == 0 for _ in range(7)] == [True] * 5 + [False] * 2


def test_callers_at_exactly_the_rate_all_get_through() -> None:
    bucket = TokenBucket(8, 0.0)
    assert all(bucket.take_tokens(n / 8) == 0 for n in range(1000))


def test_below_one_per_second_the_burst_is_one() -> None:
    bucket = TokenBucket(0.5, 0.0)
    assert bucket.take_tokens(0) == 0
    assert bucket.take_tokens(0) == pytest.approx(2)
    assert bucket.take_tokens(2.1) == 0


def test_a_batch_takes_all_its_tokens_or_none() -> None:
    bucket = TokenBucket(10, 0.0)
    assert bucket.take_tokens(0.0, 7) == 0
    assert bucket.take_tokens(0.0, 7) == pytest.approx(0.4)
    assert bucket.take_tokens(0.0, 3) == 0
    assert bucket.take_tokens(0.4, 4) == 0


def test_a_batch_over_the_burst_is_paid_back() -> None:
    bucket = TokenBucket(10, 0.0)
    assert bucket.take_tokens(0.0, 25) == 0, "it would never be welcome otherwise"
    assert bucket.take_tokens(0.0) == pytest.approx(1.6)
    assert bucket.take_tokens(1.0, 25) == pytest.approx(1.5)
    assert bucket.take_tokens(2.5, 25) == 0


@given(rates, st.lists(st.tuples(st.floats(0, 3), st.integers(1, 50)), min_size=1, max_size=60))
def test_batches_have_no_more_than_the_rate_in_the_long_run(rate: float, requests: list[tuple[float, int]]) -> None:
    bucket = TokenBucket(rate, 0.0)
    now, taken, largest = 0.0, 0, 0
    for pause, n in requests:
        now += pause
        if not bucket.take_tokens(now, n):
            taken += n
            largest = max(largest, n)
        assert taken <= max(1.0, rate) + rate * now + largest + 1e-6


def test_what_was_rejected_is_counted() -> None:
    bucket = TokenBucket(2, 0.0)
    for n in (1, 1, 1, 5):
        bucket.take_tokens(0.0, n)
    assert bucket.rejected == 6


def test_the_rejection_names_the_limit_and_how_long_to_wait() -> None:
    rejection = over_limit("this node's", 4, 0.25)
    assert str(rejection) == "over this node's RATE_LIMIT of 4 requests a second; try again in 250 ms"
    assert rejection.retry_after == 0.25


def test_a_rate_of_0_is_no_limit() -> None:
    bucket = TokenBucket(0, 0.0)
    assert not any(bucket.take_tokens(0.0) for _ in range(10_000))
