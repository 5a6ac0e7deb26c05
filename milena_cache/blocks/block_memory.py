"""Pure. The blocks of one node: least recently used first, in a share of the memory of its entries.

Blocks and entries have one limit, LRU_BYTES. Blocks take at most BLOCK_SHARE of it, and evict entries up to that.
An entry evicts a block only if that has not been used for IDLE_SECONDS, or if the entry would not fit otherwise: so
reading one object from its beginning to its end drops at most half of what is in memory, and what it leaves behind
makes room in the end.
"""

from __future__ import annotations

from collections import OrderedDict

from milena_cache.blocks.layout import Block, BlockValue
from milena_cache.memory.lru import Memory
from milena_cache.objects.etags import same_etag
from milena_common.runtime.clock import Clock

# The share of LRU_BYTES that blocks may take.
BLOCK_SHARE = 1 / 2
# Seconds after which an unused block gives way to an entry.
IDLE_SECONDS = 600.0
# The share of `max_bytes` that blocks may have that were read ahead, and that nothing has read yet.
AHEAD_SHARE = 1 / 4
# Bytes that a block takes beyond its value, key and ETag: objects, and its place in the dictionary.
BLOCK_OVERHEAD = 800


class BlockMemory:
    """The blocks of one node, whose bytes are counted in `memory`.

    bytes: those of the blocks, overhead included; at most `max_bytes`
    evictions: blocks that were dropped to make room
    ahead: blocks that were read ahead and that nothing has read yet
    ahead_used: how many were read later; ahead_unused: how many were dropped before that
    """

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self.max_bytes = int(memory.max_bytes * BLOCK_SHARE)
        self.bytes = 0
        self.evictions = 0
        self.ahead: set[Block] = set()
        self.ahead_used = self.ahead_unused = 0
        self._memory = memory
        self._clock = clock
        # With when each was last used, monotonic seconds.
        self._blocks: OrderedDict[Block, tuple[BlockValue, float]] = OrderedDict()
        self._by_key: dict[bytes, set[Block]] = {}
        memory.reclaim = self._reclaim

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: Block) -> bool:
        return block in self._blocks

    def get(self, block: Block) -> BlockValue | None:
        """Return the block, which counts as a use; None if it is not here."""
        found = self._blocks.get(block)
        if found is None:
            return None
        if block in self.ahead:
            self.ahead.discard(block)
            self.ahead_used += 1
        self._blocks[block] = found[0], self._clock.now()
        self._blocks.move_to_end(block)
        return found[0]

    def store(self, block: Block, value: BlockValue) -> bool:
        """Keep a block, and evict what no longer fits; False if it alone is larger than `max_bytes`."""
        cost = _cost(block, value)
        if cost > self.max_bytes:
            return False
        before = self._blocks.pop(block, None)
        if before is not None:
            self._lend(-_cost(block, before[0]))
        while self.bytes + cost > self.max_bytes:
            self._evict()
        self._blocks[block] = value, self._clock.now()
        self._by_key.setdefault(block.key, set()).add(block)
        self._lend(cost)
        return True

    def object_keys(self) -> list[bytes]:
        """Return the keys of the objects that have blocks here."""
        return list(self._by_key)

    def size_of(self, key: bytes) -> tuple[int, int]:
        """Return how many blocks of an object are here, and their bytes, overhead included."""
        blocks = self._by_key.get(key, ())
        return len(blocks), sum(_cost(block, self._blocks[block][0]) for block in blocks)

    def keep_copy(self, block: Block, value: bytes) -> None:
        """Keep `value`, a copy of the block's bytes, in their place, if the block is here."""
        found = self._blocks.get(block)
        if found is not None:
            self._blocks[block] = value, found[1]

    def drop_others(self, key: bytes, etag: str) -> None:
        """Drop the blocks of an object, but those of the version with this ETag; "" is none."""
        for block in list(self._by_key.get(key, ())):
            if not same_etag(block.etag, etag):
                self._drop(block, self._blocks.pop(block)[0])

    def _lend(self, size: int) -> None:
        self.bytes += size
        self._memory.lend(size)

    def _evict(self) -> None:
        block, (value, _) = self._blocks.popitem(last=False)
        self.evictions += 1
        self._drop(block, value)

    def _drop(self, block: Block, value: BlockValue) -> None:
        """Account for a block that is not in `_blocks` any more."""
        if block in self.ahead:
            self.ahead.discard(block)
            self.ahead_unused += 1
        of_key = self._by_key[block.key]
        of_key.discard(block)
        if not of_key:
            del self._by_key[block.key]
        self._lend(-_cost(block, value))

    def _reclaim(self, cost: int) -> None:
        """Make room in the memory for an entry of `cost` bytes, which is in it already."""
        unused_since = self._clock.now() - IDLE_SECONDS
        while self._blocks and self._memory.bytes > self._memory.max_bytes:
            _, used_at = next(iter(self._blocks.values()))
            # What is pinned cannot make room either.
            needed = self.bytes + cost + self._memory.pinned_bytes
            if used_at > unused_since and needed <= self._memory.max_bytes:
                return
            self._evict()


def _cost(block: Block, value: BlockValue) -> int:
    return len(value) + len(block.key) + len(block.etag) + BLOCK_OVERHEAD
