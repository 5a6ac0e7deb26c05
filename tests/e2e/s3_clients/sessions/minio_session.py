"""Shell. minio-py: files `small` and `large` of this folder, under a name and as `large`; `gone` is deleted."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen

from minio import Minio  # type: ignore[import-not-found]
from minio.commonconfig import CopySource  # type: ignore[import-not-found]
from minio.deleteobjects import DeleteObject  # type: ignore[import-not-found]

url, bucket, prefix, name = sys.argv[1:]
small, large = Path("small").read_bytes(), Path("large").read_bytes()
client = Minio(
    url.removeprefix("http://"), os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], secure=False
)
assert client.bucket_exists(bucket)
client.fput_object(bucket, f"{prefix}{name}", "small", metadata={"kept": "here"})
assert client.stat_object(bucket, f"{prefix}{name}").metadata["x-amz-meta-kept"] == "here"
client.fput_object(bucket, f"{prefix}large", "large", part_size=5 * 2**20)
client.copy_object(bucket, f"{prefix}gone", CopySource(bucket, f"{prefix}{name}"))
with client.get_object(bucket, f"{prefix}gone") as reply:
    assert reply.read() == small
client.fget_object(bucket, f"{prefix}large", "back")
assert Path("back").read_bytes() == large
with client.get_object(bucket, f"{prefix}large", offset=100, length=100) as reply:
    assert reply.read() == large[100:200]
for version_1 in (False, True):
    found = client.list_objects(bucket, prefix, recursive=True, use_api_v1=version_1)
    assert [each.object_name for each in found] == [f"{prefix}{name}", f"{prefix}gone", f"{prefix}large"]
with urlopen(client.presigned_get_object(bucket, f"{prefix}{name}", timedelta(minutes=5))) as reply:
    assert reply.read() == small
assert [*client.remove_objects(bucket, [DeleteObject(f"{prefix}gone")])] == []
