"""Pure. A token bucket: `rate` requests a second, and a burst of one second's worth."""

from __future__ import annotations


class TokenBucket:
    """Starts full. Time is passed in, in seconds on any clock that does not go back; a rate of 0 is no limit."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take one token and return 0, or return the seconds until there is one."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate
