"""The benchmark's S3 stub behaves like S3 towards the two clients that are measured against it."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from hashlib import md5
from typing import TYPE_CHECKING

import obstore
import pytest
from botocore.exceptions import ClientError
from obstore.store import S3Store

from bench.peers.s3_objects import IN_MEMORY_BYTES, Objects, synthetic_value
from bench.peers.s3_stub import PIECE_BYTES
from bench.peers.stub_process import StubProcess
from tests.support.s3.moto_server import AWS_VARIABLES, REGION, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEYS = ["/lead", "trail/", "a//b", "50%", "a b+c", "ключ", "🦊/🌊", "a%2Fb", "q?x=1&y#z", "~'()*!", "<&>"]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProcess]:
    with StubProcess(tmp_path_factory.mktemp("stub")) as stub:
        yield stub


@pytest.fixture(scope="module")
def boto(stub: StubProcess) -> S3Client:
    return s3_client(stub.endpoint_url)


def obstore_client(stub: StubProcess, bucket: str) -> S3Store:
    return S3Store(
        bucket,
        endpoint=stub.endpoint_url,
        region=REGION,
        access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )


def test_of_values_above_what_is_to_be_kept_the_etag_stays() -> None:
    stub, whole = Objects(kept=4), Objects()
    for name, value in (("/b/small", b"1234"), ("/b/large", b"12345")):
        put, kept = stub.respond("PUT", name, {}, value), stub.respond("GET", name, {}, b"")
        assert put == whole.respond("PUT", name, {}, value), "the ETag is that of the value"
        assert put.fields.strip() in kept.fields
        assert kept.body == (value if len(value) <= 4 else b"")


def test_a_large_synthetic_object_is_made_as_it_is_read() -> None:
    size = IN_MEMORY_BYTES + 5
    stub = Objects(synthetic=size)
    expected = synthetic_value("/b/large", size)
    for first, last in ((0, 20), (3, 1_000_002), (size - 9, size - 1)):
        got = stub.respond("GET", "/b/large", {"range": f"bytes={first}-{last}"}, b"")
        assert bytes(got.body) == expected[first : last + 1]
        assert f"bytes {first}-{last}/{size}" in got.fields
    assert bytes(stub.respond("GET", "/b/large", {}, b"").body) == expected
    assert stub.respond("HEAD", "/b/large", {}, b"").content_length == size
    assert stub.respond("GET", "/b/.milena-check/none", {}, b"").status == 404, "nodes look for what is not there"


def test_etags_may_be_the_md5_of_the_value() -> None:
    stub = Objects(synthetic=3, md5_etags=True)
    expected = f'ETag: "{md5(b"value").hexdigest()}"'
    assert stub.respond("PUT", "/b/k", {}, b"value").fields.strip() == expected
    assert expected in stub.respond("GET", "/b/k", {}, b"").fields
    other = md5(synthetic_value("/b/other", 3)).hexdigest()
    assert f'ETag: "{other}"' in stub.respond("GET", "/b/other", {}, b"").fields


@pytest.mark.parametrize("key", KEYS)
def test_boto3_writes_reads_lists_and_deletes_any_key(boto: S3Client, key: str) -> None:
    etag = boto.put_object(Bucket="keys", Key=key, Body=b"value")["ETag"]
    got = boto.get_object(Bucket="keys", Key=key)
    assert (got["Body"].read(), got["ETag"]) == (b"value", etag)
    assert boto.head_object(Bucket="keys", Key=key)["ContentLength"] == 5
    assert [o.get("Key") for o in boto.list_objects_v2(Bucket="keys")["Contents"]] == [key]
    boto.delete_object(Bucket="keys", Key=key)
    with pytest.raises(boto.exceptions.NoSuchKey):
        boto.get_object(Bucket="keys", Key=key)


def test_conditions_are_honoured(boto: S3Client) -> None:
    etag = boto.put_object(Bucket="b", Key="conditional", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError, match="304"):
        boto.get_object(Bucket="b", Key="conditional", IfNoneMatch=etag)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        boto.put_object(Bucket="b", Key="conditional", Body=b"2", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        boto.put_object(Bucket="b", Key="conditional", Body=b"2", IfMatch='"other"')
    second = boto.put_object(Bucket="b", Key="conditional", Body=b"2", IfMatch=etag)["ETag"]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        boto.delete_object(Bucket="b", Key="conditional", IfMatch=etag)
    boto.delete_object(Bucket="b", Key="conditional", IfMatch=second)
    boto.delete_object(Bucket="b", Key="conditional", IfMatch=second)
    with pytest.raises(boto.exceptions.NoSuchKey):
        boto.put_object(Bucket="b", Key="conditional", Body=b"3", IfMatch=second)


def test_metadata_belongs_to_the_value_that_it_came_with(boto: S3Client) -> None:
    boto.put_object(Bucket="b", Key="meta", Body=b"1", Metadata={"Milena-Version": "7-12"})
    assert boto.head_object(Bucket="b", Key="meta")["Metadata"] == {"milena-version": "7-12"}
    assert boto.get_object(Bucket="b", Key="meta")["Metadata"] == {"milena-version": "7-12"}
    boto.put_object(Bucket="b", Key="meta", Body=b"2")
    assert boto.head_object(Bucket="b", Key="meta")["Metadata"] == {}


def test_chunked_uploads_are_stored_without_their_chunks(boto: S3Client) -> None:
    boto.put_object(Bucket="b", Key="chunked", Body=io.BytesIO(b"x" * 100_000), ChecksumAlgorithm="CRC32")
    assert boto.get_object(Bucket="b", Key="chunked")["Body"].read() == b"x" * 100_000


@pytest.mark.parametrize(
    ("expected", "part"), [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-99", b"89")]
)
def test_ranges(boto: S3Client, expected: str, part: bytes) -> None:
    boto.put_object(Bucket="b", Key="range", Body=b"0123456789")
    assert boto.get_object(Bucket="b", Key="range", Range=expected)["Body"].read() == part


def test_long_listings_come_in_pages(boto: S3Client) -> None:
    keys = [f"{n:02} a&b" for n in range(7)]
    for key in keys:
        boto.put_object(Bucket="pages", Key=key, Body=b"")
    pages = boto.get_paginator("list_objects_v2").paginate(Bucket="pages", PaginationConfig={"PageSize": 3})
    assert [o.get("Key") for page in pages for o in page["Contents"]] == keys


def test_obstore_writes_reads_and_lists(stub: StubProcess) -> None:
    store = obstore_client(stub, "obstore")
    value = b"value" * 100_000
    obstore.put(store, "a/b", value, use_multipart=False)
    assert bytes(obstore.get(store, "a/b").bytes()) == value
    assert obstore.head(store, "a/b")["size"] == len(value)
    assert [o["path"] for page in obstore.list(store) for o in page] == ["a/b"]
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "a/absent")


def exchange(stub: StubProcess, raw: bytes) -> bytes:
    """Send bytes piece by piece and return what comes back until the reply to ``GET /_stub/end``."""
    raw += b"GET /_stub/end HTTP/1.1\r\n\r\n"
    with socket.create_connection(
        ("127.0.0.1", int(stub.endpoint_url.rpartition(":")[2])), timeout=5
    ) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(raw), 7):
            connection.sendall(raw[at : at + 7])
        got = b""
        while b" 404 " not in got:
            got += connection.recv(65536)
        return got


def test_pipelined_and_chunked_requests(stub: StubProcess) -> None:
    exchange(
        stub,
        b"PUT /raw/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        b"PUT /raw/l HTTP/1.1\r\nContent-Encoding: aws-chunked\r\nContent-Length: 41\r\n\r\n"
        b"1;chunk-signature=0a\r\nl\r\n0\r\nx-amz-a:b\r\n\r\n",
    )
    assert exchange(stub, b"HEAD /raw/none HTTP/1.1\r\n\r\n").count(b"Error") == 0
    got = exchange(stub, b"GET /raw/k HTTP/1.1\r\n\r\nHEAD /raw/k HTTP/1.1\r\n\r\nGET /raw/l HTTP/1.1\r\n\r\n")
    assert [reply.rpartition(b"\r\n\r\n")[2] for reply in got.split(b"HTTP/1.1 200 OK")[1:3]] == [b"abcde", b""]
    assert b"\r\n\r\nlHTTP/1.1 404" in got


def test_requests_are_counted_and_latency_is_kept(stub: StubProcess, boto: S3Client) -> None:
    before = stub.requests()
    stub.set_latency(0.05)
    started = time.monotonic()
    boto.put_object(Bucket="b", Key="slow", Body=b"x")
    assert time.monotonic() - started >= 0.05
    stub.set_latency(0)
    boto.list_objects_v2(Bucket="b")
    after = stub.requests()
    assert after["PUT"] - before.get("PUT", 0) == after["LIST"] - before.get("LIST", 0) == 1


def test_large_bodies_are_sent_as_fast_as_a_connection_may(stub: StubProcess, boto: S3Client) -> None:
    value = bytes(range(256)) * 4096
    boto.put_object(Bucket="b", Key="large", Body=value)
    before = stub.sent_bytes()
    stub.set_rate(10)
    started = time.monotonic()
    assert boto.get_object(Bucket="b", Key="large")["Body"].read() == value
    assert time.monotonic() - started >= (len(value) - PIECE_BYTES) / 10e6  # but for the last piece
    stub.set_rate(0)
    assert stub.sent_bytes() - before == len(value)


def test_synthetic_objects_exist_until_they_are_deleted(tmp_path_factory: pytest.TempPathFactory) -> None:
    with StubProcess(tmp_path_factory.mktemp("synthetic"), synthetic=1024) as stub:
        boto = s3_client(stub.endpoint_url)
        first, again = (boto.get_object(Bucket="b", Key="any/key") for _ in range(2))
        assert first["Body"].read() == again["Body"].read() == synthetic_value("/b/any/key", 1024)
        assert first["ETag"] == again["ETag"]
        boto.delete_object(Bucket="b", Key="any/key")
        with pytest.raises(boto.exceptions.NoSuchKey):
            boto.get_object(Bucket="b", Key="any/key")
