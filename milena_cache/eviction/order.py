"""Pure. What an eviction order does for the memory, and what it knows of it.

It has each key of the memory once, those of removed entries included (`GONE`), but for pinned entries: when it
comes to the key of one, the key leaves the order, until the entry is unpinned. It knows entries by what the table
says of them when it comes to their keys. It changes nothing of an entry but `uses`.
"""

from __future__ import annotations

from collections.abc import Iterator

from milena_cache.objects.entry import Entry

# Entries that are passed over, because they were used, for one that is stored: about 0.1 ms. So the first eviction
# after many hits does not walk through all entries at once.
SECOND_CHANCES = 1000


class EntryTable:
    """The memory, as its eviction order sees it.

    entries: by cache key, with `GONE` for those that were removed and are still in the eviction order
    bytes: those of the entries and those that are lent
    lent: bytes that are used by something else than entries
    pinned: keys of entries that are not evicted
    unordered: those of them that are not in the eviction order any more
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.bytes = 0
        self.lent = 0
        self.entries: dict[bytes, Entry] = {}
        self.pinned: set[bytes] = set()
        self.unordered: set[bytes] = set()

    def exceeded(self) -> str:
        """Return the bound that is exceeded: "bytes" or "entries"; "" if none is."""
        raise NotImplementedError

    def remove_gone(self, key: bytes) -> None:
        """Remove a removed key that is not in the eviction order any more."""
        raise NotImplementedError

    def evict(self, key: bytes, entry: Entry, proven: bool = False) -> None:
        """Evict an entry that is not in the eviction order any more. `proven`: the order had found it of use."""
        raise NotImplementedError


class EvictionOrder:
    """The order of one memory's keys.

    large: the memory asks whether an entry that takes more bytes is admitted
    """

    def __init__(self, table: EntryTable, large: int) -> None:
        self.large = large
        self._memory = table

    def admits(self, key: bytes, cost: int) -> bool:
        """True if a new entry of `cost` bytes, more than `large`, is to be kept."""
        return True

    def add(self, key: bytes, cost: int) -> None:
        """Give a key that has just been stored its place; its entry takes `cost` bytes."""
        raise NotImplementedError

    def make_room(self, stored: Entry | None) -> None:
        """Evict entries until the memory's bounds hold, but not the one that was just stored."""
        raise NotImplementedError

    def sweep_gone(self, number: int) -> None:
        """Look at `number` places, and remove the removed and the pinned keys in them."""
        raise NotImplementedError

    def keys_newest_first(self) -> Iterator[bytes]:
        """Iterate over the keys, approximately the most recently used first."""
        raise NotImplementedError

    def keys_in_parts(self) -> Iterator[list[bytes]]:
        """Iterate over the keys in parts, those of removed entries included; see `KeyQueue.walk`."""
        raise NotImplementedError
