"""Coordination. Those who wait until what is dirty is in S3."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from milena_cache.writeback.dirty_table import Dirty


class Flushed(NamedTuple):
    """Of the entries that were asked for: not in S3 yet, dead letters, in S3."""

    remaining: int
    failed: int
    flushed: int


class _Waiter:
    """Somebody who waits for the entries of a generation; `keys` None: all of them."""

    def __init__(self, generation: int, keys: set[bytes] | None) -> None:
        self.generation = generation
        self.keys = keys
        self.done = asyncio.Event()


class Flushes:
    """`hurry` is called when somebody begins to wait: what would be delayed is to go at once."""

    def __init__(self, dirty: Dirty, hurry: Callable[[], None]) -> None:
        self._dirty = dirty
        self._hurry = hurry
        self._waiters: list[_Waiter] = []

    @property
    def waiting(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    async def flush(self, keys: Iterable[bytes] | None, timeout: float) -> Flushed:
        """Upload what is dirty now, of `keys` or all, without delay, and wait for it at most `timeout` seconds."""
        asked = None if keys is None else set(keys)
        generation = self._dirty.cut()
        waiter = _Waiter(generation, None if asked is None else self._left_of(asked, generation))
        before = self._left(waiter)
        self._waiters.append(waiter)
        self._hurry()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while self._left(waiter):
                        waiter.done.clear()
                        await waiter.done.wait()
        finally:
            self._waiters.remove(waiter)
        left = self._left(waiter)
        if asked is None:
            return Flushed(left, self._dirty.dead_letters, max(0, before - left))
        entries = (self._dirty.get(key) for key in asked)
        failed = sum(1 for entry in entries if entry is not None and entry.dead)
        return Flushed(left, failed, max(0, before - left))

    def progress(self, key: bytes) -> None:
        """Something has become of `key`'s entry."""
        for waiter in self._waiters:
            if waiter.keys is not None and not self._is_left(key, waiter.generation):
                waiter.keys.discard(key)
            if not self._left(waiter):
                waiter.done.set()

    def _left(self, waiter: _Waiter) -> int:
        if waiter.keys is None:
            return self._dirty.left_of(waiter.generation)
        return len(waiter.keys)

    def _left_of(self, keys: set[bytes], generation: int) -> set[bytes]:
        return {key for key in keys if self._is_left(key, generation)}

    def _is_left(self, key: bytes, generation: int) -> bool:
        entry = self._dirty.get(key)
        return entry is not None and not entry.dead and entry.generation <= generation
