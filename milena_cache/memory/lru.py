"""Pure. The cache entries in memory: an LRU bounded by number of entries and by bytes.

The order of use is approximated by second chances (CLOCK). Keys stand in a queue in the order in which they
came. A use only sets a flag in the entry, which is cheaper than to move it. An eviction takes the first key: if
its entry has been used since, the flag is cleared, and the key goes to the end of the queue, at most
SECOND_CHANCES times for each stored entry, so that the first eviction after many hits does not walk through the
whole queue at once. The first entry without a flag is evicted. An exact order takes a list node of 64 bytes for
each entry, and a dictionary that is larger by 16 bytes (`OrderedDict`), or three Python calls and two
dictionaries for each hit (a library's LRU).

A key that is removed stays in its place of the queue, with `_GONE` for its entry: otherwise a key that is
written and uploaded again and again would be in the queue many times. It is dropped when an eviction comes to
it, or when there are many.

The bytes of an entry are key, value and a constant overhead, so that LRU_BYTES bounds the process's memory also
when values are small. Freshness is not decided here. Every change of a key's entry is announced to the change feed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from math import inf

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.objects.expiry import NEVER

# Bytes that an entry takes beyond its key and value: objects, and places in dictionary and queue. 250 to 272,
# depending on how full the dictionary is; measured with `python -m bench --case memory`.
ENTRY_OVERHEAD = 275

# Bytes that an entry with an expiry takes beyond that.
EXPIRY_OVERHEAD = 48

# Seconds within which two entries get the same `checked_at`, see `store`.
SAME_TIME = 0.01

# Entries that are passed over, because they were used, for one that is stored: about 0.1 ms.
SECOND_CHANCES = 1000

# Removed keys may stay in the queue up to this number and a share of the entries; then each removal looks at SWEEP
# places for such keys.
MIN_GONE, GONE_SHARE, SWEEP = 1000, 8, 16

_MD5_ETAG = re.compile(r'"[0-9a-f]{32}"')


class Entry:
    """A cached object, or its absence.

    value: bytes; None if the object does not exist
    etag: as S3 spells it, quotes included. 32 hexadecimal digits are stored as a number, which saves 48 bytes
    stamp: `checked_at` and `owned_since` below; entries that are stored together share it
    checked_at: when S3 last confirmed it, monotonic seconds; of a read, when its request was sent
    owned_since: the ring epoch since which this node owned the key's slot at that time
    used: True if it was used since the hand of the LRU came to it; set by `Memory.store`
    expires_at: seconds since 1970; NEVER (0) if the object does not expire
    indeterminate: True if a write of unknown outcome may have changed its expiry in S3, with the same bytes

    Only `ExpiringEntry` has slots for the last two: in all entries they would cost 16 bytes each.
    """

    __slots__ = ("_etag", "stamp", "used", "value")

    expires_at: float = NEVER
    indeterminate: bool = False
    used: bool

    def __init__(self, value: bytes | None, etag: str, checked_at: float, owned_since: int) -> None:
        self.value = value
        self._etag: int | str = int(etag[1:-1], 16) if _MD5_ETAG.fullmatch(etag) else etag
        self.stamp = (checked_at, owned_since)

    @property
    def checked_at(self) -> float:
        return self.stamp[0]

    @property
    def owned_since(self) -> int:
        return self.stamp[1]

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


# In place of the entry of a key that was removed. No reader may serve it: it is older than any.
_GONE = Entry(None, "", -inf, -1)


class Memory:
    """At most `max_entries` entries and `max_bytes` bytes; the least recently used is evicted, approximately.

    Other packages read it by `get` and `peek`, by iteration over the keys, and a loop over many hits by `find`.
    They change no entry. `change_feed` is notified of each entry that is removed or replaced by a different one.

    bytes: those of the entries and those that are lent, see `lend`
    lent: bytes that are used by something else than entries
    reclaim: called with the bytes of an entry that was stored, when there are more than `max_bytes` and bytes are
        lent; it may return some of them, and must return as many as the entry cannot do without
    find: as `peek` without a call of Python, for the life of the memory. Of a key that was removed it may return an
        entry whose `checked_at` is earlier than any. A caller that serves the entry sets `used`
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.change_feed = ChangeFeed()
        self.bytes = 0
        self.lent = 0
        self.reclaim: Callable[[int], None] = _keep_lent
        self.evictions = {"entries": 0, "bytes": 0}
        # By cache key, `_GONE` included.
        self._entries: dict[bytes, Entry] = {}
        # The keys of `_entries`, each once; the next to be looked at for an eviction first.
        self._queue: deque[bytes] = deque()
        self._gone = 0
        self.find: Callable[[bytes], Entry | None] = self._entries.get
        self._stamp = (0.0, 0)

    def __len__(self) -> int:
        return len(self._entries) - self._gone

    def __contains__(self, key: bytes) -> bool:
        return self.peek(key) is not None

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys, in no particular order."""
        return (key for key, entry in self._entries.items() if entry is not _GONE)

    def newest_first(self) -> Iterator[bytes]:
        """Iterate over the keys, approximately the most recently used first."""
        for used in (True, False):
            for key in reversed(self._queue):
                entry = self._entries[key]
                if entry is not _GONE and entry.used is used:
                    yield key

    def peek(self, key: bytes) -> Entry | None:
        """Return the entry without counting it as a use; None if there is none."""
        entry = self._entries.get(key)
        return None if entry is _GONE else entry

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, which counts as a use; None if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry is _GONE:
            return None
        entry.used = True
        return entry

    def store(self, key: bytes, entry: Entry) -> bool:
        """Keep `entry` and evict what no longer fits; False if it alone is larger than `max_bytes`."""
        before = self._entries.get(key)
        if before is not None and before is not _GONE:
            self.bytes -= _cost(key, before)
            if _differ(before, entry):
                self.change_feed.notify(key)
        # Entries that are stored together share the stamp, which saves 120 bytes each. The price: an entry's age
        # may come out up to SAME_TIME too great.
        (checked_at, owned_since), (last_at, last_since) = entry.stamp, self._stamp
        if 0 <= checked_at - last_at < SAME_TIME:
            entry.stamp = self._stamp if owned_since == last_since else (last_at, owned_since)
        self._stamp = entry.stamp
        cost = _cost(key, entry)
        if cost > self.max_bytes:
            if before is not None and before is not _GONE:
                self._mark_gone(key)
            self.change_feed.notify(key)
            return False
        if before is _GONE:
            self._gone -= 1
        # An entry that takes an old place in the queue must not be evicted as an old one.
        entry.used = before is not None
        self._entries[key] = entry
        self.bytes += cost
        if self.bytes > self.max_bytes or len(self) > self.max_entries:
            if self.lent and self.bytes > self.max_bytes:
                self.reclaim(cost)
            self._evict(entry)
        if before is None:
            self._queue.append(key)  # not before: the entries that were passed over were used earlier
        return True

    def remove(self, key: bytes) -> None:
        """Remove the entry, if there is one."""
        entry = self.peek(key)
        if entry is not None:
            self.bytes -= _cost(key, entry)
            self._mark_gone(key)
            self.change_feed.notify(key)

    def lend(self, size: int) -> None:
        """Use `size` bytes of `max_bytes` for something else, and evict entries for them; negative: return them.

        The caller lends less than `max_bytes` in all.
        """
        self.lent += size
        self.bytes += size
        if size > 0 and self.bytes > self.max_bytes:
            self._evict(None)

    def _mark_gone(self, key: bytes) -> None:
        self._entries[key] = _GONE
        self._gone += 1
        if self._gone > MIN_GONE + len(self._entries) // GONE_SHARE:
            for _ in range(SWEEP):
                passed = self._queue.popleft()
                if self._entries[passed] is _GONE:
                    self._drop(passed)
                else:
                    self._queue.append(passed)

    def _drop(self, key: bytes) -> None:
        """Drop a removed key that is not in the queue any more."""
        del self._entries[key]
        self._gone -= 1

    def _evict(self, stored: Entry | None) -> None:
        """Evict entries until the bounds hold, but not the one that was just stored."""
        chances = SECOND_CHANCES
        while (too_large := self.bytes > self.max_bytes) or len(self) > self.max_entries:
            key = self._queue.popleft()
            entry = self._entries[key]
            if entry is _GONE:
                self._drop(key)
            elif entry is stored:
                self._queue.append(key)
            elif entry.used and chances:
                chances -= 1
                entry.used = False
                self._queue.append(key)
            else:
                del self._entries[key]
                self.bytes -= _cost(key, entry)
                self.evictions["bytes" if too_large else "entries"] += 1
                self.change_feed.notify(key)
                self.change_feed.event("evicted", key)


def _keep_lent(cost: int) -> None:
    """Return no lent bytes: while nothing is lent, there are none."""


def _cost(key: bytes, entry: Entry) -> int:
    return len(key) + entry.size + ENTRY_OVERHEAD + (EXPIRY_OVERHEAD if entry.expires_at else 0)


def _differ(one: Entry, other: Entry) -> bool:
    """True if a reader of `one` gets a different reply than a reader of `other`."""
    if one.expires_at != other.expires_at or one._etag != other._etag:
        return True
    # Without ETags only the values themselves can be compared.
    return (one.value is None) != (other.value is None) or (not one._etag and one.value != other.value)
