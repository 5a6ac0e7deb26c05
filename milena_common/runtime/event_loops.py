"""Coordination. Binds a client's connections to an event loop.

Connections, tasks and futures belong to the event loop in which they were created, and a client is often created
for the whole process and used in several calls of `asyncio.run()`, one after another. Each of these has its own
loop and closes it at its end, and with it the connections. So a client reconnects when its loop is closed. A loop
that is not closed may still run, in another thread: its objects cannot be used or closed from here, and a client
with calls from both loops would await futures of a loop that never wakes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident

from milena_common.api.errors import FailedPrecondition

ELSEWHERE = (
    "this client belongs to another event loop, which is not closed: make a client in each event loop, or close "
    "the loop before the next one is used, as asyncio.run() does"
)


def _never() -> bool:
    return False


class Home:
    """The event loop that an object belongs to. `begin_anew` discards the state that belongs to a closed loop.

    A loop that runs in this thread is the running one. So `is_running()` and `thread` identify it without
    `asyncio.get_running_loop()`, which in Python 3.11 is a system call, paid by every read.
    """

    __slots__ = ("_begin_anew", "_loop", "is_running", "thread")

    def __init__(self, begin_anew: Callable[[], None]) -> None:
        self._begin_anew = begin_anew
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_running: Callable[[], bool] = _never
        self.thread = 0

    def here(self) -> bool:
        """True if it is the running loop."""
        return self.is_running() and self.thread == get_ident()

    def adopt(self) -> None:
        """Bind to the running loop. Raises FailedPrecondition if bound to another one that is not closed."""
        if self.here():
            return
        loop = asyncio.get_running_loop()
        if self._loop is not None and loop is not self._loop:
            if not self._loop.is_closed():
                raise FailedPrecondition(ELSEWHERE)
            self._begin_anew()
        self._loop = loop
        self.is_running = loop.is_running
        self.thread = get_ident()

    def leave_loop(self) -> None:
        """Unbind, as in a forked process, where the parent's loop can never run."""
        self._loop = None
        self.is_running = _never
        self.thread = 0
