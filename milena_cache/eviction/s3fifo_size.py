"""Pure. EVICTION_POLICY=s3fifo-size: evicts by uses per byte, because S3 is paid by request and not by byte.

As in S3-FIFO, new entries have a tenth of the memory to pass through, the others the rest, and the ghost remembers
what went too early. But neither part is first in, first out. Each goes by GreedyDual-Size-Frequency (Cherkasova, HP
Labs 1998): an entry is worth its uses divided by its bytes, plus what the entry was worth that its part evicted
last before it came. So many small objects stay rather than a large one, and what is not used loses its worth
against what comes later.

Entries of about the same size stand in one queue. In each queue the worth grows from head to end, so that the least
of a part is at one of the heads. GDSF has a heap, in which each use moves an entry; here a use is only counted, and
looked at when the entry comes to the head of its queue.

On the trace adapt_size this comes within 1.5 points of GDSF's ratio of hits, with a greater one of bytes, and
without sizes within a point of S3-FIFO's (`python -m bench.traces`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from milena_cache.eviction.ghost import Ghost
from milena_cache.eviction.key_queue import KeyQueue
from milena_cache.eviction.order import SECOND_CHANCES, EntryTable, EvictionOrder
from milena_cache.eviction.s3fifo import FREQUENT, LARGE_SHARE, SMALL_SHARE
from milena_cache.objects.entry import GONE, Entry, cost_of


class _Queue:
    """Entries of about the same size, the least worth first.

    keys, costs, worths: at the same places; the bytes of an entry are those that it had when it came
    """

    def __init__(self) -> None:
        self.keys = KeyQueue()
        self.costs: deque[int] = deque()
        self.worths: deque[float] = deque()

    def append(self, key: bytes, cost: int, worth: float) -> None:
        self.keys.append(key)
        self.costs.append(cost)
        self.worths.append(worth)


class _Part:
    """New entries, or all others.

    queues: by class of sizes, two for each factor of two, so that there are less than 100
    """

    def __init__(self) -> None:
        self.queues: dict[int, _Queue] = {}
        self.number = 0
        self.bytes = 0
        # What the entry was worth that was evicted last.
        self._level = 0.0

    def add(self, key: bytes, cost: int, uses: int) -> None:
        bits = cost.bit_length()
        kind = 2 * bits + (cost >> (bits - 2) & 1)
        queue = self.queues.get(kind)
        if queue is None:
            queue = self.queues[kind] = _Queue()
        queue.append(key, cost, self._level + (uses + 1) / cost)
        self.number += 1
        self.bytes += cost

    def pop_min(self) -> tuple[bytes, float]:
        """Remove the key that is worth least; return it with its worth."""
        lowest_queue: _Queue | None = None
        lowest = 0.0
        for queue in self.queues.values():
            worths = queue.worths
            if worths and (lowest_queue is None or worths[0] < lowest):
                lowest_queue, lowest = queue, worths[0]
        assert lowest_queue is not None
        self.number -= 1
        self.bytes -= lowest_queue.costs.popleft()
        lowest_queue.worths.popleft()
        return lowest_queue.keys.popleft(), lowest

    def evicted(self, worth: float) -> None:
        """Remember what an entry was worth that is evicted."""
        self._level = max(self._level, worth)


class S3FifoSize(EvictionOrder):
    """The part of new entries, that of the others, and the ghost."""

    def __init__(self, table: EntryTable) -> None:
        super().__init__(table, int(table.max_bytes * LARGE_SHARE))
        self._new = _Part()
        self._main = _Part()
        self._ghost = Ghost()

    def admits(self, key: bytes, cost: int) -> bool:
        if self._ghost.has(key):
            return True
        self._remember(key, cost)
        return False

    def add(self, key: bytes, cost: int) -> None:
        if self._ghost.pop_key(key):
            self._main.add(key, cost, 1)
        else:
            self._new.add(key, cost, 0)

    def make_room(self, stored: Entry | None) -> None:
        memory, new, main = self._memory, self._new, self._main
        chances = SECOND_CHANCES
        # The one that was just stored, if it is replaced: it has its place again after the loop, because in it the
        # entry might be the least every time.
        replaced: bytes | None = None
        while exceeded := memory.exceeded():
            part = new if new.number and (self._new_is_full(exceeded) or not main.number) else main
            key, worth = part.pop_min()
            entry = memory.entries[key]
            if entry is GONE:
                memory.remove_gone(key)
                continue
            if key in memory.pinned:
                memory.unordered.add(key)
                continue
            cost = cost_of(key, entry)
            if entry is stored:
                replaced = key
            elif entry.uses >= (FREQUENT if part is new else 1) and chances:
                chances -= 1
                main.add(key, cost, entry.uses)
                entry.uses = 0
            else:
                part.evicted(worth)
                if part is new:
                    self._remember(key, cost)
                memory.evict(key, entry, part is main)
        if replaced is not None and stored is not None:
            main.add(replaced, cost_of(replaced, stored), stored.uses)

    def sweep_gone(self, number: int) -> None:
        memory = self._memory
        for part in (self._new, self._main):
            for queue in part.queues.values():
                for _ in range(min(number // 4, len(queue.keys))):
                    key, cost, worth = queue.keys.popleft(), queue.costs.popleft(), queue.worths.popleft()
                    gone = memory.entries[key] is GONE
                    if gone or key in memory.pinned:
                        part.number -= 1
                        part.bytes -= cost
                        if gone:
                            memory.remove_gone(key)
                        else:
                            memory.unordered.add(key)
                    else:
                        queue.append(key, cost, worth)

    def keys_newest_first(self) -> Iterator[bytes]:
        entries = self._memory.entries
        for part, used in ((self._main, True), (self._new, True), (self._main, False), (self._new, False)):
            for queue in part.queues.values():
                for key in reversed(queue.keys):
                    entry = entries[key]
                    if entry is not GONE and (entry.uses > 0) is used:
                        yield key

    def keys_in_parts(self) -> Iterator[list[bytes]]:
        # In this order: a key may move from the new entries to the others meanwhile, and not back.
        for part in (self._new, self._main):
            for queue in list(part.queues.values()):
                yield from queue.keys.walk()

    def _new_is_full(self, exceeded: str) -> bool:
        memory = self._memory
        if exceeded == "bytes":
            return self._new.bytes >= SMALL_SHARE * (memory.max_bytes - memory.lent)
        return self._new.number >= SMALL_SHARE * memory.max_entries

    def _remember(self, key: bytes, cost: int) -> None:
        memory = self._memory
        self._ghost.add(key, max(cost / memory.max_bytes, 1 / memory.max_entries))
