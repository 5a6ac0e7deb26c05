"""CopyObject and GetObjectAttributes by boto3 and rclone: S3 has the copy and its metadata."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints, client_of
from tests.support.s3.rclone_server import PROGRAM
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

LARGE = random.Random(9).randbytes(9 * 2**20)


def read(client: S3Client, bucket: str, key: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


@pytest.mark.parametrize("value", [b"small", LARGE[: 5 * 2**20], LARGE], ids=["small", "medium", "large"])
def test_a_copy_has_the_value_and_the_metadata(
    endpoints: Endpoints, client: S3Client, s3: S3Client, value: bytes
) -> None:
    bucket = endpoints.bucket
    name = f"copies/{client.meta.endpoint_url[-3:]}/{len(value)}"
    source, copied = f"{name}/a b+ä", f"{name}/copy"
    other = client_of(next(url for url in endpoints.urls if url != client.meta.endpoint_url))
    if value is LARGE:
        upload = client.create_multipart_upload(
            Bucket=bucket, Key=source, Metadata={"a": "1"}, ContentType="text/plain"
        )["UploadId"]
        named = {"Bucket": bucket, "Key": source, "UploadId": upload}
        etag = client.upload_part(**named, PartNumber=1, Body=value)["ETag"]  # type: ignore[arg-type]
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        client.complete_multipart_upload(**named, MultipartUpload=parts)  # type: ignore[arg-type]
    else:
        client.put_object(Bucket=bucket, Key=source, Body=value, Metadata={"a": "1"}, ContentType="text/plain")
    other.put_object(Bucket=bucket, Key=copied, Body=b"before")
    assert read(client, bucket, copied) == b"before"
    result = other.copy_object(Bucket=bucket, Key=copied, CopySource={"Bucket": bucket, "Key": source})
    etag = result["CopyObjectResult"]["ETag"]
    for reader in (client, other, s3):
        assert read(reader, bucket, copied) == value
        head = reader.head_object(Bucket=bucket, Key=copied)
        assert (head["ETag"], head["Metadata"].get("a"), head["ContentType"]) == (etag, "1", "text/plain")
    attributes = client.get_object_attributes(
        Bucket=bucket, Key=copied, ObjectAttributes=["ETag", "ObjectSize", "StorageClass"]
    )
    assert (attributes["ETag"], attributes["ObjectSize"]) == (etag.strip('"'), len(value))
    client.copy_object(
        Bucket=bucket,
        Key=copied,
        CopySource=f"{bucket}/{copied}",
        MetadataDirective="REPLACE",
        Metadata={"b": "2"},
        ContentType="text/html",
    )
    for reader in (client, other, s3):
        head = reader.head_object(Bucket=bucket, Key=copied)
        metadata = {name: text for name, text in head["Metadata"].items() if not name.startswith("milena-")}
        assert (metadata, head["ContentType"], head["ContentLength"]) == ({"b": "2"}, "text/html", len(value))


def test_a_dirty_object_is_copied_and_conditions_count(
    endpoints: Endpoints, client: S3Client, s3: S3Client
) -> None:
    bucket, name = endpoints.bucket, f"copies/dirty/{client.meta.endpoint_url[-3:]}"
    etag = client.put_object(Bucket=bucket, Key=f"{name}/a", Body=b"dirty")["ETag"]
    source = f"{bucket}/{name}/a"
    client.copy_object(Bucket=bucket, Key=f"{name}/b", CopySource=source, CopySourceIfMatch=etag)
    for url in endpoints.urls:
        assert read(client_of(url), bucket, f"{name}/b") == b"dirty"
    wait_until("S3 has the copy", lambda: s3.list_objects_v2(Bucket=bucket, Prefix=name)["KeyCount"] == 2, 20.0)
    assert read(s3, bucket, f"{name}/b") == b"dirty"
    for condition in ({"CopySourceIfMatch": '"0"'}, {"CopySourceIfNoneMatch": etag}, {"IfNoneMatch": "*"}):
        with pytest.raises(ClientError) as failed:
            client.copy_object(Bucket=bucket, Key=f"{name}/b", CopySource=source, **condition)  # type: ignore[arg-type]
        assert code_of(failed) == "PreconditionFailed"
    with pytest.raises(ClientError) as missing:
        client.copy_object(Bucket=bucket, Key=f"{name}/b", CopySource=f"{bucket}/{name}/none")
    assert code_of(missing) == "NoSuchKey"


def test_rclone_moves_an_object_inside_the_bucket(endpoints: Endpoints, s3: S3Client, tmp_path: Path) -> None:
    client, bucket = client_of(endpoints.url), endpoints.bucket
    client.put_object(Bucket=bucket, Key="copies/rclone/a +", Body=b"moved")
    options = f"provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},endpoint='{endpoints.url}'"
    remote = f":s3,{options}:{bucket}/copies/rclone"
    done = subprocess.run(
        [str(PROGRAM), "moveto", f"{remote}/a +", f"{remote}/b"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert read(client, bucket, "copies/rclone/b") == b"moved"
    with pytest.raises(ClientError):
        client.head_object(Bucket=bucket, Key="copies/rclone/a +")
