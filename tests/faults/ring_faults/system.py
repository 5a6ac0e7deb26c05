"""Shell. A router and nodes as real processes which reach each other through proxies (`network`), and an S3."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from milena_cache.origin.store_probe import DIRECTORY
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.raw import router_stub
from tests.faults.ring_faults.network import PROCESS, Network
from tests.support.ports import ReservedPort
from tests.support.processes import ProcessExited, Server
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer
from tests.support.waiting import wait_until

NODES = 4
# As short as the processes can keep where they share two cores with tests.
LEASE_SECONDS = 2.0
ROUTER = "router"
START_SECONDS = 120.0
COPIES = 2
NODE = {"FLUSH_DELAY_MS": "50", "S3_TIMEOUT_SECONDS": "2", "REQUEST_TIMEOUT_SECONDS": "3"}


class ProxiedNode(Server):
    """A cache node that other processes reach at `address` and `resp`, which are proxies.

    It listens at `own_address` and `own_resp`, where clients reach it whatever is disconnected.
    """

    def __init__(self, name: str, system: RingSystem) -> None:
        # Reserved like those of a server; the proxies are known before the process starts.
        self._own = ReservedPort(), ReservedPort()
        network = system.network
        proxied, resp = (network.proxy(name, port.address) for port in self._own)
        super().__init__(
            name,
            "tests.faults.ring_faults.proxied_node",
            {
                **AWS_VARIABLES,
                **NODE,
                "COPIES": str(system.copies),
                PROCESS: name,
                "ROUTER_ADDR": f"http://{system.router_proxy}",
                "S3_ENDPOINT_URL": system.s3.endpoint_url,
                "S3_BUCKET": system.bucket,
                "LISTEN_ADDR": self._own[0].address,
                "ADVERTISE_ADDR": proxied,
                "RESP_ADDR": self._own[1].address,
                "PROXIED_RESP": resp,
            },
            system.directory,
        )
        self.address, self.resp = proxied, resp
        self.own_address, self.own_resp = (port.address for port in self._own)

    @property
    def journal(self) -> Path:
        """Its JOURNAL_DIR."""
        return self.directory / "milena-journal" / self.own_address.rpartition(":")[2]

    def close(self) -> None:
        super().close()
        for port in self._own:
            port.close()


class RingSystem:
    """Started processes; for use in a with statement. Control blocks, for a bounded time."""

    def __init__(
        self, directory: Path, lease_seconds: float = LEASE_SECONDS, nodes: int = NODES, copies: int = COPIES
    ) -> None:
        """`copies`: COPIES of all nodes."""
        self.lease_seconds = lease_seconds
        self.copies = copies
        self.directory = directory
        self.nodes: list[ProxiedNode] = []
        self._started = 0  # nodes, those that have left included
        self._stack = ExitStack()
        try:
            # Not the benchmarks' stub, whose ETags are no MD5s: they change with the upload, and conditions fail.
            self.s3 = self._stack.enter_context(MotoServer(directory))
            self.bucket = self.s3.new_bucket()
            self.network = self._stack.enter_context(Network())
            variables = {
                PROCESS: ROUTER,
                "RATE_LIMIT": "0",
                "LEASE_SECONDS": str(lease_seconds),
                "REQUEST_TIMEOUT_SECONDS": "3",
            }
            self.router = Server(ROUTER, "milena_router", variables, directory)
            self._stack.callback(self.router.close)
            self.router_proxy = self.network.proxy(ROUTER, self.router.address)
            for _ in range(nodes):
                self.add_node()
            self.wait_until_whole(START_SECONDS)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> RingSystem:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self.router.address

    # ---- processes

    def add_node(self) -> ProxiedNode:
        """Start one more node; it is not waited for."""
        self._started += 1
        node = ProxiedNode(f"cache{self._started}", self)
        self._stack.callback(node.close)
        self.nodes.append(node)
        return node

    def remove_node(self, node: ProxiedNode) -> None:
        """Stop a node in order, and forget it."""
        node.terminate()
        node.wait(60)
        self.network.process_exited(node.name)

    def kill(self, server: Server) -> None:
        """SIGKILL."""
        server.kill()
        self.network.process_exited(server.name)

    def start_again(self, server: Server) -> None:
        """Start a process that has exited, on its ports and with its journal."""
        server.restart()
        self.network.process_started(server.name)

    @property
    def running(self) -> list[ProxiedNode]:
        return [node for node in self.nodes if node.running]

    def wait_until_whole(self, seconds: float) -> float:
        """Block until all nodes that run are members, ready, no slot moves, and no copies are missing.

        Return the seconds that it took.

        Raises TimeoutError.
        """
        started = time.monotonic()

        def whole() -> bool:
            for server in (self.router, *self.nodes):
                if not server.running and server.wait() not in (0, -9):
                    raise ProcessExited(f"{server.name} has exited\n{server.log_tail()}")
            try:
                metrics = self.router.metrics()
            except OSError:
                return False
            return (
                metrics.value("milena_router_ring_nodes") == len(self.running)
                and metrics.value("milena_router_ring_pending_slots") == 0
                and metrics.value("milena_router_ring_unreleased_losses") == 0
                and metrics.value("milena_router_ring_slots_missing_copies") == 0
                and all(node.ready() for node in self.running)
            )

        wait_until("all nodes are members, and no slot moves", whole, seconds, 0.05)
        return time.monotonic() - started

    # ---- what there is

    def owners(self, keys: Iterable[str]) -> dict[str, str]:
        """Return by key the name of its owner."""
        names = {node.address: node.name for node in self.nodes}
        with router_stub(self.address) as router:
            return {key: names[router.Owner(pb.OwnerRequest(key=key.encode())).address] for key in keys}

    def wait_until_clean(self, seconds: float) -> None:
        """Block until nothing is dirty. Raises TimeoutError."""

        def clean() -> bool:
            try:
                return not any(node.metrics().value("milena_writeback_dirty_entries") for node in self.running)
            except OSError:  # a busy machine
                return False

        wait_until("nothing is dirty", clean, seconds, 0.1)

    def in_s3(self) -> dict[str, bytes]:
        """Every object that S3 has."""
        s3, bucket = self.s3.client, self.bucket
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in keys
            if not key.startswith(DIRECTORY)
        }

    def defects(self) -> list[str]:
        """Tracebacks that a process logged."""
        return [
            f"{server.name}: {line}" for server in (self.router, *self.nodes) for line in server.lines("Traceback")
        ]
