"""Pure. A put or delete as it was asked for, and how it was acknowledged."""

from __future__ import annotations

from hashlib import md5
from typing import NamedTuple

from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.names import Object
from milena_cache.objects.version import ABSENT, Base
from milena_common.api.durability import Durability

# What keeping one dirty entry takes beyond its key and value, in memory; also counted for the journal, whose record
# has a head and an entry in its tree. Measured with `python -m bench --case replay`.
ENTRY_OVERHEAD = 650
# From this size the ETag is computed at once, on a thread, and else when somebody asks for it.
LARGE_BYTES = 2**18


class Ack:
    """That a write was acknowledged, and in which class."""

    __slots__ = ("_etag", "_value", "durability")

    def __init__(self, durability: Durability, etag: str, value: bytes | None) -> None:
        """`etag` "" means that of `value`, computed when somebody asks."""
        self.durability = durability
        self._etag = etag
        self._value = value

    @property
    def etag(self) -> str:
        """The object's ETag, "" for a delete."""
        if not self._etag and self._value is not None:
            self._etag = etag_of(self._value)
        return self._etag


class Change(NamedTuple):
    """A put, or a delete (`value` None), as it was asked for. `etag` is "" until it is computed.

    `expires_at`: when the object ends, in seconds since 1970. `keeps`: the ETag of the object that `value` is the
    value of, if only its end changes: what else S3 keeps with it stays. "" for a new object.
    """

    target: Object
    value: bytes | None
    etag: str = ""
    owned_since: int = 0
    if_match: str = ""
    if_none_match: str = ""
    expires_at: float = NEVER
    keeps: str = ""

    @property
    def conditional(self) -> bool:
        return bool(self.if_match or self.if_none_match)

    def is_met_by(self, current: Base) -> bool:
        """True if the condition holds of what the object is now."""
        if self.if_none_match:
            return current is ABSENT
        return isinstance(current, str) and same_etag(current, self.if_match)

    @property
    def cost(self) -> int:
        """Bytes that it counts for as a dirty entry."""
        return len(self.target.cache_key) + len(self.value or b"") + ENTRY_OVERHEAD


def etag_of(value: bytes) -> str:
    """The ETag that S3 gives to an object written in one piece, unless it encrypts it with a key of KMS."""
    return f'"{md5(value, usedforsecurity=False).hexdigest()}"'


def may_have_etag(value: bytes, etag: str, base: str) -> bool:
    """Return whether the ETag of `value` may be `base`. `etag` is it, if known; large values are not hashed."""
    if etag:
        return same_etag(etag, base)
    return len(value) >= LARGE_BYTES or etag_of(value) == base
