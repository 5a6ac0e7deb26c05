"""Pure. How many uploads may be under way at once, and when none shall begin.

Three things set the pace of write-back:

- *S3 says SlowDown*: half as many, and a pause. One more for each round of successes. (Additive increase,
  multiplicative decrease: Chiu and Jain, 1989, as TCP does.)
- *S3 does not work*: after `DOWN_AFTER` failures in a row, of at least `DOWN_KEYS` different keys, one retry at a
  time, with growing pauses, until one upload succeeds. After more than a moment a backlog comes back at a quarter,
  not all at once. Failures of few keys, or of keys that failed while others succeeded, are their own affair. Keys
  that come for the first time are tried all the same, one in `PROBE_SECONDS`: it may be that only the others fail.
- *Requests need the event loop, which uploads share with them*: while they do, uploads begin ever more rarely,
  down to one in `MAX_GAP`, and when they do not, ever more often again. A backlog that is large or old gets
  `BACKLOG_GAP`.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_cache.writeback.uploads.slots import UploadSlots
from milena_common.runtime.backoff import Backoff

BACKOFF = Backoff(first=0.1, max_delay=5.0)
DOWN_AFTER = 8
DOWN_KEYS = 3
# While S3 does not work, a fresh key begins so often, and so many are in flight.
PROBE_SECONDS = 0.25
MAX_PROBES = 4
# With so few failures while S3 was taken to be down, it was not for long, and no backlog has grown.
SHORT_PAUSES = 8
# Of so many keys it is remembered that they fail while others succeed. If more do, S3 is what fails.
MAX_FAILING_KEYS = 64
# SlowDowns within so many seconds are answers to one and the same pace.
SAME_EVENT_SECONDS = 1.0
# An upload takes about 200 µs of a busy event loop, waiting for the interpreter's lock included
# (`python -m bench --case reads_while_flushing`): so many leave requests more than nine tenths of it, or half.
MAX_GAP = 1 / 200
BACKLOG_GAP = 1 / 2500
FIRST_GAP = 0.0003
# Requests need the loop if there are so many of them a second, and it works for so much of the time. The share is
# of processor time: what the loop waits for the interpreter's lock is not in it.
BUSY_REQUESTS = 500
BUSY_SHARE = 0.4
# Timers are no finer than a millisecond, so some uploads may begin together.
BURST_SECONDS = 0.005


class UploadThrottle:
    """At most `max_uploads` uploads at once. Times are monotonic seconds; `rng` returns numbers in [0, 1)."""

    def __init__(self, max_uploads: int, rng: Callable[[], float]) -> None:
        self.max_uploads = max_uploads
        self.down = False
        self._limit = float(max_uploads)
        self._rng = rng
        self._failures = 0
        # Since the last success, and before it: keys that failed.
        self._failed: dict[bytes, None] = {}
        self._failed_alone: dict[bytes, None] = {}
        self._probe_at = float("-inf")
        # While S3 does not work, whether the next fresh key is the newest one: those at the front may be the ones
        # that always fail, with all others behind them.
        self.newest_first = False
        self._pauses = 0
        self._pause_until = 0.0
        self._halved_at = float("-inf")
        self._gap = 0.0
        self._next_at = 0.0

    @property
    def limit(self) -> int:
        """How many may be under way at once."""
        return 1 if self.down else max(1, int(self._limit))

    def wait(self, now: float, slots: UploadSlots, *, retry: bool, fresh_wait: bool) -> float:
        """Return the seconds until an upload of this kind may begin; infinite as long as there is no slot for it.

        `fresh_wait`: fresh keys wait for a slot, so that retries have few.
        """
        if self.down and not retry:
            return float("inf") if slots.fresh >= MAX_PROBES else max(0.0, self._probe_at - now)
        if not slots.has_slot(self.limit, retry=retry, fresh_wait=fresh_wait):
            return float("inf")
        return max(0.0, self._pause_until - now, self._next_at - now)

    def began(self, now: float, *, retry: bool) -> None:
        """An upload begins."""
        if not retry:
            self._probe_at = now + PROBE_SECONDS
            self.newest_first = self.down and not self.newest_first
        self._next_at = max(self._next_at, now - BURST_SECONDS) + self._gap

    def load(self, loop_share: float, requests_per_second: float, *, backlog: bool) -> None:
        """The share of the time that the event loop was at work lately, and how many requests it served."""
        if loop_share > BUSY_SHARE and requests_per_second > BUSY_REQUESTS:
            self._gap = min(max(self._gap, FIRST_GAP) * 3, MAX_GAP)
        else:
            self._gap = self._gap * 0.8 if self._gap > FIRST_GAP / 4 else 0.0
        if backlog:
            self._gap = min(self._gap, BACKLOG_GAP)

    def succeeded(self, key: bytes) -> bool:
        """S3 took a write of `key`; whether it is news that it takes writes."""
        news, self.down = self.down, False
        if news:
            if self._pauses > SHORT_PAUSES:
                self._limit = self.max_uploads / 4
            self._pause_until = 0.0
        self._failures = 0
        self._pauses = 0
        if self._failed:
            self._failed_alone |= self._failed
            self._failed.clear()
            while len(self._failed_alone) > MAX_FAILING_KEYS:
                del self._failed_alone[next(iter(self._failed_alone))]
        self._failed_alone.pop(key, None)
        self._limit = min(float(self.max_uploads), self._limit + 1.0 / self._limit)
        return news

    def throttled(self, now: float) -> None:
        """S3 said SlowDown."""
        if now - self._halved_at >= SAME_EVENT_SECONDS:
            self._halved_at = now
            self._limit = max(1.0, self._limit / 2)
            self._pause(now)

    def failed(self, now: float, key: bytes) -> bool:
        """S3 did not do what it should with `key`; whether it is news that it is down."""
        if key in self._failed_alone and not self.down:
            return False
        self._failures += 1
        if len(self._failed) < MAX_FAILING_KEYS:
            self._failed[key] = None
        if self._failures < DOWN_AFTER or len(self._failed) < DOWN_KEYS:
            return False
        news, self.down = not self.down, True
        self._pause(now)
        return news

    def _pause(self, now: float) -> None:
        self._pauses += 1
        self._pause_until = now + BACKOFF.delay(self._pauses, self._rng)
