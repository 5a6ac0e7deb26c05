"""Shell. `python -m tests.e2e.access.unauthenticated [NUMBER]`: connections that do not log in, and what they cost.

NUMBER (2,000) connections to the Redis protocol's port of a node say nothing, send half a handshake, or random
bytes. Meanwhile a client with a login reads one key. Printed are its 99th percentile before and during that, the
node's memory, and when the last connection was closed.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

from milena_common.access.access import LOGIN_SECONDS
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import command
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

SAMPLE_SECONDS = 5.0
PASSWORD = "a-password-of-sixteen"
HALF = b"*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAU"


def resident(pid: int) -> int:
    """The resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Connections that do not log in; `closed_at` has when each was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.opened = 0
        self.closed_at: list[float] = []

    async def open_one(self, sent: bytes) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self.opened += 1
        try:
            writer.write(sent)
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            self.closed_at.append(time.monotonic())
            writer.close()


async def latencies(host: str, port: int, seconds: float) -> list[float]:
    """Durations of GETs, one after the other, on a connection with a login."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(command(b"AUTH", b"app", PASSWORD.encode()))
    assert await reader.readline() == b"+OK\r\n"
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        writer.write(command(b"GET", b"k"))
        await reader.readuntil(b"\r\nv\r\n")
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.001)
    writer.close()
    return sorted(found)


async def measure(cluster: Cluster, number: int) -> bool:
    node = cluster.nodes[0]
    host, port = parse_address(node.resp)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(command(b"AUTH", b"app", PASSWORD.encode()) + command(b"SET", b"k", b"v"))
    assert [await reader.readline() for _ in range(2)] == [b"+OK\r\n"] * 2
    quiet = await latencies(host, port, SAMPLE_SECONDS)
    before = resident(node.pid)
    load = Load(host, port)
    rng = random.Random(1)
    kinds = cycle((lambda: b"", lambda: HALF, lambda: rng.randbytes(200)))
    began = time.monotonic()
    tasks = [asyncio.create_task(load.open_one(next(kinds)())) for _ in range(number)]
    during = await latencies(host, port, SAMPLE_SECONDS)
    after = resident(node.pid)
    await asyncio.wait(tasks, timeout=2 * LOGIN_SECONDS)
    writer.close()
    last = max(load.closed_at) - began if load.closed_at else 0.0
    p99 = [values[int(len(values) * 0.99)] * 1e3 for values in (quiet, during)]
    grown = (after - before) / max(1, number)
    print(f"connections: {load.opened} opened, {len(load.closed_at)} closed, the last after {last:.1f} s")
    print(f"p99 of GET: {p99[0]:.2f} ms quiet, {p99[1]:.2f} ms with them: {p99[1] / p99[0]:.2f} times")
    sizes = [size / 2**20 for size in (before, after)]
    print(f"memory of the node: {sizes[0]:.1f} MiB, {sizes[1]:.1f} with them: {grown / 1024:.1f} KiB each")
    return len(load.closed_at) == number and last < LOGIN_SECONDS + 5 and grown <= 64 * 1024


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "users").write_text(f"user app on >{PASSWORD} ~* +@all\n")
        (directory / "token").write_text("the-token-of-this-cluster\n")
        env = {"ACL_FILE": str(directory / "users"), "CLUSTER_TOKEN_FILE": str(directory / "token")}
        with (
            MotoServer(directory) as moto,
            Cluster(
                directory / "c", moto.endpoint_url, moto.new_bucket(), 1, router_env=env, node_env=env
            ) as cluster,
        ):
            return 0 if asyncio.run(measure(cluster, number)) else 1


if __name__ == "__main__":
    sys.exit(main())
