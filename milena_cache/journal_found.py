"""Pure. What there is to tell of a record that somebody finds in a journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from milena_cache.record import Damaged, Record, decode
from milena_cache.version import Known
from milena_common.keys import DEFAULT_BUCKET, split_cache_key

Row = dict[str, str | int | float | None]


class Found(NamedTuple):
    """A record by its number. `size` is that of its value in bytes, None if that is not known.

    `damage` says what is wrong, "" if nothing is. `record` is then what can still be believed: all but the value if
    only that is damaged, and otherwise None.
    """

    number: int
    record: Record | None
    size: int | None
    damage: str


def look(number: int, raw: bytes | memoryview, *, with_value: bool = False) -> Found:
    """What a record says, its checksums verified; without `with_value` a put's value is b""."""
    try:
        record, size = decode(number, raw, with_value=with_value)
    except Damaged as error:
        return Found(number, error.record, None, str(error))
    return Found(number, record, size, "")


def key_of(record: Record, default_bucket: str) -> tuple[str, str]:
    """Bucket and key. Keys are UTF-8; what is not, all the same, stands as lone surrogates."""
    bucket, key = split_cache_key(record.cache_key)
    return bucket or default_bucket or DEFAULT_BUCKET, key.decode(errors="surrogateescape")


def row(found: Found, default_bucket: str, refusals: Mapping[int, tuple[str, float]], now: float) -> Row:
    """All there is to tell, by name; `now` in seconds since 1970. What is not known is None."""
    record = found.record
    reason, at = refusals.get(found.number, (None, None))
    told: Row = {
        "number": found.number,
        "bucket": None,
        "key": None,
        "operation": None,
        "size": found.size,
        "version": None,
        "written_at": None,
        "age": None,
        "base": None,
        "refused": reason,
        "refused_at": at,
        "damage": found.damage or None,
    }
    if record is not None:
        bucket, key = key_of(record, default_bucket)
        base = record.base
        told |= {
            "bucket": bucket,
            "key": key,
            "operation": operation(record),
            "version": str(record.version),
            "written_at": record.written_at,
            "age": max(0.0, now - record.written_at),
            "base": base.value if isinstance(base, Known) else base,
        }
    return told


def operation(record: Record) -> str:
    """ "put" or "delete"."""
    return "delete" if record.value is None else "put"
