"""Coordination. Dead letters: writes that S3 rejected permanently, or whose journal record is damaged.

An operator lists, retries or drops them through the gRPC API or the command line. A retry overwrites the object
that S3 holds then. Both calls return only after the change is in the journal, so that a crash does not undo it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import is_expired
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.uploads.queue import UploadQueue
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class DeadLetters:
    """The dead letters of one node."""

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        journal: Journal[DirtyEntry],
        entries: Entries,
        queue: UploadQueue,
        clock: Clock,
    ) -> None:
        # Called when dead letters were queued again.
        self.on_retry: Callable[[], None] = lambda: None
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._journal = journal
        self._entries = entries
        self._queue = queue
        self._clock = clock

    def among(self, keys: Iterable[bytes] | None) -> list[DirtyEntry]:
        """Return the dead letters among the cache keys `keys`, all if None, the oldest dead letter first."""
        if keys is None:
            return sorted(self._dirty.dead(), key=lambda entry: entry.dead.at if entry.dead is not None else 0.0)
        found = (table(key) for key in keys for table in (self._dirty.get, self._dirty.withheld.get))
        return [entry for entry in found if entry is not None and entry.dead]

    async def retry(self, keys: Iterable[bytes] | None) -> int:
        """Queue dead letters that are not damaged for upload again, and return how many.

        Their uploads overwrite the object that S3 holds then, unless the write has expired.
        """
        entries = [
            entry
            for entry in self.among(keys)
            if entry.dead is not None
            and not entry.dead.damaged
            # A withheld one is older than any write that its key has got since.
            and self._dirty.get(entry.key) in (None, entry)
        ]
        for entry in entries:
            entry.belief = entry.belief.forced(expired=is_expired(entry.expires_at, self._clock.wall()))
            self._dirty.requeue(entry)
            for seq in entry.records():
                self._journal.defer(lambda disk, seq=seq: disk.clear_rejection(seq))  # type: ignore[misc]
            entry.upload.queued = True
            self._queue.add(entry.key, self._clock.now())
        self.on_retry()
        await self._journal.sync_barrier()
        return len(entries)

    async def drop(self, keys: Iterable[bytes] | None) -> int:
        """Delete dead letters permanently, and return how many; reads return S3's object from then on.

        With `keys` None, quarantined records, whose key is unknown, are deleted too.
        """
        entries = self.among(keys)
        if keys is None:
            self._journal.drop_quarantined()
        for entry in entries:
            log.warning("%s: dropped: %s", self._dirty_writes.ref(entry), entry.version)
            self._dirty_writes.retire(entry)
            self._entries.invalidate(entry.key)
        await self._journal.sync_barrier()
        return len(entries)
