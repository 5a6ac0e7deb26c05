"""Pure. How the calls of one client share a rate limit: they take turns.

A router over its limit says when the next request is welcome, and it says the same to all who ask at that
moment. If all came back then, one would get through, and some would be unlucky until their deadline. So a client
hands out turns: each refused call gets the next one, a spacing after the last, and while turns are out, new
calls queue behind them.

The right spacing is not known, and other clients take part of the rate. So it begins with what the router said,
grows when calls are refused though it was their turn (once for the turns that are out, since those were given
with the old spacing), and shrinks a little with each turn.
"""

from __future__ import annotations

_GROWTH = 1.25
_SHRINKING = 0.998


class Pace:
    """The turns of one client. Times are seconds on one monotonic clock.

    Threads may race here, and then two calls have the same turn; the router sorts that out.
    """

    __slots__ = ("_grown_until", "_last_turn", "_spacing")

    def __init__(self) -> None:
        self._last_turn = 0.0
        self._spacing = 0.0
        self._grown_until = 0.0

    @property
    def queued(self) -> bool:
        """Whether calls may be waiting for their turns."""
        return self._last_turn > 0.0

    def refused(self, retry_after: float, now: float, *, had_turn: bool) -> float:
        """Seconds until the turn of a call that was refused; not less than `retry_after`."""
        if self._last_turn <= now and not had_turn:
            self._spacing = retry_after
        elif had_turn and now >= self._grown_until:
            self._spacing *= _GROWTH
            self._grown_until = self._last_turn
        self._spacing = max(self._spacing, retry_after)
        return max(retry_after, self._next_turn(now))

    def wait(self, now: float, most: float) -> float:
        """Seconds until the turn of a new call: 0 while nobody waits, or if it would wait longer than `most`."""
        if self._last_turn <= now:
            self._last_turn = 0.0
            return 0.0
        if self._last_turn + self._spacing - now >= most:
            return 0.0
        return self._next_turn(now)

    def _next_turn(self, now: float) -> float:
        self._last_turn = max(self._last_turn, now) + self._spacing
        self._spacing *= _SHRINKING
        return self._last_turn - now
