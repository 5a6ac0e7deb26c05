"""Pure. The interface to S3: the operations that the node needs of an object store, their values and failures.

Implementations: `obstore_client` (fast, but alters some keys), `boto3_client` (exact, slower), `s3_store` (chooses
between the two), `requests` (adds attempts, limits and counts to another), and an in-memory one for tests. One
contract suite verifies that all of them behave the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from milena_common.api import errors
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import MilenaError
from milena_common.api.uploads import PartsPage, UploadedPart, UploadsPage

NO_METADATA: Mapping[str, str] = MappingProxyType({})
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})
# Parts that a store sends at a time while they come, each by a thread and a connection of its own.
MAX_STREAMS = 32


class Ref(NamedTuple):
    """An object in S3: the real bucket name, and the exact key, prefix included."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's value, or a part of it, and the object's ETag as S3 spells it, quotes included.

    `size`: bytes in the whole object if a part was requested; None: `value` is all of it. `metadata` is the user
    metadata (`x-amz-meta-…`), names in lower case. `opaque_etag`: the store reports that the object is encrypted so
    that its ETag is not the value's MD5 (SSE-KMS, SSE-C); False also where unknown. `buffer`: a large part as the
    store has received it, in place of `value`, which is b"" then: a copy of a megabyte takes the event loop longer
    than the rest of its request.
    """

    value: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA, compare=False)
    opaque_etag: bool = field(default=False, compare=False)
    size: int | None = None
    buffer: memoryview | None = None

    @property
    def content(self) -> bytes | memoryview:
        """Return the bytes that were received, wherever they are."""
        return self.value if self.buffer is None else self.buffer


@dataclass(frozen=True, slots=True)
class Info:
    """An object without its value. `size` in bytes, `last_modified` in seconds since 1970.

    `metadata` is the user metadata (`x-amz-meta-…`), names in lower case; only `head` and `describe` fill it.
    `attributes` are the other properties that S3 keeps with it and a later write must repeat (Content-Type, storage
    class and so on), named as by the store that returned them; only `describe` fills them. `server_date` is S3's
    time of day in its response, in seconds since 1970; None if unknown: only `describe` has to provide it.
    """

    key: str
    size: int
    etag: str
    last_modified: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=lambda: NO_ATTRIBUTES, compare=False)
    server_date: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, and the cursor for the next part: "" after the last.

    `prefixes`: the common prefixes of a listing with a delimiter, each for all keys that begin with it. Objects and
    prefixes are each in the order of their bytes, and the listing as a whole is in the order of both together.
    """

    objects: Sequence[Info]
    cursor: str
    prefixes: Sequence[str] = ()

    def without_prefix(self, prefix: str) -> Page:
        """Return this page with `prefix` removed from every key and common prefix."""
        return Page(
            [replace(info, key=info.key.removeprefix(prefix)) for info in self.objects],
            self.cursor,
            [common.removeprefix(prefix) for common in self.prefixes],
        )


class Absent(Enum):
    """The reason why a GET returned no value. BEYOND_END: the object has none of the bytes of the range."""

    MISSING = "missing"
    NOT_MODIFIED = "not modified"
    BEYOND_END = "beyond end"


class Fault(Enum):
    """The kind of a failure, as far as it determines the next step.

    `retryable`: another attempt may succeed. `ambiguous`: a write may have happened nevertheless. BUSY is S3's 409:
    another conditional write of the key is in flight there. CHANGED: the write's condition does not hold.
    UNSUPPORTED: this S3 does not support conditional writes. UNEXPECTED: the response is not one of S3's, or has an
    unknown error code. ACCOUNT: S3 rejects every request, because of the credentials, the account, the region or
    the quota, until an operator acts.
    """

    CONNECT = ("connect", True, False)
    TIMEOUT = ("timeout", True, True)
    INCOMPLETE = ("incomplete", True, True)
    SERVER = ("server", True, True)
    UNEXPECTED = ("unexpected", True, True)
    BUSY = ("busy", True, False)
    THROTTLED = ("throttled", True, False)
    DENIED = ("denied", False, False)
    ACCOUNT = ("account", False, False)
    NO_BUCKET = ("no bucket", False, False)
    REJECTED = ("refused", False, False)
    CHANGED = ("changed", False, False)
    UNSUPPORTED = ("unsupported", False, False)

    def __init__(self, label: str, retryable: bool, ambiguous: bool) -> None:
        self.label = label
        self.retryable = retryable
        self.ambiguous = ambiguous

    @property
    def of_object(self) -> bool:
        """True if the failure concerns this one object, and is permanent: the write becomes a dead letter."""
        return not self.retryable and self not in (Fault.ACCOUNT, Fault.NO_BUCKET)


