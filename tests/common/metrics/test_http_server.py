"""The operators' HTTP port, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily

from milena_common.metrics import http_server as ops_http
from milena_common.metrics.http_server import LIVE_PATHS, READY_PATHS, OpsServer
from milena_common.network.addresses import Address
from milena_common.network.listening import CannotListen

ANY_PORT = Address("127.0.0.1", 0)


class Ops:
    """A running server, what makes it not ready, and its address."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        registry = CollectorRegistry()
        Gauge("some_gauge", "of the test", registry=registry).set(42)
        self.remarks: list[str] = []
        self.server = OpsServer(registry, lambda: self.reasons, remarks=lambda: self.remarks)
        self.address = ANY_PORT

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.address}{path}", headers=headers) as reply,
        ):
            return reply.status, reply.headers["Content-Type"], await reply.text()


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


async def test_a_process_that_is_as_it_must_be_may_have_something_to_say(ops: Ops) -> None:
    ops.remarks = ["in 1 of 2 journals"]
    assert (await ops.get("/readyz"))[::2] == (200, '{"status": "ok", "notes": ["in 1 of 2 journals"]}')


@pytest.mark.parametrize("path", LIVE_PATHS)
async def test_a_process_that_is_not_ready_is_alive(ops: Ops, path: str) -> None:
    ops.reasons = ["not joined"]
    assert (await ops.get(path))[0] == 200


async def test_metrics_are_in_the_requested_format(ops: Ops) -> None:
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
async def test_garbage_is_rejected_and_affects_no_other_connection(ops: Ops, garbage: bytes) -> None:
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
            CannotListen,
            match=rf"^METRICS_PORT: cannot listen on 127.0.0.1:{port}: Address already in use; set .*$",
        ):
            await server.start(Address("127.0.0.1", port), "METRICS_PORT")
        await server.stop()


async def test_a_host_that_is_not_found_is_named() -> None:
    server = Ops().server
    with pytest.raises(CannotListen, match=r"^METRICS_PORT: cannot listen on no-such-host.invalid:9090: [A-Z]"):
        await server.start(Address("no-such-host.invalid", 9090), "METRICS_PORT")
    await server.stop()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_http, "MAX_CONNECTIONS", 4)


@pytest.mark.usefixtures("few")
async def test_the_health_page_responds_however_many_clients_hold_connections(
    ops: Ops, caplog: pytest.LogCaptureFixture
) -> None:
    idle = [await asyncio.open_connection(*ops.address) for _ in range(20)]
    for _ in range(10):
        assert (await ops.get("/livez"))[0] == 200
        assert (await ops.get("/metrics"))[0] == 200
    assert [await read_all(reader) for reader, _ in idle[:10]] == [b""] * 10
    for _, writer in idle:
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.usefixtures("few")
async def test_connections_that_have_ended_take_no_place(ops: Ops) -> None:
    reader, writer = await asyncio.open_connection(*ops.address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n")
    for _ in range(20):
        assert (await ops.get("/livez"))[0] == 200
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readuntil(b"200 OK\r\n")
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(ops_http, "IDLE_SECONDS", 0.1)
    ops = Ops()
    ops.address = await ops.server.start(ANY_PORT, "METRICS_PORT")
    reader, writer = await asyncio.open_connection(*ops.address)
    writer.write(sent)
    assert b"200 OK" in await read_all(reader) or b"1.1" not in sent
    writer.close()
    await ops.server.stop()


class Counted:
    """A collector that counts how often it was called."""

    def __init__(self) -> None:
        self.times = 0

    def collect(self) -> list[GaugeMetricFamily]:
        self.times += 1
        return [GaugeMetricFamily("times", "Asked", value=self.times)]


async def test_scrapes_that_come_together_get_one_text_and_later_ones_a_new_one(ops: Ops) -> None:
    counted = Counted()
    ops.server._registry.register(counted)
    before = counted.times
    many = await asyncio.gather(*(ops.get("/metrics") for _ in range(20)))
    assert {status for status, _, _ in many} == {200}
    assert counted.times - before < 20
    for _ in range(3):
        _, _, text = await ops.get("/metrics")
        assert f"times {float(counted.times)}" in text


@pytest.mark.parametrize("path", ["/metrics", "/livez"])
async def test_a_client_that_does_not_read_is_served_no_further_and_harms_no_other(ops: Ops, path: str) -> None:
    Gauge("large", "x" * 2**20, registry=ops.server._registry)
    counted = Counted()
    ops.server._registry.register(counted)
    loop = asyncio.get_running_loop()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.setblocking(False)
        await loop.sock_connect(silent, tuple(ops.address))
        await loop.sock_sendall(silent, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode() * 200)
        for _ in range(20):
            assert (await ops.get("/livez"))[0] == 200
            assert (await ops.get("/metrics"))[0] == 200
        assert counted.times < 100
