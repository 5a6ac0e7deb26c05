"""Shell. Three routers, an etcd of one or three members, and three nodes, as real processes in front of an S3."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from urllib.request import Request, urlopen

from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.raw import router_stub
from tests.support.etcd_server import EtcdMember, running_etcd
from tests.support.processes import Node, Server
from tests.support.s3.moto_server import AWS_VARIABLES, MotoServer
from tests.support.waiting import wait_until

ROUTERS = NODES = 3
START_SECONDS = 120.0
NODE = {"FLUSH_DELAY_MS": "50", "S3_TIMEOUT_SECONDS": "2", "REQUEST_TIMEOUT_SECONDS": "3"}


class RoutersSystem:
    """Started processes; for use in a with statement. Control blocks, for a bounded time."""

    def __init__(self, directory: Path, lease_seconds: float, members: int) -> None:
        self.lease_seconds = lease_seconds
        self._stack = ExitStack()
        try:
            self.s3 = self._stack.enter_context(MotoServer(directory))
            self.bucket = self.s3.new_bucket()
            (directory / "etcd").mkdir()
            self.etcd = self._stack.enter_context(running_etcd(directory / "etcd", members))
            variables = {
                "RATE_LIMIT": "0",
                "LEASE_SECONDS": str(lease_seconds),
                "REQUEST_TIMEOUT_SECONDS": "3",
                "RING_RECOVERY_SECONDS": "2",
                "ETCD_ENDPOINTS": ",".join(map(str, self.etcd.endpoints)),
            }
            self.routers = [
                Server(f"router{number}", "milena_router", variables, directory) for number in range(ROUTERS)
            ]
            self.nodes = [
                Node(
                    f"cache{number}",
                    {
                        **AWS_VARIABLES,
                        **NODE,
                        "ROUTER_ADDR": self.address,
                        "S3_ENDPOINT_URL": self.s3.endpoint_url,
                        "S3_BUCKET": self.bucket,
                    },
                    directory,
                )
                for number in range(NODES)
            ]
            for server in (*self.routers, *self.nodes):
                self._stack.callback(server.close)
            self.wait_until_whole(START_SECONDS)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> RoutersSystem:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """Where clients and nodes connect: all routers."""
        return ",".join(router.address for router in self.routers)

    def leader(self) -> EtcdMember:
        """Return the leader of etcd."""
        for member in self.etcd.members:
            request = Request(f"http://{member.address}/v3/maintenance/status", b"{}")
            with urlopen(request, timeout=5) as response:
                status = json.load(response)
            if status["leader"] == status["header"]["member_id"]:
                return member
        raise TimeoutError("etcd has no leader")

    def wait_until_whole(self, seconds: float) -> float:
        """Block until every router has all nodes in its ring, and reaches etcd; return the seconds that it took."""
        started = time.monotonic()

        def whole() -> bool:
            try:
                found = [router.metrics() for router in self.routers if router.running]
            except OSError:
                return False
            return (
                all(metrics.value("milena_router_etcd_reachable") for metrics in found)
                and all(metrics.value("milena_router_ring_nodes") == NODES for metrics in found)
                and not any(metrics.value("milena_router_ring_pending_slots") for metrics in found)
                and not any(metrics.value("milena_router_ring_unreleased_losses") for metrics in found)
                and not any(metrics.value("milena_router_ring_slots_missing_copies") for metrics in found)
                and len({metrics.value("milena_router_ring_epoch") for metrics in found}) == 1
                and all(node.ready() for node in self.nodes)
            )

        wait_until("all routers have the whole ring", whole, seconds, 0.1)
        return time.monotonic() - started

    def epoch(self) -> float:
        return self.routers[0].metrics().value("milena_router_ring_epoch")

    def owners(self, keys: Iterable[str]) -> dict[str, str]:
        """Return by key the address of its owner."""
        with router_stub(self.routers[0].address) as router:
            return {key: router.Owner(pb.OwnerRequest(key=key.encode())).address for key in keys}

    def defects(self) -> list[str]:
        """Tracebacks that a process logged."""
        # grpc logs one for each call whose caller has given it up when the reply is sent.
        return [
            f"{server.name}: {line}"
            for server in (*self.routers, *self.nodes)
            for line in server.lines("Traceback")
            if "ExecuteBatchError raised in core" not in line
        ]
