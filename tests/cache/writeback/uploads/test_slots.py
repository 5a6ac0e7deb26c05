"""Retries leave slots and memory to keys that come for the first time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.writeback.uploads.slots import UploadSlots


def slots(fresh: int, retries: int, memory_limit: int = 100) -> UploadSlots:
    """So many uploads of one byte in flight."""
    made = UploadSlots(memory_limit)
    for number in range(fresh + retries):
        made.take(1, retry=number >= fresh)
    return made


@given(st.integers(1, 100), st.booleans())
def test_retries_never_take_the_last_slots(limit: int, fresh_wait: bool) -> None:
    retries = 0
    while slots(0, retries).has_slot(limit, retry=True, fresh_wait=fresh_wait):
        retries += 1
    quarter = max(1, limit // 4)
    assert retries == (quarter if fresh_wait else max(1, limit - quarter))
    assert slots(0, retries).has_slot(limit, retry=False, fresh_wait=True)


@given(st.integers(1, 100), st.lists(st.booleans(), max_size=300))
def test_no_more_are_in_flight_than_there_are_slots_and_one_of_each_kind(limit: int, kinds: list[bool]) -> None:
    busy = UploadSlots(10**6)
    for retry in kinds:
        if busy.has_slot(limit, retry=retry, fresh_wait=False):
            busy.take(1, retry=retry)
    assert busy.fresh + busy.retries <= limit + 1


def test_fresh_keys_get_all_slots_when_there_are_no_retries() -> None:
    assert slots(63, 0).has_slot(64, retry=False, fresh_wait=True)
    assert not slots(64, 0).has_slot(64, retry=False, fresh_wait=True)
    assert slots(64, 0).has_slot(64, retry=True, fresh_wait=True)


def test_values_of_retries_leave_memory_to_the_others() -> None:
    busy = slots(0, 1)
    assert busy.has_memory(24, retry=True)
    assert not busy.has_memory(25, retry=True)
    assert busy.has_memory(99, retry=False)
    assert busy.has_memory(1000, retry=False)  # one is always allowed
    busy.take(90, retry=False)
    assert not busy.has_memory(10, retry=False)
    busy.release(90, retry=False)
    busy.release(1, retry=True)
    assert busy.has_memory(1000, retry=True)
