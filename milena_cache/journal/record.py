"""Pure. The journal's records: one acknowledged write each, as bytes with checksums.

    0   format and operation            4 × u8: format, operation, kind of base, flags
    4   lengths                         u16 cache key, u16 base ETag, u32 value
    12  epoch, sequence number          2 × u64
    28  owned_since                     u64
    36  written at, expires at          2 × f64, seconds since 1970; 0: never
    52  CRC-32 of everything above, the cache key and the base ETag
    56  CRC-32 of the value
    60  cache key, base ETag, value

Format 2 is for the write of another node, which has handed it over. Numbers of two nodes may be equal, so the
number of its version cannot be the key in the file: the sequence number in the head is one of this journal, and in
place of `owned_since`, which says nothing about this node's ownership, there is the number of its version, which
stays what it was. Builds without format 2 report such a record as one of another version, and quarantine it.

A copy (`milena_cache.copies`) is a record of format 2 with a flag: the write is another node's, which is to upload
it. Builds that do not know the flag would upload it: `origin` keeps them from starting.

All little-endian. There are two checksums because a record whose value is damaged still identifies the key that has
lost its acknowledged value: reads of that key must fail rather than return S3's older object. The sequence number
is also the record's key in the file; a record found under another number is damaged. LMDB has no checksums of its
own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version

FORMAT = 1
# The format of another node's write.
MERGED_FORMAT = 2
_PUT, _DELETE = 1, 2
_HEAD = struct.Struct("<4B2HI3Q2d")
_SUMS = struct.Struct("<2I")
_HEAD_AND_SUMS = struct.Struct(_HEAD.format + "2I")
_VALUE_AT = _HEAD.size + _SUMS.size
_BASE_UNKNOWN, _BASE_ABSENT, _BASE_ETAG = 0, 1, 2
# Flags. Earlier versions, which do not know the second, write such a record's value as a new object.
_CONDITIONAL, _KEEPS, _COPY, _DOUBTFUL = 1, 2, 4, 8


class Damaged(Exception):
    """A record differs from what was written. `record` has all but the value if only the value is damaged."""

    def __init__(self, reason: str, record: Record | None = None) -> None:
        super().__init__(reason)
        self.record = record


class Record(NamedTuple):
    """A write as the journal stores it.

    value: the bytes; None for a delete.
    base: S3's object when the write was made, as far as known.
    conditional: True if the write was acknowledged on the condition that S3 holds `base`.
    owned_since: the ring epoch since which this node owned the key's slot; 0 for another node's write.
    written_at: seconds since 1970.
    expires_at: seconds since 1970; 0 means never.
    keeps: True if `value` is the value of `base`, and only the expiry changes.
    number: of another node's write, the sequence number that it has in this journal; 0: that of its version.
    copy: True for a copy of a write that its owner is to upload; it has a `number`.
    doubtful: True for a copy of a write that S3 may have a later one of.
    """

    cache_key: bytes
    version: Version
    value: bytes | None
    base: Base = UNKNOWN
    conditional: bool = False
    owned_since: int = 0
    written_at: float = 0.0
    expires_at: float = 0.0
    keeps: bool = False
    number: int = 0
    copy: bool = False
    doubtful: bool = False

    @property
    def stored_as(self) -> int:
        """Return the record's key in the file."""
        return self.number or self.version.seq


def encode(record: Record) -> bytes:
    """Return the record as bytes."""
    (
        cache_key,
        version,
        value,
        base,
        conditional,
        owned_since,
        written_at,
        expires_at,
        keeps,
        number,
        copy,
        doubtful,
    ) = record
    etag = b"" if base is UNKNOWN or base is ABSENT else base.encode()
    body = b"" if value is None else value
    head = _HEAD.pack(
        MERGED_FORMAT if number else FORMAT,
        _DELETE if value is None else _PUT,
        _BASE_UNKNOWN if base is UNKNOWN else _BASE_ABSENT if base is ABSENT else _BASE_ETAG,
        _CONDITIONAL * conditional | _KEEPS * keeps | _COPY * copy | _DOUBTFUL * doubtful,
        len(cache_key),
        len(etag),
        len(body),
        version[0],
        number or version[1],
        version[1] if number else owned_since,
        written_at,
        expires_at,
    )
    names = cache_key + etag
    return b"".join((head, _SUMS.pack(crc32(names, crc32(head)), crc32(body)), names, body))


