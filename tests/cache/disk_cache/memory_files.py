"""The files of a disk cache in memory, which fail when a test says so, and survive the crash of their process."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class MemoryFiles:
    """Implements `milena_cache.disk_cache.files.Files`.

    calls: of everything that may fail; the one with number `fail_at` raises `failure`, and with `forever` all later
    ones too
    writes: what was written, as name, offset and bytes: `after(n)` is the disk after the n-th of them
    """

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        self.contents = {name: bytearray(raw) for name, raw in (contents or {}).items()}
        self.began = {name: bytes(raw) for name, raw in self.contents.items()}
        self.writes: list[tuple[str, int, bytes]] = []
        self.calls = 0
        self.fail_at = 0
        self.failure = OSError(errno.EIO, "Input/output error")
        self.forever = False
        self.open_files: dict[int, str] = {}
        self.released = False
        self._next = 100

    def after(self, writes: int, torn: int | None = None) -> MemoryFiles:
        """Return the disk as it was after so many writes; of the next one, the first `torn` bytes are there too."""
        files = MemoryFiles(self.began)
        for name, offset, raw in self.writes[:writes]:
            files.put(name, offset, raw)
        if torn is not None and writes < len(self.writes):
            name, offset, raw = self.writes[writes]
            files.put(name, offset, raw[:torn])
        return MemoryFiles({name: bytes(raw) for name, raw in files.contents.items()})

    def after_crash(self) -> MemoryFiles:
        """Return the disk for the next process."""
        return MemoryFiles({name: bytes(raw) for name, raw in self.contents.items()})

    def put(self, name: str, offset: int, raw: bytes) -> None:
        contents = self.contents.setdefault(name, bytearray())
        contents.extend(bytes(max(0, offset - len(contents))))
        contents[offset : offset + len(raw)] = raw

    def names(self) -> list[str]:
        self._call()
        return list(self.contents)

    def create(self, name: str) -> int:
        self._call()
        assert name not in self.contents
        self.contents[name] = bytearray()
        return self._open(name)

    def open(self, name: str) -> int:
        self._call()
        return self._open(name)

    def size(self, descriptor: int) -> int:
        self._call()
        return len(self.contents[self.open_files[descriptor]])

    def write_all(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
        name, raw = self.open_files[descriptor], b"".join(buffers)
        try:
            self._call()
        except OSError:
            self.put(name, offset, raw[: len(raw) // 2])
            raise
        self.writes.append((name, offset, raw))
        self.put(name, offset, raw)

    def read_bytes(self, descriptor: int, length: int, offset: int) -> bytes:
        self._call()
        return bytes(self.contents[self.open_files[descriptor]][offset : offset + length])

    def close(self, descriptor: int) -> None:
        del self.open_files[descriptor]

    def remove_file(self, name: str) -> None:
        self._call()
        self.contents.pop(name, None)

    def release(self) -> None:
        self.released = True

    def _open(self, name: str) -> int:
        self._next += 1
        self.open_files[self._next] = name
        return self._next

    def _call(self) -> None:
        self.calls += 1
        if self.fail_at and (self.calls == self.fail_at or (self.forever and self.calls > self.fail_at)):
            raise self.failure


class InlineThreads:
    """Implements `milena_cache.disk_cache.files.Threads` without threads.

    A function runs when it is given, and its future is done at once; while `held` is a list, it is only noted
    there, and `go` runs what was noted.
    """

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] | None = None

    def begin_read(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return self._run(function)

    def begin_write(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return self._run(function)

    def close(self) -> None:
        """There is nothing to end."""

    def go(self) -> None:
        held, self.held = self.held or [], None
        for each in held:
            each()

    def _run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self.held is None:
            run()
        else:
            self.held.append(run)
        return future
