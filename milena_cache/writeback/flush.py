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
    """A caller that waits for the entries of a flush epoch; `keys` None: all of them."""

    def __init__(self, flush_epoch: int, keys: set[bytes] | None) -> None:
        self.flush_epoch = flush_epoch
        self.keys = keys
        self.done = asyncio.Event()


class FlushWaiters:
    """`hurry` is called when somebody begins to wait: what would be delayed is to go at once."""

    def __init__(self, dirty: Dirty, hurry: Callable[[], None]) -> None:
        self._dirty = dirty
        self._hurry = hurry
        self._waiters: list[_Waiter] = []

    @property
    def waiting(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    async def wait_flushed(self, keys: Iterable[bytes] | None, timeout: float) -> Flushed:
        """Upload what is dirty now, of `keys` or all, without delay, and wait for it at most `timeout` seconds."""
        chosen = None if keys is None else set(keys)
        flush_epoch = self._dirty.checkpoint()
        waiter = _Waiter(flush_epoch, None if chosen is None else self._pending_before(chosen, flush_epoch))
        before = self._number_pending(waiter)
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
        pending = self._number_pending(waiter)
        if chosen is None:
            return Flushed(pending, self._dirty.dead_letters, max(0, before - pending))
        entries = (self._dirty.get(key) for key in chosen)
        failed = sum(1 for entry in entries if entry is not None and entry.dead)
        return Flushed(pending, failed, max(0, before - pending))

    def progress(self, key: bytes) -> None:
        """Something has become of `key`'s entry."""
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
