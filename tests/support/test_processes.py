"""The process harness, on processes that are a line of Python."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.ports import ReservedPort
from tests.support.processes import Metrics, Process, ProcessExited

Run = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:

        def start(code: str, **variables: str) -> Process:
            process = Process("child", ("-u", "-c", code), variables, tmp_path)
            stack.callback(process.close)
            return process

        yield start


def test_the_log_is_waited_for_and_kept(run: Run) -> None:
    child = run("print('one')\nimport sys; print('two', file=sys.stderr)")
    assert child.wait_for_log("two") == "two"
    assert child.wait() == 0
    assert child.lines() == ["one", "two"]
    assert child.log_file.read_text() == "one\ntwo\n"


def test_waiting_for_the_log_of_a_process_that_ends_shows_its_output(run: Run) -> None:
    with pytest.raises(ProcessExited, match="out of paper"):
        run("print('out of paper')").wait_for_log("ready", timeout=30)


def test_waiting_for_the_log_is_bounded(run: Run) -> None:
    with pytest.raises(TimeoutError, match="'never' within"):
        run("import signal; signal.pause()").wait_for_log("never", timeout=0.05)


def test_the_environment_is_what_was_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "the-developers")
    child = run("import os; print(*sorted(set(os.environ) - {'LC_CTYPE'}), os.environ['A'])", A="b")
    assert child.wait_for_log("HOME") == "A HOME PATH b"


def test_exit_codes_and_signals(run: Run) -> None:
    child = run(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "print('up')\n"
        "while True: signal.pause()"
    )
    child.wait_for_log("up")
    child.pause()
    child.terminate()
    with pytest.raises(TimeoutError, match="still runs"):
        child.wait(0.05)
    child.resume()
    assert child.wait() == 3
    assert not child.running


def test_a_process_that_ended_is_started_again_where_it_left_off(run: Run) -> None:
    child = run("import os; print(os.environ['A'], os.path.exists('mark')); open('mark', 'w').close()", A="1")
    assert child.wait() == 0
    child.restart({"A": "2"})
    assert child.wait() == 0
    assert child.lines() == ["1 False", "2 True"]
    assert child.log_file.read_text() == "1 False\n2 True\n"


def test_close_ends_a_process_that_is_stopped_and_heeds_no_signal(run: Run) -> None:
    child = run("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); signal.pause()")
    child.wait_for_log("up")
    child.pause()
    child.close()
    assert child.wait() == -9


def test_metrics_are_summed_over_the_labels_that_are_not_named() -> None:
    metrics = Metrics('# TYPE r counter\nr_total{op="get",code="200"} 2\nr_total{op="get",code="404"} 3\n')
    assert metrics.value("r_total", op="get") == 5
    assert metrics.value("r_total", code="404") == 3
    assert metrics.value("absent") == 0
    assert metrics.names == {"r_total"}


def test_a_reserved_port_accepts_nothing_until_a_server_listens_on_it() -> None:
    with ReservedPort() as port:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port.number))
            with socket.create_server(("127.0.0.1", port.number)):
                socket.create_connection(("127.0.0.1", port.number)).close()
