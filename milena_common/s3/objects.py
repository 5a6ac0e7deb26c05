"""Pure. The seam between the endpoint and what has the objects: the types, and the Protocol to implement."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from milena_common.api.byte_range import ByteRange
from milena_common.api.properties import Properties
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage


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


class PartBody(Protocol):
    """The body of a part that a thread reads while it comes."""

    @property
    def length(self) -> int:
        """Return its length in bytes."""

    @property
    def started(self) -> bool:
        """True if something of it was read, which is not there a second time."""

    @property
    def md5(self) -> str:
        """Return the MD5 of what was read, in hexadecimal digits."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, b"" at the end. Blocks. Raises OSError if the body does not come."""


class Objects(Protocol):
    """The objects of a cluster, whichever node has them.

    Buckets are named as in S3. `timeout`: seconds. All methods raise MilenaError.
    """

    def buckets(self) -> Sequence[str]:
        """Return the names of the buckets that are served, as far as they are known."""

    def serves(self, bucket: str) -> bool:
        """Return True if the bucket is served."""

    async def check_bucket(self, bucket: str, timeout: float) -> None:
        """Raise FailedPrecondition, with S3's code in its text, if a bucket that is served does not exist."""

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

    # ---- uploads in parts, which S3 has until they are completed

    async def create_upload(self, bucket: str, key: bytes, timeout: float, *, properties: Properties) -> str:
        """Begin an upload, and return its id, which is S3's."""

    async def upload_part(
        self, bucket: str, key: bytes, upload: str, number: int, value: bytes | PartBody, timeout: float
    ) -> str:
        """Store a part, and return its ETag. `timeout`: for its beginning, if the value comes while it is sent."""

    async def copy_part(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        number: int,
        source: tuple[str, bytes],
        byte_range: ByteRange,
        timeout: float,
        *,
        if_match: str,
    ) -> UploadedPart:
        """Store a part of what the object `source` has in S3, which gets its newest write before.

        `byte_range` has its exact length. Raises ConditionFailed if the source's ETag is not `if_match`.
        """

    async def complete_upload(
        self,
        bucket: str,
        key: bytes,
        upload: str,
        parts: Sequence[UploadedPart],
        timeout: float,
        *,
        if_match: str,
        if_none_match: str,
    ) -> Written:
        """Make the object of its parts, in place of all earlier writes of the key. Conditions are as in `put`."""

    async def abort_upload(self, bucket: str, key: bytes, upload: str, timeout: float) -> None:
        """Drop an upload and its parts."""

    async def list_parts(
        self, bucket: str, key: bytes, upload: str, after: int, limit: int, timeout: float
    ) -> PartsPage:
        """Return at most `limit` parts of an upload, those with numbers over `after`."""

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int, timeout: float
    ) -> UploadsPage:
        """Return at most `limit` uploads of keys that begin with `prefix`, behind a key and an upload of it."""
