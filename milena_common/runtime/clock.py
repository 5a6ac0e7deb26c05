"""Shell. Time, as a Protocol, so that tests pass it in and nothing sleeps in them."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Clocks and a way to wait."""

    def now(self) -> float:
        """Seconds on a clock that never goes back; its zero means nothing."""

    def wall(self) -> float:
        """Seconds since 1970."""

    def cpu(self) -> float:
        """Seconds of processor time that the calling thread has used."""

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later."""


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    cpu = staticmethod(time.thread_time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
