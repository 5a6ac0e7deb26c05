"""Multipart uploads by unchanged programs: each part by any node, and S3 has what the endpoint returns."""

from __future__ import annotations

import random
import subprocess
from io import BytesIO
from pathlib import Path

import obstore
import pytest
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client
from obstore.store import S3Store

from tests.e2e.s3_clients.conftest import ACCESS_KEY, SECRET_KEY, Endpoints, client_of
from tests.support.s3.rclone_server import PROGRAM

pytestmark = pytest.mark.e2e

MIB = 2**20
VALUE = random.Random(20).randbytes(20 * MIB)


def read(client: S3Client, bucket: str, key: str) -> bytes:
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_boto3_uploads_a_file_over_what_is_cached_and_dirty(
    endpoints: Endpoints, client: S3Client, s3: S3Client, tmp_path: Path
) -> None:
    bucket, key = endpoints.bucket, f"multipart/boto3/{client.meta.endpoint_url[-3:]}"
    (tmp_path / "file").write_bytes(VALUE)
    for url in endpoints.urls:
        client_of(url).put_object(Bucket=bucket, Key=key, Body=b"dirty")
        assert read(client_of(url), bucket, key) == b"dirty"
    client.upload_file(
        str(tmp_path / "file"), bucket, key, ExtraArgs={"Metadata": {"a": "1"}, "ContentType": "text/plain"}
    )
    head = client.head_object(Bucket=bucket, Key=key)
    stored = s3.get_object(Bucket=bucket, Key=key)
    assert stored["Body"].read() == VALUE
    assert (head["ETag"], head["Metadata"], head["ContentType"]) == (stored["ETag"], {"a": "1"}, "text/plain")
    for url in endpoints.urls:
        assert read(client_of(url), bucket, key) == VALUE
    back = BytesIO()
    client.download_fileobj(bucket, key, back)
    assert back.getvalue() == VALUE
    client.put_object(Bucket=bucket, Key=key, Body=b"later")
    for url in endpoints.urls:
        assert read(client_of(url), bucket, key) == b"later"


def test_parts_through_different_nodes_are_listed_copied_and_completed(endpoints: Endpoints, s3: S3Client) -> None:
    bucket, key = endpoints.bucket, "multipart/a b+c/ä"
    first, second = (client_of(url) for url in endpoints.urls[1:])  # a node and the router
    first.put_object(Bucket=bucket, Key="multipart/source +", Body=VALUE[: 6 * MIB])
    upload = first.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
    named = {"Bucket": bucket, "Key": key, "UploadId": upload}
    last = first.upload_part(**named, PartNumber=9, Body=b"end", ChecksumAlgorithm="SHA256")  # type: ignore[arg-type]
    part = second.upload_part(**named, PartNumber=2, Body=VALUE[: 5 * MIB])  # type: ignore[arg-type]
    copied = second.upload_part_copy(
        **named,  # type: ignore[arg-type]
        PartNumber=4,
        CopySource={"Bucket": bucket, "Key": "multipart/source +"},
        CopySourceRange=f"bytes=0-{5 * MIB - 1}",
    )["CopyPartResult"]
    assert copied["ETag"] == part["ETag"]
    assert "ChecksumSHA256" in last
    listed = first.list_parts(**named)["Parts"]  # type: ignore[arg-type]
    assert [(each["PartNumber"], each["ETag"], each["Size"]) for each in listed] == [
        (2, part["ETag"], 5 * MIB),
        (4, copied["ETag"], 5 * MIB),
        (9, last["ETag"], 3),
    ]
    uploads = second.list_multipart_uploads(Bucket=bucket, Prefix="multipart/a b")["Uploads"]
    assert [(each["Key"], each["UploadId"]) for each in uploads] == [(key, upload)]
    with pytest.raises(ClientError) as missing:
        first.head_object(Bucket=bucket, Key=key)
    assert code_of(missing) == "404"
    parts = [{"PartNumber": each["PartNumber"], "ETag": each["ETag"]} for each in listed]
    with pytest.raises(ClientError) as disordered:
        second.complete_multipart_upload(**named, MultipartUpload={"Parts": parts[::-1]})  # type: ignore[arg-type, typeddict-item]
    assert code_of(disordered) == "InvalidPartOrder"
    wrong = [{**parts[0], "ETag": '"0"'}, *parts[1:]]
    with pytest.raises(ClientError) as invalid:
        second.complete_multipart_upload(**named, MultipartUpload={"Parts": wrong})  # type: ignore[arg-type, typeddict-item]
    assert code_of(invalid) == "InvalidPart"
    done = second.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})  # type: ignore[arg-type, typeddict-item]
    again = second.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})  # type: ignore[arg-type, typeddict-item]
    assert again["ETag"] == done["ETag"] == s3.head_object(Bucket=bucket, Key=key)["ETag"]
    expected = VALUE[: 5 * MIB] * 2 + b"end"
    assert read(first, bucket, key) == read(second, bucket, key) == read(s3, bucket, key) == expected


