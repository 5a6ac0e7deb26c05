"""`writeback status|flush|failed|retry|drop`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from click.testing import CliRunner, Result
from google.protobuf.message import Message

from milena_client.admin import NodeStats
from milena_client.cli.app import milena
from milena_client.cli.commands.writeback import status_rows, status_total
from milena_client.cli.terminal.session import Session
from milena_client.testing import FakeClock
from milena_client.testing.memory_cluster import NODE, MemoryCluster
from milena_common.api.errors import NodeLost, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run
from tests.client.router import router
from tests.client.scripted import Reply, Script, ScriptedTransport

RunScripted = Callable[..., tuple[Result, Script]]


@pytest.fixture
def run_scripted(monkeypatch: pytest.MonkeyPatch) -> RunScripted:
    """Runs `milena writeback` with arguments against a cluster that replies with what is given."""
    monkeypatch.delenv("MILENA_URL", raising=False)

    def invoke(*arguments: str, replies: list[Reply], input: str | None = None) -> tuple[Result, Script]:
        script = Script(FakeClock(), *replies)
        session: Any = Session(transport=ScriptedTransport(script), clock=FakeClock())
        return CliRunner().invoke(milena, ["writeback", *arguments], input=input, obj=session), script

    return invoke


BUSY = {
    "dirty_entries": 1200.0,
    "dirty_bytes": 3 * 2**20,
    "dirty_limit_bytes": 2**30,
    "dirty_oldest_seconds": 12.5,
    "dead_letters": 2.0,
    "journal_full": 1.0,
    "writeback_last_success_timestamp": 1000.0,
}
STATS = pb.StatsResponse(
    nodes=[
        pb.NodeStats(address="a:1", values=BUSY),
        pb.NodeStats(address="b:1", values={"dirty_limit_bytes": 2**30}),
        pb.NodeStats(address="c:1", error="cannot be reached"),
    ]
)


# ---- status


def test_status_has_a_row_for_each_node(run_scripted: RunScripted) -> None:
    result, _ = run_scripted("status", replies=[STATS])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "a:1\t1200\t3145728\t1073741824\t12.5\t2\t1\t1000\tready\n"
        "b:1\t0\t0\t1073741824\t0\t0\t0\t0\tready\n"
        "c:1\t0\t0\t0\t0\t0\t0\t0\tcannot be reached\n"
    )
    table, _ = run_scripted("status", "-o", "table", replies=[STATS])
    header, first, second, third, total = table.stdout.splitlines()
    assert header.split("  ")[0] == "NODE"
    for part in ("1,200", "3.0 MiB", "1.0 GiB", "12.5 s", "full", " d ago", "ready"):
        assert part in first
    assert "ok" in second
    assert "never" in second
    assert "cannot be reached" in third
    assert total.startswith("all")
    assert "2.0 GiB" in total


def test_status_as_json(run_scripted: RunScripted) -> None:
    shown = json.loads(run_scripted("status", "-o", "json", replies=[STATS])[0].stdout)
    assert shown["nodes"][0] == {
        "address": "a:1",
        "entries": 1200.0,
        "bytes": 3 * 2**20,
        "limit_bytes": 2**30,
        "dead_letters": 2.0,
        "oldest_seconds": 12.5,
        "journal_full": 1.0,
        "last_success": 1000.0,
        "state": "ready",
    }
    assert [node["state"] for node in shown["nodes"]] == ["ready", "ready", "cannot be reached"]
    assert shown["total"]["limit_bytes"] == 2**31


def test_all_nodes_together() -> None:
    rows = status_rows(
        [
            NodeStats("a:1", {"dirty_entries": 1.0, "dirty_oldest_seconds": 5.0}, "", ""),
            NodeStats("b:1", {"dirty_entries": 2.0, "dirty_oldest_seconds": 3.0, "journal_full": 1.0}, "", ""),
        ]
    )
    total = status_total(rows)
    assert (total["entries"], total["oldest_seconds"], total["journal_full"]) == (3.0, 5.0, 1.0)
    assert status_total([])["oldest_seconds"] == 0.0


def test_status_of_a_cluster_that_reports_nothing_yet(run: Run) -> None:
    assert run("writeback", "status").stdout == f"{NODE}\t0\t0\t0\t0\t0\t0\t0\tready\n"


# ---- flush


def test_flush_of_everything_and_of_keys(run_scripted: RunScripted) -> None:
    result, script = run_scripted("flush", replies=[pb.FlushResponse(flushed=3)])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "3\t0\t0\n", "")
    assert (script.requests, script.timeouts) == ([pb.FlushRequest()], [60.0])
    result, script = run_scripted(
        "flush", "k", "l", "--bucket", "logs", "--timeout", "5", replies=[pb.FlushResponse()]
    )
    assert result.exit_code == 0
    assert (script.requests, script.timeouts) == ([pb.FlushRequest(keys=[b"k", b"l"], bucket="logs")], [5.0])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (pb.FlushResponse(remaining=4, flushed=1), "milena: 4 writes are not in S3 after 60 s\n"),
        (pb.FlushResponse(failed=2), "milena: S3 has rejected 2 writes permanently: milena writeback failed\n"),
    ],
)
def test_a_flush_that_leaves_something_is_a_failure(
    run_scripted: RunScripted, reply: pb.FlushResponse, message: str
) -> None:
    result, _ = run_scripted("flush", "-o", "json", replies=[reply])
    assert (result.exit_code, result.stderr) == (1, message)
    assert json.loads(result.stdout) == {
        "remaining": reply.remaining,
        "failed": reply.failed,
        "flushed": reply.flushed,
    }
    assert "REMAINING" in run_scripted("flush", "-o", "table", replies=[reply])[0].stdout


def test_a_flush_that_cannot_reach_a_node(run_scripted: RunScripted) -> None:
    result, _ = run_scripted("flush", replies=[NodeLost("node a:1 cannot be reached")])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (3, "milena: node a:1 cannot be reached")


# ---- failed


LETTERS = pb.ListDeadLettersResponse(
    writes=[
        pb.FailedWrite(
            key=b"a b",
            operation="put",
            size=2048,
            version="7-1",
            reason="403 AccessDenied",
            failed_at=86_400.0,
            node="a:1",
        ),
        pb.FailedWrite(
            key="ü".encode(),
            bucket="logs",
            operation="delete",
            version="7-2",
            reason="400",
            failed_at=1.5,
            node="b:1",
        ),
    ],
    total=2,
)


def test_failed_is_one_a_line(run_scripted: RunScripted) -> None:
    result, script = run_scripted("failed", replies=[LETTERS])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "a b\t\tput\t2048\t7-1\t86400\ta:1\t403 AccessDenied\nü\tlogs\tdelete\t0\t7-2\t1.5\tb:1\t400\n"
    )
    assert script.requests == [pb.ListDeadLettersRequest(limit=1000)]


def test_failed_for_people_and_programs(run_scripted: RunScripted) -> None:
    table = run_scripted("failed", "-o", "table", replies=[LETTERS])[0].stdout
    for part in ("REASON", "default", "2.0 KiB", "1970-01-02 00:00:00", "403 AccessDenied"):
        assert part in table
    shown = json.loads(run_scripted("failed", "-o", "json", replies=[LETTERS])[0].stdout)
    assert shown["total"] == 2
    assert shown["writes"][1] == {
        "key": "ü",
        "bucket": "logs",
        "operation": "delete",
        "size": 0,
        "version": "7-2",
        "reason": "400",
        "failed_at": 1.5,
        "node": "b:1",
    }


def test_failed_says_when_there_are_more(run_scripted: RunScripted) -> None:
    more = pb.ListDeadLettersResponse(writes=LETTERS.writes[:1], total=9)
    result, script = run_scripted("failed", "--limit", "1", replies=[more])
    assert (result.exit_code, result.stderr) == (0, "milena: 8 more; see --limit\n")
    assert script.requests == [pb.ListDeadLettersRequest(limit=1)]


def test_failed_of_nothing(run: Run) -> None:
    result = run("writeback", "failed")
    assert (result.exit_code, result.output) == (0, "")
    assert json.loads(run("writeback", "failed", "-o", "json").stdout) == {"total": 0, "writes": []}


# ---- retry, drop


def test_retry_of_keys_and_of_all(run_scripted: RunScripted) -> None:
    result, script = run_scripted("retry", "k", "l", replies=[pb.ResolveDeadLettersResponse(resolved=2)])
    assert (result.exit_code, result.output) == (0, "failed writes to be uploaded again: 2\n")
    assert script.requests == [pb.ResolveDeadLettersRequest(action="retry", keys=[b"k", b"l"])]
    result, script = run_scripted(
        "retry", "--all", "-o", "json", replies=[pb.ResolveDeadLettersResponse(resolved=9)]
    )
    assert json.loads(result.stdout) == {"settled": 9}
    assert script.requests == [pb.ResolveDeadLettersRequest(action="retry", all=True)]


def test_drop_with_yes(run_scripted: RunScripted) -> None:
    result, script = run_scripted("drop", "k", "--yes", replies=[pb.ResolveDeadLettersResponse(resolved=1)])
    assert (result.exit_code, result.output) == (0, "failed writes dropped: 1\n")
    assert script.requests == [pb.ResolveDeadLettersRequest(action="drop", keys=[b"k"])]


def test_keys_without_failed_writes_are_not_found(run_scripted: RunScripted) -> None:
    for action in (["retry"], ["drop", "--yes"]):
        result, _ = run_scripted(*action, "k", replies=[pb.ResolveDeadLettersResponse()])
        assert result.exit_code == 4
        assert result.stderr == "milena: there are no failed writes of these keys\n"
        assert run_scripted(*action, "--all", replies=[pb.ResolveDeadLettersResponse()])[0].exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["retry"], ["retry", "k", "--all"], ["drop", "--yes"], ["drop", "k"], ["drop", "--all"]]
)
def test_dead_letters_to_resolve_must_be_named(run_scripted: RunScripted, arguments: list[str]) -> None:
    result, script = run_scripted(*arguments, replies=[pb.ResolveDeadLettersResponse(resolved=1)], input="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert script.requests == []


@pytest.mark.parametrize("arguments", [["status"], ["flush"], ["failed"], ["retry", "k"], ["drop", "k", "--yes"]])
def test_a_cluster_that_cannot_serve_is_exit_code_3(run: Run, cluster: MemoryCluster, arguments: list[str]) -> None:
    cluster.fail_with(Unavailable("no router"), times=None)
    assert run("writeback", *arguments).exit_code == 3


# ---- on a terminal


def milena_on_a_terminal(address: str, *arguments: str, typed: bytes = b"") -> tuple[int, str, str]:
    """(exit code, stdout, what the terminal showed) of a command whose stdin and stderr are a terminal."""
    ours, theirs = os.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "milena_client.cli", "writeback", *arguments, "--url", f"milena://{address}"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # EIO: no process has it open any more
            while True:
                shown.append(os.read(ours, 4096))

    reader = threading.Thread(target=read)
    reader.start()
    os.write(ours, typed)
    out, _ = command.communicate(timeout=30)
    reader.join(30)
    os.close(ours)
    return command.returncode, out.decode(), b"".join(shown).decode()


@pytest.mark.parametrize(("typed", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_drop_prompts_on_a_terminal(typed: bytes, code: int) -> None:
    dropped: list[pb.ResolveDeadLettersRequest] = []

    def reply(method: str, request: Any, _: Any) -> Message:
        if method == "ListDeadLetters":
            return pb.ListDeadLettersResponse(total=12)
        dropped.append(request)
        return pb.ResolveDeadLettersResponse(resolved=12)

    with router(reply) as address:
        finished, out, shown = milena_on_a_terminal(address, "drop", "--all", typed=typed)
    assert finished == code
    assert "Drop all 12 failed writes? These writes are nowhere else." in shown
    assert dropped == ([pb.ResolveDeadLettersRequest(action="drop", all=True)] if code == 0 else [])
    assert out == ("failed writes dropped: 12\n" if code == 0 else "")


def test_flush_shows_on_a_terminal_what_remains() -> None:
    looked = threading.Semaphore(0)

    def reply(method: str, _: Any, __: Any) -> Message:
        if method == "Stats":
            looked.release()
            return STATS
        # The figures of the first look are drawn before the second.
        for _ in range(2):
            looked.acquire(timeout=20)
        return pb.FlushResponse(flushed=1200)

    with router(reply) as address:
        code, out, shown = milena_on_a_terminal(address, "flush")
    assert (code, out) == (0, "1200\t0\t0\n")
    assert "1,200 writes remaining, 3.0 MiB" in shown
