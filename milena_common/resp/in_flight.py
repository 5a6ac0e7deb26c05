"""Coordination. One connection's share of the process's budget of bytes in flight.

Bytes that *arrive* are taken from the budget before they are read: once the length of an argument is known, the
budget must have room for all of it, or the connection reads nothing until it has. Taking room as the bytes come
would deadlock: (1) each of many connections has read half of a large argument; (2) the budget is used up; (3) none
can read the rest, and none releases anything.

Bytes that are *held* exist anyway: those of commands in flight and of unsent replies. They are counted whether or
not there is room, and arriving bytes wait for them.

Fewer than SMALL bytes are not counted: an idle connection takes about as much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from milena_common.limits.byte_budget import ByteBudget

SMALL: Final = 64 * 1024
# How often a large argument is in memory at the same time: as it was read, and in the record that waits to be
# written to the journal.
COPIES: Final = 2


class InFlight:
    """The bytes of one connection.

    granted: called when bytes for which the connection waited may be read
    since: since when the connection waits for room, monotonic seconds; 0 if it does not
    """

    __slots__ = ("_arriving", "_budget", "_granted", "_held", "_requested", "since")

    def __init__(self, budget: ByteBudget, granted: Callable[[], None]) -> None:
        self._budget = budget
        self._granted = granted
        self._arriving = 0
        self._held = 0
        self._requested: tuple[int, asyncio.Future[None]] | None = None
        self.since = 0.0

    @property
    def counted(self) -> bool:
        """True if any bytes are counted or requested, so that changes have to be reported."""
        return bool(self._arriving or self._held or self._requested)

    @property
    def over(self) -> bool:
        """True if the process's bytes in flight exceed the limit."""
        return self._budget.used > self._budget.limit

    def hold(self, size: int) -> None:
        """Set the bytes held to `size`."""
        size = size if size >= SMALL else 0
        before, self._held = self._held, size
        if size > before:
            self._budget.add(size - before)
        elif size < before:
            self._budget.release(before - size)

    def arrive(self, size: int, now: float) -> bool:
        """Set the bytes arriving to `size`; False if there is no room yet. `now` is monotonic seconds.

        After False nothing may be read until `granted` is called. Raises Overloaded if too many requests wait.
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
        # The grant and `cancel` or `reject` may come in the same round of the loop: (1) the budget sets the
        # future's result; (2) the connection gives up, and the budget takes the bytes back; (3) this callback runs,
        # and must not count bytes that it no longer has.
        if self._requested is None or self._requested[1] is not future:
            return
        self._arriving += self._requested[0]
        self._requested = None
        self.since = 0.0
        self._granted()

    def cancel(self) -> None:
        """Stop waiting for room, since the connection closes."""
        self._stop_waiting(self._budget.abandon)

    def reject(self) -> None:
        """Stop waiting for room, since the time is up; counted as rejected."""
        self._stop_waiting(self._budget.reject)

    def _stop_waiting(self, end: Callable[[int, asyncio.Future[None]], None]) -> None:
        if self._requested is not None:
            size, future = self._requested
            self._requested = None
            self.since = 0.0
            end(size, future)

    def release_all(self) -> None:
        """Release all bytes, and stop waiting."""
        self.cancel()
        self.hold(0)
        if self._arriving:
            self._budget.release(self._arriving)
            self._arriving = 0
