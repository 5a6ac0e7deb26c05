"""Pure. The cache entries in memory: an LRU bounded by number of entries and by bytes.

The order is that of an `OrderedDict`, whose newest end is the most recently used. A library's LRU needs three
Python calls and two dictionaries for that; this is on the path of every hit, where that takes twice the time (0.4
µs more, with 100,000 keys), and 100 bytes more for each entry.

The bytes of an entry are key, value and a constant overhead, so that LRU_BYTES bounds the process's memory also
when values are small. Freshness is not decided here. Every change of a key's entry is announced to the change feed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.objects.expiry import NEVER

# Bytes that an entry takes beyond its key and value: objects, dictionary slots, list node. 310 to 345, depending on
# how full the dictionaries are; measured with `python -m bench --case memory`.
ENTRY_OVERHEAD = 350

# Bytes that an entry with an expiry takes beyond that.
EXPIRY_OVERHEAD = 48

# Seconds within which two entries get the same `checked_at`, see `store`.
SAME_TIME = 0.01

_MD5_ETAG = re.compile(r'"[0-9a-f]{32}"')


class Entry:
    """A cached object, or its absence.

    value: bytes; None if the object does not exist
    etag: as S3 spells it, quotes included. 32 hexadecimal digits are stored as a number, which saves 48 bytes
    checked_at: when S3 last confirmed it, monotonic seconds; of a read, when its request was sent
    owned_since: the ring epoch since which this node owned the key's slot at that time
    expires_at: seconds since 1970; NEVER (0) if the object does not expire
    indeterminate: True if a write of unknown outcome may have changed its expiry in S3, with the same bytes

    Only `ExpiringEntry` has slots for the last two: in all entries they would cost 16 bytes each.
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
        """Return the length of the value in bytes; 0 if the object does not exist."""
        return len(self.value) if self.value is not None else 0


class ExpiringEntry(Entry):
    """An entry of an object that expires, or may expire."""

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
    """Return an entry for an object that expires at `expires_at` (seconds since 1970), NEVER (0) included."""
    if not expires_at:
        return Entry(value, etag, checked_at, owned_since)
    return ExpiringEntry(value, etag, checked_at, owned_since, expires_at, indeterminate=False)


class Lookup(NamedTuple):
    """`Memory.get` in two steps, without a Python call for each key.

    They stay valid for the life of the memory, and are methods of its dictionary: each costs what it costs there.

    find: return the entry of a key, None if there is none; its place in the LRU order stays
    touch: make a key that has an entry the most recently used; KeyError if it has none
    """

    find: Callable[[bytes], Entry | None]
    touch: Callable[[bytes], None]


class Memory:
    """At most `max_entries` entries and `max_bytes` bytes; the least recently used is evicted.

    Other packages read it by `get` and `peek`, by iteration over the keys, and a loop over many hits by `lookup`.
    They change no entry. `change_feed` is notified of each entry that is removed or replaced by a different one.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.change_feed = ChangeFeed()
        self.bytes = 0
        self.evictions = {"entries": 0, "bytes": 0}
        # By cache key, the least recently used first.
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self.lookup = Lookup(self._entries.get, self._entries.move_to_end)
        self._checked_at = 0.0
        self._owned_since = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys, in no particular order."""
        return iter(self._entries)

    def newest_first(self) -> Iterator[bytes]:
        """Iterate over the keys, the most recently used first."""
        return reversed(self._entries)

    def peek(self, key: bytes) -> Entry | None:
        """Return the entry without a change of its place in the LRU order; None if there is none."""
        return self._entries.get(key)

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, and make it the most recently used; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def store(self, key: bytes, entry: Entry) -> bool:
        """Keep `entry` and evict what no longer fits; False if it alone is larger than `max_bytes`."""
        before = self._entries.pop(key, None)
        if before is not None:
            self.bytes -= _cost(key, before)
            if _differ(before, entry):
                self.change_feed.notify(key)
        # Entries that are stored together share the two number objects, which saves 64 bytes each. The price: an
        # entry's age may come out up to SAME_TIME too great.
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
        while len(self._entries) >= self.max_entries:
            self._evict("entries")
        self._entries[key] = entry
        self.bytes += cost
        return True

    def remove(self, key: bytes) -> None:
        """Remove the entry, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _cost(key, entry)
            self.change_feed.notify(key)

    def _evict(self, reason: str) -> None:
        key, entry = self._entries.popitem(last=False)
        self.bytes -= _cost(key, entry)
        self.evictions[reason] += 1
        self.change_feed.notify(key)


def _cost(key: bytes, entry: Entry) -> int:
    return len(key) + entry.size + ENTRY_OVERHEAD + (EXPIRY_OVERHEAD if entry.expires_at else 0)


def _differ(one: Entry, other: Entry) -> bool:
    """True if a reader of `one` gets a different reply than a reader of `other`."""
    if one.expires_at != other.expires_at or one._etag != other._etag:
        return True
    # Without ETags only the values themselves can be compared.
    return (one.value is None) != (other.value is None) or (not one._etag and one.value != other.value)
