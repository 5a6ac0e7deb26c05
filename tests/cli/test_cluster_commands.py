"""`nodes`, `leave`, `ring owner`, `stats`, `health`."""

from __future__ import annotations

import json

from milena_client.admin import NodeStats
from milena_client.cli.health import stats_rows, total_row
from milena_client.memory_cluster import NODE, MemoryCluster
from milena_common.errors import Unavailable
from tests.cli.conftest import Run


def test_nodes(run: Run) -> None:
    assert run("nodes").stdout == f"{NODE}\t16384\t1\t1\t5\t0\t\tfake\n"
    shown = json.loads(run("nodes", "-o", "json").stdout)
    assert shown["epoch"] == 1
    assert shown["nodes"][0]["address"] == NODE
    table = run("nodes", "-o", "table").stdout
    assert "100.0%" in table
    assert "16,384" in table


def test_leave(run: Run) -> None:
    assert run("leave", NODE).exit_code == 0
    result = run("leave", NODE)
    assert (result.exit_code, result.stderr) == (4, f"milena: there is no node {NODE} in the ring\n")
    empty = run("nodes")
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "the ring has no node\n")


def test_ring_owner(run: Run) -> None:
    assert run("ring", "owner", "123456789").stdout == f"123456789\t12739\t{NODE}\t\t1\t1\n"
    assert json.loads(run("ring", "owner", "123456789", "-o", "json").stdout)["slot"] == 12739
    assert "12739" in run("-o", "table", "ring", "owner", "123456789").stdout
    run("leave", NODE)
    nobody = run("ring", "owner", "k")
    assert nobody.exit_code == 3
    assert "no node" in nobody.stderr


def test_stats(run: Run, cluster: MemoryCluster) -> None:
    assert run("stats").stdout.startswith(f"{NODE}\t0\t0\t\t")
    cluster.add({"k": b"v"})
    for _ in range(4):
        run("get", "k")
    shown = json.loads(run("stats", "-o", "json").stdout)
    assert shown["total"]["hit_ratio"] == 0.75
    assert shown["nodes"][0]["hits"] == 3
    assert run("stats").stdout.startswith(f"{NODE}\t3\t1\t0.75\t")
    table = run("stats", "-o", "table").stdout
    assert "75.0%" in table
    assert "ready" in table


def test_health(run: Run, cluster: MemoryCluster) -> None:
    well = run("health")
    assert (well.exit_code, well.stdout) == (0, "healthy: 1 node ready\n")
    assert json.loads(run("health", "-o", "json").stdout) == {"healthy": True, "nodes": 1, "problems": []}
    run("leave", NODE)
    ill = run("health")
    assert (ill.exit_code, ill.stdout) == (1, "the ring has no node\n")
    cluster.fail_with(Unavailable("no router"), times=None)
    assert run("health").exit_code == 3


def test_a_node_that_cannot_be_asked_still_has_a_row() -> None:
    nodes = [NodeStats("a:1", {"hits": 1.0, "misses": 3.0}, "", ""), NodeStats("b:1", {}, "", "gone")]
    rows = stats_rows(nodes)
    assert [row["state"] for row in rows] == ["ready", "gone"]
    assert rows[1]["hit_ratio"] is None
    assert total_row(nodes)["hit_ratio"] == 0.25
