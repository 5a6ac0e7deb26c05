"""Up to which age events vouch for entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.events.trust import CLOCK_SECONDS, HEARTBEAT_SECONDS, MAX_LAG_SECONDS, Trust

WALL = 1_700_000_000.0
LIMIT = HEARTBEAT_SECONDS + MAX_LAG_SECONDS


def beat(trust: Trust, at: float, now: float) -> None:
    """The event of a heartbeat of second `at` arrives at second `now`; both clocks go alike."""
    trust.heartbeat(WALL + at, WALL + now, now)


def test_nothing_is_trusted_before_the_first_heartbeat() -> None:
    trust = Trust(1e6)
    assert trust.lag(5.0) is None
    assert trust.max_fresh_age(5.0) == 0.0


def test_the_age_grows_from_the_first_heartbeat_up_to_the_setting() -> None:
    trust = Trust(1000.0)
    for second in range(0, 1200, 60):
        beat(trust, second, second + 2)
        assert trust.max_fresh_age(second + 2) == max(0.0, min(1000.0, second + 2 - CLOCK_SECONDS))
    assert trust.max_fresh_age(1142) == 1000.0


def test_trust_ends_when_heartbeats_stop_and_begins_anew_with_the_next_one() -> None:
    trust = Trust(1e6)
    beat(trust, 0, 1)
    assert trust.max_fresh_age(LIMIT) > 0
    assert trust.max_fresh_age(LIMIT + 1) == 0.0
    beat(trust, 600, 601)
    assert trust.max_fresh_age(601) == 0.0
    assert trust.max_fresh_age(600 + CLOCK_SECONDS + 5) == 5.0


def test_a_late_heartbeat_is_no_reason_for_trust() -> None:
    trust = Trust(1e6)
    beat(trust, 0, LIMIT + 1)
    assert not trust.is_trusted(LIMIT + 1)
    assert trust.lag(LIMIT + 1) == LIMIT + 1


def test_an_older_heartbeat_and_a_second_copy_change_nothing() -> None:
    trust = Trust(1e6)
    beat(trust, 100, 101)
    beat(trust, 40, 150)
    beat(trust, 100, 250)
    assert trust.lag(250) == 150


def test_a_clock_that_was_set_back_makes_no_old_heartbeat_a_recent_one() -> None:
    trust = Trust(1e6)
    beat(trust, 0, 1)
    trust.heartbeat(WALL, WALL - 5000, 170.0)
    assert trust.lag(170.0) == 170.0
    assert not trust.is_trusted(200.0)


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(0, 400)), max_size=30), st.floats(0, 3000))
def test_only_the_time_of_an_unbroken_row_of_heartbeats_is_trusted(
    beats: list[tuple[float, float]], at: float
) -> None:
    """Each heartbeat is written at a second, and arrives so many seconds later."""
    trust = Trust(1e6)
    arrived = sorted((written + lag, written) for written, lag in beats if written + lag <= at)
    for now, written in arrived:
        beat(trust, written, now)
    age = trust.max_fresh_age(at)
    # In each second of that age, some heartbeat was there that was recent enough.
    for second in (at - age / 2, at - age, at):
        if age and second >= at - age:
            assert any(now <= at and second - LIMIT <= written for now, written in arrived)
    if age:
        assert at - max(written for _, written in arrived) <= LIMIT
