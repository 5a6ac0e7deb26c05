"""Coordination. Takes dirty writes of another node of the same lineage into the journal and the dirty table.

The newest version of a key wins. A write keeps its version, by which it is compared with S3 and with other writes,
and gets a record number of this journal: numbers of two nodes may be equal. The number is greater than all before,
so that a replay finds the writes of a key in the order of their versions: only a write that is newer than the key's
newest one is appended.

Later writes of this node are greater than every version that it was handed over (`Journal.learned`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from milena_cache.handover.frames import HandedOver, seconds_for
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import ENTRY_OVERHEAD, NotDurable
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED, S3Belief
from milena_common.api.errors import Overloaded
from milena_common.runtime.clock import Clock


def is_newer(version: Version, known: Version | None) -> bool:
    """Return True if a handed over write of `version` replaces the newest known one of its key."""
    return known is None or version > known


def belief_of(write: HandedOver, owned_since: int) -> S3Belief:
    """Return the belief under which `write` is served by the ownership since epoch `owned_since`."""
    record = write.record
    keeps = record.base if record.keeps and isinstance(record.base, str) else ""
    if not write.confirmed:
        return S3Belief.recovered(record.base, conditional=record.conditional, keeps=keeps)
    return S3Belief(record.base, owned_since, write.maybe_absent, write.indeterminate, record.conditional, keeps)


class Merging:
    """Merges handed over writes. `pending`: returns True while a write of a key is queued for the journal."""

    def __init__(
        self,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        writeback: WriteBack,
        entries: Entries,
        clock: Clock,
        pending: Callable[[bytes], bool],
        tombstones: Tombstones,
    ) -> None:
        self._journal = journal
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._writeback = writeback
        self._entries = entries
        self._clock = clock
        self._pending = pending
        self._tombstones = tombstones
        # Handed over writes that are queued for the journal, by key.
        self._merging: dict[bytes, HandedOver] = {}
        self.merged = 0
        # Returns True if this node has acknowledged a later write of the key that is over: a delete.
        self.superseded: Callable[[bytes, Version], bool] = tombstones.superseded

    def is_merging(self, key: bytes) -> bool:
        """Return True while a write of another node of `key` is queued for the journal, or not complete."""
        return key in self._merging

    async def merge(self, writes: Sequence[HandedOver], owned_since: int, timeout: float) -> None:
        """Return when each of `writes`, or a newer one of its key, is in the journal.

        `owned_since`: the epoch since which this node owns the slots, or will; UNCONFIRMED: as after a restart each
        is revalidated before it is served. Raises Overloaded if there is no room, DeadlineExceeded after `timeout`
        seconds (longer for large values), or JournalFailed; what was merged by then stays, and may be sent again.
        """
        timeout += seconds_for(sum(len(write.record.value or b"") for write in writes))
        appended: list[asyncio.Future[None]] = []
        try:
            for write in writes:
                future = await self._begin(write, owned_since, timeout)
                if future is not None:
                    appended.append(future)
            await asyncio.gather(*appended)
        except NotDurable as error:
            raise Overloaded(f"writes of another node could not be made durable: {error}", 1.0) from None
        finally:
            for future in appended:
                if future.done() and not future.cancelled():
                    future.exception()  # marks it as retrieved, if another one has failed first
        # Rejections, removals, tombstones, and what later versions must be greater than. A sync that is not
        # necessary would be one more for which stopped slots wait.
        if len(appended) < len(writes) or any(write.tombstone or write.rejection for write in writes):
            await self._journal.sync_barrier()

    async def _begin(self, write: HandedOver, owned_since: int, timeout: float) -> asyncio.Future[None] | None:
        record = write.record
        key = record.cache_key
        # A write in the journal's queue may still fail: only a durable one is a reason to drop this one.
        while key in self._merging or self._pending(key):
            await self._journal.wait_commit()
        self._journal.learned(record.version)
        known = self._dirty.get(key)
        if write.tombstone:
            self._tombstones.add(key, record.version, record.written_at)
            if known is None or known.version > record.version:
                return None
            if owned_since != UNCONFIRMED:
                # S3 has had the delete since an earlier put, or this same delete, was sent in the same move. S3 may
                # have a later put by now, which went through: a dirty delete would hide it.
                write = write._replace(gone=True)
            elif known.version == record.version:
                return None
            # Else the owner has an older put, which it may have uploaded in part: it is replaced by the delete.
        if write.gone:
            # An older one too: it came by a command without a reply, and S3 has a later write than both.
            if known is not None and known.version <= record.version and not known.upload.uploading:
                self._dirty_writes.retire(known)
                self._entries.invalidate(key)
            return None
        if known is not None and not is_newer(record.version, known.version):
            if known.version == record.version:
                self._update(known, write, owned_since)
            return None
        if known is None and not write.forced and self.superseded(key, record.version):
            return None
        size = len(record.value or b"")
        keeping = len(key) + ENTRY_OVERHEAD
        if not self._dirty.has_room(keeping + size, keeping):
            raise Overloaded("the dirty entries have reached DIRTY_MAX_BYTES or DIRTY_MEMORY_BYTES", 1.0)
        number = self._journal.next_version(0).seq
        now, wall = self._clock.now(), self._clock.wall()
        entry = DirtyEntry(
            key,
            record.version,
            record.value,
            size,
            belief_of(write, owned_since),
            deleted=record.value is None,
            journaled=True,
            acknowledged_at=now - max(0.0, wall - record.written_at),
            expires_at=record.expires_at or NEVER,
            number=number,
        )
        stored = record._replace(number=number, owned_since=0)
        self._merging[key] = write
        try:
            return self._journal.append(stored, entry, self._appended, timeout)
        except BaseException:
            del self._merging[key]
            raise

    def _appended(self, entry: DirtyEntry, durable: bool) -> None:
        write = self._merging.pop(entry.key)
        if not durable:
            return
        belief = entry.belief
        self._entries.invalidate(entry.key)
        known = self._dirty.get(entry.key)
        self._dirty_writes.replace(entry)
        # The sender knows more of S3 than this node did under the replaced entry, unless that was uploading.
        if known is None or not known.upload.uploading:
            entry.belief = belief
        else:
            entry.belief = belief.in_doubt()
        self.merged += 1
        self._reject(entry, write)
        self._writeback.acknowledged(entry)

    def _update(self, known: DirtyEntry, write: HandedOver, owned_since: int) -> None:
        """Take over what the sender has learned of a write since it was sent before."""
        if not known.upload.uploading and owned_since != UNCONFIRMED:
            known.belief = belief_of(write, owned_since)
        if known.dead is None:
            self._reject(known, write)
        elif write.rejection is None and not known.dead.damaged:  # an operator had it uploaded once more
            self._dirty.requeue(known)
            self._journal.defer(lambda disk: disk.clear_rejection(known.number))
            self._writeback.acknowledged(known)

    def _reject(self, entry: DirtyEntry, write: HandedOver) -> None:
        if write.rejection is not None:
            self._dirty_writes.mark_dead(entry, write.rejection[0])
