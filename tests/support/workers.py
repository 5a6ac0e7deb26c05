"""The command ``milena-cache`` with several workers on one machine (WORKERS)."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.support.ports import ReservedPorts
from tests.support.processes import READY_SECONDS, ROOT, Metrics, Process
from tests.support.waiting import wait_until


class Workers(Process):
    """``milena-cache`` with `number` workers; one is the process itself."""

    def __init__(
        self, variables: Mapping[str, str], directory: Path, number: int, build: Path = ROOT, name: str = "machine"
    ) -> None:
        self.ports = ReservedPorts(3 * number + 1)
        encrypted = variables.get("TLS") == "on"
        first = self.ports.first
        self.listen, self.resp, self.ops = first, first + number, first + 2 * number
        own = {
            "PYTHONPATH": str(build),
            "WORKERS": str(number),
            "LISTEN_ADDR": f"127.0.0.1:{self.listen}",
            "RESP_ADDR": "off" if encrypted else f"127.0.0.1:{self.resp}",
            "RESP_TLS_ADDR": f"127.0.0.1:{self.resp}" if encrypted else "",
            "METRICS_PORT": str(self.ops),
            "JOURNAL_DIR": "journal",
        }
        super().__init__(name, ("-m", "milena_cache"), {**own, **variables}, directory, build)
        self._authorities = variables.get("TLS_CA_FILE")

    def get(self, path: str) -> tuple[int, str]:
        url, context = f"http://127.0.0.1:{self.ops}{path}", None
        if self._authorities is not None:
            url, context = url.replace("http", "https"), ssl.create_default_context(cafile=self._authorities)
        try:
            with urllib.request.urlopen(url, timeout=10, context=context) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> Metrics:
        return Metrics(self.get("/metrics")[1])

    def wait_ready(self) -> None:
        wait_until("all workers are ready", lambda: self.get("/readyz")[0] == 200, READY_SECONDS)

    def worker_pids(self) -> list[int]:
        """The process ids of the workers, of the last start of each."""
        found: dict[int, int] = {}
        for line in self.lines(" has process id "):
            _, worker, _, _, _, pid = json.loads(line)["message"].split()
            found[int(worker)] = int(pid)
        return [found[index] for index in sorted(found)] or [self.pid]

    def close(self) -> None:
        self.terminate()
        try:
            self.wait(30.0)
        finally:
            super().close()
            self.ports.close()
