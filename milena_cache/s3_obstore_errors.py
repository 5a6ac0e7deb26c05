"""Pure. What obstore's errors mean.

obstore tells what happened only in its error's text: a summary, then a dump of the error, each field on a line.
The kind of exception does not do: 409 and 412 are one (AlreadyExistsError) for a put that must find nothing, and
404 and 412 are one (PreconditionError) for a put over a certain object.
"""

from __future__ import annotations

import re

from milena_cache.store import Fault, OriginFailure, Ref, fault_of_status

_DUMP = "\n\nDebug source:\n"
_ANSWERED = re.compile(
    r"Error performing [A-Z]+ \S+ in \S+ - Server returned (?:non-2xx status code: (\d{3})|error response:)(.*)",
    re.S,
)
_KIND = re.compile(r"^ +kind: (\w+)", re.M)
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_NOT_DELETED = re.compile(r'^    source: DeleteFailed \{\n.*\n +code: "(.*)",\n +message: "(.*)",$', re.M)
_UNREADABLE = re.compile(r"^    source: Invalid(Metadata|CacheControl|Content\w+) \{$", re.M)

# obstore deletes with DeleteObjects, whose answer is 200 with the key's own error inside. The status that a DELETE
# would have had; 400 for any other.
_STATUS_OF_DELETE = {
    "AccessDenied": 403,
    "NoSuchKey": 404,
    "NoSuchBucket": 404,
    "ConditionalRequestConflict": 409,
    "OperationAborted": 409,
    "InternalError": 500,
    "NotImplemented": 501,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}


def unreadable(error: Exception) -> bool:
    """Whether S3 answered, but with metadata or another header that obstore refuses: text beyond ASCII."""
    return _UNREADABLE.search(str(error).partition(_DUMP)[2]) is not None


def failure(operation: str, ref: Ref, error: Exception) -> OriginFailure:
    """What `error`, raised by obstore for a request about `ref`, says of S3."""
    summary, _, dump = str(error).partition(_DUMP)
    not_deleted = _NOT_DELETED.search(dump)
    if not_deleted:
        return _answered(operation, ref, "", not_deleted[1], not_deleted[2])
    # The key may say anything, so it must not be taken for a part of the message.
    summary = summary.replace(f"location {ref.key} ", "", 1).replace(f"for path {ref.key}:", "", 1)
    answered = _ANSWERED.search(summary)
    if answered:
        code = _CODE.search(answered[2])
        message = _MESSAGE.search(answered[2])
        return _answered(operation, ref, answered[1] or "", code[1] if code else "", message[1] if message else "")
    kinds = _KIND.findall(dump)
    if "Connect" in kinds:
        return OriginFailure(Fault.CONNECT, operation, ref, "cannot connect", "connect")
    if "Timeout" in kinds:
        return OriginFailure(Fault.TIMEOUT, operation, ref, "no answer in time", "timeout")
    return OriginFailure(Fault.INCOMPLETE, operation, ref, "connection lost", "incomplete")


def _answered(operation: str, ref: Ref, status: str, code: str, text: str) -> OriginFailure:
    status = status or str(_STATUS_OF_DELETE.get(code, 400))
    code = code or f"HTTP {status}"
    # Of a put, that is said of the object that its condition names.
    gone = operation == "put" and code == "NoSuchKey"
    return OriginFailure(
        Fault.CHANGED if gone else fault_of_status(int(status), code), operation, ref, code, status, text
    )
