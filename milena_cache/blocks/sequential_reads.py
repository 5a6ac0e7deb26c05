"""Pure. Which reads of large objects are sequential, and which bytes to read ahead for them.

A read that begins where another one of the same version has ended is sequential: from it on a block is read ahead,
and twice as many with each further one, up to MAX_BLOCKS. Any other read has nothing read ahead.

Each byte is proposed once for each sequential reader, in whole blocks: what is in memory again or still is not
requested anew, and a reader of few bytes at a time does not make a request for each of its reads.
"""

from __future__ import annotations

from collections import OrderedDict

from milena_cache.blocks.layout import Version
from milena_common.api.byte_range import ByteRange

# Blocks that are read ahead of one reader at most. At 20 ms and 100 MB/s for a request of 1 MiB, so many together
# have four times the rate of one long request.
MAX_BLOCKS = 16
# Readers that are remembered, the latest ones.
MAX_READERS = 1024

# Cache key and ETag of an object, and an offset in it.
_Place = tuple[bytes, str, int]


class SequentialReads:
    """The latest reads of large objects. `block_bytes`: BLOCK_BYTES."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        # By the place where a read has ended: blocks that were read ahead of it, and where they end.
        self._readers: OrderedDict[_Place, tuple[int, int]] = OrderedDict()

    def next_ahead(self, version: Version, part: ByteRange) -> ByteRange | None:
        """Note a read of `part`, and return what to read ahead; None: nothing."""
        key, etag = version.target.cache_key, version.etag
        end = part.offset + part.length
        before = self._readers.pop((key, etag, part.offset), None)
        if before is None:
            # Another reader of the same bytes may have come this far before.
            blocks, done = self._readers.get((key, etag, end), (0, end))
            ahead = None
        else:
            blocks, done = before
            blocks = min(max(1, 2 * blocks), MAX_BLOCKS)
            next_block = -(-end // self._block_bytes)
            first = max(next_block * self._block_bytes, done)
            done = max(first, min((next_block + blocks) * self._block_bytes, version.size))
            ahead = ByteRange(first, done - first) if first < done else None
        self._readers[key, etag, end] = blocks, done
        self._readers.move_to_end((key, etag, end))
        if len(self._readers) > MAX_READERS:
            self._readers.popitem(last=False)
        return ahead
