"""Which way the command line goes: straight to the nodes where it may, and saying so when it has to wait."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from milena_client.cli.app import milena
from milena_client.cli.terminal.session import Session
from milena_client.testing import FakeClock, MemoryTransport
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import MilenaError, NodeLost, NodeUnreachable, RateLimited, Unavailable
from tests.client.cli.conftest import Run
from tests.client.direct_cluster import DirectCluster

FILES = 400


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster(lambda: 0.0)


@pytest.fixture
def nodes() -> Iterator[DirectCluster]:
    with DirectCluster(3) as nodes:
        yield nodes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(FILES):
        (tmp_path / f"f{number:03}").write_bytes(b"v")
    return tmp_path


def put(nodes: DirectCluster, folder: Path, query: str = "") -> Result:
    url = f"milena://{nodes.address}{query}"
    return CliRunner().invoke(milena, ["--url", url, "put", str(folder), "--prefix", "d/"], obj=Session())


def test_many_files_go_straight_to_the_nodes(nodes: DirectCluster, folder: Path) -> None:
    result = put(nodes, folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert nodes.requested.count("Put") < FILES / 2, "only until the ring is known"
    assert nodes.sent(b"MILENA.CALL") + nodes.requested.count("Put") == FILES


def test_a_url_can_have_everything_go_through_the_router(nodes: DirectCluster, folder: Path) -> None:
    result = put(nodes, folder, "?direct=false")
    assert (result.exit_code, result.stderr) == (0, "")
    assert nodes.requested.count("Put") == FILES
    assert (nodes.sent(b"MILENA.CALL"), nodes.watched) == (0, 0)


def test_a_rate_limit_that_slows_a_command_down_is_said_once(run: Run, cluster: MemoryCluster) -> None:
    cluster.fail_with(RateLimited("over the router's limit", 0.05), times=10)
    result = run("rm", *[f"k{number}" for number in range(30)])
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "milena: over the router's limit; waiting for it (RATE_LIMIT of the router and of the nodes)"
    ]


def test_one_hiccup_is_not_said(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"k": b"v"})
    cluster.fail_with(Unavailable("no answer"), times=1)
    result = run("get", "k")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "v", "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["get", "k"], NodeLost("node n:1 is gone")),
        (["get", "k"], Unavailable("the router cannot be reached")),
        (["put", "k", "-"], NodeUnreachable("no connection to node n:1")),
        (["ls"], Unavailable("the router cannot be reached")),
        (["stats"], Unavailable("the router cannot be reached")),
    ],
)
def test_a_command_outlasts_the_loss_of_a_node_and_says_that_it_tries(
    arguments: list[str], error: MilenaError, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease, 5 s by default, passes before the slots of a lost node have another owner."""
    monkeypatch.delenv("MILENA_URL", raising=False)
    cluster.add({"k": b"v"})
    clock = FakeClock()
    cluster.fail_with(error, times=None)

    class Lease(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time >= 5.5:
                cluster.fail_with(error, times=0)

    clock = Lease()
    session = Session(transport=MemoryTransport(cluster), clock=clock)
    result = CliRunner().invoke(milena, arguments, input=b"v", obj=session)
    assert (result.exit_code, clock.time >= 5.5) == (0, True), result.output
    assert result.stderr == f"milena: {error}; still trying\n"
