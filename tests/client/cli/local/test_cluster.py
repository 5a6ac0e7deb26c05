"""`milena up` and `milena demo` with real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import pytest

from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


class Command:
    """`milena` with arguments as a process; `lines` is what it has printed on stdout so far."""

    def __init__(self, directory: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        names = ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "milena_client.cli", *arguments],
            cwd=directory,
            env=kept | {"TMPDIR": str(directory)} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """The first line, already printed or to come, that matches `pattern`."""

        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._popen.poll() is not None, seconds)
            line = found()
        assert line is not None, (pattern, self.lines)
        return line

    def end(self, number: signal.Signals | None = None, seconds: float = 90) -> tuple[int, str]:
        """Exit code and stderr, after sending the signal."""
        if number is not None:
            self._popen.send_signal(number)
        code = self._popen.wait(seconds)
        self._reader.join(seconds)
        assert self._popen.stderr is not None
        return code, self._popen.stderr.read()

    def close(self) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
            self._popen.wait(30)
        self._reader.join(30)
        for pipe in (self._popen.stdout, self._popen.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def milena(directory: Path, *arguments: str, **environ: str) -> Iterator[Command]:
    command = Command(directory, arguments, environ)
    try:
        yield command
    finally:
        command.close()


def client(directory: Path, url: str, *arguments: str) -> str:
    """What a command against the cluster prints."""
    with milena(directory, *arguments, MILENA_URL=url) as command:
        code, err = command.end()
        assert (code, err) == (0, "")
        return "\n".join(command.lines)


def addresses(command: Command) -> list[str]:
    return re.findall(r"127\.0\.0\.1:\d+", "\n".join(command.lines))


def nothing_listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


def over_redis(command: Command, *argv: str) -> bytes:
    """What the node that owns the key replies: the first whose reply is no MOVED."""
    request = "".join([f"*{len(argv)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in argv)]).encode()
    for address in re.findall(r"redis (127\.0\.0\.1:\d+)", "\n".join(command.lines)):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            reply = connection.recv(65536)
        if not reply.startswith(b"-MOVED"):
            return reply
    raise AssertionError(command.lines)


@contextmanager
def taken(port: int) -> Iterator[None]:
    """A server listens on `port`: this test or another process."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen()
        except OSError:
            pass
        yield


def test_programs_of_s3_use_the_nodes_of_a_local_cluster_with_the_key_that_it_prints(tmp_path: Path) -> None:
    with milena(tmp_path, "up", "--nodes", "2", RATE_LIMIT="0") as up:
        printed = up.wait_for("aws --endpoint-url")
        key, secret, url, bucket = re.findall(r"(?:KEY_ID=|ACCESS_KEY=|-url |s3://)(\S+)", printed)
        endpoints = re.findall(r"s3 (http://127\.0\.0\.1:\d+)$", "\n".join(up.lines[:3]), re.MULTILINE)
        assert len(endpoints) == 2
        assert endpoints[0] == url
        one, other = (
            boto3.client(
                "s3",
                endpoint_url=each,
                region_name="us-east-1",
                aws_access_key_id=key,
                aws_secret_access_key=secret,
            )
            for each in endpoints
        )
        one.put_object(Bucket=bucket, Key="k", Body=b"v")
        assert other.get_object(Bucket=bucket, Key="k")["Body"].read() == b"v"
        assert [each["Key"] for each in other.list_objects_v2(Bucket=bucket, Prefix="k")["Contents"]] == ["k"]


def test_clusters_that_are_started_at_the_same_time_have_ports_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        ups = [stack.enter_context(milena(folder, "up", "--nodes", "1", LEASE_SECONDS="1")) for folder in folders]
        for up in ups:
            up.wait_for("^nodes: 1, ")
        chosen = [address for up in ups for address in {*addresses(up)}]
        assert len(chosen) == len({*chosen})
        for up in ups:
            up.end(signal.SIGINT)


