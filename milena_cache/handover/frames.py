"""Pure. What the owner of moving slots sends to their destination: dirty writes, and the slots, as bytes.

Each write is an argument of its own in MILENA.HANDOVER: a head, the reason of S3's rejection, and the journal's
record (`milena_cache.journal.record`), which has its own checksums.

    0   flags       u8
    1   rejected at f64, seconds since 1970
    9   length of the reason, u16
    11  reason, record
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from milena_cache.journal.record import Damaged, Record, decode, encode
from milena_cache.objects.version import Version
from milena_common.api.errors import InvalidRequest
from milena_common.cluster.slots import SLOTS

# Writes in one command, and bytes of their records unless one alone has more: some milliseconds of work at the
# destination, for which the release of another owner's slots may have to wait.
MAX_WRITES = 200
MAX_BYTES = 2**18

_HEAD = struct.Struct("<BdH")
_GONE, _REJECTED, _CONFIRMED, _MAYBE_ABSENT, _INDETERMINATE, _TOMBSTONE, _FORCED = 1, 2, 4, 8, 16, 32, 64
MAX_REASON_BYTES = 2000

# Bytes in a second that a connection and a journal manage at least, for the timeouts of large values.
MIN_RATE = 5e6

# Slots as first and last, both included.
Range = tuple[int, int]


class HandedOver(NamedTuple):
    """A dirty write of another node.

    record: the write, its `number` is 0
    gone: True if it is not dirty any more where it was, because S3 has it or a later write; it has no value then
    rejection: reason and time (seconds since 1970) if S3 rejected it permanently, else None
    confirmed: True if S3 has no later write of another node; else it is revalidated before it is served
    maybe_absent, indeterminate: as in `S3Belief`
    tombstone: True for a delete that S3 has; its record has the time of that as `written_at`
    forced: True if it was a dead letter that an operator has retried: it counts although its key may be deleted
    """

    record: Record
    gone: bool = False
    rejection: tuple[str, float] | None = None
    confirmed: bool = False
    maybe_absent: bool = False
    indeterminate: bool = False
    tombstone: bool = False
    forced: bool = False


def seconds_for(size: int) -> float:
    """Return for how many seconds a command of `size` bytes may take longer than a small one."""
    return size / MIN_RATE


def encode_write(write: HandedOver) -> bytes:
    """Return `write` as one argument of a command."""
    reason, at = write.rejection or ("", 0.0)
    text = reason.encode()[:MAX_REASON_BYTES]
    flags = (
        _GONE * write.gone
        | _REJECTED * (write.rejection is not None)
        | _CONFIRMED * write.confirmed
        | _MAYBE_ABSENT * write.maybe_absent
        | _INDETERMINATE * write.indeterminate
        | _TOMBSTONE * write.tombstone
        | _FORCED * write.forced
    )
    return b"".join((_HEAD.pack(flags, at, len(text)), text, encode(write.record)))


def encode_tombstone(key: bytes, version: Version, at: float) -> bytes:
    """Return a tombstone as one argument of a command; `at`: when S3 had the delete, in seconds since 1970."""
    return encode_write(HandedOver(Record(key, version, None, written_at=at), tombstone=True))


def decode_write(raw: bytes) -> HandedOver:
    """Return the write that `encode_write` encoded. Raises InvalidRequest."""
    try:
        flags, at, length = _HEAD.unpack_from(raw)
        start = _HEAD.size + length
        record = memoryview(raw)[start:]
        # The record's own number, which `decode` compares with.
        (seq,) = struct.unpack_from("<Q", record, 20)
        decoded, _ = decode(seq, record)
    except (struct.error, Damaged) as error:
        raise InvalidRequest(f"a handed over write cannot be read: {error}") from None
    reason = raw[_HEAD.size : start].decode(errors="replace")
    return HandedOver(
        decoded,
        bool(flags & _GONE),
        (reason, at) if flags & _REJECTED else None,
        bool(flags & _CONFIRMED),
        bool(flags & _MAYBE_ABSENT),
        bool(flags & _INDETERMINATE),
        bool(flags & _TOMBSTONE),
        bool(flags & _FORCED),
    )


def encode_ranges(ranges: Sequence[Range]) -> bytes:
    """Return ranges of slots as text, `0-99,200-200`."""
    return b",".join(b"%d-%d" % each for each in ranges)


def decode_ranges(text: bytes) -> tuple[Range, ...]:
    """Return the ranges that `encode_ranges` encoded. Raises InvalidRequest if they do not ascend."""
    ranges = []
    free = 0
    try:
        for part in text.split(b","):
            first, last = map(int, part.split(b"-"))
            if not free <= first <= last < SLOTS:
                raise ValueError
            ranges.append((first, last))
            free = last + 1
    except ValueError:
        raise InvalidRequest(f"slots: got {text[:80].decode(errors='replace')!r}; allowed: first-last,…") from None
    return tuple(ranges)


def ranges_of(slots: Iterable[int]) -> list[Range]:
    """Return `slots` as ranges, ascending."""
    ranges: list[Range] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges
