"""Bad requests to a real node: each has S3's own error, and nothing is stored or cached because of it."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from milena_common.s3.body.checksums import digest_of
from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints, client_of

pytestmark = pytest.mark.e2e

VALUE = b"0123456789" * 200_000  # over what a part has at once in memory


class Sent(NamedTuple):
    """A request. body: what is sent; signed: what its signer has; seconds: by which the signer's clock is ahead."""

    method: str = "PUT"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = VALUE
    signed: bytes = VALUE
    secret: str = SECRET_KEY
    seconds: int = 0
    presigned: bool = False


def send(url: str, sent: Sent, length: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Status and S3's code of the reply; (0, "") if the connection ended without one."""
    request = AWSRequest(
        method=sent.method,
        url=url + sent.query,
        headers=dict(sent.headers),
        data=b"" if sent.presigned else sent.signed,
    )
    at = datetime.now().astimezone() + timedelta(seconds=sent.seconds)
    monkeypatch.setattr(
        auth, "get_current_datetime", lambda remove_tzinfo=True: at.astimezone(tz=None), raising=False
    )
    credentials = Credentials(ACCESS_KEY, sent.secret)
    if sent.presigned:
        auth.S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=60).add_auth(request)
    else:
        auth.S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    monkeypatch.undo()
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    connection.putrequest(sent.method, f"{parts.path}?{parts.query}", skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", parts.netloc)
    for name, value in prepared.headers.items():
        if name.lower() not in ("host", "content-length"):
            connection.putheader(name, value if isinstance(value, str) else value.decode())
    connection.putheader("Content-Length", str(length))
    try:
        connection.endheaders(sent.body)
        if len(sent.body) < length:
            connection.sock.shutdown(1)
        reply = connection.getresponse()
        found = re.search(rb"<Code>(\w+)</Code>", reply.read())
        return reply.status, found[1].decode() if found else ""
    except (http.client.HTTPException, OSError):
        return 0, ""
    finally:
        connection.close()


MD5 = (("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),)
WRONG_CRC = (("x-amz-checksum-crc32", digest_of("crc32", b"another")),)

CASES: dict[str, tuple[Callable[[], Sent], int, str]] = {
    "wrong signature": (lambda: Sent(secret="another-secret-of-a-reader"), 403, "SignatureDoesNotMatch"),
    "skewed clock": (lambda: Sent(seconds=-1000), 403, "RequestTimeTooSkewed"),
    "expired presign": (lambda: Sent(seconds=-100, presigned=True), 403, "AccessDenied"),
    "bad checksum": (lambda: Sent(headers=WRONG_CRC), 400, "BadDigest"),
    "bad MD5": (lambda: Sent(headers=MD5), 400, "BadDigest"),
    "another body": (lambda: Sent(signed=b"another"), 400, "XAmzContentSHA256Mismatch"),
    "truncated body": (lambda: Sent(body=VALUE[:-1]), 400, "IncompleteBody"),
    "long key": (lambda: Sent(query="k" * 1025), 400, "KeyTooLongError"),
    "no checksum": (lambda: Sent(headers=(("x-amz-checksum-crc32", "no"),)), 400, "InvalidRequest"),
}


@pytest.mark.parametrize("form", ["put", "part"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("where", ["node", "router"])
def test_nothing_is_stored(
    endpoints: Endpoints, s3: S3Client, name: str, form: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, status, code = CASES[name]
    bucket, key = endpoints.bucket, f"bad/{form}/{where}/{name.replace(' ', '-')}"
    sent, url, upload = make(), f"{endpoints.urls[0 if where == 'node' else 2]}/{bucket}/{key}", ""
    if form == "part":
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        sent = sent._replace(query=f"{sent.query}?partNumber=1&uploadId={upload}")
    assert send(url, sent, len(VALUE), monkeypatch) == (status, code)
    if upload:
        assert "Parts" not in s3.list_parts(Bucket=bucket, Key=key, UploadId=upload)
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    for each in endpoints.urls:
        with pytest.raises(ClientError, match="NoSuchKey"):
            client_of(each).get_object(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"] == 0


def test_what_is_no_range_or_upload(endpoints: Endpoints, client: S3Client, s3: S3Client) -> None:
    bucket, key = endpoints.bucket, "bad/range"
    client.put_object(Bucket=bucket, Key=key, Body=b"0123456789")
    for absurd in ("bytes=10-", "bytes=99999999999999999999-", "bytes=-0"):
        with pytest.raises(ClientError, match="InvalidRange"):
            client.get_object(Bucket=bucket, Key=key, Range=absurd)
    for ignored in ("bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5"):
        assert client.get_object(Bucket=bucket, Key=key, Range=ignored)["Body"].read() == b"0123456789"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = {"Parts": [{"PartNumber": 2, "ETag": '"2"'}, {"PartNumber": 1, "ETag": '"1"'}]}
    with pytest.raises(ClientError, match="InvalidPartOrder"):
        client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=parts)  # type: ignore[arg-type]
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"0123456789"
    s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
