"""Shell. Open files of the filesystem that are written: the object exists once the file is closed, whole or not.

The content is kept in memory until then, up to what one value may have. In a ``with`` block that is left by an
exception nothing is stored. A file that is only closed is stored, however far it was written: neither `io` nor
fsspec tell a file why it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from fsspec.spec import AbstractBufferedFile

Store = Callable[[bytes], None]


class WritableFile(AbstractBufferedFile):
    """A new object. `store` writes its content, once; the other arguments are those of the base class."""

    def __init__(self, fs: Any, path: str, mode: str, store: Store, *, autocommit: bool) -> None:
        self._store = store
        super().__init__(fs, path, mode, autocommit=autocommit)
        self._content = b""

    def _upload_chunk(self, final: bool = False) -> bool:
        if not final:
            return False  # keeps all of it in the buffer
        self._content = self.buffer.getvalue()
        if self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Store the content; called when a transaction ends."""
        content, self._content = self._content, b""
        self._store(content)

    def discard(self) -> None:
        """Drop the content."""
        self._content = b""
        self.closed = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        # Not the base class's, which stores what a program has dropped half way.
        self.discard()
