"""Pure. Concludes from heartbeats whether events arrive in time, and so up to which age entries count as fresh.

A heartbeat is an object that a node of the ring writes each HEARTBEAT_SECONDS. Its event, which S3 sends the same
way as all others, tells when it was written. While the newest one is recent, all changes since the *first* of an
unbroken row of them are taken to have arrived, but for those of the last MAX_LAG_SECONDS. An entry that S3 has
confirmed since that first heartbeat is as good as fresh, and no other: what an outage of the queue has swallowed is
not trusted afterwards. So the age grows with the time for which events have been arriving, from nothing up to
EVENTS_TTL_SECONDS, and is nothing again when they stop.
"""

from __future__ import annotations

from typing import Final

# Seconds between two heartbeats.
HEARTBEAT_SECONDS: Final = 60.0
# Events that are later than this are no reason to serve an entry longer.
MAX_LAG_SECONDS: Final = 120.0
# By which S3's clock and this machine's may differ, in seconds, before S3's replaces it (`CorrectedClock`): it is
# taken off the ages.
CLOCK_SECONDS: Final = 60.0


class Trust:
    """What one node knows of the lateness of events. `max_age`: EVENTS_TTL_SECONDS.

    Only the moment at which a heartbeat was written is by the time of day; what is kept is monotonic, so that a
    clock that is set back makes no old heartbeat a recent one.
    """

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._last_written = float("-inf")
        # Of the newest heartbeat, and of the first of the unbroken row that it belongs to; monotonic seconds.
        self._newest: float | None = None
        self._since = 0.0

    def heartbeat(self, written_at: float, wall: float, now: float) -> None:
        """Record the event of a heartbeat that S3 has got at `written_at`; in any order, and any number of times.

        `written_at` and `wall`, the time of day now, are seconds since 1970; `now` is monotonic seconds.
        """
        if written_at <= self._last_written:
            return
        self._last_written = written_at
        at = now - max(0.0, wall - written_at)
        if not self.is_trusted(now):
            self._since = at
        self._newest = at

    def lag(self, now: float) -> float | None:
        """Return the seconds since the newest heartbeat that has arrived was written; None before the first."""
        return None if self._newest is None else now - self._newest

    def is_trusted(self, now: float) -> bool:
        """True while events arrive in time."""
        lag = self.lag(now)
        return lag is not None and lag <= HEARTBEAT_SECONDS + MAX_LAG_SECONDS

    def max_fresh_age(self, now: float) -> float:
        """Return the age in seconds up to which events vouch for an entry; 0: they do not."""
        if not self.is_trusted(now):
            return 0.0
        return max(0.0, min(self._max_age, now - self._since - CLOCK_SECONDS))

    def seconds_left(self, now: float) -> float:
        """Return for how many seconds they do so without another heartbeat."""
        lag = self.lag(now)
        return 0.0 if lag is None else max(0.0, HEARTBEAT_SECONDS + MAX_LAG_SECONDS - lag)
