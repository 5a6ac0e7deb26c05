"""Pure. What an HTTP request asks of an S3 endpoint: its bucket, key and operation.

The path is decoded once, and a `+` in it is a plus sign; in the query it is a space. Parameters and headers that S3
does not know are ignored, those of operations that are not served are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_plus, unquote_to_bytes

from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import check_bucket, check_key
from milena_common.s3.wire.errors import S3Error

MAX_PARAMETERS: Final = 100
COPY_SOURCE: Final = "x-amz-copy-source"


@dataclass(slots=True)
class S3Request:
    """One HTTP request.

    method: as sent
    path: the path as sent, with its encoding
    query: the query string as sent
    headers: by name in lower case; values of one name joined by ","; each character is one byte
    parameters: those of the query, decoded, in the order in which they were sent
    arrived_at: when its head had come, seconds since 1970
    peer: host:port of the client
    request_id: names the request in replies and logs
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    arrived_at: float
    peer: str
    request_id: str
    parameters: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.query:
            self.parameters = _parameters(self.query)

    def parameter(self, name: str, default: str = "") -> str:
        """Return the first value of a parameter."""
        return next((value for each, value in self.parameters if each == name), default)

    def header(self, name: str) -> str:
        """Return a header's value, "" if there is none."""
        return self.headers.get(name, "")


