"""Coordination. Callers that wait until the dirty entries of a point in time are in S3.

A waiter closes the current flush epoch of the dirty table and waits until no entry of that epoch or an earlier one
is pending. So writes that arrive after the call do not prolong the wait, and no list of all keys is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from milena_cache.writeback.dirty_table import Dirty


class Flushed(NamedTuple):
    """Counts of the entries that a caller waited for.

    remaining: entries that are not in S3 yet.
    failed: dead letters.
    flushed: entries that reached S3 during the call.
    """

    remaining: int
    failed: int
    flushed: int


class _Waiter:
    """A caller that waits for the entries up to a flush epoch: those of `keys`, or all if `keys` is None."""

    def __init__(self, flush_epoch: int, keys: set[bytes] | None) -> None:
        self.flush_epoch = flush_epoch
        self.keys = keys
        self.done = asyncio.Event()


class FlushWaiters:
    """The callers of one node that wait; `hurry` is called when one begins, so that uploads skip their delay."""

    def __init__(self, dirty: Dirty, hurry: Callable[[], None]) -> None:
        self._dirty = dirty
        self._hurry = hurry
        self._waiters: list[_Waiter] = []

    @property
    def waiting(self) -> bool:
        """Return True while a caller waits."""
        return bool(self._waiters)

    async def wait_flushed(self, keys: Iterable[bytes] | None, timeout: float) -> Flushed:
        """Have the entries that are dirty now uploaded without delay, and wait for them at most `timeout` seconds.

        With a `timeout` of 0 they are only counted. `keys`: the cache keys to wait for; None for all. A timeout is
        not an error: see `Flushed.remaining`.
        """
        chosen = None if keys is None else set(keys)
        flush_epoch = self._dirty.checkpoint()
        waiter = _Waiter(flush_epoch, None if chosen is None else self._pending_before(chosen, flush_epoch))
        before = self._number_pending(waiter)
        if timeout > 0:  # else nothing is to be uploaded early: DRAIN_SECONDS=0 leaves all writes in the journal
            await self._wait(waiter, timeout)
        pending = self._number_pending(waiter)
        if chosen is None:
            return Flushed(pending, self._dirty.dead_letters, max(0, before - pending))
        entries = (self._dirty.get(key) for key in chosen)
        failed = sum(1 for entry in entries if entry is not None and entry.dead)
        return Flushed(pending, failed, max(0, before - pending))

    async def _wait(self, waiter: _Waiter, timeout: float) -> None:
        self._waiters.append(waiter)
        self._hurry()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while self._number_pending(waiter):
                        waiter.done.clear()
                        await waiter.done.wait()
        finally:
            self._waiters.remove(waiter)

    def progress(self, key: bytes) -> None:
        """Check the waiters, because the entry of `key` was uploaded, removed or made a dead letter."""
        for waiter in self._waiters:
            if waiter.keys is not None and not self._is_pending(key, waiter.flush_epoch):
                waiter.keys.discard(key)
            if not self._number_pending(waiter):
                waiter.done.set()

    def _number_pending(self, waiter: _Waiter) -> int:
        if waiter.keys is None:
            return self._dirty.pending_before(waiter.flush_epoch)
        return len(waiter.keys)

    def _pending_before(self, keys: set[bytes], flush_epoch: int) -> set[bytes]:
        return {key for key in keys if self._is_pending(key, flush_epoch)}

    def _is_pending(self, key: bytes, flush_epoch: int) -> bool:
        entry = self._dirty.get(key)
        return entry is not None and not entry.dead and entry.upload.flush_epoch <= flush_epoch
