from __future__ import annotations

import base64
import errno
import json
import os
from pathlib import Path

import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import NodeLost, Unavailable
from milena_common.api.etags import etag_of
from tests.client.cli.conftest import Run

BINARY = bytes(range(256))


def test_get_writes_the_bytes_and_nothing_else(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"a/b": BINARY})
    result = run("get", "a/b")
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, BINARY, "")


def test_get_into_a_file(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"k": BINARY})
    assert run("get", "k", "-f", "out").exit_code == 0
    assert Path("out").read_bytes() == BINARY


def test_a_full_disk_leaves_the_file_that_was_there(
    run: Run, cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add({"k": BINARY})
    Path("old").write_bytes(b"of before")
    Path("old").chmod(0o600)
    Path("link").symlink_to("old")
    write_bytes = Path.write_bytes

    def full(path: Path, value: bytes) -> int:
        write_bytes(path, value[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        for name in ("old", "link", "new"):
            result = run("get", "k", "-f", name)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr == "milena: No space left on device\n"
    assert sorted(path.name for path in Path().iterdir()) == ["link", "old"]
    assert Path("old").read_bytes() == b"of before"
    assert run("get", "k", "-f", "link").exit_code == 0
    assert (Path("old").read_bytes(), Path("link").is_symlink()) == (BINARY, True)
    assert Path("old").stat().st_mode & 0o777 == 0o600
    assert run("get", "k", "-f", "/dev/null").exit_code == 0
    assert "No space left on device" in run("get", "k", "-f", "/dev/full").stderr


def test_get_of_a_missing_key(run: Run) -> None:
    result = run("get", "no\x1bkey", "-f", "out")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "milena: there is no key 'no\\x1bkey'\n"
    assert not Path("out").exists()


def test_get_as_json_and_table(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"k": BINARY})
    shown = json.loads(run("get", "k", "-o", "json").stdout)
    assert base64.b64decode(shown.pop("value_base64")) == BINARY
    assert shown == {
        "key": "k",
        "size": 256,
        "etag": etag_of(BINARY),
        "age": 0.0,
        "outcome": "miss",
        "node": "127.0.0.1:50051",
        "dirty": False,
        "ttl": None,
    }
    table = run("-o", "table", "get", "k").stdout
    assert "OUTCOME" in table
    assert "hit" in table


def test_get_many_from_arguments_and_from_stdin(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"a": b"1", "b/c": b"2", "ü": b"3"})
    assert run("get", "--many", "a", "b/c", "--dir", "one").exit_code == 0
    assert run("get", "--many", "--dir", "two", input="ü\n\nb/c\n").exit_code == 0
    assert Path("one/a").read_bytes() == b"1"
    assert Path("one/b/c").read_bytes() == Path("two/b/c").read_bytes() == b"2"
    assert Path("two/ü").read_bytes() == b"3"


@pytest.mark.parametrize("key", ["../out", "/abs", "a//b", "a/", "a/../b", "./a"])
def test_get_many_never_writes_outside_the_directory(
    run: Run, cluster: MemoryCluster, tmp_path: Path, key: str
) -> None:
    cluster.add({key: b"x", "good": b"1"})
    result = run("get", "--many", key, "good", "--dir", "d")
    assert result.exit_code == 2
    assert "cannot be a file name" in result.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["d/good"]


def test_get_many_says_what_is_missing_and_fetches_the_rest(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"a": b"1"})
    result = run("get", "--many", "a", "b", "--dir", "d")
    assert result.exit_code == 4
    assert result.stderr == "milena: b: there is no key 'b'\n"
    assert Path("d/a").read_bytes() == b"1"


def test_failures_of_several_kinds_are_a_failure(run: Run, cluster: MemoryCluster) -> None:
    result = run("get", "--many", "missing", "../bad", "--dir", "d")
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["get"],
        ["get", "a", "b"],
        ["get", "a", "--dir", "d"],
        ["get", "--many", "a"],
        ["get", "--many", "a", "--dir", "d", "-f", "f"],
        ["put", "not-a-directory"],
        ["put", "key", "file", "--prefix", "p"],
        ["put", "key", "."],
        ["put", "key", "-", "--durability", "safe"],
        ["put", "key", "-", "--if-none-match", "etag"],
        ["put", "key", "-", "--if-match", "*"],
        ["put", "key", "-", "--if-match", "e", "--if-none-match", "*"],
        ["put", ".", "--if-match", "e"],
        ["rm"],
        ["rm", "a", "b", "--if-match", "e"],
        ["rm", "a", "--if-match", ""],
        ["ls", "a", "b"],
        ["no-such-command"],
        ["--timeout", "soon", "ls"],
        ["ls", "-o", "xml"],
        ["ls", "--url", "http://h"],
        ["--bucket", "No", "ls"],
        ["get", ""],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_put_a_file_and_stdin(run: Run) -> None:
    Path("in").write_bytes(BINARY)
    assert run("put", "k", "in").exit_code == 0
    assert run("get", "k").stdout_bytes == BINARY
    written = json.loads(run("put", "k2", "-", "-o", "json", input=BINARY).stdout)
    assert written == {
        "key": "k2",
        "size": 256,
        "etag": etag_of(BINARY),
        "node": "127.0.0.1:50051",
        "durability": "back",
    }
    assert run("get", "k2").stdout_bytes == BINARY


