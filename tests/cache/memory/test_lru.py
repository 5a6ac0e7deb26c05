"""The LRU by entries and bytes, alone and against a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.eviction.order import SECOND_CHANCES
from milena_cache.eviction.policies import LRU, S3FIFO, S3FIFO_SIZE
from milena_cache.memory.lru import MIN_GONE, Memory
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry

MAX_BYTES = 4 * (ENTRY_OVERHEAD + 50)


def entry(value: bytes | None) -> Entry:
    return Entry(value, '"e"', 0.0, 0)


@given(st.text(max_size=80) | st.from_regex(r'"[0-9a-f]{32}(-[0-9]{1,4})?"', fullmatch=True))
def test_an_etag_comes_back_as_it_was(etag: str) -> None:
    assert Entry(b"", etag, 0.0, 0).etag == etag


def test_the_least_recently_used_goes_first_and_is_counted_by_reason() -> None:
    memory = Memory(max_entries=2, max_bytes=10**6)
    memory.store(b"a", entry(b"1"))
    memory.store(b"b", entry(b"2"))
    memory.get(b"a")
    memory.store(b"c", entry(b"3"))
    assert [key for key in (b"a", b"b", b"c") if memory.get(key)] == [b"a", b"c"]
    assert memory.evictions == {"entries": 1, "bytes": 0}


def test_bytes_count_what_an_entry_costs() -> None:
    memory = Memory(max_entries=100, max_bytes=2 * (ENTRY_OVERHEAD + 11))
    memory.store(b"a", entry(b"x" * 10))
    memory.store(b"b", entry(b"x" * 10))
    assert memory.bytes == memory.max_bytes
    memory.store(b"c", entry(None))
    assert memory.get(b"a") is None
    assert memory.evictions == {"entries": 0, "bytes": 1}


@pytest.mark.parametrize("max_bytes", [0, ENTRY_OVERHEAD + 10])
def test_an_entry_over_the_whole_budget_is_not_kept_and_pushes_nothing_out(max_bytes: int) -> None:
    memory = Memory(max_entries=10, max_bytes=max_bytes)
    assert not memory.store(b"a", entry(b"x" * 10))
    assert (len(memory), memory.bytes, sum(memory.evictions.values())) == (0, 0, 0)


def test_a_use_is_a_second_chance_and_no_third() -> None:
    memory = Memory(max_entries=3, max_bytes=10**6)
    for key in (b"a", b"b", b"c"):
        memory.store(key, entry(b""))
    memory.get(b"a")
    for key in (b"d", b"e", b"f"):
        memory.store(key, entry(b""))
    assert sorted(memory) == [b"d", b"e", b"f"]


def test_a_look_is_no_use() -> None:
    memory = Memory(max_entries=2, max_bytes=10**6)
    memory.store(b"a", entry(b""))
    memory.store(b"b", entry(b""))
    assert memory.peek(b"a") is not None
    memory.store(b"c", entry(b""))
    assert sorted(memory) == [b"b", b"c"]


def test_one_store_passes_over_a_bounded_number_of_used_entries() -> None:
    number = SECOND_CHANCES + 500
    memory = Memory(max_entries=number, max_bytes=10**9)
    for each in range(number):
        memory.store(b"%d" % each, entry(b""))
        memory.get(b"%d" % each)
    memory.store(b"new", entry(b""))
    assert b"%d" % SECOND_CHANCES not in memory
    assert len(memory) == number


def test_removed_keys_do_not_pile_up() -> None:
    memory = Memory(max_entries=10**6, max_bytes=10**9)
    for each in range(100):
        memory.store(b"kept %d" % each, entry(b""))
    for each in range(10 * MIN_GONE):
        key = b"%d" % each
        memory.store(key, entry(b""))
        memory.remove(key)
        assert len(memory.entries) <= 2 * MIN_GONE
    assert len(memory) == 100
    for _ in range(10 * MIN_GONE):
        memory.store(b"again", entry(b""))
        memory.remove(b"again")
    assert len(memory.entries) <= 2 * MIN_GONE


def test_the_keys_that_were_used_come_first() -> None:
    memory = Memory(max_entries=10, max_bytes=10**6)
    for key in (b"a", b"b", b"c", b"d"):
        memory.store(key, entry(b""))
    memory.get(b"b")
    memory.remove(b"c")
    assert list(memory.newest_first()) == [b"b", b"d", b"a"]


class MemoryMachine(RuleBasedStateMachine):
    """Against a plain dictionary of what was stored and not evicted, with any eviction order."""

    policy = LRU
    # The bytes of an entry from which on it may not be admitted.
    large = MAX_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(5, MAX_BYTES, self.policy)
        self.model: dict[bytes, Entry] = {}
        self.evicted = 0

    keys = st.sampled_from([b"a", b"bb", b"ccc", b"d", b"e", b"f", b"g"])

    def cost(self) -> int:
        return sum(len(key) + kept.size + ENTRY_OVERHEAD for key, kept in self.model.items())

    @rule(key=keys, size=st.integers(0, 6 * ENTRY_OVERHEAD) | st.none())
    def put(self, key: bytes, size: int | None) -> None:
        new = entry(None if size is None else b"x" * size)
        cost = len(key) + new.size + ENTRY_OVERHEAD
        kept = self.memory.store(key, new)
        if key in self.model or cost <= self.large:
            assert kept == (cost <= self.memory.max_bytes)
        if not kept:
            if self.model.pop(key, None) is not None:
                self.clear(key)  # it may have kept its place, as one that was removed
            return
        before = dict(self.model)
        self.model[key] = new
        assert self.memory.peek(key) is new
        gone = [each for each in self.model if self.memory.peek(each) is None]
        # The last of them was needed to get within the bounds.
        largest = max((len(each) + self.model[each].size + ENTRY_OVERHEAD for each in gone), default=0)
        for each in gone:
            del self.model[each]
        if gone:
            assert len(self.model) + 1 > 5 or self.cost() + largest > self.memory.max_bytes
            self.evicted += len(gone)
        self.check_order(key, gone, before)

    def clear(self, key: bytes) -> None:
        """The entry is there no more, and its key may have kept its place in the order."""

    def check_order(self, stored: bytes, gone: list[bytes], before: dict[bytes, Entry]) -> None:
        """Check what this eviction order says of those that are gone."""

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.memory.get(key) is self.model.get(key)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.memory.remove(key)
        self.model.pop(key, None)

    @invariant()
    def sums_are_right(self) -> None:
        assert len(self.memory) == len(self.model) <= 5
        assert set(self.memory) == set(self.memory.newest_first()) == set(self.model)
        assert self.memory.bytes == self.cost() <= self.memory.max_bytes
        assert sum(self.memory.evictions.values()) == self.evicted


class LruMachine(MemoryMachine):
    """With all uses that were ever made of entries: ever, and since the last eviction."""

    def __init__(self) -> None:
        super().__init__()
        self.ever_used: set[bytes] = set()
        self.used_lately: set[bytes] = set()
        self.removed: set[bytes] = set()

    def use(self, key: bytes) -> None:
        self.ever_used.add(key)
        self.used_lately.add(key)

    def clear(self, key: bytes) -> None:
        self.removed.add(key)
        self.ever_used.discard(key)
        self.used_lately.discard(key)

    def check_order(self, stored: bytes, gone: list[bytes], before: dict[bytes, Entry]) -> None:
        if stored in before:
            self.use(stored)
        elif stored in self.removed:
            self.ever_used.add(stored)  # it may have its old place, and then it counts as used
        for each in gone:
            # Used since the last eviction: then so was every other entry, at some time.
            others = set(self.memory) - {stored}
            assert each not in self.used_lately or others <= self.ever_used
        for each in gone:
            self.clear(each)
        if gone:
            self.used_lately.clear()

    @rule(key=MemoryMachine.keys)
    def get(self, key: bytes) -> None:
        super().get(key)
        if key in self.model:
            self.use(key)

    @rule(key=MemoryMachine.keys)
    def remove(self, key: bytes) -> None:
        super().remove(key)
        self.clear(key)

    @rule(key=MemoryMachine.keys)
    def put_too_large(self, key: bytes) -> None:
        assert not self.memory.store(key, entry(b"x" * MAX_BYTES))
        self.model.pop(key, None)
        self.clear(key)


class S3FifoMachine(MemoryMachine):
    policy = S3FIFO
    large = 0


class S3FifoSizeMachine(MemoryMachine):
    policy = S3FIFO_SIZE
    large = 0


TestLru = LruMachine.TestCase
TestS3Fifo = S3FifoMachine.TestCase
TestS3FifoSize = S3FifoSizeMachine.TestCase
