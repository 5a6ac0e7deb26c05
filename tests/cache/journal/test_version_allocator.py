"""Versions only grow: in one run, over restarts, over a clock that is set back, and with the ring's epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.journal import version_allocator as versions
from milena_cache.journal.version_allocator import BLOCK, Versions
from milena_cache.objects.version import Version

WALL = 1_700_000_000.0


def test_it_begins_at_the_time_of_day() -> None:
    fresh = Versions(WALL, {})
    assert fresh.next(0) == Version(1_700_000_000_000, 1_700_000_000_000_001)
    assert fresh.next(0) == Version(1_700_000_000_000, 1_700_000_000_000_002)


@pytest.mark.parametrize("owned_since", [0, 2**44])
def test_versions_of_many_are_those_of_one_after_the_other(owned_since: int) -> None:
    one, many = Versions(WALL, {}), Versions(WALL, {})
    many.metadata()
    one.metadata()
    expected = [one.next(owned_since) for _ in range(5)]
    first = many.next_many(owned_since, 5)
    assert [Version(first.epoch, first.seq + number) for number in range(5)] == expected
    assert (one.due, one.next(0)) == (many.due, many.next(0))


def test_a_lost_journal_does_not_take_it_back() -> None:
    before = Versions(WALL, {})
    last = [before.next(0) for _ in range(1000)][-1]
    assert Versions(WALL + 1, {}).next(0) > last


def test_a_restart_much_later_begins_at_the_time_of_day() -> None:
    after = Versions(WALL, {"epoch": "1", "reserved": "1"})
    assert after.next(0) == Versions(WALL, {}).next(0)


def test_a_clock_set_back_does_not_take_it_back() -> None:
    before = Versions(WALL, {})
    metadata = before.metadata()
    last = before.next(0)
    after = Versions(0.0, metadata)
    assert after.next(0) == Version(last.epoch, int(metadata["reserved"]) + 1)


def test_a_clock_set_ahead_for_a_while_stays_in_force() -> None:
    ahead = Versions(2 * WALL, Versions(WALL, {}).metadata())
    assert Versions(WALL, ahead.metadata()).next(0) > ahead.next(0)


def test_an_ownership_of_a_newer_epoch_takes_it_along_and_an_older_one_does_not_take_it_back() -> None:
    node = Versions(0.0, {"epoch": "10"})
    assert [node.next(owned).epoch for owned in (3, 11, 9, 11, 12, 0, -1)] == [10, 11, 11, 11, 12, 12, 12]
    assert node.seq == 7


def test_a_newer_epoch_is_to_be_recorded_at_once_and_is_there_after_a_restart() -> None:
    node = Versions(0.0, {"epoch": "10"})
    node.metadata()
    assert not node.due
    node.next(10)
    assert not node.due
    given_last = node.next(11)
    assert node.due
    metadata = node.metadata()
    assert not node.due
    assert metadata["epoch"] == "11"
    assert Versions(0.0, metadata).next(0) > given_last


def test_what_there_is_already_is_exceeded() -> None:
    node = Versions(0.0, {"epoch": "10", "reserved": "100"})
    node.seen(Version(9, 50))
    assert node.next(0) == Version(10, 101)
    node.seen(Version(9, 500))  # its number was given, though under an older epoch
    assert node.next(0) == Version(10, 501)
    node.seen(Version(12, 400))
    assert node.next(0) == Version(12, 502)


def test_the_metadata_are_due_at_the_start_and_again_half_a_block_later() -> None:
    node = Versions(WALL, {})
    assert node.due
    first = node.seq
    assert node.metadata() == {"epoch": str(node.epoch), "reserved": str(first + BLOCK)}
    node.seen(Version(0, first + BLOCK // 2 - 2))
    node.next(0)
    assert not node.due
    node.next(0)
    assert node.due
    node.metadata()
    assert not node.due


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(-1, 40)),
    st.tuples(st.just("restart"), st.floats(0, 0.02)),
    st.tuples(st.just("keep"), st.none()),
)


@given(st.lists(steps, max_size=80))
def test_no_version_is_given_twice_or_below_an_earlier_one(course: list[tuple[str, float | int | None]]) -> None:
    """What is due is on disk before half a block of further versions was given; whatever the clock says."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(versions, "BLOCK", 8)
        on_disk: dict[str, str] = {}
        node = Versions(0.0, on_disk)
        on_disk = node.metadata()
        last = Version(-1, -1)
        behind = 0
        for what, number in course:
            if what == "restart":
                node = Versions(float(number or 0), on_disk)
                on_disk, behind = node.metadata(), 0
            elif what == "keep" and node.due:
                on_disk, behind = node.metadata(), 0
            elif what == "write":
                version = node.next(int(number or 0))
                assert version > last
                assert version.seq > last.seq
                last = version
                behind = behind + 1 if node.due else 0
                # A new epoch has to be kept before anything under an older one is written.
                if behind == 4 or node.epoch > int(on_disk["epoch"]):
                    on_disk, behind = node.metadata(), 0


def test_a_version_is_covered_once_a_restart_is_known_to_begin_after_it() -> None:
    node = Versions(WALL, {})
    other = Versions(WALL + 5, {}).next(0)
    assert not node.is_covered(other)
    node.learn(other)
    on_disk = node.metadata()
    assert not node.is_covered(other), "it is not on disk yet"
    node.rolled_back()
    node.stored()
    assert not node.is_covered(other), "the commit with it has failed, and another one succeeded"
    node.metadata()
    node.stored()
    assert node.is_covered(other)
    assert Versions(0.0, on_disk).is_covered(other)
    assert Versions(0.0, on_disk).next(0) > other
    assert not node.is_covered(other._replace(epoch=other.epoch + 1))