@pytest.mark.parametrize("durability", ["back", "through", "memory"])
def test_durability_of_put_and_rm(run: Run, durability: str) -> None:
    written = json.loads(run("put", "k", "-", "--durability", durability, "-o", "json", input="v").stdout)
    assert written["durability"] == durability
    Path("src").mkdir()
    Path("src/l").write_bytes(b"1")
    assert run("put", "src", "--durability", durability).exit_code == 0
    assert run("rm", "k", "--durability", durability).exit_code == 0
    assert run("rm", "k", "l", "--durability", durability).exit_code == 0
    assert run("ls").stdout == ""


def test_conditions_of_put_and_rm(run: Run) -> None:
    assert run("put", "k", "-", "--if-none-match", "*", input="1").exit_code == 0
    again = run("put", "k", "-", "--if-none-match", "*", input="2")
    assert (again.exit_code, again.stderr) == (1, "milena: if_none_match: there is such an object\n")
    assert run("put", "k", "-", "--if-match", etag_of(b"1"), input="2").exit_code == 0
    assert run("put", "k", "-", "--if-match", etag_of(b"1"), input="3").exit_code == 1
    assert run("rm", "k", "--if-match", etag_of(b"1")).exit_code == 1
    assert run("get", "k").stdout == "2"
    assert run("rm", "k", "--if-match", etag_of(b"2")).exit_code == 0
    assert run("ls").stdout == ""


def test_put_a_directory_where_there_is_nothing_yet(run: Run) -> None:
    Path("src").mkdir()
    for name in ("old", "new"):
        Path("src", name).write_bytes(b"2")
    run("put", "old", "-", input="1")
    result = run("put", "src", "--if-none-match", "*")
    assert result.exit_code == 1
    assert result.stderr == "milena: src/old: if_none_match: there is such an object\n"
    assert (run("get", "old").stdout, run("get", "new").stdout) == ("1", "2")


def test_put_a_file_that_is_not_there(run: Run) -> None:
    result = run("put", "k", "nowhere")
    assert (result.exit_code, result.stderr) == (1, "milena: nowhere: No such file or directory\n")


def test_put_a_directory_and_list_it(run: Run) -> None:
    for name in ("top", "d/one", "d/e/two"):
        Path("src", name).parent.mkdir(parents=True, exist_ok=True)
        Path("src", name).write_bytes(name.encode())
    Path("src/link").symlink_to("top")
    Path("src/loop").symlink_to(".")
    result = run("put", "src", "--prefix", "p/")
    assert (result.exit_code, result.stderr) == (0, "")
    assert run("ls", "p/", "--recursive").stdout.split() == ["p/d/e/two", "p/d/one", "p/link", "p/top"]
    assert run("ls", "p/").stdout.split() == ["p/d/", "p/link", "p/top"]
    assert run("get", "p/d/e/two").stdout == "d/e/two"
    assert run("rm", "p/d/one", "p/top", "p/not-there").exit_code == 0
    assert run("ls", "-r").stdout.split() == ["p/d/e/two", "p/link"]


def test_put_a_directory_reports_each_failure_and_goes_on(run: Run) -> None:
    Path("src").mkdir()
    Path("src/good").write_bytes(b"1")
    Path("src", "b\udcffad").write_bytes(b"2")
    result = run("put", "src")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "UTF-8" in result.stderr
    assert run("ls").stdout.split() == ["good"]


def test_ls_in_its_forms(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"b\nold": b"12345", "a": b"", "ü": b"x"})
    assert run("ls").stdout == "a\nb\nold\nü\n"
    listed = json.loads(run("ls", "-o", "json").stdout)
    assert [item["key"] for item in listed] == ["a", "b\nold", "ü"]
    assert listed[1]["size"] == 5
    table = run("ls", "-o", "table").stdout
    assert "b\\nold" in table
    assert "5 B" in table
    assert table.startswith("1970-01-01 00:00:00")


