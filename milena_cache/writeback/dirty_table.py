"""Pure. The dirty entries: what was acknowledged and is not in S3, by cache key, and how much of it there is.

They are apart from the LRU: they never go stale and are never evicted, and have a budget of their own. An entry is
its key's *newest* acknowledged write; a later one takes its place. Values are kept in memory as long as
`memory_limit` allows; others are in the journal only and are read back from it.

A *dead letter* is an entry that will not be uploaded by itself, because S3 refused it for good or its record is
damaged. It still answers reads: what was acknowledged is the truth. A later write of its key takes its place too.

*Flush epochs* answer "is everything in S3 that was dirty at that time?" without a list of it: `checkpoint` closes
the present one, and the entries of it and of earlier ones that are still pending are counted as entries go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milena_cache.objects.expiry import NEVER
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import ENTRY_OVERHEAD
from milena_cache.writeback.uploads.s3_belief import S3Belief

# Bytes of keys and keeping that are not counted for DIRTY_MEMORY_BYTES: some 24,000 entries.
KEEPING_FREE = 16 * 2**20


class DeadLetter(NamedTuple):
    """Why an entry will not be uploaded by itself, and since when, in seconds since 1970.

    `damaged`: its record is damaged, and its value must not be served.
    """

    reason: str
    at: float
    damaged: bool


class UploadState:
    """How far the upload of one key's dirty entry has come; each later write of the key takes it over.

    since: when the oldest write that the entry stands for was acknowledged, monotonic seconds.
    flush_epoch: the flush epoch of that write.
    next_flush_epoch: the flush epoch of the oldest write since the upload in flight began; None if none has come.
    failures: attempts that have failed since the last success.
    queued: the key waits for an upload, be it the first attempt or another one.
    uploading: an upload of the entry, or of an older write of the key, is in flight.
    """

    __slots__ = ("failures", "flush_epoch", "next_flush_epoch", "queued", "since", "uploading")

    def __init__(self, since: float, flush_epoch: int) -> None:
        self.since = since
        self.flush_epoch = flush_epoch
        self.next_flush_epoch: int | None = None
        self.failures = 0
        self.queued = False
        self.uploading = False


class DirtyEntry:
    """One key's newest acknowledged write: what is stored, what is believed of S3, and how its upload stands.

    value: None for a delete (`deleted`), and for a value that is only in the journal.
    size, cost: bytes of the value; bytes that the entry counts for.
    etag: the ETag of its value, "" until it is computed.
    expires_at: when the object expires, in seconds since 1970; once that has been noticed, the entry is a delete
        that is `expired`.
    journaled: False for a write in the class `memory`.
    shadowed_seq: the record of an earlier write of the key that stays in the journal until S3 has this one; or 0.
    acknowledged_at: monotonic seconds.
    dead: why it is a dead letter; None if it is none.
    belief: what S3 holds under it.
    upload: how its upload stands; there from its coming into the table on.
    """

    __slots__ = (
        "acknowledged_at",
        "belief",
        "cost",
        "dead",
        "deleted",
        "etag",
        "expires_at",
        "journaled",
        "keeping",
        "key",
        "shadowed_seq",
        "size",
        "upload",
        "value",
        "version",
    )

    upload: UploadState

    def __init__(
        self,
        key: bytes,
        version: Version,
        value: bytes | None,
        size: int,
        belief: S3Belief,
        *,
        deleted: bool,
        journaled: bool,
        acknowledged_at: float,
        etag: str = "",
        expires_at: float = NEVER,
    ) -> None:
        self.key = key
        self.version = version
        self.value = value
        self.size = size
        self.keeping = len(key) + ENTRY_OVERHEAD
        self.cost = self.keeping + size
        self.belief = belief
        self.deleted = deleted
        self.journaled = journaled
        self.acknowledged_at = acknowledged_at
        self.etag = etag
        self.expires_at = expires_at
        self.shadowed_seq = 0
        self.dead: DeadLetter | None = None

    def records(self) -> Iterator[int]:
        """The numbers of the journal's records that it stands for, in the order of their writing."""
        if self.shadowed_seq:
            yield self.shadowed_seq
        if self.journaled:
            yield self.version.seq

    def overwritable(self, owned_since: int) -> bool:
        """True if another value, under this ownership, may take the place of this one without an entry of its own.

        It is in memory alone and waits for the first attempt to upload it. Nothing was said of it that does not
        hold for another value: neither an expiry nor a condition, and S3 has not refused it.
        """
        upload, belief = self.upload, self.belief
        return (
            self.dead is None
            and not self.journaled
            and upload.queued
            and not upload.uploading
            and not upload.failures
            and not self.shadowed_seq
            and not self.expires_at
            and self.value is not None
            and belief.owned_since == owned_since
            and not belief.conditional
            and not belief.keeps
        )

    @property
    def expired(self) -> bool:
        """Whether it is a delete because its object came to its own end."""
        return self.deleted and bool(self.expires_at)

    @property
    def in_memory(self) -> int:
        """Bytes of its value that are held in memory."""
        return len(self.value) if self.value is not None else 0


