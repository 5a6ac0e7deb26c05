"""The smaller parts of the command line."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from milena_client.cli.local.cluster import LocalCluster
from milena_client.cli.local.demo_data import FILES, standard_library
from milena_client.cli.local.ports import Ports
from milena_client.cli.local.processes import Process, stop_all
from milena_client.cli.local.s3 import S3Choice, choose_s3, embedded_environment
from milena_client.cli.terminal.failures import common_exit_code, exit_code, printable, reason
from milena_client.cli.terminal.output import show_bytes, show_count, show_percent, show_seconds
from milena_common.api.errors import (
    AccessDenied,
    ConfigError,
    DeadlineExceeded,
    InvalidRequest,
    KeyNotFound,
    NodeLost,
    RateLimited,
)
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.router import router


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyNotFound("k"), 4),
        (NodeLost("n"), 3),
        (DeadlineExceeded("late"), 3),
        (ConfigError(["x"]), 2),
        (InvalidRequest("key"), 2),
        (AccessDenied("no"), 1),
        (RateLimited("slow"), 1),
        (FileNotFoundError(2, "No such file"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code
    assert common_exit_code([error, error]) == code


def test_exit_codes_of_many() -> None:
    assert common_exit_code([]) == 0
    assert common_exit_code([NodeLost(""), KeyNotFound("")]) == 1


def test_reasons_are_plain() -> None:
    assert reason(FileNotFoundError(2, "No such file", "f")) == "f: No such file"
    assert reason(KeyNotFound("there is no key 'k'")) == "there is no key 'k'"
    assert reason(NodeLost("gone")) == "gone"


@given(st.text())
def test_printed_text_is_one_line_without_commands_to_the_terminal(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()


def test_numbers_for_people() -> None:
    assert [show_bytes(n) for n in (0, 512, 1536, 20 * 2**20, 3 * 2**40)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "20 MiB",
        "3.0 TiB",
    ]
    assert (show_count(16384), show_percent(0.5), show_percent(None)) == ("16,384", "50.0%", "-")
    assert [show_seconds(s) for s in (3.21, 300, 9000, 345600)] == ["3.2 s", "5.0 min", "2.5 h", "4.0 d"]


@pytest.mark.parametrize(
    ("environ", "choice"),
    [
        ({}, S3Choice("", "milena", embedded=True, create=True)),
        ({"S3_ENDPOINT_URL": "http://s:1"}, S3Choice("http://s:1", "milena", embedded=False, create=True)),
        (
            {"S3_ENDPOINT_URL": "http://s:1", "S3_BUCKET": "b-b"},
            S3Choice("http://s:1", "b-b", embedded=False, create=True),
        ),
        ({"S3_BUCKET": "b-b"}, S3Choice("", "b-b", embedded=False, create=False)),
        ({"S3_BUCKET": "", "S3_ENDPOINT_URL": ""}, S3Choice("", "milena", embedded=True, create=True)),
    ],
)
def test_which_s3_a_local_cluster_uses(environ: dict[str, str], choice: S3Choice) -> None:
    assert choose_s3(environ) == choice


def test_journals_are_kept_where_s3_outlasts_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "logs"
    embedded = S3Choice("", "milena", embedded=True, create=True)
    real = S3Choice("", "bucket", embedded=False, create=False)
    assert LocalCluster(embedded, {}, logs).journals == logs / "journal"
    assert LocalCluster(real, {}, logs).journals == tmp_path / "milena-journal"
    for s3 in (embedded, real):
        assert LocalCluster(s3, {"JOURNAL_DIR": "j"}, logs).journals == tmp_path / "j"
        # Each node gets its own.
        assert "JOURNAL_DIR" not in LocalCluster(s3, {"JOURNAL_DIR": "j"}, logs).environ


def test_an_embedded_s3_sees_nobodys_credentials() -> None:
    environ = embedded_environment(
        {"AWS_PROFILE": "work", "AWS_SECRET_ACCESS_KEY": "s", "S3_PREFIX": "p", "PATH": "/"}
    )
    assert environ["PATH"] == "/"
    assert environ["AWS_SECRET_ACCESS_KEY"] != "s"
    assert not {"AWS_PROFILE", "S3_PREFIX"} & environ.keys()


def test_ports_that_are_taken_are_no_obstacle() -> None:
    ports = Ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        expected = taken.getsockname()[1]
        assert ports.take_port(expected) != expected
    assert ports.take_port(expected) == expected
    assert ports.take_port(expected) != expected
    ports.close()


def test_a_port_that_another_cluster_has_chosen_is_not_free_before_it_listens() -> None:
    ours, theirs = Ports(), Ports()
    expected = ours.take_port(free_port())
    assert theirs.take_port(expected) != expected
    ours.close()
    assert theirs.take_port(expected) == expected
    theirs.close()


def test_a_reservation_ends_with_its_process() -> None:
    expected = free_port()
    program = (
        f"import os; from milena_client.cli.local.ports import Ports; "
        f"ports = Ports(); ports.take_port({expected}); os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 1
    ports = Ports()
    assert ports.take_port(expected) == expected
    ports.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: time.sleep(1)
"""


