"""Pure. Samples the load of the event loop, which requests and uploads share, ten times a second.

The samples go to the upload throttle, which slows uploads down while requests need the loop. A backlog that is
large or old is exempt, so that a busy node still uploads.
"""

from __future__ import annotations

from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_common.runtime.clock import Clock

SAMPLE_SECONDS = 0.1
# Seconds. A backlog whose oldest write is older, beyond its delay, no longer yields to requests.
OLD_SECONDS = 60.0


class UploadLoad:
    """Passes samples of the load to `throttle`. `delay`: FLUSH_DELAY, the seconds a write waits for its upload."""

    def __init__(
        self, throttle: UploadThrottle, dirty: Dirty, reads: ReadCounts, clock: Clock, delay: float
    ) -> None:
        self._throttle = throttle
        self._dirty = dirty
        self._reads = reads
        self._clock = clock
        self._delay = delay
        self._age_looked_at = 0.0
        self._old = False
        self._sampled_at, self._cpu, self._before = clock.now(), clock.cpu(), self._requests()

    def _requests(self) -> float:
        return self._reads.hits + self._reads.misses + self._dirty.puts

    def sample(self, now: float) -> None:
        """Take a sample, if SAMPLE_SECONDS have passed since the last one; `now` is in monotonic seconds."""
        elapsed = now - self._sampled_at
        if elapsed < SAMPLE_SECONDS:
            return
        cpu, requests = self._clock.cpu(), self._requests()
        backlog = self._dirty.bytes > self._dirty.max_bytes // 2 or self._is_old(now)
        self._throttle.load((cpu - self._cpu) / elapsed, (requests - self._before) / elapsed, backlog=backlog)
        self._sampled_at, self._cpu, self._before = now, cpu, requests

    def _is_old(self, now: float) -> bool:
        if now - self._age_looked_at >= 1.0:
            self._age_looked_at = now
            self._old = now - self._dirty.oldest_since(now) > self._delay + OLD_SECONDS
        return self._old
