"""Coordination. The values, ETags and expiry of dirty entries, from the table or the journal, and their removal.

The table (`dirty_table`) holds and counts the entries. This module adds what needs other parts of the node: the
bucket and key in S3, a value that is only in the journal, the time of day for an entry that expires. Readers,
writes and uploads call it.

Invariant: an entry is removed only by `retire`, when S3 has its version or a later one, or when an operator drops
it, and by `replace`, when a later write takes its place. Until then its records stay. An entry that S3 rejects
permanently, or whose record is damaged, stays as a dead letter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import is_expired
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Ref
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.failing import Failing
from milena_cache.writeback.flush import FlushWaiters
from milena_cache.writeback.releases import Releases
from milena_common.api.errors import FailedPrecondition
from milena_common.api.etags import etag_of
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# The reason of a withheld dead letter, by which the journal's rejections tell it from others after a restart.
TOO_LATE = (
    "handed in too late, and not served: the key may have been deleted since by its new owner, which keeps no "
    "record of that any more (TOMBSTONE_SECONDS)"
)


class DirtyWrites:
    """The dirty writes of one node. `failing` and `flush_waiters` are notified when an entry is removed or dead."""

    def __init__(
        self,
        dirty: Dirty,
        journal: Journal[DirtyEntry],
        releases: Releases,
        entries: Entries,
        buckets: Buckets,
        clock: CorrectedClock,
        failing: Failing,
        flush_waiters: FlushWaiters,
    ) -> None:
        # Called with each entry that is withheld from now on.
        self.on_withheld: Callable[[DirtyEntry], None] = lambda entry: None
        self._dirty = dirty
        self._journal = journal
        self._releases = releases
        self._entries = entries
        self._buckets = buckets
        self._clock = clock
        self._failing = failing
        self._flush_waiters = flush_waiters
        self._log = LogLimiter()

    # ---- properties of an entry

    def ref(self, entry: DirtyEntry) -> Ref:
        """Return the bucket and key of the object in S3."""
        return self._buckets.object_at(entry.key).ref

    def is_gone(self, entry: DirtyEntry) -> bool:
        """Return True if the entry is a delete, or its object has expired.

        An expired entry becomes a delete, except while S3's clock is not known: then the value is kept and uploaded
        with its expiry, because this machine's clock may be wrong.
        """
        if entry.expires_at and not entry.deleted and is_expired(entry.expires_at, self._clock.wall()):
            if not self._clock.s3.known:
                return True
            self._dirty.expire(entry)
            self._entries.change_feed.notify(entry.key)
            self._entries.change_feed.event("expired", entry.key)
        return entry.deleted

    def value(self, entry: DirtyEntry) -> bytes:
        """Return the value of an entry that is not a delete.

        Raises FailedPrecondition if its record is damaged, after making the entry a dead letter.
        """
        if entry.dead is None or not entry.dead.damaged:
            if entry.value is not None:
                return entry.value
            try:
                return self._journal.read(entry.number)
            except Damaged as damage:
                log.critical("%s: its journal record %d %s", self.ref(entry), entry.number, damage)
                self.mark_dead(entry, f"damaged: the journal record {damage}", damaged=True)
        raise FailedPrecondition(
            f"{self.ref(entry)}: the acknowledged value is damaged in the journal, and S3 has an older one; write "
            "the object again, or discard the damaged write with `milena writeback drop`"
        )

    def read_back(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Return the values of these records of the journal, without damaged ones, which `value` reports."""
        return self._journal.read_all(numbers)

    def etag(self, entry: DirtyEntry) -> str:
        """Return the ETag of an entry that is not a delete. Raises as `value` does."""
        if not entry.etag:
            entry.etag = etag_of(self.value(entry))
        return entry.etag

    # ---- replacement and removal

    def replace(self, entry: DirtyEntry) -> None:
        """Make `entry` its key's newest write, and release the records of the one whose place it takes."""
        old = self._dirty.replace(entry)
        if old is not None:
            records = list(old.records())
            if not entry.journaled and records:
                # `entry` has no record. The last record before it stays, so that after a crash the key has the last
                # write that was acknowledged as durable, and not an older object of S3.
                entry.shadowed_seq = records.pop()
            for seq in records:
                self._releases.release(seq, entry.key)

    def release_records(self, entry: DirtyEntry) -> bool:
        """Release the records of an entry that stays, in memory; False if its value has no room there."""
        value = None
        if not entry.deleted:
            if entry.value is None and not self._dirty.fits_in_memory(entry.size):
                return False
            try:
                value = self.value(entry)
            except FailedPrecondition:
                return False  # damaged: there is nothing that a read could get
        records = tuple(entry.records())
        self._dirty.keep_in_memory(entry, value)
        for seq in records:
            self._releases.release(seq, entry.key)
        return True

    def retire(self, entry: DirtyEntry) -> None:
        """Remove an entry and its records, because S3 has its version or a later one, or an operator dropped it.

        The caller holds the key's lock on S3, so that no upload of the entry is in flight.
        """
        self._dirty.pop(entry)
        self._failing.clear(entry.key)
        for seq in entry.records():
            self._releases.release(seq, entry.key)
        self._releases.retired(entry.key, entry.version)
        self._flush_waiters.progress(entry.key)

    def withdraw(self, entry: DirtyEntry) -> None:
        """Remove an entry that has a record, which stays: it is a copy of another node's write from now on."""
        self._dirty.pop(entry)
        self._failing.clear(entry.key)
        if entry.shadowed_seq:
            self._releases.release(entry.shadowed_seq, entry.key)
        self._flush_waiters.progress(entry.key)

    def withhold(self, entry: DirtyEntry, reason: str) -> None:
        """Make the entry a dead letter that no read is served from, for `reason`."""
        self._failing.clear(entry.key)
        at = self._clock.wall()
        if self._log.allow(self._clock.now()):
            log.error("%s: made a dead letter: %s%s", self.ref(entry), reason, self._log.suppressed())
        earlier = self._dirty.withhold(entry, reason, at)
        for seq in earlier.records() if earlier is not None else ():
            self._releases.release(seq, entry.key)
        self._entries.change_feed.notify(entry.key)
        if entry.journaled:
            seq = entry.number
            self._journal.defer(lambda disk: disk.reject_record(seq, reason, at))
        self._flush_waiters.progress(entry.key)
        self.on_withheld(entry)

    def mark_dead(self, entry: DirtyEntry, reason: str, *, damaged: bool = False) -> None:
        """Make the entry a dead letter, for `reason`. `damaged`: its value must not be served."""
        self._failing.clear(entry.key)
        at = self._clock.wall()
        if self._log.allow(self._clock.now()):
            log.error(
                "%s: made a dead letter: %s%s (`milena writeback failed` lists all)",
                self.ref(entry),
                reason,
                self._log.suppressed(),
            )
        self._dirty.kill(entry, reason, at, damaged=damaged)
        if damaged:
            self._entries.change_feed.notify(entry.key)
        elif entry.journaled:
            seq = entry.number
            self._journal.defer(lambda disk: disk.reject_record(seq, reason, at))
        self._flush_waiters.progress(entry.key)
