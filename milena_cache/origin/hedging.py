"""Coordination. A read that is sent once more if its response does not begin in time; the first response counts.

Nearly all responses begin in time, so the first request runs in the caller's own task, beside one timer: a task for
it would be a tenth of a miss's processor time. If the second request is the first to have a result, the caller's
task is cancelled inside the first one, as `asyncio.timeout` does it, and returns the result of the second.

The interleaving to take care of: (1) the second request has its response, and cancels the task; (2) before the task
runs, its own caller cancels it too. `Task.cancelling` counts both, and the caller's cancellation is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from milena_cache.objects.object_store import OriginFailure

T = TypeVar("T")


class Hedge(Generic[T]):
    """One read. `again` sends it a second time, `after` seconds after the first if `allowed` returns True then.

    began: True when the headers of the first response have arrived; then there is no second request
    """

    __slots__ = ("_after", "_again", "_allowed", "_decided", "_second", "_task", "began")

    def __init__(
        self, again: Callable[[], Coroutine[Any, Any, T]], allowed: Callable[[], bool], after: float
    ) -> None:
        self.began = False
        self._again = again
        self._allowed = allowed
        self._after = after
        self._decided = False
        self._second: asyncio.Task[T] | None = None
        self._task: asyncio.Task[Any] | None = None

    def has_begun(self) -> None:
        """Record that the headers of the first response have arrived."""
        self.began = True

    async def first_result(self, sending: Awaitable[T]) -> tuple[T, bool]:
        """Await `sending`, the first request; return the first response, and True if it is the second request's.

        A transient failure does not count while the other request may still succeed; any other failure does.
        Raises OriginFailure.
        """
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        timer = asyncio.get_running_loop().call_later(self._after, self._begin_second)
        try:
            try:
                return await sending, False
            except asyncio.CancelledError:
                if not self._decided or task.uncancel() > cancelling:
                    raise
            except OriginFailure as failure:
                if self._second is None or not failure.fault.retryable:
                    raise
            self._task = None
            assert self._second is not None
            return await self._second, True
        finally:
            timer.cancel()
            self._task = None
            second, self._second = self._second, None
            if second is not None and not second.cancel() and not second.cancelled():
                second.exception()  # retrieved, so that asyncio does not log it
            del task, second  # they hold exceptions whose tracebacks have this frame

    def _begin_second(self) -> None:
        if not self.began and self._allowed():
            self._second = asyncio.get_running_loop().create_task(self._again())
            self._second.add_done_callback(self._second_done)

    def _second_done(self, second: asyncio.Task[T]) -> None:
        if self._task is None or second.cancelled():
            return
        error = second.exception()
        if isinstance(error, OriginFailure) and error.fault.retryable:
            self._second = None  # the first request goes on alone
        else:
            self._decided = True
            self._task.cancel()
