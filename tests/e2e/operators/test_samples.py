"""`milena hotkeys`, HOTKEYS and `milena size` with a router, three nodes, redis-py, and S3."""

from __future__ import annotations

import json

import pytest
import redis
from click.testing import CliRunner
from mypy_boto3_s3 import S3Client

from milena_client import Milena
from milena_client.admin import Admin, together
from milena_client.cli.app import milena
from tests.e2e.conftest import StartCluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = [f"key/{number:03}" for number in range(100)]
READS = 6_400


def test_hot_keys_and_sizes_of_a_cluster(start_cluster: StartCluster, s3: S3Client, bucket: str) -> None:
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x" * 100)
    cluster = start_cluster(3, node_env={"LRU_SIZE": "20"})
    with Milena(cluster.address) as client, Admin(cluster.address) as admin:
        for _ in range(2):
            for key in KEYS:
                assert client[key] == b"x" * 100
        owner = admin.owner(KEYS[0]).address
        nodes = {node.address: node.addresses["resp"] for node in admin.nodes().nodes}
        assert len(nodes) == 3
        host, _, port = nodes[owner].rpartition(":")
        with (
            redis.Redis(host, int(port), protocol=2) as plain,
            redis.Redis(host, int(port), protocol=3) as resp3,
        ):
            assert plain.execute_command("HOTKEYS", "RESET") in (True, b"OK")
            pipeline = plain.pipeline(transaction=False)
            for _ in range(READS):
                pipeline.get(KEYS[0])
            assert set(pipeline.execute()) == {b"x" * 100}
            wait_until("a window has ended", plain.hotkeys_get, timeout=30, pause=0.5)
            (hot, *_) = plain.hotkeys_get()
            assert (hot[b"key"], hot[b"db"]) == (KEYS[0].encode(), 0)
            assert 0.5 * READS < hot[b"qps"] * 10 < 1.5 * READS
            (same, *_) = resp3.hotkeys_get()
            assert same == hot
        done = CliRunner().invoke(milena, ["hotkeys", "-o", "json", "--url", f"milena://{cluster.address}"])
        assert done.exit_code == 0, done.output
        (first, *_) = json.loads(done.stdout)["keys"]
        assert (first["key"], first["node"]) == (KEYS[0], owner)
        assert first["share"] > 0.8
        sizes = admin.memory_sizes()
        assert {node.address for node in sizes} == set(nodes)
        now, twice, four_times = (each for each in together(sizes).estimates if each.scale in (1, 2, 4))
        assert now.hit_ratio < four_times.hit_ratio
        assert now.gets > four_times.gets
        assert now.cost > four_times.cost
        assert (now.max_entries, twice.max_entries) == (60, 120)
        done = CliRunner().invoke(milena, ["size", "-o", "raw", "--url", f"milena://{cluster.address}"])
        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 6), done.output
