"""Coordination. One write of a key at a time, in the order of their coming; different keys do not wait.

Two writes of one key under way at once would leave S3 with either, and memory with the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class KeyLocks:
    """Locks by key, which exist only while somebody holds or awaits them."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether somebody holds or awaits the turn at `key`, or will before long."""
        return key in self._locks

    def announce(self, key: bytes, until: asyncio.Future[Any]) -> None:
        """Somebody will await the turn at `key`, before `until` is done."""
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
        """Hold the turn at `key`; `asyncio.Lock` wakes its waiters in order.

        Raises TimeoutError if it does not come within `timeout` seconds (None: ever), so that writes whose
        callers have given up do not pile up behind one that hangs.
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
