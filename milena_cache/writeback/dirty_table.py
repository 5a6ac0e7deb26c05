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

from milena_cache.objects.expiry import NEVER
from milena_cache.objects.version import Base, Version
from milena_cache.objects.write_request import ENTRY_OVERHEAD

# Bytes of keys and keeping that are not counted for DIRTY_MEMORY_BYTES: some 24,000 entries.
KEEPING_FREE = 16 * 2**20


class DirtyEntry:
    """One key's newest acknowledged write, and what is known of its way to S3.

    `value` is None for a delete (`deleted`), and for a value that is only in the journal. `journaled` is False for
    a write in the class `memory`; `shadowed_seq` is then the record of an earlier write of the key that stays in
    the journal until S3 has this one (0: none). `etag` is the MD5 of its value if it has been computed. `base`:
    what S3 holds under it, as far as is known; `maybe_absent`: or nothing, because a delete that it takes the place
    of may have been carried out. `indeterminate`: an attempt may have happened. `since`: when the oldest write that
    it stands for was acknowledged, monotonic seconds. `dead`: why it is a dead letter, "" if it is none, `dead_at`
    in seconds since 1970; `damaged`: its value must not be served. `expires_at`: when the object expires, in
    seconds since 1970; once that has been noticed, the entry is a delete that is `expired`. `keeps`: as in
    `Change`, what is known of S3.
    """

    __slots__ = (
        "base",
        "conditional",
        "cost",
        "damaged",
        "dead",
        "dead_at",
        "deleted",
        "etag",
        "expires_at",
        "failures",
        "flush_epoch",
        "indeterminate",
        "journaled",
        "keeps",
        "key",
        "maybe_absent",
        "next_flush_epoch",
        "owned_since",
        "queued",
        "shadowed_seq",
        "since",
        "size",
        "uploading",
        "value",
        "version",
    )

    def __init__(
        self,
        key: bytes,
        version: Version,
        value: bytes | None,
        size: int,
        base: Base,
        *,
        deleted: bool,
        conditional: bool,
        journaled: bool,
        owned_since: int,
        since: float,
        etag: str = "",
        expires_at: float = NEVER,
        keeps: str = "",
    ) -> None:
        self.key = key
        self.version = version
        self.value = value
        self.size = size
        self.cost = len(key) + size + ENTRY_OVERHEAD
        self.base = base
        self.deleted = deleted
        self.conditional = conditional
        self.journaled = journaled
        self.owned_since = owned_since
        self.since = since
        self.etag = etag
        self.expires_at = expires_at
        self.keeps = keeps
        self.shadowed_seq = 0
        self.maybe_absent = False
        self.indeterminate = False
        self.dead = ""
        self.dead_at = 0.0
        self.damaged = False
        self.failures = 0
        self.queued = False
        self.uploading = False
        self.flush_epoch = 0
        self.next_flush_epoch: int | None = None

    def records(self) -> Iterator[int]:
        """The numbers of the journal's records that it stands for, in the order of their writing."""
        if self.shadowed_seq:
            yield self.shadowed_seq
        if self.journaled:
            yield self.version.seq

    @property
    def expired(self) -> bool:
        """Whether it is a delete because its object came to its own end."""
        return self.deleted and bool(self.expires_at)

    @property
    def keeping(self) -> int:
        """Bytes of memory that it takes without its value."""
        return self.cost - self.size

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

        What is known of S3 and of the upload under way passes over to it.
        """
        self.puts += 1
        if entry.journaled and not self.fits_in_memory(entry.in_memory):
            entry.value = None
        old = self.entries.get(entry.key)
        if old is not None:
            if old.dead:
                del self.entries[entry.key]  # its place is among those of its age
            entry.base = old.base
            if not old.keeps:
                entry.keeps = ""  # `old` is a new object, which S3 does not have, and nothing is kept with it there
            entry.maybe_absent = old.maybe_absent or old.deleted
            entry.indeterminate = old.indeterminate
            entry.uploading = old.uploading
            entry.queued = old.queued
            entry.failures = old.failures
            # A condition was decided against `old`; what S3 may hold under that is `old`'s affair.
            entry.conditional = entry.conditional and (old.conditional or bool(old.dead))
            if old.dead:
                entry.failures = 0
                entry.flush_epoch = self._flush_epoch
                if entry.uploading:
                    entry.next_flush_epoch = self._flush_epoch  # what is under way is not it
            else:
                entry.since = old.since
                entry.flush_epoch, entry.next_flush_epoch = old.flush_epoch, old.next_flush_epoch
                if entry.uploading and entry.next_flush_epoch is None:
                    entry.next_flush_epoch = self._flush_epoch
            self._uncount(old)
        else:
            entry.flush_epoch = self._flush_epoch
        self.entries[entry.key] = entry
        self._count(entry)
        return old

    def revalue(self, entry: DirtyEntry, value: bytes, version: Version) -> None:
        """Give another value to an entry that nobody uploads: as `replace` with the same everything else."""
        self.puts += 1
        more = len(value) - entry.size
        entry.value, entry.version, entry.etag = value, version, ""
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
        entry.dead, entry.dead_at, entry.damaged = reason, at, damaged
        self._count(entry)

    def requeue(self, entry: DirtyEntry) -> None:
        """Make an ordinary entry of a dead letter."""
        self._uncount(entry)
        entry.dead, entry.failures = "", 0
        entry.flush_epoch = self._flush_epoch
        self._count(entry)
        self._requeued.add(entry.key)

    def upload_began(self, entry: DirtyEntry) -> None:
        entry.uploading = True
        entry.next_flush_epoch = None

    def upload_finished(self, entry: DirtyEntry, *, succeeded: bool, now: float) -> None:
        """Record the end of the upload of `entry`, its key's newest write, or of an older write of the key."""
        entry.uploading = False
        if succeeded and entry.next_flush_epoch is not None:
            # What it stands for now is only what came since the upload began.
            self._uncount(entry)
            entry.flush_epoch, entry.since = entry.next_flush_epoch, now
            self._count(entry)
            self._move_last(entry)
        entry.next_flush_epoch = None

    def _move_last(self, entry: DirtyEntry) -> None:
        """Entries are in the order of `since`."""
        del self.entries[entry.key]
        self.entries[entry.key] = entry

    def _count(self, entry: DirtyEntry) -> None:
        self.bytes += entry.cost
        self.memory_bytes += entry.in_memory
        self.keeping_bytes += entry.keeping
        if entry.dead:
            self.dead_letters += 1
            self.dead_bytes += entry.cost
            self.damaged += entry.damaged
        else:
            self._pending[entry.flush_epoch] = self._pending.get(entry.flush_epoch, 0) + 1

    def _uncount(self, entry: DirtyEntry) -> None:
        self.bytes -= entry.cost
        self.memory_bytes -= entry.in_memory
        self.keeping_bytes -= entry.keeping
        if entry.dead:
            self.dead_letters -= 1
            self.dead_bytes -= entry.cost
            self.damaged -= entry.damaged
            return
        pending = self._pending[entry.flush_epoch] - 1
        if pending:
            self._pending[entry.flush_epoch] = pending
        else:
            del self._pending[entry.flush_epoch]

    def dead(self) -> Iterator[DirtyEntry]:
        """The dead letters."""
        return (entry for entry in self.entries.values() if entry.dead)

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
        first = next((entry.since for entry in self.entries.values() if not entry.dead), now)
        return min((first, *(self.entries[key].since for key in self._requeued)))
