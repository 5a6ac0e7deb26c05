"""Coordination. One holder for each key at a time, in FIFO order; different keys do not wait for each other.

Two concurrent writes of one key could leave S3 with one of them, and memory with the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
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

    def hold(self, key: bytes, timeout: float | None) -> AbstractAsyncContextManager[None]:
        """Hold the lock of `key`; `asyncio.Lock` wakes its waiters in order.

        Raises TimeoutError if it is not acquired within `timeout` seconds (None: no limit), so that writes whose
        callers have given up do not queue up behind one that hangs.
        """
        return _Hold(self, key, timeout)

    async def acquire(self, key: bytes, timeout: float | None) -> asyncio.Lock:
        """Acquire the lock of `key` as `hold` does; `release` gives it back."""
        free = key not in self._locks
        lock = self._join(key)
        try:
            if free:
                await lock.acquire()  # at once; a timer would be a twentieth of an upload's processor time
            else:
                async with asyncio.timeout(timeout):
                    await lock.acquire()
        except BaseException:
            self._leave(key)
            raise
        return lock

    def release(self, key: bytes, lock: asyncio.Lock) -> None:
        """Give back the lock of `key`."""
        lock.release()
        self._leave(key)


class _Hold(AbstractAsyncContextManager[None]):
    """What `KeyLocks.hold` returns, for one use. A generator would cost twice as much."""

    def __init__(self, locks: KeyLocks, key: bytes, timeout: float | None) -> None:
        self._locks = locks
        self._key = key
        self._timeout = timeout
        self._lock: asyncio.Lock

    async def __aenter__(self) -> None:
        self._lock = await self._locks.acquire(self._key, self._timeout)

    async def __aexit__(self, *_: object) -> None:
        self._locks.release(self._key, self._lock)
