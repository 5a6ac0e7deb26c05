"""Shell. The files of the disk cache, and the threads in which they are read and written.

Nothing here is synced: a value that a crash of the machine has lost, or torn, is read from S3 again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Protocol, TypeVar

from milena_cache.journal.directory import Held, take
from milena_cache.journal.disk import CannotOpen

T = TypeVar("T")

# Threads that read: as many reads as an SSD needs at once for some ten thousand a second.
READERS = 4
# Buffers of one call to the system.
_MAX_BUFFERS = 512


class Files(Protocol):
    """The files in one directory, by name. Every method may raise OSError."""

    def names(self) -> list[str]:
        """Return the names of all files."""

    def create(self, name: str) -> int:
        """Return the descriptor of a new file for reading and writing; there is none of that name."""

    def open(self, name: str) -> int:
        """Return a descriptor for reading."""

    def size(self, descriptor: int) -> int:
        """Return the file's size in bytes."""

    def write_all(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
        """Write all buffers, one after the other, from `offset` on."""

    def read_bytes(self, descriptor: int, length: int, offset: int) -> bytes:
        """Return up to `length` bytes from `offset` on; fewer only at the file's end."""

    def close(self, descriptor: int) -> None:
        """Close the descriptor."""

    def remove_file(self, name: str) -> None:
        """Remove the file; no error if there is none."""

    def release(self) -> None:
        """Let another process have the directory."""


class DirectoryFiles:
    """The files of a directory of the system's, which one process at a time may use."""

    def __init__(self, directory: Path) -> None:
        """Take the directory. Raises Held if another process has it; what else is wrong is raised by `names`."""
        self._directory = directory
        self._lock: IO[str] | None = None
        self._problem = ""
        try:
            self._lock = take(directory, "disk cache")
        except Held:
            raise
        except CannotOpen as error:
            self._problem = str(error)

    def names(self) -> list[str]:
        if self._problem:
            raise OSError(self._problem)
        return [each.name for each in os.scandir(self._directory) if each.is_file(follow_symlinks=False)]

    def create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._directory / name, flags, 0o600)

    def open(self, name: str) -> int:
        return os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def write_all(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
        for first in range(0, len(buffers), _MAX_BUFFERS):
            part = buffers[first : first + _MAX_BUFFERS]
            length = sum(map(len, part))
            written = os.pwritev(descriptor, part, offset)
            if written < length:  # the disk is nearly full: write the rest, or get its error
                rest = memoryview(b"".join(part))[written:]
                while rest:
                    rest = rest[os.pwrite(descriptor, rest, offset + length - len(rest)) :]
            offset += length

    def read_bytes(self, descriptor: int, length: int, offset: int) -> bytes:
        raw = os.pread(descriptor, length, offset)
        while 0 < len(raw) < length:
            more = os.pread(descriptor, length - len(raw), offset + len(raw))
            if not more:
                break
            raw += more
        return raw

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def remove_file(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()


class Threads(Protocol):
    """Where functions run that read and write files. Each call returns at once."""

    def begin_read(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function that only reads; several run at once."""

    def begin_write(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function that changes the log; one after the other, in the order of the calls."""

    def close(self) -> None:
        """Begin nothing more. What is running ends by itself."""


class FileThreads:
    """READERS threads for reads, and one for all that changes the log."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(READERS, "disk-cache-read")
        self._writer = ThreadPoolExecutor(1, "disk-cache-write")

    def begin_read(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._readers, function)

    def begin_write(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._writer, function)

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)
