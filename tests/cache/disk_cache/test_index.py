"""The index: as a dictionary, in a tenth of its memory."""

from __future__ import annotations

import tracemalloc
from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.disk_cache.index import Found, Index

# Few hashes, in few buckets and in many, so that they meet.
HASHES = st.one_of(st.integers(0, 40), st.integers(0, 40).map(lambda n: n << 8), st.integers(0, 2**64 - 1))
NUMBERS = st.integers(1, 2**32 - 1)


class IndexMachine(RuleBasedStateMachine):
    """The index beside a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.model: dict[int, Found] = {}

    @rule(hash_=HASHES, version=st.integers(0, 2**64 - 1), numbers=st.tuples(*[NUMBERS] * 4))
    def put(self, hash_: int, version: int, numbers: tuple[int, ...]) -> None:
        number, offset, length, confirmed = numbers
        self.index.put_entry(hash_, version, number, offset, length, confirmed, number)
        self.model[hash_] = Found(version, number, offset, length, confirmed, number, used=False)

    @rule(first=st.integers(0, 2**64 - 1), count=st.integers(1, 400))
    def put_many(self, first: int, count: int) -> None:
        for each in range(count):
            self.put(first + each & 2**64 - 1, 1, (1, 2, 3, 4))

    @rule(hash_=HASHES)
    def remove(self, hash_: int) -> None:
        assert self.index.remove_key(hash_) == (self.model.pop(hash_, None) is not None)

    @rule(hash_=HASHES, same=st.booleans(), confirmed=NUMBERS)
    def confirm(self, hash_: int, same: bool, confirmed: int) -> None:
        found = self.model.get(hash_)
        version = (found.version if found is not None else 0) + (not same) & 2**64 - 1
        assert self.index.confirm(hash_, version, confirmed, 9) == (same and found is not None)
        if found is not None:
            del self.model[hash_]
            if same:
                self.model[hash_] = found._replace(confirmed=confirmed, owned_since=9)

    @rule(hash_=HASHES)
    def mark_used(self, hash_: int) -> None:
        self.index.mark_used(hash_)
        if hash_ in self.model:
            self.model[hash_] = self.model[hash_]._replace(used=True)

    @rule(hash_=HASHES, right=st.booleans())
    def remove_at(self, hash_: int, right: bool) -> None:
        found = self.model.get(hash_)
        if found is not None:
            offset = found.offset if right else found.offset + 1
            assert self.index.remove_at(hash_, found.number, offset) == (found if right else None)
            if right:
                del self.model[hash_]

    @rule(number=NUMBERS)
    def remove_segment(self, number: int) -> None:
        bucket = 0
        while self.index.remove_segment(number, bucket):
            bucket += 1
        self.model = {hash_: found for hash_, found in self.model.items() if found.number != number}

    @invariant()
    def is_the_same(self) -> None:
        assert len(self.index) == len(self.model)
        for hash_, found in self.model.items():
            assert self.index.find_entry(hash_) == found


IndexMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestIndex = IndexMachine.TestCase


def test_numbers_that_have_no_room_are_as_unknown() -> None:
    index = Index()
    for confirmed, owned_since in ((2**32, 1), (5, 2**62), (-1, 1), (5, -1)):
        index.put_entry(1, 2, 3, 4, 5, confirmed, owned_since)
        assert index.find_entry(1) == Found(2, 3, 4, 5, 0, 0, used=False)


def test_what_an_earlier_process_left_is_unconfirmed_and_does_not_hide_what_is_newer() -> None:
    index = Index()
    index.put_entry(1, 2, 9, 4, 5, 77, 8)
    index.add_unconfirmed(array("Q", (1, 6, 40 << 32 | 50, 7, 8, 60 << 32 | 70)), 0, 6, 3)
    assert index.find_entry(1) == Found(2, 9, 4, 5, 77, 8, used=False)
    assert index.find_entry(7) == Found(8, 3, 60, 70, 0, 0, used=False)
    # Of several entries of one key, all are dropped, and a confirmation leaves one.
    assert index.confirm(1, 2, 78, 8)
    assert len(index) == 2
    index.add_unconfirmed(array("Q", (1, 6, 40 << 32 | 50)), 0, 3, 3)
    assert index.remove_key(1)
    assert index.find_entry(1) is None


def test_many_that_an_earlier_process_left_are_all_found_with_and_without_room_reserved() -> None:
    hashes = [number * 0x9E3779B97F4A7C15 & 2**64 - 1 for number in range(20_000)]
    rows = array("Q", (number for hash_ in hashes for number in (hash_, 6, 40 << 32 | 50)))
    for reserved in (0, len(hashes)):
        index = Index()
        index.reserve(reserved)
        index.add_unconfirmed(rows, 0, 3 * 9000, 3)
        index.add_unconfirmed(rows, 3 * 9000, len(rows), 3)
        assert len(index) == len(hashes)
        assert all(index.find_entry(hash_) == Found(6, 3, 40, 50, 0, 0, used=False) for hash_ in hashes)
        for hash_ in hashes:
            assert index.remove_at(hash_, 3, 40) is not None
        assert len(index) == 0


def test_an_entry_takes_less_than_100_bytes_at_any_number() -> None:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    index, worst = Index(), 0.0
    try:
        for number in range(1, 60_001):
            # A number of its own for each, as hashes are.
            index.put_entry(number * 0x9E3779B97F4A7C15 & 2**64 - 1, 1, 1, 1, 1, 1, 1)
            if number > 20_000 and number % 4000 == 0:
                worst = max(worst, (tracemalloc.get_traced_memory()[0] - before) / number)
    finally:
        tracemalloc.stop()
    assert 40 < worst < 60