def decode(seq: int, raw: bytes | memoryview, *, with_value: bool = True) -> tuple[Record, int]:
    """Return the record with the key `seq` in the file, and the size of its value in bytes.

    Both checksums are verified in any case; without `with_value` the value is not copied, and is b"" in the record.
    Raises Damaged.
    """
    # On the way of each of a million records of a start: one unpacking, no keyword arguments, few slices.
    raw = memoryview(raw)
    (
        form,
        operation,
        kind,
        flags,
        key_length,
        etag_length,
        size,
        epoch,
        own_seq,
        owned_since,
        written_at,
        expires_at,
        _,
        value_sum,
    ) = _sound_head(raw)
    etag_at = _VALUE_AT + key_length
    value_at = etag_at + etag_length
    if own_seq != seq:
        raise Damaged(f"is record {own_seq}, found under {seq}")
    body = raw[value_at:]
    number, written_seq = 0, own_seq
    if form == MERGED_FORMAT:
        number, written_seq, owned_since = own_seq, owned_since, 0
    intact = len(body) == size and crc32(body) == value_sum
    record = Record(
        bytes(raw[_VALUE_AT:etag_at]),
        Version(epoch, written_seq),
        None if operation == _DELETE else bytes(body) if with_value and intact else b"",
        _base_of(kind, raw[etag_at:value_at]),
        bool(flags & _CONDITIONAL),
        owned_since,
        written_at,
        expires_at,
        bool(flags & _KEEPS),
        number,
        bool(flags & _COPY),
        bool(flags & _DOUBTFUL),
    )
    if not intact:
        raise Damaged(f"its value of {size} bytes is damaged", record)
    return record, size


def _sound_head(
    raw: memoryview,
) -> tuple[int, int, int, int, int, int, int, int, int, int, float, float, int, int]:
    """Return the fields of a record's head and its checksums, of which the first was verified. Raises Damaged."""
    if len(raw) < _VALUE_AT:
        raise Damaged(f"has {len(raw)} bytes, less than its head")
    head: tuple[int, int, int, int, int, int, int, int, int, int, float, float, int, int] = (
        _HEAD_AND_SUMS.unpack_from(raw)
    )
    value_at = _VALUE_AT + head[4] + head[5]
    head_sum = crc32(raw[: _HEAD.size])
    if len(raw) < value_at or crc32(raw[_VALUE_AT:value_at], head_sum) != head[12]:
        raise Damaged("its head or key is damaged")
    if head[0] not in (FORMAT, MERGED_FORMAT):
        raise Damaged(f"has format {head[0]}; this version reads {FORMAT} and {MERGED_FORMAT}")
    return head


def _base_of(kind: int, etag: memoryview) -> Base:
    if kind == _BASE_UNKNOWN:
        return UNKNOWN
    if kind == _BASE_ABSENT:
        return ABSENT
    return bytes(etag).decode(errors="replace")


def copied(raw: bytes | memoryview, number: int, *, doubtful: bool = False) -> tuple[Record, int, bytes]:
    """Return a record of another node, without its value, the size of that, and its bytes as a copy with `number`.

    `raw` is the record as that node's journal has it. `doubtful`: S3 may have a later write. Raises Damaged.
    """
    # On the way of each write that a holder takes, so the head is read once.
    raw = memoryview(raw)
    (
        form,
        operation,
        kind,
        flags,
        key_length,
        etag_length,
        size,
        epoch,
        own_seq,
        owned_since,
        written_at,
        expires_at,
        _,
        value_sum,
    ) = _sound_head(raw)
    etag_at = _VALUE_AT + key_length
    value_at = etag_at + etag_length
    body = raw[value_at:]
    if len(body) != size or crc32(body) != value_sum:
        raise Damaged(f"its value of {size} bytes is damaged")
    written_seq = owned_since if form == MERGED_FORMAT else own_seq
    flags |= _COPY | _DOUBTFUL * doubtful
    head = _HEAD.pack(
        MERGED_FORMAT,
        operation,
        kind,
        flags,
        key_length,
        etag_length,
        size,
        epoch,
        number,
        written_seq,
        written_at,
        expires_at,
    )
    record = Record(
        bytes(raw[_VALUE_AT:etag_at]),
        Version(epoch, written_seq),
        None if operation == _DELETE else b"",
        _base_of(kind, raw[etag_at:value_at]),
        bool(flags & _CONDITIONAL),
        0,
        written_at,
        expires_at,
        bool(flags & _KEEPS),
        number,
        True,
        bool(flags & _DOUBTFUL),
    )
    sums = _SUMS.pack(crc32(raw[_VALUE_AT:value_at], crc32(head)), value_sum)
    return record, size, b"".join((head, sums, raw[_VALUE_AT:]))
