"""Shell. The filesystem of fsspec: paths are BUCKET/KEY, a folder is what keys have in common up to a slash.

Calls run in fsspec's event loop, or with ``asynchronous=True`` in the caller's. Listings are S3's: so writes go
through to S3 before they return, unless the option `durability` says otherwise. With "back" a listing may miss
an object, or have a deleted one, until the nodes have uploaded it.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import has_magic
from typing import Any, BinaryIO

from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import stringify_path

from milena_client.aio.client import AsyncMilena
from milena_client.aio.files import AsyncObjectFile
from milena_client.aio.loop_clients import LoopClients
from milena_client.aio.object_writer import AsyncObjectWriter
from milena_client.aio.slices import read_slice, slice_of
from milena_client.core import operations
from milena_client.core.files.block_read import Opened
from milena_client.core.url import chosen
from milena_client.core.values import CommonPrefix, ObjectInfo, Stat
from milena_client.fsspec.failures import created, exists, file_error, file_errors, not_found
from milena_client.fsspec.reading import CachedFile, MilenaFile
from milena_client.fsspec.writing import WritableFile
from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import THROUGH, Durability
from milena_common.api.errors import (
    BatchError,
    ConditionFailed,
    FailedPrecondition,
    MilenaError,
    RangeNotSatisfiable,
)
from milena_common.api.object_path import ObjectPath, parse_path, strip_scheme
from milena_common.runtime.clock import SystemClock

Info = dict[str, Any]

# Bytes that are read of a local file at a time, and of the largest value that is written as a whole.
TRANSFER_BYTES = 8 * 2**20
# Seconds that S3 may take to copy a large object.
COPY_SECONDS = 600.0
_MODES = "'rb', 'wb', 'xb'"
# The modes of files for those of fsspec's calls that write.
_MODE_OF = {"overwrite": "wb", "create": "xb"}


class MilenaFileSystem(AsyncFileSystem):
    """The objects of a cluster as files, by fsspec's names: ``fsspec.filesystem("milena", router="router:50050")``.

    - `router`: "host:port", or a client's URL with all that it may have: several hosts, TLS, a login
      (``milenas://user:password@router:50050?ca=ca.pem``). None: that of MILENA_URL.
    - `timeout`: the seconds of each request; None: the URL's, or else 10.
    - `durability`: of all writes: "through", "back" or "memory", as that of `Milena.set`.

    The other arguments are those of the base class. FileNotFoundError means that there is no such object, and
    nothing else. It can be pickled, and used in a forked process. Raises ConfigError or InvalidRequest for an
    invalid URL.
    """

    protocol = "milena"
    root_marker = ""
    _pid: int
    _loop: Any

    def __init__(
        self,
        router: str | None = None,
        timeout: float | None = None,
        durability: Durability = THROUGH,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._durability: Durability = durability
        self._clients = LoopClients(chosen(router, os.environ), timeout)

    @property
    def loop(self) -> Any:
        """The event loop of calls that are not awaited; in a forked process a new one, since its thread is gone."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            if not self.asynchronous:
                self._loop = get_loop()
        return self._loop

    @property
    def fsid(self) -> str:
        """Return the same for all filesystems of one cluster."""
        return f"milena-{self._clients.address}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return strip_scheme(stringify_path(path))

    def _at(self, path: str) -> tuple[AsyncMilena, ObjectPath]:
        """Return the client for `path`, and what it names. Raises InvalidRequest, a ValueError."""
        place = parse_path(path)
        return self._clients.here(place.bucket), place

    # ---- metadata

    async def _stat(self, path: str) -> Stat | None:
        client, place = self._at(path)
        with file_errors(path):
            return await client.stat(place.key) if place.key else None

    async def _info(self, path: str, **_: Any) -> Info:
        path = self._strip_protocol(path)
        if not path:
            return _folder("")
        stat = await self._stat(path)
        if stat is not None:
            return _file(path, stat.size, stat.etag)
        if await self._is_folder(path):
            return _folder(path)
        raise not_found(path)

    async def _is_folder(self, path: str) -> bool:
        client, place = self._at(path)
        if not place.key:
            return True
        with file_errors(path):
            async for _ in client.scan_level(place.below):
                return True
        return False

    async def _exists(self, path: str, **_: Any) -> bool:
        try:
            await self._info(path)
        except FileNotFoundError:
            return False
        return True

    async def _isfile(self, path: str) -> bool:
        # The base class says False also when the cluster cannot be reached.
        return await self._stat(path) is not None

    async def _isdir(self, path: str) -> bool:
        # Not `_is_folder`: of a file, the common case, that would be a request to S3.
        try:
            return bool((await self._info(path))["type"] == "directory")
        except FileNotFoundError:
            return False

    # ---- listings

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        client, place = self._at(path)
        with file_errors(path):
            found = [
                _listed(place.bucket, item)
                async for item in client.scan_level(place.below)
                # A key that ends with a slash has no name here; some programs mark folders by such objects.
                if isinstance(item, CommonPrefix) or item.key != place.below
            ]
        if not found and place.key and not await self._is_folder(path):
            stat = await self._stat(path)
            if stat is None:
                raise not_found(path)
            found = [_file(path, stat.size, stat.etag)]
        return found if detail else [info["name"] for info in found]

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        client, place = self._at(path)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        start = place.below + prefix
        found: dict[str, Info] = {}
        with file_errors(path):
            listing = client.scan_level(start) if maxdepth == 1 else client.scan(start)
            async for item in listing:
                info = _listed(place.bucket, item)
                names = info["name"][len(path) + 1 :].split("/")
                if withdirs:
                    folders = names if info["type"] == "directory" else names[:-1]
                    for depth in range(1, len(folders[:maxdepth]) + 1):
                        name = "/".join((path, *folders[:depth]))
                        found.setdefault(name, _folder(name))
                if info["type"] == "file" and names[-1] and len(names) <= (maxdepth or len(names)):
                    found[info["name"]] = info
        if withdirs and (found or await self._isdir(path)):
            found[path] = _folder(path)
        if not found:
            stat = await self._stat(path)
            if stat is not None:
                found[path] = _file(path, stat.size, stat.etag)
        ordered = {name: found[name] for name in sorted(found)}
        return ordered if detail else [*ordered]

    async def _walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        detail: bool = False,
        **_: Any,
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        # The base class takes an error of the cluster for an empty folder.
        path = self._strip_protocol(path)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        folders: dict[str, Info] = {}
        files: dict[str, Info] = {}
        try:
            listing = await self._ls(path)
        except FileNotFoundError as error:
            if on_error == "raise":
                raise
            if callable(on_error):
                on_error(error)
            listing = []
        for info in listing:
            name = "" if info["name"] == path else info["name"].rpartition("/")[2]
            (folders if info["type"] == "directory" else files)[name] = info
        here = (path, folders, files) if detail else (path, [*folders], [*files])
        if topdown:
            yield here
        if maxdepth is None or maxdepth > 1:
            below = None if maxdepth is None else maxdepth - 1
            for info in folders.values():
                async for each in self._walk(info["name"], below, topdown, on_error, detail):
                    yield each
        if not topdown:
            yield here

    async def _du(self, path: str, total: bool = True, maxdepth: int | None = None, **_: Any) -> Any:
        sizes = {name: info["size"] for name, info in (await self._find(path, maxdepth, detail=True)).items()}
        return sum(sizes.values()) if total else sizes

    # ---- reads

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        client, place = self._at(path)
        if not place.key:
            raise IsADirectoryError(path)
        with file_errors(path):
            value = await read_slice(client, place.key, start, end)
        if value is None:
            raise not_found(path)
        return value

    async def _cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", batch_size: int | None = None, **_: Any
    ) -> Any:
        paths = await self._expand_path(path, recursive=recursive)
        values = await self._cat_ranges(paths, None, None, on_error="return")
        if on_error == "raise":
            _raise_first(values)
        if len(paths) == 1 and isinstance(path, str) and paths[0] == self._strip_protocol(path):
            return values[0]
        return {
            each: value
            for each, value in zip(paths, values, strict=True)
            if on_error != "omit" or not isinstance(value, Exception)
        }

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Return the bytes of a range of each path, in their order.

        Whole objects are requested together, in one command for each owner and 128 keys. The ranges of one
        object are of one version of it. `on_error`: "return": exceptions are returned in their places; else the
        first one is raised. `max_gap` is of no use here and ignored: ranges in one block cost no request of S3.
        """
        if not isinstance(paths, list):
            raise TypeError("paths: is not a list")
        starts = [starts] * len(paths) if not isinstance(starts, Iterable) else starts
        ends = [ends] * len(paths) if not isinstance(ends, Iterable) else ends
        values: list[Any] = [None] * len(paths)
        whole: dict[str, list[int]] = {}
        parts: dict[str, list[tuple[int, int | None, int | None]]] = {}
        for at, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            path = self._strip_protocol(path)
            if start is None and end is None:
                whole.setdefault(path, []).append(at)
            else:
                parts.setdefault(path, []).append((at, start, end))
        # Of a path that is read whole too, all comes from ranges, or versions could differ.
        for path in whole.keys() & parts.keys():
            parts[path] += [(at, None, None) for at in whole.pop(path)]

        async def read_parts(path: str, requested: Sequence[tuple[int, int | None, int | None]]) -> None:
            found = await self._parts(path, [(start, end) for _, start, end in requested])
            for (at, _, _), value in zip(requested, found, strict=True):
                values[at] = value

        async def read_whole() -> None:
            found = await self._whole([*whole])
            for path, places in whole.items():
                for at in places:
                    values[at] = found[path]

        await asyncio.gather(read_whole(), *[read_parts(path, requested) for path, requested in parts.items()])
        if on_error != "return":
            _raise_first(values)
        return values

    async def _whole(self, paths: Sequence[str]) -> dict[str, Any]:
        """Return the value or the exception of each path."""
        found: dict[str, Any] = {}
        buckets: dict[str, dict[str, str]] = {}
        for path in paths:
            try:
                bucket, key = parse_path(path)
                buckets.setdefault(bucket, {})[key] = path
            except MilenaError as error:
                found[path] = error
        for bucket, path_of in buckets.items():
            errors: dict[str, Any] = {}
            try:
                got = await self._clients.here(bucket).get_many(path_of)
            except BatchError as error:
                errors, got = error.errors, error.results
            for key, path in path_of.items():
                problem = errors.get(key)
                value: Any = got.get(key)
                if isinstance(problem, FailedPrecondition):
                    value = await _attempt(self._cat_file(path))
                elif problem is not None:
                    value = file_error(problem, path)
                elif value is None:
                    value = not_found(path)
                found[path] = value
        return found

    async def _parts(self, path: str, ranges: Sequence[tuple[int | None, int | None]]) -> list[Any]:
        """Return the bytes of `ranges`, of one version, or the exception in place of each."""
        if len(ranges) == 1:
            return [await _attempt(self._cat_file(path, *ranges[0]))]
        try:
            client, place = self._at(path)
            lengths = [(start or 0, (end or 0) - (start or 0)) for start, end in ranges]
            with file_errors(path):
                if all(start >= 0 and length > 0 for start, length in lengths):
                    with suppress(RangeNotSatisfiable, FailedPrecondition):
                        found = await client.get_ranges(place.key, lengths)
                        if found is None:
                            raise not_found(path)
                        return [*found]
                async with await client.open(place.key) as file:
                    return [await slice_of(file, start, end) for start, end in ranges]
        except Exception as error:
            return [error] * len(ranges)

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, outfile: Any = None, **_: Any
    ) -> None:
        """Write the object to the local file `lpath`, whole or not at all; `outfile`: an open file in its place."""
        rpath = self._strip_protocol(rpath)
        client, place = self._at(rpath)
        if place.key and await self._stat(rpath) is None and await self._is_folder(rpath):
            place = ObjectPath(place.bucket, "")
        if not place.key:
            await asyncio.to_thread(os.makedirs, lpath, exist_ok=True)
            return
        with file_errors(rpath):
            async with await client.open(place.key) as source:
                callback.set_size(source.stat.size)
                if outfile is not None:
                    await _copy_to(source, outfile, callback)
                    return
                target = await asyncio.to_thread(_partial_file, lpath)
                try:
                    with target:
                        await _copy_to(source, target, callback)
                    await asyncio.to_thread(os.replace, target.name, lpath)
                except BaseException:
                    await asyncio.to_thread(_remove, target.name)
                    raise

    # ---- writes

    async def _pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        path = self._strip_protocol(path)
        client, place = self._at(path)
        _check_write_mode(mode)
        if memoryview(value).nbytes > TRANSFER_BYTES:
            async with await self._writer(path, _MODE_OF[mode]) as writer:
                with created(path), file_errors(path):
                    await writer.write(value)
                    await writer.close()
            return
        with created(path), file_errors(path):
            if_none_match = "*" if mode == "create" else None
            await client.set(place.key, value, durability=self._durability, if_none_match=if_none_match)

    async def _writer(self, path: str, mode: str) -> AsyncObjectWriter:
        """Return what writes the object, of any size. Raises FileExistsError with mode "xb"."""
        client, place = self._at(path)
        with created(path), file_errors(path):
            if mode == "xb":
                return await client.open(place.key, "xb", durability=self._durability)
            return await client.open(place.key, "wb", durability=self._durability)

    async def _put_file(
        self, lpath: Any, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Write the local file `lpath` to the object."""
        if await asyncio.to_thread(os.path.isdir, lpath):
            return
        rpath = self._strip_protocol(rpath)
        _check_write_mode(mode)
        with await asyncio.to_thread(open, lpath, "rb") as source:
            callback.set_size(os.fstat(source.fileno()).st_size)
            async with await self._writer(rpath, _MODE_OF[mode]) as writer:
                with created(rpath), file_errors(rpath):
                    while chunk := await asyncio.to_thread(source.read, TRANSFER_BYTES):
                        await writer.write(chunk)
                        callback.relative_update(len(chunk))
                    await writer.close()

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        source, target = parse_path(path1), parse_path(path2)
        if not target.key:
            raise IsADirectoryError(path2)
        if source == target:
            return
        with file_errors(path1):
            await self._clients.here(target.bucket).copy(
                source.key,
                target.key,
                durability=self._durability,
                source_bucket=source.bucket,
                timeout=COPY_SECONDS,
            )

    async def _rm_file(self, path: str, **_: Any) -> None:
        """Delete the object; one that does not exist is no error, as in S3."""
        path = self._strip_protocol(path)
        client, place = self._at(path)
        with file_errors(path):
            await client.delete(place.key, durability=self._durability)

    async def _rm(
        self,
        path: Any,
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Delete objects; with `recursive` all below too, and FileNotFoundError is raised if there are none."""
        keys: dict[str, list[str]] = {}
        if recursive and maxdepth is None and isinstance(path, str) and not has_magic(path):
            bucket, of_bucket = await self._keys_of_tree(path)
            keys[bucket] = of_bucket
        else:
            for each in await self._expand_path(path, recursive=recursive, maxdepth=maxdepth):
                bucket, key = parse_path(each)
                if key:
                    keys.setdefault(bucket, []).append(key)
        for bucket, of_bucket in keys.items():
            with file_errors(bucket):
                try:
                    await self._clients.here(bucket).delete_many(of_bucket, durability=self._durability)
                except BatchError as error:
                    raise next(iter(error.errors.values())) from None

    async def _keys_of_tree(self, path: str) -> tuple[str, list[str]]:
        """Return the bucket, and the keys of `path` and below, objects among them that mark folders."""
        client, place = self._at(path)
        with file_errors(path):
            keys = [item.key async for item in client.scan(place.below)]
        if await self._stat(path) is not None:
            keys.append(place.key)
        if not keys:
            raise not_found(path)
        return place.bucket, keys

    # ---- open files

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        *,
        cache_type: str | None = None,
        etag: str | None = None,
        **options: Any,
    ) -> Any:
        """Open an object; `etag`: only this version of it. Raises io.UnsupportedOperation for another `mode`."""
        path = self._strip_protocol(path)
        if mode == "rb":
            return self._open_to_read(path, etag, cache_type, block_size, cache_options, options)
        if mode not in ("wb", "xb"):
            raise io.UnsupportedOperation(
                f"mode: got {mode!r}; allowed: {_MODES}. An object is written whole: nothing can be appended to it"
            )
        parse_path(path)
        if mode == "xb" and sync(self.loop, self._stat, path) is not None:
            raise exists(path)

        def begin() -> _Writer:
            return _Writer(self, sync(self.loop, self._writer, path, mode), path)

        return WritableFile(self, path, mode, begin, autocommit=autocommit)

    def _open_to_read(
        self,
        path: str,
        etag: str | None,
        cache_type: str | None,
        block_size: Any,
        cache_options: dict[str, Any] | None,
        options: dict[str, Any],
    ) -> Any:
        stat, opened, max_request = sync(self.loop, self._opened, path, etag)
        details = _file(path, stat.size, stat.etag)

        def read_range(part: ByteRange, ahead: ByteRange) -> bytes:
            return bytes(sync(self.loop, self._version, path, opened, part, ahead))

        if cache_type is None:
            return MilenaFile(self, path, details, read_range, stat, max_request)
        return CachedFile(
            self,
            path,
            read_range=read_range,
            details=details,
            block_size=block_size or "default",
            cache_type=cache_type,
            cache_options=cache_options,
            **options,
        )

    async def _opened(self, path: str, etag: str | None) -> tuple[Stat, Opened, int]:
        """Return what to open, and how many bytes one request may have."""
        client, place = self._at(path)
        with file_errors(path):
            async with await client.open(place.key) as file:
                stat = file.stat
                if etag is not None and stat.etag != etag:
                    raise ConditionFailed(f"{path} was replaced: its version {etag} does not exist any more")
                return stat, operations.opened(stat, SystemClock().now()), TRANSFER_BYTES

    async def _version(self, path: str, opened: Opened, part: ByteRange, ahead: ByteRange) -> bytes:
        client, place = self._at(path)
        with file_errors(path):
            return await client._read_opened(place.key, opened, part, ahead)

    async def open_async(self, path: str, mode: str = "rb", **_: Any) -> AsyncObjectFile:
        """Open an object for reading in the caller's event loop."""
        path = self._strip_protocol(path)
        client, place = self._at(path)
        if mode != "rb":
            raise io.UnsupportedOperation(f"mode: got {mode!r}; allowed: 'rb'")
        with file_errors(path):
            return await client.open(place.key)

    async def _close_session(self) -> None:
        """Close the connections of the running event loop; later calls make new ones."""
        await self._clients.close_here()


class _Writer:
    """A `Writer` of open files: blocking calls to `writer`, which runs in the event loop of `fs`."""

    def __init__(self, fs: MilenaFileSystem, writer: AsyncObjectWriter, path: str) -> None:
        self._fs = fs
        self._writer = writer
        self._path = path

    def write(self, value: bytes) -> None:
        with file_errors(self._path):
            sync(self._fs.loop, self._writer.write, value)

    def close(self) -> None:
        with created(self._path), file_errors(self._path):
            sync(self._fs.loop, self._writer.close)

    def abort(self) -> None:
        sync(self._fs.loop, self._writer.abort)


def _check_write_mode(mode: str) -> None:
    if mode not in _MODE_OF:
        raise ValueError(f"mode: got {mode!r}; allowed: {', '.join(map(repr, _MODE_OF))}")


def _folder(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _file(path: str, size: int, etag: str) -> Info:
    return {"name": path, "size": size, "type": "file", "ETag": etag}


def _listed(bucket: str, item: ObjectInfo | CommonPrefix) -> Info:
    if isinstance(item, CommonPrefix):
        return _folder(f"{bucket}/{item.prefix.rstrip('/')}")
    info = _file(f"{bucket}/{item.key}", item.size, item.etag)
    info["LastModified"] = datetime.fromtimestamp(item.last_modified, UTC)
    return info


def _raise_first(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, Exception):
            raise value


async def _attempt(reading: Any) -> Any:
    """Return the result of an awaitable, or its exception."""
    try:
        return await reading
    except Exception as error:
        return error


def _partial_file(path: Any) -> BinaryIO:
    """Open a new file beside `path`, so that it can be moved there."""
    directory, name = os.path.split(os.path.abspath(path))
    return open(os.path.join(directory, f".{name}.{secrets.token_hex(4)}.part"), "xb")


async def _copy_to(source: AsyncObjectFile, target: Any, callback: Any) -> None:
    async for chunk in source.chunks():
        await asyncio.to_thread(target.write, chunk)
        callback.relative_update(len(chunk))


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
