"""S3-FIFO: what passes through the small queue only, and what stays."""

from __future__ import annotations

import pytest

from milena_cache.eviction.order import SECOND_CHANCES
from milena_cache.eviction.policies import S3FIFO, S3FIFO_SIZE
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry

both = pytest.mark.parametrize("policy", [S3FIFO, S3FIFO_SIZE])


def read(memory: Memory, *keys: bytes, size: int = 0) -> int:
    """Read `keys`, in order, and store those that are not there; return how many were."""
    hits = 0
    for key in keys:
        if memory.get(key) is not None:
            hits += 1
        else:
            memory.store(key, Entry(b"x" * size, "", 0.0, 0))
    return hits


def named(prefix: bytes, number: int) -> list[bytes]:
    return [prefix + b"%d" % each for each in range(number)]


@both
def test_a_scan_leaves_what_was_used_alone(policy: str) -> None:
    memory = Memory(100, 10**9, policy)
    hot = named(b"hot", 50)
    for _ in range(4):
        read(memory, *hot)
    for scan in range(5):
        read(memory, *named(b"scan%d-" % scan, 1000))
        assert read(memory, *hot) == 50


def test_one_use_in_the_small_queue_is_not_enough() -> None:
    memory = Memory(100, 10**9, S3FIFO)
    read(memory, *named(b"filling", 100))
    read(memory, b"once", b"twice")
    read(memory, b"once", b"twice", b"twice")
    read(memory, *named(b"others", 50))
    assert memory.peek(b"once") is None
    assert memory.peek(b"twice") is not None


@both
def test_a_key_that_comes_back_soon_after_its_eviction_stays(policy: str) -> None:
    memory = Memory(100, 10**9, policy)
    for _ in range(4):
        read(memory, *named(b"hot", 100))
    read(memory, b"back", *named(b"a", 50))
    assert memory.peek(b"back") is None
    read(memory, b"back", *named(b"b", 50))
    assert memory.peek(b"back") is not None


def test_before_the_first_eviction_both_queues_fill() -> None:
    memory = Memory(100, 10**9, S3FIFO)
    read(memory, *named(b"first", 100))
    read(memory, *named(b"scan", 500))
    # Nobody has used them, but the scan had only a tenth to pass through.
    assert sum(memory.peek(key) is not None for key in named(b"first", 100)) == 90


@both
def test_a_large_entry_is_kept_the_second_time(policy: str) -> None:
    memory = Memory(10**6, 10**6, policy)
    size = 10**4 + 1 - ENTRY_OVERHEAD
    assert not memory.store(b"large", Entry(b"x" * size, "", 0.0, 0))
    assert (len(memory), memory.bytes, memory.not_admitted) == (0, 0, 1)
    assert memory.store(b"large", Entry(b"x" * size, "", 0.0, 0))
    assert memory.store(b"large", Entry(b"y" * size, "", 0.0, 0)), "it is replaced"
    memory.remove(b"large")
    assert memory.store(b"small", Entry(b"x" * (size - 100), "", 0.0, 0))


@both
def test_a_large_entry_that_is_not_kept_is_announced(policy: str) -> None:
    memory = Memory(10**6, 10**6, policy)
    changed: list[bytes] = []
    memory.change_feed.on_change = changed.append
    memory.store(b"large", Entry(b"x" * 10**5, "", 0.0, 0))
    assert changed == [b"large"]


@both
def test_one_store_passes_over_a_bounded_number_of_used_entries(policy: str) -> None:
    number = 2 * SECOND_CHANCES
    memory = Memory(number, 10**9, policy)
    for _ in range(5):
        read(memory, *named(b"", number))
    read(memory, b"new")
    assert len(memory) == number
    passed_over = sum(memory.entries[key].uses < 3 for key in named(b"", number) if key in memory)
    assert passed_over <= SECOND_CHANCES


def test_by_size_many_small_entries_stay_rather_than_a_large_one() -> None:
    memory = Memory(10**6, 100 * (ENTRY_OVERHEAD + 1000), S3FIFO_SIZE)
    for _ in range(3):
        read(memory, *named(b"small", 90), size=100)
        read(memory, *named(b"large", 10), size=900)
    for each in range(20):
        read(memory, *named(b"more%d-" % each, 20), size=500)
        read(memory, *named(b"small", 90), size=100)
        read(memory, *named(b"large", 10), size=900)
    small = sum(memory.peek(key) is not None for key in named(b"small", 90))
    large = sum(memory.peek(key) is not None for key in named(b"large", 10))
    assert small == 90
    assert small / 90 >= large / 10
