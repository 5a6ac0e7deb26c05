"""Which slots move: histories of joins, leaves, losses and changed weights, and what holds after each change."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.membership.ownership import Ownership
from milena_cache.servers.resp.state.ring_view import RingView
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slot_moves import moves, shares
from milena_common.cluster.slot_runs import Run, differences, replaced, whole
from milena_common.cluster.slots import SLOTS

MAX_RANGES = 128
MAX_CLUSTER_SLOTS = 48 * 1024
WEIGHTS = st.sampled_from((1.0, 1.0, 1.0, 0.5, 2.0, 4.0))


def owners(runs: list[Run]) -> list[str]:
    return [run.address for run in runs for _ in range(run.first, run.last + 1)]


class SlotMoves(RuleBasedStateMachine):
    """A ring of 3 to 40 nodes that joins and leaves change, one or several nodes at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = {f"10.0.0.{number}:50051": 1.0 for number in range(3)}
        self.made = len(self.weights)
        self.epoch = 1
        self.runs = [Run(0, SLOTS - 1, "", 0)]
        self.change(self.weights)

    def change(self, weights: dict[str, float]) -> tuple[list[str], list[str]]:
        """Make the next ring; return the owners before and after."""
        self.epoch += 1
        before = self.runs
        found = moves(before, weights)
        self.weights = weights
        self.runs = replaced(before, [Run(*move, self.epoch) for move in found])
        old, new = owners(before), owners(self.runs)
        moved = sum(a != b for a, b in zip(old, new, strict=True))
        assert moved == sum(move.last + 1 - move.first for move in found), "no slot moves twice, or to its owner"
        return old, new

    @rule(weight=WEIGHTS, number=st.integers(1, 8))
    def join(self, weight: float, number: int) -> None:
        if len(self.weights) + number > 40:
            return
        new = {f"10.0.{self.made + n}.7:50051": weight for n in range(number)}
        self.made += number
        old, after = self.change(self.weights | new)
        moved = [(a, b) for a, b in zip(old, after, strict=True) if a != b]
        necessary = sum(after.count(address) for address in new)
        assert len(moved) <= 1.02 * necessary

    @rule(data=st.data(), number=st.integers(1, 8))
    def leave(self, data: st.DataObject, number: int) -> None:
        if len(self.weights) - number < 3:
            return
        gone = data.draw(st.permutations(sorted(self.weights)))[:number]
        old, after = self.change({each: weight for each, weight in self.weights.items() if each not in gone})
        moved = sum(a != b for a, b in zip(old, after, strict=True))
        assert moved <= 1.02 * sum(old.count(address) for address in gone)

    @rule(data=st.data(), weight=WEIGHTS)
    def reweigh(self, data: st.DataObject, weight: float) -> None:
        address = data.draw(st.sampled_from(sorted(self.weights)))
        heavier = weight >= self.weights[address]
        old, after = self.change(self.weights | {address: weight})
        gained = after.count(address) - old.count(address)
        assert gained >= -1 if heavier else gained <= 1

    @invariant()
    def shares_are_exact(self) -> None:
        counts = Counter(owners(self.runs))
        assert counts.keys() <= self.weights.keys()
        for address, weight in self.weights.items():
            exact = SLOTS * weight / sum(self.weights.values())
            assert floor(exact) <= counts[address] <= ceil(exact)

    @invariant()
    def nodes_have_few_ranges(self) -> None:
        ranges = Counter(address for address, _ in groupby(owners(self.runs)))
        assert max(ranges.values()) <= MAX_RANGES
        if len(self.weights) == 3:
            assert len(cluster_slots(self.runs)) <= MAX_CLUSTER_SLOTS

    @invariant()
    def a_balanced_ring_stays_as_it_is(self) -> None:
        assert moves(self.runs, self.weights) == []


SlotMoves.TestCase.settings = settings(max_examples=12, stateful_step_count=30, deadline=None)
TestSlotMoves = SlotMoves.TestCase


def cluster_slots(runs: list[Run]) -> bytes:
    """The reply to CLUSTER SLOTS, for nodes whose RESP servers have long names."""
    addresses = sorted({run.address for run in runs})
    nodes = {
        address: MapNode(address, f"cache-{number}.cache.prod.svc.cluster.local:6379", f"id-{number}")
        for number, address in enumerate(addresses)
    }
    ownership = Ownership(addresses[0])
    ranges = tuple(MapRange(first, last, nodes[address], since) for first, last, address, since in runs)
    ownership.update(SlotMap(1, "bucket", tuple(nodes.values()), ranges))
    return RingView().slots(ownership)


