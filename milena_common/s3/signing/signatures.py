"""Pure. Verifies the signatures of requests: SigV4 in headers and in presigned URLs, SigV2 in presigned URLs.

The path is signed as it is sent. Parameters are decoded and encoded anew, since clients encode them differently.
The region of a signature may be any: clients are configured with that of the bucket, or with one of their own.
Signatures are compared in constant time.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from calendar import timegm
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import quote

from milena_common.s3.signing.identities import AccessKey
from milena_common.s3.wire.conditions import seconds_of
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request, virtual_host

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MAX_SKEW_SECONDS: Final = 900.0
MAX_EXPIRES_SECONDS: Final = 604_800
MAX_SIGNING_KEYS: Final = 1024
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING: Final = "STREAMING-"

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^,\s]+)\s*,\s*SignedHeaders=([^,\s]+)\s*,\s*Signature=([0-9a-f]{64})\s*"
)
_TIMESTAMP: Final = re.compile(r"\d{8}T\d{6}Z")
_PAYLOAD: Final = re.compile(r"[0-9a-f]{64}|UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]{1,64}")
_SPACES: Final = re.compile(" {2,}")
_EMPTY: Final = sha256(b"").hexdigest()

# Parameters that are part of what SigV2 signs.
_V2_PARAMETERS: Final = frozenset(
    (
        *("acl", "cors", "delete", "lifecycle", "location", "logging", "notification", "partNumber", "policy"),
        *("requestPayment", "restore", "tagging", "torrent", "uploadId", "uploads", "versionId", "versioning"),
        *("versions", "website", "response-cache-control", "response-content-disposition"),
        *("response-content-encoding", "response-content-language", "response-content-type", "response-expires"),
    )
)


class ChunkSignatures(NamedTuple):
    """What the signatures of the chunks of a body continue.

    key: the signing key
    timestamp: of the request, as signed
    scope: date/region/s3/aws4_request
    seed: the request's signature
    """

    key: bytes
    timestamp: str
    scope: str
    seed: str

    def of_chunk(self, previous: str, digest: str) -> str:
        """Return the signature of a chunk whose bytes have this SHA-256, after the one before."""
        return self._sign("AWS4-HMAC-SHA256-PAYLOAD", previous, _EMPTY, digest)

    def of_trailer(self, previous: str, digest: str) -> str:
        """Return the signature of the trailers."""
        return self._sign("AWS4-HMAC-SHA256-TRAILER", previous, digest)

    def _sign(self, kind: str, *parts: str) -> str:
        text = "\n".join((kind, self.timestamp, self.scope, *parts))
        return hmac.new(self.key, text.encode(), sha256).hexdigest()


class Signed(NamedTuple):
    """A verified request.

    key: the access key that signed it
    payload: its body's SHA-256 in hexadecimal, UNSIGNED, or a form of streaming; "" if none is named
    chunks: how its chunks are signed, where they are
    """

    key: AccessKey
    payload: str
    chunks: ChunkSignatures | None = None


class Verifier:
    """Verifies requests with the access keys that `keys` returns. `domain`: as in `request.operation_of`."""

    def __init__(self, keys: Callable[[], Mapping[str, AccessKey]], domain: str = "") -> None:
        self._keys = keys
        self._domain = domain
        # By secret, date and region.
        self._signing_keys: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    def verify(self, request: S3Request) -> Signed | None:
        """Return by whom the request is signed; None if it is not. Raises S3Error."""
        header = request.headers.get("authorization")
        if header is not None:
            return self._by_header(request, header)
        if not request.parameters:
            return None
        names = {name for name, _ in request.parameters}
        if "X-Amz-Signature" in names or "X-Amz-Algorithm" in names:
            return self._presigned(request)
        if "AWSAccessKeyId" in names and "Signature" in names:
            return self._presigned_v2(request)
        return None

    def _by_header(self, request: S3Request, header: str) -> Signed:
        match = _AUTHORIZATION.fullmatch(header)
        if match is None:
            if header.startswith("AWS "):
                raise S3Error("InvalidRequest", f"Signatures of version 2 in headers: please use {ALGORITHM}.")
            raise S3Error("AuthorizationHeaderMalformed", "The authorization header is malformed")
        credential, names, signature = match.groups()
        timestamp = request.header("x-amz-date") or _timestamp_of(request.header("date"))
        signed_at = _seconds(timestamp, "AuthorizationHeaderMalformed")
        if abs(request.arrived_at - signed_at) > MAX_SKEW_SECONDS:
            raise S3Error(
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's time is too large.",
            )
        payload = request.header("x-amz-content-sha256")
        if not _PAYLOAD.fullmatch(payload):
            text = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-… or a SHA-256 in hexadecimal"
            raise S3Error("InvalidRequest" if not payload else "InvalidArgument", text)
        key, scope, signing_key = self._signing_key(credential, timestamp, "AuthorizationHeaderMalformed")
        headers = names.split(";")
        unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in headers]
        if unsigned:
            text = f"There were headers present in the request which were not signed: {', '.join(unsigned)[:200]}"
            raise S3Error("AccessDenied", text)
        expected = _signature(request, request.parameters, headers, payload, timestamp, scope, signing_key)
        _compare(expected, signature)
        chunks = None
        if payload.startswith("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"):
            chunks = ChunkSignatures(signing_key, timestamp, scope, signature)
        return Signed(key, payload, chunks)

    def _presigned(self, request: S3Request) -> Signed:
        code = "AuthorizationQueryParametersError"
        if request.parameter("X-Amz-Algorithm") != ALGORITHM:
            raise S3Error(code, f"X-Amz-Algorithm only supports {ALGORITHM}")
        timestamp, expires = request.parameter("X-Amz-Date"), request.parameter("X-Amz-Expires")
        signed_at = _seconds(timestamp, code)
        if not (expires.isascii() and expires.isdecimal()) or not 0 < int(expires[:9]) <= MAX_EXPIRES_SECONDS:
            raise S3Error(code, f"X-Amz-Expires must be a number from 1 to {MAX_EXPIRES_SECONDS}")
        if request.arrived_at > signed_at + int(expires):
            raise S3Error("AccessDenied", "Request has expired")
        if request.arrived_at < signed_at - MAX_SKEW_SECONDS:
            raise S3Error("AccessDenied", "Request is not yet valid")
        key, scope, signing_key = self._signing_key(request.parameter("X-Amz-Credential"), timestamp, code)
        headers = request.parameter("X-Amz-SignedHeaders").split(";")
        parameters = [pair for pair in request.parameters if pair[0] != "X-Amz-Signature"]
        # A client may sign the body's digest, as a header or parameter; otherwise the body is not signed.
        payload = request.header("x-amz-content-sha256") if "x-amz-content-sha256" in headers else ""
        payload = payload or request.parameter("X-Amz-Content-Sha256") or UNSIGNED
        expected = _signature(request, parameters, headers, payload, timestamp, scope, signing_key)
        _compare(expected, request.parameter("X-Amz-Signature"))
        return Signed(key, payload)

    def _presigned_v2(self, request: S3Request) -> Signed:
        expires = request.parameter("Expires")
        if not (expires.isascii() and expires.isdecimal()):
            raise S3Error("AccessDenied", "Invalid date (should be seconds since epoch)")
        if request.arrived_at > int(expires[:15]):
            raise S3Error("AccessDenied", "Request has expired")
        key = self._key(request.parameter("AWSAccessKeyId"))
        _compare(_signature_v2(request, key.secret, expires, self._domain), request.parameter("Signature"))
        return Signed(key, "")

    def _key(self, name: str) -> AccessKey:
        key = self._keys().get(name)
        if key is None:
            raise S3Error("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        return key

    def _signing_key(self, credential: str, timestamp: str, code: str) -> tuple[AccessKey, str, bytes]:
        """Return the access key of a credential, its scope, and the key that signs for it. Raises S3Error."""
        name, slash, scope = credential.partition("/")
        parts = scope.split("/")
        if not slash or len(parts) != 4 or parts[2:] != ["s3", "aws4_request"]:
            raise S3Error(code, "The credential is malformed; expecting <key>/YYYYMMDD/REGION/s3/aws4_request")
        date, region = parts[:2]
        if date != timestamp[:8]:
            raise S3Error(code, "The date of the credential is not that of the request")
        key = self._key(name)
        known = self._signing_keys.get((key.secret, date, region))
        if known is None:
            known = f"AWS4{key.secret}".encode()
            for part in parts:
                known = hmac.digest(known, part.encode(), "sha256")
            self._signing_keys[key.secret, date, region] = known
            if len(self._signing_keys) > MAX_SIGNING_KEYS:
                self._signing_keys.popitem(last=False)
        return key, scope, known


def _compare(expected: str, signature: str) -> None:
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise S3Error(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and "
            "signing method.",
        )


def _seconds(timestamp: str, code: str) -> float:
    """Return the time of a timestamp like 20261130T090000Z, seconds since 1970. Raises S3Error."""
    try:
        if _TIMESTAMP.fullmatch(timestamp):
            year, month, day = int(timestamp[:4]), int(timestamp[4:6]), int(timestamp[6:8])
            hour, minute, second = int(timestamp[9:11]), int(timestamp[11:13]), int(timestamp[13:15])
            if 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61:
                return float(timegm((year, month, day, hour, minute, second)))
    except ValueError:
        pass
    raise S3Error("AccessDenied" if not timestamp else code, "A valid date in ISO 8601 is required: x-amz-date")


def _timestamp_of(date: str) -> str:
    """Return the timestamp of a Date header, "" if it has another form."""
    seconds = seconds_of(date)
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")


def _signature(
    request: S3Request,
    parameters: list[tuple[str, str]],
    names: list[str],
    payload: str,
    timestamp: str,
    scope: str,
    signing_key: bytes,
) -> str:
    if "host" not in names:
        raise S3Error("AccessDenied", "The host header must be signed")
    headers = request.headers
    lines = []
    for name in names:
        value = headers.get(name, "").strip()
        lines.append(f"{name}:{_SPACES.sub(' ', value) if '  ' in value else value}\n")
    query = ""
    if parameters:
        # As pairs: `a-b` is after `a`, although "a-b=" is before "a=".
        encoded = sorted([(_encoded(name), _encoded(value)) for name, value in parameters])
        query = "&".join([f"{name}={value}" for name, value in encoded])
    canonical = f"{request.method}\n{request.path}\n{query}\n{''.join(lines)}\n{';'.join(names)}\n{payload}"
    # Each character of path and headers is one byte as it was sent.
    digest = sha256(canonical.encode("latin-1")).hexdigest()
    text = f"{ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
    return hmac.digest(signing_key, text.encode("latin-1"), "sha256").hex()


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _signature_v2(request: S3Request, secret: str, expires: str, domain: str) -> str:
    headers = request.headers
    amz = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers) if name.startswith("x-amz-"))
    bucket = virtual_host(headers.get("host", ""), domain) if domain else ""
    resource = f"/{bucket}{request.path}" if bucket else request.path
    signed = sorted(pair for pair in request.parameters if pair[0] in _V2_PARAMETERS)
    if signed:
        resource += "?" + "&".join(f"{name}={value}" if value else name for name, value in signed)
    text = "\n".join(
        (request.method, headers.get("content-md5", ""), headers.get("content-type", ""), expires, amz + resource)
    )
    return b64encode(hmac.digest(secret.encode(), text.encode("latin-1", errors="replace"), "sha1")).decode()
