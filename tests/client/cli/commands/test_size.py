"""`size`."""

from __future__ import annotations

import json

import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.methods import SIZE
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run


def reply_with(monkeypatch: pytest.MonkeyPatch, cluster: MemoryCluster, responses: dict[str, object]) -> None:
    """Have methods of the cluster reply with these responses."""
    for name, response in responses.items():
        monkeypatch.setitem(cluster._methods, name, lambda request, response=response: response)


def sizes() -> pb.SizeResponse:
    points = [
        pb.SizePoint(
            scale=scale,
            max_entries=1000 * scale,
            max_bytes=2**20 * scale,
            hit_ratio=ratio,
            gets=1000,
            puts=10,
            read_bytes=2**20,
            cost=0.1,
            sample=0.5,
        )
        for scale, ratio in ((1.0, 0.5), (2.0, 0.75))
    ]
    return pb.SizeResponse(
        nodes=[
            pb.NodeSize(address="a:1", seconds=3600, reads=7200, hit_ratio=0.4, points=points),
            pb.NodeSize(address="b:1", error="cannot be reached"),
        ]
    )


def test_sizes_are_shown(run: Run, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    reply_with(monkeypatch, cluster, {SIZE.name: sizes()})
    shown = run("size", "-o", "table")
    assert shown.exit_code == 1
    assert shown.stderr == "milena: node b:1: cannot be reached\n"
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[1] == [
        "1",
        "x",
        "(now)",
        "1.0",
        "MiB",
        "1,000",
        "50.0%",
        "1,000",
        "10",
        "1.0",
        "MiB",
        "3.00",
        "50.0%",
    ]
    assert lines[2][:3] == ["2", "x", "2.0"]
    assert shown.stdout.splitlines()[-1] == ("counted in the last 60.0 min: 40.0% of 2 reads a second were hits"), (
        shown.stdout
    )
    assert run("size").stdout.splitlines()[0] == "1\t1048576\t1000\t0.5\t1000\t10\t1048576\t3\t0.5"


def test_sizes_as_json_and_of_one_node(run: Run, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    reply_with(monkeypatch, cluster, {SIZE.name: sizes()})
    shown = run("size", "--node", "a:1", "-o", "json")
    assert (shown.exit_code, shown.stderr) == (0, "")
    found = json.loads(shown.stdout)
    assert (found["seconds"], found["reads"], found["hit_ratio"]) == (3600, 2, 0.4)
    assert [(each["scale"], each["hit_ratio"], each["cost_month"]) for each in found["sizes"]] == [
        (1, 0.5, pytest.approx(3)),
        (2, 0.75, pytest.approx(3)),
    ]
    assert [node["address"] for node in found["nodes"]] == ["a:1"]
    wrong = run("size", "--node", "x:1")
    assert wrong.exit_code == 2
    assert "no node has the address x:1" in wrong.stderr


def test_a_cluster_without_reads_needs_no_more_memory(run: Run) -> None:
    rows = [line.split("\t") for line in run("size").stdout.splitlines()]
    assert [(row[0], row[3]) for row in rows] == [
        ("0.25", "1"),
        ("0.5", "1"),
        ("1", "1"),
        ("2", "1"),
        ("4", "1"),
        ("8", "1"),
    ]
