from __future__ import annotations

import pytest

from milena_client.core.rate_limit_queue import RateLimitQueue


def test_new_calls_do_not_wait_while_none_is_queued() -> None:
    queue = RateLimitQueue()
    assert queue.delay(0.0, 5.0) == 0.0
    queue.rejected(0.5, 0.0, was_queued=False)
    assert queue.delay(0.6, 5.0) == 0.0


def test_rejected_calls_start_one_after_another_and_new_ones_queue_behind() -> None:
    queue = RateLimitQueue()
    starts = [queue.rejected(0.1, 0.0, was_queued=False) for _ in range(3)] + [queue.delay(0.0, 5.0)]
    assert starts == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=0.02)


def test_no_call_is_sent_before_the_router_wants_it() -> None:
    queue = RateLimitQueue()
    queue.rejected(0.1, 0.0, was_queued=False)
    assert queue.rejected(3.0, 0.0, was_queued=False) >= 3.0


def test_a_call_that_would_wait_too_long_is_sent_at_once_and_the_router_rejects_it() -> None:
    queue = RateLimitQueue()
    for _ in range(100):
        queue.rejected(0.1, 0.0, was_queued=False)
    assert queue.delay(0.0, 5.0) == 0.0


def test_calls_rejected_at_their_start_times_spread_the_next_ones_once() -> None:
    queue = RateLimitQueue()
    for _ in range(10):
        queue.rejected(0.1, 0.0, was_queued=False)
    last = queue.delay(0.0, 60.0)
    first = queue.rejected(0.01, 0.1, was_queued=True) + 0.1
    second = queue.rejected(0.01, 0.2, was_queued=True) + 0.2
    assert first - last == pytest.approx(0.125, rel=0.05)
    assert second - first == pytest.approx(0.125, rel=0.05)


def test_a_limit_that_is_over_is_forgotten() -> None:
    queue = RateLimitQueue()
    queue.rejected(2.0, 0.0, was_queued=False)
    assert queue.rejected(0.01, 100.0, was_queued=False) == pytest.approx(0.01)


def test_it_says_whether_calls_may_be_waiting() -> None:
    queue = RateLimitQueue()
    assert not queue.queued
    queue.rejected(0.1, 0.0, was_queued=False)
    assert queue.queued
    queue.delay(0.05, 5.0)
    assert queue.queued
    queue.delay(1.0, 5.0)
    assert not queue.queued
