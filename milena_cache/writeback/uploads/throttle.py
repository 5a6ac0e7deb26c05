"""Pure. The upload throttle: how many uploads may be in flight, and when the next one may begin.

Three conditions limit the rate of write-back:

- *S3 replies SlowDown*: the limit is halved, and uploads pause. Each round of successes raises it by one. (Additive
  increase, multiplicative decrease: Chiu and Jain, 1989, as in TCP.)
- *S3 is down*: after `DOWN_AFTER` failures in a row, of at least `DOWN_KEYS` different keys, one retry at a time,
  with growing pauses, until one upload succeeds. After an outage of more than `SHORT_PAUSES` pauses the limit
  starts
  at a quarter, so that the backlog does not arrive all at once. Failures of few keys, or of keys that failed while
  others succeeded, do not count. New keys are still tried, one in `PROBE_SECONDS`: only the failed ones may be bad.
- *Requests need the event loop, which uploads share*: meanwhile the gap between uploads grows up to `MAX_GAP`
  seconds, and shrinks again afterwards. For a backlog that is large or old it is at most `BACKLOG_GAP`.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_cache.writeback.uploads.slots import UploadSlots
from milena_common.runtime.backoff import Backoff

BACKOFF = Backoff(first=0.1, max_delay=5.0)
DOWN_AFTER = 8
DOWN_KEYS = 3
# While S3 is down: seconds between uploads of new keys, and how many of them may be in flight.
PROBE_SECONDS = 0.25
MAX_PROBES = 4
# An outage with at most this many pauses was short, and no backlog has grown.
SHORT_PAUSES = 8
# Keys that are remembered as failing while others succeed. If more keys fail, the cause is S3.
MAX_FAILING_KEYS = 64
# SlowDowns within this many seconds are replies to one rate, and halve the limit once.
SAME_EVENT_SECONDS = 1.0
# An upload takes about 200 µs of a busy event loop, waiting for the interpreter's lock included, and 500 µs of
# processor time with obstore's threads (`python -m bench --case reads_while_flushing`; a drain of 4,900 took
# 2.4 s): 120 a second leave requests more than nine tenths of a core, 2500 a second leave them half of the loop.
MAX_GAP = 1 / 120
BACKLOG_GAP = 1 / 2500
FIRST_GAP = 0.0003
# Requests need the loop if there are more of them a second, and it works for a larger share of the time. The share
# is of processor time: the loop's waits for the interpreter's lock are not in it.
BUSY_REQUESTS = 500
BUSY_SHARE = 0.4
# Timers are no finer than a millisecond, so some uploads may begin together.
BURST_SECONDS = 0.005


class UploadThrottle:
    """Allows `max_uploads` uploads at once. Times are monotonic seconds; `rng` returns numbers in [0, 1)."""

    def __init__(self, max_uploads: int, rng: Callable[[], float]) -> None:
        self.max_uploads = max_uploads
        self.down = False
        self._limit = float(max_uploads)
        self._rng = rng
        self._failures = 0
        # Keys that failed since the last success; keys that failed before it, while others succeeded.
        self._failed: dict[bytes, None] = {}
        self._failed_alone: dict[bytes, None] = {}
        self._probe_at = float("-inf")
        # While S3 is down, True if the next new key is the newest instead of the oldest: those at the front may be
        # the ones that always fail, with all others behind them.
        self.newest_first = False
        self._pauses = 0
        self._pause_until = 0.0
        self._halved_at = float("-inf")
        self._gap = 0.0
        self._next_at = 0.0

    @property
    def limit(self) -> int:
        """Return how many uploads may be in flight."""
        return 1 if self.down else max(1, int(self._limit))

    def wait(self, now: float, slots: UploadSlots, *, retry: bool, fresh_wait: bool) -> float:
        """Return the seconds until an upload of this kind may begin; infinite while there is no slot for it.

        `fresh_wait`: new keys wait for a slot, so retries have only a quarter of them.
        """
        if self.down and not retry:
            return float("inf") if slots.fresh >= MAX_PROBES else max(0.0, self._probe_at - now)
        if not slots.has_slot(self.limit, retry=retry, fresh_wait=fresh_wait):
            return float("inf")
        return max(0.0, self._pause_until - now, self._next_at - now)

    def began(self, now: float, *, retry: bool) -> None:
        """Record that an upload begins."""
        if not retry:
            self._probe_at = now + PROBE_SECONDS
            self.newest_first = self.down and not self.newest_first
        self._next_at = max(self._next_at, now - BURST_SECONDS) + self._gap

    def load(self, loop_share: float, requests_per_second: float, *, backlog: bool) -> None:
        """Set the gap between uploads from a sample of the event loop.

        loop_share: processor time over elapsed time since the last sample.
        requests_per_second: requests served in that time.
        backlog: True if the dirty entries are many or old; the gap is then at most BACKLOG_GAP.
        """
        if loop_share > BUSY_SHARE and requests_per_second > BUSY_REQUESTS:
            self._gap = min(max(self._gap, FIRST_GAP) * 3, MAX_GAP)
        else:
            self._gap = self._gap * 0.8 if self._gap > FIRST_GAP / 4 else 0.0
        if backlog:
            self._gap = min(self._gap, BACKLOG_GAP)

    def succeeded(self, key: bytes) -> bool:
        """Record that a write of `key` reached S3; return True if S3 counted as down until now."""
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
        """Record a SlowDown reply of S3."""
        if now - self._halved_at >= SAME_EVENT_SECONDS:
            self._halved_at = now
            self._limit = max(1.0, self._limit / 2)
            self._pause(now)

    def failed(self, now: float, key: bytes) -> bool:
        """Record an upload of `key` that failed by S3's fault; return True if S3 counts as down from now on."""
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
