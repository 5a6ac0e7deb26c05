"""Pure. The keys with the greatest sums of weights in a stream, with a bounded number of counters.

Misra-Gries, with many decrements at once (Anderson et al., IMC 2017): when there are twice as many counters as are
kept, the (capacity + 1)-th greatest count is subtracted from all, and those without a rest go. So each addition
costs one look at a dictionary, and now and then a sort.

With W the sum of all weights, the sum of a key is at least what is counted, and at most W / (capacity + 1) more.
So every key with more than that is here.
"""

from __future__ import annotations

from heapq import nlargest


class FrequentKeys:
    """At most twice `capacity` counters.

    total: the sum of all weights
    removed: how much a key's sum may be more than what is counted; the sum of a key that is not here at most
    """

    def __init__(self, capacity: int) -> None:
        self.total = 0
        self.removed = 0
        self._capacity = capacity
        self._counts: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: bytes, weight: int) -> None:
        """Add `weight`, 0 or more, to the sum of `key`."""
        counts = self._counts
        counts[key] = counts.get(key, 0) + weight
        self.total += weight
        if len(counts) >= 2 * self._capacity:
            self._prune()

    def greatest(self, number: int) -> list[tuple[bytes, int]]:
        """Return the keys with the greatest counts, with these, the greatest first; `number` at most."""
        return nlargest(number, self._counts.items(), key=lambda each: (each[1], each[0]))

    def _prune(self) -> None:
        subtracted = sorted(self._counts.values(), reverse=True)[self._capacity]
        self.removed += subtracted
        self._counts = {key: count - subtracted for key, count in self._counts.items() if count > subtracted}
