"""The events of a sample of the keys, and that entries of other keys stay plain ones."""

from __future__ import annotations

from milena_cache.memory.lru import Memory
from milena_cache.memory.read_samples import (
    ABSENT,
    ALL_KEYS,
    DROPPED,
    MAX_EVENTS,
    READ,
    STORED,
    sample_number,
)
from milena_cache.objects.entry import Entry, ExpiringEntry, SampledEntry, entry_of

KEYS = [b"key/%d" % number for number in range(400)]


def entry(value: bytes | None = b"value") -> Entry:
    return Entry(value, '"etag"', 1.0, 7)


def test_without_a_sample_nothing_is_recorded() -> None:
    memory = Memory(100, 10**6)
    memory.store(b"a", entry())
    memory.samples.dropped(b"a")
    assert type(memory.peek(b"a")) is Entry
    assert memory.samples.events == []


def test_entries_of_the_sample_are_marked_and_recorded() -> None:
    memory = Memory(1000, 10**6)
    memory.samples.threshold = ALL_KEYS // 4
    for key in KEYS:
        memory.store(key, entry())
    sampled = [key for key in KEYS if type(memory.peek(key)) is SampledEntry]
    assert len(KEYS) / 8 < len(sampled) < len(KEYS) / 2
    assert sampled == [key for key in KEYS if sample_number(hash(key)) < ALL_KEYS // 4]
    assert memory.samples.take_events() == [(STORED, hash(key), len(key), 5) for key in sampled]
    found = memory.peek(sampled[0])
    assert found is not None
    assert (found.value, found.etag, found.stamp) == (b"value", '"etag"', (1.0, 7))
    memory.read_sampled(sampled[0], found)
    memory.samples.dropped(sampled[1])
    assert memory.samples.take_events() == [
        (READ, hash(sampled[0]), len(sampled[0]), 5),
        (DROPPED, hash(sampled[1]), len(sampled[1]), ABSENT),
    ]
    assert memory.samples.events == []


def test_an_entry_of_no_kind_of_its_own_is_recorded_by_its_key() -> None:
    memory = Memory(10, 10**6)
    memory.samples.threshold = ALL_KEYS
    memory.store(b"a", entry_of(b"v", "", 1.0, 0, 99.0))
    memory.store(b"b", entry(None))
    found = memory.peek(b"a")
    assert type(found) is ExpiringEntry
    memory.read_sampled(b"a", found)
    assert [event[0::3] for event in memory.samples.take_events()] == [(STORED, 1), (STORED, ABSENT), (READ, 1)]


def test_when_the_sample_becomes_smaller_a_read_makes_the_entry_plain() -> None:
    memory = Memory(10, 10**6)
    memory.samples.threshold = ALL_KEYS
    memory.store(b"a", entry())
    found = memory.get(b"a")
    assert found is not None
    memory.samples.take_events()
    memory.samples.threshold = 0
    memory.read_sampled(b"a", found)
    plain = memory.peek(b"a")
    assert type(plain) is Entry
    assert (plain.value, plain.etag, plain.stamp, plain.uses) == (found.value, found.etag, found.stamp, found.uses)
    assert memory.samples.events == []
    memory.store(b"a", entry(b"new"))
    memory.read_sampled(b"a", found)
    now = memory.peek(b"a")
    assert now is not None
    assert now.value == b"new", "an entry that is not there any more replaces none"


def test_events_are_bounded() -> None:
    memory = Memory(10, 10**6)
    memory.samples.threshold = ALL_KEYS
    for number in range(MAX_EVENTS + 5):
        memory.samples.dropped(b"%d" % number)
    assert len(memory.samples.events) == MAX_EVENTS
    assert memory.samples.lost == 5
