"""Shell. Time as a Protocol for threads, so that tests pass a fake clock and never sleep.

The client for threads takes one; everything in an event loop takes `milena_common.runtime.clock`.
"""

from __future__ import annotations

import time
from typing import Protocol


class BlockingClock(Protocol):
    """The counterpart of `milena_common.runtime.clock.Clock` for threads."""

    def now(self) -> float:
        """Return seconds on a monotonic clock, whose zero is arbitrary."""

    def sleep(self, seconds: float) -> None:
        """Block for `seconds`."""


class BlockingSystemClock:
    """The machine's clock."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