class OriginFailure(Exception):
    """A request to S3 failed.

    `code` is S3's error code ("SlowDown") or a text for a failure of the transport; `status` is the HTTP status, or
    "connect", "timeout" or "incomplete" where there was none. `ambiguous`: a write may have happened. `region`: the
    bucket's region according to S3, "" if unknown.
    """

    def __init__(
        self, fault: Fault, operation: str, ref: Ref, code: str, status: str, text: str = "", region: str = ""
    ) -> None:
        super().__init__(f"S3 {operation} of {ref}: {code}{text and ': ' + text} ({status})")
        self.fault = fault
        self.operation = operation
        self.ambiguous = fault.ambiguous
        self.code = code
        self.status = status
        self.region = region

    @property
    def says_nothing(self) -> bool:
        """True for a response to a HEAD, which has no body and so no error code: a GET reveals more."""
        return self.fault is Fault.UNEXPECTED and self.operation in ("head", "bucket")

    def redacted(self, redact: Callable[[str], str]) -> OriginFailure:
        """Return this failure, with `redact` applied to its texts."""
        self.code = redact(self.code)
        self.args = (redact(str(self)),)
        return self

    def as_error(self) -> MilenaError:
        """Return the error for callers of Milena."""
        rejected = self.fault is Fault.ACCOUNT and self.status in ("401", "403", "local")
        if self.fault is Fault.DENIED or rejected:
            return errors.AccessDenied(str(self))
        if self.fault is Fault.CHANGED:
            return errors.ConditionFailed(str(self))
        if self.fault in (Fault.ACCOUNT, Fault.NO_BUCKET, Fault.REJECTED, Fault.UNSUPPORTED):
            return errors.FailedPrecondition(str(self))
        return errors.OriginUnavailable(str(self))


def ignore() -> None:
    """Do nothing: the default callback."""


class Readable(Protocol):
    """The read operations of S3. Every method may raise OriginFailure."""

    async def get(
        self,
        ref: Ref,
        *,
        if_none_match: str = "",
        if_match: str = "",
        byte_range: ByteRange | None = None,
        max_bytes: int,
    ) -> Stored | Absent:
        """Return the whole object; with `if_none_match`, NOT_MODIFIED if its ETag is that one.

        `byte_range`, with an offset of at least 0 and a length of at least 1: only these bytes, as far as the
        object has them; BEYOND_END if it has none of them. With `if_match` only of the object with that ETag:
        otherwise the failure is CHANGED, so that parts of two versions are never taken for one object.

        Raises TooLarge, without reading the body, if what was requested has more than `max_bytes`.
        """

    async def head(self, ref: Ref) -> Info | None:
        """Return the object without its value; None if it is absent according to S3's own error code."""

    async def list(
        self, bucket: str, prefix: str, cursor: str, limit: int, delimiter: str = "", after: str = ""
    ) -> Page:
        """Return at most `limit` objects whose key begins with `prefix`, in the order of their keys' bytes.

        Without `cursor` those behind the key `after`; a store may ignore that, and begin before it.

        With `delimiter`, keys that have it after `prefix` are replaced by their common prefix, which ends with its
        first occurrence; `limit` counts common prefixes too.
        """


class PartStream(Protocol):
    """A part that comes while it is sent, as a file that a thread reads."""

    @property
    def length(self) -> int:
        """Return its length in bytes, at least 1."""

    @property
    def started(self) -> bool:
        """True if something of it was read, which is not there a second time."""

    @property
    def md5(self) -> str:
        """Return the MD5 of what was read, in hexadecimal digits."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, b"" at the end. Blocks. Raises OSError if the rest does not come."""


