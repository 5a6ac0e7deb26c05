"""Pure. How far to read ahead of one sequential reader: one block at first, and twice as many with each read.

Nodes decide by it for readers of the key's owner, and clients for themselves where they read blocks from the nodes
that keep them.
"""

from __future__ import annotations

from typing import NamedTuple

from milena_common.api.byte_range import ByteRange

# Blocks that are read ahead of one reader at most. At 20 ms and 100 MB/s for a request of 1 MiB, so many together
# have four times the rate of one long request.
MAX_BLOCKS = 16


class Ahead(NamedTuple):
    """What was proposed to be read ahead of one reader: `blocks` at last, up to the offset `done`."""

    blocks: int
    done: int

    def next(self, end: int, limit: int, block_bytes: int) -> tuple[Ahead, ByteRange | None]:
        """Return what to read ahead of a read that ends at `end`, None if nothing, and the state after that.

        Nothing behind `limit`. Each byte is proposed once, in whole blocks, the last one excepted.
        """
        blocks = min(max(1, 2 * self.blocks), MAX_BLOCKS)
        next_block = -(-end // block_bytes)
        first = max(next_block * block_bytes, self.done)
        done = max(first, min((next_block + blocks) * block_bytes, limit))
        return Ahead(blocks, done), ByteRange(first, done - first) if first < done else None
