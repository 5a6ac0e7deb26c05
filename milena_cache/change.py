"""Pure. A put or delete as it was asked for, and how it was acknowledged."""

from __future__ import annotations

from hashlib import md5
from typing import NamedTuple

from milena_cache.buckets import Object
from milena_cache.dirty import ENTRY_OVERHEAD
from milena_common.durability import Durability


class Ack(NamedTuple):
    """`etag` is "" for a delete; `durability` is the class that was reached."""

    etag: str
    durability: Durability


class Change(NamedTuple):
    """A put, or a delete (`value` None), as it was asked for."""

    wanted: Object
    value: bytes | None
    etag: str
    owned_since: int
    if_match: str
    if_none_match: str

    @property
    def conditional(self) -> bool:
        return bool(self.if_match or self.if_none_match)

    @property
    def cost(self) -> int:
        """Bytes that it counts for as a dirty entry."""
        return len(self.wanted.filed_as) + len(self.value or b"") + ENTRY_OVERHEAD


def etag_of(value: bytes) -> str:
    """The ETag that S3 gives to an object written in one piece, unless it encrypts it with a key of KMS."""
    return f'"{md5(value, usedforsecurity=False).hexdigest()}"'
