"""A router and three nodes as users meet them: the objects of a bucket, by every client, and what is shown."""

from __future__ import annotations

import concurrent.futures
import json
import random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, KeyNotFound, Milena
from milena_common.api.durability import DURABILITIES, Durability
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import cache_stub, router_stub
from tests.stack.queries import metrics_named
from tests.support.cluster import Cluster
from tests.support.processes import Server
from tests.support.s3.fault_proxy import FaultProxy

pytestmark = pytest.mark.e2e

MIB = 2**20
KEYS = [
    "plain",
    "a/b/c",
    "/lead",
    "trail/",
    "a//b",
    "100%",
    "a%20b",
    "with space",
    "😀/ü",
    "./x",
    "a/../b",
    "s3://x/y",
    "{tag}1",
]


@pytest.mark.parametrize("durability", DURABILITIES)
@pytest.mark.parametrize("key", KEYS)
def test_every_key_goes_to_s3_and_comes_back(
    shared_cluster: Cluster, s3: S3Client, key: str, durability: Durability
) -> None:
    with Milena(shared_cluster.address) as m:
        assert m.set(key, key.encode(), durability=durability).durability == durability
        assert m[key] == key.encode()
        m.wait_durable(key)
        stored = s3.get_object(Bucket=shared_cluster.bucket, Key=key)
        assert stored["Body"].read() == key.encode()
        assert m[key] == key.encode()
        assert m.delete(key, durability=durability).durability == durability
        assert m.get(key) is None
        m.wait_durable(key)
        assert m.get(key) is None
        assert "Contents" not in s3.list_objects_v2(Bucket=shared_cluster.bucket, Prefix=key)


def test_objects_that_were_in_the_bucket_are_served(shared_cluster: Cluster, s3: S3Client) -> None:
    values = {f"there/{size}": random.Random(size).randbytes(size) for size in (0, 1, 1024, 5 * MIB)}
    for key, value in values.items():
        s3.put_object(Bucket=shared_cluster.bucket, Key=key, Body=value)
    with Milena(shared_cluster.address) as m:
        assert m.get_many(values) == values
        assert {key: m[key] for key in values} == values
        entry = m.get_entry("there/1024")
        assert entry is not None
        assert entry.outcome == "hit"
        assert entry.node in {node.address for node in shared_cluster.nodes}
        assert entry.etag == s3.head_object(Bucket=shared_cluster.bucket, Key="there/1024")["ETag"]
        assert sorted(info.key for info in m.scan("there/")) == sorted(values)
        assert m.exists("there/0")
        assert not m.exists("not there")
        with pytest.raises(KeyNotFound):
            m["not there"]


async def test_the_async_client_does_the_same(shared_cluster: Cluster) -> None:
    async with AsyncMilena(shared_cluster.address) as m:
        values = {f"async/{i}": b"%d" % i for i in range(200)}
        await m.set_many(values)
        assert await m.get_many(values) == values
        await m.delete_many(values)
        assert await m.get_many(values) == {}


def test_a_client_that_knows_only_the_first_fields_works(shared_cluster: Cluster) -> None:
    with router_stub(shared_cluster.address) as router:
        assert router.Put(pb.PutRequest(key=b"old", bucket="default", value=b"")).successful
        reply = router.Get(pb.GetRequest(key=b"old", bucket=""))
        assert (reply.successful, reply.value) == (True, b"")
        assert router.Delete(pb.DeleteRequest(key=b"old", bucket="default")).successful
        missing = router.Get(pb.GetRequest(key=b"old", bucket="default"))
        assert (missing.successful, missing.value) == (False, b"")
        assert not router.Leave(pb.LeaveRequest(address="http://nobody:1")).successful
        keys = (b"direct%d" % number for number in range(1000))
        owner = shared_cluster.nodes[0].address
        key = next(key for key in keys if router.Owner(pb.OwnerRequest(key=key)).address == owner)
    with cache_stub(owner) as node:
        assert node.Put(cache_pb.PutRequest(key=key, value=b"v")).successful
        assert node.Get(cache_pb.GetRequest(key=key)).value == b"v"


