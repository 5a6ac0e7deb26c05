"""The LRU by entries and bytes, alone and against a model."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.memory.lru import ENTRY_OVERHEAD, Entry, Memory


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


class MemoryMachine(RuleBasedStateMachine):
    """Against a plain ordered dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(max_entries=5, max_bytes=4 * (ENTRY_OVERHEAD + 50))
        self.model: OrderedDict[bytes, Entry] = OrderedDict()

    keys = st.sampled_from([b"a", b"bb", b"ccc", b"d", b"e", b"f", b"g"])

    def cost(self) -> int:
        return sum(len(key) + kept.size + ENTRY_OVERHEAD for key, kept in self.model.items())

    @rule(key=keys, size=st.integers(0, 6 * ENTRY_OVERHEAD) | st.none())
    def put(self, key: bytes, size: int | None) -> None:
        new = entry(None if size is None else b"x" * size)
        kept = self.memory.store(key, new)
        self.model.pop(key, None)
        assert kept == (len(key) + new.size + ENTRY_OVERHEAD <= self.memory.max_bytes)
        if kept:
            self.model[key] = new
            while len(self.model) > 5 or self.cost() > self.memory.max_bytes:
                self.model.popitem(last=False)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.memory.get(key) is self.model.get(key)
        if key in self.model:
            self.model.move_to_end(key)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.memory.remove(key)
        self.model.pop(key, None)

    @invariant()
    def sums_are_right(self) -> None:
        assert len(self.memory) == len(self.model)
        assert self.memory.bytes == self.cost()


TestMemory = MemoryMachine.TestCase