class Dirty:
    """Entries by cache key, in at most `max_bytes`, of which `memory_limit` bytes are in memory.

    Keys and the keeping of entries are always in memory, values while there is room beside those. So `memory_limit`
    also bounds how many entries there are, however small their values. The first KEEPING_FREE bytes of keeping are
    not counted, so that no entry is rejected for want of memory while there are few.
    """

    def __init__(self, max_bytes: int, memory_limit: int) -> None:
        self.max_bytes = max_bytes
        self.memory_limit = memory_limit
        self.entries: dict[bytes, DirtyEntry] = {}
        self.bytes = 0
        self.puts = 0  # since the start
        self.memory_bytes = 0  # of values
        self.keeping_bytes = 0  # of everything else
        self.dead_letters = 0
        self.dead_bytes = 0
        self.damaged = 0
        self._requeued: set[bytes] = set()
        self._flush_epoch = 0
        self._pending: dict[int, int] = {}

    def __len__(self) -> int:
        """How many entries wait to be uploaded; dead letters do not."""
        return len(self.entries) - self.dead_letters

    def __contains__(self, key: bytes) -> bool:
        return key in self.entries

    def get(self, key: bytes) -> DirtyEntry | None:
        return self.entries.get(key)

    def has_room(self, cost: int, keeping: int) -> bool:
        """Whether entries that cost so many bytes more, `keeping` of them without their values, may be added."""
        return self.bytes + cost <= self.max_bytes and (
            self.keeping_bytes + keeping <= self.memory_limit + KEEPING_FREE
        )

    def fits_in_memory(self, size: int) -> bool:
        """Whether `size` more bytes of values may be in memory."""
        return self.memory_bytes + size + max(0, self.keeping_bytes - KEEPING_FREE) <= self.memory_limit

    def replace(self, entry: DirtyEntry) -> DirtyEntry | None:
        """Make `entry` its key's newest write; the one whose place it takes.

        What is believed of S3 and the state of the upload pass over to it.
        """
        self.puts += 1
        if entry.journaled and not self.fits_in_memory(entry.in_memory):
            entry.value = None
        old = self.entries.get(entry.key)
        if old is None:
            entry.upload = UploadState(entry.acknowledged_at, self._flush_epoch)
        else:
            self._uncount(old)
            entry.belief = entry.belief.replacing(old.belief, deleted=old.deleted, dead=old.dead is not None)
            upload = entry.upload = old.upload
            if old.dead is not None:
                del self.entries[entry.key]  # its place is among those of its age
                upload.since, upload.failures = entry.acknowledged_at, 0
                upload.flush_epoch = self._flush_epoch
                # What is in flight is not it.
                upload.next_flush_epoch = self._flush_epoch if upload.uploading else None
            elif upload.uploading and upload.next_flush_epoch is None:
                upload.next_flush_epoch = self._flush_epoch
        self.entries[entry.key] = entry
        self._count(entry)
        return old

    def revalue(self, entry: DirtyEntry, value: bytes, version: Version) -> None:
        """Give another value to an entry without an upload in flight: as `replace`, all else kept."""
        self.puts += 1
        more = len(value) - entry.size
        entry.value, entry.version, entry.etag = value, version, ""
        if more:
            entry.size += more
            entry.cost += more
            self.bytes += more
            self.memory_bytes += more

    def expire(self, entry: DirtyEntry) -> None:
        """The object's own end has come: make a delete of its newest write."""
        self._uncount(entry)
        entry.value, entry.deleted = None, True
        self._count(entry)

    def pop(self, entry: DirtyEntry) -> None:
        """It is in S3, or was dropped."""
        del self.entries[entry.key]
        self._uncount(entry)

    def kill(self, entry: DirtyEntry, reason: str, at: float, *, damaged: bool = False) -> None:
        """Make a dead letter of it; `at` in seconds since 1970. `damaged`: its value must not be told."""
        self._uncount(entry)
        entry.dead = DeadLetter(reason, at, damaged)
        self._count(entry)

    def requeue(self, entry: DirtyEntry) -> None:
        """Make an ordinary entry of a dead letter."""
        self._uncount(entry)
        entry.dead, entry.upload.failures = None, 0
        entry.upload.flush_epoch = self._flush_epoch
        self._count(entry)
        self._requeued.add(entry.key)

    def upload_began(self, entry: DirtyEntry) -> None:
        entry.upload.uploading = True
        entry.upload.next_flush_epoch = None

    def upload_finished(self, entry: DirtyEntry, *, succeeded: bool, now: float) -> None:
        """Record the end of the upload of `entry`, its key's newest write, or of an older write of the key."""
        upload = entry.upload
        upload.uploading = False
        if succeeded and upload.next_flush_epoch is not None:
            # What it stands for now is only what came since the upload began.
            self._uncount(entry)
            upload.flush_epoch, upload.since = upload.next_flush_epoch, now
            self._count(entry)
            self._move_last(entry)
        upload.next_flush_epoch = None

    def _move_last(self, entry: DirtyEntry) -> None:
        """Entries are in the order of `upload.since`."""
        del self.entries[entry.key]
        self.entries[entry.key] = entry

    def _count(self, entry: DirtyEntry) -> None:
        self.bytes += entry.cost
        if entry.value is not None:
            self.memory_bytes += len(entry.value)
        self.keeping_bytes += entry.keeping
        if entry.dead is not None:
            self.dead_letters += 1
            self.dead_bytes += entry.cost
            self.damaged += entry.dead.damaged
        else:
            flush_epoch = entry.upload.flush_epoch
            self._pending[flush_epoch] = self._pending.get(flush_epoch, 0) + 1

    def _uncount(self, entry: DirtyEntry) -> None:
        self.bytes -= entry.cost
        if entry.value is not None:
            self.memory_bytes -= len(entry.value)
        self.keeping_bytes -= entry.keeping
        if entry.dead is not None:
            self.dead_letters -= 1
            self.dead_bytes -= entry.cost
            self.damaged -= entry.dead.damaged
            return
        flush_epoch = entry.upload.flush_epoch
        pending = self._pending[flush_epoch] - 1
        if pending:
            self._pending[flush_epoch] = pending
        else:
            del self._pending[flush_epoch]

    def dead(self) -> Iterator[DirtyEntry]:
        """The dead letters."""
        return (entry for entry in self.entries.values() if entry.dead is not None)

    def checkpoint(self) -> int:
        """Close the present flush epoch, and return its number."""
        self._flush_epoch += 1
        return self._flush_epoch - 1

    def pending_before(self, flush_epoch: int) -> int:
        """How many entries of that flush epoch and of earlier ones are still to be uploaded."""
        return sum(number for each, number in self._pending.items() if each <= flush_epoch)

    def oldest_since(self, now: float) -> float:
        """When the oldest write that is not in S3 was acknowledged; `now` if there is none."""
        self._requeued = {key for key in self._requeued if key in self.entries and not self.entries[key].dead}
        first = next((entry.upload.since for entry in self.entries.values() if not entry.dead), now)
        return min((first, *(self.entries[key].upload.since for key in self._requeued)))
