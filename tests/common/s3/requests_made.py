"""Requests as an S3 endpoint gets them, signed by botocore."""

from __future__ import annotations

from urllib.parse import urlsplit

from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from milena_common.s3.signing.identities import AccessKey
from milena_common.s3.wire.request import S3Request

KEY = AccessKey("reader", "a-secret-of-twenty-five..", "reader")
KEYS = {KEY.name: KEY}
SIGNERS = {"v4": S3SigV4Auth, "v4-query": S3SigV4QueryAuth, "v2-query": HmacV1QueryAuth}


def request_of(method: str, url: str, headers: dict[str, str] | None = None, arrived_at: float = 0.0) -> S3Request:
    """The request for a URL, as it comes from the wire."""
    parts = urlsplit(url)
    found = {name.lower(): value for name, value in (headers or {}).items()}
    return S3Request(
        method, parts.path, parts.query, {"host": parts.netloc, **found}, arrived_at, "127.0.0.1:1", "ID"
    )


def signed(
    form: str, method: str, url: str, arrived_at: float, headers: dict[str, str] | None = None, body: bytes = b""
) -> S3Request:
    """The request, signed in one of the forms of SIGNERS by botocore, now."""
    request = AWSRequest(method=method, url=url, headers=dict(headers or {}), data=body)
    credentials = Credentials(KEY.name, KEY.secret)
    if form == "v4":
        S3SigV4Auth(credentials, "s3", "eu-central-1").add_auth(request)
    elif form == "v4-query":
        S3SigV4QueryAuth(credentials, "s3", "eu-central-1", expires=60).add_auth(request)
    else:
        if request.url.startswith("http://bucket."):
            request.auth_path = f"/bucket{urlsplit(url).path}"  # as botocore's client does for such a host
        HmacV1QueryAuth(credentials, expires=60).add_auth(request)
    prepared = request.prepare()
    found = {name: value if isinstance(value, str) else value.decode() for name, value in prepared.headers.items()}
    return request_of(method, prepared.url, found, arrived_at)
