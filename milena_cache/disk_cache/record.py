"""Pure. The bytes of a segment: a header, records one after the other, and at its end a table of them.

    header   magic, format, identity of the bucket, number of the segment, checksum
    record   checksum of the head, checksum of the value, lengths, expiry, key, ETag │ value
    table    key hash, version, place of each record │ number, count, checksum, magic

All numbers are little-endian. A segment that a process has not completed has no table: its records are found one
after the other by their heads. Every byte is covered by a checksum (CRC-32) or compared with something known, and
the key of a record with the key that is read.

A segment of another format or another bucket is not read. There is no conversion: this is a cache.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from typing import Final, NamedTuple
from zlib import crc32

FORMAT: Final = 1
_MAGIC: Final = b"MILENADC"
_TABLE_MAGIC: Final = b"MILENADT"
_HEADER = struct.Struct("<8sI16sQI")
_CHECKED_HEADER = struct.Struct("<8sI16sQ")
# Checksums of head and value; length of the value, of key and ETag; expiry.
_HEAD = struct.Struct("<IIIHHd")
_TRAILER = struct.Struct("<QII8s")

HEADER_BYTES: Final = _HEADER.size
HEAD_BYTES: Final = _HEAD.size
TRAILER_BYTES: Final = _TRAILER.size
# A record's row in the table: three numbers of 8 bytes, the third one offset << 32 | length.
ROW: Final = 3
ROW_BYTES: Final = 8 * ROW
# Key and ETag of one record.
MAX_TEXT_BYTES: Final = 0xFFFF


class Damaged(Exception):
    """The bytes are not what was written."""


class Foreign(Exception):
    """The segment is of another format, or another bucket."""


class Record(NamedTuple):
    """A clean value. `expires_at`: seconds since 1970, 0: never."""

    key: bytes
    etag: str
    expires_at: float
    value: bytes


def identity_of(*names: str) -> bytes:
    """Return what stands for the objects that a log is for: those of an endpoint, bucket and prefix."""
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()


def hash_of(key: bytes) -> int:
    """Return the 64 bits that stand for a key, in every process alike."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def version_of(etag: str, expires_at: float) -> int:
    """Return the 64 bits that stand for a version of an object, as far as readers can tell versions apart."""
    return int.from_bytes(hashlib.blake2b(f"{expires_at!r} {etag}".encode(), digest_size=8).digest(), "little")


def encode_header(identity: bytes, number: int) -> bytes:
    """Return the first HEADER_BYTES of segment `number`."""
    checked = _CHECKED_HEADER.pack(_MAGIC, FORMAT, identity, number)
    return checked + crc32(checked).to_bytes(4, "little")


def check_header(raw: bytes, identity: bytes, number: int) -> None:
    """Raise Foreign or Damaged unless these are the first bytes of this segment."""
    if len(raw) < HEADER_BYTES:
        raise Damaged("the header is cut off")
    magic, version, found, found_number, checksum = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        raise Damaged("the header has another magic number")
    if version != FORMAT:
        raise Foreign(f"format {version}; this release reads format {FORMAT}")
    if crc32(raw[: HEADER_BYTES - 4]) != checksum or found_number != number:
        raise Damaged("the header's checksum is wrong")
    if found != identity:
        raise Foreign("of another endpoint, bucket or prefix")


def encode(record: Record) -> tuple[bytes, bytes]:
    """Return head and value, which are to be written one after the other."""
    key, etag, value = record.key, record.etag.encode("utf-8", "surrogatepass"), record.value
    checked = _HEAD.pack(0, crc32(value), len(value), len(key), len(etag), record.expires_at)[4:] + key + etag
    return crc32(checked).to_bytes(4, "little") + checked, value


def record_bytes(key: bytes, etag: str, value: bytes) -> int:
    """Return the bytes that a record takes, its row in the table included."""
    return HEAD_BYTES + len(key) + len(etag.encode("utf-8", "surrogatepass")) + len(value) + ROW_BYTES


class Head(NamedTuple):
    """A record without its value. `length`: bytes of the whole record."""

    key: bytes
    etag: str
    expires_at: float
    value_checksum: int
    start: int
    length: int


def head_length(raw: bytes) -> int:
    """Return the bytes of the head that begins with the HEAD_BYTES `raw`, key and ETag included."""
    _, _, _, key_length, etag_length, _ = _HEAD.unpack_from(raw)
    return int(HEAD_BYTES + key_length + etag_length)


def decode_head(raw: bytes) -> Head:
    """Return the head at the beginning of `raw`. Raises Damaged."""
    if len(raw) < HEAD_BYTES:
        raise Damaged("a record's head is cut off")
    checksum, value_checksum, value_length, key_length, etag_length, expires_at = _HEAD.unpack_from(raw)
    end = HEAD_BYTES + key_length + etag_length
    if len(raw) < end or crc32(raw[4:end]) != checksum:
        raise Damaged("a record's head has the wrong checksum")
    key, etag = raw[HEAD_BYTES : HEAD_BYTES + key_length], raw[HEAD_BYTES + key_length : end]
    return Head(key, etag.decode("utf-8", "surrogatepass"), expires_at, value_checksum, end, end + value_length)


def decode(raw: bytes) -> Record:
    """Return the record that `raw` is, to its last byte. Raises Damaged."""
    head = decode_head(raw)
    if len(raw) != head.length:
        raise Damaged("a record has the wrong length")
    value = raw[head.start :]
    if crc32(value) != head.value_checksum:
        raise Damaged("a value has the wrong checksum")
    return Record(head.key, head.etag, head.expires_at, value)


def encode_table(rows: array[int], number: int) -> bytes:
    """Return the table of segment `number`, with its trailer."""
    raw = _little_endian(rows).tobytes()
    count = len(rows) // ROW
    return raw + _TRAILER.pack(number, count, crc32(raw, crc32(_TRAILER.pack(number, count, 0, b""))), _TABLE_MAGIC)


def table_length(trailer: bytes, number: int) -> int:
    """Return the bytes of the table that ends with `trailer`, without it. Raises Damaged."""
    if len(trailer) != TRAILER_BYTES:
        raise Damaged("the table is cut off")
    found, count, _, magic = _TRAILER.unpack(trailer)
    if magic != _TABLE_MAGIC or found != number:
        raise Damaged("there is no table")
    return int(count) * ROW_BYTES


def decode_table(raw: bytes, number: int) -> array[int]:
    """Return the rows of a table with its trailer. Raises Damaged."""
    if len(raw) != table_length(raw[-TRAILER_BYTES:], number) + TRAILER_BYTES:
        raise Damaged("the table is cut off")
    _, count, checksum, _ = _TRAILER.unpack(raw[-TRAILER_BYTES:])
    rows = array("Q")
    rows.frombytes(raw[:-TRAILER_BYTES])
    if crc32(raw[:-TRAILER_BYTES], crc32(_TRAILER.pack(number, count, 0, b""))) != checksum:
        raise Damaged("the table has the wrong checksum")
    return _little_endian(rows)


def _little_endian(rows: array[int]) -> array[int]:
    if sys.byteorder == "big":
        rows = array("Q", rows)
        rows.byteswap()
    return rows