def test_ls_shows_one_level_in_its_forms(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"docs/a.md": b"12", "docs/x/1": b"", "docs/x/2": b"", "docs.txt": b"1"})
    assert run("ls").stdout == "docs.txt\ndocs/\n"
    assert run("ls", "docs").stdout == "docs.txt\ndocs/\n"
    assert run("ls", "docs/").stdout == "docs/a.md\ndocs/x/\n"
    listed = json.loads(run("ls", "docs/", "-o", "json").stdout)
    assert [item.get("key") or item["prefix"] for item in listed] == ["docs/a.md", "docs/x/"]
    assert listed[1] == {"prefix": "docs/x/"}
    lines = run("ls", "docs/", "-o", "table").stdout.splitlines()
    assert lines[0].index("docs/a.md") == lines[1].index("docs/x/")
    assert lines[1].split() == ["PRE", "docs/x/"]


@pytest.mark.parametrize(
    ("given", "expected"), [("0-2", b"012"), ("3-3", b"3"), ("7-", b"789"), ("-2", b"89"), ("8-100", b"89")]
)
def test_get_of_a_range(run: Run, cluster: MemoryCluster, given: str, expected: bytes) -> None:
    cluster.add({"k": b"0123456789"})
    assert run("get", "k", "--range", given).stdout_bytes == expected
    assert run("get", "k", "--range", given, "-f", "out").exit_code == 0
    assert Path("out").read_bytes() == expected
    assert json.loads(run("get", "k", "--range", given, "-o", "json").stdout)["size"] == 10


@pytest.mark.parametrize("given", ["", "-", "5", "3-2", "-0", "a-b", "0-1,3-4", "0x1-2"])
def test_a_range_that_is_none_is_a_mistake_in_the_arguments(run: Run, given: str) -> None:
    result = run("get", "k", "--range", given)
    assert result.exit_code == 2
    assert "allowed: FIRST-LAST" in result.stderr


def test_a_range_behind_the_end_is_an_error(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"k": b"0123456789"})
    result = run("get", "k", "--range", "10-")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert "none of the object's 10 bytes" in result.stderr


def test_ls_of_nothing(run: Run) -> None:
    assert run("ls").stdout == ""
    assert json.loads(run("ls", "-o", "json").stdout) == []
    assert run("ls", "p").exit_code == 0


def test_rm_of_one_key(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"k": b""})
    assert run("rm", "k").exit_code == 0
    assert run("rm", "k").exit_code == 0
    assert run("ls").stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [["get", "k"], ["put", "k", "-"], ["rm", "k"], ["rm", "k", "l"], ["ls"], ["get", "--many", "k", "--dir", "d"]],
)
def test_a_cluster_that_cannot_serve_is_exit_code_3(run: Run, cluster: MemoryCluster, arguments: list[str]) -> None:
    cluster.fail_with(Unavailable("no router at x:1\nreally"), times=None)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no router at x:1\\nreally" in result.stderr
    assert "Traceback" not in result.output


def test_many_failures_are_not_many_pages(run: Run, cluster: MemoryCluster) -> None:
    cluster.fail_with(NodeLost("gone"), times=None)
    result = run("rm", *[f"k{number}" for number in range(50)])
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 21
    assert "and 30 more" in result.stderr


def test_another_bucket(run: Run) -> None:
    assert run("put", "k", "-", "--bucket", "logs", input="v").exit_code == 0
    assert run("ls").stdout == ""
    assert run("--bucket", "logs", "ls").stdout == "k\n"
    assert run("--url", "milena://h/logs", "get", "k").stdout == "v"


def test_cp_copies_an_object(run: Run, cluster: MemoryCluster) -> None:
    cluster.add({"a": BINARY})
    assert run("cp", "a", "b").stdout.split("\t")[:2] == ["b", etag_of(BINARY)]
    assert run("get", "b").stdout_bytes == BINARY
    assert (
        json.loads(run("cp", "a", "c", "-o", "json", "--durability", "through").stdout)["durability"] == "through"
    )
    there = run("cp", "a", "b", "--if-none-match", "*")
    assert (there.exit_code, there.stdout) == (1, "")
    missing = run("cp", "no", "b")
    assert (missing.exit_code, missing.stderr) == (4, "milena: there is no key 'no'\n")
    assert run("cp", "a", "a").exit_code == 2
