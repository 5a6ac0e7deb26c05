"""Coordination. The results of one function: looked up, computed by one caller at a time, kept in the bucket.

`Results` is for threads, `AsyncResults` for an event loop. Who comes first for a key leads a *flight*; the others
wait until it has landed, with a result, an exception, or neither: then one of them leads the next one.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import threading
from collections.abc import Callable
from string import Formatter
from typing import Any, Generic, TypeVar

from milena_client.aio.client import AsyncMilena
from milena_client.core.values import Key, encode_value
from milena_client.sync.client import Milena
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.runtime.blocking_clock import BlockingSystemClock
from milena_common.runtime.forks import survive_forks

log = logging.getLogger(__name__)

R = TypeVar("R")

Dumps = Callable[[Any], bytes | str]
Loads = Callable[[bytes], Any]
KeyOf = str | Callable[..., Key]

LOG_SECONDS = 60.0

# In a format string, what ends the parameter's name.
_FIELD_END = re.compile(r"[.\[]")


class Codec:
    """Results to bytes and back."""

    def __init__(self, dumps: Dumps | None, loads: Loads | None) -> None:
        if (dumps is None) is not (loads is None):
            raise TypeError("cached: dumps and loads go together")
        self._dumps = dumps
        self.loads: Loads = loads if loads is not None else _same

    def encoded(self, result: Any) -> bytes:
        if self._dumps is None:
            return encode_value(result)
        made = self._dumps(result)
        return made.encode() if isinstance(made, str) else encode_value(made)


def _same(value: bytes) -> bytes:
    return value


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


class Names:
    """From arguments to keys."""

    def __init__(self, function: Callable[..., Any], key: KeyOf) -> None:
        self._key = key
        self._signature = inspect.signature(function)
        if isinstance(key, str):
            for _, name, _, _ in Formatter().parse(key):
                if name is not None and _FIELD_END.split(name, 1)[0] not in self._signature.parameters:
                    raise TypeError(f"cached: key: {{{name}}} is no parameter of {name_of(function)}")

    def __call__(self, *args: Any, **kwargs: Any) -> Key:
        if not isinstance(self._key, str):
            return self._key(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._key.format(**bound.arguments)


class _Complaints:
    """Says that Milena cannot be asked, once in a while."""

    def __init__(self) -> None:
        self._again_at = 0.0
        self._now = BlockingSystemClock.now

    def unavailable(self, what: str, key: Key, error: MilenaError) -> None:
        now = self._now()
        if now >= self._again_at:
            self._again_at = now + LOG_SECONDS
            log.warning("cached: %s %r: %s; the function is computed without the cache", what, key, error)


class _Abandoned:
    """What is found by who was broken off: somebody else must compute."""


_ABANDONED = _Abandoned()


class _Flight(Generic[R]):
    """A computation under way; `landed` is what those wait for who want its result. `stale`: not to be kept.

    `leader` is the thread or the task that computes.
    """

    __slots__ = ("landed", "leader", "stale")

    def __init__(self, landed: R, leader: object) -> None:
        self.landed = landed
        self.leader = leader
        self.stale = False


class _Landing:
    """For threads: an encoded result, an exception, or neither: abandoned."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._found: bytes | Exception | _Abandoned = _ABANDONED

    def set(self, found: bytes | Exception | _Abandoned) -> None:
        self._found = found
        self._event.set()

    def wait(self) -> bytes | Exception | _Abandoned:
        self._event.wait()
        return self._found


