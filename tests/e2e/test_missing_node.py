"""Nodes that are lost with acknowledged writes, and copies that are out of date, as an operator meets them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from mypy_boto3_s3 import S3Client

from milena_cache.journal.identity import adopt
from milena_client import Milena, NearCache
from milena_client.admin import Admin
from milena_client.cli.app import milena
from milena_common.network.addresses import parse_address
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# With a journal each alone: with copies no write is out of sight.
NEVER_UPLOADED = {"FLUSH_DELAY_MS": "200000", "DRAIN_SECONDS": "4", "COPIES": "1"}
SHORT_LEASE = {"LEASE_SECONDS": "1"}
# The restarted router must not know that the cluster was new once.
RESTARTED = {"RING_RECOVERY_SECONDS": ""}
RECOVERED = "the ring is published"
KEYS = 60


def run(cluster: Cluster, *arguments: str) -> Result:
    return CliRunner().invoke(milena, [*arguments, "--url", f"milena://{cluster.address}"])


def reported(admin: Admin) -> Mapping[str, int]:
    """By node, the writes that the router knows it holds."""
    return {node.address: node.dirty_entries or 0 for node in admin.nodes().nodes}


def missing(admin: Admin) -> list[tuple[str, int | None, str]]:
    return [(node.address, node.dirty_entries, node.reason) for node in admin.nodes().missing]


def restart_router(cluster: Cluster, number: int) -> None:
    cluster.router.kill()
    cluster.router.restart(RESTARTED)
    cluster.router.wait_for_log(RECOVERED, 30, number)


def test_a_lost_node_is_not_forgotten_until_it_is_back_or_written_off(start_cluster: StartCluster) -> None:
    cluster = start_cluster(3, router_env=SHORT_LEASE, node_env=NEVER_UPLOADED)
    with Milena(cluster.address) as client, Admin(cluster.address) as admin:
        for number in range(KEYS):
            client[f"k{number}"] = b"v"
        wait_until("the router knows of every write", lambda: sum(reported(admin).values()) == KEYS, 20)
        assert run(cluster, "health").exit_code == 0
        lost = cluster.nodes[0]
        writes = reported(admin)[lost.address]
        assert writes
        cluster.kill_node(lost)
        cluster.wait_for_ring(2)
        expected = [(lost.address, writes, "its process has ended")]
        assert missing(admin) == expected
        ill = run(cluster, "health")
        assert ill.exit_code == 1
        assert f"node {lost.address} has been missing for" in ill.stdout
        assert f"last reported with {writes} acknowledged writes not in S3" in ill.stdout
        restart_router(cluster, 2)
        assert missing(admin) == expected, "the nodes have kept it for the router"
        lost.restart({})
        lost.wait_ready()
        wait_until("it is back", lambda: missing(admin) == [], 20)
        assert run(cluster, "health").exit_code == 0
        assert all(client[f"k{number}"] == b"v" for number in range(KEYS))

        leaving = cluster.nodes[1]
        leaving.terminate()
        assert leaving.wait() == 0, "it hands its writes over"
        assert missing(admin) == []
        wait_until("the router knows of every write", lambda: sum(reported(admin).values()) == KEYS, 20)
        gone = cluster.nodes[2]
        writes = reported(admin)[gone.address]
        cluster.kill_node(gone)
        cluster.wait_for_ring(1)
        assert missing(admin) == [(gone.address, writes, "its process has ended")]
        assert run(cluster, "leave", gone.address, "--forget").exit_code == 0
        assert missing(admin) == []
        epoch = admin.nodes().epoch
        wait_until(
            "the nodes have heard of it",
            lambda: all(
                node.metrics().value("milena_ring_epoch") == epoch for node in cluster.nodes if node.running
            ),
            20,
        )
        restart_router(cluster, 3)
        assert missing(admin) == []


def test_a_node_that_stops_without_a_drain_is_not_missing_once_others_have_its_writes(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(3, node_env=NEVER_UPLOADED | {"DRAIN_SECONDS": "0"})
    with Milena(cluster.address) as client, Admin(cluster.address) as admin:
        for number in range(KEYS):
            client[f"k{number}"] = b"v"
        leaving = cluster.nodes[0]
        wait_until("the router knows of its writes", lambda: bool(reported(admin)[leaving.address]), 20)
        leaving.terminate()
        leaving.wait()
        assert missing(admin) == []
        wait_until("the others have them", lambda: sum(reported(admin).values()) == KEYS, 20)
        assert all(client[f"k{number}"] == b"v" for number in range(KEYS))


def test_a_node_on_a_snapshot_of_a_journal_is_rejected_while_the_first_one_runs(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = start_cluster(1, router_env=SHORT_LEASE)
    original = cluster.nodes[0]
    journal = original.directory / "milena-journal" / str(parse_address(original.address).port)
    snapshot = shutil.copytree(journal, tmp_path / "snapshot")
    adopt(snapshot)  # as the inode of a snapshot is
    second = cluster.add_node({"JOURNAL_DIR": str(snapshot)}, wait=False)
    line = second.wait_for_log("journal_id: ", 30)
    assert f"{second.address} has journal " in line
    assert f"and so has {original.address}, whose lease runs" in line
    with Admin(cluster.address) as admin:
        assert [node.address for node in admin.nodes().nodes] == [original.address]
    status, reasons = second.get("/readyz")
    assert status == 503
    assert "not joined" in reasons
    cluster.kill_node(original)
    second.wait_ready()
    with Admin(cluster.address) as admin:
        assert [node.address for node in admin.nodes().nodes] == [second.address]
        assert missing(admin) == [], "its journal is back"


def test_entries_are_refreshed_after_a_change_in_the_bucket(
    start_cluster: StartCluster, s3: S3Client, bucket: str
) -> None:
    cluster = start_cluster(3)
    keys = [f"logs/{number}" for number in range(20)]
    for key in (*keys, "other"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"old")
    near = NearCache(max_bytes=2**20, max_age=600)
    with Milena(cluster.address) as client, Milena(cluster.address, near_cache=near) as keeper:
        assert set(client.get_many([*keys, "other"]).values()) == {b"old"}
        wait_until("the near cache keeps", lambda: keeper.get("logs/0") is not None and len(near) > 0, 30)
        for key in (*keys, "other"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"new")
        refreshed = run(cluster, "refresh", "logs/")
        assert (refreshed.stdout, refreshed.stderr) == ("20\t0\n", "")
        assert client.get_many([*keys, "other"]) == dict.fromkeys(keys, b"new") | {"other": b"old"}
        wait_until("the near cache has let go of it", lambda: keeper.get("logs/0") == b"new", 30)
        assert run(cluster, "refresh", "other", "logs/1").stdout == "2\t0\n"
        assert client["other"] == b"new"
        assert s3.get_object(Bucket=bucket, Key="other")["Body"].read() == b"new"
