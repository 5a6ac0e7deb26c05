"""Coordination. The client for an event loop: the same names as `milena_client.client`, to be awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar, overload

from milena_client import operations
from milena_client.batch import run_async_batch
from milena_client.calls import DEFAULT_TIMEOUT, FLUSH_TIMEOUT, AsyncCaller, Retries
from milena_client.connection import AsyncGrpcTransport
from milena_client.retry import DEFAULT_RETRY, RetryPolicy
from milena_client.transport import AsyncTransport
from milena_client.url import DEFAULT_ADDRESS, Target, from_environment, parse_url
from milena_client.values import (
    Entry,
    Flushed,
    Key,
    KeyT,
    ObjectInfo,
    Value,
    Written,
    checked_bucket,
    encode_value,
    key_list,
)
from milena_common.clock import Clock, SystemClock
from milena_common.durability import Durability

D = TypeVar("D")


class AsyncMilena:
    """A client of a Milena cluster for one event loop, which is the one of its first call.

    Parameters and errors are `Milena`'s. Cancelling a call gives it up; a write may have happened then.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        bucket: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: AsyncTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bucket = checked_bucket(bucket)
        retries = Retries(timeout, retry)
        self._transport = transport or AsyncGrpcTransport(address)
        self._caller = AsyncCaller(self._transport, retries, clock or SystemClock())
        self._run = self._caller.run

    @classmethod
    def from_url(cls, url: str, *, timeout: float | None = None, retry: RetryPolicy = DEFAULT_RETRY) -> Self:
        """The client that ``milena://host:50050/bucket?timeout=1s`` describes; `timeout` here overrides the URL's.

        Raises ConfigError for a URL that says anything else.
        """
        return cls._from_target(parse_url(url), timeout, retry)

    @classmethod
    def from_env(cls, *, timeout: float | None = None, retry: RetryPolicy = DEFAULT_RETRY) -> Self:
        """The client that the variable MILENA_URL describes; without it milena://127.0.0.1:50050.

        Raises ConfigError.
        """
        return cls._from_target(from_environment(os.environ), timeout, retry)

    @classmethod
    def _from_target(cls, target: Target, timeout: float | None, retry: RetryPolicy) -> Self:
        return cls(
            target.address,
            bucket=target.bucket,
            timeout=timeout if timeout is not None else target.timeout or DEFAULT_TIMEOUT,
            retry=retry,
            transport=AsyncGrpcTransport(target.address, target.note),
        )

    @overload
    async def get(self, key: Key, *, timeout: float | None = None) -> bytes | None: ...
    @overload
    async def get(self, key: Key, default: D, *, timeout: float | None = None) -> bytes | D: ...
    async def get(self, key: Key, default: D | None = None, *, timeout: float | None = None) -> bytes | D | None:
        """The value of `key`; `default` if there is none."""
        value = await self._run(operations.get(key, self._bucket), timeout)
        return default if value is None else value

    async def get_entry(self, key: Key, *, timeout: float | None = None) -> Entry | None:
        """The value of `key` with its ETag, age, outcome and node; None if there is none."""
        return await self._run(operations.get_entry(key, self._bucket), timeout)

    async def set(
        self,
        key: Key,
        value: Value,
        *,
        durability: Durability | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Write `value`. After DeadlineExceeded or Unavailable it may or may not have been written.

        It returns when the node's journal has it on disk ("back"), when S3 has it ("through"), or at once
        ("memory": lost if the node dies within the next moments). None: as the nodes' WRITE_MODE says.

        With `if_match` it is written only over the object with that ETag, with `if_none_match="*"` only where there
        is no object; otherwise nothing is written, and ConditionFailed is raised.
        """
        return await self._run(
            operations.put(key, value, self._bucket, durability, if_match, if_none_match), timeout
        )

    async def delete(
        self,
        key: Key,
        *,
        durability: Durability | None = None,
        if_match: str | None = None,
        timeout: float | None = None,
    ) -> Written:
        """Delete `key`, in S3 too. Durability and condition are those of `set`; it answers no ETag.

        A key that does not exist is no error, unless `if_match` is given.
        """
        return await self._run(operations.delete(key, self._bucket, durability, if_match), timeout)

    async def exists(self, key: Key, *, timeout: float | None = None) -> bool:
        """Whether there is such a key; the value is not transferred."""
        return await self._run(operations.exists(key, self._bucket), timeout)

    async def get_many(self, keys: Iterable[KeyT], *, timeout: float | None = None) -> dict[KeyT, bytes]:
        """The values of those `keys` that exist, under the keys as given.

        Each key has `timeout` seconds for itself. Raises BatchError if some failed.
        """
        found = await run_async_batch(
            self._caller, key_list(keys), lambda key: operations.get(key, self._bucket), timeout
        )
        return {key: value for key, value in found.items() if value is not None}

    async def set_many(
        self,
        values: Mapping[KeyT, Value],
        *,
        durability: Durability | None = None,
        timeout: float | None = None,
    ) -> dict[KeyT, Written]:
        """Write all of `values`, in no particular order and not all or nothing.

        Each key has `timeout` seconds for itself. Raises BatchError if some failed; the others were written.
        """
        for value in values.values():
            encode_value(value)
        return await run_async_batch(
            self._caller,
            key_list(values),
            lambda key: operations.put(key, values[key], self._bucket, durability),
            timeout,
        )

    async def delete_many(
        self, keys: Iterable[KeyT], *, durability: Durability | None = None, timeout: float | None = None
    ) -> None:
        """Delete all `keys`. Raises BatchError if some failed; the others were deleted."""
        await run_async_batch(
            self._caller, key_list(keys), lambda key: operations.delete(key, self._bucket, durability), timeout
        )

    async def flush(self, *, timeout: float = FLUSH_TIMEOUT) -> Flushed:
        """Wait until S3 has every write that the nodes have acknowledged so far, for at most `timeout` seconds.

        Writes of all clients count, in all buckets, also those that S3 has refused for good. Raises Unavailable
        if a node of the ring cannot be asked. One that has left the ring is not asked: what its journal holds
        reaches S3 when it is back.
        """
        return await self._run(operations.flush(), timeout)

    async def wait_durable(self, *keys: Key, timeout: float = FLUSH_TIMEOUT) -> None:
        """Wait until S3 has the newest acknowledged writes of `keys`, for at most `timeout` seconds.

        Raises DeadlineExceeded if some are not there in time, FailedPrecondition if S3 refused one for good, and
        otherwise as `flush`.
        """
        await self._run(operations.wait_durable(keys, self._bucket, timeout), timeout)

    async def scan(self, prefix: Key = "", *, timeout: float | None = None) -> AsyncIterator[ObjectInfo]:
        """The objects whose keys begin with `prefix`, in the order of their keys, as S3 lists them.

        They are fetched a page at a time, and `timeout` seconds are for one page.
        """
        cursor = ""
        while True:
            page = await self._run(operations.scan(prefix, self._bucket, cursor), timeout)
            for item in page.objects:
                yield item
            cursor = page.cursor
            if not cursor:
                return

    async def close(self) -> None:
        """End the connection. Calls in progress and later ones raise FailedPrecondition."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
