"""Pure. Errors as S3 names them, and which one an error of Milena is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from milena_common.api import errors as api

# The codes of errors that the endpoint raises, with their HTTP status.
STATUS: Final[Mapping[str, int]] = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidDigest": 400,
    "InvalidPart": 400,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchBucketPolicy": 404,
    "NoSuchCORSConfiguration": 404,
    "NoSuchKey": 404,
    "NoSuchLifecycleConfiguration": 404,
    "NoSuchUpload": 404,
    "NotModified": 304,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}


# S3's own error code in the text of an error, where the client needs it.
_STATED: Final = re.compile(
    r"S3 \w+ of .*?: "
    r"(EntityTooLarge|EntityTooSmall|InvalidPart|InvalidPartOrder|InvalidRange|NoSuchBucket|NoSuchUpload)"
    r"(?:: (.*))? \([^()]*\)",
    re.DOTALL,
)


class S3Error(Exception):
    """An error reply.

    code: S3's
    message: for people
    headers: further ones of the reply
    """

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def status(self) -> int:
        return STATUS[self.code]


def error_of(error: api.MilenaError) -> S3Error:
    """Return what S3 calls an error of Milena."""
    text = str(error)
    match error:
        case api.RangeNotSatisfiable():
            return S3Error("InvalidRange", "The requested range is not satisfiable")
        case api.InvalidRequest():
            return S3Error(_code_of_field(text), text)
        case api.AccessDenied() | api.Unauthenticated():
            return S3Error("AccessDenied", text)
        case api.RateLimited() | api.Overloaded():
            return S3Error("SlowDown", text)
        case api.ConditionFailed():
            return S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        case api.FailedPrecondition():
            stated = _STATED.fullmatch(text)
            return S3Error(stated[1], stated[2] or stated[1]) if stated else S3Error("InvalidRequest", text)
        case api.Unavailable() | api.DeadlineExceeded():
            return S3Error("ServiceUnavailable", text)
    return S3Error("InternalError", "We encountered an internal error. Please try again.")


def _code_of_field(text: str) -> str:
    """Return the code for an invalid field, by which the error's text begins."""
    if text.startswith("key: has ") and "bytes" in text:
        return "KeyTooLongError"
    if text.startswith("value:"):
        return "EntityTooLarge"
    return "InvalidBucketName" if text.startswith("bucket:") else "InvalidArgument"
