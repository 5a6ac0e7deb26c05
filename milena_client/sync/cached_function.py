# Made from milena_client/aio/cached_function.py by scripts/sync-client: change that file, and run the script.
"""Coordination. A function whose results are objects of the cluster, as `cached` decorates it.

A result is looked up, computed by one caller at a time if it is not there, and kept. A result that was invalidated
while it was computed is returned to the callers that wait for it, and not kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
from milena_client.sync.client import Milena
from milena_client.sync.completion import Completion, current_caller
from milena_common.api.errors import InvalidRequest, MilenaError


class CachedFunction:
    """Keeps the results of `function` in the bucket of `client` for `ttl` seconds (None: for ever)."""

    def __init__(
        self,
        client: Milena,
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
        self._computations: Computations[Completion] = Computations()

    def decorated(self) -> Any:
        """Return the function that programs call in place of the original one."""

        @functools.wraps(self._function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._codec.loads(self._find(self._keys(*args, **kwargs), args, kwargs))

        vars(call).update(key=self._keys, invalidate=self._invalidate)
        return call

    def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return the encoded result: the kept one, or that of a computation, in flight or new."""
        found, reachable = self._read(key)
        while found is None:
            caller = current_caller()
            computation, leads = self._computations.join_or_lead(key, caller, Completion)
            if leads:
                return self._compute(computation, key, reachable, args, kwargs)
            if computation.leader == caller:
                # The function requests the key that it is computing: joining would be waiting for itself for ever.
                return self._codec.encoded(self._function(*args, **kwargs))
            outcome = computation.completion.wait()
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, bytes):
                return outcome
        return found

    def _compute(
        self,
        computation: Computation[Completion],
        key: Key,
        reachable: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bytes:
        """Return the encoded result; the callers that wait for `computation` get it too, or the exception."""
        outcome: Outcome = ABANDONED
        try:
            # Another computation may have ended between the first look and the join: look again.
            found, reachable = self._read(key) if reachable else (None, False)
            if found is None:
                outcome = found = self._codec.encoded(self._function(*args, **kwargs))
                if reachable:
                    self._store(computation, key, found)
            outcome = found
        except Exception as error:
            outcome = error
            raise
        finally:
            self._computations.end(key, computation)
            computation.completion.complete(outcome)
        return found

    def _read(self, key: Key) -> tuple[bytes | None, bool]:
        """Return the value that is kept, and whether Milena could be reached. Raises InvalidRequest."""
        try:
            return self._client.get(key), True
        except InvalidRequest:
            raise
        except MilenaError as error:
            self._log.warn("get", key, error)
            return None, False

    def _store(self, computation: Computation[Completion], key: Key, value: bytes) -> None:
        if computation.stale:
            return
        try:
            self._client.set(key, value, ttl=self._ttl)
            # The invalidation may have come, and its delete have been done, before this write: delete again.
            if computation.stale:
                self._client.delete(key)
        except MilenaError as error:
            self._log.warn("set", key, error)

    def _invalidate(self, *args: Any, **kwargs: Any) -> None:
        key = self._keys(*args, **kwargs)
        # Marked first: were it deleted first, the computation could write its result between the two.
        self._computations.mark_stale(key)
        self._client.delete(key)
