"""Pure. Epochs of some of the slots, kept as runs of adjacent slots.

A ring has 16,384 slots, and those that concern one node are few runs of them. What is computed at each change of
the ring goes through the runs: a step for each slot takes milliseconds, in which no request is served.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import groupby

from milena_common.cluster.slots import SLOTS

# First and last slot, both included, and an epoch.
EpochRun = tuple[int, int, int]


class SlotEpochs:
    """An epoch for each of some slots."""

    def __init__(self) -> None:
        # They ascend and do not overlap; adjacent ones have different epochs.
        self._runs: list[EpochRun] = []
        # By slot 1 if it is in a run: each write asks several times. Made at the first question.
        self._has: bytearray | None = None

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[EpochRun]:
        """Yield the runs, ascending, as they are now."""
        return iter(tuple(self._runs))

    def __contains__(self, slot: int) -> bool:
        if not self._runs:
            return False
        if self._has is None:
            self._has = bytearray(SLOTS)
            for first, last, _ in self._runs:
                self._has[first : last + 1] = b"\1" * (last + 1 - first)
        return self._has[slot] == 1

    def within(self, first: int, last: int) -> list[EpochRun]:
        """Return the parts of the runs that are in `first` to `last`."""
        begin, end = self._overlapping(first, last)
        return [(max(first, start), min(last, stop), epoch) for start, stop, epoch in self._runs[begin:end]]

    def add(self, first: int, last: int, epoch: int) -> None:
        """Set the epoch of the slots `first` to `last`."""
        begin, end = self._divide(first, last)
        if begin and self._runs[begin - 1][1:] == (first - 1, epoch):
            begin -= 1
            first = self._runs[begin][0]
        if end < len(self._runs) and self._runs[end][::2] == (last + 1, epoch):
            last = self._runs[end][1]
            end += 1
        self._runs[begin:end] = [(first, last, epoch)]
        if self._has is not None:
            self._has[first : last + 1] = b"\1" * (last + 1 - first)

    def remove(self, first: int, last: int) -> None:
        """Remove the slots `first` to `last`, of those that have an epoch."""
        begin, end = self._divide(first, last)
        del self._runs[begin:end]
        if self._has is not None:
            self._has[first : last + 1] = bytes(last + 1 - first)

    def assign(self, other: SlotEpochs) -> None:
        """Have the slots and epochs of `other`."""
        self._runs = list(other)
        self._has = None

    def keep_equal(self, epochs: list[int]) -> None:
        """Remove the slots whose epoch is not the one at their place in `epochs`."""
        for first, last, epoch in self:
            if epochs[first : last + 1] != [epoch] * (last + 1 - first):
                self.remove(first, last)
                for other, group in groupby(range(first, last + 1), epochs.__getitem__):
                    if other == epoch:
                        slots = tuple(group)
                        self.add(slots[0], slots[-1], epoch)

    def _overlapping(self, first: int, last: int) -> tuple[int, int]:
        """Return the places of the runs that have slots of `first` to `last`, as a slice."""
        runs = self._runs
        begin = bisect_right(runs, first, key=_first)
        if begin and runs[begin - 1][1] >= first:
            begin -= 1
        return begin, bisect_left(runs, last + 1, begin, key=_first)

    def _divide(self, first: int, last: int) -> tuple[int, int]:
        """Divide runs at the ends of `first` to `last`; return the places of those in it, as a slice."""
        begin, end = self._overlapping(first, last)
        if begin == end:
            return begin, end
        parts: list[EpochRun] = []
        start, _, epoch = self._runs[begin]
        if start < first:
            parts.append((start, first - 1, epoch))
        inside = len(parts)
        parts += self.within(first, last)
        after = len(parts)
        _, stop, epoch = self._runs[end - 1]
        if stop > last:
            parts.append((last + 1, stop, epoch))
        self._runs[begin:end] = parts
        return begin + inside, begin + after


def _first(run: EpochRun) -> int:
    return run[0]
