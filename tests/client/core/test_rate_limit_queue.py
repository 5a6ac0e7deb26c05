from __future__ import annotations

import pytest

from milena_client.core.rate_limit_queue import Pace


def test_new_calls_do_not_wait_while_nobody_does() -> None:
    pace = Pace()
    assert pace.wait(0.0, 5.0) == 0.0
    pace.refused(0.5, 0.0, had_turn=False)
    assert pace.wait(0.6, 5.0) == 0.0


def test_refused_calls_get_turns_one_after_another_and_new_ones_queue_behind() -> None:
    pace = Pace()
    turns = [pace.refused(0.1, 0.0, had_turn=False) for _ in range(3)] + [pace.wait(0.0, 5.0)]
    assert turns == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=0.02)


def test_no_call_is_sent_before_the_router_wants_it() -> None:
    pace = Pace()
    pace.refused(0.1, 0.0, had_turn=False)
    assert pace.refused(3.0, 0.0, had_turn=False) >= 3.0


def test_who_would_wait_too_long_asks_at_once_and_hears_it_from_the_router() -> None:
    pace = Pace()
    for _ in range(100):
        pace.refused(0.1, 0.0, had_turn=False)
    assert pace.wait(0.0, 5.0) == 0.0


def test_turns_that_were_refused_spread_the_next_ones_once() -> None:
    pace = Pace()
    for _ in range(10):
        pace.refused(0.1, 0.0, had_turn=False)
    last = pace.wait(0.0, 60.0)
    first = pace.refused(0.01, 0.1, had_turn=True) + 0.1
    second = pace.refused(0.01, 0.2, had_turn=True) + 0.2
    assert first - last == pytest.approx(0.125, rel=0.05)
    assert second - first == pytest.approx(0.125, rel=0.05)


def test_a_limit_that_is_over_is_forgotten() -> None:
    pace = Pace()
    pace.refused(2.0, 0.0, had_turn=False)
    assert pace.refused(0.01, 100.0, had_turn=False) == pytest.approx(0.01)


def test_it_says_whether_calls_may_be_waiting() -> None:
    pace = Pace()
    assert not pace.queued
    pace.refused(0.1, 0.0, had_turn=False)
    assert pace.queued
    pace.wait(0.05, 5.0)
    assert pace.queued
    pace.wait(1.0, 5.0)
    assert not pace.queued
