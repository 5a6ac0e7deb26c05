"""How fast write-back goes: S3 that is throttled or down, and a loop that requests need."""

from __future__ import annotations

from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.writeback.uploads.slots import UploadSlots
from milena_cache.writeback.uploads.throttle import (
    BACKLOG_GAP,
    BACKOFF,
    BURST_SECONDS,
    BUSY_REQUESTS,
    BUSY_SHARE,
    DOWN_AFTER,
    DOWN_KEYS,
    MAX_FAILING_KEYS,
    MAX_GAP,
    MAX_PROBES,
    PROBE_SECONDS,
    SAME_EVENT_SECONDS,
    UploadThrottle,
)

MAXIMUM = 64
NUMBERS = count()


def throttle(maximum: int = MAXIMUM) -> UploadThrottle:
    """One whose pauses are as long as they can be."""
    return UploadThrottle(maximum, lambda: 1.0)


IDLE = UploadSlots(10**6)


def slots(number: int) -> UploadSlots:
    """So many fresh uploads in flight."""
    busy = UploadSlots(10**6)
    for _ in range(number):
        busy.take(1, retry=False)
    return busy


def wait(of: UploadThrottle, now: float, in_flight: int = 0) -> float:
    """Seconds until the next fresh upload may begin, or while S3 is down the next retry."""
    busy = slots(in_flight)
    return of.wait(now, busy, retry=of.down, fresh_wait=False)


def fail(of: UploadThrottle, now: float) -> bool:
    """Another key fails."""
    return of.failed(now, b"%d" % next(NUMBERS))


def down(maximum: int = MAXIMUM) -> UploadThrottle:
    """One for which S3 has just gone down, at 0 s."""
    slow = throttle(maximum)
    assert [fail(slow, 0.0) for _ in range(DOWN_AFTER)] == [False] * (DOWN_AFTER - 1) + [True]
    return slow


def gap(needed: UploadThrottle, now: float = 1e6) -> float:
    """Seconds between two uploads that begin as soon as they may, when a burst is over."""
    while wait(needed, now) == 0:
        needed.began(now, retry=False)
    before = now + wait(needed, now)
    needed.began(before, retry=False)
    return wait(needed, before)


def test_all_places_are_free_at_the_start_and_no_more() -> None:
    well = throttle()
    assert well.limit == MAXIMUM
    assert wait(well, 0.0, MAXIMUM - 1) == 0
    assert wait(well, 0.0, MAXIMUM) == inf


def test_slow_down_halves_and_pauses_once_for_all_responses_at_one_rate() -> None:
    slowed = throttle()
    for _ in range(10):
        slowed.throttled(100.0)
    assert slowed.limit == MAXIMUM // 2
    assert wait(slowed, 100.0) == pytest.approx(BACKOFF.first)
    slowed.throttled(100.0 + 0.99 * SAME_EVENT_SECONDS)
    assert slowed.limit == MAXIMUM // 2
    slowed.throttled(100.0 + SAME_EVENT_SECONDS)
    assert slowed.limit == MAXIMUM // 4
    assert wait(slowed, 100.0 + SAME_EVENT_SECONDS) == pytest.approx(2 * BACKOFF.first)


def test_however_often_s3_says_slow_down_one_upload_remains_and_the_pause_is_bounded() -> None:
    slowed = throttle()
    for second in range(20):
        slowed.throttled(float(second))
    assert slowed.limit == 1
    assert wait(slowed, 19.0) == pytest.approx(BACKOFF.max_delay)
    assert wait(slowed, 19.0 + BACKOFF.max_delay) == 0
    slowed.succeeded(b"good")
    assert slowed.limit == 2


