"""Shell. Open files of the filesystem that are read: of one version of their object each.

By default a file is an `io.BufferedReader` that requests ahead only what is read sequentially. Libraries that ask
for one of fsspec's caches, as fsspec's own reader of parquet does, get a file with that cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec.spec import AbstractBufferedFile

from milena_client.core.files.block_read import NOTHING
from milena_client.core.values import Stat
from milena_client.sync.files import ObjectFile, ReadRange
from milena_common.api.byte_range import ByteRange


class MilenaFile(ObjectFile):
    """One version of an object, for reading.

    fs: the filesystem
    path: the path in it, BUCKET/KEY
    details: what `fs.info` returned when it was opened

    Reads raise OSError with ESTALE if the object was replaced or deleted since then, and bytes are missing.
    """

    mode = "rb"

    def __init__(
        self, fs: Any, path: str, details: dict[str, Any], read_range: ReadRange, stat: Stat, max_request: int
    ) -> None:
        super().__init__(read_range, stat, max_request)
        self.fs = fs
        self.path = path
        self.details = details
        self.size = stat.size

    @property
    def full_name(self) -> str:
        """The path with its scheme."""
        return str(self.fs.unstrip_protocol(self.path))

    def info(self) -> dict[str, Any]:
        """Return `details`."""
        return self.details

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _reopened, (self.fs, self.path, self.stat.etag, self.tell())


def _reopened(fs: Any, path: str, etag: str, position: int) -> MilenaFile:
    """Open the version with `etag` again, as in another process. Raises OSError with ESTALE if there is another."""
    file: MilenaFile = fs.open(path, "rb", etag=etag)
    file.seek(position)
    return file


class CachedFile(AbstractBufferedFile):
    """One version of an object, for reading, with one of fsspec's caches. Raises as `MilenaFile`.

    `read_range` returns the bytes of a range; the other arguments are those of the base class.
    """

    def __init__(
        self, fs: Any, path: str, *, read_range: ReadRange, details: dict[str, Any], **options: Any
    ) -> None:
        self._read_range = read_range
        super().__init__(fs, path, "rb", size=details["size"], **options)
        self.details = details

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._read_range(ByteRange(start, end - start), NOTHING) if start < end else b""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        name = self.cache.name if self.cache else "none"
        return _reopened_cached, (self.fs, self.path, self.details["ETag"], self.tell(), self.blocksize, name)


def _reopened_cached(fs: Any, path: str, etag: str, position: int, block_size: int, cache_type: str) -> CachedFile:
    file: CachedFile = fs.open(path, "rb", etag=etag, block_size=block_size, cache_type=cache_type)
    file.seek(position)
    return file
