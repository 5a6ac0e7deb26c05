"""Copies by both clients: of the newest write, of any size, through any node."""

from __future__ import annotations

import random

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, ConditionFailed, InvalidRequest, KeyNotFound, Milena
from tests.e2e.conftest import StartCluster

pytestmark = pytest.mark.e2e

LARGE = random.Random(5).randbytes(9 * 2**20)


async def test_a_copy_has_the_newest_write_of_its_source(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    cluster = start_cluster()
    with Milena(cluster.address) as m:
        for number in range(6):
            m.set(f"source/{number}", b"%d" % number)
            written = m.copy(f"source/{number}", f"target/{number}")
            assert (written.durability, m.get(f"target/{number}")) == ("back", b"%d" % number)
        s3.put_object(Bucket=bucket, Key="large", Body=LARGE, ContentType="text/x-large")
        written = m.copy("large", "copy", timeout=60)
        assert written.durability == "through"
        assert s3.head_object(Bucket=bucket, Key="copy")["ContentType"] == "text/x-large"
        stat = m.stat("copy")
        assert stat is not None
        assert (stat.size, stat.etag) == (len(LARGE), written.etag)
        part = m.get_range("copy", -10)
        assert part is not None
        assert part.value == LARGE[-10:]
        with pytest.raises(ConditionFailed):
            m.copy("source/1", "copy", if_none_match="*")
        with pytest.raises(KeyNotFound, match="missing"):
            m.copy("missing", "other")
        with pytest.raises(InvalidRequest, match="not copied to itself"):
            m.copy("large", "large")
    async with AsyncMilena(cluster.address) as client:
        # What S3 has meanwhile counts too.
        s3.put_object(Bucket=bucket, Key="source/1", Body=b"foreign")
        await client.wait_durable("source/1")
        s3.put_object(Bucket=bucket, Key="source/1", Body=b"foreign")
        await client.copy("source/1", "target/1", durability="through")
    assert s3.get_object(Bucket=bucket, Key="target/1")["Body"].read() == b"foreign"
