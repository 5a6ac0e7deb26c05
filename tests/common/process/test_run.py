"""What every process does around its work, with a real one: the router, which needs nothing to start."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milena_common.process.run import no_cycle_search
from tests.support.processes import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def run(directory: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The router, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "milena_router"],
        env={"PATH": os.defpath, **variables},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )


def test_every_absurd_variable_is_one_line_and_the_exit_code_is_2(tmp_path: Path) -> None:
    finished = run(
        tmp_path,
        LISTEN_ADDR="nowhere",
        METRICS_PORT="99999",
        METRICS_HOST="a b",
        RATE_LIMIT="-1",
        LEASE_SECONDS="nan",
        RING_RECOVERY_SECONDS="never",
        MAX_VALUE_BYTES="1 elephant",
        REQUEST_TIMEOUT_SECONDS="soon",
        LOG_LEVEL="loud",
        LOG_FORMAT="caf\udce9",
    )
    lines = finished.stderr.decode().splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["milena-router", name]
        for name in (
            "LISTEN_ADDR",
            "MAX_VALUE_BYTES",
            "METRICS_HOST",
            "METRICS_PORT",
            "RATE_LIMIT",
            "LEASE_SECONDS",
            "RING_RECOVERY_SECONDS",
            "REQUEST_TIMEOUT_SECONDS",
            "LOG_LEVEL",
            "LOG_FORMAT",
        )
    ]
    assert all("; allowed: " in line for line in lines)
    assert finished.returncode == 2
    assert finished.stdout == b""


def test_the_env_file_is_read_and_a_real_variable_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "RATE_LIMIT=from-file\nexport LOG_LEVEL='from-file'\nMETRICS_PORT=from-file\nLEASE_SECONDS=$HOME\nFLAG\n"
    )
    finished = run(tmp_path, RATE_LIMIT="from-environment", METRICS_PORT=" ")
    errors = finished.stderr.decode()
    assert finished.returncode == 2
    assert "RATE_LIMIT: got 'from-environment'" in errors
    assert "LOG_LEVEL: got 'from-file'" in errors
    assert "METRICS_PORT: got 'from-file'" in errors, "an empty variable is a missing one"
    assert "LEASE_SECONDS: got '$HOME'" in errors, "the file is not a shell script"


def test_an_env_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RATE_LIMIT=\xff\xfe\n")
    finished = run(tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.decode().startswith("milena-router: .env: cannot be read: ")
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize("variable", ["LISTEN_ADDR", "METRICS_PORT"])
def test_a_port_in_use_is_exit_1_and_names_variable_and_address(tmp_path: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"LISTEN_ADDR": "127.0.0.1:0", "METRICS_PORT": "0"}
        variables[variable] = f"127.0.0.1:{port}" if variable == "LISTEN_ADDR" else str(port)
        finished = run(tmp_path, **variables)
    assert finished.returncode == 1
    line = f"milena-router: {variable}: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert finished.stderr.decode().splitlines() == [f"{line}; set {variable} to another port"]


def test_all_ports_in_use_are_named_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        listen, metrics = one.getsockname()[1], other.getsockname()[1]
        finished = run(tmp_path, LISTEN_ADDR=f"127.0.0.1:{listen}", METRICS_PORT=str(metrics))
    assert finished.returncode == 1
    assert [line.split(": ")[1] for line in finished.stderr.decode().splitlines()] == [
        "LISTEN_ADDR",
        "METRICS_PORT",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_exit_0_and_json_lines_say_so(tmp_path: Path, number: signal.Signals) -> None:
    with Server("router", "milena_router", {}, tmp_path) as router:
        router.wait_ready()
        os.kill(router.pid, number)
        assert router.wait(10) == 0
        lines = [json.loads(line) for line in router.lines()]
    messages = [line["message"] for line in lines]
    assert all({"time", "level", "logger"} <= line.keys() for line in lines)
    assert messages[0].startswith(f"router listens on {router.address}")
    assert messages[1:] == [f"{number.name} received: stopping", "router stopped"]


def test_it_is_not_ready_while_it_stops_and_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with Server("router", "milena_router", {"LOG_FORMAT": "text"}, tmp_path) as router:
        router.wait_ready()
        os.kill(router.pid, signal.SIGINT)
        router.wait_for_log("SIGINT received: stopping")
        status, body = wait_until("an answer", lambda: router.get("/readyz"), 5)
        assert status == 503
        assert "stopping" in body
        os.kill(router.pid, signal.SIGINT)
        assert router.wait(5) == 130
        assert router.lines("warning")


def test_the_log_level_is_heeded(tmp_path: Path) -> None:
    with Server("router", "milena_router", {"LOG_LEVEL": "WARNING"}, tmp_path) as router:
        router.wait_ready()
        router.terminate()
        assert router.wait(10) == 0
        assert router.lines() == []


def goaway(text: bytes) -> bytes:
    """Return the first bytes of an HTTP/2 client: preface, SETTINGS, and a GOAWAY with `text` as debug data."""

    def frame(kind: int, body: bytes) -> bytes:
        return len(body).to_bytes(3, "big") + bytes((kind,)) + bytes(5) + body

    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"") + frame(7, bytes(7) + b"\x0b" + text)


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_peer_cannot_write_lines_of_its_own_into_the_log(tmp_path: Path, style: str) -> None:
    forged = (
        "2026-01-01 00:00:00,000 ERROR   forged" if style == "text" else '{"level": "ERROR", "message": "forged"}'
    )
    with Server("router", "milena_router", {"LOG_FORMAT": style, "LOG_LEVEL": "info"}, tmp_path) as router:
        router.wait_ready()
        host, port = router.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as peer:
            peer.sendall(goaway(f"a\n{forged}\n\x1b[2J\r".encode()))
            router.wait_for_log("forged")
        router.terminate()
        assert router.wait(10) == 0
        lines = router.lines()
    assert all(line.isprintable() for line in lines)
    assert forged not in lines
    if style == "json":
        assert {json.loads(line)["logger"] for line in lines if "forged" in line} == {"native"}


@pytest.fixture
def _sighup_is_not_ignored() -> Iterator[None]:
    """A child inherits what is ignored, as everything does that `nohup` started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_sighup_is_not_ignored")
def test_sighup_stops_it_as_sigterm_does(tmp_path: Path) -> None:
    with Server("router", "milena_router", {"LOG_FORMAT": "text"}, tmp_path) as router:
        router.wait_ready()
        os.kill(router.pid, signal.SIGHUP)
        assert router.wait(10) == 0
        assert router.lines("SIGHUP received: stopping")
        assert router.lines("router stopped")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_without_a_meaning_ends_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with Server("router", "milena_router", {"LOG_FORMAT": "text"}, tmp_path) as router:
        router.wait_ready()
        os.kill(router.pid, number)
        router.wait_for_log(f"{number.name} received: ignored")
        assert router.get("/livez")[0] == 200
        router.terminate()
        assert router.wait(10) == 0


def test_objects_of_a_start_are_never_searched_for_cycles() -> None:
    try:
        with no_cycle_search():
            assert not gc.isenabled()
            made = [[number] for number in range(10_000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= len(made)
    finally:
        gc.unfreeze()
