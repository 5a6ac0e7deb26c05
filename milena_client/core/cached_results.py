"""Coordination. The parts of `@cached` that are the same for threads and event loops: keys, bytes, shared
computations.

In one process a key is computed by one caller at a time, its *leader*; the others wait for its outcome: a result,
an exception, or neither (ABANDONED), after which one of them leads the next computation. Callers wait by
`milena_client.sync.completion` or `milena_client.aio.completion`.
"""

from __future__ import annotations

import inspect
import logging
import re
import threading
from collections.abc import Callable
from string import Formatter
from typing import Any, Final, Generic, TypeVar

from milena_client.core.values import Key, encode_value
from milena_common.api.errors import MilenaError
from milena_common.runtime.blocking_clock import BlockingSystemClock
from milena_common.runtime.forks import survive_forks

log = logging.getLogger(__name__)

C = TypeVar("C")

Dumps = Callable[[Any], bytes | str]
Loads = Callable[[bytes], Any]
KeyOf = str | Callable[..., Key]

LOG_SECONDS = 60.0

# In a format string, what ends the parameter's name.
_FIELD_END = re.compile(r"[.\[]")


class Abandoned:
    """The outcome of a computation that was cancelled or interrupted: another caller must compute."""


ABANDONED: Final = Abandoned()

# The outcome of a computation: an encoded result, the exception of the function, or neither.
Outcome = bytes | Exception | Abandoned


class Codec:
    """Encodes results as bytes with `dumps`, and decodes them with `loads`; without these, results are bytes.

    Raises TypeError if only one of the two is given.
    """

    def __init__(self, dumps: Dumps | None, loads: Loads | None) -> None:
        if (dumps is None) is not (loads is None):
            raise TypeError("cached: dumps and loads go together")
        self._dumps = dumps
        self.loads: Loads = loads if loads is not None else _identity

    def encoded(self, result: Any) -> bytes:
        """Return `result` as bytes. Raises TypeError unless it is bytes, or `dumps` makes bytes or str of it."""
        if self._dumps is None:
            return encode_value(result)
        dumped = self._dumps(result)
        return dumped.encode() if isinstance(dumped, str) else encode_value(dumped)


def _identity(value: bytes) -> bytes:
    return value


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of `function` for messages."""
    return getattr(function, "__qualname__", repr(function))


class KeyBuilder:
    """Makes the key of a result from the arguments of `function`. Raises TypeError for names it does not have."""

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


class UnavailableLog:
    """Logs that Milena cannot be reached, once in LOG_SECONDS."""

    def __init__(self) -> None:
        self._silent_until = 0.0
        self._now = BlockingSystemClock.now

    def warn(self, operation: str, key: Key, error: MilenaError) -> None:
        """Log that `operation` of `key` failed with `error`, unless that was logged a short time ago."""
        now = self._now()
        if now >= self._silent_until:
            self._silent_until = now + LOG_SECONDS
            log.warning("cached: %s %r: %s; the function is computed without the cache", operation, key, error)


class Computation(Generic[C]):
    """A computation in flight.

    - `completion`: the object on which the other callers wait for its outcome.
    - `leader`: the thread or the task that computes.
    - `stale`: its result is not to be kept, since the key was invalidated after it began.
    """

    __slots__ = ("completion", "leader", "stale")

    def __init__(self, completion: C, leader: object) -> None:
        self.completion = completion
        self.leader = leader
        self.stale = False


class Computations(Generic[C]):
    """The computations in flight of one function, by key: at most one each. Thread-safe.

    A process that is forked begins without any: the threads that lead them are not there, and would never end them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[Key, Computation[C]] = {}
        survive_forks(self)

    def forked(self) -> None:
        self._lock = threading.Lock()
        self._by_key = {}

    def join_or_lead(self, key: Key, caller: object, completion: Callable[[], C]) -> tuple[Computation[C], bool]:
        """Return the computation of `key`, and True if `caller` has to lead it; `end` must follow then."""
        with self._lock:
            computation = self._by_key.get(key)
            if computation is not None:
                return computation, False
            computation = self._by_key[key] = Computation(completion(), caller)
            return computation, True

    def end(self, key: Key, computation: Computation[C]) -> None:
        """Take `computation` out. After that, not before, its completion is finished.

        In the other order: (1) the completion is finished as abandoned; (2) a caller that waited wakes, and joins
        the same computation again; (3) it finds it abandoned again, and so on.
        """
        with self._lock:
            if self._by_key.get(key) is computation:
                del self._by_key[key]

    def mark_stale(self, key: Key) -> None:
        """Mark the computation of `key`: its result is not kept, and later callers do not join it."""
        with self._lock:
            computation = self._by_key.pop(key, None)
            if computation is not None:
                computation.stale = True
