"""Pure. How the calls of one client share a rate limit: they queue.

A router over its limit returns the time of the next free request, and the same time to all concurrent callers. If
all of them came back then, one would be admitted, and some would be rejected until their deadline. So a client
assigns start times: each rejected call gets the next one, a spacing after the last, and while start times are in
the future, new calls queue behind them.

The right spacing is not known, and other clients take part of the rate. So it begins with the time that the router
returned, grows when calls are rejected at their start times (once for all start times that have been given, since
those were given with the old spacing), and shrinks a little with each start time.
"""

from __future__ import annotations

_GROWTH = 1.25
_SHRINKING = 0.998


class RateLimitQueue:
    """The queue of one client. Times are seconds on one monotonic clock. Its length is bounded by the deadlines.

    `queued`: True if calls may be waiting for their start times.

    Takes no lock. Two threads that come at once may get the same start time; the router rejects one of them then.
    """

    __slots__ = ("_grown_until", "_last_start", "_spacing", "queued")

    def __init__(self) -> None:
        self.queued = False
        self._last_start = 0.0
        self._spacing = 0.0
        self._grown_until = 0.0

    def rejected(self, retry_after: float, now: float, *, was_queued: bool) -> float:
        """Return the seconds until the start of a call that was rejected at `now`; not less than `retry_after`.

        `was_queued`: it was rejected at a start time of this queue.
        """
        if self._last_start <= now and not was_queued:
            self._spacing = retry_after
        elif was_queued and now >= self._grown_until:
            self._spacing *= _GROWTH
            self._grown_until = self._last_start
        self._spacing = max(self._spacing, retry_after)
        return max(retry_after, self._next_start(now))

    def delay(self, now: float, timeout: float) -> float:
        """Return the seconds until a new call starts: 0 if none is queued, or it would wait `timeout` or longer."""
        if not self.queued:
            return 0.0
        if self._last_start <= now:
            self._last_start = 0.0
            self.queued = False
            return 0.0
        if self._last_start + self._spacing - now >= timeout:
            return 0.0
        return self._next_start(now)

    def _next_start(self, now: float) -> float:
        self._last_start = max(self._last_start, now) + self._spacing
        self.queued = True
        self._spacing *= _SHRINKING
        return self._last_start - now
