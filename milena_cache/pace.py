"""Pure. How many uploads may be under way at once, and when none shall begin.

Three things set the pace of write-back:

- *S3 says SlowDown*: half as many, and a pause. One more for each round of successes. (Additive increase,
  multiplicative decrease: Chiu and Jain, 1989, as TCP does.)
- *S3 does not work*: after `DOWN_AFTER` failures in a row one upload at a time, with growing pauses, until one
  succeeds. A backlog then comes back at a quarter of the full number, not all at once.
- *Requests share the event loop with it*: uploads get the part of the loop's time that requests leave, and never
  less than `LEAST_SHARE`. Where both together fill the loop, the share shrinks a little with each sample, so that
  requests win slowly but surely. A backlog over half of its budget gets `BACKLOG_SHARE`.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_common.backoff import Backoff

BACKOFF = Backoff(first=0.1, most=5.0)
DOWN_AFTER = 8
# SlowDowns within so many seconds are answers to one and the same pace.
SAME_EVENT_SECONDS = 1.0
# What an upload costs the event loop, in seconds (`python -m bench --case flush`). If it is wrong by half, the
# uploads' share of an idle loop is still found within some samples.
UPLOAD_COST = 0.0002
LEAST_SHARE = 0.1
BACKLOG_SHARE = 0.5
FULL_SHARE = 0.95
# Timers are no finer than a millisecond, so some uploads may begin together.
BURST_SECONDS = 0.005


class Pace:
    """`most` uploads at once when all is well. Times are monotonic seconds; `draw` gives numbers in [0, 1)."""

    def __init__(self, most: int, draw: Callable[[], float]) -> None:
        self.most = most
        self.down = False
        self._limit = float(most)
        self._draw = draw
        self._failures = 0
        self._pauses = 0
        self._pause_until = 0.0
        self._halved_at = float("-inf")
        self._gap = 0.0
        self._next_at = 0.0

    @property
    def limit(self) -> int:
        """How many may be under way at once."""
        return 1 if self.down else max(1, int(self._limit))

    def wait(self, now: float, under_way: int) -> float:
        """Seconds until the next may begin; infinite as long as so many are under way."""
        if under_way >= self.limit:
            return float("inf")
        return max(0.0, self._pause_until - now, self._next_at - now)

    def began(self, now: float) -> None:
        """An upload begins."""
        self._next_at = max(self._next_at, now - BURST_SECONDS) + self._gap

    def load(self, loop_share: float, uploads_per_second: float, *, backlog: bool) -> None:
        """The share of its time that the event loop was at work, and what of that were uploads, lately."""
        requests = loop_share - uploads_per_second * UPLOAD_COST
        least = BACKLOG_SHARE if backlog else LEAST_SHARE
        self._gap = UPLOAD_COST / max(least, FULL_SHARE - requests)

    def succeeded(self) -> bool:
        """Whether it is news that S3 takes writes."""
        news, self.down = self.down, False
        if news:
            self._limit = self.most / 4
            self._pause_until = 0.0
        self._failures = 0
        self._pauses = 0
        self._limit = min(float(self.most), self._limit + 1.0 / self._limit)
        return news

    def throttled(self, now: float) -> None:
        """S3 said SlowDown."""
        if now - self._halved_at >= SAME_EVENT_SECONDS:
            self._halved_at = now
            self._limit = max(1.0, self._limit / 2)
            self._pause(now)

    def failed(self, now: float) -> bool:
        """S3 did not do what it should; whether it is news that it is down."""
        self._failures += 1
        if self._failures < DOWN_AFTER:
            return False
        news, self.down = not self.down, True
        self._pause(now)
        return news

    def _pause(self, now: float) -> None:
        self._pauses += 1
        self._pause_until = now + BACKOFF.delay(self._pauses, self._draw)
