"""Pure. Copies of objects in memory: an LRU bounded by entries and by bytes.

The order is that of an `OrderedDict`, whose newest end is the most recently used. A library's LRU does the same
in three Python calls and two dictionaries; this is on the path of every hit, where that is twice the time (0.4
µs more, with 100,000 keys), and costs 100 bytes more for each entry.

Bytes are what an entry costs the process: key, value, and the constant overhead of their keeping, so that
LRU_BYTES bounds memory also when values are small. Freshness is the entry's and not decided here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.objects.expiry import NEVER

# What one entry takes beyond the bytes of its key and value: objects, dictionary slots, list node. 310 to 345,
# depending on how full the dictionaries are; measured with `python -m bench --case memory`.
ENTRY_OVERHEAD = 350

# What one with an end of its own takes beyond that.
EXPIRY_OVERHEAD = 48

# Seconds within which two entries are taken to be of the same age.
SAME_TIME = 0.01

_MD5_ETAG = re.compile(r'"[0-9a-f]{32}"')


class Entry:
    """A copy of an object, or the knowledge that there is none (`value` is None).

    `checked_at`: when S3 last vouched for it, monotonic seconds. `owned_since`: the ring epoch since which this
    node owned the key's slot at that time. The ETag of an object of one part is 32 hexadecimal digits in quotes:
    it is kept as a number, which saves 48 bytes. `expires_at`: when the object ends, in seconds since 1970.
    `indeterminate`: its bytes may have been written anew in S3 meanwhile, to end at another time. Only
    `ExpiringEntry` has these two of its own, because slots for them in all entries would cost each 16 bytes.
    """

    __slots__ = ("_etag", "checked_at", "owned_since", "value")

    expires_at: float = NEVER
    indeterminate: bool = False

    def __init__(self, value: bytes | None, etag: str, checked_at: float, owned_since: int) -> None:
        self.value = value
        self._etag: int | str = int(etag[1:-1], 16) if _MD5_ETAG.fullmatch(etag) else etag
        self.checked_at = checked_at
        self.owned_since = owned_since

    @property
    def etag(self) -> str:
        packed = self._etag
        return packed if isinstance(packed, str) else f'"{packed:032x}"'

    @property
    def size(self) -> int:
        """Bytes in the value."""
        return len(self.value) if self.value is not None else 0


class ExpiringEntry(Entry):
    """A copy of an object that ends by itself, or may."""

    __slots__ = ("expires_at", "indeterminate")

    def __init__(
        self,
        value: bytes | None,
        etag: str,
        checked_at: float,
        owned_since: int,
        expires_at: float,
        *,
        indeterminate: bool,
    ) -> None:
        super().__init__(value, etag, checked_at, owned_since)
        self.expires_at = expires_at
        self.indeterminate = indeterminate


def entry_of(value: bytes | None, etag: str, checked_at: float, owned_since: int, expires_at: float) -> Entry:
    """The entry for an object that ends at `expires_at`, or never."""
    if not expires_at:
        return Entry(value, etag, checked_at, owned_since)
    return ExpiringEntry(value, etag, checked_at, owned_since, expires_at, indeterminate=False)


class Memory:
    """At most `max_entries` entries and `max_bytes` bytes; the least recently used goes first.

    `change_feed` is notified of each entry that goes, or gives its place to a different one.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.change_feed = ChangeFeed()
        self.bytes = 0
        self.evictions = {"entries": 0, "bytes": 0}
        # By cache key, the least recently used first. Read by the door too, on the path of a hit.
        self.entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._checked_at = 0.0
        self._owned_since = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[bytes]:
        """The keys, in no particular order."""
        return iter(self.entries)

    def peek(self, key: bytes) -> Entry | None:
        """The entry, which becomes no more recently used by it."""
        return self.entries.get(key)

    def get(self, key: bytes) -> Entry | None:
        """The entry, which becomes the most recently used."""
        entry = self.entries.get(key)
        if entry is not None:
            self.entries.move_to_end(key)
        return entry

    def store(self, key: bytes, entry: Entry) -> bool:
        """Keep `entry` and drop what no longer fits; False if it alone is over the byte budget."""
        before = self.entries.pop(key, None)
        if before is not None:
            self.bytes -= _cost(key, before)
            if _differ(before, entry):
                self.change_feed.notify(key)
        # Entries that came together hold the same two number objects, which saves 64 bytes each; a copy may be
        # taken for up to SAME_TIME older than it is for that.
        if 0 <= entry.checked_at - self._checked_at < SAME_TIME:
            entry.checked_at = self._checked_at
        self._checked_at = entry.checked_at
        if entry.owned_since == self._owned_since:
            entry.owned_since = self._owned_since
        self._owned_since = entry.owned_since
        cost = _cost(key, entry)
        if cost > self.max_bytes:
            self.change_feed.notify(key)
            return False
        while self.bytes + cost > self.max_bytes:
            self._evict("bytes")
        while len(self.entries) >= self.max_entries:
            self._evict("entries")
        self.entries[key] = entry
        self.bytes += cost
        return True

    def remove(self, key: bytes) -> None:
        """Forget the entry, if there is one."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.bytes -= _cost(key, entry)
            self.change_feed.notify(key)

    def _evict(self, reason: str) -> None:
        key, entry = self.entries.popitem(last=False)
        self.bytes -= _cost(key, entry)
        self.evictions[reason] += 1
        self.change_feed.notify(key)


def _cost(key: bytes, entry: Entry) -> int:
    return len(key) + entry.size + ENTRY_OVERHEAD + (EXPIRY_OVERHEAD if entry.expires_at else 0)


def _differ(one: Entry, other: Entry) -> bool:
    """Whether readers of the one are told something else than readers of the other."""
    if one.expires_at != other.expires_at or one._etag != other._etag:
        return True
    # Of what has no ETag nothing is known but the value itself.
    return (one.value is None) != (other.value is None) or (not one._etag and one.value != other.value)
