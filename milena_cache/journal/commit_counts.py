"""Pure. Counts the commits of a journal, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milena_cache.journal.commit import QueuedWrite
from milena_common.metrics.histogram import COUNT_BUCKETS, Histogram


class CommitCounts:
    """A `CommitObserver`.

    commits: since the start, each with one sync of the disk
    writes: how many writes each had
    durations: in seconds
    """

    def __init__(self) -> None:
        self.commits = 0
        self.writes = Histogram(COUNT_BUCKETS)
        self.durations = Histogram()

    def committed(self, batch: Sequence[QueuedWrite[Any]], seconds: float) -> None:
        """Count one commit."""
        self.commits += 1
        self.writes.observe(len(batch))
        self.durations.observe(seconds)
