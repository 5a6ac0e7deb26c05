"""`milena warm`, `invalidate`, `pin`, `unpin` and `purge` with a router, two nodes and S3."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from mypy_boto3_s3 import S3Client

from milena_client import Milena
from milena_client.admin import Admin
from milena_client.cli.app import milena
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster

pytestmark = pytest.mark.e2e

KEYS = [f"data/{number:04}" for number in range(100)]


def run(cluster: Cluster, *arguments: str) -> Any:
    """Return what a command prints as JSON."""
    done = CliRunner().invoke(milena, [*arguments, "-o", "json", "--url", f"milena://{cluster.address}"])
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return json.loads(done.stdout)


def count(admin: Admin, name: str) -> float:
    return sum(node.values[name] for node in admin.stats())


def test_jobs_on_all_keys_below_a_prefix(start_cluster: StartCluster, s3: S3Client, bucket: str) -> None:
    for key in (*KEYS, "other"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"old")
    cluster = start_cluster(2)
    with Milena(cluster.address) as client, Admin(cluster.address) as admin:
        would = run(cluster, "warm", "data/", "--dry-run")
        assert (would["warmed"], would["bytes"], len(would["nodes"])) == (100, 300, 2)
        assert count(admin, "entries") == 0
        warmed = run(cluster, "warm", "data/")
        assert warmed == would | {"nodes": warmed["nodes"]}
        assert set(warmed["nodes"]) == {node.address for node in admin.nodes().nodes}
        assert sum(warmed["nodes"].values()) == count(admin, "entries") == 100
        assert (count(admin, "hits"), count(admin, "misses")) == (0, 0), "it counts as no reads"
        assert set(client.get_many(KEYS).values()) == {b"old"}
        assert count(admin, "hits") == 100
        assert client["other"] == b"old"

        s3.put_object(Bucket=bucket, Key="data/0001", Body=b"new")
        assert run(cluster, "invalidate", "data/", "--dry-run")["changed"] == 100
        assert client["data/0001"] == b"old"
        assert run(cluster, "invalidate", "data/")["changed"] == 100
        assert client["data/0001"] == b"new"
        entry = client.get_entry("data/0002")
        assert entry is not None
        assert entry.outcome == "revalidated"

        assert run(cluster, "pin", "data/", "--dry-run")["changed"] == 100
        pinned = run(cluster, "pin", "data/")
        assert pinned["changed"] == 100
        gauges = [node.metrics().value("milena_cache_pinned_bytes") for node in cluster.nodes]
        assert sum(gauges) == pinned["bytes"]
        assert run(cluster, "unpin", "data/")["changed"] == 100

        client.set("data/dirty", b"acknowledged", durability="back")
        purged = run(cluster, "purge", "data/")
        assert purged["changed"] + purged["dirty"] >= 100
        assert sum(purged["nodes"].values()) == purged["changed"]
        assert client["data/dirty"] == b"acknowledged"
        entry = client.get_entry("data/0003")
        assert entry is not None
        assert entry.outcome == "miss"
        assert client.get_entry("other").outcome == "hit"  # type: ignore[union-attr]
        assert s3.get_object(Bucket=bucket, Key="data/0001")["Body"].read() == b"new"
