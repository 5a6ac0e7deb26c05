"""Shell. A store of zarr 3: the chunks and metadata of arrays are objects below one path.

    import zarr

    store = MilenaStore("milena://my-bucket/measurements.zarr", router="router:50050")
    zarr.open_array(store, mode="r")[:100]

It needs the extra `zarr`, and nothing else of Milena imports it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from milena_client.aio.client import AsyncMilena
from milena_client.aio.loop_clients import LoopClients
from milena_client.aio.slices import read_slice
from milena_client.core.url import chosen
from milena_client.core.values import CommonPrefix
from milena_common.api.durability import THROUGH, Durability
from milena_common.api.errors import BatchError, ConditionFailed
from milena_common.api.object_path import ObjectPath, parse_path


class MilenaStore(Store):
    """The objects below `path`, ``milena://BUCKET/PREFIX``, as a store of zarr.

    - `router`, `timeout`, `durability`: those of `milena_client.fsspec.MilenaFileSystem`.
    - `read_only`: True to reject writes.

    A key that does not exist has no value; whatever else fails is raised, so that an array never has its fill value
    in place of what could not be read. It can be pickled, and used in a forked process. Raises InvalidRequest, a
    ValueError, for an invalid path, ConfigError for an invalid URL of the router.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def __init__(
        self,
        path: str,
        *,
        router: str | None = None,
        timeout: float | None = None,
        durability: Durability = THROUGH,
        read_only: bool = False,
    ) -> None:
        super().__init__(read_only=read_only)
        self._place: ObjectPath = parse_path(path)
        self._options = {"router": router, "timeout": timeout, "durability": durability}
        self._durability: Durability = durability
        self._clients = LoopClients(chosen(router, os.environ), timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (str(self), self._options, self.read_only)

    def __str__(self) -> str:
        return f"milena://{self._place}"

    def __repr__(self) -> str:
        return f"MilenaStore({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, MilenaStore)
            and self._place == other._place
            and self._options == other._options
            and self.read_only == other.read_only
        )

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> MilenaStore:
        """Return a store of the same objects."""
        return _restored(str(self), self._options, read_only)

    @property
    def _client(self) -> AsyncMilena:
        return self._clients.here(self._place.bucket)

    def _key(self, key: str) -> str:
        return self._place.below + key

    def close(self) -> None:
        """Begin to close all connections. Later calls make new ones."""
        super().close()
        self._clients.close()

    async def aclose(self) -> None:
        """Close the store, and the connections of the running event loop, and wait for that."""
        super().close()
        await self._clients.close_here()

    # ---- reads

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the value of `key`, or a part of it; None if there is none."""
        await self._ensure_open()
        value = await read_slice(self._client, self._key(key), *_start_and_end(byte_range))
        return None if value is None else prototype.buffer.from_bytes(value)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return what `get` returns for each of `key_ranges`; whole values are requested together."""
        requested = [*key_ranges]
        await self._ensure_open()
        whole = dict.fromkeys(self._key(key) for key, byte_range in requested if byte_range is None)
        errors: Mapping[Any, Exception] = {}
        try:
            values = await self._client.get_many(whole)
        except BatchError as error:
            values, errors = error.results, error.errors

        async def one(key: str, byte_range: ByteRequest | None) -> Buffer | None:
            # What one request does not return is read alone, and an error raised there.
            if byte_range is not None or self._key(key) in errors:
                return await self.get(key, prototype, byte_range)
            value = values.get(self._key(key))
            return None if value is None else prototype.buffer.from_bytes(value)

        return [*await asyncio.gather(*[one(*each) for each in requested])]

    async def exists(self, key: str) -> bool:
        """Return True if there is a value of `key`."""
        return await self._client.exists(self._key(key))

    async def getsize(self, key: str) -> int:
        """Return the bytes of the value of `key`. Raises FileNotFoundError if there is none."""
        stat = await self._client.stat(self._key(key))
        if stat is None:
            raise FileNotFoundError(key)
        return stat.size

    # ---- writes

    async def set(self, key: str, value: Buffer) -> None:
        """Write `value` to `key`."""
        await self._write(key, value, create=False)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write `value` to `key` unless it has one; of several writers at once, one succeeds."""
        await self._write(key, value, create=True)

    async def _write(self, key: str, value: Buffer, *, create: bool) -> None:
        await self._ensure_open()
        self._check_writable()
        if not isinstance(value, Buffer):
            raise TypeError(f"MilenaStore.set(): `value` must be a Buffer instance, not {type(value).__name__}")
        try:
            await self._client.set(
                self._key(key),
                value.to_bytes(),
                durability=self._durability,
                if_none_match="*" if create else None,
            )
        except ConditionFailed:
            if not create:
                raise

    async def delete(self, key: str) -> None:
        """Delete `key`; one that does not exist is no error."""
        self._check_writable()
        await self._client.delete(self._key(key), durability=self._durability)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all keys below `prefix`."""
        self._check_writable()
        keys = [self._key(key) async for key in self.list_prefix(_below(prefix))]
        try:
            await self._client.delete_many(keys, durability=self._durability)
        except BatchError as error:
            raise next(iter(error.errors.values())) from None

    # ---- listings

    async def list(self) -> AsyncIterator[str]:
        """Iterate over all keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the keys that begin with `prefix`."""
        async for item in self._client.scan(self._key(prefix)):
            yield item.key.removeprefix(self._place.below)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Iterate over the names directly below `prefix`: of keys, and of what other keys are below."""
        start = self._key(_below(prefix))
        async for item in self._client.scan_level(start):
            name = item.prefix if isinstance(item, CommonPrefix) else item.key
            yield name.removeprefix(start).rstrip("/")


def _restored(path: str, options: dict[str, Any], read_only: bool) -> MilenaStore:
    return MilenaStore(path, read_only=read_only, **options)


def _below(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""


def _start_and_end(byte_range: ByteRequest | None) -> tuple[int | None, int | None]:
    """Return what `byte_range` means as a slice."""
    match byte_range:
        case None:
            return None, None
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return offset, None
        case SuffixByteRequest(suffix):
            return (-suffix, None) if suffix else (0, 0)
    raise ValueError(f"Unexpected byte_range, got {byte_range!r}.")
