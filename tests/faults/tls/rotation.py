"""Replaces certificates, keys and authorities of a cluster under load, again and again: no request may fail.

    python -m tests.faults.tls.rotation [ROUNDS]

In each round the processes and the client get new certificates. Every second round they are of a new authority:
first all sides trust both, then certificates are replaced, then the authority before is removed; then a client
with a certificate of that authority must be rejected. Clients read and write meanwhile, straight to the nodes and
through the router, for threads and for an event loop; those for threads are new ones every 25 calls.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from milena_client import Milena, TlsFiles
from milena_common.api.errors import MilenaError
from milena_common.tls.certificates import REFRESH_SECONDS
from tests.faults.tls.load import Load
from tests.support.certificates import CLUSTER, Authority, client_url, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

TAKEN_SECONDS = 60.0


def rotate(
    folder: Path, authority: Authority, files: TlsFiles, cluster: Cluster, rounds: int
) -> tuple[list[str], int, int]:
    """Return the failures, the number of calls, and how many contents each process has taken at least.

    `files` are those of the processes in `folder`, of `authority`.
    """
    client = write_files(folder, authority.pem, authority.issue("rotated client"), "rotated")
    servers = (cluster.router, *cluster.nodes)

    def reloads() -> int:
        return min(len(each.lines("new certificates are used")) for each in servers)

    before = reloads()

    def replace(trusted: bytes, issuer: Authority) -> None:
        known = reloads()
        for each, name in ((files, CLUSTER), (client, "rotated")):
            pair = issuer.issue(name)
            # As a secret is mounted: everything at once, by files that are put in place of those before.
            for file, content in zip((each.authorities, each.certificate, each.key), (trusted, *pair), strict=True):
                Path(f"{file}.new").write_bytes(content)
                Path(f"{file}.new").rename(file)
        wait_until("new certificates are used", lambda: reloads() > known, TAKEN_SECONDS)

    with Load(client_url(cluster.address, client)) as load:
        for number in range(rounds):
            if number % 2 == 0:
                replace(authority.pem, authority)
                continue
            successor = Authority(f"authority {number}")
            stranger = folder / "stranger-files"
            shutil.rmtree(stranger, ignore_errors=True)
            old = write_files(folder, authority.pem + successor.pem, authority.issue(), "stranger-files")
            replace(authority.pem + successor.pem, authority)
            replace(authority.pem + successor.pem, successor)
            # With the second that connections take to be replaced.
            until = monotonic() + REFRESH_SECONDS + 1
            wait_until("clients have looked at their files", lambda until=until: monotonic() > until, TAKEN_SECONDS)
            replace(successor.pem, successor)
            authority = successor
            try:
                with Milena(client_url(cluster.address, old, "&timeout=5s")) as m:
                    m.get("k")
                load.failures.append("a certificate of an authority that was removed is accepted")
            except MilenaError as error:
                if "right after the TLS handshake" not in str(error):
                    load.failures.append(f"the refusal does not name the certificate: {error}")
    return load.failures, load.calls, reloads() - before


def main(rounds: int) -> int:
    with TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority()
        files = write_files(folder, authority.pem, authority.issue(), "server")
        variables = tls_variables(files)
        (folder / "moto").mkdir()
        with (
            MotoServer(folder / "moto") as moto,
            Cluster(
                folder / "cluster",
                moto.endpoint_url,
                moto.new_bucket(),
                2,
                router_env=variables,
                node_env={**variables, "RESP_ADDR": "off"},
            ) as cluster,
        ):
            cluster.wait_for_ring(2)
            failures, calls, taken = rotate(folder, authority, files, cluster, rounds)
    print(f"{rounds} rounds, {taken} new contents taken, {calls} calls, {len(failures)} failed")
    for failure in failures[:20]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
