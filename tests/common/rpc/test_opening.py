"""gRPC with certificates of both sides: who may call, the error of those who may not, and new certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from milena_common.network.addresses import Address
from milena_common.rpc.opening import NOT_BEGUN, bind_tls_port, no_connection, open_async_channel
from milena_common.tls.certificates import Certificates
from milena_common.tls.peer import PeerCertificate, of_grpc
from tests.support.certificates import Authority, write_files

HOST = "127.0.0.1"
SECONDS = 30.0
URI = "spiffe://example.org/client"


class Peers(grpc.GenericRpcHandler):
    """Records whose certificate each call has."""

    def __init__(self) -> None:
        self.seen: list[PeerCertificate | None] = []

    def service(self, details: Any) -> Any:
        async def respond(request: bytes, context: Any) -> bytes:
            self.seen.append(of_grpc(context.auth_context()))
            return request

        return grpc.unary_unary_rpc_method_handler(respond)


@asynccontextmanager
async def serving(certificates: Certificates) -> AsyncIterator[tuple[str, Peers]]:
    server, peers = grpc.aio.server(), Peers()
    server.add_generic_rpc_handlers((peers,))
    port = bind_tls_port(server, Address(HOST, 0), certificates)
    await server.start()
    try:
        yield f"{HOST}:{port}", peers
    finally:
        await server.stop(None)


async def call(address: str, certificates: Certificates | None) -> bytes:
    channel = open_async_channel(address, certificates)
    try:
        replied: bytes = await channel.unary_unary("/a/b")(b"request", timeout=SECONDS)
        return replied
    finally:
        await channel.close()


async def rejection(address: str, certificates: Certificates | None) -> str:
    """Return the error of a client whose call was certainly not sent."""
    with pytest.raises(grpc.aio.AioRpcError) as rejected:
        await call(address, certificates)
    details = rejected.value.details() or ""
    assert details.startswith(NOT_BEGUN), "a rejected certificate is no connection, so nothing was sent"
    return no_connection(details, certificates, HOST)


async def test_calls_have_the_names_of_the_client_s_certificate(tmp_path: Path) -> None:
    authority = Authority()
    server = Certificates(write_files(tmp_path, authority.pem, authority.issue(), client_auth="required"))
    pair = authority.issue("me", hosts=["me.example"], uris=[URI])
    client = Certificates(write_files(tmp_path, authority.pem, pair, "client"))
    async with serving(server) as (address, peers):
        assert await call(address, client) == b"request"
    assert peers.seen == [PeerCertificate((URI,), ("me.example",), "me")]


async def test_every_rejection_says_why(tmp_path: Path) -> None:
    authority, other = Authority(), Authority("other")
    server = Certificates(write_files(tmp_path, authority.pem, authority.issue(), client_auth="required"))
    none = Certificates(write_files(tmp_path, authority.pem, None, "none"))
    stranger = Certificates(write_files(tmp_path, authority.pem, other.issue(), "stranger"))
    distrusts = Certificates(write_files(tmp_path, other.pem, authority.issue(), "distrusts"))
    named = Certificates(write_files(tmp_path, authority.pem, authority.issue(), "named", server_name="a.example"))
    async with serving(server) as (address, peers):
        assert "which shows none" in await rejection(address, none)
        assert "it may not trust the authority" in await rejection(address, stranger)
        assert "not of an authority that this side trusts" in await rejection(address, distrusts)
        assert "not for the name 'a.example'" in await rejection(address, named)
        assert "it may use TLS" in await rejection(address, None)
    assert peers.seen == []


async def test_new_certificates_count_for_new_connections(tmp_path: Path) -> None:
    before, after = Authority("before"), Authority("after")
    files = write_files(tmp_path, before.pem, before.issue(), client_auth="required")
    server = Certificates(files)
    old = Certificates(write_files(tmp_path, before.pem + after.pem, before.issue(), "old"))
    new = Certificates(write_files(tmp_path, before.pem + after.pem, after.issue(), "new"))
    async with serving(server) as (address, _):
        assert await call(address, old) == b"request"
        write_files(tmp_path, after.pem, after.issue())
        assert server.look()
        assert not server.look()
        assert await call(address, new) == b"request"
        assert "it may not trust the authority" in await rejection(address, old)
