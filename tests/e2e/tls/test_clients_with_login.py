"""Clients of all kinds over TLS with a login, and what each of them says of a certificate that it rejects."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from milena_common.network.addresses import parse_address
from tests.e2e.tls.one_client import APP
from tests.support.certificates import Authority, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.npm import programs as npm
from tests.support.ports import ReservedPort
from tests.support.processes import ROOT
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

AT_MOST = 60.0
HERE = Path(__file__).parent
METRICS = "the-password-of-metrics"
USERS = f"""
user {APP.user} on >{APP.password} ~app/* +@read +@write +@connection +cluster +info
user metrics on >{METRICS} +info
"""
KINDS = ("redis-py", "coredis", "stub", "ioredis", "redis-cli", "milena")
AUTHORITY, NAME, EXPIRED, NOT_YET = "another authority", "another name", "expired", "not valid yet"
# What a client says, for each fault of a server's certificate.
OPENSSL = {
    AUTHORITY: "unable to get local issuer certificate",
    NAME: "Hostname mismatch",
    EXPIRED: "certificate has expired",
    NOT_YET: "certificate is not yet valid",
}
SAYS = {
    "redis-py": OPENSSL,
    "coredis": OPENSSL,
    "stub": {**OPENSSL, NAME: "Hostname Verification Check failed"},
    "ioredis": {
        **OPENSSL,
        AUTHORITY: "unable to verify the first certificate",
        NAME: "Hostname/IP does not match certificate's altnames",
    },
    # It does not say more, and does not look at the name. (With faketime it does not end.)
    "redis-cli": {AUTHORITY: "certificate verify failed"},
    "milena": {
        AUTHORITY: "its certificate is not of an authority that this side trusts",
        NAME: "its certificate is not for the name 'localhost'",
        EXPIRED: "its certificate has expired",
        NOT_YET: "its certificate is not valid yet",
    },
}


class Guarded(NamedTuple):
    """A cluster with TLS and users, its authority's file, and one of another authority."""

    cluster: Cluster
    authorities: str
    others: str


@pytest.fixture(scope="module")
def guarded(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority()
    # "localhost" is not one of its names.
    files = write_files(folder, authority.pem, authority.issue(hosts=["127.0.0.1"]), "server")
    others = write_files(folder, Authority("another").pem, None, "others")
    (folder / "users").write_text(USERS)
    (folder / "token").write_text("the-token-of-this-cluster\n")
    variables = {
        **tls_variables(files),
        "TLS_CLIENT_AUTH": "off",
        "CLUSTER_CERT_NAMES": "",
        "ACL_FILE": str(folder / "users"),
        "CLUSTER_TOKEN_FILE": str(folder / "token"),
        "REQUIRE_AUTH": "true",
    }
    node = {**variables, "RESP_ADDR": "off"}
    cluster = Cluster(
        folder / "cluster", moto.endpoint_url, moto.new_bucket(), 2, router_env=variables, node_env=node
    )
    with cluster:
        yield Guarded(cluster, files.authorities, others.authorities)
        assert cluster.tracebacks() == []


def command(kind: str, guarded: Guarded, authorities: str, host: str) -> Sequence[str]:
    """Return a command that uses the cluster by a client of this kind. Skips the test where there is none."""
    resp = parse_address(guarded.cluster.nodes[0].resp_tls).port
    router = parse_address(guarded.cluster.address).port
    if kind == "milena":
        where = f"{guarded.cluster.address}?ca={authorities}&server_name={host}"
        url = f"milenas://{quote(APP.user)}:{quote(APP.password)}@{where}"
        return (sys.executable, "-m", "milena_client.cli", "--url", url, "stats")
    if kind == "redis-cli":
        if shutil.which("redis-cli") is None:
            pytest.skip("redis-cli is not installed")
        login = ("--user", APP.user, "--pass", APP.password, "--no-auth-warning")
        return ("redis-cli", "-h", host, "-p", str(resp), "--tls", "--cacert", authorities, *login, "PING")
    if kind == "ioredis":
        if reason := npm.why_not():
            pytest.skip(reason)
        return ("node", str(HERE / "one_client.js"), str(npm.MODULES / "ioredis"), host, str(resp), authorities)
    port = router if kind == "stub" else resp
    return (sys.executable, "-m", "tests.e2e.tls.one_client", kind, host, str(port), authorities)


def output(command: Sequence[str], clock: str = "") -> str:
    """Return what a command prints, with a clock that differs by so much."""
    if clock:
        if shutil.which("faketime") is None:
            pytest.skip("faketime is not installed")
        command = ("faketime", "-f", clock, *command)
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=AT_MOST, check=False)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_logs_in_over_tls(guarded: Guarded, kind: str) -> None:
    found = output(command(kind, guarded, guarded.authorities, "127.0.0.1"))
    expected = {"redis-cli": "PONG", "milena": guarded.cluster.nodes[0].address}.get(kind, "ok")
    assert expected in found


@pytest.mark.parametrize(("kind", "fault"), [(kind, fault) for kind in KINDS for fault in SAYS[kind]])
def test_a_client_says_why_it_rejects_a_certificate(guarded: Guarded, kind: str, fault: str) -> None:
    host = "localhost" if fault == NAME else "127.0.0.1"
    authorities = guarded.others if fault == AUTHORITY else guarded.authorities
    clock = {EXPIRED: "+100d", NOT_YET: "-10d"}.get(fault, "")
    found = output(command(kind, guarded, authorities, host), clock)
    assert SAYS[kind][fault] in found


class Prometheus:
    """A server of Prometheus that scrapes one target. `up`: whether it could, and why not."""

    def __init__(self, folder: Path, target: str, settings: str) -> None:
        folder.mkdir()
        self._port = ReservedPort()
        (folder / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: milena
    scheme: https
    {settings}
    static_configs: [{{targets: ["{target}"]}}]
""")
        self._child = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={self._port.address}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _get(self, path: str) -> dict[str, object] | None:
        try:
            with urlopen(f"http://{self._port.address}/api/v1/{path}", timeout=AT_MOST) as reply:
                found: dict[str, object] = json.load(reply)["data"]
                return found
        except OSError:
            return None

    def health(self) -> tuple[str, str] | None:
        """Return the health of the target, and why it is down; None if it was not scraped yet."""
        found = self._get("targets")
        targets = found["activeTargets"] if found is not None else None
        if not isinstance(targets, list) or not targets or targets[0]["health"] == "unknown":
            return None
        return targets[0]["health"], targets[0]["lastError"]

    def has(self, metric: str) -> bool:
        found = self._get(f"query?query={metric}")
        return found is not None and bool(found["result"])

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._port.close()


@pytest.mark.parametrize(
    ("password", "ca", "name", "health", "why"),
    [
        (METRICS, "authorities", "127.0.0.1", "up", ""),
        ("wrong", "authorities", "127.0.0.1", "down", "401"),
        (METRICS, "others", "127.0.0.1", "down", "certificate signed by unknown authority"),
        (METRICS, "authorities", "localhost", "down", "wanted to match localhost"),
    ],
)
def test_prometheus_scrapes_with_a_login_over_tls(
    guarded: Guarded, tmp_path: Path, password: str, ca: str, name: str, health: str, why: str
) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    settings = (
        f"basic_auth: {{username: metrics, password: {password}}}\n"
        f"    tls_config: {{ca_file: {getattr(guarded, ca)}, server_name: {name}}}"
    )
    with Prometheus(tmp_path / "prometheus", guarded.cluster.nodes[0].ops, settings) as prometheus:
        found = wait_until("it has scraped", prometheus.health, AT_MOST)
        assert found[0] == health, found
        assert why in found[1]
        if health == "up":
            wait_until("the metrics are there", lambda: prometheus.has("milena_ring_slots"), AT_MOST)
