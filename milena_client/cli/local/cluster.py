"""Shell. A whole cluster on this machine: S3 stand-in, router and nodes as processes, configured by environment.

Router and node are not imported: they are started as an operator would start them, with the same variables. Default
ports are used where they are free, so that the addresses of the documentation work.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from milena_client.cli.local.ports import HOST, Ports
from milena_client.cli.local.processes import STOP_SECONDS, Process, stop_all
from milena_client.cli.local.s3 import REGION, S3Choice, create_bucket, embedded_environment, s3_client

_NEEDED = (
    "aiohttp",
    "boto3",
    "dotenv",
    "flask",
    "flask_cors",
    "hiredis",
    "lmdb",
    "moto",
    "obstore",
    "prometheus_client",
)

# Set by this module for each process, and therefore removed from the inherited environment.
_OWN = (
    "LISTEN_ADDR",
    "METRICS_PORT",
    "METRICS_HOST",
    "ROUTER_ADDR",
    "ADVERTISE_ADDR",
    "RESP_ADDR",
    "S3_LISTEN_ADDR",
    "JOURNAL_DIR",
)

# The router has the first two ports, and node N has each port plus N. Not Redis's own port, 6379: programs on this
# machine may expect a Redis there.
_GRPC, _OPS, _REDIS, _S3 = 50050, 9090, 6380, 9000
# The access key of the nodes' S3 endpoints, and the bytes of its secret.
S3_ACCESS_KEY, _SECRET_BYTES = "milena", 20

# A node's own defaults are shares of the machine's memory, and here several nodes share one machine.
_LRU_BYTES = "256MiB"
_DIRTY_MEMORY_BYTES = "64MiB"

# Seconds. Set explicitly, because `close` waits at least as long as the nodes may upload.
_DRAIN_SECONDS = "20"

START_SECONDS = 30.0
_ATTEMPTS = 3
# Local addresses never go through a proxy.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ClusterFailed(Exception):
    """The cluster cannot be started. The text names the process and has the end of its log."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the cluster.

    name: "router", "cache1", "cache2" and so on.
    address: its gRPC host:port.
    ops: the URL of its metrics port.
    redis: the host:port of its RESP server; "" for the router, which has none.
    s3: the URL of its S3 endpoint; "" without one.
    """

    name: str
    address: str
    ops: str
    redis: str
    s3: str
    process: Process


def missing_packages() -> list[str]:
    """Return the names of the packages that a local cluster needs and that are not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


