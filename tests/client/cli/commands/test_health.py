"""`health`, `nodes`, `leave --forget` and `stats` about nodes that are degraded or missing."""

from __future__ import annotations

import json
import time

from click.testing import CliRunner, Result
from google.protobuf.message import Message

from milena_client.cli.app import milena
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.router import router

S3_DOWN = "S3: no request has succeeded for 360 s: S3 bucket of s3://b/: cannot connect (connect)"
OLD_WRITES = "write-back: 37 acknowledged writes are not in S3, the oldest for 357 s"
DEAD_LETTERS = "write-back: S3 has rejected 2 writes permanently (`milena writeback failed`)"


class Cluster:
    """A router whose ring has three nodes, and one that is missing."""

    def __init__(self) -> None:
        self.degraded: dict[str, list[str]] = {"a:1": [S3_DOWN, OLD_WRITES], "b:1": [DEAD_LETTERS], "c:1": []}
        self.errors = {"c:1": "cannot be reached"}
        self.missing = {"d:1": 9}
        self.left: list[pb.LeaveRequest] = []

    def reply(self, method: str, request: object, _: object) -> Message:
        if isinstance(request, pb.LeaveRequest):
            self.left.append(request)
            return pb.LeaveResponse(successful=request.address in self.missing)
        if method == "Stats":
            return pb.StatsResponse(
                nodes=[
                    pb.NodeStats(address=address, degraded=reasons, error=self.errors.get(address, ""))
                    for address, reasons in self.degraded.items()
                ]
            )
        return pb.NodesResponse(
            epoch=1,
            nodes=[
                pb.NodeInfo(address=address, dirty_entries=len(reasons), dead_letters=4, degraded=reasons)
                for address, reasons in self.degraded.items()
            ],
            missing=[
                pb.MissingNode(
                    address=address,
                    journal_id="j",
                    dirty_entries=dirty,
                    missing_since=time.time() - 240,
                    reason="lease expired",
                )
                for address, dirty in self.missing.items()
            ],
        )

    def run(self, *arguments: str) -> Result:
        with router(self.reply) as address:
            return CliRunner().invoke(milena, [*arguments, "--url", f"milena://{address}"])


def test_health_names_what_is_degraded_what_cannot_be_reached_and_what_is_missing() -> None:
    ill = Cluster().run("health")
    assert ill.exit_code == 1
    assert ill.stdout.splitlines() == [
        f"node a:1: degraded: {S3_DOWN}",
        f"node a:1: degraded: {OLD_WRITES}",
        f"node b:1: degraded: {DEAD_LETTERS}",
        "node c:1: cannot be reached; it last reported 4 acknowledged writes not in S3",
        "node d:1 has been missing for 240 s (lease expired), last reported with 9 acknowledged writes not in S3",
    ]
    shown = json.loads(Cluster().run("health", "-o", "json").stdout)
    assert (shown["healthy"], len(shown["problems"])) == (False, 5)


def test_each_of_them_alone_is_enough() -> None:
    cluster = Cluster()
    cluster.degraded, cluster.errors = {"a:1": []}, {}
    assert cluster.run("health").exit_code == 1, "a node is missing"
    cluster.missing = {}
    assert (cluster.run("health").exit_code, cluster.run("health").stdout) == (0, "healthy: 1 node ready\n")
    cluster.degraded = {"a:1": [DEAD_LETTERS]}
    assert cluster.run("health").exit_code == 1


def test_nodes_shows_the_writes_that_each_holds_and_the_missing_ones() -> None:
    shown = Cluster().run("nodes")
    assert [line.split("\t")[9] for line in shown.stdout.splitlines()] == ["6", "5", "4"]
    assert "node d:1 has been missing for 240 s" in shown.stderr
    as_json = json.loads(Cluster().run("nodes", "-o", "json").stdout)
    assert as_json["nodes"][1]["state"] == f"degraded: {DEAD_LETTERS}"
    (missing,) = as_json["missing"]
    assert (missing["address"], missing["dirty"], missing["reason"]) == ("d:1", 9, "lease expired")
    assert 230 < missing["missing_for"] < 300


def test_stats_and_the_write_back_status_say_what_is_degraded() -> None:
    for command in (["stats"], ["writeback", "status"]):
        lines = Cluster().run(*command).stdout.splitlines()
        assert [line.split("\t")[-1] for line in lines] == [
            f"degraded: {S3_DOWN}; {OLD_WRITES}",
            f"degraded: {DEAD_LETTERS}",
            "cannot be reached",
        ]


def test_a_missing_node_is_written_off_by_hand() -> None:
    cluster = Cluster()
    assert cluster.run("leave", "d:1", "--forget").exit_code == 0
    assert cluster.left == [pb.LeaveRequest(address="d:1", forget=True)]
    unknown = cluster.run("leave", "e:1", "--forget")
    assert (unknown.exit_code, unknown.stderr) == (4, "milena: there is no missing node e:1\n")
