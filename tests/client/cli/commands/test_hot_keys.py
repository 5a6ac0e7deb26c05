"""`hotkeys`."""

from __future__ import annotations

import json

import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.methods import HOT_KEYS
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run


def reply_with(monkeypatch: pytest.MonkeyPatch, cluster: MemoryCluster, responses: dict[str, object]) -> None:
    """Have methods of the cluster reply with these responses."""
    for name, response in responses.items():
        monkeypatch.setitem(cluster._methods, name, lambda request, response=response: response)


def test_hot_keys_are_shown(run: Run, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    hot = [
        pb.HotKey(key=b"a", reads=30, read_bytes=10),
        pb.HotKey(key=b"b", bucket="other", reads=10, read_bytes=70),
    ]
    node = pb.NodeHotKeys(address="a:1", seconds=10, reads=60, read_bytes=100, by_reads=hot, by_bytes=hot[::-1])
    reply_with(monkeypatch, cluster, {HOT_KEYS.name: pb.HotKeysResponse(nodes=[node])})
    assert run("hotkeys").stdout == "a\t\t30\t10\t0.5\ta:1\nb\tother\t10\t70\t0.166666666666667\ta:1\n"
    assert run("hotkeys", "--by", "bytes", "--limit", "1").stdout == "b\tother\t10\t70\t0.7\ta:1\n"
    assert run("hotkeys", "-o", "table").stdout.splitlines()[1].split() == [
        "a",
        "default",
        "30",
        "10",
        "B",
        "50.0%",
        "a:1",
    ]
    found = json.loads(run("hotkeys", "-o", "json").stdout)
    assert (found["reads"], found["read_bytes"], len(found["keys"])) == (60, 100, 2)
    lost = pb.NodeHotKeys(address="b:1", error="cannot be reached")
    reply_with(monkeypatch, cluster, {HOT_KEYS.name: pb.HotKeysResponse(nodes=[node, lost])})
    shown = run("hotkeys")
    assert (shown.exit_code, shown.stderr) == (1, "milena: node b:1: cannot be reached\n")
    assert shown.stdout


def test_a_cluster_without_reads_has_no_hot_key(run: Run) -> None:
    assert run("hotkeys").stdout == ""
