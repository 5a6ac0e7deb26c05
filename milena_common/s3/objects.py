"""Pure. The seam between the endpoint and what has the objects: the types, and the Protocol to implement."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from milena_common.api.byte_range import ByteRange
from milena_common.api.properties import Properties


class Found(NamedTuple):
    """The result of a read.

    outcome: how it was served, as in `milena_cache.objects.read_outcomes`
    exists: True if the object exists; otherwise the rest is empty
    value: the bytes that were asked for, or the first of them
    size: bytes in the whole object
    etag: with its quotes; "" if the store gives none
    age: seconds since S3 last confirmed it
    node: the address of the node that has it
    """

    outcome: str
    exists: bool
    value: bytes
    size: int
    etag: str
    age: float
    node: str
    properties: Properties


class Written(NamedTuple):
    """The result of a write. `durability`: the class that was reached; `node`: the node that has it."""

    etag: str
    durability: str
    node: str


class Item(NamedTuple):
    """An object in a listing. `last_modified`: seconds since 1970."""

    key: str
    size: int
    etag: str
    last_modified: float


class Listed(NamedTuple):
    """A page of a listing. `cursor`: for the next one, "" after the last."""

    items: Sequence[Item]
    prefixes: Sequence[str]
    cursor: str


class Objects(Protocol):
    """The objects of a cluster, whichever node has them.

    Buckets are named as in S3. `timeout`: seconds. All methods raise MilenaError.
    """

    def buckets(self) -> Sequence[str]:
        """Return the names of the buckets that are served, as far as they are known."""

    def serves(self, bucket: str) -> bool:
        """Return True if the bucket is served."""

    def read(
        self, bucket: str, key: bytes, byte_range: ByteRange, max_bytes: int, timeout: float, if_match: str = ""
    ) -> Found | Awaitable[Found]:
        """Return the object, with at most `max_bytes` of the range; or an awaitable of it.

        With `if_match` only the object with that ETag. Raises RangeNotSatisfiable, ConditionFailed.
        """

    async def describe(self, bucket: str, key: bytes, timeout: float) -> Found:
        """Return the object without its value."""

    async def confirm(self, bucket: str, key: bytes, timeout: float) -> None:
        """Have the next read of the object ask S3, unless S3 does not have its newest version yet."""

    async def put(
        self,
        bucket: str,
        key: bytes,
        value: bytes,
        timeout: float,
        *,
        durability: str,
        if_match: str,
        if_none_match: str,
        properties: Properties,
    ) -> Written:
        """Store the object; `durability` "" is the default. A condition is decided by what S3 has. Raises
        ConditionFailed.
        """

    async def delete(self, bucket: str, key: bytes, timeout: float, *, durability: str, if_match: str) -> Written:
        """Delete the object; no error if there is none."""

    async def list_page(
        self, bucket: str, prefix: bytes, delimiter: bytes, cursor: str, after: str, limit: int, timeout: float
    ) -> Listed:
        """Return a page of at most `limit` keys and common prefixes: that at `cursor`, or the first one behind the
        key `after`. It may be empty although others follow.
        """
