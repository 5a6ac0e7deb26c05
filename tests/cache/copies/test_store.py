"""The table of copies, compared with a dictionary: what it has, what is confirmed, and the bytes that it counts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.copies.store import Copy, CopyStore, keeping_of
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import KEEPING_FREE
from milena_common.cluster.slots import SLOTS, slot_of

KEYS = [b"{a}1", b"{a}2", b"{b}1", b"c"]


class Table(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = CopyStore(10**6, 10**6)
        self.has: dict[bytes, tuple[Copy, bool]] = {}
        self.number = 0

    @rule(key=st.sampled_from(KEYS), size=st.integers(0, 99), confirmed=st.booleans())
    def put(self, key: bytes, size: int, confirmed: bool) -> None:
        self.number += 1
        copy = Copy(Version(1, self.number), self.number, size)
        before = self.store.put_copy(key, copy, confirmed=confirmed)
        assert before == self.has.get(key, (None, False))[0]
        self.has[key] = copy, confirmed

    @rule(key=st.sampled_from(KEYS))
    def pop(self, key: bytes) -> None:
        assert self.store.pop_copy(key) == self.has.pop(key, (None, False))[0]

    @rule(key=st.sampled_from(KEYS))
    def confirm(self, key: bytes) -> None:
        self.store.confirm(key)
        if key in self.has:
            self.has[key] = self.has[key][0], True

    @rule(key=st.sampled_from(KEYS), every=st.booleans())
    def begin(self, key: bytes, every: bool) -> None:
        slots = (0, SLOTS - 1) if every else (slot_of(key), slot_of(key))
        self.store.begin_slots(*slots)
        for each, (copy, _) in self.has.items():
            if slots[0] <= slot_of(each) <= slots[1]:
                self.has[each] = copy, False

    @rule(key=st.sampled_from(KEYS))
    def detach(self, key: bytes) -> None:
        slot = slot_of(key)
        found = {each: copy for table in self.store.detach([slot]) for each, copy in table.items()}
        assert found == {each: copy for each, (copy, _) in self.has.items() if slot_of(each) == slot}
        self.has = {each: copy for each, copy in self.has.items() if slot_of(each) != slot}

    @rule(key=st.sampled_from(KEYS))
    def doubt(self, key: bytes) -> None:
        self.store.doubt(slot_of(key))
        for each, (copy, confirmed) in self.has.items():
            if slot_of(each) == slot_of(key):
                self.has[each] = copy._replace(sure=False), confirmed

    @invariant()
    def it_has_what_was_put(self) -> None:
        assert len(self.store) == len(self.has)
        assert {key: self.store.get(key) for key in KEYS} == {key: self.has.get(key, (None, 0))[0] for key in KEYS}
        assert {key for key in KEYS if self.store.is_confirmed(key)} == {
            key for key in self.has if self.has[key][1]
        }
        unconfirmed = {key for key in self.has if not self.has[key][1]}
        assert set(self.store.unconfirmed(0, SLOTS - 1)) == unconfirmed
        assert self.store.slots == sorted({*map(slot_of, self.has)})
        assert {key for slot in self.store.slots for key, _ in self.store.in_slot(slot)} == self.has.keys()

    @invariant()
    def its_bytes_are_those_of_its_copies(self) -> None:
        assert self.store.keeping_bytes == sum(map(keeping_of, self.has))
        assert self.store.bytes == self.store.keeping_bytes + sum(copy.size for copy, _ in self.has.values())


Table.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
test_the_table_has_what_a_dictionary_has = Table.TestCase


def test_copies_have_a_budget_of_bytes_and_one_of_memory() -> None:
    store = CopyStore(1000, 0)
    assert store.has_room(1000, 1000)
    assert not store.has_room(1001, 0)
    assert not CopyStore(10**9, 0).has_room(KEEPING_FREE + 1, KEEPING_FREE + 1)
