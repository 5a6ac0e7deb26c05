"""Shell. Converts boto3's errors to OriginFailure.

botocore makes up a code where the response has no error document of S3: the status as digits, or "". Neither counts
as a code of S3 here, and `milena_cache.origin.s3.responses` interprets the rest.
"""

from __future__ import annotations

import errno

import botocore.exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref
from milena_cache.origin.s3.responses import meaning, out_of_files

# botocore's exceptions for requests without an HTTP response; the first match counts.
_TRANSPORT: tuple[tuple[type[Exception], Fault, str], ...] = (
    (botocore_errors.ReadTimeoutError, Fault.TIMEOUT, "timeout"),
    (botocore_errors.ConnectionError, Fault.CONNECT, "connect"),
    (botocore_errors.IncompleteReadError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.ResponseStreamingError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.HTTPClientError, Fault.INCOMPLETE, "incomplete"),
)
_REGION_HEADER = "x-amz-bucket-region"


def status_of(error: botocore_errors.ClientError) -> int:
    """Return the HTTP status of the response; 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: botocore_errors.ClientError) -> str:
    """Return S3's own error code; "" if the response had none."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return "" if code.isdigit() else code


def region_of(error: botocore_errors.ClientError) -> str:
    """Return the bucket's region according to S3; "" if the response does not name it."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get(_REGION_HEADER, "") or error.response.get("Error", {}).get("Region", ""))


def judge(
    operation: str, ref: Ref, error: Exception, *, conditional: bool = False, ranged: bool = False
) -> OriginFailure | Absent | None:
    """Return the meaning of `error`, raised by boto3 for a request about `ref`; None if it is not one of boto3's.

    `conditional`, `ranged`: the request carried a condition, a range.
    """
    if isinstance(error, botocore_errors.ClientError):
        return _from_response(operation, ref, error, conditional, ranged)
    if _is_out_of_files(error):
        return out_of_files(operation, ref)
    if isinstance(error, ResponseParserError):
        # A response that is not S3's XML: the request may have been done.
        return OriginFailure(Fault.UNEXPECTED, operation, ref, "no XML", "200", str(error)[:200])
    if isinstance(error, botocore_errors.BotoCoreError):
        name = type(error).__name__
        for kind, fault, status in _TRANSPORT:
            if isinstance(error, kind):
                return OriginFailure(fault, operation, ref, name, status, str(error))
        # A parameter that boto3 rejects concerns the object; credentials, profiles and endpoints concern all.
        of_object = isinstance(error, botocore_errors.ParamValidationError)
        return OriginFailure(
            Fault.REJECTED if of_object else Fault.ACCOUNT, operation, ref, name, "local", str(error)
        )
    if isinstance(error, ValueError):
        # boto3's error for an invalid endpoint.
        return OriginFailure(Fault.ACCOUNT, operation, ref, "ValueError", "local", str(error))
    return None


def _is_out_of_files(error: BaseException) -> bool:
    """True if `error` was caused by a lack of file descriptors, which only its chain of causes shows."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _from_response(
    operation: str, ref: Ref, error: botocore_errors.ClientError, conditional: bool, ranged: bool
) -> OriginFailure | Absent:
    status, code = status_of(error), code_of(error)
    said = meaning(operation, status, code, conditional=conditional, ranged=ranged)
    if isinstance(said, Absent):
        return said
    text = str(error.response.get("Error", {}).get("Message", ""))[:300]
    return OriginFailure(said, operation, ref, code or f"HTTP {status}", str(status), text, region_of(error))