def test_processes_end_politely_or_at_once(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    environ = {"PYTHONUNBUFFERED": "1"}
    polite = Process("polite", ["http.server", "--bind", "127.0.0.1", "0"], environ, tmp_path / "polite.log")
    stubborn = Process("stubborn", ["stubborn"], environ, tmp_path / "stubborn.log")
    while "ready" not in stubborn.log.read_text():
        stubborn.wait(0.05)
    assert stop_all([polite, stubborn], seconds=1.0) == [stubborn]
    assert polite.exit_code() == -signal.SIGTERM
    assert stubborn.exit_code() == -signal.SIGKILL
    assert stop_all([polite, stubborn]) == []


def test_a_process_leaves_its_last_output(tmp_path: Path) -> None:
    process = Process("broken", ["no_such_module"], {}, tmp_path / "broken.log")
    assert process.wait(10)
    assert process.exit_code() == 1
    assert "no_such_module" in process.last_lines()


def test_the_demo_has_files_to_read() -> None:
    files = standard_library()
    assert len(files) == FILES
    assert all(files.values())


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_package_is_one_line(package: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from milena_client.cli.__main__ import main; main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == f'milena: the package {package} is missing: pip install "milena-cache[cli]"\n'


@contextmanager
def _hanging_router() -> Iterator[tuple[str, threading.Event]]:
    """(URL, requested): sends no reply until its caller has gone."""
    requested = threading.Event()

    def reply(method: str, request: Any, context: Any) -> Message:
        gone = threading.Event()
        if context.add_callback(gone.set):  # and has not gone already
            requested.set()
            gone.wait(20)
        return pb.GetResponse()

    with router(reply) as address:
        yield f"milena://{address}?timeout=20s", requested


def _milena(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "milena_client.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments", [["get", "k"], ["get", "--many", "k", "l", "--dir", "/nowhere"], ["writeback", "flush"]]
)
def test_ctrl_c_is_quiet(arguments: list[str]) -> None:
    with _hanging_router() as (url, requested):
        command = _milena(*arguments, "--url", url)
        assert requested.wait(20)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=20)
    assert (command.returncode, out, err) == (130, "", "")


def test_a_reader_that_goes_away_is_no_error() -> None:
    objects = [pb.ObjectInfo(key=b"some/key/%d" % number) for number in range(1000)]
    with router(lambda method, request, _: pb.ListResponse(objects=objects, cursor="more")) as address:
        command = _milena("ls", "--url", f"milena://{address}")
        assert command.stdout is not None
        assert command.stdout.readline() == "some/key/0\n"
        command.stdout.close()
        assert command.wait(20) == 141
        assert command.stderr is not None
        assert command.stderr.read() == ""
        command.stderr.close()
