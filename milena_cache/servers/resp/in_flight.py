"""Coordination. What one connection takes of the process's budget of bytes in flight.

Bytes that *arrive* are taken from the budget before they are read: when the length of an argument has come, there
must be room for all of it, or the connection reads nothing until there is. Bytes that are *held* are there anyway:
commands that have begun, and answers that the client has not taken. They are counted whether or not there is room,
and what arrives waits for them.

Less than SMALL bytes are not counted: a connection takes about as much by being there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from milena_common.limits.byte_budget import ByteBudget

SMALL: Final = 64 * 1024
# Copies of a large argument that exist at the same time: the one that was read, and the one in the record that
# waits to be written to the journal.
COPIES: Final = 2


class InFlight:
    """The bytes of one connection. `granted` is called when bytes that were waited for may be read."""

    __slots__ = ("_arriving", "_budget", "_granted", "_held", "_requested", "since")

    def __init__(self, budget: ByteBudget, granted: Callable[[], None]) -> None:
        self._budget = budget
        self._granted = granted
        self._arriving = 0
        self._held = 0
        self._requested: tuple[int, asyncio.Future[None]] | None = None
        self.since = 0.0  # monotonic seconds, since when it waits for room; 0 if it does not

    @property
    def counted(self) -> bool:
        """True if any bytes are counted, so that changes have to be told."""
        return bool(self._arriving or self._held or self._requested)

    @property
    def over(self) -> bool:
        """True if more bytes are in flight than the process should have."""
        return self._budget.used > self._budget.limit

    def hold(self, size: int) -> None:
        """Count `size` bytes as held, instead of those before."""
        size = size if size >= SMALL else 0
        before, self._held = self._held, size
        if size > before:
            self._budget.add(size - before)
        elif size < before:
            self._budget.release(before - size)

    def arrive(self, size: int, now: float) -> bool:
        """Count `size` bytes as arriving, instead of those before; False if there is no room yet.

        Then nothing may be read until `granted` is called, or `cancel` is. Raises Overloaded if too many wait.
        """
        if self._requested is not None:
            return False
        size = size if size >= SMALL else 0
        more = size - self._arriving
        if more <= 0:
            self._arriving = size
            if more:
                self._budget.release(-more)
            return True
        future = self._budget.request(more)
        if future.done():
            self._arriving = size
            return True
        self._requested = more, future
        self.since = now
        future.add_done_callback(self._got)
        return False

    def _got(self, future: asyncio.Future[None]) -> None:
        # A grant that was given up in the same round of the loop belongs to nobody any more: see `cancel`.
        if self._requested is None or self._requested[1] is not future:
            return
        self._arriving += self._requested[0]
        self._requested = None
        self.since = 0.0
        self._granted()

    def cancel(self) -> None:
        """Wait for room no longer, since the connection ends."""
        self._stop_waiting(self._budget.abandon)

    def reject(self) -> None:
        """Wait for room no longer, since the time is up."""
        self._stop_waiting(self._budget.reject)

    def _stop_waiting(self, end: Callable[[int, asyncio.Future[None]], None]) -> None:
        if self._requested is not None:
            size, future = self._requested
            self._requested = None
            self.since = 0.0
            end(size, future)

    def end(self) -> None:
        """Give back everything."""
        self.cancel()
        self.hold(0)
        if self._arriving:
            self._budget.release(self._arriving)
            self._arriving = 0
