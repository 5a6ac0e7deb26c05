"""Shell. A real Prometheus with the project's own configuration and rules, which scrapes a test's cluster.

It works on changed copies of them: the targets are the processes of the cluster, they are scraped every second, and
alerts fire as soon as their expression holds.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.stack.files import MONITORING, load_yaml
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

START_SECONDS = 60.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def hurried(rules: str) -> str:
    """Return `rules`, the text of a file of rules, with alerts that fire without a pause (`for: 0s`)."""
    return re.sub(r"^( +for:) .*$", r"\1 0s", rules, flags=re.MULTILINE)


class PrometheusServer:
    """A running Prometheus that scrapes `nodes` and `routers`, given as host:port of their metrics.

    Its files and log are in `directory`. Raises FileNotFoundError if prometheus is not installed.
    """

    def __init__(self, directory: Path, nodes: Sequence[str], routers: Sequence[str]) -> None:
        (directory / "rules").mkdir(parents=True)
        configuration = load_yaml(MONITORING / "prometheus.yml")
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        for path in configuration["rule_files"]:
            (directory / path).write_text(hurried((MONITORING / path).read_text()))
        targets = {"milena-cache": list(nodes), "milena-router": list(routers)}
        jobs = [job for job in configuration["scrape_configs"] if job["job_name"] in targets]
        for job in jobs:
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        configuration["scrape_configs"] = jobs
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self._port = ReservedPort()
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self._port.address}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            wait_until("Prometheus is ready", self._ready, START_SECONDS)
        except BaseException:
            self.close()
            raise

    def _ready(self) -> bool:
        try:
            with _direct.open(f"http://{self._port.address}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of `expression` now. Raises urllib.error.HTTPError if it is not valid PromQL."""
        url = f"http://{self._port.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with _direct.open(url, timeout=10) as reply:
            found = json.load(reply)["data"]
        assert found["resultType"] == "vector", expression
        samples: list[dict[str, Any]] = found["result"]
        return samples

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {sample["metric"]["alertname"] for sample in self.query('ALERTS{alertstate="firing"}')}

    def wait_for_alerts(self, *names: str, timeout: float = 60) -> None:
        """Wait up to `timeout` seconds until each of `names` has fired, one after another or together.

        Raises TimeoutError with those that have not.
        """
        left = set(names)

        def fired() -> bool:
            left.difference_update(self.firing())
            return not left

        try:
            wait_until(f"{names} fire", fired, timeout, 0.5)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {left} have not") from None

    def close(self) -> None:
        self._process.kill()  # what it has stored goes with the test
        self._process.wait()
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
