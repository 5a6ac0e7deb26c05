"""What one node sends another is what the other one reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.handover.frames import (
    HandedOver,
    decode_ranges,
    decode_write,
    encode_ranges,
    encode_write,
    ranges_of,
)
from milena_cache.journal.record import Record
from milena_cache.objects.version import ABSENT, UNKNOWN, Version
from milena_common.api.errors import InvalidRequest
from milena_common.cluster.slots import SLOTS

U64 = st.integers(0, 2**64 - 1)
SECONDS = st.floats(min_value=0, max_value=1e12)
WRITES = st.builds(
    HandedOver,
    record=st.builds(
        Record,
        cache_key=st.binary(min_size=1, max_size=1100),
        version=st.builds(Version, U64, U64),
        value=st.none() | st.binary(max_size=3000),
        base=st.sampled_from([UNKNOWN, ABSENT]) | st.text(max_size=100),
        conditional=st.booleans(),
        owned_since=U64,
        written_at=SECONDS,
        expires_at=SECONDS,
        keeps=st.booleans(),
        number=st.just(0),
    ),
    gone=st.booleans(),
    rejection=st.none() | st.tuples(st.text(max_size=100), SECONDS),
    confirmed=st.booleans(),
    maybe_absent=st.booleans(),
    indeterminate=st.booleans(),
)


@given(WRITES)
def test_a_write_is_read_as_it_was_sent(write: HandedOver) -> None:
    assert decode_write(encode_write(write)) == write


@given(WRITES, st.data())
def test_a_changed_record_is_rejected(write: HandedOver, data: st.DataObject) -> None:
    raw = bytearray(encode_write(write))
    start = len(raw) - len(encode_write(write._replace(rejection=None))) + 11
    place = data.draw(st.integers(start, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidRequest):
        decode_write(bytes(raw))


@given(st.binary(max_size=200))
def test_what_is_no_write_is_rejected(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_write(raw)


@given(st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=50))
def test_slots_are_read_as_they_were_sent(slots: set[int]) -> None:
    ranges = decode_ranges(encode_ranges(ranges_of(slots)))
    assert {slot for first, last in ranges for slot in range(first, last + 1)} == slots


@pytest.mark.parametrize("text", [b"", b"1", b"2-1", b"0-16384", b"5-6,6-7", b"a-b", b"-1-2"])
def test_other_slots_are_rejected(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_ranges(text)
