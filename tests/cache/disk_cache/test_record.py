"""The bytes of segments: what was written is read, and any other byte is noticed."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.disk_cache import record as record_format
from milena_cache.disk_cache.record import (
    Damaged,
    Foreign,
    Record,
    check_header,
    decode,
    decode_table,
    encode,
    encode_header,
    encode_table,
    hash_of,
    identity_of,
    record_bytes,
    version_of,
)

IDENTITY = identity_of("https://s3", "bucket", "prefix/")
RECORD = Record(b"a key", '"0123"', 1_700_000_000.5, b"the value")


def _flips(raw: bytes) -> list[bytes]:
    """Return `raw` with each one of its bits changed."""
    flipped = []
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    return flipped


@given(
    st.binary(max_size=300),
    st.text(max_size=40),
    st.floats(0, 2**40, allow_nan=False),
    st.binary(max_size=2000),
)
def test_a_record_is_read_as_it_was_written(key: bytes, etag: str, expires_at: float, value: bytes) -> None:
    record = Record(key, etag, expires_at, value)
    raw = b"".join(encode(record))
    assert decode(raw) == record
    assert record_bytes(key, etag, value) == len(raw) + record_format.ROW_BYTES


def test_no_bit_of_a_record_changes_unnoticed() -> None:
    for raw in _flips(b"".join(encode(RECORD))):
        with pytest.raises(Damaged):
            decode(raw)


def test_a_record_that_is_cut_off_or_followed_by_something_is_damaged() -> None:
    raw = b"".join(encode(RECORD))
    for length in range(len(raw)):
        with pytest.raises(Damaged):
            decode(raw[:length])
    with pytest.raises(Damaged):
        decode(raw + b"x")


def test_no_bit_of_a_header_changes_unnoticed() -> None:
    raw = encode_header(IDENTITY, 7)
    check_header(raw, IDENTITY, 7)
    for changed in (*_flips(raw), raw[:-1], b""):
        with pytest.raises((Damaged, Foreign)):
            check_header(changed, IDENTITY, 7)


def test_a_segment_of_another_number_format_or_bucket_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode_header(IDENTITY, 7)
    with pytest.raises(Damaged):
        check_header(raw, IDENTITY, 8)
    with pytest.raises(Foreign, match="another endpoint, bucket or prefix"):
        check_header(raw, identity_of("https://s3", "bucket", "other/"), 7)
    monkeypatch.setattr(record_format, "FORMAT", 2)
    later = encode_header(IDENTITY, 7)
    monkeypatch.undo()
    with pytest.raises(Foreign, match="format 2; this release reads format 1"):
        check_header(later, IDENTITY, 7)


def test_no_bit_of_a_table_changes_unnoticed() -> None:
    rows = array("Q", (1, 2, 3, 2**64 - 1, 5, 6))
    raw = encode_table(rows, 7)
    assert decode_table(raw, 7) == rows
    assert len(decode_table(encode_table(array("Q"), 7), 7)) == 0
    for changed in (*_flips(raw), raw[:-1], raw[1:], raw + b"x", b""):
        with pytest.raises(Damaged):
            decode_table(changed, 7)
    with pytest.raises(Damaged):
        decode_table(raw, 8)


def test_the_identities_and_hashes_of_different_things_differ() -> None:
    assert identity_of("a", "bc", "") != identity_of("ab", "c", "")
    assert hash_of(b"a") != hash_of(b"b")
    assert len({version_of('"a"', 0.0), version_of('"b"', 0.0), version_of('"a"', 1.5)}) == 3


def test_the_format_is_the_one_that_other_releases_know() -> None:
    """A change of these bytes needs another FORMAT: an upgraded node would take them for damage."""
    raw = b"".join(encode(Record(b"k", '"e"', 2.5, b"v")))
    assert raw.hex() == "bb3908bf843b646b010000000100030000000000000004406b22652276"
    assert encode_header(bytes(16), 1).hex()[:24] == b"MILENADC".hex() + "01000000"
    assert (hash_of(b"k"), version_of('"e"', 2.5)) == (0x63D485F95FCB52AC, 0x489E2F2640BDC717)
