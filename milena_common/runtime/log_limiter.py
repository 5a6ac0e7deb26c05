"""Pure. Bounds how many log lines one kind of event may have, and counts the rest."""

from __future__ import annotations

MAX_LINES = 20
PERIOD_SECONDS = 60.0


class LogLimiter:
    """Allows MAX_LINES lines in PERIOD_SECONDS, and counts what it did not allow. Times are monotonic seconds."""

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
        """Return words for the lines that were not allowed since the last call; "" if all were."""
        suppressed, self._suppressed = self._suppressed, 0
        return f" (and {suppressed} others)" if suppressed else ""