def test_each_round_of_successes_gives_one_more_up_to_the_full_number() -> None:
    slowed = throttle()
    slowed.throttled(0.0)
    for expected in range(MAXIMUM // 2 + 1, MAXIMUM + 1):
        for _ in range(expected - 1):
            slowed.succeeded(b"good")
        assert slowed.limit in (expected - 1, expected)  # a round's first success already makes it a bit more
    for _ in range(10 * MAXIMUM):
        slowed.succeeded(b"good")
    assert slowed.limit == MAXIMUM


def test_a_success_ends_the_growth_of_a_pause_after_slow_down_and_not_the_pause() -> None:
    slowed = throttle()
    slowed.throttled(0.0)
    slowed.succeeded(b"good")
    assert wait(slowed, 0.0) == pytest.approx(BACKOFF.first)
    slowed.throttled(10.0)
    assert wait(slowed, 10.0) == pytest.approx(BACKOFF.first)


def test_failures_in_a_row_mean_that_s3_is_down_and_only_the_first_time_it_is_news() -> None:
    slow = down()
    assert slow.down
    assert slow.limit == 1
    one = UploadSlots(10**6)
    one.take(1, retry=True)
    assert slow.wait(0.0, one, retry=True, fresh_wait=False) == inf
    assert wait(slow, 0.0) == pytest.approx(BACKOFF.first)
    assert not fail(slow, 1.0)
    assert wait(slow, 1.0) == pytest.approx(2 * BACKOFF.first)
    for _ in range(20):
        fail(slow, 2.0)
    assert wait(slow, 2.0) == pytest.approx(BACKOFF.max_delay)


def test_failures_with_a_success_between_them_are_not_in_a_row() -> None:
    fair = throttle()
    for _ in range(DOWN_AFTER):
        for _ in range(DOWN_AFTER - 1):
            assert not fail(fair, 0.0)
        assert not fair.succeeded(b"good")
    assert not fair.down
    assert wait(fair, 0.0, MAXIMUM - 1) == 0


def test_a_backlog_comes_back_at_a_quarter_and_at_once() -> None:
    slow = down()
    for _ in range(10):
        fail(slow, 0.0)
    assert slow.succeeded(b"good")
    assert not slow.down
    assert slow.limit == MAXIMUM // 4
    assert wait(slow, 0.0) == 0
    assert not slow.succeeded(b"good")


def test_a_short_failure_of_all_does_not_slow_down_the_rest() -> None:
    slow = down()
    assert slow.succeeded(b"good")
    assert slow.limit == MAXIMUM


@pytest.mark.parametrize("maximum", [1, 2, 3])
def test_few_places_are_never_none_and_never_more(maximum: int) -> None:
    slow = down(maximum)
    for _ in range(10):
        slow.succeeded(b"good")
        assert 1 <= slow.limit <= maximum
    assert slow.limit == maximum
    slow.throttled(10.0)
    slow.throttled(20.0)
    assert slow.limit == 1


def test_after_down_it_takes_as_many_failures_again() -> None:
    slow = down()
    slow.succeeded(b"good")
    assert [fail(slow, 0.0) for _ in range(DOWN_AFTER)] == [False] * (DOWN_AFTER - 1) + [True]


@pytest.mark.parametrize(
    ("share", "requests"), [(BUSY_SHARE, 1e6), (1.0, BUSY_REQUESTS), (0.0, 0.0), (1.0, 0.0), (0.0, 1e6)]
)
def test_a_loop_that_requests_do_not_need_is_all_for_uploads(share: float, requests: float) -> None:
    free = throttle()
    for _ in range(100):
        free.load(share, requests, backlog=False)
    for _ in range(1000):
        assert wait(free, 0.0) == 0
        free.began(0.0, retry=False)


def test_uploads_give_way_step_by_step_and_never_altogether() -> None:
    needed = throttle()
    gaps = []
    for step in range(50):
        needed.load(BUSY_SHARE + 0.01, BUSY_REQUESTS + 1, backlog=False)
        gaps.append(round(gap(needed, now=1e3 * step), 9))
    assert gaps == sorted(gaps)
    assert 0 < gaps[0] < MAX_GAP  # tuning it is not this test's affair
    assert gaps[-1] == pytest.approx(MAX_GAP)


def test_uploads_take_the_loop_back_when_requests_are_gone() -> None:
    needed = throttle()
    for _ in range(50):
        needed.load(1.0, 1e5, backlog=False)
    needed.load(0.1, 1e5, backlog=False)
    assert 0.5 * MAX_GAP < gap(needed) < MAX_GAP
    for _ in range(50):
        needed.load(0.1, 1e5, backlog=False)
    for _ in range(1000):
        assert wait(needed, 2e6) == 0
        needed.began(2e6, retry=False)


def test_a_backlog_does_not_give_way_beyond_its_share() -> None:
    needed = throttle()
    for _ in range(50):
        needed.load(1.0, 1e5, backlog=True)
    assert gap(needed) == pytest.approx(BACKLOG_GAP)


@pytest.mark.parametrize(("backlog", "per_second"), [(False, 1 / MAX_GAP), (True, 1 / BACKLOG_GAP)])
def test_timers_of_a_millisecond_do_not_slow_it_down(backlog: bool, per_second: float) -> None:
    needed = throttle()
    for _ in range(50):
        needed.load(1.0, 1e5, backlog=backlog)
    begun = 0
    for millisecond in range(1000):
        now = 50.0 + millisecond / 1000
        while wait(needed, now) == 0:
            needed.began(now, retry=False)
            begun += 1
    assert per_second * 0.99 <= begun <= per_second * (1 + BURST_SECONDS) + 2


@given(st.lists(st.floats(0, 0.2), max_size=300))
def test_a_rest_is_not_made_up_for_by_more_than_a_burst(rests: list[float]) -> None:
    needed = throttle()
    for _ in range(50):
        needed.load(1.0, 1e5, backlog=False)
    now, begun = 0.0, []
    for rest in rests:
        now += rest
        if wait(needed, now) == 0:
            needed.began(now, retry=False)
            begun.append(now)
    for first, began in enumerate(begun):
        within = sum(began <= other <= began + 0.1 for other in begun[first:])
        assert within <= (0.1 + BURST_SECONDS) / MAX_GAP + 2


@pytest.mark.parametrize("keys", range(1, DOWN_KEYS))
def test_few_keys_that_fail_are_no_failure_of_s3(keys: int) -> None:
    fair = throttle()
    for failure in range(100 * DOWN_AFTER):
        assert not fair.failed(0.0, b"%d" % (failure % keys))
    assert not fair.down
    assert wait(fair, 0.0) == 0


def test_keys_that_fail_while_others_succeed_are_no_failure_of_s3_later() -> None:
    fair = throttle()
    bad = [b"bad%d" % number for number in range(MAX_FAILING_KEYS)]
    for key in bad:
        fair.failed(0.0, key)
    fair.succeeded(b"good")
    for _ in range(3):
        for key in bad:
            assert not fair.failed(1.0, key)
    assert not fair.down
    assert [fail(fair, 1.0) for _ in range(DOWN_AFTER)] == [False] * (DOWN_AFTER - 1) + [True]


def test_a_key_that_has_succeeded_again_counts_as_any_other() -> None:
    fair = throttle()
    keys = [b"%d" % number for number in range(DOWN_AFTER)]
    for key in keys[1:]:
        fair.failed(0.0, key)
    for key in keys:
        fair.succeeded(key)
    assert [fair.failed(1.0, key) for key in keys] == [False] * (DOWN_AFTER - 1) + [True]


def test_more_keys_that_fail_than_can_be_remembered_are_a_failure_of_s3() -> None:
    slow = throttle()
    for number in range(3 * MAX_FAILING_KEYS):
        slow.failed(0.0, b"%d" % number)
        slow.succeeded(b"good")
    assert any(slow.failed(0.0, b"%d" % number) for number in range(3 * MAX_FAILING_KEYS))


def test_while_s3_is_down_a_fresh_key_is_tried_all_the_same_now_and_then() -> None:
    slow = down()
    for _ in range(20):
        fail(slow, 0.0)
    assert wait(slow, 0.0) == pytest.approx(BACKOFF.max_delay)
    assert slow.wait(0.0, IDLE, retry=False, fresh_wait=True) == 0
    slow.began(0.0, retry=False)
    assert slow.wait(0.0, IDLE, retry=False, fresh_wait=True) == pytest.approx(PROBE_SECONDS)
    assert slow.wait(1.0, slots(MAX_PROBES - 1), retry=False, fresh_wait=True) == 0
    assert slow.wait(1.0, slots(MAX_PROBES), retry=False, fresh_wait=True) == inf
