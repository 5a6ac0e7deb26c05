"""Pure. RATE_LIMIT: a token bucket of `rate` requests a second, with a burst of one second's worth."""

from __future__ import annotations

from milena_common.api.errors import RateLimited


class TokenBucket:
    """Starts full. Time is passed in, in seconds on any clock that does not go back; a rate of 0 is no limit.

    `rejected` counts the requests that found too few tokens.
    """

    __slots__ = ("_burst", "_filled_at", "_tokens", "rate", "rejected")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.rejected = 0
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._filled_at = now

    def take(self, now: float, n: int = 1) -> float:
        """Take `n` tokens at once and return 0, or none and return the seconds until there are enough.

        More than a burst are taken when the bucket is full, and those that come later wait for it.
        """
        if not self.rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        enough = min(n, self._burst)
        if self._tokens >= enough:
            self._tokens -= n
            return 0.0
        self.rejected += n
        return (enough - self._tokens) / self.rate


def over_limit(whose: str, rate: float, wait: float) -> RateLimited:
    """The refusal of a request that is welcome in `wait` seconds; `whose` limit it is, as in "the router's"."""
    return RateLimited(
        f"over {whose} RATE_LIMIT of {rate:g} requests a second; try again in {wait * 1000:.0f} ms", wait
    )
