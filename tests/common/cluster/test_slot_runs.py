"""Runs of slots with changes in their place: the fast form against one step for each slot."""

from __future__ import annotations

from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from milena_common.cluster.slot_runs import Run, owner_by_slot, rejoined, replaced, since_by_slot
from milena_common.cluster.slots import SLOTS

owned = st.tuples(st.sampled_from(["", "a:1", "b:1", "c:1"]), st.integers(1, 3))
cuts = st.sets(st.one_of(st.integers(1, 30), st.integers(1, SLOTS - 1)), max_size=25)


def runs_of(by_slot: list[tuple[str, int]]) -> list[Run]:
    runs, first = [], 0
    for (address, since), slots in groupby(by_slot):
        last = first + len(list(slots)) - 1
        runs.append(Run(first, last, address, since))
        first = last + 1
    return runs


@st.composite
def assignments(draw: st.DrawFn) -> list[tuple[str, int]]:
    edges = sorted({0, SLOTS, *draw(cuts)})
    return [each for first, end in pairwise(edges) for each in [draw(owned)] * (end - first)]


@given(assignments(), cuts, st.data())
def test_changes_take_the_place_of_what_was_there(
    before: list[tuple[str, int]], edges: set[int], data: st.DataObject
) -> None:
    runs = runs_of(before)
    after, changes = list(before), []
    ends = sorted({0, SLOTS, *edges})
    for first, end in pairwise(ends):
        if data.draw(st.booleans()):
            address, since = data.draw(owned)
            changes.append(Run(first, end - 1, address, since))
            after[first:end] = [(address, since)] * (end - first)
    data.draw(st.randoms()).shuffle(changes)
    expected = runs_of(after)
    assert replaced(runs, changes) == rejoined(runs, changes) == expected
    pieces = [Run(slot, slot, *each) for slot, each in enumerate(after)]
    assert rejoined(pieces) == expected
    assert list(zip(owner_by_slot(expected), since_by_slot(expected), strict=True)) == after


def test_no_changes_change_nothing() -> None:
    runs = [Run(0, 9, "a:1", 1), Run(10, SLOTS - 1, "", 1)]
    assert replaced(runs, ()) == runs
    assert replaced(runs, [Run(0, SLOTS - 1, "b:1", 2)]) == [Run(0, SLOTS - 1, "b:1", 2)]
