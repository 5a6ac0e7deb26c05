"""Parts of large objects by every port of real processes: blocks on all nodes, and never of two versions."""

from __future__ import annotations

import os
import random

import grpc
import pytest
import redis
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, ConditionFailed, Milena, RangeNotSatisfiable
from milena_common.api.byte_range import MAX_PART_BYTES
from milena_common.api.errors import FailedPrecondition
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.network.addresses import parse_address
from tests.e2e.conftest import StartCluster
from tests.e2e.large_objects.ranges import BLOCK, KIB, NEVER_FRESH, SIZE, SMALL_BLOCKS, read_ranges
from tests.e2e.raw import router_stub
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_a_large_object_is_in_the_memory_of_all_nodes_by_every_port(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(1).randbytes(SIZE)
    s3.put_object(Bucket=bucket, Key="large", Body=value)
    cluster = start_cluster(node_env=SMALL_BLOCKS)
    with Milena(cluster.address) as m:
        with pytest.raises(FailedPrecondition, match="MAX_VALUE_BYTES"):
            m.get("large")
        parts = [m.get_range("large", offset, 100 * KIB) for offset in range(0, SIZE, 100 * KIB)]
        assert b"".join(part.value for part in parts if part is not None) == value
        fetched = fetched_blocks(cluster)
        assert fetched == -(-SIZE // BLOCK)
        assert all(node.metrics().value("milena_blocks") > 0 for node in cluster.nodes)
        again = m.get_range("large", 5 * KIB, 100 * KIB)
        assert again is not None
        assert (again.value, again.outcome, again.size) == (value[5 * KIB : 105 * KIB], "hit", SIZE)
        with pytest.raises(RangeNotSatisfiable, match=f"{SIZE} bytes"):
            m.get_range("large", SIZE, 1)
    with router_stub(cluster.address) as router:
        response = router.Get(pb.GetRequest(key=b"large", offset=-100, length=50))
        assert (response.value, response.outcome, response.size) == (value[-100:-50], "hit", SIZE)
    at = parse_address(cluster.nodes[0].resp)
    with redis.RedisCluster(host=at.host, port=at.port) as client:
        assert client.getrange("large", 1000, 1000 + 50 * KIB) == value[1000 : 1001 + 50 * KIB]
        assert client.strlen("large") == SIZE
    assert fetched_blocks(cluster) == fetched, "every port has the blocks of the same nodes"


def test_a_read_never_mixes_versions_while_another_writer_replaces_the_object(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    cluster = start_cluster(node_env=NEVER_FRESH)
    found = read_ranges(cluster.address, s3, bucket, 150)
    assert found.mixed == 0
    assert found.versions > 1


def test_a_node_that_is_lost_costs_its_blocks_and_no_read(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(3).randbytes(SIZE)
    s3.put_object(Bucket=bucket, Key="large", Body=value)
    cluster = start_cluster(node_env=SMALL_BLOCKS)
    with Milena(cluster.address) as m:
        part = m.get_range("large", 0, 200 * KIB)
        assert part is not None
        lost = next(node for node in cluster.nodes if node.address != part.node)
        lost.kill()
        for offset in range(0, SIZE, 200 * KIB):
            part = m.get_range("large", offset, 200 * KIB)
            assert part is not None
            assert part.value == value[offset : offset + 200 * KIB]


async def test_a_large_object_is_read_as_a_file_by_both_clients(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(4).randbytes(SIZE)
    s3.put_object(Bucket=bucket, Key="large", Body=value)
    cluster = start_cluster(router_env={"MAX_VALUE_BYTES": SMALL_BLOCKS["MAX_VALUE_BYTES"]}, node_env=SMALL_BLOCKS)
    with Milena(cluster.address) as m:
        m.get_range("large", 0, 1)
        before = fetched_blocks(cluster)
        assert m.get_ranges("large", [(100 * KIB, 10), (300 * KIB, 10)]) == [
            value[100 * KIB : 100 * KIB + 10],
            value[300 * KIB : 300 * KIB + 10],
        ]
        assert fetched_blocks(cluster) == before + 2, "random reads fetch the blocks that they touch"
        with m.open("large") as file:
            assert file.seek(-1000, os.SEEK_END) == SIZE - 1000
            assert file.read() == value[-1000:]
            file.seek(0)
            assert file.read() == value
    async with AsyncMilena(cluster.address) as am, await am.open("large") as opened:
        assert b"".join([chunk async for chunk in opened.chunks(70 * KIB)]) == value
        opened.seek(0)
        await am.set("large", b"another version")
        with pytest.raises(ConditionFailed):
            await opened.read()


def test_a_file_reads_from_the_nodes_that_keep_its_blocks(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    value = random.Random(5).randbytes(SIZE)
    for key in ("other", "large"):
        s3.put_object(Bucket=bucket, Key=key, Body=value)
    cluster = start_cluster(node_env=SMALL_BLOCKS)
    groups = -(-SIZE // (8 * BLOCK))
    with Milena(cluster.address) as m:

        def reaches_all_nodes() -> bool:
            with m.open("other") as file:
                assert file.read() == value
            return all(node.metrics().value("milena_blocks_direct_total") for node in cluster.nodes)

        wait_until("connections to all nodes", reaches_all_nodes, 20)
        direct, fetched = cluster.total("milena_blocks_direct_total"), fetched_blocks(cluster)
        collected = cluster.total("milena_blocks_from_peers_total")
        with m.open("large") as file:
            assert file.stat.group_bytes == 8 * BLOCK
            assert file.read() == value
        assert cluster.total("milena_blocks_direct_total") - direct == groups
        assert cluster.total("milena_blocks_from_peers_total") == collected, "no node asks another one"
        assert fetched_blocks(cluster) - fetched == -(-SIZE // BLOCK), "each block is fetched once"
        cluster.nodes[1].kill()
        with m.open("large") as file:
            assert file.read() == value


async def test_large_parts_are_put_together_by_clients_and_by_no_node(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    size = 3 * MAX_PART_BYTES
    value = random.Random(6).randbytes(size)
    s3.put_object(Bucket=bucket, Key="large", Body=value)
    blocks = {"BLOCK_THRESHOLD": "1MiB", "BLOCK_BYTES": "256KiB"}
    cluster = start_cluster(node_env={**NEVER_FRESH, "MAX_VALUE_BYTES": "64MiB", **blocks})
    ranges = [(-10, 5), (5, size), (100, 10), (0, MAX_PART_BYTES + 1)]
    expected = [value[offset:][:length] for offset, length in ranges]
    with Milena(cluster.address) as m:
        for (offset, length), part in zip(ranges, expected, strict=True):
            found = m.get_range("large", offset, length)
            assert found is not None
            assert (found.value, found.size) == (part, size)
        assert m.get_ranges("large", ranges) == expected
        etag = found.etag
        s3.put_object(Bucket=bucket, Key="large", Body=value[::-1])
        with pytest.raises(ConditionFailed):
            m.get_range("large", 0, if_match=etag)
    value = value[::-1]
    async with AsyncMilena(cluster.address) as am:
        whole = await am.get_range("large", 0)
        assert whole is not None
        assert whole.value == value
        assert await am.get_ranges("large", [(0, 1), (1, size)]) == [value[:1], value[1:]]
    rejection = f"allowed are at most {MAX_PART_BYTES} in one reply"
    with router_stub(cluster.address) as router, pytest.raises(grpc.RpcError, match=rejection):
        router.Get(pb.GetRequest(key=b"large", offset=1, length=MAX_PART_BYTES + 1))
    at = parse_address(cluster.nodes[0].resp)
    with redis.RedisCluster(host=at.host, port=at.port) as client:
        assert client.getrange("large", 1, MAX_PART_BYTES) == value[1 : MAX_PART_BYTES + 1]
        with pytest.raises(redis.ResponseError, match=rejection):
            client.getrange("large", 0, -1)


def fetched_blocks(cluster: Cluster) -> float:
    return cluster.total("milena_blocks_fetched_total")
