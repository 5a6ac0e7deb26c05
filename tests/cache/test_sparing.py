"""How many lines single keys get in the log."""

from __future__ import annotations

from milena_cache.sparing import MOST, PERIOD_SECONDS, Sparing


def test_the_first_lines_of_a_period_are_said_and_the_others_counted() -> None:
    sparing = Sparing()
    assert [sparing.may_say(100.0 + n / 100) for n in range(MOST + 3)] == [True] * MOST + [False] * 3
    assert sparing.and_more() == " (and 3 others)"


def test_what_was_left_out_is_told_once() -> None:
    sparing = Sparing()
    for _ in range(MOST + 1):
        sparing.may_say(0.0)
    assert sparing.and_more() == " (and 1 others)"
    assert sparing.and_more() == ""


def test_nothing_is_added_where_nothing_was_left_out() -> None:
    sparing = Sparing()
    for _ in range(MOST):
        sparing.may_say(0.0)
    assert sparing.and_more() == ""


def test_the_next_period_has_as_many_lines_and_tells_of_the_one_before() -> None:
    sparing = Sparing()
    for _ in range(MOST + 5):
        sparing.may_say(100.0)
    assert not sparing.may_say(100.0 + 0.99 * PERIOD_SECONDS)
    assert sparing.may_say(100.0 + PERIOD_SECONDS)
    assert sparing.and_more() == " (and 6 others)"
    assert sum(sparing.may_say(100.0 + PERIOD_SECONDS) for _ in range(2 * MOST)) == MOST - 1


def test_a_period_begins_with_its_first_line() -> None:
    sparing = Sparing()
    sparing.may_say(0.0)
    later = 1.5 * PERIOD_SECONDS
    assert sum(sparing.may_say(later) for _ in range(2 * MOST)) == MOST
    assert not sparing.may_say(later + 0.99 * PERIOD_SECONDS)
