"""Pure. Assignments of slots as runs: adjacent slots with one owner.

Router, nodes and clients compute and compare rings in this form, which has as many elements as a ring has ranges,
and not 16384. A whole assignment is a list of runs in ascending order that has every slot exactly once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, repeat
from operator import itemgetter, sub
from typing import Any, NamedTuple, TypeVar

from milena_common.cluster.slots import SLOTS


class Run(NamedTuple):
    """Adjacent slots with one owner, `first` to `last`, both included, owned since one epoch; "": without owner."""

    first: int
    last: int
    address: str
    owned_since: int


_FIRST = itemgetter(0)

# A run, or another tuple of first and last slot, owner, and epoch.
R = TypeVar("R", bound=tuple[int, int, Any, int])
Q = TypeVar("Q", bound=tuple[int, int, Any, int])


def whole(ranges: Iterable[tuple[int, int, str, int]], epoch: int) -> list[Run]:
    """Return `ranges` with the slots between them as runs without owner since `epoch`, so that no slot is missing.

    Raises ValueError if they do not ascend, overlap, or go beyond the last slot.
    """
    runs: list[Run] = []
    free = 0
    for first, last, address, owned_since in ranges:
        if not free <= first <= last < SLOTS:
            raise ValueError(f"slots {first} to {last} after {free - 1}, of {SLOTS}")
        if free < first:
            runs.append(Run(free, first - 1, "", epoch))
        runs.append(Run(first, last, address, owned_since))
        free = last + 1
    if free < SLOTS:
        runs.append(Run(free, SLOTS - 1, "", epoch))
    return runs


def owner_by_slot(runs: Sequence[Run]) -> list[str]:
    """Return the owner of each slot; `runs` have every slot."""
    return _by_slot(runs, 2)


def since_by_slot(runs: Sequence[Run]) -> list[int]:
    """Return the epoch since which each slot has its owner; `runs` have every slot."""
    return _by_slot(runs, 3)


def _by_slot(runs: Sequence[Run], field: int) -> list[Any]:
    # Each run ends where the next one begins. No expression is evaluated for each of up to 11,000 runs.
    starts = list(map(_FIRST, runs))
    lengths = map(sub, chain(starts[1:], (SLOTS,)), starts)
    return list(chain.from_iterable(map(repeat, map(itemgetter(field), runs), lengths)))


def replaced(runs: Sequence[R], changes: Collection[R]) -> list[R]:
    """Return `runs` with `changes`, which do not overlap, in their place, and equal adjacent runs joined.

    `runs` have every slot, and no equal ones are adjacent. Those without changes are not looked at: there may be
    11,000 runs, and few changes.
    """
    made: list[Any] = []
    copied = 0  # the place of the first run that is not in `made`
    ordered = sorted(changes, key=_FIRST)
    at = 0
    while at < len(ordered):
        # The runs that a group of changes covers, and the whole of the group.
        begin = max(copied, bisect_right(runs, ordered[at][0], copied, key=_FIRST) - 1)
        end, group = begin + 1, at
        last = runs[begin][1]
        while group < len(ordered) and ordered[group][0] <= last:
            while ordered[group][1] > last:
                last = runs[end][1]
                end += 1
            group += 1
        _append(made, runs[copied:begin])
        _append(made, rejoined(runs[begin:end], ordered[at:group]))
        copied, at = end, group
    _append(made, runs[copied:])
    return made


def _append(made: list[Any], more: Sequence[Any]) -> None:
    """Append runs without equal adjacent ones to such runs, so that the result has none either."""
    if made and more and made[-1][2:] == more[0][2:]:
        first = made.pop()[0]
        made.append(type(more[0])(first, *more[0][1:]))
        more = more[1:]
    made += more


def rejoined(runs: Iterable[R], changes: Iterable[R] = ()) -> list[R]:
    """Return `runs` with `changes` in their place, and equal adjacent runs joined; changes do not overlap.

    `runs` are adjacent, and equal ones may be side by side; each is looked at.
    """
    waiting = sorted(changes, key=_FIRST, reverse=True)
    next_change = waiting[-1][0] if waiting else SLOTS
    made: list[Any] = []
    last_owner, last_since = None, -1
    for run in runs:
        make: Any = type(run)
        first, last, owner, owned_since = run
        if next_change > last:
            # Most runs stay as they are: for those, only whether they can be joined is computed.
            if owned_since == last_since and owner == last_owner:
                made[-1] = make(made[-1][0], last, owner, owned_since)
            else:
                made.append(run)
                last_owner, last_since = owner, owned_since
            continue
        pieces: list[Any] = []
        free = first
        while next_change <= last:
            change = waiting[-1]
            if free < change[0]:
                pieces.append(make(free, change[0] - 1, owner, owned_since))
            free = min(change[1], last) + 1
            pieces.append(make(max(first, change[0]), free - 1, *change[2:]))
            if change[1] > last:
                break  # the rest of it is in the next run
            waiting.pop()
            next_change = waiting[-1][0] if waiting else SLOTS
        if free <= last:
            pieces.append(make(free, last, owner, owned_since))
        for piece in pieces:
            if piece[3] == last_since and piece[2] == last_owner:
                made[-1] = make(made[-1][0], *piece[1:])
            else:
                made.append(piece)
                last_owner, last_since = piece[2:]
    return made


def overlaps(some: Sequence[R], others: Sequence[Q]) -> Iterator[tuple[int, int, R, Q]]:
    """Yield first and last slot of each part that a run of `some` and a run of `others` share, and both runs.

    Both ascend; slots may be in neither.
    """
    at = 0
    for run in some:
        while at < len(others) and others[at][1] < run[0]:
            at += 1
        place = at
        while place < len(others) and others[place][0] <= run[1]:
            other = others[place]
            yield max(run[0], other[0]), min(run[1], other[1]), run, other
            place += 1


def without(runs: Iterable[Run], removed: Iterable[tuple[int, int]]) -> list[Run]:
    """Return the parts of `runs`, which ascend, that are in none of `removed`, pairs of first and last slot."""
    gaps = [Run(first, last, "", 0) for first, last in removed]
    return [run for run in rejoined(whole(runs, 0), gaps) if run.address]


def differences(old: Iterable[R], new: Iterable[R]) -> list[R]:
    """Return the runs of `new` that are not so in `old`, cut where necessary; both have every slot."""
    found: list[Any] = []
    before = iter(old)
    known = next(before)
    for run in new:
        if run is known:
            known = next(before, run)
            continue
        make: Any = type(run)
        first, end = run[0], run[1]
        while first <= end:
            while known[1] < first:
                known = next(before)
            last = min(known[1], end)
            if known[2:] != run[2:]:
                if found and found[-1][1] == first - 1 and found[-1][2:] == run[2:]:
                    first = found.pop()[0]
                found.append(make(first, last, *run[2:]))
            first = last + 1
    return found
