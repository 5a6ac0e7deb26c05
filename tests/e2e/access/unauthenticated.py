"""Shell. `python -m tests.e2e.access.unauthenticated [NUMBER]`: connections that do not log in, and what they cost.

NUMBER (2,000) connections say nothing, send half a handshake, or random bytes: to the plain port of a node's RESP
server, to its port with TLS, and there once more after the handshake of TLS. Each of the three has a node of its
own. Meanwhile another process with a login reads one key. Printed are its 99th percentile before and during that,
the node's memory with as many as were open together, and for how long each was at most. The exit code is 0 if all
is within the limits.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from milena_common.access.access import LOGIN_SECONDS
from milena_common.network.addresses import Address, parse_address
from milena_common.resp.encoding import command
from tests.support.certificates import Authority, write_files
from tests.support.cluster import Cluster
from tests.support.processes import Node
from tests.support.s3.moto_server import MotoServer

SAMPLE_SECONDS = 5.0
# Handshakes of TLS at the same time.
AT_ONCE = 32
# The limits: memory of each connection, and how much slower the client with a login may be.
MAX_BYTES = 64 * 1024
MAX_RATIO = 2.0
PASSWORD = "a-password-of-sixteen"
HALF = b"*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAU"


def resident(pid: int) -> int:
    """The resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Load:
    """Connections that do not log in. `context`: with a handshake of TLS.

    opened, open: how many were opened, and are open
    lasted: for how many seconds each was open that is closed
    """

    def __init__(self, at: Address, context: ssl.SSLContext | None) -> None:
        self._at = at
        self._context = context
        self._opening = asyncio.Semaphore(AT_ONCE if context is not None else 10**6)
        self.opened = 0
        self.open = 0
        self.lasted: list[float] = []

    async def open_one(self, sent: bytes) -> None:
        writer, began = None, time.monotonic()
        try:
            # This process is slower than the node: with all handshakes at once, none would end in time.
            async with self._opening:
                began = time.monotonic()
                reader, writer = await asyncio.open_connection(*self._at, ssl=self._context)
            self.opened += 1
            self.open += 1
            writer.write(sent)
            while await reader.read(65536):
                pass
        except OSError:
            pass
        finally:
            self.lasted.append(time.monotonic() - began)
            if writer is not None:
                self.open -= 1
                writer.transport.abort()


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


def half_of_a_client_hello() -> bytes:
    """Return the first half of what a client of TLS sends first."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="node").do_handshake()
    hello = sent.read()
    return hello[: len(hello) // 2]


def start_reading(host: str, port: int) -> subprocess.Popen[str]:
    """Start a process that measures durations of GETs, and prints the 99th percentile in milliseconds."""
    program = [sys.executable, "-m", "tests.e2e.access.unauthenticated", "read", host, str(port)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


async def p99_of(reading: subprocess.Popen[str]) -> float:
    return float((await asyncio.to_thread(reading.communicate))[0])


async def measure(node: Node, load: Load, half: bytes, number: int) -> bool:
    host, port = parse_address(node.resp)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(command(b"AUTH", b"app", PASSWORD.encode()) + command(b"SET", b"k", b"v"))
    assert [await reader.readline() for _ in range(2)] == [b"+OK\r\n"] * 2
    writer.close()
    quiet = await p99_of(start_reading(host, port))
    before = resident(node.pid)
    rng = random.Random(1)
    kinds = cycle((lambda: b"", lambda: half, lambda: rng.randbytes(200)))
    reading = start_reading(host, port)
    tasks = [asyncio.create_task(load.open_one(next(kinds)())) for _ in range(number)]
    measuring = asyncio.create_task(p99_of(reading))
    after, number_open = before, 1
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=0.2)
        if load.open > number_open:
            after, number_open = resident(node.pid), load.open
    during = await measuring
    longest = max(load.lasted)
    grown = (after - before) / number_open
    print(f"  {load.opened} opened, {len(load.lasted)} closed, each within {longest:.1f} s")
    print(f"  p99 of GET: {quiet:.2f} ms quiet, {during:.2f} ms with them: {during / quiet:.2f} times")
    sizes = [size / 2**20 for size in (before, after)]
    print(
        f"  memory of the node: {sizes[0]:.1f} MiB, {sizes[1]:.1f} with {number_open}: {grown / 1024:.1f} KiB each",
        flush=True,
    )
    closed = len(load.lasted) == number and longest < LOGIN_SECONDS + 5
    return closed and grown <= MAX_BYTES and during <= MAX_RATIO * quiet


def measure_all(directory: Path, number: int) -> bool:
    authority = Authority()
    files = write_files(directory, authority.pem, authority.issue())
    (directory / "users").write_text(f"user app on >{PASSWORD} ~* +@all\n")
    (directory / "token").write_text("the-token-of-this-cluster\n")
    env = {"ACL_FILE": str(directory / "users"), "CLUSTER_TOKEN_FILE": str(directory / "token")}
    node_env = {**env, "TLS_CERT_FILE": files.certificate, "TLS_KEY_FILE": files.key}
    context = ssl.create_default_context(cafile=files.authorities)
    hello = half_of_a_client_hello()
    within = True
    with MotoServer(directory) as moto:
        for name, encrypted, handshake, half in (
            ("plain port", False, None, HALF),
            ("port with TLS", True, None, hello),
            ("port with TLS, after its handshake", True, context, HALF),
        ):
            print(name, flush=True)
            folder, bucket = directory / name, moto.new_bucket()
            with Cluster(folder, moto.endpoint_url, bucket, 1, router_env=env, node_env=node_env) as cluster:
                node = cluster.nodes[0]
                load = Load(parse_address(node.resp_tls if encrypted else node.resp), handshake)
                within &= asyncio.run(measure(node, load, half, number))
    return within


def main() -> int:
    if sys.argv[1:2] == ["read"]:
        found = asyncio.run(latencies(sys.argv[2], int(sys.argv[3]), SAMPLE_SECONDS))
        print(found[int(len(found) * 0.99)] * 1e3)
        return 0
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure_all(Path(folder), number) else 1


if __name__ == "__main__":
    sys.exit(main())
