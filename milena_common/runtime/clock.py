"""Shell. Time as a Protocol for coroutines, so that tests pass a fake clock and never sleep.

Durations and deadlines use the monotonic clock. The time of day is for what other processes read, such as expiries
and epochs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The clocks of a machine, and a way to wait."""

    def now(self) -> float:
        """Return seconds on a monotonic clock, whose zero is arbitrary."""

    def wall(self) -> float:
        """Return seconds since 1970."""

    def cpu(self) -> float:
        """Return the seconds of processor time that the calling thread has used."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    cpu = staticmethod(time.thread_time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
