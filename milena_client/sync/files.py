"""Shell. An object as a file that is read, of a class of `io`, so that libraries that read files take it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import Any

from milena_client.core.files.read_ahead import MIN_WINDOW, ReadAhead
from milena_client.core.values import Stat
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import FailedPrecondition
from milena_common.process.freed_memory import keep_freed_memory

# Bytes that a small read requests at least, unless they are of another block.
BUFFER_BYTES = 64 * 1024

# Returns bytes of the version that was opened, of which others will be read next. Raises MilenaError,
# ConditionFailed if there is another one.
ReadRange = Callable[[ByteRange, ByteRange], bytes]


class _RawObject(io.RawIOBase):
    def __init__(self, read_range: ReadRange, stat: Stat, max_request: int) -> None:
        self._read_range = read_range
        self._ahead = ReadAhead(stat.size, max_request, stat.block_bytes, stat.group_bytes)
        self._needed = 0  # bytes that the read in progress still needs

    def start_read(self, length: int) -> None:
        """Begin a read of `length` bytes, for which `readinto` may be called several times."""
        self._ahead.start_read()
        self._needed = length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        if not self._needed:  # a buffer is filled for a line, or for `peek`
            self.start_read(1)
        needed = self._needed
        part = self._ahead.consume(len(view))
        while not part and (request := self._ahead.next_request(needed, len(view))) is not None:
            try:
                self._ahead.fill(self._read_range(request, self._ahead.ahead))
            except FailedPrecondition as error:
                if not self._ahead.requests_less(request, error):
                    raise
            part = self._ahead.consume(len(view))
        view[: len(part)] = part
        self._needed = max(0, needed - len(part))
        return len(part)

    def readall(self) -> bytes:
        # Not `RawIOBase.readall`, which reads some KiB at a time.
        value = bytearray(max(0, self._ahead.size - self._ahead.position))
        view = memoryview(value)
        self.start_read(len(value))
        while view:
            view = view[self.readinto(view) :]
        return bytes(value)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check_open()
        self._needed = 0
        return self._ahead.seek(offset, whence)

    def tell(self) -> int:
        self._check_open()
        return self._ahead.position

    def close(self) -> None:
        self._ahead.fill(b"")
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


class ObjectFile(io.BufferedReader):
    """One version of an object, as `Milena.open` returns it: an `io.BufferedReader`.

    - `stat`: size and ETag of that version.

    It keeps at most 2 MiB, which sequential reads have requested ahead, and 64 KiB of `io`. Reads raise
    ConditionFailed if the object was replaced or deleted since it was opened, and bytes of it are missing.
    """

    def __init__(self, read_range: ReadRange, stat: Stat, max_request: int) -> None:
        keep_freed_memory()
        self._object = _RawObject(read_range, stat, max_request)
        super().__init__(self._object, BUFFER_BYTES)
        self.stat = stat

    # `io` reads what it needs in several steps: the raw file learns from these what belongs to one read.

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size >= 0:
            self._object.start_read(size)
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self._object.start_read(size if size >= 0 else BUFFER_BYTES)
        return super().read1(size)

    def readinto(self, buffer: Any, /) -> int:
        self._object.start_read(memoryview(buffer).nbytes)
        return super().readinto(buffer)

    def readinto1(self, buffer: Any, /) -> int:
        self._object.start_read(memoryview(buffer).nbytes)
        return super().readinto1(buffer)

    def chunks(self, length: int = MIN_WINDOW) -> Iterator[bytes]:
        """Iterate over the rest of the object, `length` bytes at a time."""
        while chunk := self.read(length):
            yield chunk
