"""Which reads of an open version go to the node that keeps the bytes."""

from __future__ import annotations

import pytest

from milena_client.core.files.block_read import BlockRead, Opened, block_read
from milena_common.api.byte_range import ByteRange

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
