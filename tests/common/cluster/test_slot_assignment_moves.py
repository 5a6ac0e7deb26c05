"""Slots that are handed over: what becomes pending, who gets a slot whose move loses a side, and how moves end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_common.cluster.slot_assignment import Member, PlanChange, Ring
from milena_common.cluster.slot_moves import shares
from milena_common.cluster.slot_runs import Run, overlaps, without
from milena_common.cluster.slots import SLOTS

A, B, C, D = (Member(f"{name}:1") for name in "abcd")


def ring_of(*members: Member) -> Ring:
    return Ring.empty().with_members(members, 2, moving=True)


def slots_of(runs: Iterable[Run]) -> dict[int, tuple[str, int]]:
    return {slot: (run.address, run.owned_since) for run in runs for slot in range(run.first, run.last + 1)}


def joining() -> Ring:
    """A and B hand slots over to C since epoch 3."""
    return ring_of(A, B).with_members([A, B, C], 3, moving=True)


def test_slots_without_an_owner_are_owned_at_once() -> None:
    ring = ring_of(A, B)
    assert ring.pending == ()
    assert ring.slots_by_node() == {A.address: 8192, B.address: 8192}


def test_a_join_makes_slots_pending_and_changes_no_owner() -> None:
    ring = joining()
    assert ring.ranges() == ring_of(A, B).ranges()
    pending = slots_of(ring.pending)
    assert set(pending.values()) == {(C.address, 3)}
    assert len(pending) == SLOTS // 3
    assert not ring.is_balanced()


def test_nodes_that_hand_nothing_over_change_owners_at_once() -> None:
    ring = ring_of(A, B).with_members([A, B, C], 3)
    assert ring.pending == ()
    assert ring.slots_by_node()[C.address] == SLOTS // 3


def test_a_slot_that_was_taken_belongs_to_its_destination_since_the_planned_epoch() -> None:
    ring = joining()
    (move,) = ring.pending
    first = move._replace(last=move.first + 99)
    after = ring.with_taken(C.address, [first], 4)
    assert after is not None
    assert after.epoch == 4
    assert slots_of(after.ranges())[first.last] == (C.address, 3)
    assert after.pending == (move._replace(first=first.last + 1),)
    rest = after.with_taken(C.address, after.pending, 5)
    assert rest is not None
    assert rest.is_balanced()


@pytest.mark.parametrize(
    ("node", "change"),
    [
        (B.address, lambda run: run),
        (C.address, lambda run: run._replace(owned_since=2)),
        (C.address, lambda run: Run(16000, 16383, C.address, 3)),
    ],
    ids=["of another node", "since another epoch", "of slots that are not pending"],
)
def test_reports_that_fit_no_move_count_for_nothing(node: str, change) -> None:  # type: ignore[no-untyped-def]
    ring = joining()
    first = ring.pending[0]._replace(last=ring.pending[0].first + 9)
    assert ring.with_taken(node, [change(first)], 4) is None


def test_of_a_status_the_part_that_is_pending_counts() -> None:
    ring = joining()
    first = ring.pending[0]
    after = ring.with_taken(C.address, [Run(0, first.first + 4, C.address, 3)], 4)
    assert after is not None
    assert after.slots_by_node()[C.address] == 5
    assert after.pending[0] == first._replace(first=first.first + 5)


def test_a_destination_that_is_lost_leaves_the_slots_to_their_owners_since_the_new_epoch() -> None:
    ring = joining()
    pending = slots_of(ring.pending)
    after = ring.with_members([A, B], 4, moving=True)
    assert after.pending == ()
    for slot, (owner, since) in slots_of(after.ranges()).items():
        assert (owner, since) == (ring.owner(slot), 4 if slot in pending else 2)


def test_an_owner_that_is_lost_leaves_the_slots_to_their_destination() -> None:
    ring = joining()
    to_c = {slot for slot in slots_of(ring.pending) if ring.owner(slot) == A.address}
    after = ring.with_members([B, C], 4, moving=True)
    now = slots_of(after.ranges())
    assert {now[slot] for slot in to_c} == {(C.address, 4)}
    assert all(after.owner(slot) in (B.address, C.address) for slot in range(SLOTS))
    still = slots_of(after.pending)
    assert {slot for slot in slots_of(ring.pending) if ring.owner(slot) == B.address} <= still.keys()


def test_a_process_that_was_replaced_is_a_lost_side() -> None:
    ring = joining()
    to_c = slots_of(ring.pending)
    for renewed, gets in ((A, C.address), (C, None)):
        after = ring.with_members([A, B, C], 4, renewed=[renewed.address], moving=True)
        now = slots_of(after.ranges())
        for slot in to_c:
            if renewed is C or ring.owner(slot) == A.address:
                assert now[slot] == (gets or ring.owner(slot), 4)
        assert not any(ring.owner(slot) == renewed.address for slot in slots_of(after.pending))


def test_when_both_sides_are_lost_others_get_the_slots() -> None:
    ring = joining()
    after = ring.with_members([B], 4, moving=True)
    assert after.slots_by_node() == {B.address: SLOTS}
    assert after.pending == ()


def test_a_pending_slot_keeps_its_destination_and_moves_on_when_that_has_it() -> None:
    ring = joining()
    before = slots_of(ring.pending)
    both = ring.with_members([A, B, C, D], 4, moving=True)
    pending = slots_of(both.pending)
    assert all(pending[slot] == where for slot, where in before.items())
    assert {pending[slot] for slot in pending.keys() - before.keys()} == {(D.address, 4)}
    after = both.with_taken(C.address, [run for run in both.pending if run.address == C.address], 5)
    assert after is not None
    after = after.with_taken(D.address, after.pending, 6)
    assert after is not None
    assert not after.is_balanced(), "D gets its part of the slots of C now"
    last = after.with_members(after.members, 7, moving=True)
    assert set(slots_of(last.pending).values()) == {(D.address, 7)}
    moved = len(slots_of(last.pending)) + len(pending.keys() - before.keys())
    assert moved == SLOTS // 4, "no slot moved to D more than necessary"


def test_a_leaving_member_gets_nothing_and_gives_all_away_while_it_owns_it() -> None:
    ring = ring_of(A, B, C)
    after = ring.with_members([A, B, C], 3, moving=True, change=PlanChange(leaving=[B.address]))
    assert after.ranges() == ring.ranges()
    assert slots_of(after.pending).keys() == {slot for slot in range(SLOTS) if ring.owner(slot) == B.address}
    for node in (A, C):
        taken = after.with_taken(node.address, after.pending, after.epoch + 1)
        assert taken is not None
        after = taken
    assert after.slots_by_node()[B.address] == 0
    assert after.is_balanced([B.address])
    assert after.with_members([A, C], 9, moving=True).ranges() == after.ranges()


def test_members_that_all_leave_keep_their_slots() -> None:
    ring = ring_of(A, B)
    after = ring.with_members([A, B], 3, moving=True, change=PlanChange(leaving=[A.address, B.address]))
    assert after.pending == ()
    assert after.ranges() == ring.ranges()


def test_a_node_that_hands_nothing_over_ends_all_moves_at_once() -> None:
    ring = joining()
    after = ring.with_members([A, B, C, D], 4)
    assert after.pending == ()
    assert set(after.slots_by_node().values()) == {SLOTS // 4}
    owned = slots_of(after.ranges())
    assert {owned[slot][1] for slot in slots_of(ring.pending)} == {4}


def test_the_successor_of_a_pending_slot_is_its_destination() -> None:
    ring = joining()
    lost = ring.with_members([B, C], 4, moving=True)
    for slot in range(0, SLOTS, 7):
        if ring.owner(slot) == A.address:
            assert ring.successor(slot) == lost.owner(slot)


def test_a_restored_ring_has_the_same_moves() -> None:
    ring = joining()
    restored = Ring.restored(ring.epoch, ring.members, ring.ranges(), ring.pending)
    assert restored.pending == ring.pending
    after, expected = (each.with_members([A, C], 5, moving=True) for each in (restored, ring))
    assert (after.ranges(), after.pending) == (expected.ranges(), expected.pending)


@pytest.mark.parametrize(
    "move",
    [
        Run(0, 9, "absent:1", 3),
        Run(0, 9, A.address, 3),
        Run(0, 9, B.address, 2),
        Run(0, 9, B.address, 4),
    ],
    ids=["to no member", "to its owner", "since no later epoch", "since a future epoch"],
)
def test_moves_that_cannot_be_are_rejected(move: Run) -> None:
    ring = ring_of(A, B)
    with pytest.raises(ValueError, match="slots 0 to 9 move"):
        Ring.restored(3, ring.members, ring.ranges(), [move])


def test_overlaps_and_remainders() -> None:
    some, others = [Run(0, 9, "a", 1), Run(20, 29, "b", 1)], [Run(5, 22, "c", 2), Run(25, 26, "d", 2)]
    assert [part[:2] for part in overlaps(some, others)] == [(5, 9), (20, 22), (25, 26)]
    assert without(some, [(5, 22)]) == [Run(0, 4, "a", 1), Run(23, 29, "b", 1)]


ADDRESSES = st.sampled_from([f"10.0.0.{number}:1" for number in range(6)])


class Moves(RuleBasedStateMachine):
    """Joins, losses, restarts, leaves and reports in any order, compared slot by slot with the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring.empty()
        self.members: dict[str, Member] = {}
        self.leaving: set[str] = set()

    def change(self, renewed: Iterable[str] = ()) -> None:
        old, gone = self.ring, {each.address for each in self.ring.members} - self.members.keys()
        lost = gone | set(renewed)
        leaving = self.leaving = self.leaving & self.members.keys()
        self.ring = old.with_members(
            self.members.values(), old.epoch + 1, renewed=renewed, moving=True, change=PlanChange(leaving)
        )
        before, pending = slots_of(old.ranges()), slots_of(old.pending)
        now, still = slots_of(self.ring.ranges()), slots_of(self.ring.pending)
        for slot in range(0, SLOTS, 11) if before and self.members else ():
            owner, since = before[slot]
            destination = pending[slot][0] if slot in pending else None
            if owner not in lost and (destination is None or destination not in lost):
                assert now[slot] == (owner, since), "no side is lost"
                assert destination is None or still[slot] == pending[slot]
                continue
            assert now[slot][1] == self.ring.epoch
            assert slot not in still
            if destination is not None and owner not in lost:
                assert now[slot][0] == owner
            elif destination is not None and destination not in lost:
                assert now[slot][0] == destination

    @rule(address=ADDRESSES, weight=st.sampled_from([1.0, 2.0]))
    def join(self, address: str, weight: float) -> None:
        self.members[address] = Member(address, weight=weight)
        self.change()

    @rule(address=ADDRESSES)
    def lose(self, address: str) -> None:
        self.members.pop(address, None)
        self.change()

    @rule(address=ADDRESSES)
    def restart(self, address: str) -> None:
        if address in self.members:
            self.leaving.discard(address)
            self.change([address])

    @rule(address=ADDRESSES)
    def say_that_it_leaves(self, address: str) -> None:
        if address in self.members:
            self.leaving.add(address)
            self.change()

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        if not self.ring.pending:
            return
        move = data.draw(st.sampled_from(self.ring.pending))
        last = data.draw(st.integers(move.first, move.last))
        after = self.ring.with_taken(move.address, [move._replace(last=last)], self.ring.epoch + 1)
        assert after is not None
        self.ring = after

    @rule()
    def moves_end_and_lead_to_the_shares(self) -> None:
        for _ in range(10):
            for address in {run.address for run in self.ring.pending}:
                after = self.ring.with_taken(address, self.ring.pending, self.ring.epoch + 1)
                assert after is not None
                self.ring = after
            if self.ring.is_balanced(self.leaving):
                break
            self.change()
        assert self.ring.is_balanced(self.leaving)
        staying = {each.address: each.weight for each in self.members.values() if each.address not in self.leaving}
        if staying:
            owned = self.ring.slots_by_node()
            assert {each: owned[each] for each in staying} == shares(staying, owned)
            assert sum(owned[each] for each in staying) == SLOTS

    @invariant()
    def every_slot_has_one_owner_and_moves_are_between_members(self) -> None:
        assert sum(self.ring.slots_by_node().values()) == (SLOTS if self.members else 0)
        for _, _, move, owned in overlaps(self.ring.pending, self.ring.ranges()):
            assert {move.address, owned.address} <= self.members.keys()
            assert move.address != owned.address
            assert owned.owned_since < move.owned_since <= self.ring.epoch
        assert all(
            one.last < other.first and (one.last + 1 < other.first or one[2:] != other[2:])
            for one, other in pairwise(self.ring.pending)
        )
        Ring.restored(self.ring.epoch, self.ring.members, self.ring.ranges(), self.ring.pending)


Moves.TestCase.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
TestMoves = Moves.TestCase


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 30))
def test_the_moves_of_a_join_lead_to_the_ring_that_an_immediate_change_makes(number: int) -> None:
    nodes = [Member(f"n{each}:1") for each in range(number)]
    before = Ring.empty().with_members(nodes[1:], 1)
    gradual = before.with_members(nodes, 2, moving=True)
    taken = gradual.with_taken(nodes[0].address, gradual.pending, 3)
    assert taken is not None
    assert taken.ranges() == before.with_members(nodes, 2).ranges()