def test_joining_again_changes_nothing(shared_cluster: Cluster) -> None:
    address = shared_cluster.nodes[0].address
    with router_stub(shared_cluster.address) as router:
        before = router.Nodes(pb.NodesRequest())
        node = next(each for each in before.nodes if each.address == address)
        joined = router.Join(
            pb.JoinRequest(address=f"http://{address}", node_id=node.node_id, addresses=node.addresses)
        )
        assert (joined.successful, joined.epoch) == (True, before.epoch)
        assert joined.lease_seconds == 5


def test_the_health_service_and_every_spelling_of_the_probes(shared_cluster: Cluster) -> None:
    for server in (shared_cluster.router, *shared_cluster.nodes):
        for path in ("/livez", "/readyz", "/health", "/health/quick", "/ready", "/-/healthy", "/-/ready"):
            status, body = server.get(path)
            assert (status, json.loads(body)["status"]) == (200, "ok"), path
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in (
                "",
                "cache_server.Cache" if server is not shared_cluster.router else "router_server.Router",
            ):
                reply = health.Check(health_pb2.HealthCheckRequest(service=service))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_every_metric_that_a_dashboard_or_alert_names_is_there(shared_cluster: Cluster) -> None:
    with Milena(shared_cluster.address) as m:
        m.set("for metrics", b"v")
        m.get("for metrics")
        m.get("for metrics, missing")
    with router_stub(shared_cluster.address) as router, pytest.raises(grpc.RpcError):
        router.Get(pb.GetRequest(key=b""))
    names = set().union(*(server.metrics().names for server in (shared_cluster.router, *shared_cluster.nodes)))
    # There while a node is missing: test_missing_node.py.
    names.add("milena_router_missing_node_dirty_entries")
    # There where routers share a ring: tests/router/shared.
    names.add("milena_router_etcd_reachable")
    # There after a failed login: tests/e2e/access.
    names.add("milena_auth_failures_total")
    # There with TLS: tests/e2e/tls.
    names.add("milena_tls_expiry_timestamp_seconds")
    # There with DISK_CACHE_DIR: test_prometheus.py.
    names |= {name for name in metrics_named() if name.startswith("milena_disk_cache_")}
    assert metrics_named() - names == set()


