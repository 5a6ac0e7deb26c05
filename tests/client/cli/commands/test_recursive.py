"""Commands of many objects: `put DIR`, `get --many`, `get --recursive`, `rm --recursive`, and what they report."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from milena_client.testing import MemoryTransport
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import AccessDenied, NodeLost, RateLimited
from milena_common.api.etags import etag_of
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.cli.conftest import Run
from tests.client.router import router


def files(directory: str) -> dict[str, bytes]:
    root = Path(directory)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


Intercept = Callable[[Callable[[str, Any], Message | None]], None]


@pytest.fixture
def intercept(monkeypatch: pytest.MonkeyPatch) -> Intercept:
    """Has a function see each call (method, request) first: it may raise, reply, or return None to let it pass."""

    def install(first: Callable[[str, Any], Message | None]) -> None:
        class Intercepted(MemoryTransport):
            def call(self, method: str, request: Message, timeout: float) -> Message:
                return first(method, request) or super().call(method, request, timeout)

        monkeypatch.setattr("tests.client.cli.conftest.MemoryTransport", Intercepted)

    return install


def make(directory: str, contents: dict[str, bytes]) -> None:
    for name, value in contents.items():
        Path(directory, name).parent.mkdir(parents=True, exist_ok=True)
        Path(directory, name).write_bytes(value)


def test_put_a_directory_says_what_it_did_in_each_format(run: Run) -> None:
    make("src", {"a": b"1", "d/b": b"23"})
    raw = run("put", "src", "--prefix", "p/")
    assert sorted(raw.stdout.splitlines()) == [
        f"p/a\t1\t{etag_of(b'1')}\t127.0.0.1:50051\tback",
        f"p/d/b\t2\t{etag_of(b'23')}\t127.0.0.1:50051\tback",
    ]
    assert run("put", "src", "-o", "table").stdout == "put: 2 objects, 3 B, 0.0 s\n"
    document = json.loads(run("put", "src", "-o", "json").stdout)
    assert document == {"objects": 2, "bytes": 3, "seconds": 0.0, "failed": 0}


def test_put_of_an_empty_directory_says_so(run: Run) -> None:
    Path("src").mkdir()
    result = run("put", "src", "-o", "table")
    assert (result.exit_code, result.output) == (0, "put: 0 objects, 0 B, 0.0 s\n")


def test_failures_are_counted_beside_what_was_done(run: Run) -> None:
    make("src", {"new": b"1", "old": b"2"})
    run("put", "old", "-", input="0")
    result = run("put", "src", "--if-none-match", "*", "-o", "table")
    assert (result.exit_code, result.stdout) == (1, "put: 1 object, 1 B, 0.0 s, 1 failed\n")
    assert result.stderr == "milena: src/old: if_none_match: there is such an object\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read_is_a_failure_and_not_skipped_in_silence(run: Run) -> None:
    make("src", {"a": b"1", "locked/b": b"2"})
    Path("src/locked").chmod(0)
    result = run("put", "src")
    Path("src/locked").chmod(0o700)
    assert (result.exit_code, result.stderr) == (1, "milena: src/locked: Permission denied\n")


def test_put_with_a_time_to_live(run: Run) -> None:
    assert run("put", "k", "-", "--ttl", "90.5", input="v").exit_code == 0
    assert json.loads(run("get", "k", "-o", "json").stdout)["ttl"] == 90.5
    assert "1.5 min" not in run("get", "k", "-o", "table").stdout
    assert "90.5 s" in run("get", "k", "-o", "table").stdout
    make("src", {"a": b"1"})
    assert run("put", "src", "--ttl", "60").exit_code == 0
    assert json.loads(run("get", "a", "-o", "json").stdout)["ttl"] == 60.0
    run("put", "k", "-", input="v")
    assert json.loads(run("get", "k", "-o", "json").stdout)["ttl"] is None


@pytest.mark.parametrize("ttl", ["0", "-1", "nan", "inf", "1h", "1e12"])
def test_a_time_to_live_that_is_none_is_said_once(run: Run, ttl: str) -> None:
    make("src", {"a": b"1", "b": b"2"})
    for arguments in (["put", "src"], ["put", "k", "-"]):
        result = run(*arguments, "--ttl", ttl, input="v")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("ttl") <= 3
    assert run("ls").stdout == ""


def test_get_recursive_is_the_inverse_of_put_with_a_prefix(run: Run) -> None:
    contents = {"a.md": b"1", "d/b.md": b"22", "d/e/ü": b""}
    make("src", contents)
    run("put", "src", "--prefix", "docs/")
    run("put", "other", "-", input="x")
    result = run("get", "docs/", "--recursive", "--to", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert files("out") == contents
    assert sorted(result.stdout.splitlines()) == [
        "docs/a.md\t1\tout/a.md",
        "docs/d/b.md\t2\tout/d/b.md",
        "docs/d/e/ü\t0\tout/d/e/ü",
    ]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("docs/d", ["d/b", "dx"]), ("docs", ["docs/d/b", "docs/dx", "docs2"]), ("", ["docs/d/b", "docs/dx", "docs2"])],
)
def test_what_a_prefix_means_when_it_does_not_end_with_a_slash(
    run: Run, cluster: MemoryCluster, prefix: str, expected: list[str]
) -> None:
    cluster.add({"docs/d/b": b"1", "docs/dx": b"2", "docs2": b"3"})
    assert run("get", prefix, "-r", "--to", "out").exit_code == 0
    assert sorted(files("out")) == expected


def test_get_recursive_totals(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({f"p/{number:04}": b"12" for number in range(1500)})
    assert run("get", "p/", "-r", "--to", "out", "-o", "table").stdout == "get: 1,500 objects, 2.9 KiB, 0.0 s\n"
    document = json.loads(run("get", "p/", "-r", "--to", "out", "-o", "json").stdout)
    assert document == {"objects": 1500, "bytes": 3000, "seconds": 0.0, "absent": 0, "failed": 0}
    assert len(files("out")) == 1500


@pytest.mark.parametrize("key", ["p/../../out", "p//abs", "p/a/", "p/a/../b", "p/./a"])
def test_get_recursive_never_writes_outside_the_directory(
    run: Run, cluster: MemoryCluster, tmp_path: Path, key: str
) -> None:
    cluster.add({key: b"x", "p/good": b"1"})
    result = run("get", "p/", "-r", "--to", "d")
    assert result.exit_code == 2
    assert "cannot be a file name" in result.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["d/good"]


def test_a_link_below_the_directory_leads_nothing_out_of_it(run: Run, cluster: MemoryCluster) -> None:
    make(".", {"secret/passwd": b"mine", "d/keep": b""})
    Path("d/link").symlink_to("../secret")
    Path("d/file").symlink_to("../secret/passwd")
    cluster.add({"link/passwd": b"theirs", "link/deep/er": b"theirs", "file": b"new"})
    result = run("get", "", "-r", "--to", "d")
    assert result.exit_code == 2
    assert result.stderr.count("a symbolic link leads out of d") == 2
    assert files("secret") == {"passwd": b"mine"}
    assert (Path("d/file").is_symlink(), Path("d/file").read_bytes()) == (False, b"new")


def test_files_that_are_there_are_replaced_as_a_whole_and_nothing_is_left_over(
    run: Run, cluster: MemoryCluster
) -> None:
    make("out", {"a": b"a longer old value"})
    Path("out/b").mkdir(parents=True)
    cluster.add({"a": b"new", "b": b"cannot replace a directory"})
    result = run("get", "", "-r", "--to", "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("milena: b: ")
    assert files("out") == {"a": b"new"}


def test_objects_that_stand_for_folders_become_directories(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"p/": b"", "p/empty/": b"", "p/d/": b"", "p/d/a": b"1"})
    result = run("get", "p/", "-r", "--to", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("out/empty").is_dir()
    assert files("out") == {"d/a": b"1"}


def test_get_recursive_of_nothing_is_not_found(run: Run) -> None:
    result = run("get", "p/", "-r", "--to", "out")
    assert (result.exit_code, result.stdout, result.stderr) == (4, "", "milena: no key begins with 'p/'\n")
    assert not Path("out").exists()


def test_an_object_that_ended_after_it_was_listed_is_no_failure(
    run: Run, cluster: MemoryCluster, intercept: Intercept
) -> None:
    cluster.add({"p/a": b"1"})
    intercept(lambda method, _: pb.GetResponse() if method == "Get" else None)
    result = run("get", "p/", "-r", "--to", "out", "-o", "table")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "get: 0 objects, 0 B, 0.0 s, 1 listed that do not exist any more\n"


def test_rm_recursive_deletes_what_begins_with_the_prefix(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"docs/a": b"", "docs/d/b": b"", "docs.txt": b"", "other": b""})
    result = run("rm", "docs/", "--recursive", "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(result.stdout.split()) == ["docs/a", "docs/d/b"]
    assert run("ls").stdout.split() == ["docs.txt", "other"]
    assert run("rm", "docs", "-r", "-y", "-o", "table").stdout == "rm: 1 object, 0.0 s\n"
    assert json.loads(run("rm", "docs", "-ry", "-o", "json").stdout) == {"objects": 0, "seconds": 0.0, "failed": 0}
    assert run("ls").stdout.split() == ["other"]


def test_rm_recursive_over_several_pages(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({f"p/{number:04}": b"" for number in range(2500)})
    assert run("rm", "p/", "-ry", "-o", "table").stdout == "rm: 2,500 objects, 0.0 s\n"
    assert run("ls").stdout == ""


def test_rm_recursive_requires_yes_without_a_terminal(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"p/a": b""})
    result = run("rm", "p/", "-r", input="y\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "wants --yes" in result.stderr
    assert run("ls", "-r").stdout == "p/a\n"


def on_terminal(reply: bytes, *arguments: str) -> tuple[int, str]:
    """Run `milena` with a terminal for input, which types `reply`; return the exit code and what stderr says."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, reply)
        command = [sys.executable, "-m", "milena_client.cli", *arguments]
        ran = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False, timeout=60)
    finally:
        os.close(theirs)
        os.close(ours)
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(("reply", "exit_code", "left"), [(b"y\n", 0, 0), (b"n\n", 1, 3), (b"\x04", 1, 3)])
def test_rm_recursive_prompts_on_a_terminal_with_a_count_and_a_key(reply: bytes, exit_code: int, left: int) -> None:
    cluster = MemoryCluster(lambda: 0.0)
    cluster.add({f"p/{number}": b"12" for number in range(3)})
    with router(lambda method, request, _: cluster.respond(method, request)) as address:
        code, said = on_terminal(reply, "rm", "p/", "-r", "--url", f"milena://{address}?direct=false")
    assert code == exit_code
    assert "Delete 3 objects, 6 B, whose keys begin with 'p/' (the first is 'p/0'), in S3 too? [y/N]" in said
    listing = cluster.respond("List", pb.ListRequest())
    assert isinstance(listing, pb.ListResponse)
    assert len(listing.objects) == left


