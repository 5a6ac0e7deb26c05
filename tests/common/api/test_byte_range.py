"""A range covers what Python's slices and S3 say, and one that covers nothing is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.byte_range import MAX_LENGTH, MIN_OFFSET, WHOLE, ByteRange, checked_range
from milena_common.api.errors import InvalidRequest, RangeNotSatisfiable

numbers = st.integers(-12, 12)


@given(st.binary(max_size=10), numbers, st.integers(0, 12))
def test_a_range_covers_the_same_bytes_as_a_list_of_their_positions(value: bytes, offset: int, length: int) -> None:
    begin = offset + len(value) if offset < 0 else offset
    end = begin + length if length else len(value)
    covered = bytes(value[at] for at in range(len(value)) if begin <= at < end)
    byte_range = ByteRange(offset, length)
    if covered or byte_range == WHOLE:
        assert byte_range.of(value) == covered
        part = byte_range.within(len(value))
        assert value[part.offset : part.offset + part.length] == covered
    else:
        with pytest.raises(RangeNotSatisfiable, match=f"offset.*{len(value)} bytes"):
            byte_range.of(value)
    assert len(covered) <= byte_range.max_bytes(len(value)) <= len(value)


def test_the_whole_value_is_not_copied() -> None:
    value = b"0123456789"
    assert WHOLE.of(value) is value
    assert ByteRange(-10, 0).of(value) is value


@pytest.mark.parametrize("length", [0, -1, MAX_LENGTH + 1])
def test_a_length_that_cannot_be_is_rejected_by_its_name(length: int) -> None:
    with pytest.raises(InvalidRequest, match=f"length: got {length}; allowed: 1 to"):
        checked_range(0, length)


@pytest.mark.parametrize("offset", [MIN_OFFSET - 1, 2**63])
def test_an_offset_that_the_wire_has_no_room_for_is_rejected_by_its_name(offset: int) -> None:
    with pytest.raises(InvalidRequest, match=f"offset: got {offset}; allowed: "):
        checked_range(offset, None)


def test_no_length_is_all_up_to_the_end() -> None:
    assert checked_range(-3, None).of(b"12345") == b"345"