# ---- a loss, and balance later


def test_slots_of_a_lost_node_can_go_to_one_holder_and_be_spread_by_later_moves_in_any_order() -> None:
    weights = {f"node{number}:1": 1.0 for number in range(4)}
    runs = replaced(whole([], 0), [Run(*move, 1) for move in moves(whole([], 0), weights)])
    del weights["node3:1"]
    # The holder takes over all of them at once.
    held = [run._replace(address="node0:1", owned_since=2) if run.address == "node3:1" else run for run in runs]
    target = replaced(held, [Run(*move, 3) for move in moves(held, weights)])
    assert set(Counter(owners(target)).values()) == {5461, 5462}
    later = moves(held, weights)
    assert sum(move.last + 1 - move.first for move in later) == SLOTS // 2 - 5462
    for order in (later, later[::-1]):
        present = held
        for epoch, move in enumerate(order, 3):
            unbalanced = moves(present, weights)
            present = replaced(present, [Run(*move, epoch)])
            assert len(moves(present, weights)) < len(unbalanced), "each move is one less"
        assert owners(present) == owners(target)


def test_a_ring_of_slots_one_by_one_is_taken_over_as_it_is_and_gets_coarser_with_each_change() -> None:
    """The ring of a version that hashed slots to nodes."""
    names = ("a:1", "b:1", "c:1")
    runs = [Run(slot, slot, names[slot * 7919 % 3], 1) for slot in range(SLOTS)]
    weights = dict.fromkeys(names, 1.0)
    assert not moves(runs, weights)
    joined = replaced(runs, [Run(*move, 2) for move in moves(runs, weights | {"d:1": 1.0})])
    moved = sum(a != b for a, b in zip(owners(runs), owners(joined), strict=True))
    assert moved == SLOTS // 4
    assert len(joined) < len(runs)


# ---- the parts


@pytest.mark.parametrize(
    ("weights", "owned", "expected"),
    [
        ({"a": 1.0}, {}, {"a": SLOTS}),
        ({"a": 1.0, "b": 3.0}, {"b": 7}, {"a": 4096, "b": 12288}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {}, {"a": 5462, "b": 5461, "c": 5461}),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, {"c": 6000}, {"a": 5461, "b": 5461, "c": 5462}),
        ({"a": 1000.0, "b": 0.001}, {}, {"a": SLOTS, "b": 0}),
    ],
)
def test_shares(weights: dict[str, float], owned: dict[str, int], expected: dict[str, int]) -> None:
    assert shares(weights, owned) == expected


def test_without_nodes_nothing_moves() -> None:
    assert moves(whole([], 3), {}) == []


def test_runs_are_made_whole_and_what_overlaps_is_rejected() -> None:
    assert whole([(3, 5, "a", 1)], 7) == [(0, 2, "", 7), (3, 5, "a", 1), (6, SLOTS - 1, "", 7)]
    assert whole([(0, SLOTS - 1, "a", 1)], 7) == [(0, SLOTS - 1, "a", 1)]
    for wrong in ([(5, 4, "a", 1)], [(0, SLOTS, "a", 1)], [(0, 5, "a", 1), (5, 9, "b", 1)]):
        with pytest.raises(ValueError, match="slots"):
            whole(wrong, 7)


CUTS = st.lists(st.integers(1, SLOTS - 1), max_size=8, unique=True)


@st.composite
def assignments(draw: st.DrawFn) -> list[Run]:
    starts = [0, *sorted(draw(CUTS)), SLOTS]
    runs: list[Run] = []
    for first, end in pairwise(starts):
        run = Run(first, end - 1, draw(st.sampled_from("abc")), draw(st.integers(1, 2)))
        if runs and runs[-1][2:] == run[2:]:
            run = run._replace(first=runs.pop().first)
        runs.append(run)
    return runs


@settings(max_examples=100, deadline=None)
@given(assignments(), assignments())
def test_the_differences_of_two_assignments_lead_from_one_to_the_other(old: list[Run], new: list[Run]) -> None:
    assert replaced(old, differences(old, new)) == new
    assert differences(old, old) == []
