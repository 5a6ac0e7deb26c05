"""What was deleted through any node is in no listing that begins afterwards, by whichever port."""

from __future__ import annotations

import pytest
import redis
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, Milena
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.network.addresses import parse_address
from milena_common.resp.client_commands import call
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import cache_stub, rejection, router_stub

pytestmark = pytest.mark.e2e

KEYS = [f"list/{number:02}" for number in range(30)]
DELETED = set(KEYS[::2])
# Longer than a test takes, so that nothing is uploaded.
DIRTY = {"FLUSH_DELAY_MS": "600000", "DIRTY_MAX_AGE_SECONDS": "3600"}


def test_what_any_node_has_put_is_listed_at_once(start_cluster: StartCluster, s3: S3Client, bucket: str) -> None:
    cluster = start_cluster(node_env=DIRTY)
    with Milena(cluster.address) as m:
        for key in KEYS:
            m.set(key, b"dirty")
        assert all(node.metrics().value("milena_writeback_dirty_entries") > 0 for node in cluster.nodes)
        assert [info.key for info in m.scan("list/")] == KEYS
    for node in cluster.nodes:
        with cache_stub(node.address) as cache:
            assert keys_of(cache.List(cache_pb.ListRequest(prefix=b"list/"))) == KEYS
            first = cache.List(cache_pb.ListRequest(prefix=b"list/", limit=7))
            assert keys_of(first) == KEYS[:7]
            below = cache.List(cache_pb.ListRequest(delimiter=b"/"))
            assert (keys_of(below), list(below.prefixes)) == ([], [b"list/"])
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


async def test_what_any_node_has_deleted_is_listed_by_no_port(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=b"v")
    cluster = start_cluster(node_env=DIRTY)
    left = sorted(set(KEYS) - DELETED)
    with Milena(cluster.address) as m:
        m.delete_many(DELETED)
        assert all(node.metrics().value("milena_writeback_dirty_entries") > 0 for node in cluster.nodes)
        assert [info.key for info in m.scan("list/")] == left
    async with AsyncMilena(cluster.address) as am:
        assert [info.key async for info in am.scan("list/")] == left
    with router_stub(cluster.address) as router:
        assert keys_of(router.List(pb.ListRequest(prefix=b"list/"))) == left
    shares: list[str] = []
    for node in cluster.nodes:
        with cache_stub(node.address) as cache:
            request = cache_pb.ListRequest(prefix=b"list/")
            assert keys_of(cache.List(request)) == left
        at = parse_address(node.resp)
        with redis.Redis(host=at.host, port=at.port) as client:
            assert sorted(scanned(client)) == left, "a client of one node sees the keys of all"
            connection = client.connection_pool.get_connection()
            connection.send_packed_command([call("List", 5.0, request.SerializeToString())])
            assert keys_of(cache_pb.ListResponse.FromString(connection.read_response())) == left
            client.connection_pool.release(connection)
        with redis.Redis(host=at.host, port=at.port, single_connection_client=True) as client:
            client.readonly()  # as a client of Redis Cluster, which scans every node
            shares += scanned(client)
    assert sorted(shares) == left
    assert {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]} >= DELETED


def test_a_listing_fails_while_an_owner_of_its_keys_is_dead_and_heals_with_the_ring(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=b"v")
    cluster = start_cluster(router_env={"LEASE_SECONDS": "3"})
    cluster.kill_node(cluster.nodes[1])
    with router_stub(cluster.address) as router, Milena(cluster.address, timeout=20) as m:
        with cache_stub(cluster.nodes[0].address) as cache:
            status, details = rejection(lambda: cache.List(cache_pb.ListRequest(prefix=b"list/")))
        assert status == "UNAVAILABLE"
        assert f"the node at {cluster.nodes[1].resp} has written is not known" in details
        assert [info.key for info in m.scan("list/")] == KEYS, "the client tries again until the lease is over"
        cluster.wait_for_ring(2)
        assert keys_of(router.List(pb.ListRequest(prefix=b"list/"))) == KEYS


def scanned(client: redis.Redis) -> list[str]:
    return [key.decode() for key in client.scan_iter("list/*")]


def keys_of(response: pb.ListResponse | cache_pb.ListResponse) -> list[str]:
    return [info.key.decode() for info in response.objects]
