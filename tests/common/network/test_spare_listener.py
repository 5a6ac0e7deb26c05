"""Accepting connections without a file descriptor left: each test in a process of its own, with a low limit."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PREAMBLE = """
import asyncio, logging, os, resource, socket, sys
import uvloop
from prometheus_client import CollectorRegistry
from milena_common.network.addresses import Address
from milena_common.metrics.http_server import OpsServer
from milena_common.network.spare_listener import SPARES

logging.basicConfig(stream=sys.stdout, format="%(message)s")

def exhaust():
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return held

async def answered(client, path="/livez"):
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"GET %b HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % path.encode())
    return (await asyncio.wait_for(loop.sock_recv(client, 1000), 10)).startswith(b"HTTP/1.1 200 OK")

def connected(address, number):
    return [socket.create_connection((address.host, address.port)) for _ in range(number)]
"""


def run(body: str) -> str:
    """Run `body` in a coroutine with `address`, that of a server with a limit of 100 open files; what it prints."""
    code = PREAMBLE + (
        "async def main():\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "    ops = OpsServer(CollectorRegistry(), list)\n"
        '    address = await ops.start(Address("127.0.0.1", 0), "METRICS_PORT")\n'
        f"{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "    await ops.stop()\n"
        "uvloop.run(main())\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_the_health_page_responds_without_a_descriptor_left(path: str) -> None:
    said = run(f"""
        client = socket.socket()
        held = exhaust()
        client.connect((address.host, address.port))
        assert await answered(client, {path!r})
    """)
    assert "too many open files" in said


def test_as_many_checks_as_there_are_spares_and_the_others_wait() -> None:
    run("""
        clients = [socket.socket() for _ in range(SPARES + 2)]
        held = exhaust()
        for client in clients:
            client.connect((address.host, address.port))
        waiting = [asyncio.create_task(answered(client)) for client in clients]
        assert all(await asyncio.gather(*waiting[:SPARES]))
        assert not any(each.done() for each in waiting[SPARES:])
        os.close(held.pop())
        os.close(held.pop())
        assert all(await asyncio.gather(*waiting))
    """)


def test_the_reserve_is_filled_up_again() -> None:
    run("""
        for _ in range(3):
            clients = [socket.socket() for _ in range(SPARES)]
            held = exhaust()
            for client in clients:
                client.connect((address.host, address.port))
                assert await answered(client)
            for each in held:
                os.close(each)
            for client in clients:
                client.close()
            # A connection that comes while there are descriptors again.
            for client in connected(address, 1):
                assert await answered(client)
                client.close()
    """)


def test_one_line_is_logged_for_many_connections() -> None:
    said = run("""
        clients = [socket.socket() for _ in range(SPARES)]
        held = exhaust()
        for client in clients:
            client.connect((address.host, address.port))
            assert await answered(client)
    """)
    assert said.count("too many open files") == 1


def test_a_stopped_listener_holds_nothing() -> None:
    run("""
        before = len(os.listdir("/proc/self/fd"))
        await ops.stop()
        assert len(os.listdir("/proc/self/fd")) == before - SPARES - 1
    """)
