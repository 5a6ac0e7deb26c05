"""Coordination. Wakes the write-back loop at a time, with one timer for many waits.

The loop waits twice for each upload. A task for the timer and one for the event, created and cancelled each time,
would be a tenth of an upload's processor time. So the timer stays until it has gone off: if it is due earlier than
the next wait needs, the loop wakes once for nothing.
"""

from __future__ import annotations

import asyncio
from math import inf

from milena_common.runtime.clock import Clock


class Alarm:
    """Sets `wake` at a time, unless it is set before."""

    def __init__(self, wake: asyncio.Event, clock: Clock) -> None:
        self._wake = wake
        self._clock = clock
        self._due = inf
        self._timer: asyncio.Task[None] | None = None

    async def wait(self, until: float) -> None:
        """Return at `until`, in monotonic seconds, or when the event is set, or earlier; the event is cleared."""
        self.ring_by(until)
        await self._wake.wait()
        self._wake.clear()

    def ring_by(self, until: float) -> None:
        """Set the event at `until`, in monotonic seconds, or earlier; whoever waits already is woken then too."""
        if until < self._due:
            self.cancel()
            self._due = until
            self._timer = asyncio.get_running_loop().create_task(self._set_at(until))

    async def _set_at(self, due: float) -> None:
        await self._clock.sleep(due - self._clock.now())
        self._due = inf
        self._wake.set()

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = inf
