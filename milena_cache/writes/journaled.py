"""Coordination. How a write becomes a dirty entry: by way of the journal, or in memory alone."""

from __future__ import annotations

import asyncio

from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Record, encode
from milena_cache.memory.entries import Entries
from milena_cache.objects.etags import same_etag
from milena_cache.objects.version import UNKNOWN, Base
from milena_cache.objects.write_request import ENTRY_OVERHEAD, Ack, Change
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_common.api.durability import BACK, MEMORY
from milena_common.runtime.clock import Clock


class JournaledWrites:
    """The writes on their way into the journal, and the way itself. `acknowledged` counts by class."""

    def __init__(
        self,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        writeback: WriteBack,
        entries: Entries,
        clock: Clock,
        acknowledged: dict[str, int],
    ) -> None:
        self.draining = False
        self._journal = journal
        self._dirty = dirty
        self._writeback = writeback
        self._entries = entries
        self._clock = clock
        self._acknowledged = acknowledged
        # By key, the last write that is on its way into the journal.
        self._last: dict[bytes, DirtyEntry] = {}
        self._bytes = 0
        self._keeping = 0
        # What most writes believe, of the ownership of the last one: they share it.
        self._nothing_known = S3Belief(UNKNOWN)

    def __contains__(self, key: bytes) -> bool:
        """Whether a write of `key` is on its way into the journal."""
        return key in self._last

    async def wait_for_commit(self) -> None:
        """Return when some of them are in the journal, or could not be put there."""
        await self._journal.wait_commit()

    def rejection(self, change: Change) -> str:
        """Why the change cannot enter the journal: one of `writes.FORCED`, "" if it can."""
        if self.draining:
            return "draining"
        if self._journal.full:
            return "journal_full"
        return "" if self._has_room(change) else "dirty_limit"

    def _has_room(self, change: Change) -> bool:
        size = len(change.value or b"")
        keeping = len(change.target.cache_key) + ENTRY_OVERHEAD
        return self._dirty.has_room(self._bytes + keeping + size, self._keeping + keeping)

    def fits_in_memory(self, change: Change) -> bool:
        """Whether the change can be kept in memory alone."""
        dirty = self._dirty
        return not self.draining and dirty.fits_in_memory(len(change.value or b"")) and self._has_room(change)

    def append(self, change: Change, base: Base, timeout: float) -> asyncio.Future[None]:
        """Write the change to the journal; done when it is durable, and the dirty entry is there.

        Raises JournalFull, DeadlineExceeded; JournalFailed, at once if it has.
        """
        entry = self._entry(change, base, journaled=True)
        key = entry.key
        old = self._dirty.entries.get(key)
        base = entry.belief.base if old is None else old.belief.base
        if key in self._last:
            old = self._last[key]
        if old is not None:
            entry.belief = entry.belief.behind(old.belief, deleted=old.deleted)
        belief = entry.belief
        raw = encode(
            Record(
                key,
                entry.version,
                change.value,
                base,
                belief.conditional,
                belief.owned_since,
                self._clock.wall(),
                entry.expires_at,
                # The record has no place for a second ETag; they differ only after a conflict.
                isinstance(base, str) and same_etag(base, belief.keeps),
            )
        )
        future = self._journal.write(entry.version.seq, raw, entry, self._appended, timeout)
        self._bytes += entry.cost
        self._keeping += entry.keeping
        self._last[key] = entry
        return future

    def _appended(self, entry: DirtyEntry, durable: bool) -> None:
        self._bytes -= entry.cost
        self._keeping -= entry.keeping
        if self._last[entry.key] is entry:
            del self._last[entry.key]
        if durable:
            self._is_dirty(entry)
            self._acknowledged[BACK] += 1

    def remember(self, change: Change, base: Base) -> Ack:
        """Keep the change in memory alone."""
        self._is_dirty(self._entry(change, base, journaled=False))
        self._acknowledged[MEMORY] += 1
        return Ack(MEMORY, change.etag, change.value)

    def overwrite(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Keep `value` in memory alone, in place of another that is kept so and waits for its upload.

        That is how most writes of a busy key come, and what makes `memory` fast: no entry is made. False if the
        key's newest write is anything else, and then nothing was done.
        """
        entry = self._dirty.entries.get(key)
        if entry is None or not entry.overwritable(owned_since) or key in self._last or self.draining:
            return False
        more = len(value) - entry.size
        if more > 0 and (
            not self._dirty.fits_in_memory(more) or not self._dirty.has_room(self._bytes + more, self._keeping)
        ):
            return False
        self._entries.fence_reads(key)
        self._dirty.revalue(entry, value, self._journal.next_version(owned_since))
        self._entries.change_feed.notify(key)
        self._acknowledged[MEMORY] += 1
        return True

    def _entry(self, change: Change, base: Base, *, journaled: bool) -> DirtyEntry:
        value = change.value
        return DirtyEntry(
            change.target.cache_key,
            self._journal.next_version(change.owned_since),
            value,
            0 if value is None else len(value),
            self._belief(change, base),
            deleted=value is None,
            journaled=journaled,
            acknowledged_at=self._clock.now(),
            etag=change.etag,
            expires_at=change.expires_at,
        )

    def _belief(self, change: Change, base: Base) -> S3Belief:
        owned_since, conditional, keeps = change.owned_since, change.conditional, change.keeps
        maybe_absent = False
        if base is UNKNOWN and change.target.cache_key not in self._dirty.entries:
            base, maybe_absent = self._entries.base(change.target.cache_key, owned_since)
        if base is not UNKNOWN or maybe_absent or conditional or keeps:
            return S3Belief(base, owned_since, maybe_absent, conditional=conditional, keeps=keeps)
        if owned_since != self._nothing_known.owned_since:
            self._nothing_known = S3Belief(UNKNOWN, owned_since)
        return self._nothing_known

    def _is_dirty(self, entry: DirtyEntry) -> None:
        self._entries.invalidate(entry.key)
        old = self._dirty.replace(entry)
        if old is not None:
            records = list(old.records())
            if not entry.journaled and records:
                # After a crash the last one that was promised to be kept shall still be there.
                entry.shadowed_seq = records.pop()
            for seq in records:
                self._journal.remove(seq, entry.key)
        self._writeback.acknowledged(entry)
