"""A real node with a disk cache before a real S3: over restarts, kills, and with a disk that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import Milena
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.processes import Node
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = [f"k{number:02}" for number in range(30)]
# Memory has room for a third of them.
LRU_SIZE = 10


def _value(key: str) -> bytes:
    return key.encode() * 1000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "ssd"


@pytest.fixture
def one(start_cluster: StartCluster, s3: S3Client, directory: Path) -> Cluster:
    """A router and one node with a disk cache, and all values in S3."""
    cluster = start_cluster(
        1, node_env={"LRU_SIZE": str(LRU_SIZE), "DISK_CACHE_DIR": str(directory), "WRITE_MODE": "through"}
    )
    for key in KEYS:
        s3.put_object(Bucket=cluster.bucket, Key=key, Body=_value(key))
    return cluster


def _read(cluster: Cluster, keys: list[str] = KEYS) -> None:
    with Milena(cluster.address) as m:
        assert [m.get(key) for key in keys] == [_value(key) for key in keys]


def _written(node: Node) -> float:
    return node.metrics().value("milena_disk_cache_values_total", result="written")


def _filled(cluster: Cluster) -> Node:
    """Return the node, which has most of the values on disk, and some in memory."""
    (node,) = cluster.nodes
    for _ in range(3):
        _read(cluster)
    wait_until("values are written", lambda: _written(node) >= len(KEYS) - LRU_SIZE, 20.0)
    return node


def _restarted(cluster: Cluster, node: Node) -> None:
    node.restart()
    node.wait_ready()
    cluster.wait_for_ring(1)
    node.wait_for_log("values of")


def test_what_memory_has_no_room_for_is_read_from_disk_and_not_from_s3(one: Cluster, s3_proxy: FaultProxy) -> None:
    node = _filled(one)
    s3_proxy.clear_requests()
    _read(one)
    assert s3_proxy.count("GET", None) + s3_proxy.count("HEAD", None) <= LRU_SIZE
    assert node.metrics().value("milena_disk_cache_reads_total", result="hit") >= len(KEYS) - LRU_SIZE


def test_after_a_stop_all_values_are_confirmed_by_s3_and_none_is_transferred(
    one: Cluster, s3_proxy: FaultProxy
) -> None:
    node = _filled(one)
    node.terminate()
    assert node.wait() == 0
    _restarted(one, node)
    s3_proxy.clear_requests()
    _read(one)
    gets = [request for request in s3_proxy.requests("GET") if request.key in KEYS]
    assert gets == []
    assert s3_proxy.count("HEAD", KEYS[0]) == 1
    _read(one)
    assert s3_proxy.count("HEAD", KEYS[0]) == 1


def test_after_a_kill_no_value_is_served_that_was_replaced_before_it(
    one: Cluster, s3_proxy: FaultProxy, s3: S3Client
) -> None:
    node = _filled(one)
    with Milena(one.address) as m:
        m.set(KEYS[0], b"written through Milena")
        m.delete(KEYS[1])
        m.set(KEYS[3], b"written back", durability="back")
        assert m.get(KEYS[0]) == b"written through Milena"
    s3.put_object(Bucket=one.bucket, Key=KEYS[2], Body=b"written by another program")
    node.kill()
    node.wait()
    _restarted(one, node)
    s3_proxy.clear_requests()
    with Milena(one.address) as m:
        assert m.get(KEYS[0]) == b"written through Milena"
        assert m.get(KEYS[1]) is None
        assert m.get(KEYS[2]) == b"written by another program"
        assert m.get(KEYS[3]) == b"written back"
    _read(one, KEYS[4:])
    gets = [request for request in s3_proxy.requests("GET") if request.key in KEYS[4:]]
    assert len(gets) <= LRU_SIZE, "all others were on disk"


def test_a_directory_that_another_process_has_is_rejected(one: Cluster, directory: Path) -> None:
    second = one.add_node(wait=False)
    assert second.wait() == 2
    assert second.lines(f"DISK_CACHE_DIR: {directory}: another process has it (pid ")


def test_a_directory_that_cannot_be_used_switches_it_off_and_the_node_serves(
    start_cluster: StartCluster, s3: S3Client, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    cluster = start_cluster(1, node_env={"DISK_CACHE_DIR": str(tmp_path / "file" / "ssd")})
    s3.put_object(Bucket=cluster.bucket, Key="k", Body=_value("k"))
    (node,) = cluster.nodes
    _read(cluster, ["k"])
    node.wait_for_log("disk cache: switched off until the next start")
    assert node.metrics().value("milena_disk_cache_off") == 1
    _, body = node.get("/readyz")
    assert "disk cache: switched off until the next start" in body
