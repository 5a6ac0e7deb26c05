"""The operators' HTTP port, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge

from milena_common import ops_http
from milena_common.addresses import Address
from milena_common.listening import CannotListen
from milena_common.ops_http import LIVE_PATHS, READY_PATHS, OpsServer

ANY_PORT = Address("127.0.0.1", 0)


class Ops:
    """A running server, what makes it not ready, and its address."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        registry = CollectorRegistry()
        Gauge("some_gauge", "of the test", registry=registry).set(42)
        self.server = OpsServer(registry, lambda: self.reasons)
        self.address = ANY_PORT

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.address}{path}", headers=headers) as answer,
        ):
            return answer.status, answer.headers["Content-Type"], await answer.text()


@pytest.fixture
async def ops() -> AsyncIterator[Ops]:
    running = Ops()
    running.address = await running.server.start(ANY_PORT, "METRICS_PORT")
    yield running
    await running.server.stop()


def test_the_paths_that_people_try_are_there() -> None:
    assert {*LIVE_PATHS, *READY_PATHS} == {
        "/livez", "/readyz", "/health", "/health/quick", "/ready", "/-/healthy", "/-/ready",
    }  # fmt: skip


@pytest.mark.parametrize("path", [*LIVE_PATHS, *READY_PATHS])
async def test_a_ready_process_says_so_on_every_path(ops: Ops, path: str) -> None:
    status, kind, body = await ops.get(path)
    assert (status, body) == (200, '{"status": "ok"}')
    assert kind.startswith("application/json")


@pytest.mark.parametrize("path", READY_PATHS)
async def test_a_process_that_is_not_ready_says_why(ops: Ops, path: str) -> None:
    ops.reasons = ["not joined", "bucket missing"]
    assert (await ops.get(path))[::2] == (
        503,
        '{"status": "not ready", "reasons": ["not joined", "bucket missing"]}',
    )


@pytest.mark.parametrize("path", LIVE_PATHS)
async def test_a_process_that_is_not_ready_is_alive(ops: Ops, path: str) -> None:
    ops.reasons = ["not joined"]
    assert (await ops.get(path))[0] == 200


async def test_metrics_are_in_the_format_that_is_asked_for(ops: Ops) -> None:
    status, kind, body = await ops.get("/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert "some_gauge 42.0" in body
    accepted = "application/openmetrics-text; version=1.0.0"
    status, kind, body = await ops.get("/metrics", {"Accept": accepted})
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


async def test_another_path_is_not_found(ops: Ops) -> None:
    assert (await ops.get("/secret"))[0] == 404


async def read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /livez HT",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
    ],
)
async def test_a_slow_or_silent_connection_is_ended(ops: Ops, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(ops_http, "MAX_CONNECTION_SECONDS", 0.2)
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(*ops.address)
    writer.write(sent)
    await read_all(reader)
    assert time.monotonic() - started < 5
    writer.close()
    assert (await ops.get("/livez"))[0] == 200


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff" * 100 + b"\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"]
)
async def test_garbage_is_refused_and_harms_nobody(ops: Ops, garbage: bytes) -> None:
    reader, writer = await asyncio.open_connection(*ops.address)
    writer.write(garbage)
    assert (await read_all(reader))[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400", b"")
    writer.close()
    assert (await ops.get("/livez"))[0] == 200


async def test_a_port_in_use_is_named_with_its_variable_and_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Ops().server
        with pytest.raises(
            CannotListen, match=rf"^METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use$"
        ):
            await server.start(Address("127.0.0.1", port), "METRICS_PORT")
        await server.stop()


async def test_a_host_that_is_not_found_is_named() -> None:
    server = Ops().server
    with pytest.raises(CannotListen, match=r"^METRICS_PORT: cannot listen on no-such-host.invalid:9090: [A-Z]"):
        await server.start(Address("no-such-host.invalid", 9090), "METRICS_PORT")
    await server.stop()
