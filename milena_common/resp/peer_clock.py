"""Pure. Deadlines on the clock of the node that is to carry out a call.

A timeout counts from when the node reads a call. That is not when its caller sent it:

1. a client puts `a`; a partition holds the call in the buffers of the connection
2. the client gives up, with an unknown outcome, and puts `b` by another way, which is acknowledged
3. the partition ends; the node reads the put of `a`, with its whole timeout before it, and overwrites `b`

So a call that writes carries the time on the node's monotonic clock at which its caller gives up, and a node that
reads it later rejects it. The node's reply to MILENA.HELLO has what its clock showed. The node looked at its clock
before this side read the reply, so the deadline that is computed from both is early, by the way of the reply, and
never late.

The two clocks may drift apart: each is slewed by 500 ppm at most (adjtimex), and all deadlines are early by as much
as both may have gained. The node's time is requested again after RENEW_SECONDS, so that is 30 ms, and 1 ms for each
second of the timeout.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

# Seconds that two clocks may drift apart in each second.
DRIFT: Final = 0.001
# After so many seconds the node's time is requested again, before the next call that needs it.
RENEW_SECONDS: Final = 30.0
# The clock of an event loop has milliseconds, and may show the beginning of one.
TICK_MS: Final = 1


class PeerClock:
    """The monotonic clock of the process at the other end of one connection, as this side knows it.

    All times are seconds on this side's monotonic clock, but for those that the node shows.
    """

    __slots__ = ("_at", "_renew_at", "_shown_ms")

    def __init__(self) -> None:
        self._shown_ms: int | None = None
        self._at = 0.0
        self._renew_at = inf

    def observe(self, reply: Any, now: float) -> None:
        """Take the reply to MILENA.HELLO, which was read before `now`. A node of an older version shows no time."""
        if isinstance(reply, int):
            self._shown_ms = reply
            self._at = now
            self._renew_at = now + RENEW_SECONDS

    def doubt(self) -> None:
        """Have the node's time requested again: it has rejected a call, perhaps as late.

        One of the two machines may have been suspended, with a clock that stood still.
        """
        if self._shown_ms is not None:
            self._renew_at = -inf

    def needs_renewal(self, now: float) -> bool:
        """Return True if the caller has to request the node's time before it computes a deadline.

        Others do not wait for the reply: the deadlines that they get meanwhile are early, and not late. But on a
        connection that has not been used for long, they would be too early for short timeouts.
        """
        if self._shown_ms is None or (now < self._renew_at and now - self._at < 2 * RENEW_SECONDS):
            return False
        self._renew_at = now + RENEW_SECONDS
        return True

    def deadline(self, now: float, seconds: float) -> int | None:
        """Return the node's time in milliseconds when `seconds` from `now` have passed here, or somewhat earlier.

        None if the node shows no time.
        """
        if self._shown_ms is None:
            return None
        return self._shown_ms + int(1000 * (1 - DRIFT) * (now - self._at + seconds)) - TICK_MS
