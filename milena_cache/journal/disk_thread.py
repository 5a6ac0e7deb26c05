"""Coordination. The thread in which the journal's disk commits: one piece of work after the other.

A commit costs a lone write two changes of threads, so they are kept cheap: one queue in C, and one future, which
belongs to the event loop. An executor has a future of its own beside it, with a lock, and a semaphore.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

_Work = tuple[asyncio.AbstractEventLoop, asyncio.Future[None], Callable[[], None]]


class DiskThread:
    """A thread that begins with the first work. It does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Begin `work` when all before is done; the future is done when it is, and raises what it has raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._thread is None:
            self._thread = Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((loop, future, work))
        return future

    def close(self) -> None:
        """Return when the thread has ended, after all work; no work may be given to it any more."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _serve(self) -> None:
        while (given := self._queue.get()) is not None:
            loop, future, work = given
            error: BaseException | None = None
            try:
                work()
            except BaseException as failure:  # for the caller, whatever it is: the thread goes on
                error = failure
            with suppress(RuntimeError):  # the event loop has ended, and with it the caller
                loop.call_soon_threadsafe(_resolve, future, error)
            del given, loop, future, work, error  # not while it waits for the next


def _resolve(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