def test_a_cluster_for_an_afternoon(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with taken(50050), taken(9091), milena(tmp_path, "up", "--nodes", "2", LEASE_SECONDS="1") as up:
        url = up.wait_for("MILENA_URL=").partition("=")[2]
        up.wait_for("^nodes: 2, ")
        assert not {"127.0.0.1:50050", "127.0.0.1:9091"} & set(addresses(up))
        client(tmp_path, url, "put", "k", "file")
        assert client(tmp_path, url, "get", "k") == "content"
        assert client(tmp_path, url, "ls") == "k"
        assert client(tmp_path, url, "health") == "healthy: 2 nodes ready"
        assert over_redis(up, "GET", "k") == b"$7\r\ncontent\r\n"
        assert up.end(signal.SIGINT) == (0, "")
        assert all(nothing_listens(address) for address in addresses(up))
        assert not list(tmp_path.glob("milena-*"))


def test_the_end_of_the_terminal_ends_the_cluster(tmp_path: Path) -> None:
    with milena(tmp_path, "up", "--nodes", "1", "--logs", "logs") as up:
        up.wait_for("^nodes: 1, ")
        assert up.end(signal.SIGHUP) == (0, "")
        assert all(nothing_listens(address) for address in addresses(up))
    left = {path.name for path in (tmp_path / "logs").iterdir()}
    assert left == {"s3-keys", "s3.log", "router.log", "cache1.log", "journal"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child process with its parent")
def test_a_command_that_is_killed_leaves_no_processes(tmp_path: Path) -> None:
    with milena(tmp_path, "up", "--nodes", "1", "--logs", "logs") as up:
        up.wait_for("^nodes: 1, ")
        assert up.end(signal.SIGKILL)[0] == -signal.SIGKILL
        for address in addresses(up):
            wait_until(f"{address} is free", lambda where=address: nothing_listens(where), 30)


def test_what_is_left_in_a_journal_is_uploaded_by_the_next_cluster(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with MotoServer(tmp_path) as s3, FaultProxy(s3.endpoint_url) as way:
        environ = AWS_VARIABLES | {"S3_ENDPOINT_URL": way.endpoint_url, "DRAIN_SECONDS": "0.5"}
        with milena(tmp_path, "up", "--nodes", "1", **environ) as up:
            url = up.wait_for("MILENA_URL=").partition("=")[2]
            up.wait_for("^nodes: 1, ")
            way.reject()
            client(tmp_path, url, "put", "k", "file")
            code, err = up.end(signal.SIGINT)
        assert code == 1
        assert f"cache1: acknowledged writes may be left in {tmp_path / 'milena-journal'}" in err
        way.accept()
        with milena(tmp_path, "up", "--nodes", "1", **environ) as up:
            url = up.wait_for("MILENA_URL=").partition("=")[2]
            up.wait_for("^nodes: 1, ")
            client(tmp_path, url, "writeback", "flush")
            assert client(tmp_path, url, "get", "k") == "content"
            assert up.end(signal.SIGINT) == (0, "")
        assert s3.client.get_object(Bucket="milena", Key="k")["Body"].read() == b"content"


def test_ctrl_c_before_it_is_up(tmp_path: Path) -> None:
    with milena(tmp_path, "up") as up:
        wait_until("S3 is starting", lambda: list(tmp_path.glob("milena-*/s3.log")), 30)
        code, err = up.end(signal.SIGINT)
    assert (code, err) == (130, "")
    assert not list(tmp_path.glob("milena-*"))


def test_a_variable_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LRU_SIZE=lots\n")
    with milena(tmp_path, "up", "--nodes", "1") as up:
        code, err = up.end()
    assert code == 1
    assert "LRU_SIZE" in err
    assert "Traceback" not in err
    (logs,) = tmp_path.glob("milena-*")
    assert str(logs) in err


def test_the_tour(tmp_path: Path) -> None:
    with milena(tmp_path, "demo", "--once", LRU_SIZE="1", S3_ENDPOINT_URL="http://127.0.0.1:1") as demo:
        code, err = demo.end()
        assert (code, err) == (0, ""), demo.lines
        shown = "\n".join(demo.lines)
        assert "200 of 200 concurrent readers" in shown
        assert "S3 has 400 of 400 acknowledged writes" in shown
        assert "FAILED" not in shown
        assert all(nothing_listens(address) for address in addresses(demo))
