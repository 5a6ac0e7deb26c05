"""Pure. When commands took long, by the second: samples of the latest seconds in which one did."""

from __future__ import annotations

from collections import deque

SAMPLES = 160


class LatencyMonitor:
    """Samples of (seconds since 1970, milliseconds): of each second the longest. `threshold` 0: none are taken."""

    def __init__(self, threshold: int = 0) -> None:
        self.threshold = threshold  # milliseconds
        self.samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)
        self.longest = 0

    def add(self, at: float, took: float) -> None:
        """Both in seconds."""
        second, milliseconds = int(at), round(took * 1000)
        self.longest = max(self.longest, milliseconds)
        if self.samples and self.samples[-1][0] == second:
            milliseconds = max(self.samples.pop()[1], milliseconds)
        self.samples.append((second, milliseconds))

    def reset(self) -> bool:
        """Forget everything; whether there was something."""
        had = bool(self.samples)
        self.samples.clear()
        self.longest = 0
        return had