def test_the_question_does_not_wait_for_a_long_listing() -> None:
    cluster = MemoryCluster(lambda: 0.0)
    cluster.add({f"p/{number:05}": b"" for number in range(5000)})
    pages: list[str] = []

    def reply(method: str, request: Any, _: Any) -> Message:
        pages.append(method)
        return cluster.respond(method, request)

    with router(reply) as address:
        code, said = on_terminal(b"n\n", "rm", "p/", "-r", "--url", f"milena://{address}?direct=false")
    assert code == 1
    assert "Delete more than 1,000 objects whose" in said
    assert pages.count("List") == 2


def test_rm_says_that_a_rate_limit_slows_it_down(run: Run, cluster: MemoryCluster, intercept: Intercept) -> None:
    cluster.add({f"p/{number}": b"" for number in range(30)})
    rejections = iter(range(10))

    def limited(method: str, _: Any) -> None:
        if method == "Delete" and next(rejections, None) is not None:
            raise RateLimited("over the router's limit", 0.05)

    intercept(limited)
    result = run("rm", "p/", "-ry")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 30
    assert result.stderr.splitlines() == [
        "milena: over the router's limit; waiting for it (RATE_LIMIT of the router and of the nodes)"
    ]


def test_failures_of_rm_are_listed_and_the_others_go_on(
    run: Run, cluster: MemoryCluster, intercept: Intercept
) -> None:
    cluster.add({f"p/{number}": b"" for number in range(3)})

    def lossy(method: str, request: Any) -> None:
        if method == "Delete" and request.key == b"p/1":
            raise NodeLost("node n:1 is gone")

    intercept(lossy)
    result = run("rm", "p/", "-ry", "-o", "table")
    assert (result.exit_code, result.stdout) == (3, "rm: 2 objects, 0.0 s, 1 failed\n")
    assert "milena: p/1: node n:1 is gone" in result.stderr
    assert run("ls", "-r").stdout == "p/1\n"


