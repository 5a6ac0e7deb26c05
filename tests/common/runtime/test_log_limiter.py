"""How many log lines one kind of event gets."""

from __future__ import annotations

from milena_common.runtime.log_limiter import MAX_LINES, PERIOD_SECONDS, LogLimiter


def test_the_first_lines_of_a_period_are_allowed_and_the_others_counted() -> None:
    limiter = LogLimiter()
    assert [limiter.allow(100.0 + n / 100) for n in range(MAX_LINES + 3)] == [True] * MAX_LINES + [False] * 3
    assert limiter.suppressed() == " (and 3 others)"


def test_suppressed_lines_are_reported_once() -> None:
    limiter = LogLimiter()
    for _ in range(MAX_LINES + 1):
        limiter.allow(0.0)
    assert limiter.suppressed() == " (and 1 others)"
    assert limiter.suppressed() == ""


def test_nothing_is_added_where_nothing_was_suppressed() -> None:
    limiter = LogLimiter()
    for _ in range(MAX_LINES):
        limiter.allow(0.0)
    assert limiter.suppressed() == ""


def test_the_next_period_has_as_many_lines_and_reports_the_one_before() -> None:
    limiter = LogLimiter()
    for _ in range(MAX_LINES + 5):
        limiter.allow(100.0)
    assert not limiter.allow(100.0 + 0.99 * PERIOD_SECONDS)
    assert limiter.allow(100.0 + PERIOD_SECONDS)
    assert limiter.suppressed() == " (and 6 others)"
    assert sum(limiter.allow(100.0 + PERIOD_SECONDS) for _ in range(2 * MAX_LINES)) == MAX_LINES - 1


def test_a_period_begins_with_its_first_line() -> None:
    limiter = LogLimiter()
    limiter.allow(0.0)
    later = 1.5 * PERIOD_SECONDS
    assert sum(limiter.allow(later) for _ in range(2 * MAX_LINES)) == MAX_LINES
    assert not limiter.allow(later + 0.99 * PERIOD_SECONDS)
