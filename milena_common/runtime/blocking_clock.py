"""Shell. Time for threads, as a Protocol, so that tests pass it in and nothing sleeps in them."""

from __future__ import annotations

import time
from typing import Protocol


class BlockingClock(Protocol):
    """What `milena_common.runtime.clock.Clock` is to a coroutine, for a thread."""

    def now(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""

    def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""


class BlockingSystemClock:
    """The machine's clock."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
