"""Calls to a server that stops: those that it has not begun are made again, and those that it has begun are not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf.message import Message

from milena_client import AsyncMilena, Milena, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.router import router

HOST = "127.0.0.1"
TIMEOUT = 10.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, GOAWAY, END_STREAM = 4, 7, 1


def frame(kind: int, body: bytes) -> bytes:
    """Return an HTTP/2 frame of the connection (RFC 9113, section 4.1)."""
    return len(body).to_bytes(3, "big") + bytes((kind, 0)) + bytes(4) + body


def called(connection: socket.socket) -> int:
    """Return the stream of the first call that has arrived whole, 0 if the connection ends before."""
    received = b""
    while True:
        size = 9 + int.from_bytes(received[:3], "big")
        if len(received) >= 9 and len(received) >= size:
            kind, flags, stream = received[3], received[4], int.from_bytes(received[5:9], "big")
            received = received[size:]
            if kind in (0, 1) and flags & END_STREAM:
                return stream
        elif more := connection.recv(65536):
            received += more
            if received.startswith(PREFACE):
                received = received[len(PREFACE) :]
                connection.sendall(frame(SETTINGS, b""))
        else:
            return 0


class StoppingServer:
    """Says at the first `times` calls that it stops, and ends the connection; begins each if `begins`.

    The next connections go to the router at `successor`. `calls`: the number of calls that it has replied to so.
    """

    def __init__(self, successor: str, times: int, *, begins: bool) -> None:
        self.calls = 0
        self._successor = successor
        self._times = times
        self._begins = begins
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> StoppingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.calls < self._times:
                with connection:
                    self._stop(connection)
            else:
                self._pass_on(connection)

    def _stop(self, connection: socket.socket) -> None:
        stream = called(connection)
        if not stream:
            return
        self.calls += 1
        last = stream if self._begins else stream - 1
        connection.sendall(frame(GOAWAY, last.to_bytes(4, "big") + bytes(4) + b"Server shutdown"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    def _pass_on(self, connection: socket.socket) -> None:
        host, port = self._successor.split(":")
        upstream = socket.create_connection((host, int(port)))

        def copy(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        for each in ((connection, upstream), (upstream, connection)):
            threading.Thread(target=copy, args=each, daemon=True).start()


def sync_set(address: str) -> None:
    with Milena(f"milena://{address}?direct=false", timeout=TIMEOUT) as client:
        client.set("k", b"v")


def async_set(address: str) -> None:
    async def set_() -> None:
        async with AsyncMilena(f"milena://{address}?direct=false", timeout=TIMEOUT) as client:
            await client.set("k", b"v")

    asyncio.run(set_())


@pytest.fixture(params=[sync_set, async_set])
def write(request: pytest.FixtureRequest) -> Callable[[str], None]:
    way: Callable[[str], None] = request.param
    return way


def reply(_method: str, _request: Any, _context: object) -> Message:
    return pb.PutResponse(successful=True, etag="etag", node="a:1", durability="back")


@contextmanager
def stopping(times: int, *, begins: bool) -> Iterator[StoppingServer]:
    with router(reply) as address, StoppingServer(address, times, begins=begins) as server:
        yield server


# gRPC itself sends such a call again, once.
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_write_that_a_stopping_router_has_not_begun_is_made_again(
    write: Callable[[str], None], times: int
) -> None:
    with stopping(times, begins=False) as server:
        write(server.address)
        assert server.calls == times


def test_a_write_that_a_stopping_router_may_have_carried_out_is_not_made_again(
    write: Callable[[str], None],
) -> None:
    with stopping(1, begins=True) as server:
        with pytest.raises(Unavailable):
            write(server.address)
        assert server.calls == 1
