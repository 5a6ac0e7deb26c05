"""Pure. The seam to S3: what the node needs of an object store, and how a store says that it failed.

Implementations: `s3_obstore` (fast, but alters some keys), `s3_boto3` (exact, slower), `s3` (picks between the
two), `origin` (adds attempts, limits and counts to another), and an in-memory one for tests. One contract suite
holds all of them to the same behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from milena_common.api import errors
from milena_common.api.errors import MilenaError

NO_METADATA: Mapping[str, str] = MappingProxyType({})
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


class Ref(NamedTuple):
    """An object in S3: the real bucket name, and the exact key, prefix included."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class Stored:
    """An object's whole value, and its ETag as S3 spells it, quotes included.

    `metadata` is the object's own (`x-amz-meta-…`), names in lower case. `opaque_etag`: the store says that the
    object is encrypted so that its ETag is not the value's MD5 (SSE-KMS, SSE-C); False also where it is not known.
    """

    value: bytes
    etag: str
    metadata: Mapping[str, str] = field(default_factory=lambda: NO_METADATA, compare=False)
    opaque_etag: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Info:
    """An object without its value. `size` in bytes, `last_modified` in seconds since 1970.

    `metadata` is the object's own (`x-amz-meta-…`), names in lower case; only `head` and `describe` fill it.
    `attributes` are what else S3 keeps with it and a later write must repeat (Content-Type, storage class and so
    on), in the words of the store that gave them; only `describe` fills them. `server_date` is S3's time of day
    when it answered, in seconds since 1970; None if that is not known: only `describe` has to find it out.
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
    """Part of a listing, and the cursor for the next part: "" after the last."""

    objects: Sequence[Info]
    cursor: str

    def without_prefix(self, prefix: str) -> Page:
        """The same with `prefix` taken off every key."""
        return Page([replace(info, key=info.key.removeprefix(prefix)) for info in self.objects], self.cursor)


class Absent(Enum):
    """Why a GET brought no value."""

    MISSING = "missing"
    NOT_MODIFIED = "not modified"


class Fault(Enum):
    """What went wrong, as far as it matters for what to do next.

    `retryable`: another attempt may succeed. `ambiguous`: a write may have happened all the same. BUSY is S3's 409:
    another conditional write of the key is under way there. CHANGED: the object is not what the write's condition
    says. UNSUPPORTED: this S3 knows no conditional writes. UNEXPECTED: the answer is not one that S3 gives, or has
    a code that Milena does not know. ACCOUNT: S3 refuses every request, because of the credentials, the account,
    the region or the quota; it ends when someone acts.
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
        """True if the failure is a matter of this one object, and lasts: a write that meets it is a dead letter."""
        return not self.retryable and self not in (Fault.ACCOUNT, Fault.NO_BUCKET)


class OriginFailure(Exception):
    """S3 did not do what was asked.

    `code` is S3's error code ("SlowDown") or says what the transport met; `status` is the HTTP status, or
    "connect", "timeout" or "incomplete" where there was none. `ambiguous`: a write may have happened. `region`:
    where S3 says that the bucket is, "" if it does not.
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
        """True if it is the answer to a HEAD, which has no body and so no code, and a GET would tell more."""
        return self.fault is Fault.UNEXPECTED and self.operation in ("head", "bucket")

    def redacted(self, redact: Callable[[str], str]) -> OriginFailure:
        """Return this failure with its texts as `redact` leaves them."""
        self.code = redact(self.code)
        self.args = (redact(str(self)),)
        return self

    def as_error(self) -> MilenaError:
        """What callers of Milena are told."""
        rejected = self.fault is Fault.ACCOUNT and self.status in ("401", "403", "local")
        if self.fault is Fault.DENIED or rejected:
            return errors.AccessDenied(str(self))
        if self.fault is Fault.CHANGED:
            return errors.ConditionFailed(str(self))
        if self.fault in (Fault.ACCOUNT, Fault.NO_BUCKET, Fault.REJECTED, Fault.UNSUPPORTED):
            return errors.FailedPrecondition(str(self))
        return errors.OriginUnavailable(str(self))


def ignore() -> None:
    """Do nothing: the callback of callers that need none."""


class Readable(Protocol):
    """S3, as far as reads need it. Every method may raise OriginFailure."""

    async def get(self, ref: Ref, *, if_none_match: str = "", max_bytes: int) -> Stored | Absent:
        """The whole object; with `if_none_match`, NOT_MODIFIED if its ETag is that one.

        Raises FailedPrecondition, without reading the body, if it has more than `max_bytes`.
        """

    async def head(self, ref: Ref) -> Info | None:
        """The object without its value; None if it does not exist, and S3 has said so with its own error code."""

    async def list(self, bucket: str, prefix: str, cursor: str, limit: int) -> Page:
        """At most `limit` objects whose key begins with `prefix`, in the order of their keys' bytes."""


class ObjectStore(Readable, Protocol):
    """S3, as the node needs it. Every method may raise OriginFailure."""

    async def get(
        self, ref: Ref, *, if_none_match: str = "", max_bytes: int, began: Callable[[], None] = ignore
    ) -> Stored | Absent:
        """As `Readable.get`; `began` is called in the event loop when the head of the answer has come."""

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

        With `if_match` only over the object with that ETag, with `if_absent` only where there is none: otherwise
        the failure is CHANGED, and nothing has happened. `attributes` are those of an `Info` from `describe`.
        """

    async def describe(self, ref: Ref) -> Info | None:
        """As `head`, with the object's `attributes`."""

    async def copy(
        self, ref: Ref, *, if_match: str = "", metadata: Mapping[str, str], attributes: Mapping[str, Any]
    ) -> str:
        """Store the object's present value anew, in S3, with this metadata, and return its ETag.

        Tags stay as they are, and so does what `attributes` from `describe` repeat. With `if_match` only the object
        with that ETag: otherwise, and if there is none, the failure is CHANGED.
        """

    async def delete(self, ref: Ref, *, if_match: str = "") -> None:
        """Remove the object; no error if there is none.

        With `if_match` only the object with that ETag, where S3 honours it: otherwise the failure is CHANGED.
        """

    async def check_bucket(self, bucket: str) -> None:
        """Return if the bucket is there and may be used."""

    def reconnect(self) -> None:
        """Use none of the idle connections any more: they may be dead. Requests in flight go on."""

    async def close(self) -> None:
        """Let go of connections and threads."""


def too_large(ref: Ref, size: int, max_bytes: int) -> MilenaError:
    """The refusal of an object that is over MAX_VALUE_BYTES."""
    return errors.FailedPrecondition(f"{ref} has {size} bytes; allowed are at most {max_bytes} (MAX_VALUE_BYTES)")
