"""Shell. Open files of the filesystem that are written: the object exists once the file is closed, whole or not.

A file of any size is sent in parts as it is written, 8 MiB of it are in memory. In a ``with`` block that is left by
an exception nothing is stored. A file that is only closed is stored, however far it was written: neither `io` nor
fsspec tell a file why it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from fsspec.spec import AbstractBufferedFile

# Bytes that are kept until they are sent.
BUFFER_BYTES = 4 * 2**20


class Writer(Protocol):
    """An object that is being written, by calls that block."""

    def write(self, value: bytes) -> None:
        """Send some bytes. Raises OSError, after which nothing will be stored."""

    def close(self) -> None:
        """Store the object. Raises OSError."""

    def abort(self) -> None:
        """Store nothing."""


class WritableFile(AbstractBufferedFile):
    """A new object. `begin` returns what writes it; the other arguments are those of the base class."""

    def __init__(self, fs: Any, path: str, mode: str, begin: Callable[[], Writer], *, autocommit: bool) -> None:
        self._begin = begin
        self._writer: Writer | None = None
        super().__init__(fs, path, mode, block_size=BUFFER_BYTES, autocommit=autocommit)

    def _initiate_upload(self) -> None:
        self._writer = self._begin()

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._writer is not None
        self._writer.write(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Store the object; called when a transaction ends."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def discard(self) -> None:
        """Store nothing."""
        writer, self._writer = self._writer, None
        self.closed = True
        if writer is not None:
            writer.abort()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        # Not the base class's, which stores what a program has dropped half way. What was sent of it is dropped by
        # the nodes: a finalizer may run in the thread of the event loop, and must not wait for that.
        self.closed = True
