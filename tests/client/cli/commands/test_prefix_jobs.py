"""`warm`, `purge`, `invalidate`, `pin`, `unpin`."""

from __future__ import annotations

import json

import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import AccessDenied
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run

KEYS = ["k", "logs/1", "logs/2"]


@pytest.fixture(autouse=True)
def objects(cluster: MemoryCluster) -> None:
    """Some objects, which no node has read."""
    cluster.add({key: b"value" for key in KEYS})


def outcomes(run: Run) -> list[str]:
    return [json.loads(run("get", key, "-o", "json").stdout)["outcome"] for key in KEYS]


def test_objects_are_warmed(run: Run) -> None:
    assert run("warm", "logs/", "--dry-run").stdout == "2\t10\t0\t0\t0\t0\t0\n"
    assert run("warm", "logs/").stdout == "2\t10\t0\t0\t0\t0\t0\n"
    again = run("warm", "", "-o", "json", "--rate", "10")
    assert json.loads(again.stdout) == {
        "warmed": 1,
        "bytes": 5,
        "present": 2,
        "too_large": 0,
        "no_room": 0,
        "absent": 0,
        "failed": 0,
        "listed": 3,
        "stopped": "",
        "error": "",
        "nodes": {"127.0.0.1:50051": 1},
    }
    assert run("warm", "none/", "-o", "table").stdout == "warm: 0 objects of 0 B\n"
    assert outcomes(run) == ["hit", "hit", "hit"]


@pytest.mark.parametrize("command", ["purge", "invalidate"])
def test_what_nodes_have_is_swept(run: Run, command: str) -> None:
    run("warm", "")
    assert run(command, "logs/", "--dry-run").stdout == "2\t10\t0\n"
    assert outcomes(run) == ["hit", "hit", "hit"]
    assert run(command, "logs/", "-o", "table").stdout == f"{command}: 2 entries of 10 B\n"
    assert outcomes(run) == ["hit", "miss", "miss"]
    swept = json.loads(run(command, "", "-o", "json").stdout)
    assert swept == {"changed": 3, "bytes": 15, "dirty": 0, "nodes": {"127.0.0.1:50051": 3}}


@pytest.mark.parametrize("command", ["pin", "unpin"])
def test_what_nodes_have_is_pinned_and_unpinned(run: Run, command: str) -> None:
    run("warm", "")
    assert run(command, "logs/", "--dry-run").stdout == "2\t10\t0\n"
    assert run(command, "logs/", "-o", "table").stdout == f"{command}: 2 entries of 10 B\n"
    assert outcomes(run) == ["hit", "hit", "hit"]


def test_a_prefix_and_a_rate_must_be_named_well(run: Run) -> None:
    for arguments in ((), ("a", "b"), ("a", "--rate", "0"), ("a", "--rate", "x")):
        assert run("warm", *arguments).exit_code == 2
        assert run("purge", *arguments).exit_code == 2


def test_objects_that_failed_are_an_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    response = pb.WarmResponse(failed=2, error="S3 get of bucket/logs/1: AccessDenied")
    monkeypatch.setattr(MemoryCluster, "respond", _responding(response))
    done = run("warm", "logs/")
    assert done.exit_code == 1
    assert "milena: 2 objects failed: S3 get of bucket/logs/1: AccessDenied" in done.stderr


def test_an_end_before_the_end_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    response = pb.WarmResponse(no_room=1000)
    monkeypatch.setattr(MemoryCluster, "respond", _responding(response))
    done = run("warm", "logs/")
    assert done.exit_code == 0
    assert "milena: ended after 2 objects: the memory of the nodes is full" in done.stderr


def test_an_interruption_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("warm", "")
    respond = MemoryCluster.respond
    calls: list[pb.SweepRequest] = []

    def interrupted(self: MemoryCluster, method: str, request: pb.SweepRequest) -> pb.SweepResponse:
        calls.append(request)
        if len(calls) == 2:
            raise KeyboardInterrupt
        response = respond(self, method, request)
        assert isinstance(response, pb.SweepResponse)
        response.done = False
        return response

    monkeypatch.setattr(MemoryCluster, "respond", interrupted)
    done = run("purge", "logs/")
    assert done.exit_code == 130
    assert done.stderr == "milena: interrupted; purge: 2 entries of 10 B, 0.0 s\n"
    assert [request.end for request in calls] == [False, False, True], "the nodes need not wait for its end"


def test_an_error_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: MemoryCluster, method: str, request: object) -> None:
        raise AccessDenied("no")

    monkeypatch.setattr(MemoryCluster, "respond", denied)
    done = run("purge", "logs/")
    assert done.exit_code == 1
    assert done.stderr == "milena: ended early; purge: nothing is known to be done, 0.0 s\nmilena: no\n"


def _responding(response: pb.WarmResponse):  # type: ignore[no-untyped-def]
    respond = MemoryCluster.respond

    def reply(self: MemoryCluster, method: str, request: object) -> object:
        return response if isinstance(request, pb.WarmRequest) else respond(self, method, request)

    return reply
