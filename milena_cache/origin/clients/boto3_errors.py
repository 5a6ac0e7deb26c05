"""Shell. What boto3's errors mean.

botocore makes up a code where the answer has no error document of S3's: the status as digits, or "". Neither is a
code of S3's here, and `s3_answers` judges what is left.
"""

from __future__ import annotations

import errno

import botocore.exceptions as botocore_errors
from botocore.parsers import ResponseParserError

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref
from milena_cache.origin.s3.responses import meaning, out_of_files

# botocore's words for a request that brought no HTTP answer; the first that fits counts.
_TRANSPORT: tuple[tuple[type[Exception], Fault, str], ...] = (
    (botocore_errors.ReadTimeoutError, Fault.TIMEOUT, "timeout"),
    (botocore_errors.ConnectionError, Fault.CONNECT, "connect"),
    (botocore_errors.IncompleteReadError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.ResponseStreamingError, Fault.INCOMPLETE, "incomplete"),
    (botocore_errors.HTTPClientError, Fault.INCOMPLETE, "incomplete"),
)
_REGION_HEADER = "x-amz-bucket-region"


def status_of(error: botocore_errors.ClientError) -> int:
    """Return the HTTP status of the answer; 0 if there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: botocore_errors.ClientError) -> str:
    """Return S3's own error code; "" if the answer had none."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return "" if code.isdigit() else code


def region_of(error: botocore_errors.ClientError) -> str:
    """Return the region in which S3 says that the bucket is; "" if it does not."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get(_REGION_HEADER, "") or error.response.get("Error", {}).get("Region", ""))


def judge(
    operation: str, ref: Ref, error: Exception, *, conditional: bool = False
) -> OriginFailure | Absent | None:
    """Return what `error`, raised by boto3 for a request about `ref`, says of S3; None if it is none of boto3's.

    `conditional`: the request carried a condition.
    """
    if isinstance(error, botocore_errors.ClientError):
        return _from_response(operation, ref, error, conditional)
    if _is_out_of_files(error):
        return out_of_files(operation, ref)
    if isinstance(error, ResponseParserError):
        # An answer that is not S3's XML: what it answers may have been done.
        return OriginFailure(Fault.UNEXPECTED, operation, ref, "no XML", "200", str(error)[:200])
    if isinstance(error, botocore_errors.BotoCoreError):
        name = type(error).__name__
        for kind, fault, status in _TRANSPORT:
            if isinstance(error, kind):
                return OriginFailure(fault, operation, ref, name, status, str(error))
        # A parameter that boto3 refuses is the object's; credentials, profiles and endpoints are everyone's.
        of_object = isinstance(error, botocore_errors.ParamValidationError)
        return OriginFailure(
            Fault.REJECTED if of_object else Fault.ACCOUNT, operation, ref, name, "local", str(error)
        )
    if isinstance(error, ValueError):
        # boto3's own complaint about an endpoint that it cannot use.
        return OriginFailure(Fault.ACCOUNT, operation, ref, "ValueError", "local", str(error))
    return None


def _is_out_of_files(error: BaseException) -> bool:
    """True if `error` comes of there being no file descriptor left, which botocore says only in its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _from_response(
    operation: str, ref: Ref, error: botocore_errors.ClientError, conditional: bool
) -> OriginFailure | Absent:
    status, code = status_of(error), code_of(error)
    said = meaning(operation, status, code, conditional=conditional)
    if isinstance(said, Absent):
        return said
    text = str(error.response.get("Error", {}).get("Message", ""))[:300]
    return OriginFailure(said, operation, ref, code or f"HTTP {status}", str(status), text, region_of(error))
