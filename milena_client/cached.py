"""Coordination. `@cached`: keeps the results of a function as objects of the cluster.

    @cached(m, ttl=60, key="page:{name}")
    def page(name: str) -> bytes: ...

    page("home")                # computed at most once a minute, by whichever process comes first
    page.invalidate("home")
    page.key("home")            # "page:home"

With an `AsyncMilena` the function is an ``async def``, and so are the decorated one and `invalidate`.

In one process a key is computed by one caller at a time. Others wait for its result or exception;
an exception is not kept. A caller that is cancelled or interrupted while it computes leaves that to one of the
callers that wait. A function that requests the key that it is computing is called again: it cannot wait for itself.

An outage of the cache must not fail the program: when Milena cannot be reached, the function is called and its
result returned. That is logged once a minute. An invalid key is still an error: InvalidRequest.

Values are bytes unless `dumps` and `loads` convert them (`json.dumps`, `json.loads`). There is no default
conversion: the general one, pickle, would run any code that was put into the bucket.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from milena_client.aio.cached_function import AsyncCachedFunction
from milena_client.aio.client import AsyncMilena
from milena_client.core.cached_results import Codec, Dumps, KeyBuilder, KeyOf, Loads, name_of
from milena_client.core.values import Key, encode_ttl
from milena_client.sync.cached_function import CachedFunction
from milena_client.sync.client import Milena

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Cached(Protocol[P, R_co]):
    """A function that `cached` has decorated: it is called as before."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of the object that keeps the result of these arguments."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Delete the result of these arguments, and do not keep one that is being computed. Raises MilenaError."""


class AsyncCached(Protocol[P, R_co]):
    """A coroutine function that `cached` has decorated: it is called as before."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of the object that keeps the result of these arguments."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Delete the result of these arguments, and do not keep one that is being computed. Raises MilenaError."""


class _Decorator(Protocol):
    def __call__(self, function: Callable[P, R]) -> Cached[P, R]: ...


class _AsyncDecorator(Protocol):
    def __call__(self, function: Callable[P, Awaitable[R]]) -> AsyncCached[P, R]: ...


@overload
def cached(
    client: Milena,
    *,
    key: KeyOf,
    ttl: float | None = None,
    dumps: Dumps | None = None,
    loads: Loads | None = None,
) -> _Decorator: ...
@overload
def cached(
    client: AsyncMilena,
    *,
    key: KeyOf,
    ttl: float | None = None,
    dumps: Dumps | None = None,
    loads: Loads | None = None,
) -> _AsyncDecorator: ...
def cached(
    client: Milena | AsyncMilena,
    *,
    key: KeyOf,
    ttl: float | None = None,
    dumps: Dumps | None = None,
    loads: Loads | None = None,
) -> Any:
    """Return a decorator that keeps the results of a function as objects in the bucket of `client`.

    - `client`: a `Milena` for a function, an `AsyncMilena` for an ``async def``.
    - `key`: a format string over the function's parameters (``"user:{id}"``), or a function of the same arguments
      that returns a key. Two sets of arguments with the same key have the same result.
    - `ttl`: seconds from the write of a result until its object expires; None: never.
    - `dumps`, `loads`: make bytes (or str, which is encoded as UTF-8) of a result, and a result of bytes; both or
      neither. Every caller gets what went through both, the first one too. Without them results are bytes.

    In one process a key is computed by one caller at a time, and the others wait for its result or exception. An
    exception is not kept. When Milena cannot be reached, the function is called and its result returned; that is
    logged once a minute.

    Raises InvalidRequest for an invalid `ttl` or key, TypeError for a function that does not fit the
    client and for a result that is not bytes.
    """
    encode_ttl(ttl)  # better now than at every result
    codec = Codec(dumps, loads)

    def decorate(function: Callable[..., Any]) -> Any:
        if isinstance(client, AsyncMilena) is not inspect.iscoroutinefunction(function):
            needed = "AsyncMilena needs an async def" if isinstance(client, AsyncMilena) else "Milena needs a def"
            raise TypeError(f"cached: {needed}, and {name_of(function)} is none")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"cached: {name_of(function)} is a generator, which has no result to keep")
        keys = KeyBuilder(function, key)
        if isinstance(client, AsyncMilena):
            return AsyncCachedFunction(client, function, keys, ttl, codec).decorated()
        return CachedFunction(client, function, keys, ttl, codec).decorated()

    return decorate
