"""Pure. Assignments of slots as runs: adjacent slots with one owner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from milena_common.cluster.slots import SLOTS


class Run(NamedTuple):
    """Adjacent slots with one owner, `first` to `last`, both included, owned since one epoch; "": without owner."""

    first: int
    last: int
    address: str
    owned_since: int


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


def replaced(runs: Iterable[Run], changes: Iterable[Run]) -> list[Run]:
    """Return `runs`, which have every slot, with `changes` in their place, and equal adjacent runs joined.

    `changes` do not overlap.
    """
    waiting = sorted(changes, reverse=True)
    pieces: list[Run] = []
    for run in runs:
        first, last, address, owned_since = run
        if not waiting or waiting[-1].first > last:
            pieces.append(run)
            continue
        free = first
        while waiting and waiting[-1].first <= last:
            change = waiting[-1]
            if free < change.first:
                pieces.append(Run(free, change.first - 1, address, owned_since))
            free = min(change.last, last) + 1
            pieces.append(Run(max(first, change.first), free - 1, change.address, change.owned_since))
            if change.last > last:
                break  # the rest of it is in the next run
            waiting.pop()
        if free <= last:
            pieces.append(Run(free, last, address, owned_since))
    joined = pieces[:1]
    for run in pieces[1:]:
        if run[2:] == joined[-1][2:]:
            joined[-1] = Run(joined[-1].first, run.last, run.address, run.owned_since)
        else:
            joined.append(run)
    return joined


def differences(old: Iterable[Run], new: Iterable[Run]) -> list[Run]:
    """Return the runs of `new` that are not so in `old`, cut where necessary; both have every slot."""
    found: list[Run] = []
    before = iter(old)
    known = next(before)
    for run in new:
        first = run.first
        while first <= run.last:
            while known.last < first:
                known = next(before)
            last = min(known.last, run.last)
            if known[2:] != run[2:]:
                if found and found[-1].last == first - 1 and found[-1][2:] == run[2:]:
                    first = found.pop().first
                found.append(Run(first, last, run.address, run.owned_since))
            first = last + 1
    return found
