"""Large objects that are written as files, by both clients to real processes: in S3 as a whole, or not at all."""

from __future__ import annotations

import random

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, ConditionFailed, Milena, MilenaError
from tests.e2e.conftest import StartCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

MIB = 2**20


def stored(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def unfinished(s3: S3Client, bucket: str) -> int:
    return len(s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


async def test_a_large_object_is_written_by_every_way(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(1).randbytes(17 * MIB + 3)
    cluster = start_cluster(node_env={"WRITE_MODE": "back"})
    for direct in (True, False):
        with Milena(cluster.address, direct=direct) as m:
            key = f"sync-{direct}"
            m.set(key, b"before")
            with m.open(key, "wb") as file:
                file.write(value)
                assert m.get(key) == b"before"
            assert file.written is not None
            assert file.written.durability == "through"
            assert stored(s3, bucket, key) == value
            with m.open(key) as reader:
                assert reader.stat.etag == file.written.etag
                assert reader.read() == value
            m.set(key, b"after")
            m.wait_durable(key)
            assert stored(s3, bucket, key) == b"after"
        async with AsyncMilena(cluster.address, direct=direct) as am:
            async with await am.open(f"async-{direct}", "xb") as writer:
                await writer.write(value)
            assert stored(s3, bucket, f"async-{direct}") == value
            with pytest.raises(ConditionFailed):
                await am.open(f"async-{direct}", "xb")
    assert unfinished(s3, bucket) == 0


def test_what_is_not_finished_leaves_nothing(start_cluster: StartCluster, s3: S3Client, bucket: str) -> None:
    cluster = start_cluster(node_env={"WRITE_MODE": "back"})
    with Milena(cluster.address) as m:
        file = m.open("k", "wb")
        file.write(bytes(17 * MIB))
        assert unfinished(s3, bucket) == 1
        file.abort()
        wait_until("its parts are removed", lambda: unfinished(s3, bucket) == 0, 20)
        assert m.get("k") is None
        lost = m.open("k", "wb", timeout=1)
        lost.write(bytes(9 * MIB))
        for node in cluster.nodes:
            node.kill()
        with pytest.raises(MilenaError):
            lost.write(bytes(9 * MIB))
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
