"""The journal's records: what was encoded is decoded; what was damaged is reported and never used."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.journal.record import Damaged, Record, copied, decode, encode
from milena_cache.objects.version import ABSENT, UNKNOWN, Version
from tests.support.s3.memory_store import etag_of

SEQ = 1_700_000_000_000_001
VERSION = Version(1_700_000_000_000, SEQ)
U64 = st.integers(0, 2**64 - 1)
# Where the record has the checksum of its value.
VALUE_SUM = range(56, 60)
SECONDS = st.floats(min_value=0, max_value=1e12)

records = st.builds(
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
    number=st.just(0) | U64,
    copy=st.booleans(),
    doubtful=st.booleans(),
).map(lambda record: record._replace(owned_since=0) if record.number else record)

PUT = Record(
    b"reports/2024.csv", VERSION, b"the value \x00\xff of it", etag_of(b"old"), True, 7, 1.7e9 + 0.25, 1.8e9, True
)
# Another node's write, whose own number is one that this journal may have given to another record.
MERGED = PUT._replace(version=Version(1_700_000_000_001, SEQ - 1), owned_since=0, number=SEQ)
COPY = MERGED._replace(copy=True, doubtful=True)
LIVE = {
    "put": PUT,
    "put of another node": MERGED,
    "copy": COPY,
    "delete of another node": MERGED._replace(value=None, base=UNKNOWN),
    "put over nothing": PUT._replace(base=ABSENT),
    "put over what is not known": PUT._replace(base=UNKNOWN, conditional=False, expires_at=0.0),
    "put of nothing": PUT._replace(value=b""),
    "delete": PUT._replace(value=None, base=UNKNOWN),
    "delete of what is known": PUT._replace(value=None),
}
live = pytest.mark.parametrize("record", LIVE.values(), ids=LIVE.keys())


@given(records)
def test_what_was_encoded_is_decoded(record: Record) -> None:
    raw = encode(record)
    size = len(record.value or b"")
    assert decode(record.stored_as, raw) == (record, size)
    assert decode(record.stored_as, memoryview(raw)) == (record, size)
    assert decode(record.stored_as, raw, with_value=False) == (without_value(record), size)


def test_every_field_is_among_what_is_tried() -> None:
    default = Record(b"", Version(0, 0), None)
    merged = ("number", "copy", "doubtful")
    assert all(getattr(PUT, name) != getattr(default, name) for name in Record._fields if name not in merged)
    assert all(getattr(COPY, name) != getattr(default, name) for name in merged)


@given(records, st.integers(0, 2**64 - 1))
def test_a_record_is_only_what_it_is_under_its_own_number(record: Record, seq: int) -> None:
    if seq != record.stored_as:
        with pytest.raises(Damaged) as damaged:
            decode(seq, encode(record))
        assert damaged.value.record is None


def without_value(record: Record) -> Record:
    return record if record.value is None else record._replace(value=b"")


def check_damage(record: Record, raw: bytes, *, key_is_known: bool) -> None:
    """`raw` is reported as damaged, read with its value or without; and of which key, if that can be known."""
    for with_value in (True, False):
        with pytest.raises(Damaged) as damaged:
            decode(SEQ, raw, with_value=with_value)
        known = damaged.value.record
        assert known == (without_value(record) if key_is_known else None)


@live
def test_a_record_cut_at_any_length_is_damaged(record: Record) -> None:
    raw = encode(record)
    value_at = len(raw) - len(record.value or b"")
    for length in range(len(raw)):
        check_damage(record, raw[:length], key_is_known=length >= value_at)


@live
def test_a_record_with_any_byte_flipped_is_damaged(record: Record) -> None:
    raw = encode(record)
    value_at = len(raw) - len(record.value or b"")
    for place in range(len(raw)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            wrong = bytearray(raw)
            wrong[place] ^= flip
            check_damage(record, bytes(wrong), key_is_known=place >= value_at or place in VALUE_SUM)


@live
def test_a_record_with_more_than_belongs_to_it_is_damaged(record: Record) -> None:
    for more in (b"\0", b"x" * 100, encode(record)):
        with pytest.raises(Damaged):
            decode(SEQ, encode(record) + more)


@given(records, st.data())
def test_a_run_of_wrong_bytes_is_damage_or_the_record_as_it_was(record: Record, data: st.DataObject) -> None:
    raw = bytearray(encode(record))
    start = data.draw(st.integers(0, len(raw) - 1))
    run = data.draw(st.binary(min_size=1, max_size=600))
    raw[start : start + len(run)] = run
    found: Record | None
    try:
        found = decode(record.version.seq, bytes(raw))[0]
    except Damaged as damaged:
        found = damaged.record
    assert found in (None, record, without_value(record))


@given(st.binary(max_size=300))
def test_what_was_never_a_record_is_damaged(raw: bytes) -> None:
    with pytest.raises(Damaged):
        decode(SEQ, raw)


def test_a_format_of_another_version_is_said_to_be_one() -> None:
    raw = bytearray(encode(LIVE["delete"]))
    raw[0] = 3
    names = raw[60:]
    raw[52:56] = crc32(names, crc32(raw[:52])).to_bytes(4, "little")
    with pytest.raises(Damaged, match="format 3; this version reads 1 and 2"):
        decode(SEQ, bytes(raw))


@given(records, st.integers(1, 2**64 - 1), st.booleans())
def test_a_copy_is_the_record_of_another_node_under_a_number_of_this_journal(
    record: Record, number: int, doubtful: bool
) -> None:
    found, size, raw = copied(encode(record), number, doubtful=doubtful)
    expected = record._replace(number=number, owned_since=0, copy=True, doubtful=doubtful or record.doubtful)
    assert decode(number, raw) == (expected, size)
    assert found == without_value(expected)


@live
def test_a_damaged_record_is_not_copied(record: Record) -> None:
    raw = bytearray(encode(record))
    raw[-1] ^= 1
    with pytest.raises(Damaged):
        copied(bytes(raw), 7)
    with pytest.raises(Damaged):
        copied(raw[:20], 7)
