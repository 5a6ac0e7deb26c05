"""boto3, unchanged: what it writes is in S3 and is read back, by each node, in listings too."""

from __future__ import annotations

import hashlib
import random
from urllib.request import urlopen

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import Endpoints, client_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_an_object_is_written_read_described_and_deleted(
    endpoints: Endpoints, client: S3Client, s3: S3Client
) -> None:
    bucket, key = endpoints.bucket, f"boto3/a b+c/ä%20/{client.meta.endpoint_url[-3:]}"
    value = random.Random(1).randbytes(1000)
    put = client.put_object(Bucket=bucket, Key=key, Body=value)
    etag = f'"{hashlib.md5(value).hexdigest()}"'
    assert put["ETag"] == etag
    headers = put["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-milena-durability"] == "back"
    for url in endpoints.urls:
        got = client_of(url).get_object(Bucket=bucket, Key=key)
        assert (got["Body"].read(), got["ETag"], got["ContentLength"]) == (value, etag, 1000)
        assert got["ResponseMetadata"]["HTTPHeaders"]["x-milena-outcome"] == "hit"
    part = client.get_object(Bucket=bucket, Key=key, Range="bytes=10-19")
    assert (part["Body"].read(), part["ContentRange"]) == (value[10:20], "bytes 10-19/1000")
    assert client.get_object(Bucket=bucket, Key=key, Range="bytes=-5000")["Body"].read() == value
    head = client.head_object(Bucket=bucket, Key=key)
    assert (head["ContentLength"], head["ETag"]) == (1000, etag)
    wait_until("S3 has the object", lambda: key in keys_in(s3, bucket, "boto3/a b"), 20.0)
    assert key in keys_in(client, bucket, "boto3/a b")
    assert key in [each["Key"] for each in client.list_objects(Bucket=bucket, Prefix="boto3/a b")["Contents"]]
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == value
    client.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(ClientError) as missing:
        client.get_object(Bucket=bucket, Key=key)
    assert code_of(missing) == ("NoSuchKey", 404)
    with pytest.raises(ClientError) as absent:
        client.head_object(Bucket=bucket, Key=key)
    assert code_of(absent) == ("404", 404)


def keys_in(s3: S3Client, bucket: str, prefix: str) -> list[str]:
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]


def test_metadata_conditions_and_presigned_urls(endpoints: Endpoints, client: S3Client, s3: S3Client) -> None:
    bucket, key = endpoints.bucket, f"boto3/kept/{client.meta.endpoint_url[-3:]}"
    first = client.put_object(
        Bucket=bucket, Key=key, Body=b"1", Metadata={"a": "1"}, ContentType="text/plain", IfNoneMatch="*"
    )
    assert first["ResponseMetadata"]["HTTPHeaders"]["x-milena-durability"] == "through"
    head = client.head_object(Bucket=bucket, Key=key)
    assert (head["Metadata"], head["ContentType"]) == ({"a": "1"}, "text/plain")
    assert s3.head_object(Bucket=bucket, Key=key)["Metadata"]["a"] == "1"
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"0"'}):
        with pytest.raises(ClientError) as failed:
            client.put_object(Bucket=bucket, Key=key, Body=b"2", **condition)  # type: ignore[arg-type]
        assert code_of(failed) == ("PreconditionFailed", 412)
    client.put_object(Bucket=bucket, Key=key, Body=b"2", IfMatch=first["ETag"])
    assert client.head_object(Bucket=bucket, Key=key)["Metadata"] == {}
    for version in ("s3", "s3v4"):
        url = client_of(endpoints.urls[0], signature_version=version).generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}
        )
        with urlopen(url) as reply:
            assert reply.read() == b"2"
    keys = [f"{key}/{number}" for number in range(5)]
    for each in keys:
        client.put_object(Bucket=bucket, Key=each, Body=b"")
    deleted = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": each} for each in keys]})
    assert [each["Key"] for each in deleted["Deleted"]] == keys
    assert keys_in(client, bucket, f"{key}/") == []


def test_a_large_object_comes_in_pieces(endpoints: Endpoints, client: S3Client, s3: S3Client) -> None:
    bucket, key = endpoints.bucket, f"boto3/large/{client.meta.endpoint_url[-3:]}"
    value = random.Random(2).randbytes(9 * 2**20)
    s3.put_object(Bucket=bucket, Key=key, Body=value)
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == value
    part = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={8 * 2**20}-")
    assert part["Body"].read() == value[8 * 2**20 :]


def test_a_wrong_secret(endpoints: Endpoints) -> None:
    with pytest.raises(ClientError) as rejected:
        client_of(endpoints.url, secret="another-secret-than-that").list_objects_v2(Bucket=endpoints.bucket)
    assert code_of(rejected) == ("SignatureDoesNotMatch", 403)
