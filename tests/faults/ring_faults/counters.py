"""Pure. Check what clients got who increment and read counters: no increment is lost or counted twice.

Each increment returns the counter. So the numbers of acknowledged increments of one counter differ, they grow with
time where calls do not overlap, and none is greater than the number of increments that had been begun. A read
returns at least what a call before it returned, and at most what had been begun.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(slots=True)
class Call:
    """An increment or a read: its times, in seconds, and what it returned; None: no reply, or none yet."""

    is_read: bool
    began: float
    returned: float | None = None
    number: int | None = None


@dataclass(slots=True)
class Counters:
    """The calls by key. A rejected increment has had no effect, and is removed."""

    calls: dict[str, list[Call]] = field(default_factory=dict)

    def begin(self, key: str, now: float, *, is_read: bool = False) -> Call:
        """Record a call that is about to be made."""
        call = Call(is_read, now)
        self.calls.setdefault(key, []).append(call)
        return call

    def returned(self, call: Call, now: float, number: int) -> None:
        """Record its reply."""
        call.returned, call.number = now, number

    def rejected(self, key: str, call: Call) -> None:
        """Record that it certainly had no effect."""
        self.calls[key] = [each for each in self.calls[key] if each is not call]

    @property
    def acknowledged(self) -> int:
        """Return the number of increments that were acknowledged."""
        return sum(not call.is_read and call.number is not None for calls in self.calls.values() for call in calls)

    def wrong(self) -> dict[str, str]:
        """Return by key what is wrong with it; only keys with something wrong."""
        return {key: found for key, calls in self.calls.items() if (found := _wrong(calls))}


def _wrong(calls: Sequence[Call]) -> str:
    # Of a long run: everything is found by bisection.
    increments = sorted(call.began for call in calls if not call.is_read)
    done = [
        (call.began, call.returned, call.number, call.is_read)
        for call in sorted(calls, key=lambda call: call.began)
        if call.returned is not None and call.number is not None
    ]
    numbers = [number for _, _, number, is_read in done if not is_read]
    if len(set(numbers)) < len(numbers):
        twice = sorted(number for number, times in Counter(numbers).items() if times > 1)
        return f"several increments returned {', '.join(map(str, twice[:10]))}"
    returns = sorted((end, number) for _, end, number, _ in done)
    ends = [end for end, _ in returns]
    greatest = [0, *accumulate((number for _, number in returns), max)]
    for began, returned, number, is_read in done:
        what = "a read" if is_read else "an increment"
        before = greatest[bisect_left(ends, began)]
        if number < before + (not is_read):
            return f"{what} returned {number} after another call had returned {before}"
        begun = bisect_left(increments, returned)
        if number > begun:
            return f"{what} returned {number}, and {begun} increments had been begun"
    return ""