def _parameters(query: str) -> list[tuple[str, str]]:
    """Return the decoded parameters. Raises S3Error."""
    parts = [part for part in query.split("&") if part]
    if len(parts) > MAX_PARAMETERS:
        raise S3Error("InvalidURI", f"The query has more than {MAX_PARAMETERS} parameters")
    pairs = [part.partition("=") for part in parts]
    try:
        return [
            (
                unquote_plus(name, errors="strict") if "%" in name or "+" in name else name,
                unquote_plus(value, errors="strict") if "%" in value or "+" in value else value,
            )
            for name, _, value in pairs
        ]
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "The query is not UTF-8") from None


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked for.

    name: S3's, as in its documentation
    bucket: "" if none is named
    key: b"" if none is named
    """

    name: str
    bucket: str = ""
    key: bytes = b""


# Sub-resources of a bucket, by method. Those that a client may only probe have S3's reply for "there is none".
_BUCKET_PROBES: Final = {
    "cors": "NoSuchCORSConfiguration",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "policy": "NoSuchBucketPolicy",
}
_BUCKET_READS: Final = {
    "location": "GetBucketLocation",
    "acl": "GetAcl",
    "versioning": "GetBucketVersioning",
    "requestPayment": "GetBucketRequestPayment",
}
# All sub-resources; an operation on one that is not served is refused, and never taken for one on the object.
_SUBRESOURCES: Final = frozenset(
    (
        *("accelerate", "acl", "analytics", "attributes", "cors", "delete", "encryption", "intelligent-tiering"),
        *("inventory", "legal-hold", "lifecycle", "location", "logging", "metadataConfiguration", "metrics"),
        *("notification", "object-lock", "ownershipControls", "partNumber", "policy", "policyStatus"),
        *("publicAccessBlock", "replication", "requestPayment", "restore", "retention", "select", "session"),
        *("tagging", "torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website"),
    )
)


def operation_of(request: S3Request, domain: str) -> Operation:
    """Return the operation. `domain`: buckets may be in its subdomains; "" if only in paths. Raises S3Error."""
    bucket, key = address_of(request, domain)
    named = frozenset(name for name, _ in request.parameters) & _SUBRESOURCES if request.parameters else frozenset()
    method = request.method
    if not bucket:
        if method == "GET" and not named:
            return Operation("ListBuckets")
        raise not_allowed(request)
    name = _on_bucket(request, method, named) if not key else _on_object(request, method, named)
    return Operation(name, bucket, key)


def _on_bucket(request: S3Request, method: str, named: frozenset[str]) -> str:
    if not named:
        if method == "GET":
            return "ListObjectsV2" if request.parameter("list-type") == "2" else "ListObjects"
        found = {"HEAD": "HeadBucket", "PUT": "CreateBucket"}.get(method)
        if found:
            return found
    elif len(named) == 1:
        (only,) = named
        if method == "POST" and only == "delete":
            return "DeleteObjects"
        if method == "GET" and only in _BUCKET_PROBES:
            raise S3Error(_BUCKET_PROBES[only], "There is no such configuration")
        if method == "GET" and only in _BUCKET_READS:
            return _BUCKET_READS[only]
        if method == "GET" and only == "uploads":
            return "ListMultipartUploads"
    raise not_allowed(request)


def _on_object(request: S3Request, method: str, named: frozenset[str]) -> str:
    if not named:
        if method == "PUT" and COPY_SOURCE in request.headers:
            return "CopyObject"
        found = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}.get(method)
        if found:
            return found
    elif named == {"acl"} and method in ("GET", "PUT"):
        return "GetAcl" if method == "GET" else "PutObjectAcl"
    elif named == {"attributes"} and method == "GET":
        return "GetObjectAttributes"
    elif named == {"uploads"} and method == "POST":
        return "CreateMultipartUpload"
    elif named == {"partNumber", "uploadId"} and method == "PUT":
        return "UploadPartCopy" if COPY_SOURCE in request.headers else "UploadPart"
    elif named == {"uploadId"}:
        found = {
            "GET": "ListParts",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
        }.get(method)
        if found:
            return found
    raise not_allowed(request)


def not_allowed(request: S3Request) -> S3Error:
    """Return the error for an operation that is not served."""
    return S3Error("MethodNotAllowed", f"The operation {request.method} on this resource is not served here")


def address_of(request: S3Request, domain: str) -> tuple[str, bytes]:
    """Return bucket and key, "" and b"" where there is none. Raises S3Error."""
    path = request.path
    if not path.startswith("/"):
        raise S3Error("InvalidURI", "The path does not begin with /")
    bucket = virtual_host(request.header("host"), domain) if domain else ""
    if bucket:
        rest = path[1:]
    else:
        bucket, _, rest = path[1:].partition("/")
    if not bucket:
        if rest:
            raise S3Error("InvalidBucketName", "The specified bucket is not valid.")
        return "", b""
    key = unquote_to_bytes(rest) if "%" in rest else rest.encode("latin-1")
    _check_address(bucket, key)
    return bucket, key


def _check_address(bucket: str, key: bytes) -> None:
    """Check a bucket's name, and a key; b"" is none. Raises S3Error."""
    try:
        check_bucket(bucket)
    except InvalidRequest as error:
        raise S3Error("InvalidBucketName", str(error)) from None
    try:
        if key:
            check_key(key)
    except InvalidRequest as error:
        code = "KeyTooLongError" if key[1024:] else "InvalidURI"
        raise S3Error(code, str(error)) from None


def copy_source(request: S3Request) -> tuple[str, bytes]:
    """Return bucket and key of the object that is copied. Raises S3Error.

    Some clients encode a space as `+` here, and others begin with a slash.
    """
    text, _, query = request.header(COPY_SOURCE).partition("?")
    if query and query != "versionId=null":
        raise S3Error("InvalidArgument", "x-amz-copy-source: versions of objects are not served here")
    bucket, _, rest = text.removeprefix("/").partition("/")
    key = unquote_to_bytes(rest.replace("+", " ").encode("latin-1"))
    if not bucket or not key:
        raise S3Error(
            "InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey"
        )
    _check_address(bucket, key)
    return bucket, key


def virtual_host(host: str, domain: str) -> str:
    """Return the bucket that a host names, "" if none: `bucket.domain`, with or without a port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    suffix = f".{domain}"
    name = name.lower()
    return name[: -len(suffix)] if name.endswith(suffix) else ""
