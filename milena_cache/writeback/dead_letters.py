"""Coordination. Dead letters: what becomes of writes that S3 refuses for good, and of those that are damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import is_expired
from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import UNKNOWN
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_common.runtime.clock import Clock
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)


class DeadLetters:
    """Those of one node. `again` has an entry uploaded, `settled` lets it and its records go."""

    def __init__(
        self,
        dirty: Dirty,
        journal: Journal[DirtyEntry],
        entries: Entries,
        clock: Clock,
        *,
        ref_of: Callable[[DirtyEntry], Ref],
        requeue: Callable[[DirtyEntry], None],
        retire: Callable[[DirtyEntry], None],
    ) -> None:
        self._dirty = dirty
        self._journal = journal
        self._entries = entries
        self._clock = clock
        self._ref_of = ref_of
        self._requeue = requeue
        self._retire = retire
        self._log = LogLimiter()

    def add(self, entry: DirtyEntry, reason: str, *, damaged: bool = False) -> None:
        """`entry` will not be uploaded by itself. `damaged`: its value must not be told."""
        at = self._clock.wall()
        if self._log.allow(self._clock.now()):
            log.error(
                "%s: set aside: %s%s (`milena writeback failed` lists all)",
                self._ref_of(entry),
                reason,
                self._log.suppressed(),
            )
        self._dirty.kill(entry, reason, at, damaged=damaged)
        if damaged:
            self._entries.change_feed.notify(entry.key)
        elif entry.journaled:
            seq = entry.version.seq
            self._journal.defer(lambda disk: disk.reject_record(seq, reason, at))

    def among(self, keys: Iterable[bytes] | None) -> list[DirtyEntry]:
        """The dead letters among `keys`, all if None; who died first comes first."""
        if keys is None:
            return sorted(self._dirty.dead(), key=lambda entry: entry.dead_at)
        found = (self._dirty.get(key) for key in keys)
        return [entry for entry in found if entry is not None and entry.dead]

    async def retry(self, keys: Iterable[bytes] | None) -> int:
        """Try dead letters again, as they are over whatever S3 holds now; how many there were."""
        entries = [entry for entry in self.among(keys) if not entry.damaged]
        for entry in entries:
            if not is_expired(entry.expires_at, self._clock.wall()):  # that one writes over nothing any more
                entry.base = UNKNOWN
            entry.conditional = False
            self._dirty.requeue(entry)
            for seq in entry.records():
                self._journal.defer(lambda disk, seq=seq: disk.clear_rejection(seq))  # type: ignore[misc]
            self._requeue(entry)
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
            log.warning("%s: dropped: %s", self._ref_of(entry), entry.version)
            self._retire(entry)
            self._entries.invalidate(entry.key)
        await self._journal.sync_barrier()
        return len(entries)
