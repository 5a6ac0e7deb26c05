"""Pure. Which reads of large objects are sequential, and which bytes to read ahead for them.

A read that begins where another one of the same version has ended is sequential: from it on a block is read ahead,
and twice as many with each further one, up to MAX_BLOCKS. Any other read has nothing read ahead.

Each byte is proposed once for each sequential reader, in whole blocks: what is in memory again or still is not
requested anew, and a reader of few bytes at a time does not make a request for each of its reads.
"""

from __future__ import annotations

from collections import OrderedDict

from milena_cache.blocks.layout import Version
from milena_common.api.ahead import Ahead
from milena_common.api.byte_range import ByteRange

# Readers that are remembered, the latest ones.
MAX_READERS = 1024

# Cache key and ETag of an object, and an offset in it.
_Place = tuple[bytes, str, int]


class SequentialReads:
    """The latest reads of large objects. `block_bytes`: BLOCK_BYTES."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        # By the place where a read has ended: what was read ahead of it.
        self._readers: OrderedDict[_Place, Ahead] = OrderedDict()

    def next_ahead(self, version: Version, part: ByteRange) -> ByteRange | None:
        """Note a read of `part`, and return what to read ahead; None: nothing."""
        key, etag = version.target.cache_key, version.etag
        end = part.offset + part.length
        before = self._readers.pop((key, etag, part.offset), None)
        if before is None:
            # Another reader of the same bytes may have come this far before.
            state = self._readers.get((key, etag, end), Ahead(0, end))
            ahead = None
        else:
            state, ahead = before.next(end, version.size, self._block_bytes)
        self._readers[key, etag, end] = state
        self._readers.move_to_end((key, etag, end))
        if len(self._readers) > MAX_READERS:
            self._readers.popitem(last=False)
        return ahead
