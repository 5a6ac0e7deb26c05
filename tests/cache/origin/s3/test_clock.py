"""A clock that is wrong, for a moment or for long, removes nothing and gives nothing up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.objects.expiry import to_the_millisecond
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.origin.s3.clock import MAX_SKEW_SECONDS, CorrectedClock, S3Clock, date_of, is_skewed
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.fake_clock import FakeClock, run_ready_tasks

DAY = 86400.0
WALL = 1_700_000_000.0
SKEWS = [DAY, 2 * 3600.0, MAX_SKEW_SECONDS + 1]


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


def in_seconds(t: NodeUnderTest, seconds: float) -> float:
    return to_the_millisecond(t.clock.wall() + seconds)


async def skewed(t: NodeUnderTest, seconds: float) -> None:
    t.clock.set_wall(t.clock.wall() + seconds)
    await run_ready_tasks()


@pytest.mark.parametrize("seconds", SKEWS)
@pytest.mark.parametrize("cached", [False, True])
async def test_a_clock_that_is_ahead_removes_nothing_and_returns_what_is_there(
    seconds: float, cached: bool
) -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 30))
    if cached:
        await t.get("k")
    await skewed(t, seconds)
    assert (await t.outcome("k"))[1] == b"v"
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"
    assert t.writes.reaper.removed == 0


@pytest.mark.parametrize("seconds", [-DAY, *SKEWS])
async def test_an_object_ends_when_it_ends_whatever_the_clock_says(seconds: float) -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 30))
    await skewed(t, seconds)
    await t.clock.advance(31)
    assert (await t.outcome("k"))[1] is None


@pytest.mark.parametrize("seconds", SKEWS)
async def test_nothing_is_removed_while_the_clocks_do_not_agree(seconds: float) -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await skewed(t, seconds)
    await t.clock.advance(6)
    assert (await t.outcome("k"))[1] is None
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"
    await skewed(t, -seconds)
    await t.clock.advance(10)
    await t.get("k")
    await t.clock.advance(1)
    assert t.s3_has("k") is None


@pytest.mark.parametrize("date", [lambda: None, lambda: WALL - DAY, lambda: WALL + DAY])
async def test_an_object_is_removed_only_on_the_word_of_s3s_own_clock(date: Callable[[], float | None]) -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 5))
    await t.clock.advance(6)
    t.store.date = date
    await t.get("k")
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"


async def test_a_clock_that_is_ahead_by_less_than_a_minute_removes_nothing_that_is_to_exist() -> None:
    t = await started()
    t.in_s3("k", b"v", in_seconds(t, 30))
    await skewed(t, MAX_SKEW_SECONDS - 5)
    assert (await t.outcome("k"))[1] is None, "the clocks agree well enough for this node's to count"
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"
    await skewed(t, 5 - MAX_SKEW_SECONDS)
    await t.clock.advance(10)
    assert await t.outcome("k") == ("miss", b"v"), "the absence is not remembered for long"


@pytest.mark.parametrize("seconds", SKEWS)
async def test_what_is_dirty_is_not_given_up(seconds: float) -> None:
    t = await started(delay=100.0)
    await t.put("k", b"v", expires_at=in_seconds(t, 1000))
    await skewed(t, seconds)
    assert await t.outcome("k") == ("hit", b"v")
    await t.flush()
    assert t.s3_has("k") == b"v"
    await skewed(t, -seconds)
    assert await t.outcome("k") == ("hit", b"v")


async def test_a_node_that_starts_with_a_wrong_clock_while_s3_is_away_gives_nothing_up() -> None:
    t = await started(delay=100.0)
    t.store.down = Fault.CONNECT
    end = in_seconds(t, 1000)
    await t.put("k", b"v", expires_at=end)
    t.store.date = lambda: None
    t = await t.crash()
    await skewed(t, DAY)
    await t.clock.advance(1)
    t.store.down = None
    flushed = await t.flush()
    assert flushed.remaining == 0
    assert t.store.objects[Ref(BUCKET, "k")] == b"v"
    assert t.expires_at("k") == end


@pytest.mark.parametrize("seconds", SKEWS)
async def test_a_ttl_is_counted_from_s3s_time_where_the_clocks_do_not_agree(seconds: float) -> None:
    t = await started()
    await skewed(t, seconds)
    assert t.node.clock.wall() == pytest.approx(WALL, abs=2)


@given(
    date=st.floats(0, 4e9),
    requested=st.floats(0, 1e6),
    took=st.floats(0, MAX_SKEW_SECONDS),
    later=st.floats(0, 1e6),
)
def test_the_time_of_s3_is_known_from_then_on_to_within_half_the_response_time(
    date: float, requested: float, took: float, later: float
) -> None:
    clock = S3Clock()
    header = float(int(date))
    clock.observed(header, requested, requested + took)
    corrected = clock.time(requested + took + later)
    assert corrected is not None
    # The reply was made at `date`, at some moment between the two.
    earliest, latest = date + later, date + took + later
    assert earliest - took / 2 - 0.51 <= corrected <= latest + took / 2 + 0.51


def test_a_response_that_took_too_long_is_not_used() -> None:
    clock = S3Clock()
    clock.observed(WALL, 0.0, MAX_SKEW_SECONDS + 1)
    assert not clock.known
    assert clock.time(0.0) is None
    assert clock.skew(WALL, 0.0) == 0


def test_a_skew_is_reported_with_its_direction() -> None:
    machine, s3 = FakeClock(), S3Clock()
    clock = CorrectedClock(machine, s3)
    assert clock.degraded() == []
    s3.observed(machine.wall(), machine.now(), machine.now())
    assert clock.skew == pytest.approx(0, abs=0.6)
    assert clock.degraded() == []
    machine.set_wall(machine.wall() + DAY)
    assert clock.skew == pytest.approx(DAY, abs=0.6)
    assert "86400 s ahead of" in clock.degraded()[0]
    machine.set_wall(machine.wall() - 2 * DAY)
    assert " behind S3's" in clock.degraded()[0]


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_minute_is_allowed(sign: int) -> None:
    assert not is_skewed(sign * MAX_SKEW_SECONDS)
    assert is_skewed(sign * (MAX_SKEW_SECONDS + 0.001))


@pytest.mark.parametrize(
    ("header", "date"),
    [
        ("Tue, 14 Nov 2023 22:13:20 GMT", WALL),
        ("Tue, 14 Nov 2023 22:13:20", WALL),
        ("Tue, 14 Nov 2023 23:13:20 +0100", WALL),
        ("", None),
        ("yesterday", None),
    ],
)
def test_what_a_date_header_says(header: str, date: float | None) -> None:
    assert date_of(header) == date
