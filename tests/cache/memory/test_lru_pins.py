"""Entries that are pinned are not evicted, whatever the eviction order, within a share of the memory."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.eviction.policies import EVICTION_POLICIES, LRU, S3FIFO, S3FIFO_SIZE
from milena_cache.memory.lru import MAX_PINNED, PIN_SHARE, Memory
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry, cost_of
from milena_common.api.errors import FailedPrecondition

every = pytest.mark.parametrize("policy", EVICTION_POLICIES)
COST = ENTRY_OVERHEAD + 10 + 100


def entry(size: int = 100) -> Entry:
    return Entry(b"v" * size, '"e"', 0.0, 0)


def key(number: int) -> bytes:
    return b"key %06d" % number


def filled(policy: str, number: int = 400, room: int = 400) -> Memory:
    memory = Memory(10**6, room * COST, policy)
    for each in range(number):
        memory.store(key(each), entry())
    return memory


@every
def test_what_is_pinned_stays_and_what_is_unpinned_goes(policy: str) -> None:
    memory = filled(policy)
    for each in range(5):
        assert memory.pin(key(each))
        assert not memory.pin(key(each)), "it is pinned already"
    assert not memory.pin(b"not there")
    assert memory.pinned_bytes == 5 * COST
    for each in range(1000, 2500):
        memory.store(key(each), entry())
    assert all(key(each) in memory for each in range(5))
    assert policy != LRU or key(6) not in memory
    assert memory.bytes <= memory.max_bytes
    assert set(memory) == set(memory.newest_first()) == {each for part in memory.walk_keys() for each in part}
    for each in range(5):
        assert memory.unpin(key(each))
        assert not memory.unpin(key(each))
    assert memory.pinned_bytes == 0
    for each in range(3000, 4500):
        memory.store(key(each), entry())
    assert policy != LRU or not any(key(each) in memory for each in range(5))


@every
def test_no_more_than_a_share_can_be_pinned(policy: str) -> None:
    memory = filled(policy)
    for each in range(100):
        memory.pin(key(each))
    with pytest.raises(FailedPrecondition, match=r"bytes are pinned here, and .* 25% of LRU_BYTES"):
        memory.pin(key(100))
    memory.unpin(key(0))
    assert memory.pin(key(100))
    few = Memory(8, 10**9, policy)
    for each in range(8):
        few.store(key(each), entry())
    few.pin(key(0))
    few.pin(key(1))
    with pytest.raises(FailedPrecondition, match=r"2 entries are pinned here, and 2 at most .* 25% of LRU_SIZE"):
        few.pin(key(2))
    many = Memory(10**6, 10**9, policy)
    many.check_pins(MAX_PINNED, 0)
    with pytest.raises(FailedPrecondition, match=f"{MAX_PINNED} at most"):
        many.check_pins(MAX_PINNED + 1, 0)


@every
def test_a_pinned_entry_that_is_replaced_stays_pinned_while_there_is_room(policy: str) -> None:
    memory = filled(policy)
    memory.pin(key(0))
    memory.store(key(0), entry(50))
    assert memory.pinned_bytes == COST - 50
    memory.store(key(0), entry(120 * COST))
    assert memory.pinned_bytes == 0, "it does not fit into the share any more"
    assert key(0) in memory
    for each in range(1000, 2500):
        memory.store(key(each), entry())
    assert policy != LRU or key(0) not in memory


@every
def test_a_pinned_entry_that_is_removed_is_gone(policy: str) -> None:
    memory = filled(policy)
    memory.pin(key(0))
    memory.remove(key(0))
    assert (memory.pinned_bytes, memory.pinned) == (0, set())
    memory.store(key(0), entry())
    for each in range(1000, 2500):
        memory.store(key(each), entry())
    assert policy != LRU or key(0) not in memory, "the new entry is not pinned"


@every
def test_an_entry_that_does_not_fit_beside_what_is_pinned_is_not_kept(policy: str) -> None:
    memory = filled(policy)
    for each in range(100):
        memory.pin(key(each))
    assert not memory.store(b"large", entry(350 * COST))
    assert all(key(each) in memory for each in range(100))


@every
def test_pinned_keys_are_taken_out_of_the_order(policy: str) -> None:
    memory = filled(policy, 4000, 4000)
    for each in range(1000):
        memory.pin(key(each))
    looks = 0
    while memory.take_out_pinned():
        looks += 1
    assert looks <= 1000
    assert memory.unordered == memory.pinned


@every
def test_a_walk_visits_what_is_pinned_and_unpinned_meanwhile(policy: str) -> None:
    memory = filled(policy, 2000, 2000)
    for each in range(200):
        memory.pin(key(each))
    before = set(memory)
    visited: set[bytes] = set()
    number = 3000
    for part in memory.walk_keys():
        visited.update(part)
        for each in range(40):
            memory.unpin(key(each))
        for each in range(1900, 1940):
            if key(each) in memory:
                memory.pin(key(each))
        for _ in range(20):
            memory.store(key(number), entry())
            number += 1
    assert before & set(memory) <= visited


class PinMachine(RuleBasedStateMachine):
    """Against a plain dictionary: what is pinned is never evicted, and the bounds hold."""

    policy = LRU
    keys = st.integers(0, 11).map(key)

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(8, 6 * COST, self.policy)
        self.stored: dict[bytes, Entry] = {}
        self.pinned: set[bytes] = set()

    @rule(key=keys, size=st.integers(0, 5 * COST))
    def store(self, key: bytes, size: int) -> None:
        new = entry(size)
        if self.memory.store(key, new):
            self.stored[key] = new
        else:
            self.stored.pop(key, None)
        if key in self.pinned and self.memory.pinned_bytes == self.cost(self.pinned - {key}):
            self.pinned.discard(key)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        self.memory.get(key)

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.memory.remove(key)
        self.stored.pop(key, None)
        self.pinned.discard(key)

    @rule(key=keys)
    def pin(self, key: bytes) -> None:
        try:
            if self.memory.pin(key):
                self.pinned.add(key)
        except FailedPrecondition:
            assert self.memory.pinned_bytes + cost_of(key, self.stored[key]) > PIN_SHARE * 6 * COST or (
                len(self.pinned) >= PIN_SHARE * 8
            )

    @rule(key=keys)
    def unpin(self, key: bytes) -> None:
        assert self.memory.unpin(key) == (key in self.pinned)
        self.pinned.discard(key)

    @rule(size=st.integers(0, 3 * COST))
    def lend(self, size: int) -> None:
        self.memory.lend(size)
        self.memory.lend(-size)

    def cost(self, keys: set[bytes]) -> int:
        return sum(cost_of(each, self.stored[each]) for each in keys)

    @invariant()
    def what_is_pinned_is_there(self) -> None:
        memory = self.memory
        kept = set(memory)
        assert self.pinned == memory.pinned <= kept
        assert memory.unordered <= memory.pinned
        assert all(memory.peek(each) is self.stored[each] for each in kept)
        assert memory.bytes == self.cost(kept) <= memory.max_bytes
        assert memory.pinned_bytes == self.cost(self.pinned) <= memory.max_pinned_bytes
        assert len(memory) == len(kept) <= 8
        assert sorted(memory.newest_first()) == sorted(kept)
        assert {each for part in memory.walk_keys() for each in part} == kept


class S3FifoPinMachine(PinMachine):
    policy = S3FIFO


class S3FifoSizePinMachine(PinMachine):
    policy = S3FIFO_SIZE


TestLruPins = PinMachine.TestCase
TestS3FifoPins = S3FifoPinMachine.TestCase
TestS3FifoSizePins = S3FifoSizePinMachine.TestCase
