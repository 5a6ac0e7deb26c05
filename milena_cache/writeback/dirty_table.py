"""Pure. The dirty entries by cache key: writes that were acknowledged and are not in S3, and their counts and
bytes.

Dirty entries are separate from the LRU: they never go stale, are never evicted, and have their own budget. An entry
is its key's *newest* acknowledged write; a later write replaces it. Values are kept in memory as far as
`memory_limit` allows; other values are in the journal only and are read back from it.

A *dead letter* is an entry that is not uploaded automatically, because S3 rejected it permanently or its record is
damaged. Unless it is damaged, reads are still served from it, because it was acknowledged. A later write of its key
replaces it too. A dead letter is *withheld* if its key may have been deleted after it was acknowledged: it is not
an entry any more, and no read is served from it, until an operator retries it.

*Flush epochs* tell whether all entries that were dirty at some time are in S3, without a list of them: `checkpoint`
closes the current epoch, and the table counts the pending entries of each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from milena_cache.objects.expiry import NEVER
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import ENTRY_OVERHEAD
from milena_cache.writeback.uploads.s3_belief import S3Belief

# Bytes of keys and per-entry overhead that do not count against DIRTY_MEMORY_BYTES: some 24,000 entries.
KEEPING_FREE = 16 * 2**20


class DeadLetter(NamedTuple):
    """Why an entry is not uploaded automatically.

    reason: S3's error or the damage, as text.
    at: when the entry became a dead letter, in seconds since 1970.
    damaged: True if its journal record is damaged, so that its value must not be served.
    """

    reason: str
    at: float
    damaged: bool


class UploadState:
    """The state of the upload of one key's dirty entry; each later write of the key takes the object over.

    since: when the oldest write that the entry represents was acknowledged, in monotonic seconds.
    flush_epoch: the flush epoch of that write.
    next_flush_epoch: the flush epoch of the oldest write since the upload in flight began; None without such a
        write.
    failures: failed attempts since the last success.
    queued: True while the key waits for an upload, the first attempt or a retry.
    uploading: True while an upload of the entry, or of an older write of the key, is in flight.
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
    """One key's newest acknowledged write: its value, the belief about S3 under it, and the state of its upload.

    epoch, seq: its version, in two numbers: a busy key gets one with each write, and those cost no object.
    value: None for a delete (`deleted`), and for a value that is only in the journal.
    size: bytes of the value.
    etag: the ETag of the value, "" until it is computed.
    expires_at: when the object expires, in seconds since 1970; once the expiry has been noticed, the entry is a
        delete that is `expired`.
    journaled: False for a write of the class `memory`.
    number: the sequence number of its record in the journal: that of its version, unless another node wrote it.
    shadowed_seq: the sequence number of an earlier write's record, which stays in the journal until S3 has this
        entry, because this entry has no record; 0 without one.
    acknowledged_at: monotonic seconds.
    dead: why the entry is a dead letter; None if it is not one.
    forced: True if an operator has retried it after that.
    belief: what S3 is believed to hold.
    upload: the state of the upload; set when the entry enters the table.
    """

    __slots__ = (
        "acknowledged_at",
        "belief",
        "dead",
        "deleted",
        "epoch",
        "etag",
        "expires_at",
        "forced",
        "journaled",
        "key",
        "number",
        "seq",
        "shadowed_seq",
        "size",
        "upload",
        "value",
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
        number: int = 0,
    ) -> None:
        self.key = key
        self.epoch, self.seq = version
        self.number = number or version.seq
        self.value = value
        self.size = size
        self.belief = belief
        self.deleted = deleted
        self.journaled = journaled
        self.acknowledged_at = acknowledged_at
        self.etag = etag
        self.expires_at = expires_at
        self.shadowed_seq = 0
        self.forced = False
        self.dead: DeadLetter | None = None

    @property
    def version(self) -> Version:
        """Return the version, which is later than those of all earlier writes of the key."""
        return Version(self.epoch, self.seq)

    def records(self) -> Iterator[int]:
        """Yield the sequence numbers of the journal records that the entry represents, oldest first."""
        if self.shadowed_seq:
            yield self.shadowed_seq
        if self.journaled:
            yield self.number

    def overwritable(self, owned_since: int) -> bool:
        """Return True if another value of the same ownership may replace this one without a new entry.

        That holds for an entry that is in memory only, waits for its first upload attempt, and has no property that
        depends on its value: no expiry, no condition, no rejection by S3.
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
    def keeping(self) -> int:
        """Return the bytes of memory that the entry takes whether or not its value is in memory."""
        return len(self.key) + ENTRY_OVERHEAD

    @property
    def cost(self) -> int:
        """Return the bytes that the entry counts for in `Dirty.bytes`."""
        return len(self.key) + ENTRY_OVERHEAD + self.size

    @property
    def expired(self) -> bool:
        """Return True if the entry is a delete because its object has expired."""
        return self.deleted and bool(self.expires_at)

    @property
    def in_memory(self) -> int:
        """Return the bytes of its value that are in memory."""
        return len(self.value) if self.value is not None else 0


class Dirty:
    """Entries by cache key: at most `max_bytes` bytes, of which at most `memory_limit` bytes are in memory.

    Keys and per-entry overhead (`keeping`) are always in memory, values while there is room beside them. So
    `memory_limit` also bounds the number of entries, however small their values. The first KEEPING_FREE bytes of
    overhead are not counted, so that no entry is rejected for lack of memory while there are few.

    Other modules read it by `get`, which returns the entry of a key or None, by iteration over the keys, and by
    `values`. Every read of an object begins with `get`, so that is the method of the dictionary itself: it costs no
    call of Python, and stays valid for the life of the table. `bytes` is 0 if and only if there is no entry.
    """

    def __init__(self, max_bytes: int, memory_limit: int) -> None:
        self.max_bytes = max_bytes
        self.memory_limit = memory_limit
        self._entries: dict[bytes, DirtyEntry] = {}
        self.get: Callable[[bytes], DirtyEntry | None] = self._entries.get
        self.withheld: dict[bytes, DirtyEntry] = {}
        self.bytes = 0
        self.puts = 0  # since the start
        self.memory_bytes = 0  # of values
        self.keeping_bytes = 0  # of everything else
        self.dead_letters = 0
        self.dead_bytes = 0
        self.damaged = 0
        # Called with the key of each entry that is new, replaced, changed or removed; None without a subscriber.
        self.on_change: Callable[[bytes], None] | None = None
        self._requeued: set[bytes] = set()
        self._flush_epoch = 0
        self._pending: dict[int, int] = {}

    def __len__(self) -> int:
        """Return the number of entries, dead letters included."""
        return len(self._entries) + len(self.withheld)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys, in no particular order."""
        return iter(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def values(self) -> Collection[DirtyEntry]:
        """Return the entries, in no particular order."""
        return self._entries.values()

    @property
    def waiting(self) -> int:
        """How many entries wait to be uploaded; dead letters do not."""
        return len(self) - self.dead_letters

    def has_room(self, cost: int, keeping: int) -> bool:
        """Return True if entries of `cost` bytes in all, `keeping` of them overhead, may be added."""
        return self.bytes + cost <= self.max_bytes and (
            self.keeping_bytes + keeping <= self.memory_limit + KEEPING_FREE
        )

    def fits_in_memory(self, size: int) -> bool:
        """Return True if `size` more bytes of values may be in memory."""
        return self.memory_bytes + size + max(0, self.keeping_bytes - KEEPING_FREE) <= self.memory_limit

    def replace(self, entry: DirtyEntry) -> DirtyEntry | None:
        """Make `entry` its key's newest write; return the entry that it replaces, None without one.

        The belief about S3 and the state of the upload pass from the old entry to `entry`.
        """
        self.puts += 1
        if entry.value is not None and entry.journaled and not self.fits_in_memory(entry.in_memory):
            entry.value = None
        old = self._entries.get(entry.key)
        if old is None:
            entry.upload = UploadState(entry.acknowledged_at, self._flush_epoch)
        else:
            self._uncount(old)
            entry.belief = entry.belief.replacing(old.belief, deleted=old.deleted, dead=old.dead is not None)
            upload = entry.upload = old.upload
            if old.dead is not None:
                del self._entries[entry.key]  # entries are in the order of `upload.since`, which is set anew
                upload.since, upload.failures = entry.acknowledged_at, 0
                upload.flush_epoch = self._flush_epoch
                # An upload in flight is of the old entry: its success must not count as one of `entry`.
                upload.next_flush_epoch = self._flush_epoch if upload.uploading else None
            elif upload.uploading and upload.next_flush_epoch is None:
                upload.next_flush_epoch = self._flush_epoch
        self._entries[entry.key] = entry
        self._count(entry)
        if self.on_change is not None:
            self.on_change(entry.key)
        return old

    def revalue(self, entries: list[DirtyEntry], values: list[bytes], at: int, first: Version) -> None:
        """Replace the values of entries that have no upload in flight by those from `at` on in `values`.

        As `replace`, but the entries are kept; one may be there more than once. `first` is the version of the first
        write, and the others have the sequence numbers after it.
        """
        epoch, seq = first
        grown = 0
        for entry in entries:
            value = values[at]
            size = len(value)
            grown += size - entry.size
            entry.epoch, entry.seq, entry.etag = epoch, seq, ""
            entry.size = size
            entry.value = value
            seq += 1
            at += 1
        self.puts += len(entries)
        self.bytes += grown
        self.memory_bytes += grown
        if self.on_change is not None:
            for entry in entries:
                self.on_change(entry.key)

    def keep_in_memory(self, entry: DirtyEntry, value: bytes | None) -> None:
        """Keep the entry, whose `value` this is, without its records: None for a delete."""
        self._uncount(entry)
        entry.value, entry.journaled, entry.shadowed_seq = value, False, 0
        self._count(entry)

    def expire(self, entry: DirtyEntry) -> None:
        """Turn the entry into a delete, because its object has expired."""
        self._uncount(entry)
        entry.value, entry.deleted = None, True
        self._changed(entry)

    def pop(self, entry: DirtyEntry) -> None:
        """Remove an entry that is in S3, or that an operator dropped."""
        if self.withheld.get(entry.key) is entry:
            del self.withheld[entry.key]
        else:
            del self._entries[entry.key]
        self._uncount(entry)
        if self.on_change is not None:
            self.on_change(entry.key)

    def kill(self, entry: DirtyEntry, reason: str, at: float, *, damaged: bool = False) -> None:
        """Make the entry a dead letter; `at` is in seconds since 1970. `damaged`: its value must not be served."""
        self._uncount(entry)
        entry.dead = DeadLetter(reason, at, damaged)
        self._changed(entry)

    def withhold(self, entry: DirtyEntry, reason: str, at: float) -> DirtyEntry | None:
        """Make the entry a dead letter that no read is served from.

        Returns the earlier one of its key, which is removed, None without. `at` is in seconds since 1970.
        """
        earlier = self.withheld.pop(entry.key, None)
        if earlier is not None:
            self._uncount(earlier)
        self._uncount(entry)
        del self._entries[entry.key]
        entry.dead = DeadLetter(reason, at, False)
        self.withheld[entry.key] = entry
        self._changed(entry)
        return earlier

    def requeue(self, entry: DirtyEntry) -> None:
        """Turn a dead letter back into an entry that waits for its upload.

        One that is withheld must have no newer write of its key.
        """
        self._uncount(entry)
        if self.withheld.get(entry.key) is entry:
            self._entries[entry.key] = self.withheld.pop(entry.key)
        entry.forced = True
        entry.dead, entry.upload.failures = None, 0
        entry.upload.flush_epoch = self._flush_epoch
        self._changed(entry)
        self._requeued.add(entry.key)

    def upload_began(self, entry: DirtyEntry) -> None:
        entry.upload.uploading = True
        entry.upload.next_flush_epoch = None

    def upload_finished(self, entry: DirtyEntry, *, succeeded: bool, now: float) -> None:
        """Record the end of an upload of `entry`, its key's newest write, or of an older write of the key.

        `now` is in monotonic seconds.
        """
        upload = entry.upload
        upload.uploading = False
        if succeeded and upload.next_flush_epoch is not None:
            # The entry now represents only the writes since the upload began: flush waiters of earlier epochs
            # need not wait for it.
            self._uncount(entry)
            upload.flush_epoch, upload.since = upload.next_flush_epoch, now
            self._count(entry)
            self._move_last(entry)
        upload.next_flush_epoch = None

    def _move_last(self, entry: DirtyEntry) -> None:
        """Move `entry` to the end of the table, which is in the order of `upload.since`."""
        del self._entries[entry.key]
        self._entries[entry.key] = entry

    def _changed(self, entry: DirtyEntry) -> None:
        """Count an entry that was changed in its place."""
        self._count(entry)
        if self.on_change is not None:
            self.on_change(entry.key)

    def _count(self, entry: DirtyEntry) -> None:
        keeping = len(entry.key) + ENTRY_OVERHEAD
        self.bytes += keeping + entry.size
        if entry.value is not None:
            self.memory_bytes += len(entry.value)
        self.keeping_bytes += keeping
        if entry.dead is not None:
            self.dead_letters += 1
            self.dead_bytes += entry.cost
            self.damaged += entry.dead.damaged
        else:
            flush_epoch = entry.upload.flush_epoch
            self._pending[flush_epoch] = self._pending.get(flush_epoch, 0) + 1

    def _uncount(self, entry: DirtyEntry) -> None:
        keeping = len(entry.key) + ENTRY_OVERHEAD
        self.bytes -= keeping + entry.size
        if entry.value is not None:
            self.memory_bytes -= len(entry.value)
        self.keeping_bytes -= keeping
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
        """Yield the dead letters."""
        yield from (entry for entry in self._entries.values() if entry.dead is not None)
        yield from self.withheld.values()

    def checkpoint(self) -> int:
        """Close the current flush epoch, and return its number."""
        self._flush_epoch += 1
        return self._flush_epoch - 1

    def pending_before(self, flush_epoch: int) -> int:
        """Return how many entries of that flush epoch and of earlier ones still wait for their upload."""
        return sum(number for each, number in self._pending.items() if each <= flush_epoch)

    def oldest_since(self, now: float) -> float:
        """Return the monotonic time at which the oldest write not in S3 was acknowledged; `now` without one."""
        self._requeued = {key for key in self._requeued if key in self._entries and not self._entries[key].dead}
        first = next((entry.upload.since for entry in self._entries.values() if not entry.dead), now)
        return min((first, *(self._entries[key].upload.since for key in self._requeued)))
