"""Pure. What an eviction order does for the memory.

It has each key of the memory once, those of removed entries included (`GONE`), and knows entries by what
`Memory.entries` says of them when it comes to their keys. It changes nothing of an entry but `uses`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milena_cache.memory.entry import Entry
    from milena_cache.memory.lru import Memory

# Entries that are passed over, because they were used, for one that is stored: about 0.1 ms. So the first eviction
# after many hits does not walk through all entries at once.
SECOND_CHANCES = 1000


class EvictionOrder:
    """The order of one memory's keys.

    large: the memory asks whether an entry that takes more bytes is admitted
    """

    def __init__(self, memory: Memory, large: int) -> None:
        self.large = large
        self._memory = memory

    def admits(self, key: bytes, cost: int) -> bool:
        """True if a new entry of `cost` bytes, more than `large`, is to be kept."""
        return True

    def add(self, key: bytes, cost: int) -> None:
        """Give a key that has just been stored its place; its entry takes `cost` bytes."""
        raise NotImplementedError

    def make_room(self, stored: Entry | None) -> None:
        """Evict entries until the memory's bounds hold, but not the one that was just stored."""
        raise NotImplementedError

    def sweep(self, number: int) -> None:
        """Look at `number` places, and drop the removed keys in them."""
        raise NotImplementedError

    def newest_first(self) -> Iterator[bytes]:
        """Iterate over the keys, approximately the most recently used first."""
        raise NotImplementedError
