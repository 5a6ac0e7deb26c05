"""Pure. How long a key, or a range of keys, was unavailable: the longest time without a successful call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Availability:
    """Successful calls: by key and way to it, when they returned, in seconds."""

    successes: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def succeeded(self, key: str, way: str, now: float) -> None:
        """Record that a call for `key` succeeded."""
        self.successes.setdefault((key, way), []).append(now)

    def longest(self, keys: Iterable[str], begin: float, end: float, way: str = "") -> float:
        """Return the longest time between `begin` and `end` in which no call for any of `keys` succeeded.

        A time that began before `begin` counts from then on. `way`: only calls that went it; "" means all.
        """
        chosen = set(keys)
        times = sorted(
            time
            for (key, each), found in self.successes.items()
            if key in chosen and way in ("", each)
            for time in found
            if begin < time < end
        )
        points = [begin, *times, end]
        return max(after - before for before, after in pairwise(points))

    def longest_of_a_key(self, keys: Iterable[str], begin: float, end: float, way: str = "") -> float:
        """Return the longest time in which no call for one of `keys` succeeded."""
        return max((self.longest([key], begin, end, way) for key in keys), default=0.0)

    def longest_of_a_range(
        self, keys: Iterable[str], range_of: Callable[[str], str], begin: float, end: float
    ) -> float:
        """Return the longest time in which no call for any key of one range succeeded; `range_of` names a key's."""
        ranges: dict[str, list[str]] = {}
        for key in keys:
            ranges.setdefault(range_of(key), []).append(key)
        return max((self.longest(each, begin, end) for each in ranges.values()), default=0.0)
