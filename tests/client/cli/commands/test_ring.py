"""`nodes`, `leave`, `ring owner`, `stats`, `health`."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result
from google.protobuf.message import Message

from milena_client.admin import Node, NodeStats
from milena_client.cli.app import milena
from milena_client.cli.commands.health import stats_rows, total_row, without_resp
from milena_client.testing.memory_cluster import NODE, MemoryCluster
from milena_common.api.errors import Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run
from tests.client.router import router

DOORS = {"10.0.0.7:50051": "10.0.0.7:6379", "10.0.0.8:50051": ""}


def test_nodes(run: Run) -> None:
    assert run("nodes").stdout == f"{NODE}\t16384\t1\t1\t5\t0\t\tfake\t\t\t\n"
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
    assert run("ring", "owner", "123456789").stdout == f"123456789\t12739\t{NODE}\t\t1\t1\t\n"
    assert json.loads(run("ring", "owner", "123456789", "-o", "json").stdout)["slot"] == 12739
    assert "12739" in run("-o", "table", "ring", "owner", "123456789").stdout
    run("leave", NODE)
    unused = run("ring", "owner", "k")
    assert unused.exit_code == 3
    assert "no node" in unused.stderr


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


def test_a_node_that_cannot_be_reached_still_has_a_row() -> None:
    nodes = [NodeStats("a:1", {"hits": 1.0, "misses": 3.0}, "", ""), NodeStats("b:1", {}, "", "gone")]
    rows = stats_rows(nodes)
    assert [row["state"] for row in rows] == ["ready", "gone"]
    assert rows[1]["hit_ratio"] is None
    assert total_row(nodes)["hit_ratio"] == 0.25


def against_doors(*arguments: str) -> Result:
    """A command against a router whose ring is `SERVERS`: the nodes and their RESP servers, "" for none."""

    def reply(method: str, request: object, _: object) -> Message:
        if method == "Owner":
            return pb.OwnerResponse(slot=1, address=next(iter(DOORS)), epoch=1, owned_since=1)
        if method == "Stats":
            return pb.StatsResponse(nodes=[pb.NodeStats(address=address) for address in DOORS])
        nodes = [
            pb.NodeInfo(address=address, addresses={"resp": redis} if redis else {})
            for address, redis in DOORS.items()
        ]
        return pb.NodesResponse(epoch=1, nodes=nodes)

    with router(reply) as address:
        return CliRunner().invoke(milena, [*arguments, "--url", f"milena://{address}"])


def test_redis_doors_are_shown() -> None:
    assert [line.split("\t")[8] for line in against_doors("nodes").stdout.splitlines()] == [*DOORS.values()]
    shown = json.loads(against_doors("nodes", "-o", "json").stdout)
    assert [node["redis"] for node in shown["nodes"]] == [*DOORS.values()]
    owner = json.loads(against_doors("ring", "owner", "k", "-o", "json").stdout)
    assert owner["redis"] == DOORS[owner["address"]] != ""


def test_a_node_without_a_resp_server_among_others_that_have_one_is_a_problem() -> None:
    ill = against_doors("health")
    assert ill.exit_code == 1
    assert ill.stdout == "node 10.0.0.8:50051: it does not speak the Redis protocol, and others do (RESP_ADDR)\n"


def test_redis_doors_that_are_all_shut_or_all_open_are_none() -> None:
    nodes = [Node(address, "id", 1, {"resp": redis}, 1, 1, 1) for address, redis in DOORS.items()]
    assert len(without_resp(nodes)) == 1
    assert without_resp(nodes[:1]) == without_resp(nodes[1:]) == without_resp([]) == []