def test_hits_are_reads_without_a_request_to_s3(
    start_cluster: StartCluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    cluster = start_cluster(1)
    (node,) = cluster.nodes
    for i in range(10):
        s3.put_object(Bucket=cluster.bucket, Key=f"k{i}", Body=b"12345")
    s3_proxy.clear_requests()
    with Milena(cluster.address) as m:
        for _ in range(5):
            assert len(m.get_many([f"k{i}" for i in range(10)])) == 10
    metrics = node.metrics()
    assert metrics.value("milena_cache_misses_total") == s3_proxy.count("GET") == 10
    assert metrics.value("milena_cache_hits_total") == 40
    assert metrics.value("milena_s3_requests_total", operation="get", code="200") == 10
    assert (metrics.value("milena_cache_hit_bytes_total"), metrics.value("milena_cache_miss_bytes_total")) == (
        200,
        50,
    )
    assert metrics.value("milena_request_counter", operation="get") == 50
    assert metrics.value("milena_operation_duration_seconds_count", operation="get") == 50
    assert metrics.value("milena_error_counter") == 0


def test_five_hundred_readers_of_one_cold_object_cost_one_read_of_s3(
    cluster: Cluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    value = random.Random(1).randbytes(MIB)
    s3.put_object(Bucket=cluster.bucket, Key="hot", Body=value)
    s3_proxy.clear_requests()
    with Milena(cluster.address, timeout=60) as m, concurrent.futures.ThreadPoolExecutor(500) as pool:
        # A connection learns its limit of calls with its first reply. Calls beyond the limit that are sent before
        # are rejected, and on a busy machine more of them than the retry budget allows.
        assert m.get("another") is None
        values = list(pool.map(lambda _: m.get("hot") == value, range(500)))
    assert values == [True] * 500
    assert s3_proxy.count("GET", "hot") == 1


def test_a_second_bucket_and_a_prefix(start_cluster: StartCluster, s3: S3Client) -> None:
    s3.create_bucket(Bucket="second-bucket")
    cluster = start_cluster(2, node_env={"S3_PREFIX": "team/", "S3_BUCKETS": "second-bucket"})
    with Milena(cluster.address) as first, Milena(cluster.address, bucket="second-bucket") as second:
        first.set("k", b"1")
        second.set("k", b"2")
        assert (first.get("k"), second.get("k")) == (b"1", b"2")
        assert first.flush().remaining == 0, "of every bucket"
        assert [info.key for info in first.scan()] == ["k"]
    assert s3.get_object(Bucket=cluster.bucket, Key="team/k")["Body"].read() == b"1"
    assert s3.get_object(Bucket="second-bucket", Key="k")["Body"].read() == b"2"
    with Milena(cluster.address, bucket=cluster.bucket) as by_name:
        assert by_name.get("k") == b"1", "the default bucket by its own name is the same object"


def test_the_rate_limit_says_when_to_come_back(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1, router_env={"RATE_LIMIT": "5"})
    with router_stub(cluster.address) as router:
        limited: list[grpc.RpcError] = []
        for _ in range(20):
            try:
                router.Get(pb.GetRequest(key=b"k"))
            except grpc.RpcError as error:
                limited.append(error)
        assert len(limited) >= 10
        assert {error.code() for error in limited} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        wait = dict(limited[0].trailing_metadata())["retry-after-ms"]
        assert 0 < int(wait) <= 200
        for _ in range(20):
            # Rejected, since the address is that of a live node, and not limited.
            with pytest.raises(grpc.RpcError) as rejected:
                router.Join(pb.JoinRequest(address=cluster.nodes[0].address, node_id="another"))
            assert rejected.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert cluster.router.metrics().value("milena_router_rate_limited_total") == len(limited)
    with Milena(cluster.address) as m:
        assert m.get("k") is None, "the client waits as long as the error says"


def test_membership_changes_are_lines_that_begin_with_join_and_leave(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2)
    cluster.nodes[0].terminate()
    assert cluster.nodes[0].wait() == 0
    messages = [json.loads(line)["message"] for line in cluster.router.lines() if line.startswith("{")]
    changes = [message for message in messages if message.startswith(("Join", "Leave"))]
    assert [change.split()[0] for change in changes] == ["Join", "Join", "Join", "Leave"], "it says that it leaves"
    assert f"node={cluster.nodes[0].address}" in changes[-1]
    for word in ("reason=", "epoch=", "ring_size=1"):
        assert word in changes[-1]


def test_a_node_without_its_bucket_says_so_and_recovers(start_cluster: StartCluster, s3: S3Client) -> None:
    cluster = start_cluster(0)
    node: Server = cluster.add_node({"S3_BUCKET": "not-made-yet"}, wait=False)
    node.wait_for_log("not-made-yet cannot be used")
    status, body = node.get("/readyz")
    assert status == 503
    assert "create the bucket" in body
    assert node.get("/livez")[0] == 200
    s3.create_bucket(Bucket="not-made-yet")
    node.wait_ready()


def test_a_node_waits_for_its_router(start_cluster: StartCluster) -> None:
    cluster = start_cluster(0)
    cluster.router.pause()
    node = cluster.add_node(wait=False)
    node.wait_for_log("Failed to join router")
    assert node.get("/readyz")[0] == 503
    cluster.router.resume()
    node.wait_ready()
