"""Pure. The arguments and results of the client: keys, values, and the metadata of objects.

Arguments are checked here, before anything is sent, with errors that name the argument. Results are immutable, and
can be pickled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias, TypeVar

from milena_client.core.url import MAX_TIMEOUT
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import (
    DEFAULT_BUCKET,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    check_bucket,
    check_key,
    check_value_size,
)

Key: TypeAlias = str | bytes
Value: TypeAlias = bytes | bytearray | memoryview
# A key as the caller spelled it: results and errors are found under that spelling.
KeyT = TypeVar("KeyT", bound=Key)

# A hundred years. An object that is to exist for longer has no `ttl`.
MAX_TTL = 100 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its metadata.

    - `value`: the bytes; of `get_range` those of the part.
    - `etag`: the ETag, quotes included; "" if it is not known yet.
    - `age`: seconds since S3 last confirmed the node's entry.
    - `outcome`: how the read was served: "hit", "stale" (older than TTL_SECONDS, renewed meanwhile), "stale_error"
      (S3 fails), "stale_fenced" (the node has no lease, and FENCED_READS is stale), "miss", "revalidated" (S3
      confirmed it), "changed", "coalesced" (with a read that was in flight), "bypass" (too large to keep).
    - `node`: the address of the node that replied.
    - `size`: bytes of the whole value, also if `value` is a part of it.
    - `dirty`: True if it was acknowledged and S3 does not have it yet.
    - `ttl`: seconds that the object will still exist; None: it stays.
    - `block_bytes`, `group_bytes`: of a part, as of `Stat`.
    """

    value: bytes
    etag: str
    age: float
    outcome: str
    node: str
    size: int
    dirty: bool
    ttl: float | None = None
    block_bytes: int = 0
    group_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stat:
    """The metadata of an object, without its value.

    - `size`: bytes of its value.
    - `etag`: the ETag, quotes included; "" if it is not known.
    - `age`: seconds since S3 last confirmed it.
    - `dirty`: True if it was acknowledged and S3 does not have it yet.
    - `ttl`: seconds that the object will still exist; None: it stays.
    - `block_bytes`, `group_bytes`: of an object that the nodes keep in blocks, the bytes of one and of a group of
      them, which is at one node; 0 of any other.
    """

    size: int
    etag: str
    age: float
    dirty: bool
    ttl: float | None = None
    block_bytes: int = 0
    group_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """The result of `set` and `delete`.

    - `etag`: the object's ETag, quotes included; "" of a delete.
    - `node`: the address of the node that wrote it.
    - `durability`: the class that was reached, "back", "through" or "memory". It may be stronger than the
      requested one.
    """

    etag: str
    node: str
    durability: str


@dataclass(frozen=True, slots=True)
class Flushed:
    """The result of `flush`, as numbers of writes.

    - `remaining`: not in S3 after the timeout.
    - `failed`: permanently rejected by S3 (dead letters).
    - `flushed`: reached S3 during the call.
    """

    remaining: int
    failed: int
    flushed: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as `scan` lists it.

    - `key`: its key.
    - `size`: bytes of its value.
    - `etag`: its ETag, quotes included.
    - `last_modified`: when S3 got it, in seconds since 1970.
    """

    key: str
    size: int
    etag: str
    last_modified: float


@dataclass(frozen=True, slots=True)
class CommonPrefix:
    """An element of `scan_level` in place of all keys that begin with it, as a folder in place of its content.

    - `prefix`: the beginning of the keys, up to and with the delimiter.
    """

    prefix: str


def encode_key(key: Key) -> bytes:
    """Return the bytes of `key` (a str is UTF-8). Raises InvalidRequest for a key that S3 would reject."""
    encoded = _utf8(key, "key")
    check_key(encoded)
    return encoded


def encode_prefix(prefix: Key) -> bytes:
    """Return the bytes of a prefix of keys; unlike a key it may be empty. Raises InvalidRequest."""
    encoded = _utf8(prefix, "prefix")
    if encoded:
        check_key(encoded)
    return encoded


def encode_delimiter(delimiter: Key) -> bytes:
    """Return the bytes of a delimiter, at least one. Raises InvalidRequest."""
    encoded = _utf8(delimiter, "delimiter")
    if not 0 < len(encoded) <= MAX_KEY_BYTES or 0 in encoded:
        raise InvalidRequest(f"delimiter: has {len(encoded)} bytes; allowed are 1 to {MAX_KEY_BYTES} without NUL")
    return encoded


def _utf8(text: Key, what: str) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{what}: is not UTF-8 at character {error.start}; keys are UTF-8") from None
    if isinstance(text, bytes):
        return text
    raise TypeError(f"a {what} is str or bytes, not {type(text).__name__}")


def encode_value(value: Value, max_bytes: int = MAX_VALUE_BYTES) -> bytes:
    """Return the bytes of `value`.

    Raises TypeError for anything that is not bytes already; InvalidRequest, before anything is copied, if it is
    larger than `max_bytes`.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        check_value_size(value.nbytes if isinstance(value, memoryview) else len(value), max_bytes)
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        raise TypeError("a value is bytes, not str; encode it: value.encode()")
    raise TypeError(f"a value is bytes, bytearray or memoryview, not {type(value).__name__}")


def encode_ttl(seconds: float | None) -> int:
    """Return `seconds` as whole milliseconds, rounded up; 0 for None. Raises InvalidRequest."""
    if seconds is None:
        return 0
    if not 0 < seconds <= MAX_TTL:
        raise InvalidRequest(f"ttl: {seconds!r} is not more than 0 and at most {MAX_TTL:g} seconds")
    return ceil(seconds * 1000)


def key_list(keys: Iterable[KeyT]) -> list[KeyT]:
    """Return the distinct keys in their order. Raises TypeError if one cannot be a key."""
    if isinstance(keys, str | bytes):
        raise TypeError(f"several keys are expected, and this is one {type(keys).__name__}; put it in a list")
    distinct = list(dict.fromkeys(keys))
    if set(map(type, distinct)) <= {str, bytes}:
        return distinct
    for key in distinct:
        if not isinstance(key, str | bytes):
            raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
    return distinct


def checked_bucket(bucket: str) -> str:
    """Return `bucket` if S3 allows the name ("" and "default" are the default one). Raises InvalidRequest."""
    if bucket not in ("", DEFAULT_BUCKET):
        check_bucket(bucket)
    return bucket


def checked_timeout(seconds: float) -> float:
    """Return `seconds` if that is an allowed timeout. Raises InvalidRequest."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InvalidRequest(f"timeout: {seconds!r} is not more than 0 and at most {MAX_TIMEOUT:g} seconds")
    return seconds
