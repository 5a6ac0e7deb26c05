"""Pure. The text and JSON form of a journal record, for `milena journal` and the debugging of a journal.

Records may be damaged: every field that cannot be trusted is None or "?".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from milena_cache.journal.record import Damaged, Record, decode
from milena_cache.objects.version import Known
from milena_common.api.keys import DEFAULT_BUCKET, split_cache_key

Row = dict[str, str | int | float | None]


class Found(NamedTuple):
    """A record that was read from a journal.

    number: the sequence number under which it is stored.
    record: its fields; of a damaged record all but the value if only the value is damaged, else None.
    size: the bytes of its value; None if unknown.
    damage: the kind of damage, "" for a sound record.
    """

    number: int
    record: Record | None
    size: int | None
    damage: str


def look(number: int, raw: bytes | memoryview, *, with_value: bool = False) -> Found:
    """Decode a record and verify its checksums; without `with_value` the value of a put is b""."""
    try:
        record, size = decode(number, raw, with_value=with_value)
    except Damaged as error:
        return Found(number, error.record, None, str(error))
    return Found(number, record, size, "")


def key_of(record: Record, default_bucket: str) -> tuple[str, str]:
    """Return the bucket and the key; bytes of a key that are not UTF-8 become lone surrogates."""
    bucket, key = split_cache_key(record.cache_key)
    return bucket or default_bucket or DEFAULT_BUCKET, key.decode(errors="surrogateescape")


def row(found: Found, default_bucket: str, rejections: Mapping[int, tuple[str, float]], now: float) -> Row:
    """Return the fields of a record by name, None if unknown; `now` is in seconds since 1970."""
    record = found.record
    reason, at = rejections.get(found.number, (None, None))
    fields: Row = {
        "number": found.number,
        "bucket": None,
        "key": None,
        "operation": None,
        "size": found.size,
        "version": None,
        "written_at": None,
        "age": None,
        "base": None,
        "expires_at": None,
        "refused": reason,
        "refused_at": at,
        "damage": found.damage or None,
    }
    if record is not None:
        bucket, key = key_of(record, default_bucket)
        base = record.base
        fields |= {
            "bucket": bucket,
            "key": key,
            "operation": operation(record),
            "version": str(record.version),
            "written_at": record.written_at,
            "age": max(0.0, now - record.written_at),
            "base": base.value if isinstance(base, Known) else base,
            "expires_at": record.expires_at or None,
        }
    return fields


def operation(record: Record) -> str:
    """Return "put" or "delete"."""
    return "delete" if record.value is None else "put"


# ---- for people

COLUMNS = f"{'OPERATION':<9}  {'SIZE':>12}  {'AGE':>12}  {'VERSION':<34}  {'BASE':<34}  KEY"


def line(found: Found, fields: Row) -> str:
    """Return a line for a record and its row, in the columns of `COLUMNS`; expiry, rejection and damage follow."""
    size, age = fields["size"], fields["age"]
    columns = (
        f"{fields['operation'] or '?':<9}",
        f"{'?' if size is None else count(size):>12}",
        f"{'?' if age is None else f'{age:,.1f} s':>12}",
        f"{fields['version'] or fields['number']:<34}",
        f"{fields['base'] or '?':<34}",
        "?" if found.record is None else name(found.record),
    )
    more = [f"{what}: {fields[what]}" for what in ("refused", "damage") if fields[what]]
    if found.record is not None and found.record.expires_at:
        more.insert(0, f"expires: {timestamp(found.record.expires_at)}")
    return printable("  ".join([*columns, *more]))


def damage(found: Found) -> str:
    """Return the damage of a record as text, with its operation, key and version if they are known."""
    wrong = found.damage or "is as it was written"
    record = found.record
    if record is None:
        return wrong
    return (
        f"{wrong}: {operation(record)} of {name(record)}, version {record.version}, {timestamp(record.written_at)}"
    )


def name(record: Record) -> str:
    """Return the record's cache key: the key, or s3://bucket/key if it is not in the default bucket."""
    return printable(record.cache_key.decode(errors="surrogateescape"))


def count(number: object) -> str:
    """Return a whole number with thousands separators."""
    return f"{number:,}"


def timestamp(at: float) -> str:
    """Return a time, given in seconds since 1970, as text in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def printable(text: str) -> str:
    """Return `text` on one line, with control characters escaped, so that a terminal does not interpret them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
