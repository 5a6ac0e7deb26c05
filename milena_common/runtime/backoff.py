"""Pure. How long to wait before trying again: exponential with full jitter.

Full jitter (a uniform draw below the exponential bound) spreads the retries of many callers best; source:
Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: below `first` after the first failure, doubling up to `max_delay`.

    A delay is never less than a tenth of its bound, so that a small draw does not make a busy loop.
    """

    first: float
    max_delay: float

    def delay(self, failures: int, rng: Callable[[], float]) -> float:
        """Seconds to wait after `failures` (1, 2, …) in a row; `rng` gives numbers in [0, 1)."""
        bound = min(self.max_delay, self.first * 2.0 ** min(failures - 1, 32))
        return bound * (0.1 + 0.9 * rng())
