"""Epochs of slots as runs: the same as a dictionary with an entry for each slot."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.membership.slot_epochs import SlotEpochs

SOME = 12
slots = st.tuples(st.integers(0, SOME - 1), st.integers(0, SOME - 1)).map(sorted)
changes = st.lists(st.tuples(st.sampled_from(["add", "remove", "keep"]), slots, st.integers(1, 2)), max_size=12)


@given(changes)
def test_runs_are_the_same_as_an_entry_for_each_slot(made: list[tuple[str, list[int], int]]) -> None:
    epochs, expected = SlotEpochs(), dict[int, int]()
    for kind, (first, last), epoch in made:
        some = range(first, last + 1)
        if kind == "add":
            epochs.add(first, last, epoch)
            expected.update(dict.fromkeys(some, epoch))
        elif kind == "remove":
            epochs.remove(first, last)
            expected = {slot: known for slot, known in expected.items() if slot not in some}
        else:
            epochs.keep_equal([epoch if slot in some else 0 for slot in range(SOME)])
            expected = {slot: known for slot, known in expected.items() if slot in some and known == epoch}
        assert {slot: known for start, stop, known in epochs for slot in range(start, stop + 1)} == expected
        assert bool(epochs) is bool(expected)
        assert [slot for slot in range(SOME) if slot in epochs] == sorted(expected)
        within = epochs.within(first, last)
        assert {slot: known for start, stop, known in within for slot in range(start, stop + 1)} == {
            slot: known for slot, known in expected.items() if slot in some
        }
    for (_, stop, known), (start, _, following) in pairwise(epochs):
        assert stop < start
        assert (stop + 1, known) != (start, following), "adjacent runs of one epoch are one run"
