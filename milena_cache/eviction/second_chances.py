"""Pure. EVICTION_POLICY=lru: the least recently used first, approximated by second chances (CLOCK).

Keys stand in a queue in the order in which they came. A use is only counted in the entry, which is cheaper than to
move it. An eviction takes the first key: if its entry has been used since, its count is cleared, and the key goes
to the end of the queue. The first entry without a use is evicted. An exact order takes a list node of 64 bytes for
each entry, and a dictionary that is larger by 16 bytes (`OrderedDict`), or three Python calls and two dictionaries
for each hit (a library's LRU).
"""

from __future__ import annotations

from collections.abc import Iterator

from milena_cache.eviction.key_queue import KeyQueue
from milena_cache.eviction.order import SECOND_CHANCES, EntryTable, EvictionOrder
from milena_cache.objects.entry import GONE, Entry


class SecondChances(EvictionOrder):
    """One queue."""

    def __init__(self, table: EntryTable) -> None:
        super().__init__(table, table.max_bytes)
        # The next to be looked at first.
        self._queue = KeyQueue()

    def add(self, key: bytes, cost: int) -> None:
        self._queue.append(key)

    def make_room(self, stored: Entry | None) -> None:
        memory, queue = self._memory, self._queue
        chances = SECOND_CHANCES
        while memory.exceeded():
            key = queue.popleft()
            entry = memory.entries[key]
            if entry is GONE:
                memory.remove_gone(key)
            elif key in memory.pinned:
                memory.unordered.add(key)
            elif entry is stored:
                queue.append(key)
            elif entry.uses and chances:
                chances -= 1
                entry.uses = 0
                queue.append(key)
            else:
                memory.evict(key, entry)

    def sweep_gone(self, number: int) -> None:
        memory = self._memory
        for _ in range(min(number, len(self._queue))):
            key = self._queue.popleft()
            if memory.entries[key] is GONE:
                memory.remove_gone(key)
            elif key in memory.pinned:
                memory.unordered.add(key)
            else:
                self._queue.append(key)

    def keys_newest_first(self) -> Iterator[bytes]:
        entries = self._memory.entries
        for used in (True, False):
            for key in reversed(self._queue):
                entry = entries[key]
                if entry is not GONE and (entry.uses > 0) is used:
                    yield key

    def keys_in_parts(self) -> Iterator[list[bytes]]:
        return self._queue.walk()
