"""Pure. What can go wrong between a client and S3, and for which requests it shall.

A fault says what happens to one request; a rule says to which requests, how often and with what chance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from urllib.parse import unquote_to_bytes
from xml.sax.saxutils import escape


@dataclass(slots=True, eq=False)
class Request:
    """One request as it arrived.

    `target` is the raw request target. `bucket` and `key` are its path read in path style and percent-decoded; a
    request about a bucket has the key "". `status` is what the client got, None as long as (or if
    never) it was. `body` holds the body as it was on the wire.
    """

    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    status: int | None = None
    bucket: str = field(init=False)
    key: str = field(init=False)
    query: str = field(init=False)

    def __post_init__(self) -> None:
        path, _, self.query = self.target.partition("?")
        bucket, _, key = path.removeprefix("/").partition("/")
        self.bucket = bucket
        self.key = unquote_to_bytes(key).decode(errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Delay:
    """The request waits so many seconds, and then goes on: to the next rule that matches it, and to S3."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """S3 gets no request; the client gets `status` with S3's XML naming `code`."""

    status: int
    code: str
    message: str = "injected by the fault proxy"

    def body(self, request: Request) -> bytes:
        resource = request.target.partition("?")[0]
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>{escape(self.message)}</Message>"
            f"<Resource>{escape(resource)}</Resource><RequestId>fault</RequestId></Error>"
        ).encode()


@dataclass(frozen=True, slots=True)
class TruncatedBody:
    """S3 gets the request; its reply promises the whole body, `after` bytes of it come (None: half), then the end.

    A reply without a body passes whole: there is nothing to cut.
    """

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Drip:
    """S3 gets the request; the head of its reply comes at once, each byte of its body `seconds` after another."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LoseResponse:
    """S3 gets the request and executes it; the connection ends before the client hears of it."""


@dataclass(frozen=True, slots=True)
class LoseRequest:
    """The connection ends and S3 gets no request: to the client the same as LoseResponse."""


@dataclass(frozen=True, slots=True)
class Hang:
    """The request is read, S3 gets no request, and nothing is ever said. Ends when the client gives up."""


@dataclass(frozen=True, slots=True)
class ShiftDate:
    """The request reaches S3; the Date of the reply is `seconds` from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class OtherETags:
    """The request reaches S3; the ETag of its reply is no MD5, as with SSE-KMS: its digits are reversed."""


Fault = Delay | ShiftDate | OtherETags | Reply | TruncatedBody | Drip | LoseResponse | LoseRequest | Hang

INTERNAL_ERROR = Reply(500, "InternalError", "We encountered an internal error. Please try again.")
SLOW_DOWN = Reply(503, "SlowDown", "Please reduce your request rate.")
CONDITIONAL_CONFLICT = Reply(409, "ConditionalRequestConflict", "A conflicting operation occurred.")
OPERATION_ABORTED = Reply(409, "OperationAborted", "A conflicting conditional operation is in progress.")
PRECONDITION_FAILED = Reply(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")
NO_SUCH_KEY = Reply(404, "NoSuchKey", "The specified key does not exist.")
NOT_IMPLEMENTED = Reply(501, "NotImplemented", "A header you provided implies functionality not implemented")
ACCESS_DENIED = Reply(403, "AccessDenied", "Access Denied")
NO_SUCH_BUCKET = Reply(404, "NoSuchBucket", "The specified bucket does not exist")


@dataclass(slots=True, eq=False)
class Rule:
    """Does `fault` to requests that match all of what is given, each with chance `probability`, `times` at most."""

    fault: Fault
    method: str | None = None
    key: str | None = None
    where: Callable[[Request], bool] | None = None
    times: int | None = None
    probability: float = 1.0
    applied: int = 0

    def claims(self, request: Request, random: Random) -> bool:
        """Whether the fault shall happen to `request`; if so, it is counted."""
        if self.times is not None and self.applied >= self.times:
            return False
        if self.method not in (None, request.method) or self.key not in (None, request.key):
            return False
        if self.where is not None and not self.where(request):
            return False
        if self.probability < 1.0 and random.random() >= self.probability:
            return False
        self.applied += 1
        return True
