"""Coordination. One holder for each key at a time, in FIFO order; different keys do not wait for each other.

Two concurrent writes of one key could leave S3 with one of them, and memory with the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any


class KeyLocks:
    """Locks by key, which exist only while they are held or awaited."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    def __contains__(self, key: bytes) -> bool:
        """True if the lock of `key` is held, awaited or announced."""
        return key in self._locks

    def __bool__(self) -> bool:
        """True if any lock is held, awaited or announced."""
        return bool(self._locks)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys whose locks are held, awaited or announced."""
        return iter(self._locks)

    def announce(self, key: bytes, until: asyncio.Future[Any]) -> None:
        """Record that a holder will come for the lock of `key` before `until` is done."""
        self._join(key)
        until.add_done_callback(lambda _: self._leave(key))

    def _leave(self, key: bytes) -> None:
        lock, users = self._locks[key]
        if users == 1:
            del self._locks[key]
        else:
            self._locks[key] = (lock, users - 1)

    def _join(self, key: bytes) -> asyncio.Lock:
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        return lock

    @asynccontextmanager
    async def hold(self, key: bytes, timeout: float | None) -> AsyncIterator[None]:
        """Hold the lock of `key`; `asyncio.Lock` wakes its waiters in order.

        Raises TimeoutError if it is not acquired within `timeout` seconds (None: no limit), so that writes whose
        callers have given up do not queue up behind one that hangs.
        """
        free = key not in self._locks
        lock = self._join(key)
        try:
            if free:
                await lock.acquire()  # at once; a timer would be a twentieth of an upload's processor time
            else:
                async with asyncio.timeout(timeout):
                    await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            self._leave(key)
