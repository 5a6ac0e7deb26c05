"""The ring's promises: evenness, few slots moved, the same ring for the same members, and who had what since when.

Drawing a node's scores takes 15 ms, so the nodes come from one pool whose ring is made once; a ring derived from
it finds their scores there.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slots import SLOTS, slot_of

POOL = tuple(Member(f"10.0.{n % 3}.{n}:{50051 + n % 2}") for n in range(36))


@cache
def pool_ring() -> Ring:
    return Ring.empty().with_members(POOL, 1)


def ring_of(*members: Member) -> Ring:
    return pool_ring().with_members(members, 2)


def owners(ring: Ring) -> list[str]:
    return [ring.owner(slot) for slot in range(SLOTS)]


def members(low: int, high: int) -> st.SearchStrategy[list[Member]]:
    return st.lists(st.sampled_from(POOL), min_size=low, max_size=high, unique_by=lambda node: node.address)


# ---- evenness


@pytest.mark.parametrize(
    "name", ["10.1.2.{}:50051", "cache-{}.cache.prod.svc.cluster.local:50051", "127.0.0.1:5{:04}"]
)
def test_fullest_of_3_to_32_equal_nodes_has_at_most_1_15_of_the_mean(name: str) -> None:
    ring = Ring.empty()
    for number in range(1, 33):
        ring = ring.with_members([*ring.members, Member(name.format(number))], number)
        if number >= 3:
            fullest = max(ring.slots_by_node().values())
            assert fullest <= 1.15 * SLOTS / number, f"{fullest} of {SLOTS} slots on one of {number} nodes"


@settings(max_examples=25)
@given(members(3, 32))
def test_any_equal_nodes_are_even(nodes: list[Member]) -> None:
    assert max(ring_of(*nodes).slots_by_node().values()) <= 1.15 * SLOTS / len(nodes)


@settings(max_examples=10)
@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6))
def test_weights_are_honoured(weights: list[float]) -> None:
    nodes = [Member(f"node{n}:1", weight=weight) for n, weight in enumerate(weights)]
    slots = Ring.empty().with_members(nodes, 1).slots_by_node()
    for node in nodes:
        share = node.weight / sum(weights)
        deviation = sqrt(share * (1 - share) / SLOTS)
        assert slots[node.address] / SLOTS == pytest.approx(share, abs=5 * deviation + 0.001)


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
    assert 0 < len(moved) <= 1.25 * SLOTS / len(nodes)


@settings(max_examples=25)
@given(members(2, 32))
def test_a_leave_moves_exactly_the_slots_of_the_node_that_leaves(nodes: list[Member]) -> None:
    leaving, *rest = nodes
    before = ring_of(*nodes)
    after = before.with_members(rest, 3)
    for a, b in zip(owners(before), owners(after), strict=True):
        assert (a != b) == (a == leaving.address)


@settings(max_examples=10)
@given(members(2, 12))
def test_leave_undoes_join(nodes: list[Member]) -> None:
    *old, joining = nodes
    before = ring_of(*old)
    after = before.with_members([*old, joining], 3).with_members(old, 4)
    assert owners(after) == owners(before)


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


# ---- the same members, the same ring


@settings(max_examples=10)
@given(st.data())
def test_the_order_and_history_of_joins_do_not_matter(data: st.DataObject) -> None:
    nodes = data.draw(members(1, 10))
    order = data.draw(st.permutations(nodes))
    passer_by = data.draw(st.sampled_from(POOL))
    ring = pool_ring().with_members([passer_by], 2)
    for epoch, number in enumerate(range(1, len(order) + 1), 3):
        ring = ring.with_members(order[:number], epoch)
    assert owners(ring) == owners(ring_of(*nodes))
    assert ring.members == ring_of(*nodes).members


def test_a_ring_is_a_function_of_addresses_alone() -> None:
    """Its owners, noted once: another process, machine or Python version must come to the same."""
    ring = Ring.empty().with_members([Member(f"cache{n}:50051", node_id=f"id{n}") for n in (1, 2, 3)], 1)
    assert "".join(ring.owner(slot)[5] for slot in range(0, SLOTS, 1024)) == "3322111133121132"


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
def test_an_epoch_that_does_not_grow_is_refused(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"{epoch} after 6"):
        Ring.empty(6).with_members(POOL[:1], epoch)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weights must be positive"):
        Ring.empty().with_members([Member("a:1", weight=weight)], 1)


# ---- the ends of the range


def test_nobody_owns_anything_in_an_empty_ring() -> None:
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
