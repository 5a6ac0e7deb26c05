"""Shell. smart-open: files `small` and `large` of this folder, under a name and as `large`; `gone` is deleted."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from smart_open import open as smart  # type: ignore[import-not-found]

url, bucket, prefix, name = sys.argv[1:]
small, large = Path("small").read_bytes(), Path("large").read_bytes()
client = boto3.client("s3", endpoint_url=url)
parameters = {"client": client}
root = f"s3://{bucket}/{prefix}"
for target, value, options in (
    (name, small, {}),
    ("large", large, {"min_part_size": 5 * 2**20}),
    ("gone", b"1", {"multipart_upload": False}),
):
    with smart(f"{root}{target}", "wb", transport_params={**parameters, **options}) as file:
        file.write(value)
with smart(f"{root}large", "rb", transport_params=parameters) as file:
    assert file.read() == large
    file.seek(100)
    assert file.read(100) == large[100:200]
client.delete_object(Bucket=bucket, Key=f"{prefix}gone")
listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)
assert [each["Key"] for each in listed["Contents"]] == [f"{prefix}{name}", f"{prefix}large"]
