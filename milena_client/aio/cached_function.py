"""Coordination. A coroutine function whose results are objects of the cluster, as `cached` decorates it.

Its sync twin is made from this file by scripts/sync-client.
A result is looked up, computed by one caller at a time if it is not there, and kept. A result that was invalidated
while it was computed is returned to the callers that wait for it, and not kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from milena_client.aio.client import AsyncMilena
from milena_client.aio.completion import AsyncCompletion, current_caller
from milena_client.core.cached_results import (
    ABANDONED,
    Codec,
    Computation,
    Computations,
    KeyBuilder,
    Outcome,
    UnavailableLog,
)
from milena_client.core.values import Key
from milena_common.api.errors import InvalidRequest, MilenaError


class AsyncCachedFunction:
    """Keeps the results of `function` in the bucket of `client` for `ttl` seconds (None: for ever)."""

    def __init__(
        self,
        client: AsyncMilena,
        function: Callable[..., Any],
        keys: KeyBuilder,
        ttl: float | None,
        codec: Codec,
    ) -> None:
        self._client = client
        self._function = function
        self._keys = keys
        self._ttl = ttl
        self._codec = codec
        self._log = UnavailableLog()
        self._computations: Computations[AsyncCompletion] = Computations()

    def decorated(self) -> Any:
        """Return the function that programs call in place of the original one."""

        @functools.wraps(self._function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return self._codec.loads(await self._find(self._keys(*args, **kwargs), args, kwargs))

        vars(call).update(key=self._keys, invalidate=self._invalidate)
        return call

    async def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the encoded result: the kept one, or that of a computation, in flight or new."""
        found, reachable = await self._read(key)
        while found is None:
            caller = current_caller()
            computation, leads = self._computations.join_or_lead(key, caller, AsyncCompletion)
            if leads:
                return await self._compute(computation, key, reachable, args, kwargs)
            if computation.leader == caller:
                # The function requests the key that it is computing: joining would be waiting for itself for ever.
                return self._codec.encoded(await self._function(*args, **kwargs))
            outcome = await computation.completion.wait()
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, bytes):
                return outcome
        return found

    async def _compute(
        self,
        computation: Computation[AsyncCompletion],
        key: Key,
        reachable: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bytes:
        """Return the encoded result; the callers that wait for `computation` get it too, or the exception."""
        outcome: Outcome = ABANDONED
        try:
            # Another computation may have ended between the first look and the join: look again.
            found, reachable = await self._read(key) if reachable else (None, False)
            if found is None:
                outcome = found = self._codec.encoded(await self._function(*args, **kwargs))
                if reachable:
                    await self._store(computation, key, found)
            outcome = found
        except Exception as error:
            outcome = error
            raise
        finally:
            self._computations.end(key, computation)
            computation.completion.complete(outcome)
        return found

    async def _read(self, key: Key) -> tuple[bytes | None, bool]:
        """Return the value that is kept, and whether Milena could be reached. Raises InvalidRequest."""
        try:
            return await self._client.get(key), True
        except InvalidRequest:
            raise
        except MilenaError as error:
            self._log.warn("get", key, error)
            return None, False

    async def _store(self, computation: Computation[AsyncCompletion], key: Key, value: bytes) -> None:
        if computation.stale:
            return
        try:
            await self._client.set(key, value, ttl=self._ttl)
            # The invalidation may have come, and its delete have been done, before this write: delete again.
            if computation.stale:
                await self._client.delete(key)
        except MilenaError as error:
            self._log.warn("set", key, error)

    async def _invalidate(self, *args: Any, **kwargs: Any) -> None:
        key = self._keys(*args, **kwargs)
        # Marked first: were it deleted first, the computation could write its result between the two.
        self._computations.mark_stale(key)
        await self._client.delete(key)
