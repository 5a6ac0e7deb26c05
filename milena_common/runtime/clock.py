"""Shell. Time as a Protocol for coroutines, so that tests pass a fake clock and never sleep.

Durations and deadlines use a monotonic clock. The time of day is for what other processes read, such as expiries
and epochs.

The monotonic clock is CLOCK_BOOTTIME where the system has it (Linux), which goes on while the machine is
suspended: a lease, and the age of an entry, count that time too. `time.monotonic` stands still then; a call of it
takes some 30 ns less, of which a hit over a socket has two, in 20 µs or more. Event loops use it, so that a sleep
may last longer than it should, and never ends early.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
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


def monotonic_ms(clock: Clock) -> int:
    """Return `clock`'s monotonic time in whole milliseconds, as deadlines between processes have it."""
    return int(1000 * clock.now())


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(
        partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
    )
    wall = staticmethod(time.time)
    cpu = staticmethod(time.thread_time)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
