"""Which reads of an open version go to the node that keeps the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_client.core.files.block_read import BlockRead, Opened, block_read, pieces_of
from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange

AHEAD = ByteRange(500, 100)


def opened(ttl: float | None = None, group_bytes: int = 800) -> Opened:
    return Opened('"e"', 10_000, ttl, group_bytes, 1000.0)


def test_a_range_within_one_group_is_read_there() -> None:
    assert block_read(opened(), ByteRange(800, 800), AHEAD, 1000.0) == BlockRead(10_000, 800, AHEAD)
    assert block_read(opened(ttl=5.0), ByteRange(0, 1), AHEAD, 1004.9) is not None


@pytest.mark.parametrize(
    ("it", "part", "now"),
    [
        (opened(), ByteRange(799, 2), 1000.0),
        (opened(), ByteRange(0, 0), 1000.0),
        (opened(group_bytes=0), ByteRange(0, 1), 1000.0),
        (opened(ttl=5.0), ByteRange(0, 1), 1005.0),
    ],
)
def test_any_other_is_for_the_owner_of_the_key(it: Opened, part: ByteRange, now: float) -> None:
    assert block_read(it, part, AHEAD, now) is None


@given(st.integers(0, 2**24), st.integers(1, 2**24), st.sampled_from([0, 2**19, 2**23]), st.integers(2**18, 2**26))
def test_a_range_is_read_in_pieces_within_groups(offset: int, length: int, group: int, max_bytes: int) -> None:
    at = offset
    for piece in pieces_of(ByteRange(offset, length), group, max_bytes):
        assert piece.offset == at
        assert 0 < piece.length <= min(MAX_PART_BYTES, max_bytes)
        assert not group or piece.offset // group == (piece.offset + piece.length - 1) // group
        at += piece.length
    assert at == offset + length
