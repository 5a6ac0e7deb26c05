"""Pure. The samples of LATENCY: for each of the latest seconds with a slow command, the longest duration.

At most SAMPLES seconds are kept, as in Redis; `SlowCommands` decides which commands are slow.
"""

from __future__ import annotations

from collections import deque

SAMPLES = 160


class LatencyMonitor:
    """The samples of one node.

    threshold: milliseconds from which on a command is recorded; 0: none is
    samples: (seconds since 1970, milliseconds), the oldest first
    longest: milliseconds, since the last reset
    """

    def __init__(self, threshold: int = 0) -> None:
        self.threshold = threshold
        self.samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)
        self.longest = 0

    def add(self, at: float, took: float) -> None:
        """Record a command that took `took` seconds until `at`, in seconds since 1970."""
        second, milliseconds = int(at), round(took * 1000)
        self.longest = max(self.longest, milliseconds)
        if self.samples and self.samples[-1][0] == second:
            milliseconds = max(self.samples.pop()[1], milliseconds)
        self.samples.append((second, milliseconds))

    def reset(self) -> bool:
        """Drop all samples; True if there were any."""
        had = bool(self.samples)
        self.samples.clear()
        self.longest = 0
        return had
