"""Pure. Interprets a response of S3, by the operation, the HTTP status and S3's own error code.

Load balancers, gateways and captive portals between Milena and S3 send responses of their own: 404 with an HTML
page, 403 without a body, 304 to a request without a condition. So a status alone has no permanent consequence: it
counts only with the error code that S3 sends with it in its XML document.

    absent               NoSuchKey to a read or a delete
    not modified         304, to a GET with a condition (it has no body, so it carries no code)
    beyond the end       416 with InvalidRange, to a GET with a range
    condition failed     PreconditionFailed, or NoSuchKey to a write with a condition
    conflict             ConditionalRequestConflict, OperationAborted
    rejected, one object AccessDenied, EntityTooLarge, KeyTooLongError, …: the explicit list `OBJECT_CODES`
    rejected, all        NoSuchBucket, and `ACCOUNT_CODES`: credentials, account, region, quota
    transient failure    everything else, including codes that are not listed here

The response to a HEAD has no body, so it never has a code: `Fault.UNEXPECTED`, and `s3_store` repeats it as a GET.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref

# These concern one object or one request about it: a retry with the same key and value has the same result.
OBJECT_CODES = frozenset(
    (
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidArgument",
        "InvalidObjectName",
        "InvalidObjectState",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidStorageClass",
        "InvalidTag",
        "InvalidURI",
        "KeyTooLong",
        "KeyTooLongError",
        "MaxMessageLengthExceeded",
        "MetadataTooLarge",
        "NoSuchUpload",
        "ObjectLocked",
        "XMinioInvalidObjectName",
    )
)

# The bucket is in another region, or the request was signed for another one.
REGION_CODES = frozenset(
    (
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
        "InvalidRegion",
        "PermanentRedirect",
        "Redirect",
    )
)
# After these the region of the bucket is looked up. The last one occurs while DNS names of a new bucket propagate.
REGION_LOOKUP_CODES = REGION_CODES | {"TemporaryRedirect"}

# These concern the account, the credentials, the region or the bucket: every request gets them until an operator
# acts.
ACCOUNT_CODES = REGION_CODES | frozenset(
    (
        "AccountProblem",
        "AllAccessDisabled",
        "CredentialsNotSupported",
        "CrossLocationLoggingProhibited",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidPayer",
        "InvalidSecurity",
        "InvalidToken",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.KMSInvalidStateException",
        "KMS.NotFoundException",
        "MissingSecurityHeader",
        "NoCredentials",
        "NoCredentialsError",
        "NotSignedUp",
        "QuotaExceeded",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "ServerSideEncryptionConfigurationNotFoundError",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnauthorizedAccess",
        "UnauthorizedAccessError",
        "UnrecognizedClientException",
        "UserSuspended",
        "XMinioStorageFull",
    )
)

_FAULTS: dict[str, Fault] = {
    **dict.fromkeys(OBJECT_CODES, Fault.REJECTED),
    **dict.fromkeys(ACCOUNT_CODES, Fault.ACCOUNT),
    **dict.fromkeys(("AccessDenied", "Forbidden"), Fault.DENIED),
    **dict.fromkeys(("ConditionalRequestConflict", "OperationAborted"), Fault.BUSY),
    **dict.fromkeys(
        (
            "Busy",
            "KMS.ThrottlingException",
            "RequestLimitExceeded",
            "RequestThrottled",
            "ServiceUnavailable",
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
            "TooManyRequestsException",
        ),
        Fault.THROTTLED,
    ),
    # The request, or its body, was damaged in transit.
    **dict.fromkeys(
        (
            "BadDigest",
            "IncompleteBody",
            "RequestTimeout",
            "XAmzContentChecksumMismatch",
            "XAmzContentSHA256Mismatch",
        ),
        Fault.INCOMPLETE,
    ),
    "InternalError": Fault.SERVER,
    "NoSuchBucket": Fault.NO_BUCKET,
    "NotImplemented": Fault.UNSUPPORTED,
}

_ABSENT_TO = ("get", "head", "delete")


def meaning(
    operation: str, status: int, code: str, *, conditional: bool = False, ranged: bool = False
) -> Fault | Absent:
    """Return the meaning of an unsuccessful response.

    `code` is S3's error code, "" where the response has no S3 error document. `status` is the HTTP status.
    `conditional`: the request had If-Match or If-None-Match. `ranged`: it had a Range.
    """
    if code == "NoSuchKey":
        if operation in _ABSENT_TO:
            return Absent.MISSING
        return Fault.CHANGED if conditional else Fault.UNEXPECTED
    if code == "PreconditionFailed":
        return Fault.CHANGED if conditional else Fault.UNEXPECTED
    if code == "InvalidRange" and status == 416 and ranged:
        return Absent.BEYOND_END
    known = _FAULTS.get(code)
    if known is not None:
        return known
    if status == 304 and operation == "get" and conditional:
        return Absent.NOT_MODIFIED
    if status in (429, 503):
        return Fault.THROTTLED
    if status == 408:
        return Fault.INCOMPLETE
    return Fault.SERVER if status >= 500 else Fault.UNEXPECTED


def out_of_files(operation: str, ref: Ref) -> OriginFailure:
    """Return the failure of a request that was not sent because this process has no free file descriptor."""
    code, text = "too many open files", "this process has all that it may have open (ulimit -n, LimitNOFILE)"
    return OriginFailure(Fault.CONNECT, operation, ref, code, "local", text)


class ErrorDocument(NamedTuple):
    """S3's error document; each field is "" where it is missing. `region`: the bucket's region according to S3."""

    code: str
    message: str
    region: str


_DOCUMENT = re.compile(r"\s*(?:<\?xml[^>]*\?>\s*)?<Error(?:\s[^>]*)?>")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_REGION = re.compile(r"<Region>([^<]+)</Region>")
NO_DOCUMENT = ErrorDocument("", "", "")


def error_document(body: str) -> ErrorDocument:
    """Return the content of S3's error document; `NO_DOCUMENT` if `body` is anything else, such as an HTML page."""
    if _DOCUMENT.match(body) is None:
        return NO_DOCUMENT
    found = (pattern.search(body) for pattern in (_CODE, _MESSAGE, _REGION))
    return ErrorDocument(*(match[1] if match else "" for match in found))


def is_error_document(value: bytes) -> bool:
    """True if `value` is an S3 error document: not an object's value, unless its ETag matches."""
    return len(value) < 16_384 and bool(error_document(value.decode(errors="replace")).code)
