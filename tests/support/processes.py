"""Shell. Real child processes for tests and benchmarks: started with nothing but an environment, always ended.

A child gets a small environment of its own and an empty working directory, so that neither the developer's
shell nor a `.env` or `~/.aws` decides how a test ends. It is the leader of a process group, so that Ctrl-C
reaches only us, and we end the children in order. A thread reads what it writes, line by line, into memory and
into a file: waiting for a log line is waiting for that thread, not polling.

All calls block, for a bounded time. From an async test, use ``await asyncio.to_thread(node.wait_ready)`` where
the test's own loop has something to do meanwhile.

Routers and nodes run the code of this tree, whatever is installed: a copy of the tree tests itself. A benchmark may
name another tree, with an environment of its own in `.venv`.
"""

from __future__ import annotations

import http.client
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
# A second or two on an idle machine. Each wait ends as soon as the process replies.
READY_SECONDS = 60.0


class ProcessExited(Exception):
    """The process ended while something was expected of it; the text has the end of its log."""


class Process:
    """``python *arguments``, started at once. `variables` is all that its environment has besides PATH.

    Modules are those of the tree `build`.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        directory: Path,
        build: Path = ROOT,
    ) -> None:
        self.name = name
        self._python = sys.executable if build == ROOT else str(build / ".venv" / "bin" / "python")
        self.log_file = directory / f"{name}.log"
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self._arguments = arguments
        self._variables = variables
        self._lines: list[str] = []
        self._wrote = threading.Condition()
        self._start()

    def _start(self) -> None:
        self._exited = False
        self._child = subprocess.Popen(
            [self._python, *self._arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.directory), **self._variables},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {self.name}", daemon=True)
        self._reader.start()

    # ---- what it writes

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as output, self.log_file.open("ab", buffering=0) as file:
            for line in output:
                file.write(line)
                with self._wrote:
                    self._lines.append(line.decode(errors="backslashreplace").rstrip("\n"))
                    self._wrote.notify_all()
        with self._wrote:
            self._exited = True
            self._wrote.notify_all()

    def lines(self, text: str = "") -> list[str]:
        """The lines written so far, also before a restart, that contain `text`."""
        with self._wrote:
            return [line for line in self._lines if text in line]

    def wait_for_log(self, text: str, timeout: float = 10.0, number: int = 1) -> str:
        """Block until `number` lines contain `text`, and return that line.

        Raises TimeoutError, or ProcessEnded if there will be no further line.
        """
        with self._wrote:
            self._wrote.wait_for(lambda: self._exited or len(self.lines(text)) >= number, timeout)
            found = self.lines(text)
            if len(found) >= number:
                return found[number - 1]
        if self._exited:
            raise ProcessExited(f"{self.name} ended without writing {text!r}\n{self.log_tail()}")
        raise TimeoutError(f"{self.name} did not write {text!r} within {timeout} s\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines, for error messages."""
        return "\n".join([f"--- end of {self.log_file}", *self.lines()[-20:], "---"])

    # ---- its life

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def terminate(self) -> None:
        """Request a stop: SIGTERM."""
        self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._child.kill()
        self._child.wait()

    def pause(self) -> None:
        """SIGSTOP: it is there, its connections are open, and it does nothing."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._child.send_signal(signal.SIGCONT)

    def wait(self, timeout: float = 15.0) -> int:
        """Its exit code (-9: ended by signal 9), once its whole log is there. Raises TimeoutError."""
        try:
            code = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s\n{self.log_tail()}") from None
        self._reader.join()
        return code

    def restart(self, variables: Mapping[str, str] | None = None) -> None:
        """Start it again after it ended, in the directory that it left; `variables` add to its environment."""
        assert not self.running, f"{self.name} still runs"
        self._reader.join()
        self._variables = {**self._variables, **(variables or {})}
        self._start()

    def close(self) -> None:
        """End it, whatever it does, and wait until it and its log are finished."""
        self.kill()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Metrics:
    """One scrape of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that have these labels; 0 if there are none."""
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())


class Server(Process):
    """A router or cache node: ``python -m module``, its gRPC server at `address` and its operators' port at `ops`.

    The ports stay reserved until `close`, so that a server that was killed can be started again on them.
    """

    def __init__(
        self, name: str, module: str, variables: Mapping[str, str], directory: Path, build: Path = ROOT
    ) -> None:
        self._ports = (ReservedPort(), ReservedPort(), ReservedPort())
        self.address = self._ports[0].address
        self.ops = self._ports[1].address
        # For TLS=both, where the variables say so.
        self.tls_address = self._ports[2].address
        own = {
            "PYTHONPATH": str(build),
            "LISTEN_ADDR": self.address,
            "METRICS_PORT": str(self._ports[1].number),
        }
        if variables.get("TLS") == "both":
            own["TLS_LISTEN_ADDR"] = self.tls_address
        super().__init__(name, ("-m", module), {**own, **variables}, directory, build)

    def get(self, path: str, timeout: float = 5.0) -> tuple[int, str]:
        """Status and body of an HTTP GET at the operators' port. Raises OSError when it does not reply."""
        context = _client_context(self._variables)
        if context is None:
            connection = http.client.HTTPConnection(self.ops, timeout=timeout)
        else:
            connection = http.client.HTTPSConnection(self.ops, timeout=timeout, context=context)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def ready(self) -> bool:
        """What ``/readyz`` says; False too if there is no reply."""
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Raises TimeoutError, or ProcessEnded at once if it ended."""

        def ready() -> bool:
            if not self.running:
                raise ProcessExited(f"{self.name} ended with code {self.wait()}\n{self.log_tail()}")
            return self.ready()

        try:
            wait_until(f"{self.name} is ready", ready, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log_tail()}") from None

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics")[1])

    def close(self) -> None:
        super().close()
        for port in self._ports:
            port.close()


class Router(Server):
    """A router. If its nodes have an S3 endpoint it has one too, at `s3`."""

    def __init__(
        self, variables: Mapping[str, str], directory: Path, build: Path = ROOT, *, s3: bool = False
    ) -> None:
        self._s3_port = ReservedPort()
        self.s3 = self._s3_port.address
        own = {"S3_LISTEN_ADDR": self.s3} if s3 else {}
        super().__init__("router", "milena_router", {**own, **variables}, directory, build)

    def close(self) -> None:
        super().close()
        self._s3_port.close()


class Node(Server):
    """A cache node, which has a RESP server too, at `resp`, unless `variables` say otherwise.

    With certificates it has one with TLS too, at `resp_tls`, and with access keys an S3 endpoint, at `s3`.
    """

    def __init__(self, name: str, variables: Mapping[str, str], directory: Path, build: Path = ROOT) -> None:
        self._resp_ports = (ReservedPort(), ReservedPort(), ReservedPort())
        self.resp = self._resp_ports[0].address
        self.resp_tls = self._resp_ports[1].address
        self.s3 = self._resp_ports[2].address
        own = {"RESP_ADDR": self.resp}
        if "S3_KEYS_FILE" in variables or "S3_ANONYMOUS" in variables:
            own["S3_LISTEN_ADDR"] = self.s3
        if "TLS_CERT_FILE" in variables:
            own["RESP_TLS_ADDR"] = self.resp_tls
        super().__init__(name, "milena_cache", {**own, **variables}, directory, build)

    def close(self) -> None:
        super().close()
        for port in self._resp_ports:
            port.close()


def _client_context(variables: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return what a process with these variables encrypts its HTTP port with, for its clients; None if nothing."""
    if variables.get("TLS") != "on":
        return None
    context = ssl.create_default_context(cafile=variables["TLS_CA_FILE"])
    context.load_cert_chain(variables["TLS_CERT_FILE"], variables["TLS_KEY_FILE"])
    return context
