"""Which operation a request is, on which bucket and key."""

from __future__ import annotations

import pytest

from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import Operation, operation_of
from tests.common.s3.requests_made import request_of

HOST = "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("method", "url", "operation"),
    [
        ("GET", "/", Operation("ListBuckets")),
        ("GET", "/bucket", Operation("ListObjects", "bucket")),
        ("GET", "/bucket/?list-type=2&x-id=ListObjectsV2", Operation("ListObjectsV2", "bucket")),
        ("HEAD", "/bucket/", Operation("HeadBucket", "bucket")),
        ("PUT", "/bucket", Operation("CreateBucket", "bucket")),
        ("GET", "/bucket?location=", Operation("GetBucketLocation", "bucket")),
        ("POST", "/bucket/?delete=", Operation("DeleteObjects", "bucket")),
        ("GET", "/bucket/a%20b%2Bc+d//%C3%A4%2520", Operation("GetObject", "bucket", "a b+c+d//ä%20".encode())),
        ("GET", "/bucket/key?x-id=GetObject", Operation("GetObject", "bucket", b"key")),
        ("HEAD", "/bucket/dir/", Operation("HeadObject", "bucket", b"dir/")),
        ("PUT", "/bucket/key?x-id=PutObject", Operation("PutObject", "bucket", b"key")),
        ("DELETE", "/bucket/key", Operation("DeleteObject", "bucket", b"key")),
        ("GET", "/bucket/key?acl", Operation("GetAcl", "bucket", b"key")),
    ],
)
def test_operations(method: str, url: str, operation: Operation) -> None:
    assert operation_of(request_of(method, HOST + url), "") == operation


@pytest.mark.parametrize("host", ["bucket.s3.example.com", "bucket.s3.example.com:9000", "BUCKET.s3.Example.com"])
def test_a_bucket_in_the_host(host: str) -> None:
    found = operation_of(request_of("GET", f"http://{host}/a/b"), "s3.example.com")
    assert (found.bucket, found.key) == ("bucket", b"a/b")
    path_style = operation_of(request_of("GET", "http://s3.example.com/bucket/a"), "s3.example.com")
    assert path_style == Operation("GetObject", "bucket", b"a")


@pytest.mark.parametrize(
    ("method", "url", "code"),
    [
        ("GET", "/bucket?tagging", "MethodNotAllowed"),
        ("GET", "/bucket/key?torrent", "MethodNotAllowed"),
        ("PUT", "/bucket/key?tagging", "MethodNotAllowed"),
        ("PATCH", "/bucket/key", "MethodNotAllowed"),
        ("DELETE", "/bucket", "MethodNotAllowed"),
        ("DELETE", "/bucket/key?versionId=1", "MethodNotAllowed"),
        ("GET", "/bucket?policy", "NoSuchBucketPolicy"),
        ("GET", "/bucket?cors", "NoSuchCORSConfiguration"),
        ("GET", "/Bucket_/key", "InvalidBucketName"),
        ("GET", "//key", "InvalidBucketName"),
        ("GET", f"/bucket/{'k' * 1025}", "KeyTooLongError"),
        ("GET", "/bucket/%00", "InvalidURI"),
        ("GET", "/bucket/%FF", "InvalidURI"),
        ("GET", "/bucket?prefix=%FF", "InvalidURI"),
        ("GET", "/bucket?" + "&".join("abc" for _ in range(101)), "InvalidURI"),
    ],
)
def test_what_is_not_served(method: str, url: str, code: str) -> None:
    with pytest.raises(S3Error) as error:
        operation_of(request_of(method, HOST + url), "")
    assert error.value.code == code
