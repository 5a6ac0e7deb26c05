"""The ring's promises: even shares, few slots moved, the same state in every process, and who had what since when.

`test_slot_moves` has long histories of changes.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slots import SLOTS, slot_of

POOL = tuple(Member(f"10.0.{n % 3}.{n}:{50051 + n % 2}") for n in range(36))


def ring_of(*members: Member) -> Ring:
    return Ring.empty().with_members(members, 2)


def owners(ring: Ring) -> list[str]:
    return [ring.owner(slot) for slot in range(SLOTS)]


def members(low: int, high: int) -> st.SearchStrategy[list[Member]]:
    return st.lists(st.sampled_from(POOL), min_size=low, max_size=high, unique_by=lambda node: node.address)


# ---- evenness


@pytest.mark.parametrize("number", [3, 7, 32, 100, 300])
def test_equal_nodes_have_shares_within_2_percent_of_the_mean(number: int) -> None:
    ring = ring_of(*(Member(f"10.1.2.{n}:50051") for n in range(number)))
    grown = ring.with_members([*ring.members, Member("new:1")], 3)
    for each, nodes in ((ring, number), (grown, number + 1)):
        for slots in each.slots_by_node().values():
            assert abs(slots - SLOTS / nodes) <= 0.02 * SLOTS / nodes


@settings(max_examples=20)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6))
def test_weights_are_honoured(weights: list[float]) -> None:
    nodes = [Member(f"node{n}:1", weight=weight) for n, weight in enumerate(weights)]
    slots = Ring.empty().with_members(nodes, 1).slots_by_node()
    for node in nodes:
        assert abs(slots[node.address] - SLOTS * node.weight / sum(weights)) <= 1


def test_equal_weights_are_one_whatever_their_size() -> None:
    heavy = [Member(node.address, weight=7.0) for node in POOL[:3]]
    assert owners(Ring.empty().with_members(heavy, 1)) == owners(ring_of(*POOL[:3]))


# ---- what moves


@settings(max_examples=25)
@given(members(2, 32))
def test_a_join_moves_few_slots_and_only_to_the_node_that_joins(nodes: list[Member]) -> None:
    *old, joining = nodes
    before = ring_of(*old)
    after = before.with_members(nodes, 3)
    moved = [(a, b) for a, b in zip(owners(before), owners(after), strict=True) if a != b]
    assert {b for _, b in moved} <= {joining.address}
    assert len(moved) == after.slots_by_node()[joining.address] > 0


@settings(max_examples=25)
@given(members(2, 32))
def test_a_leave_moves_exactly_the_slots_of_the_node_that_leaves(nodes: list[Member]) -> None:
    leaving, *rest = nodes
    before = ring_of(*nodes)
    after = before.with_members(rest, 3)
    for a, b in zip(owners(before), owners(after), strict=True):
        assert (a != b) == (a == leaving.address)


@settings(max_examples=20)
@given(members(3, 20), st.integers(0, 2))
def test_a_node_that_returns_gets_the_slots_back_that_it_had(nodes: list[Member], number: int) -> None:
    away = nodes[number]
    before = ring_of(*nodes[:2]).with_members(nodes, 3)
    after = before.with_members([node for node in nodes if node != away], 4).with_members(nodes, 5)
    had = {slot for slot, owner in enumerate(owners(before)) if owner == away.address}
    has = {slot for slot, owner in enumerate(owners(after)) if owner == away.address}
    assert len(had & has) >= len(had) - len(nodes), "shares are rounded, up or down"


@settings(max_examples=10)
@given(members(2, 8))
def test_the_successor_owns_the_slot_when_the_owner_leaves(nodes: list[Member]) -> None:
    ring = ring_of(*nodes)
    for leaving in nodes:
        after = owners(ring.with_members([node for node in nodes if node != leaving], 3))
        for slot in range(0, SLOTS, 7):
            if ring.owner(slot) == leaving.address:
                assert ring.successor(slot) == after[slot]


def test_more_weight_takes_slots_from_others_and_gives_none_away() -> None:
    before = ring_of(*POOL[:4])
    heavier = Member(POOL[0].address, weight=2.0)
    after = before.with_members([heavier, *POOL[1:4]], 3)
    moved = {b for a, b in zip(owners(before), owners(after), strict=True) if a != b}
    assert moved == {heavier.address}


# ---- the same state everywhere


def test_a_ring_made_from_nothing_is_one_range_a_node_in_order_of_addresses() -> None:
    """Another process, machine or Python version must come to the same."""
    ring = Ring.empty().with_members([Member(f"cache{n}:50051", node_id=f"id{n}") for n in (3, 1, 2)], 1)
    assert ring.ranges() == [
        (0, 5461, "cache1:50051", 1),
        (5462, 10922, "cache2:50051", 1),
        (10923, 16383, "cache3:50051", 1),
    ]


@settings(max_examples=15)
@given(st.lists(members(1, 6), min_size=1, max_size=6), members(1, 6))
def test_a_restored_ring_goes_on_as_the_one_that_was_published(
    history: list[list[Member]], then: list[Member]
) -> None:
    ring = Ring.empty()
    for epoch, nodes in enumerate(history, 1):
        ring = ring.with_members(nodes, epoch)
    restored = Ring.restored(ring.epoch, ring.members, ring.ranges())
    assert restored.ranges() == ring.ranges()
    assert restored.with_members(then, 99).ranges() == ring.with_members(then, 99).ranges()
    assert [restored.successor(slot) for slot in range(0, SLOTS, 97)] == [
        ring.successor(slot) for slot in range(0, SLOTS, 97)
    ]


# ---- epochs


@settings(max_examples=15)
@given(st.lists(members(0, 5), min_size=1, max_size=6))
def test_owned_since_is_the_epoch_at_which_the_owner_got_the_slot(history: list[list[Member]]) -> None:
    ring = Ring.empty().with_members(POOL[:1], 3)
    since = {slot: 3 for slot in range(SLOTS)}
    for epoch, nodes in enumerate(history, 10):
        old, ring = ring, ring.with_members(nodes, epoch)
        for slot in range(SLOTS):
            if ring.owner(slot) != old.owner(slot):
                since[slot] = epoch
    for key in (b"%d" % n for n in range(500)):
        found = ring.find(key)
        assert found == (slot_of(key), ring.owner(slot_of(key)), since[slot_of(key)])


@pytest.mark.parametrize("epoch", [6, 5, 0, -1])
def test_an_epoch_that_does_not_grow_is_rejected(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"{epoch} after 6"):
        Ring.empty(6).with_members(POOL[:1], epoch)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_rejected(weight: float) -> None:
    with pytest.raises(ValueError, match="weights must be positive"):
        Ring.empty().with_members([Member("a:1", weight=weight)], 1)


# ---- the ends of the range


def test_an_empty_ring_has_no_owners() -> None:
    for ring in (Ring.empty(4), ring_of(*POOL[:2]).with_members([], 4)):
        assert ring.epoch == 4
        assert ring.find(b"foo") == (12182, "", 4)
        assert ring.successor(12182) == ""
        assert ring.slots_by_node() == {}


def test_a_single_node_owns_everything_and_has_no_successor() -> None:
    ring = ring_of(POOL[0])
    assert ring.slots_by_node() == {POOL[0].address: SLOTS}
    assert ring.successor(0) == ""


def test_ranges_say_the_same_as_the_slots_one_by_one() -> None:
    assert list(Ring.empty().ranges()) == []
    first, second, third = POOL[:3]
    ring = Ring.empty().with_members([first, second], 2).with_members([first, second, third], 3)
    said = {}
    runs = list(ring.ranges())
    for start, last, address, since in runs:
        said |= {slot: (address, since) for slot in range(start, last + 1)}
    assert said == {slot: (node, 3 if node == third.address else 2) for slot, node in enumerate(owners(ring))}
    assert all(one[2:] != other[2:] for one, other in pairwise(runs)), "as few as there can be"


def test_a_ring_stays_as_it_is_when_the_next_is_made() -> None:
    ring = ring_of(*POOL[:3])
    before = owners(ring), ring.epoch, ring.members
    ring.with_members(POOL[:2], 9)
    assert (owners(ring), ring.epoch, ring.members) == before
