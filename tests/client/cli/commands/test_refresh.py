"""`refresh`."""

from __future__ import annotations

import json

import pytest

from milena_client.admin import Admin
from milena_client.cli.commands.refresh import KEYS_AT_ONCE, parts
from milena_client.testing import MemoryTransport
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import InvalidRequest
from tests.client.cli.conftest import Run


@pytest.fixture(autouse=True)
def warm(run: Run, cluster: MemoryCluster) -> None:
    """Some objects, which the node has read."""
    keys = ["k", "logs/1", "logs/2", "log"]
    cluster.add({key: b"v" for key in keys})
    for key in keys:
        run("get", key)


def test_keys_and_what_is_below_a_prefix(run: Run) -> None:
    assert run("refresh", "k", "never-read").stdout == "1\t0\n"
    assert run("refresh", "logs/").stdout == "2\t0\n"
    assert json.loads(run("refresh", "log", "-o", "json").stdout) == {"refreshed": 1, "dirty": 0}
    assert "KEPT" in run("refresh", "k", "-o", "table").stdout


def test_any_prefix_also_the_empty_one(run: Run) -> None:
    assert run("refresh", "--prefix", "lo").stdout == "3\t0\n"
    assert run("refresh", "--prefix", "").stdout == "1\t0\n"


def test_the_object_is_read_anew_and_still_there(run: Run) -> None:
    run("refresh", "k")
    assert json.loads(run("get", "k", "-o", "json").stdout)["outcome"] == "miss"


def test_keys_on_stdin(run: Run) -> None:
    assert run("refresh", "-", input="k\nlogs/\n\n").stdout == "3\t0\n"


def test_something_must_be_named(run: Run) -> None:
    assert run("refresh").exit_code == 2
    assert run("refresh", "").exit_code == 2, "the empty key; the empty prefix wants --prefix"


def test_many_keys_are_several_calls() -> None:
    keys = [f"k{number}" for number in range(2 * KEYS_AT_ONCE + 1)]
    groups, prefixes = parts([*keys, "p/"], prefixes=False)
    assert [len(group) for group in groups] == [KEYS_AT_ONCE, KEYS_AT_ONCE, 1]
    assert [key for group in groups for key in group] == keys
    assert prefixes == ["p/"]
    assert parts(["a", "b/"], prefixes=True) == ([], ["a", "b/"])


def test_an_operator_says_which(cluster: MemoryCluster) -> None:
    cluster.closed = False
    admin = Admin(transport=MemoryTransport(cluster))
    for keys, prefix in (((), None), (("k",), "p")):
        with pytest.raises(InvalidRequest, match="keys, prefix"):
            admin.refresh(keys, prefix=prefix)
    assert admin.refresh(prefix=b"").refreshed == 4
