"""Pure. The blocks of an object: which of them a range touches, and in which slot of the ring they are kept.

The blocks of an object are counted from 0, each of BLOCK_BYTES except the last. GROUP_BLOCKS of them in a row are a
group. The slots of an object's groups are spread over the ring, unlike that of its key, so that one large object
uses the memory and the network of all nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milena_cache.objects.names import Object
from milena_common.api.byte_range import ByteRange

# Blocks of a group, and of one request to S3 at most.
GROUP_BLOCKS = 8

# The bytes of a block: what S3's client has received is not copied before it is read.
BlockValue = bytes | memoryview


class Version(NamedTuple):
    """One version of an object.

    target: the object
    etag: as S3 spells it, quotes included; never ""
    size: bytes in the whole object
    """

    target: Object
    etag: str
    size: int


class Block(NamedTuple):
    """The name of a block: the cache key, ETag and size of its object, and its number, counted from 0."""

    key: bytes
    etag: str
    size: int
    number: int


def blocks_of(version: Version, part: ByteRange, block_bytes: int) -> list[Block]:
    """Return the blocks that `part` touches; its offset is at least 0, its length at least 1, within the object."""
    (key, _), etag, size = version
    first, last = part.offset // block_bytes, (part.offset + part.length - 1) // block_bytes
    return [Block(key, etag, size, number) for number in range(first, last + 1)]


def bytes_of(block: Block, count: int, block_bytes: int) -> ByteRange:
    """Return the bytes of the object that `block` and those behind it have, `count` of them."""
    offset = block.number * block_bytes
    return ByteRange(offset, min(count * block_bytes, block.size - offset))


def groups_of(part: ByteRange, block_bytes: int) -> Iterator[tuple[int, ByteRange]]:
    """Iterate over the groups that `part` touches, with the bytes of it that are in them."""
    group_bytes = GROUP_BLOCKS * block_bytes
    offset, end = part.offset, part.offset + part.length
    while offset < end:
        group = offset // group_bytes
        stop = min((group + 1) * group_bytes, end)
        yield group, ByteRange(offset, stop - offset)
        offset = stop


def part_of_blocks(blocks: list[BlockValue], part: ByteRange, block_bytes: int) -> bytes:
    """Return the bytes of `part`, of which `blocks` are all blocks that it touches, in their order."""
    skipped = part.offset % block_bytes
    if len(blocks) == 1:
        whole = blocks[0]
        return bytes(whole if len(whole) == part.length else whole[skipped : skipped + part.length])
    # Views, so that the bytes are copied once.
    last = skipped + part.length - sum(map(len, blocks[:-1]))
    return b"".join((memoryview(blocks[0])[skipped:], *blocks[1:-1], memoryview(blocks[-1])[:last]))