class LocalCluster:
    """Starts processes in `start`, and ends them in `close` or at the end of a with block.

    logs: the directory of the log files, one for each process.
    journals: the directory with a journal for each node, by its name. JOURNAL_DIR if that is set. Otherwise it is
        among the logs with the embedded S3, whose objects are lost with the cluster too, and `./milena-journal`
        with
        any other S3, so that the next cluster in this directory uploads the writes that are left.
    s3_secret: the secret of S3_ACCESS_KEY at the nodes' S3 endpoints; "" if S3_KEYS_FILE, S3_ANONYMOUS or ACL_FILE
        say who may use them. With ACL_FILE and neither of the other two there are no endpoints.
    """

    def __init__(self, s3: S3Choice, environ: Mapping[str, str], logs: Path) -> None:
        self.bucket = s3.bucket
        self.s3_endpoint = s3.endpoint
        self.logs = logs
        self.nodes: list[Member] = []
        self.router: Member | None = None
        here = Path.cwd() / "milena-journal"
        self.journals = Path(environ.get("JOURNAL_DIR") or (logs / "journal" if s3.embedded else here)).absolute()
        self._s3 = s3
        self._environ = embedded_environment(environ) if s3.embedded else dict(environ)
        for name in _OWN:
            self._environ.pop(name, None)
        for name, default in (
            ("LRU_BYTES", _LRU_BYTES),
            ("DIRTY_MEMORY_BYTES", _DIRTY_MEMORY_BYTES),
            ("DRAIN_SECONDS", _DRAIN_SECONDS),
        ):
            if not self._environ.get(name):
                self._environ[name] = default
        # boto3 has a second name for the variable; other endpoints than AWS rarely check the region.
        region = self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION")
        if region or s3.endpoint:
            self._environ["AWS_REGION"] = region or REGION
        # gRPC and boto3 apply proxy variables even to this machine's addresses.
        for name in ("no_proxy", "NO_PROXY"):
            self._environ[name] = ",".join(filter(None, (environ.get(name), HOST, "localhost")))
        chosen = any(self._environ.get(name) for name in ("S3_KEYS_FILE", "S3_ANONYMOUS"))
        self.s3_secret = "" if chosen or self._environ.get("ACL_FILE") else secrets.token_hex(_SECRET_BYTES)
        self._has_endpoints = bool(chosen or self.s3_secret)
        self._ports = Ports()
        self._moto: Process | None = None
        self._started: list[Process] = []
        self._node_count = 0

    def start(self, nodes: int) -> None:
        """Start all processes; return when every one responds. Raises ClusterFailed."""
        if self._s3.embedded:
            self._start_s3()
        if self._s3.create:
            self._create_bucket()
        if self.s3_secret:
            keys = self.logs / "s3-keys"
            with open(keys, "w", opener=partial(os.open, mode=0o600)) as file:
                file.write(f"{S3_ACCESS_KEY} {self.s3_secret}\n")
            self._environ["S3_KEYS_FILE"] = str(keys)
        (self.router,) = self._bring_up([self._launch_router])
        self.nodes = self._bring_up([self._next_node() for _ in range(nodes)])

    def add_node(self) -> Member:
        """Start one more node. Raises ClusterFailed."""
        (node,) = self._bring_up([self._next_node()])
        self.nodes.append(node)
        return node

    def kill(self, node: Member) -> None:
        """Kill `node` with SIGKILL, as a loss of power would."""
        node.process.signal(signal.SIGKILL)
        node.process.wait(10)
        self.nodes.remove(node)

    def wait_ready(self, seconds: float = START_SECONDS) -> dict[str, str]:
        """Wait until every process is ready; return the reasons of those that are not after `seconds`, by name."""
        until = time.monotonic() + seconds
        while True:
            reasons = {member.name: _not_ready(member) for member in self.members if _not_ready(member)}
            if not reasons or time.monotonic() >= until:
                return reasons
            time.sleep(0.1)

    @property
    def members(self) -> list[Member]:
        """Return the router and the nodes."""
        return ([self.router] if self.router else []) + self.nodes

    @property
    def environ(self) -> Mapping[str, str]:
        """Return the environment of the processes, including credentials."""
        return self._environ

    def dead(self) -> list[Process]:
        """Return the processes that have ended unexpectedly."""
        processes = [member.process for member in self.members] + ([self._moto] if self._moto else [])
        return [process for process in processes if process.exit_code() is not None]

    def close(self) -> None:
        """End all processes: nodes first, so that they can upload and leave the ring, then router and S3."""
        outer = [process for process in (self.router.process if self.router else None, self._moto) if process]
        stop_all([process for process in self._started if process not in outer], STOP_SECONDS + self._drain_seconds)
        stop_all(outer)
        self._ports.close()

    def undrained(self) -> list[str]:
        """Return, after `close`, the names of nodes whose journals may still contain acknowledged writes."""
        return [node.name for node in self.nodes if node.process.exit_code() != 0]

    @property
    def _drain_seconds(self) -> float:
        """Return for how many seconds nodes upload when they are stopped."""
        try:
            return max(0.0, float(self._environ["DRAIN_SECONDS"]))
        except ValueError:  # the value is invalid, so the nodes have not started
            return 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Process:
        process = Process(name, arguments, {**self._environ, **environment}, self.logs / f"{name}.log")
        self._started.append(process)
        return process

    def _start_s3(self) -> None:
        """Start the embedded S3; retry on another port if another program has taken its port."""
        for attempt in range(_ATTEMPTS):
            port = self._ports.take_port(_S3)
            self.s3_endpoint = f"http://{HOST}:{port}"
            self._moto = self._spawn("s3", ["moto.server", "-H", HOST, "-p", str(port)], {})
            try:
                self._await_response(self._moto, f"{self.s3_endpoint}/moto-api/")
                return
            except ClusterFailed:
                if self._moto.exit_code() is None or attempt == _ATTEMPTS - 1:
                    raise

    def _create_bucket(self) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            create_bucket(s3_client(self.s3_endpoint, self._environ), self.bucket)
        except (BotoCoreError, ClientError) as error:
            raise ClusterFailed(f"S3 at {self.s3_endpoint}, bucket {self.bucket}: {error}") from None

    def _launch_router(self) -> Member:
        return self._launch("router", "milena_router", 0, {"RING_RECOVERY_SECONDS": "0"})

    def _next_node(self) -> Callable[[], Member]:
        self._node_count += 1
        number = self._node_count
        assert self.router is not None
        environment = {
            "ROUTER_ADDR": f"http://{self.router.address}",
            "S3_BUCKET": self.bucket,
            "S3_ENDPOINT_URL": self.s3_endpoint,
            "JOURNAL_DIR": str(self.journals / f"cache{number}"),
        }
        return lambda: self._launch(f"cache{number}", "milena_cache", number, environment)

    def _launch(self, name: str, module: str, number: int, environment: Mapping[str, str]) -> Member:
        """Start node `number`, from 1, or the router, number 0, which has no RESP server, on reserved ports."""
        port, ops = self._ports.take_port(_GRPC + number), self._ports.take_port(_OPS + number)
        redis = f"{HOST}:{self._ports.take_port(_REDIS + number)}" if number else ""
        s3 = f"{HOST}:{self._ports.take_port(_S3 + number)}" if number and self._has_endpoints else ""
        own = {"LISTEN_ADDR": f"{HOST}:{port}", "METRICS_PORT": str(ops), "RESP_ADDR": redis, "S3_LISTEN_ADDR": s3}
        style = {"LOG_FORMAT": self._environ.get("LOG_FORMAT") or "text"}
        process = self._spawn(name, [module], {**environment, **own, **style})
        endpoint = f"http://{s3}" if s3 else ""
        return Member(name, f"{HOST}:{port}", f"http://{HOST}:{ops}", redis, endpoint, process)

    def _bring_up(self, launches: list[Callable[[], Member]]) -> list[Member]:
        """Launch all at once and wait until each responds; retry on other ports if a port was taken."""
        members = [launch() for launch in launches]
        for index, launch in enumerate(launches):
            for attempt in range(_ATTEMPTS):
                try:
                    self._await_response(members[index].process, f"{members[index].ops}/livez")
                    break
                except ClusterFailed:
                    if members[index].process.exit_code() != 1 or attempt == _ATTEMPTS - 1:
                        raise
                    members[index] = launch()
        return members

    def _await_response(self, process: Process, url: str) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if process.exit_code() is not None:
                raise ClusterFailed(
                    f"{process.name} ended with exit code {process.exit_code()}:\n{process.last_lines()}"
                )
            try:
                with _direct.open(url, timeout=1):
                    # The response may be another program's, which has taken the port; then the process has ended,
                    # or will fail to listen. So its exit code is checked after the response.
                    if process.exit_code() is None:
                        return
            except OSError:
                time.sleep(0.05)
        raise ClusterFailed(f"{process.name} does not respond at {url}:\n{process.last_lines()}")


def _not_ready(member: Member) -> str:
    """Return the reason why `member` is not ready; "" if it is."""
    try:
        with _direct.open(f"{member.ops}/readyz", timeout=1):
            return ""
    except urllib.error.HTTPError as error:
        return _reasons(error.read())
    except OSError as error:
        return str(error)


def _reasons(body: bytes) -> str:
    """Return the reasons in the JSON body of a 503."""
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
    return "; ".join(reasons)
