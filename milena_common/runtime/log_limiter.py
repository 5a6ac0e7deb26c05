"""Pure. Bounds the log lines of one kind of event per period, and counts the suppressed ones.

An event that peers can cause at any rate must not fill the disk or hide other lines. The next line that is logged
reports how many were suppressed.
"""

from __future__ import annotations

MAX_LINES = 20
PERIOD_SECONDS = 60.0


class LogLimiter:
    """Allows MAX_LINES lines in PERIOD_SECONDS, and counts the suppressed ones. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._lines = 0
        self._suppressed = 0

    def allow(self, now: float) -> bool:
        """Return True if one more line may be logged at `now`."""
        if now - self._began >= PERIOD_SECONDS:
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines > MAX_LINES:
            self._suppressed += 1
            return False
        return True

    def suppressed(self) -> str:
        """Return a text with the number of lines suppressed since the last call; "" if none."""
        suppressed, self._suppressed = self._suppressed, 0
        return f" (and {suppressed} others)" if suppressed else ""
