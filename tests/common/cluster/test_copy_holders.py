"""Which nodes hold copies: enough of them, in other zones, balanced, and changed only where they must be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.cluster.copy_holders import (
    Candidate,
    CopyRun,
    Held,
    Listed,
    Rules,
    held_runs,
    planned,
    without_holders,
)
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS


def equal(*names: str, zones: Mapping[str, str] | None = None) -> dict[str, Candidate]:
    return {name: Candidate(1.0, (zones or {}).get(name, "")) for name in names}


def owned(*names: str) -> list[CopyRun]:
    """Equal ranges, without holders."""
    number = len(names)
    return held_runs(
        Run(SLOTS * n // number, SLOTS * (n + 1) // number - 1, name, 1) for n, name in enumerate(names)
    )


def complete(copies: Sequence[CopyRun]) -> list[CopyRun]:
    return [
        run._replace(held=Held(run.held.owner, tuple(Listed(each.address) for each in run.held.holders)))
        for run in copies
    ]


def finished(copies: Sequence[CopyRun], rules: Rules) -> list[CopyRun]:
    """All new holders are filled, until nothing is to change."""
    for epoch in range(10, 40):
        before, copies = list(copies), complete(planned(copies, rules, epoch))
        if before == copies:
            return before
    raise AssertionError("the plan does not come to an end")


def loads(copies: Sequence[CopyRun]) -> Counter[str]:
    found: Counter[str] = Counter()
    for first, last, held, _ in copies:
        for each in held.holders:
            found[each.address] += last + 1 - first
    return found


def test_the_first_holders_are_the_owners_of_the_slots_beside() -> None:
    copies = planned(owned("a", "b", "c"), Rules(1, equal("a", "b", "c")), 7)
    beside = {(run.held.owner, run.held.holders[0].address) for run in copies}
    assert {("a", "b"), ("b", "a"), ("b", "c")} <= beside, "and what b cannot hold too goes to a"
    assert len(copies) <= 6
    assert all(each.since == 7 for run in copies for each in run.held.holders), "they are filling"
    assert all(len(run.held.holders) == 1 for run in copies)


def test_a_holder_to_be_replaced_stays_until_the_new_one_is_complete() -> None:
    rules = Rules(1, {**equal("a", "c"), "b": Candidate(1.0, leaving=True)})
    copies = [CopyRun(0, SLOTS - 1, Held("a", (Listed("b"),)))]
    filling = planned(copies, rules, 9)
    assert [run.held.holders for run in filling] == [(Listed("b"), Listed("c", 9))]
    assert planned(filling, rules, 10) == filling
    assert [run.held.holders for run in planned(complete(filling), rules, 11)] == [(Listed("c"),)]


def test_a_holder_in_the_owners_zone_is_replaced_when_another_zone_has_a_node() -> None:
    copies = [CopyRun(0, SLOTS - 1, Held("a", (Listed("b"),)))]
    zones = {"a": "north", "b": "north", "c": "south"}
    assert planned(copies, Rules(1, equal("a", "b", zones=zones)), 9) == copies
    after = planned(copies, Rules(1, equal("a", "b", "c", zones=zones)), 9)
    assert [run.held.holders for run in after] == [(Listed("b"), Listed("c", 9))]


def test_several_holders_are_in_different_zones() -> None:
    zones = {"a": "1", "b": "2", "c": "2", "d": "3"}
    copies = planned([CopyRun(0, SLOTS - 1, Held("a", ()))], Rules(2, equal(*"abcd", zones=zones)), 9)
    for run in copies:
        assert {zones[each.address] for each in run.held.holders} == {"2", "3"}


def test_an_avoided_node_is_not_listed() -> None:
    rules = Rules(1, equal("a", "b", "c"), [("a", "b")])
    copies = planned([CopyRun(0, SLOTS - 1, Held("a", ()))], rules, 9)
    assert {each.address for run in copies for each in run.held.holders} == {"c"}
    alone = Rules(1, equal("a", "b"), [("a", "b")])
    assert planned([CopyRun(0, SLOTS - 1, Held("a", ()))], alone, 9) == [CopyRun(0, SLOTS - 1, Held("a", ()))]


def test_a_new_node_gets_its_share_of_copies_and_nothing_else_changes() -> None:
    names = [f"n{number}" for number in range(10)]
    before = finished(planned(owned(*names), Rules(1, equal(*names)), 2), Rules(1, equal(*names)))
    rules = Rules(1, equal(*names, "new"))
    after = finished(before, rules)
    got = loads(after)
    assert got["new"] >= 0.6 * SLOTS / 11
    changed = sum(
        last + 1 - first for first, last, held, _ in after if any(each.address == "new" for each in held.holders)
    )
    assert changed == got["new"]
    assert sum((loads(before) - got).values()) == got["new"], "no slot went between the others"


def test_balance_takes_no_holder_out_of_another_zone_for_one_in_the_owners() -> None:
    zones = {"a": "", "b": "", "c": "x", "d": "x"}
    rules = Rules(2, equal(*zones, zones=zones))
    first = complete(planned([CopyRun(0, SLOTS - 1, Held("a", ()))], rules, 7))
    assert {each.address for run in first for each in run.held.holders} == {"c", "d"}
    assert planned(first, rules, 8) == first, "although b holds nothing"


NAMES = [f"n{number}" for number in range(7)]
NODES = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        Candidate,
        st.sampled_from([1.0, 1.0, 2.0]),
        st.sampled_from(["", "", "x", "y"]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[CopyRun], Rules]:
    """Copies in any state, as losses and reports may leave them, and rules for them."""
    candidates = draw(NODES)
    copies, first = [], 0
    for length in draw(st.lists(st.integers(1, 3000), min_size=1, max_size=9)):
        owner = draw(st.sampled_from(sorted(candidates)))
        listed = draw(st.lists(st.sampled_from(sorted(candidates)), unique=True, max_size=4))
        holders = tuple(Listed(each, draw(st.sampled_from([0, 0, 5]))) for each in listed if each != owner)
        last = min(first + length - 1, SLOTS - 1)
        copies.append(CopyRun(first, last, Held(owner, holders)))
        first = last + 1
        if first == SLOTS:
            break
    if first < SLOTS:
        copies.append(CopyRun(first, SLOTS - 1, Held(draw(st.sampled_from(sorted(candidates))), ())))
    pairs = st.tuples(st.sampled_from(sorted(candidates)), st.sampled_from(sorted(candidates)))
    return copies, Rules(draw(st.integers(1, 2)), candidates, draw(st.lists(pairs, max_size=2)))


def at(copies: Sequence[CopyRun], slot: int) -> Held:
    return next(run.held for run in copies if run.first <= slot <= run.last)


@settings(max_examples=60, deadline=None)
@given(situations())
def test_any_copies_are_planned_without_dropping_a_complete_holder_too_early(
    situation: tuple[list[CopyRun], Rules],
) -> None:
    copies, rules = situation
    after = planned(copies, rules, 9)
    assert [run.first for run in after] == [0, *(run.last + 1 for run in after[:-1])]
    assert after[-1].last == SLOTS - 1
    starts = {run.first for run in (*copies, *after)}
    for slot in starts:
        old, new = at(copies, slot), at(after, slot)
        assert new.owner == old.owner
        assert new.owner not in {each.address for each in new.holders}
        assert len({each.address for each in new.holders}) == len(new.holders)
        if any(each not in new.holders for each in old.holders):
            assert sum(not each.since for each in new.holders) >= rules.number, "when enough others are complete"
        added = [each for each in new.holders if each not in old.holders]
        assert all(each.since == 9 and not rules.candidates[each.address].leaving for each in added)
        assert all((old.owner, each.address) not in rules.avoided for each in added)


@settings(max_examples=60, deadline=None)
@given(situations())
def test_in_the_end_each_slot_has_its_holders_in_other_zones_where_there_are_any(
    situation: tuple[list[CopyRun], Rules],
) -> None:
    copies, rules = situation
    rules = rules._replace(avoided=())
    after = finished(copies, rules)
    staying = {address for address, each in rules.candidates.items() if not each.leaving}
    for _, _, held, _ in after:
        zone = rules.candidates[held.owner].zone
        others = staying - {held.owner}
        elsewhere = {address for address in others if rules.candidates[address].zone != zone}
        listed = {each.address for each in held.holders}
        assert len(listed) >= min(rules.number, len(others))
        assert len(listed & elsewhere) >= min(rules.number, len(elsewhere))
        if len(others) >= rules.number:
            assert listed <= staying
            assert len(listed) == rules.number
    assert planned(after, rules, 99) == after, "nothing changes without need"


@pytest.mark.parametrize("number", [1, 2])
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=12))
def test_copies_stay_balanced_and_in_few_runs_after_any_losses_and_joins(
    number: int, changes: list[tuple[bool, int]]
) -> None:
    present = [f"n{place}" for place in range(6)]
    copies = finished(owned(*present), Rules(number, equal(*present)))
    made = len(present)
    for joins, place in changes:
        if joins or len(present) <= 4:
            present.append(f"n{made}")
            made += 1
        else:
            gone = present.pop(place % len(present))
            left = without_holders(copies, [gone])
            copies = [
                run._replace(held=Held(run.held.holders[0].address, run.held.holders[1:]))
                if run.held.owner == gone
                else run
                for run in left
            ]
        copies = finished(copies, Rules(number, equal(*present)))
        got = loads(copies)
        mean = SLOTS * number / len(present)
        # With few nodes, most of what one owns can be held by few others.
        if len(present) > 2 * number + 2:
            assert max(got.values()) <= 1.6 * mean
        assert sum(got.values()) == SLOTS * number
    ranges = 1 + sum(one.held.owner != other.held.owner for one, other in pairwise(copies))
    assert len(copies) <= ranges + 12 * (len(changes) + len(present))
