"""Pure. A histogram of plain integers, exported only when it is scraped.

An observation on the path of a hit is one bisect and two additions, without the lock and the label lookup of a
metrics library.
"""

from __future__ import annotations

from bisect import bisect_left

# Seconds. From 50 µs, the duration of a hit in memory, to 10 s, beyond every default deadline.
LATENCY_BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
# For counts, such as the writes in a commit.
COUNT_BUCKETS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Histogram:
    """Counts of observed values, seconds by default, by bucket; the upper bound of a bucket is inclusive."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, value: float, number: int) -> None:
        """Observe `value` `number` times."""
        self.counts[bisect_left(self.bounds, value)] += number
        self.total += value * number

    def cumulative(self) -> list[tuple[str, float]]:
        """Return pairs of (upper bound as Prometheus spells it, observations up to it), ending with +Inf."""
        running = 0
        rows = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        return rows
