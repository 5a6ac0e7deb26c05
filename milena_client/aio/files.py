"""Shell. An object as a file that is read, in an event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self

from milena_client.core.files.read_ahead import MIN_WINDOW, ReadAhead
from milena_client.core.values import Stat
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import FailedPrecondition
from milena_common.process.freed_memory import keep_freed_memory

# Returns bytes of the version that was opened, of which others will be read next. Raises MilenaError,
# ConditionFailed if there is another one.
ReadRange = Callable[[ByteRange, ByteRange], Awaitable[bytes]]


class AsyncObjectFile:
    """One version of an object, as `AsyncMilena.open` returns it. For one task at a time.

    - `stat`: size and ETag of that version.

    It keeps at most 2 MiB, which sequential reads have requested ahead.
    """

    def __init__(self, read_range: ReadRange, stat: Stat, max_request: int) -> None:
        keep_freed_memory()
        self.stat = stat
        self._read_range = read_range
        self._ahead = ReadAhead(stat.size, max_request, stat.block_bytes, stat.group_bytes)
        self._closed = False

    async def read(self, length: int = -1) -> bytes:
        """Return the next `length` bytes, fewer at the end of the object; negative: all up to the end.

        Raises ConditionFailed if the object was replaced or deleted since it was opened, and bytes of it are
        missing; ValueError after `close`.
        """
        remaining = max(0, self._ahead.size - self._ahead.position)
        length = remaining if length < 0 else min(length, remaining)
        parts: list[bytes | memoryview] = []
        self._ahead.start_read()
        while length > 0:
            part = await self._read_some(length)
            length -= len(part)
            # A view of what is kept would keep all of it in memory while the next bytes are received.
            parts.append(bytes(part) if length else part)
            del part
        self._check_open()
        return b"".join(parts)

    async def _read_some(self, length: int) -> memoryview:
        self._check_open()
        part = self._ahead.consume(length)
        while not part and (request := self._ahead.next_request(length)) is not None:
            try:
                self._ahead.fill(await self._read_range(request, self._ahead.ahead))
            except FailedPrecondition as error:
                if not self._ahead.requests_less(request, error):
                    raise
            part = self._ahead.consume(length)
        return part

    async def chunks(self, length: int = MIN_WINDOW) -> AsyncIterator[bytes]:
        """Iterate over the rest of the object, `length` bytes at a time."""
        while chunk := await self.read(length):
            yield chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the beginning, the position (SEEK_CUR) or the end (SEEK_END); return the position.

        A position behind the end is allowed: nothing is read there. Raises InvalidRequest for one before the
        beginning.
        """
        self._check_open()
        return self._ahead.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        self._check_open()
        return self._ahead.position

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")

    async def close(self) -> None:
        """Drop what is kept. Later calls raise ValueError."""
        self._closed = True
        self._ahead.fill(b"")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
