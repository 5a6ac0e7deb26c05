"""Encrypted connections of event loops: what a listener accepts and what it rejects, and what clients see of it."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import time
from typing import Any

import pytest

from milena_common.network import encrypted, spare_listener
from milena_common.network.addresses import Address
from milena_common.network.connecting import open_connection
from milena_common.network.encrypted import HandshakeFailed
from milena_common.network.listening import bind
from milena_common.network.security import PeerChain
from milena_common.network.spare_listener import SpareListener
from milena_common.tls.certificates import Certificates
from milena_common.tls.chain import peer_chain
from milena_common.tls.peer import of_transport
from milena_common.tls.settings import ClientAuth
from tests.support.certificates import Authority, write_files
from tests.support.waiting import wait_until

HOST = "127.0.0.1"
AT_MOST = 30.0


class Echo(asyncio.Protocol):
    """The server's side: replies with the kind of the connection, and the names of the client's certificate."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        peer = of_transport(self.transport.get_extra_info("peercert"))
        kind = "plain" if self.transport.get_extra_info("sslcontext") is None else "tls"
        self.transport.write(f"{kind} {peer.common_name if peer else '-'}".encode())


class Client(asyncio.Protocol):
    """Sends something, and waits for the reply or the end."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"*1\r\n$4\r\nPING\r\n")

    def data_received(self, data: bytes) -> None:
        if not self.reply.done():
            self.reply.set_result(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.reply.done():
            self.reply.set_result(b"")


class Side:
    """An authority, and certificates of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()

    def certificates(self, name: str, *, auth: ClientAuth = "off", shown: bool = True) -> Certificates:
        pair = self.authority.issue(name) if shown else None
        return Certificates(write_files(self.folder, self.authority.pem, pair, name, client_auth=auth))


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


@asynccontextmanager
async def listening(
    server: Certificates, *, plain_too: bool = False, connection: type[Echo] = Echo
) -> AsyncIterator[str]:
    sockets = bind(Address(HOST, 0), "port")
    listener = SpareListener(sockets, connection, server, plain_too=plain_too, port="resp", spares=0)
    listener.start(16)
    try:
        yield f"{HOST}:{sockets[0].getsockname()[1]}"
    finally:
        listener.close()


async def replied(address: str, client: Certificates | None) -> bytes:
    connection = await open_connection(Client, address, client)
    try:
        return await connection.reply
    finally:
        connection.transport.abort()


async def counted(server: Certificates, reason: str) -> None:
    await asyncio.to_thread(wait_until, "it is counted", lambda: server.rejected["resp", reason], AT_MOST)
    assert server.rejected == Counter({("resp", reason): 1})


async def test_clients_with_and_without_certificates_are_distinguished(side: Side) -> None:
    known, unknown = side.certificates("known"), side.certificates("none", shown=False)
    async with listening(side.certificates("server", auth="optional")) as address:
        assert await replied(address, known) == b"tls known"
        assert await replied(address, unknown) == b"tls -"


@pytest.mark.parametrize("fast", [True, False])
async def test_the_chain_of_a_client_is_known_to_the_server(
    side: Side, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr(encrypted, "_fast", None)
    chains: list[PeerChain | None] = []

    class Seen(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            chains.append(peer_chain(transport.get_extra_info("ssl_object")))

    server = side.certificates("server", auth="optional")
    async with listening(server, connection=Seen) as address:
        assert await replied(address, side.certificates("client")) == b"tls client"
        assert await replied(address, side.certificates("none", shown=False)) == b"tls -"
    shown, none = chains
    assert shown is not None
    assert none is None
    assert server.accepts(shown)


async def test_one_port_takes_both_kinds(side: Side) -> None:
    async with listening(side.certificates("server"), plain_too=True) as address:
        assert await replied(address, None) == b"plain -"
        assert await replied(address, side.certificates("client")) == b"tls -"


async def test_a_client_without_a_certificate_is_counted(side: Side) -> None:
    server = side.certificates("server", auth="required")
    async with listening(server) as address:
        with suppress(HandshakeFailed):  # with TLS 1.2; else the connection ends after the handshake
            assert await replied(address, side.certificates("none", shown=False)) == b""
        await counted(server, "no_certificate")


async def test_a_client_of_another_authority_is_counted(side: Side, tmp_path: Path) -> None:
    server = side.certificates("server", auth="required")
    stranger = Certificates(write_files(tmp_path, side.authority.pem, Authority("other").issue(), "stranger"))
    async with listening(server) as address:
        with suppress(HandshakeFailed):
            assert await replied(address, stranger) == b""
        await counted(server, "unknown_authority")


async def test_bytes_that_are_no_handshake_are_counted(side: Side) -> None:
    server = side.certificates("server")
    async with listening(server) as address:
        assert await replied(address, None) == b""
        await counted(server, "not_tls")


async def test_what_is_wrong_with_a_server_is_named(side: Side, tmp_path: Path) -> None:
    other = Authority("other")
    distrusts = Certificates(write_files(tmp_path, other.pem, None, "distrusts"))
    named = Certificates(write_files(tmp_path, side.authority.pem, None, "named", server_name="milena.example"))
    async with listening(side.certificates("server")) as address:
        with pytest.raises(HandshakeFailed, match=r"not of an authority that this side trusts \(ca\)"):
            await open_connection(Client, address, distrusts)
        with pytest.raises(HandshakeFailed, match=r"not for the name 'milena\.example'"):
            await open_connection(Client, address, named)


@pytest.mark.parametrize(("begins", "expires", "reason"), [(-9, -1, "has expired"), (1, 2, "is not valid yet")])
async def test_dates_of_a_server_that_do_not_hold_are_named(
    side: Side, tmp_path: Path, begins: float, expires: float, reason: str
) -> None:
    pair = side.authority.issue(begins=begins, expires=expires)
    files = write_files(tmp_path, side.authority.pem, pair, "dated")
    middle = time() + 86_400 * (begins + expires) / 2
    async with listening(Certificates(files, lambda: middle)) as address:
        with pytest.raises(HandshakeFailed, match=f"its certificate {reason}"):
            await open_connection(Client, address, side.certificates("client", shown=False))


async def test_clients_that_connect_at_once_begin_one_after_another_and_all_get_in(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, iteration, begun = asyncio.get_running_loop(), [0], []

    def count() -> None:
        iteration[0] += 1
        loop.call_soon(count)

    async def accept(*arguments: Any) -> None:
        begun.append(iteration[0])
        await encrypted.accept_encrypted(*arguments)

    monkeypatch.setattr(spare_listener, "accept_encrypted", accept)
    server, client = side.certificates("server"), side.certificates("client")
    count()
    async with listening(server) as address:
        replies = await asyncio.gather(*(replied(address, client) for _ in range(24)))
    assert replies == [b"tls -"] * 24
    assert len(begun) == len(set(begun)) == 24
    assert not server.rejected


@pytest.mark.parametrize(("bound", "sent"), [("MAX_SILENT", b""), ("MAX_HANDSHAKES", b"\x16\x03\x01\x01\x00")])
async def test_the_longest_handshake_makes_room(
    side: Side, monkeypatch: pytest.MonkeyPatch, bound: str, sent: bytes
) -> None:
    monkeypatch.setattr(spare_listener, bound, 2)
    server = side.certificates("server")
    async with listening(server) as address:
        host, _, port = address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(3)]
        for each in silent:
            each.sendall(sent)
        await counted(server, "closed")
        assert await replied(address, side.certificates("client")) == b"tls -"
        for each in silent:
            each.close()