class ObjectStore(Readable, Protocol):
    """The operations of S3 that the node needs. Every method may raise OriginFailure."""

    async def get(
        self,
        ref: Ref,
        *,
        if_none_match: str = "",
        if_match: str = "",
        byte_range: ByteRange | None = None,
        max_bytes: int,
        began: Callable[[], None] = ignore,
    ) -> Stored | Absent:
        """Do `Readable.get`; `began` is called in the event loop when the response headers have arrived."""

    async def put(
        self,
        ref: Ref,
        value: bytes,
        *,
        if_match: str = "",
        if_absent: bool = False,
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> str:
        """Store the object and return its ETag.

        With `if_match` only over the object with that ETag, with `if_absent` only if there is none: otherwise the
        failure is CHANGED, and nothing was written. `attributes` are those of an `Info` from `describe`.
        """

    async def describe(self, ref: Ref) -> Info | None:
        """Do `head`, and include the object's `attributes` and S3's time of day."""

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        """Rewrite the object inside S3, value unchanged, with this metadata, and return its ETag.

        Tags are kept, and so are the `attributes` from `describe`. With `if_match` only the object with that ETag:
        otherwise, and if there is none, the failure is CHANGED.
        """

    async def create_multipart(
        self, ref: Ref, *, metadata: Mapping[str, str] = NO_METADATA, attributes: Mapping[str, Any] = NO_ATTRIBUTES
    ) -> str:
        """Begin to store an object in parts, and return the id of the upload; nothing of it is visible.

        `metadata` and `attributes` are as in `put`.
        """

    async def upload_part(self, ref: Ref, upload: str, number: int, value: bytes | bytearray) -> str:
        """Store a part of an upload, and return its ETag; `number`: from 1 to 10,000, in their order in the object.

        A part of the same number is replaced. All parts but the last have at least 5 MiB. Fails if there is no
        such upload.
        """

    async def stream_part(self, ref: Ref, upload: str, number: int, body: PartStream) -> str:
        """Do `upload_part` with a part that comes meanwhile: one attempt, of which nothing is left if it fails."""

    async def copy_part(
        self, ref: Ref, upload: str, number: int, source: Ref, byte_range: ByteRange, *, if_match: str = ""
    ) -> UploadedPart:
        """Store a range of the object `source` as a part, inside S3. WHOLE is all of it; a range has its exact
        length. With `if_match` only of the object with that ETag: otherwise the failure is CHANGED.
        """

    async def list_parts(self, ref: Ref, upload: str, after: int, limit: int) -> PartsPage:
        """Return at most `limit` parts of an upload, those with numbers over `after`. Fails if there is none."""

    async def list_uploads(
        self, bucket: str, prefix: str, delimiter: str, after: tuple[str, str], limit: int
    ) -> UploadsPage:
        """Return at most `limit` uploads of keys that begin with `prefix`, behind a key and an upload of it.

        An empty key is the beginning, and without an upload all of the key's are left out.
        """

    async def complete_multipart(
        self,
        ref: Ref,
        upload: str,
        etags: Sequence[str],
        *,
        numbers: Sequence[int] = (),
        if_match: str = "",
        if_absent: bool = False,
    ) -> str:
        """Make the object of the parts with these ETags, and return its ETag.

        `numbers`: those of the parts, ascending; (): from 1 on, without a gap.

        `if_match` and `if_absent` as in `put`, where the store supports them on this request. Fails if there
        is no such upload, as after an earlier call that succeeded.
        """

    async def abort_multipart(self, ref: Ref, upload: str) -> None:
        """Drop an upload and its parts; no error if there is none. No later `complete_multipart` succeeds."""

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        """Remove the object; no error if there is none.

        With `if_match` only the object with that ETag, where S3 honours it: otherwise the failure is CHANGED.
        """

    async def check_bucket(self, bucket: str) -> None:
        """Return if the bucket exists and may be used."""

    def reconnect(self) -> None:
        """Discard the idle connections, which may be dead. Requests in flight continue."""

    async def close(self) -> None:
        """Close connections and threads."""


class TooLarge(errors.FailedPrecondition):
    """A value of more than MAX_VALUE_BYTES was requested; its headers have arrived, its body was not read.

    `found`: the object according to the headers, where `get` was to read all of it; None otherwise. Its
    `last_modified` is 0.
    """

    found: Info | None = None


def too_large(
    ref: Ref, size: int, max_bytes: int, etag: str = "", metadata: Mapping[str, str] = NO_METADATA
) -> TooLarge:
    """Return the error for an object of `size` bytes, over MAX_VALUE_BYTES."""
    error = TooLarge(f"{ref} has {size} bytes; allowed are at most {max_bytes} (MAX_VALUE_BYTES)")
    error.found = Info(ref.key, size, etag, 0.0, metadata)
    return error


def part_too_large(ref: Ref, part: ByteRange, max_bytes: int) -> TooLarge:
    """Return the error for a part of more bytes than MAX_VALUE_BYTES."""
    return TooLarge(
        f"length: the range has {part.length} bytes of {ref}; allowed are at most {max_bytes} (MAX_VALUE_BYTES)"
    )