def test_conditions_and_what_does_not_complete(endpoints: Endpoints, client: S3Client, s3: S3Client) -> None:
    bucket, key = endpoints.bucket, f"multipart/conditions/{client.meta.endpoint_url[-3:]}"

    def begin(body: bytes) -> tuple[dict[str, str], dict[str, list[dict[str, object]]]]:
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        named = {"Bucket": bucket, "Key": key, "UploadId": upload}
        etag = client.upload_part(**named, PartNumber=1, Body=body)["ETag"]  # type: ignore[arg-type]
        return named, {"Parts": [{"PartNumber": 1, "ETag": etag}]}

    named, parts = begin(b"1")
    client.put_object(Bucket=bucket, Key=key, Body=b"dirty")
    with pytest.raises(ClientError) as exists:
        client.complete_multipart_upload(**named, MultipartUpload=parts, IfNoneMatch="*")  # type: ignore[arg-type]
    assert code_of(exists) == "PreconditionFailed"
    assert read(client, bucket, key) == read(s3, bucket, key) == b"dirty"
    client.delete_object(Bucket=bucket, Key=key)
    client.complete_multipart_upload(**named, MultipartUpload=parts, IfNoneMatch="*")  # type: ignore[arg-type]
    assert read(client, bucket, key) == b"1"
    named, parts = begin(b"2")
    client.abort_multipart_upload(**named)  # type: ignore[arg-type]
    with pytest.raises(ClientError) as aborted:
        client.list_parts(**named)  # type: ignore[arg-type]
    assert code_of(aborted) == "NoSuchUpload"
    assert read(client, bucket, key) == read(s3, bucket, key) == b"1"


def test_obstore_and_rclone(endpoints: Endpoints, s3: S3Client, tmp_path: Path) -> None:
    bucket = endpoints.bucket
    store = S3Store(
        bucket,
        endpoint=endpoints.url,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    obstore.put(store, "multipart/obstore", VALUE, use_multipart=True, chunk_size=5 * MIB)
    assert obstore.get(store, "multipart/obstore").bytes().to_bytes() == VALUE
    assert read(s3, bucket, "multipart/obstore") == VALUE
    (tmp_path / "file").write_bytes(VALUE)
    remote = (
        f":s3,provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},"
        f"endpoint='{endpoints.url}':{bucket}/multipart/rclone"
    )
    for arguments in (
        ["copyto", str(tmp_path / "file"), remote, "--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"],
        ["copyto", remote, str(tmp_path / "back")],
    ):
        done = subprocess.run(
            [str(PROGRAM), *arguments], capture_output=True, text=True, timeout=60, env={"HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == read(s3, bucket, "multipart/rclone") == VALUE
    assert s3.head_object(Bucket=bucket, Key="multipart/rclone")["ETag"].endswith('-4"')
