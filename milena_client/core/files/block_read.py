"""Pure. Reads of a large object from the nodes that keep its blocks, without the owner of its key.

The blocks of a version never change, so that its bytes are the same from any node, and are read where they are.
Which version is the newest one only the owner of the key knows, and was settled when the version was opened. A node
that cannot serve a read names the owner, and the read goes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange

NOTHING = ByteRange(0, 0)


class BlockRead(NamedTuple):
    """A read of a range within one group of blocks.

    size: bytes in the whole object
    group_bytes: of a group
    ahead: bytes that will be read next, NOTHING if they are not known
    """

    size: int
    group_bytes: int
    ahead: ByteRange = NOTHING


class Opened(NamedTuple):
    """A version of an object that was opened.

    etag, size: its ETag, and its bytes
    ttl: seconds for which the object existed from then on; None: it stays
    group_bytes: of an object in blocks the bytes of a group of them, else 0
    at: when it was opened, monotonic seconds
    """

    etag: str
    size: int
    ttl: float | None
    group_bytes: int
    at: float


def block_read(opened: Opened, part: ByteRange, ahead: ByteRange, now: float) -> BlockRead | None:
    """Return the read of `part` by the node that keeps it.

    None: the owner of the key is to serve it, because the object is not kept in blocks, the part is not within one
    group, or the object has expired, which no other node knows.
    """
    _, size, ttl, group_bytes, at = opened
    if not group_bytes or part.length < 1 or (ttl is not None and now - at >= ttl):
        return None
    if part.offset // group_bytes != (part.offset + part.length - 1) // group_bytes:
        return None
    return BlockRead(size, group_bytes, ahead)


def pieces_of(part: ByteRange, group_bytes: int, max_bytes: int) -> Iterator[ByteRange]:
    """Iterate over the requests in which `part` is read: within one group of blocks each, if there are groups.

    `max_bytes`: those that the cluster takes as a value.
    """
    offset, stop = part.offset, part.offset + part.length
    while offset < stop:
        end = min(stop, offset + min(MAX_PART_BYTES, max_bytes))
        if group_bytes:
            end = min(end, (offset // group_bytes + 1) * group_bytes)
        yield ByteRange(offset, end - offset)
        offset = end
