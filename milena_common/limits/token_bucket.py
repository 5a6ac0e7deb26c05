"""Pure. RATE_LIMIT: a token bucket of `rate` requests a second, with a burst of one second's worth.

Router and nodes take a token before any other work for a request. The error of a rejected
request has the seconds after which to repeat it.
"""

from __future__ import annotations

from milena_common.api.errors import RateLimited


class TokenBucket:
    """A bucket that starts full. Times are seconds on any monotonic clock; a rate of 0 is no limit.

    `rejected` counts the requests for which there were too few tokens.
    """

    __slots__ = ("_burst", "_filled_at", "_tokens", "rate", "rejected")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.rejected = 0
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._filled_at = now

    def take_tokens(self, now: float, n: int = 1) -> float:
        """Take `n` tokens at once and return 0, or none and return the seconds until there are enough.

        More tokens than a burst are taken when the bucket is full; later requests wait until that debt is refilled.
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
    """Return the error for a request over the limit, to be repeated in `wait` seconds.

    `whose` names the owner of the limit, as in "the router's".
    """
    return RateLimited(
        f"over {whose} RATE_LIMIT of {rate:g} requests a second; try again in {wait * 1000:.0f} ms", wait
    )
