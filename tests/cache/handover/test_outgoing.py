"""What of a move is to be sent, and which slots are handed over next."""

from __future__ import annotations

import pytest

from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES
from milena_cache.handover.outgoing import (
    FIRST_SLOTS,
    LONG_PAUSE,
    MAX_RANGES,
    MAX_SLOTS,
    MAX_YIELD,
    MIN_SLOTS,
    SHORT_PAUSE,
    YIELD,
    Outgoing,
)
from milena_cache.objects.version import Version
from milena_common.cluster.slots import slot_of

KEYS = [b"key%d" % number for number in range(2000)]
SLOTS_OF_KEYS = {slot_of(key) for key in KEYS}


def served(slot: int) -> bool:
    return True


def small(key: bytes) -> int:
    del key
    return 10


def test_a_frame_is_bounded_in_writes_and_in_bytes() -> None:
    outgoing = Outgoing(SLOTS_OF_KEYS)
    for key in KEYS:
        outgoing.changed(key)
    assert len(outgoing.next_keys(SLOTS_OF_KEYS, small)) <= MAX_WRITES
    assert len(outgoing.next_keys(SLOTS_OF_KEYS, lambda key: MAX_BYTES // 3)) == 2
    assert len(outgoing.next_keys(SLOTS_OF_KEYS, lambda key: 10 * MAX_BYTES)) == 1


def test_each_key_is_sent_once_and_again_after_a_change() -> None:
    outgoing = Outgoing(SLOTS_OF_KEYS)
    for key in KEYS:
        outgoing.changed(key)
    sent = []
    while keys := outgoing.next_keys(SLOTS_OF_KEYS, small):
        sent += keys
    assert sorted(sent) == sorted(KEYS)
    outgoing.changed(KEYS[0])
    assert outgoing.next_keys(SLOTS_OF_KEYS, small) == [KEYS[0]]
    outgoing.put_back([KEYS[0]])
    assert outgoing.waiting == 1


def test_keys_of_other_slots_are_of_no_concern() -> None:
    outgoing = Outgoing({slot_of(b"a")})
    outgoing.changed(b"b")
    assert not outgoing.waiting


def test_a_batch_has_a_short_rest_and_few_slots_and_ranges() -> None:
    outgoing = Outgoing(range(4000))
    assert outgoing.next_batch(served) == [(0, FIRST_SLOTS - 1)]
    outgoing = Outgoing(range(0, 4000, 2))
    assert len(outgoing.next_batch(served)) == MAX_RANGES


def test_batches_are_larger_after_short_pauses_and_smaller_after_long_ones() -> None:
    outgoing = Outgoing(range(4000))
    for _ in range(10):
        outgoing.paused(SHORT_PAUSE / 2, 1)
    assert outgoing.next_batch(served) == [(0, MAX_SLOTS - 1)]
    for _ in range(10):
        outgoing.paused(2 * LONG_PAUSE, 1)
    assert outgoing.next_batch(served) == [(0, MAX_SLOTS - 1)], "one frame takes as long for fewer slots"
    for _ in range(10):
        outgoing.paused(2 * LONG_PAUSE, 2)
    assert outgoing.next_batch(served) == [(0, MIN_SLOTS - 1)]


def test_the_time_of_a_small_frame_is_no_measure_of_the_rate() -> None:
    """Otherwise a connection with a round trip of 50 ms would seem to need that for every write."""
    outgoing = Outgoing(SLOTS_OF_KEYS)
    for key in KEYS:
        outgoing.changed(key)
    before = outgoing.rest_seconds(SLOTS_OF_KEYS, small)
    outgoing.measured(3000, 0.05)
    assert outgoing.rest_seconds(SLOTS_OF_KEYS, small) == before


def test_frames_pause_while_they_take_longer_than_usual() -> None:
    outgoing = Outgoing(SLOTS_OF_KEYS)
    assert outgoing.yields == 0
    outgoing.measured(MAX_BYTES, 0.02)
    outgoing.measured(MAX_BYTES, 0.04)
    assert outgoing.yields == 0, "another node sends as much"
    outgoing.measured(100, 0.14, MAX_WRITES)
    assert outgoing.yields == pytest.approx(0.1 * YIELD)
    outgoing.measured(MAX_BYTES, 60.0)
    assert outgoing.yields == MAX_YIELD
    outgoing.measured(100, 60.0, 1)
    assert outgoing.yields == 0, "a small frame says nothing"


def test_idle_slots_are_those_of_which_nothing_is_left_to_send() -> None:
    slot = slot_of(b"key")
    outgoing = Outgoing(range(max(0, slot - 1), slot + 2))
    outgoing.changed(b"key")
    assert outgoing.next_batch(served, idle=True) == [(slot - 1, slot - 1), (slot + 1, slot + 1)]
    assert outgoing.next_keys([slot], small) == [b"key"]
    assert outgoing.next_batch(served, idle=True) == [(slot - 1, slot + 1)]


def test_the_keys_that_the_destination_has_are_known_by_slot() -> None:
    slot = slot_of(b"key")
    outgoing = Outgoing({slot, slot_of(b"a")})
    outgoing.record_sent(b"key", Version(1, 1))
    outgoing.record_sent(b"a", Version(1, 2))
    assert outgoing.sent_writes(slot) == ((b"key", Version(1, 1)),)
    outgoing.record_sent(b"a", None)
    assert outgoing.sent(b"a") is None
    outgoing.handed_over({slot})
    assert outgoing.sent_writes(slot) == ()


def test_the_rest_is_shorter_the_faster_writes_are_confirmed() -> None:
    slot = slot_of(b"key")
    outgoing = Outgoing([slot])
    outgoing.changed(b"key")
    before = outgoing.rest_seconds([slot], small)
    outgoing.measured(10**9, 0.1)
    assert outgoing.rest_seconds([slot], small) < before


def test_only_slots_that_are_served_here_are_handed_over() -> None:
    outgoing = Outgoing({1, 2, 3, 5})
    assert outgoing.next_batch(lambda slot: slot in (2, 5)) == [(2, 2), (5, 5)]
    assert outgoing.next_batch(lambda slot: False) == []
