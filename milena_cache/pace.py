"""Pure. How many uploads may be under way at once, and when none shall begin.

Three things set the pace of write-back:

- *S3 says SlowDown*: half as many, and a pause. One more for each round of successes. (Additive increase,
  multiplicative decrease: Chiu and Jain, 1989, as TCP does.)
- *S3 does not work*: after `DOWN_AFTER` failures in a row one upload at a time, with growing pauses, until one
  succeeds. A backlog then comes back at a quarter of the full number, not all at once.
- *Requests need the event loop, which uploads share with them*: while they do, uploads begin ever more rarely,
  down to one in `LEAST_GAP`, and when they do not, ever more often again. A backlog that is large or old gets
  `BACKLOG_GAP`.
"""

from __future__ import annotations

from collections.abc import Callable

from milena_common.backoff import Backoff

BACKOFF = Backoff(first=0.1, most=5.0)
DOWN_AFTER = 8
# SlowDowns within so many seconds are answers to one and the same pace.
SAME_EVENT_SECONDS = 1.0
# An upload takes about 200 µs of a busy event loop, waiting for the interpreter's lock included
# (`python -m bench --case reads_while_flushing`): so many leave requests more than nine tenths of it, or half.
LEAST_GAP = 1 / 200
BACKLOG_GAP = 1 / 2500
FIRST_GAP = 0.0003
# Requests need the loop if there are so many of them a second, and it works for so much of the time. The share is
# of processor time: what the loop waits for the interpreter's lock is not in it.
BUSY_REQUESTS = 500
BUSY_SHARE = 0.4
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

    def load(self, loop_share: float, requests_per_second: float, *, backlog: bool) -> None:
        """The share of the time that the event loop was at work lately, and how many requests it served."""
        if loop_share > BUSY_SHARE and requests_per_second > BUSY_REQUESTS:
            self._gap = min(max(self._gap, FIRST_GAP) * 3, LEAST_GAP)
        else:
            self._gap = self._gap * 0.8 if self._gap > FIRST_GAP / 4 else 0.0
        if backlog:
            self._gap = min(self._gap, BACKLOG_GAP)

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
