"""Shell. An object as a file that is written, in an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from milena_client.core.files.upload_steps import UploadStep, UploadSteps
from milena_client.core.values import Value, Written
from milena_common.api.errors import MilenaError

# Sends a step; one that is the first and the last is a put. Raises MilenaError.
Send = Callable[[UploadStep], Awaitable[Written]]


class AsyncObjectWriter:
    """An object that is being written, as `AsyncMilena.open` returns it. For one task at a time.

    - `written`: the ETag, node and durability of the object, once `close` has returned; None before.

    Nothing of it is visible before `close`. After an error, and at the end of an ``async with`` that raised one,
    nothing is stored. It keeps at most 4 MiB.
    """

    def __init__(self, send: Send, max_value_bytes: int) -> None:
        self.written: Written | None = None
        self._send = send
        self._steps = UploadSteps(max_value_bytes)
        self._closed = False

    async def write(self, value: Value) -> int:
        """Write bytes behind those written before; return how many.

        Raises MilenaError, after which nothing will be stored; ValueError after `close`.
        """
        self._check_open()
        view = memoryview(value).cast("B")
        size = len(view)
        try:
            while view:
                while self._steps.is_full:
                    await self._send(self._steps.next_step())
                view = view[self._steps.add(view) :]
        except BaseException:
            await self.abort()
            raise
        return size

    def tell(self) -> int:
        """Return the number of bytes written."""
        self._check_open()
        return self._steps.size

    async def close(self) -> None:
        """Store the object. Raises ConditionFailed if mode "xb" found one, and other MilenaErrors: as for `set`."""
        if self._closed:
            return
        try:
            written = None
            for step in self._steps.last_steps():
                written = await self._send(step)
            self.written = written
        except BaseException:
            await self.abort()
            raise
        self._closed = True

    async def abort(self) -> None:
        """Store nothing, and drop what was sent."""
        if self._closed:
            return
        self._closed = True
        if (step := self._steps.drop_step()) is not None:
            with suppress(MilenaError):  # the nodes drop it themselves, a little later
                await self._send(step)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.abort()