def test_a_listing_that_fails_half_way_reports_what_was_done(
    run: Run, cluster: MemoryCluster, intercept: Intercept
) -> None:
    cluster.add({f"p/{number:04}": b"" for number in range(1500)})

    def broken(method: str, request: Any) -> None:
        if method == "List" and request.cursor:
            raise AccessDenied("S3 refuses to list")

    intercept(broken)
    result = run("rm", "p/", "-ry", "-o", "table")
    assert (result.exit_code, result.stdout) == (1, "")
    finished, reason = result.stderr.splitlines()
    assert re.fullmatch(r"milena: ended early; rm: 1,000 objects, .*", finished)
    assert reason == "milena: S3 refuses to list"


@pytest.mark.parametrize(("remaining", "failed"), [(2, 1), (0, 3), (3, 0)])
def test_writes_that_the_listing_cannot_show_yet_are_reported(
    run: Run, cluster: MemoryCluster, intercept: Intercept, remaining: int, failed: int
) -> None:
    cluster.add({"p/a": b""})
    reply = pb.FlushResponse(remaining=remaining, failed=failed)
    intercept(lambda method, _: reply if method == "Flush" else None)
    for arguments in (["get", "p/", "-r", "--to", "out"], ["rm", "p/", "-ry"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "may be missing from the listing: 3 writes are not in S3" in result.stderr


def test_a_node_that_cannot_say_what_it_has_stops_no_listing(
    run: Run, cluster: MemoryCluster, intercept: Intercept
) -> None:
    cluster.add({"p/a": b""})

    def lost(method: str, _: Any) -> None:
        if method == "Flush":
            raise NodeLost("the node is lost")

    intercept(lost)
    result = run("rm", "p/", "-ry")
    assert (result.exit_code, result.stdout) == (1, "p/a\n")
    assert "may be missing from the listing: the node is lost" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "p", "-r"],
        ["get", "-r", "--to", "d"],
        ["get", "p", "q", "-r", "--to", "d"],
        ["get", "p", "-r", "--many", "--to", "d"],
        ["get", "p", "-r", "--to", "d", "-f", "f"],
        ["get", "p\0", "-r", "--to", "d"],
        ["rm", "", "-r", "-y"],
        ["rm", "p", "q", "-r", "-y"],
        ["rm", "p", "-y"],
        ["rm", "p", "-r", "-y", "--if-match", "e"],
        ["put", ".", "--prefix", "p" * 1025],
    ],
)
def test_wrong_usage_does_nothing(run: Run, cluster: MemoryCluster, arguments: list[str]) -> None:
    cluster.add({"p": b"1"})
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert run("ls").stdout == "p\n"


def test_a_key_that_looks_like_a_directory_is_explained(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"p/a": b"1"})
    got, removed = run("get", "p/"), run("rm", "p/")
    assert (got.exit_code, removed.exit_code) == (4, 0)
    assert "p/ is one key; for all that begin with it: get p/ --recursive --to DIR" in got.stderr
    assert removed.stderr == "milena: p/ is one key; for all that begin with it: rm p/ --recursive\n"
    assert run("rm", "p/a").stderr == ""


def test_a_file_without_a_key_is_explained(run: Run) -> None:
    Path("a.md").write_bytes(b"1")
    assert "the KEY is missing" in run("put", "a.md").stderr
    assert "put a.md a.md" in run("put", "a.md").stderr
