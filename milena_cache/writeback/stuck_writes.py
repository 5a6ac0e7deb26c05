"""Coordination. Stuck writes: an operator's retry and drop of writes whose uploads keep failing.

Unlike a dead letter, a stuck write is still retried automatically, so an attempt may be in flight at any time: a
drop takes the key's lock first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.failing import Failing
from milena_cache.writeback.uploads.queue import UploadQueue
from milena_common.runtime.clock import Clock
from milena_common.runtime.key_locks import KeyLocks

log = logging.getLogger(__name__)


class StuckWrites:
    """The stuck writes of one node."""

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        journal: Journal[DirtyEntry],
        entries: Entries,
        failing: Failing,
        s3_locks: KeyLocks,
        queue: UploadQueue,
        clock: Clock,
    ) -> None:
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._journal = journal
        self._entries = entries
        self._failing = failing
        self._s3_locks = s3_locks
        self._queue = queue
        self._clock = clock

    def among(self, keys: Iterable[bytes] | None) -> list[DirtyEntry]:
        """Return the stuck entries among the cache keys `keys`, all if None, the longest-failing first."""
        chosen = None if keys is None else set(keys)
        stuck = (key for key, _ in self._failing.stuck(self._clock.now()) if chosen is None or key in chosen)
        return [entry for entry in map(self._dirty.get, stuck) if entry is not None and not entry.dead]

    def retry(self, keys: Iterable[bytes] | None) -> int:
        """Make stuck writes due at once, and return how many. A write that fails again is still stuck."""
        entries = self.among(keys)
        self._queue.hasten({entry.key for entry in entries}, self._clock.now())
        return len(entries)

    async def drop(self, keys: Iterable[bytes] | None) -> int:
        """Delete stuck writes permanently, and return how many; reads return S3's object from then on.

        Waits for attempts in flight. A write that reached S3 meanwhile, or that a newer write has replaced, is not
        dropped.
        """
        found = [(entry, entry.version) for entry in self.among(keys)]
        dropped = 0
        for entry, version in found:
            dropped += await self._drop(entry, version)
        if found:
            await self._journal.sync_barrier()
        return dropped

    async def _drop(self, entry: DirtyEntry, version: Version) -> bool:
        # Without the key's lock: (1) the upload of `entry` is in flight; (2) `entry` is dropped; (3) a reader gets
        # the older object from S3, and it is kept in memory; (4) the upload succeeds, and memory is older than S3.
        async with self._s3_locks.hold(entry.key, None):
            if self._dirty.get(entry.key) is not entry or entry.version != version or entry.dead:
                return False
            log.warning("%s: dropped: %s", self._dirty_writes.ref(entry), entry.version)
            self._dirty_writes.retire(entry)
            self._entries.invalidate(entry.key)
            return True
