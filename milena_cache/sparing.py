"""Pure. Lets the log say what happens to single keys, until it happens to so many that nobody would read it."""

from __future__ import annotations

MOST = 20
PERIOD_SECONDS = 60.0


class Sparing:
    """At most `MOST` lines in `PERIOD_SECONDS`; what was left out is counted. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._said = 0
        self._left_out = 0

    def may_say(self, now: float) -> bool:
        """Whether this one may have a line."""
        if now - self._began >= PERIOD_SECONDS:
            self._began, self._said = now, 0
        self._said += 1
        if self._said > MOST:
            self._left_out += 1
            return False
        return True

    def and_more(self) -> str:
        """Words for those that had none since the last time."""
        left_out, self._left_out = self._left_out, 0
        return f" (and {left_out} others)" if left_out else ""