class Results:
    """One function's results, for threads."""

    def __init__(
        self, client: Milena, function: Callable[..., Any], names: Names, ttl: float | None, codec: Codec
    ) -> None:
        self._client = client
        self._function = function
        self._names = names
        self._ttl = ttl
        self._codec = codec
        self._complaints = _Complaints()
        self._lock = threading.Lock()
        self._flights: dict[Key, _Flight[_Landing]] = {}
        survive_forks(self)

    def forked(self) -> None:
        # Threads of the parent lead these flights and may have held the lock; here they never land.
        self._lock = threading.Lock()
        self._flights = {}

    def decorated(self) -> Any:
        @functools.wraps(self._function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._codec.loads(self._find(self._names(*args, **kwargs), args, kwargs))

        vars(call).update(key=self._names, invalidate=self._invalidate)
        return call

    def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        found, reachable = self._look(key)
        while found is None:
            with self._lock:
                flight = self._flights.get(key)
                first = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight(_Landing(), threading.get_ident())
            if first:
                return self._lead(flight, key, reachable, args, kwargs)
            if flight.leader == threading.get_ident():
                # It would wait for itself.
                return self._codec.encoded(self._function(*args, **kwargs))
            landed = flight.landed.wait()
            if isinstance(landed, Exception):
                raise landed
            if isinstance(landed, bytes):
                return landed
        return found

    def _lead(
        self, flight: _Flight[_Landing], key: Key, reachable: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bytes:
        landed: bytes | Exception | _Abandoned = _ABANDONED
        try:
            # Somebody may have been faster since the first look.
            found, reachable = self._look(key) if reachable else (None, False)
            if found is None:
                landed = found = self._codec.encoded(self._function(*args, **kwargs))
                if reachable:
                    self._keep(flight, key, found)
            landed = found
        except Exception as error:
            landed = error
            raise
        finally:
            with self._lock:
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.landed.set(landed)
        return found

    def _look(self, key: Key) -> tuple[bytes | None, bool]:
        """The value, and whether Milena could be asked."""
        try:
            return self._client.get(key), True
        except InvalidRequest:
            raise
        except MilenaError as error:
            self._complaints.unavailable("get", key, error)
            return None, False

    def _keep(self, flight: _Flight[_Landing], key: Key, value: bytes) -> None:
        if flight.stale:
            return
        try:
            self._client.set(key, value, ttl=self._ttl)
            if flight.stale:
                self._client.delete(key)
        except MilenaError as error:
            self._complaints.unavailable("set", key, error)

    def _invalidate(self, *args: Any, **kwargs: Any) -> None:
        key = self._names(*args, **kwargs)
        with self._lock:
            flight = self._flights.pop(key, None)
            if flight is not None:
                flight.stale = True
        self._client.delete(key)


class AsyncResults:
    """One coroutine function's results, for an event loop."""

    def __init__(
        self, client: AsyncMilena, function: Callable[..., Any], names: Names, ttl: float | None, codec: Codec
    ) -> None:
        self._client = client
        self._function = function
        self._names = names
        self._ttl = ttl
        self._codec = codec
        self._complaints = _Complaints()
        self._flights: dict[Key, _Flight[asyncio.Future[bytes | Exception | _Abandoned]]] = {}

    def decorated(self) -> Any:
        @functools.wraps(self._function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return self._codec.loads(await self._find(self._names(*args, **kwargs), args, kwargs))

        vars(call).update(key=self._names, invalidate=self._invalidate)
        return call

    async def _find(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        found, reachable = await self._look(key)
        while found is None:
            flight = self._flights.get(key)
            if flight is None:
                landing = asyncio.get_running_loop().create_future()
                flight = self._flights[key] = _Flight(landing, asyncio.current_task())
                return await self._lead(flight, key, reachable, args, kwargs)
            if flight.leader is asyncio.current_task():
                # It would wait for itself.
                return self._codec.encoded(await self._function(*args, **kwargs))
            # Who stops waiting must not take the others' future along.
            landed = await asyncio.shield(flight.landed)
            if isinstance(landed, Exception):
                raise landed
            if isinstance(landed, bytes):
                return landed
        return found

    async def _lead(
        self,
        flight: _Flight[asyncio.Future[bytes | Exception | _Abandoned]],
        key: Key,
        reachable: bool,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bytes:
        landed: bytes | Exception | _Abandoned = _ABANDONED
        try:
            # Somebody may have been faster since the first look.
            found, reachable = await self._look(key) if reachable else (None, False)
            if found is None:
                landed = found = self._codec.encoded(await self._function(*args, **kwargs))
                if reachable:
                    await self._keep(flight, key, found)
            landed = found
        except Exception as error:
            landed = error
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set_result(landed)
        return found

    async def _look(self, key: Key) -> tuple[bytes | None, bool]:
        """The value, and whether Milena could be asked."""
        try:
            return await self._client.get(key), True
        except InvalidRequest:
            raise
        except MilenaError as error:
            self._complaints.unavailable("get", key, error)
            return None, False

    async def _keep(self, flight: _Flight[Any], key: Key, value: bytes) -> None:
        if flight.stale:
            return
        try:
            await self._client.set(key, value, ttl=self._ttl)
            if flight.stale:
                await self._client.delete(key)
        except MilenaError as error:
            self._complaints.unavailable("set", key, error)

    async def _invalidate(self, *args: Any, **kwargs: Any) -> None:
        key = self._names(*args, **kwargs)
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.stale = True
        await self._client.delete(key)
