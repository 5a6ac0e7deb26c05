"""A running cluster of three nodes goes from plain connections to TLS, with certificates of both sides.

    python -m tests.faults.tls.upgrade

The way is that of docs/security.md: router and nodes are restarted one after another with TLS=both; clients go
over to the encrypted ports; then they are restarted one after another with TLS=on. No call of a client may fail.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from milena_client import Milena
from milena_common.api.errors import MilenaError
from tests.faults.tls.load import Load
from tests.support.certificates import CLUSTER, Authority, client_url, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.processes import Server
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

STOP_SECONDS = 60.0
CALLS = 30


def upgrade(folder: Path, cluster: Cluster) -> tuple[list[str], int]:
    """Return the failures and the number of calls; `cluster` is plain."""
    authority = Authority()
    variables = tls_variables(write_files(folder, authority.pem, authority.issue(CLUSTER), "server"))
    client = write_files(folder, authority.pem, authority.issue("client"), "client")
    size, router = len(cluster.nodes), cluster.router

    def restart(server: Server, more: dict[str, str]) -> None:
        server.terminate()
        assert server.wait(STOP_SECONDS) == 0
        server.restart({**variables, **more})
        server.wait_ready()
        cluster.wait_for_ring(size)

    def go_on(load: Load) -> None:
        calls = load.calls
        wait_until("clients make calls", lambda: load.calls > calls + CALLS, STOP_SECONDS)

    router_url = f"https://{router.tls_address}"
    with Load(f"milena://{cluster.address}?timeout=20s") as plain:
        go_on(plain)
        # Nodes without a certificate still join: names are demanded from the last step on.
        both = {"TLS": "both", "CLUSTER_CERT_NAMES": ""}
        restart(router, {**both, "TLS_LISTEN_ADDR": router.tls_address})
        for node in cluster.nodes:
            addresses = {"TLS_LISTEN_ADDR": node.tls_address, "RESP_TLS_ADDR": node.resp_tls}
            restart(node, {**both, **addresses, "ROUTER_ADDR": router_url})
        go_on(plain)
        with Load(client_url(router.tls_address, client, "&timeout=20s")) as encrypted:
            go_on(encrypted)
        go_on(plain)
    with Load(client_url(router.tls_address, client, "&timeout=20s")) as load:
        go_on(load)
        for node in cluster.nodes:
            restart(node, {"TLS": "on", "TLS_LISTEN_ADDR": "", "RESP_ADDR": "off"})
        restart(router, {"TLS": "on", "TLS_LISTEN_ADDR": "", "LISTEN_ADDR": router.tls_address})
        go_on(load)
    failures = plain.failures + encrypted.failures + load.failures
    try:
        with Milena(f"milena://{router.tls_address}?timeout=2s") as m:
            m.get("direct")
        failures.append("a plain connection is accepted at the end")
    except MilenaError:
        pass
    return failures, plain.calls + encrypted.calls + load.calls


def main() -> int:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "moto").mkdir()
        with (
            MotoServer(folder / "moto") as moto,
            Cluster(folder / "cluster", moto.endpoint_url, moto.new_bucket(), 3) as cluster,
        ):
            cluster.wait_for_ring(3)
            failures, calls = upgrade(folder, cluster)
    print(f"{calls} calls, {len(failures)} failed")
    for failure in failures[:20]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
