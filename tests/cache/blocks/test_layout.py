"""Blocks and groups of an object, and the bytes of a range of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.blocks.layout import (
    GROUP_BLOCKS,
    Version,
    blocks_of,
    bytes_of,
    groups_of,
    part_of_blocks,
)
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Ref
from milena_common.api.byte_range import ByteRange

VALUE = bytes(range(251)) * 3


def version() -> Version:
    return Version(Object(b"k", Ref("bucket", "k")), '"e"', len(VALUE))


@given(st.data(), st.integers(1, 300))
def test_a_range_is_cut_from_the_blocks_that_it_touches_and_no_others(data: st.DataObject, size: int) -> None:
    offset = data.draw(st.integers(0, len(VALUE) - 1))
    part = ByteRange(offset, data.draw(st.integers(1, len(VALUE) - offset)))
    blocks = blocks_of(version(), part, size)
    values = [bytes_of(block, 1, size).of(VALUE) for block in blocks]
    assert part_of_blocks(values, part, size) == part.of(VALUE)
    assert all(bytes_of(block, 1, size).offset < offset + part.length for block in blocks)
    assert bytes_of(blocks[0], 1, size).offset <= offset < bytes_of(blocks[0], 1, size).offset + size
    assert b"".join(values) == bytes_of(blocks[0], len(blocks), size).of(VALUE)


@given(st.data(), st.integers(1, 60))
def test_groups_divide_a_range(data: st.DataObject, size: int) -> None:
    offset = data.draw(st.integers(0, len(VALUE) - 1))
    part = ByteRange(offset, data.draw(st.integers(1, len(VALUE) - offset)))
    pieces = list(groups_of(part, size))
    assert b"".join(piece.of(VALUE) for _, piece in pieces) == part.of(VALUE)
    for group, piece in pieces:
        assert {block.number // GROUP_BLOCKS for block in blocks_of(version(), piece, size)} == {group}
    assert [group for group, _ in pieces] == sorted({group for group, _ in pieces})
