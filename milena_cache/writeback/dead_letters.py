"""Coordination. Dead letters: what people can do about writes that S3 refuses for good, and damaged ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import is_expired
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.uploads.queue import UploadQueue
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class DeadLetters:
    """Those of one node."""

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        journal: Journal[DirtyEntry],
        entries: Entries,
        queue: UploadQueue,
        clock: Clock,
    ) -> None:
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._journal = journal
        self._entries = entries
        self._queue = queue
        self._clock = clock

    def among(self, keys: Iterable[bytes] | None) -> list[DirtyEntry]:
        """The dead letters among `keys`, all if None; who died first comes first."""
        if keys is None:
            return sorted(self._dirty.dead(), key=lambda entry: entry.dead.at if entry.dead is not None else 0.0)
        found = (self._dirty.get(key) for key in keys)
        return [entry for entry in found if entry is not None and entry.dead]

    async def retry(self, keys: Iterable[bytes] | None) -> int:
        """Try dead letters again, as they are over whatever S3 holds now; how many there were."""
        entries = [entry for entry in self.among(keys) if entry.dead is not None and not entry.dead.damaged]
        for entry in entries:
            entry.belief = entry.belief.forced(expired=is_expired(entry.expires_at, self._clock.wall()))
            self._dirty.requeue(entry)
            for seq in entry.records():
                self._journal.defer(lambda disk, seq=seq: disk.clear_rejection(seq))  # type: ignore[misc]
            entry.upload.queued = True
            self._queue.add(entry.key, self._clock.now())
        await self._journal.sync_barrier()
        return len(entries)

    async def drop(self, keys: Iterable[bytes] | None) -> int:
        """Forget dead letters, and what is damaged beyond recognition if all are meant; how many dead letters.

        What S3 holds is the truth again.
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
