"""Pure. EVICTION_POLICY=s3fifo: S3-FIFO, three queues that are first in, first out (Yang et al., SOSP 2023).

A new key enters the small queue, SMALL_SHARE of the memory. If its entry has been used FREQUENT times or more when
it comes to the head, it moves to the main queue, otherwise it is evicted, and remembered by the ghost for a while:
a key that comes back within that time enters the main queue at once. So what is read once, by a scan for example,
passes through a tenth of the memory only. An entry at the head of the main queue that has been used goes to the
end with one use less, otherwise it is evicted.

An entry of more than LARGE_SHARE of LRU_BYTES is kept only if the ghost remembers its key: one large object that is
read once does not evict hundreds of others.

The bytes of the small queue are those that its entries had when they entered it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from milena_cache.eviction.ghost import Ghost
from milena_cache.eviction.key_queue import KeyQueue
from milena_cache.eviction.order import SECOND_CHANCES, EntryTable, EvictionOrder
from milena_cache.objects.entry import GONE, Entry, cost_of

# The small queue's share of the bytes and of the entries, and the uses that let an entry stay: as in the paper's
# evaluation (libCacheSim has the same).
SMALL_SHARE = 0.1
FREQUENT = 2
LARGE_SHARE = 0.01


class S3Fifo(EvictionOrder):
    """Small queue, main queue, ghost."""

    def __init__(self, table: EntryTable) -> None:
        super().__init__(table, int(table.max_bytes * LARGE_SHARE))
        self._small = KeyQueue()
        # The bytes of each key of `_small`, and their sum.
        self._small_costs: deque[int] = deque()
        self._small_bytes = 0
        self._main = KeyQueue()
        self._ghost = Ghost()
        self._filling = True

    def admits(self, key: bytes, cost: int) -> bool:
        if self._ghost.has(key):
            return True
        self._remember(key, cost)
        return False

    def add(self, key: bytes, cost: int) -> None:
        if self._ghost.pop_key(key):
            self._main.append(key)
        elif self._filling and (self._small_is_full("bytes") or self._small_is_full("entries")):
            self._main.append(key)  # before the first eviction all that is in memory is equally new
        else:
            self._add_small(key, cost)

    def make_room(self, stored: Entry | None) -> None:
        memory, small, main = self._memory, self._small, self._main
        chances = SECOND_CHANCES
        self._filling = False
        while exceeded := memory.exceeded():
            # A main queue that has only the entry that was just stored does not count.
            if small and (self._small_is_full(exceeded) or len(main) < 2):
                key = self._take_small()
                entry = memory.entries[key]
                if entry is GONE:
                    memory.remove_gone(key)
                elif key in memory.pinned:
                    memory.unordered.add(key)
                elif entry is stored:
                    main.append(key)  # it is replaced, and so was used
                elif entry.uses >= FREQUENT and chances:
                    chances -= 1
                    entry.uses = 0
                    main.append(key)
                else:
                    self._remember(key, cost_of(key, entry))
                    memory.evict(key, entry)
                continue
            key = main.popleft()
            entry = memory.entries[key]
            if entry is GONE:
                memory.remove_gone(key)
            elif key in memory.pinned:
                memory.unordered.add(key)
            elif entry is stored:
                main.append(key)
            elif entry.uses and chances:
                chances -= 1
                entry.uses -= 1
                main.append(key)
            else:
                memory.evict(key, entry, True)

    def sweep_gone(self, number: int) -> None:
        memory = self._memory
        for _ in range(min(number // 2, len(self._small))):
            key = self._take_small()
            entry = memory.entries[key]
            if entry is GONE:
                memory.remove_gone(key)
            elif key in memory.pinned:
                memory.unordered.add(key)
            else:
                self._add_small(key, cost_of(key, entry))
        for _ in range(min(number // 2, len(self._main))):
            key = self._main.popleft()
            if memory.entries[key] is GONE:
                memory.remove_gone(key)
            elif key in memory.pinned:
                memory.unordered.add(key)
            else:
                self._main.append(key)

    def keys_newest_first(self) -> Iterator[bytes]:
        entries = self._memory.entries
        for queue, used in ((self._main, True), (self._small, True), (self._main, False), (self._small, False)):
            for key in reversed(queue):
                entry = entries[key]
                if entry is not GONE and (entry.uses > 0) is used:
                    yield key

    def keys_in_parts(self) -> Iterator[list[bytes]]:
        # In this order: a key may move from the small queue to the main one meanwhile, and not back.
        yield from self._small.walk()
        yield from self._main.walk()

    def _small_is_full(self, exceeded: str) -> bool:
        memory = self._memory
        if exceeded == "bytes":
            return self._small_bytes >= SMALL_SHARE * (memory.max_bytes - memory.lent)
        return len(self._small) >= SMALL_SHARE * memory.max_entries

    def _add_small(self, key: bytes, cost: int) -> None:
        self._small.append(key)
        self._small_costs.append(cost)
        self._small_bytes += cost

    def _take_small(self) -> bytes:
        self._small_bytes -= self._small_costs.popleft()
        return self._small.popleft()

    def _remember(self, key: bytes, cost: int) -> None:
        memory = self._memory
        self._ghost.add(key, max(cost / memory.max_bytes, 1 / memory.max_entries))
