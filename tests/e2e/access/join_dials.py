"""Shell. `python -m tests.e2e.access.join_dials FOLDER`: what a router dials when joins report forbidden addresses.

It is for a network and mount namespace of its own (`unshare --net --mount`), which it changes: every IP address is
one of this machine there, so whatever the router dials, at port 80, arrives at one listener. Names are those of a
file in FOLDER. Printed is a JSON object: which joins were not rejected, and which addresses were dialled.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.api.pb import router_server_pb2_grpc as router_grpc
from tests.router.forwarding.test_join_addresses import NAMES, SSRF
from tests.support.processes import Server
from tests.support.waiting import wait_until

PORT = 80
ALLOWED = "10.0.0.5"
REBOUND = "rebound.internal"
SECONDS = 20.0
NO_NODE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
REJECTED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)


class Listener:
    """Accepts and ends all connections to PORT; `dialled` has the addresses that they were for."""

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._socket.bind(("::", PORT))
        self._socket.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            accepted, _ = self._socket.accept()
            self.dialled.append(str(accepted.getsockname()[0]).removeprefix("::ffff:"))
            accepted.close()


def prepare(hosts: Path) -> None:
    """Make every address one of this machine, and `hosts` the file of names."""
    for command in (
        "ip link set lo up",
        "ip -4 route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
        f"mount --bind {hosts} /etc/hosts",
    ):
        subprocess.run(command.split(), check=True)


def name(hosts: Path, host: str, addresses: list[str]) -> None:
    """Give `host` these addresses only."""
    lines = [line for line in hosts.read_text().splitlines() if line.split()[1] != host]
    hosts.write_text("".join(f"{line}\n" for line in [*lines, *(f"{each} {host}" for each in addresses)]))


def run(folder: Path) -> dict[str, object]:
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    for host, addresses in NAMES.items():
        name(hosts, host, list(addresses))
    name(hosts, REBOUND, [ALLOWED])
    prepare(hosts)
    listener = Listener()
    passed: list[str] = []
    with (
        Server(
            "router", "milena_router", {"NODE_NETWORKS": "10.0.0.0/8", "RING_RECOVERY_SECONDS": "0"}, folder
        ) as router,
        grpc.insecure_channel(router.address) as channel,
    ):
        router.wait_ready()
        stub = router_grpc.RouterStub(channel)

        def join(address: str, others: dict[str, str]) -> bool:
            """Return False if the join is rejected."""
            try:
                request = pb.JoinRequest(address=address, node_id="n", default_bucket="bucket", addresses=others)
                stub.Join(request, timeout=SECONDS)
            except grpc.RpcError as error:
                if error.code() not in REJECTED:
                    raise
                return False
            return True

        def get() -> None:
            try:
                stub.Get(pb.GetRequest(key=b"k"), timeout=0.1)
            except grpc.RpcError as error:
                if error.code() not in NO_NODE:
                    raise

        for address in SSRF:
            for where, others in (
                (address, {}),
                (f"{ALLOWED}:81", {"resp": address}),
                (f"{ALLOWED}:81", {"grpc-tls": address}),
            ):
                if join(where, others):
                    passed.append(f"{where} {others}")
            get()
        before = list(listener.dialled)
        # Nothing was dialled above because it was rejected: what is allowed is dialled.
        assert join(f"{REBOUND}:{PORT}", {"resp": f"{REBOUND}:{PORT}"})
        get()
        wait_until("the router dials an allowed address", lambda: len(listener.dialled) > len(before), SECONDS)
        # A name that is another address now: what was checked is called.
        name(hosts, REBOUND, ["169.254.169.254"])
        reached = len(listener.dialled)
        for _ in range(3):
            get()
        wait_until("it dials again", lambda: len(listener.dialled) > reached, SECONDS)
        return {"forms": len(SSRF), "passed": passed, "before": before, "dialled": sorted(set(listener.dialled))}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
