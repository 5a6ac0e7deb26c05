"""The router's S3 endpoint before nodes whose S3 endpoint is real but for what it replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from milena_common.limits.token_bucket import TokenBucket
from milena_common.network.addresses import Address
from milena_common.runtime.clock import SystemClock
from milena_common.s3.body.received import Body
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.http_server import S3Server
from milena_common.s3.replies import Reply, error_reply
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request
from milena_router.s3.endpoint import ForwardingEndpoint, S3Node
from milena_router.s3.node_http import HttpNodes

LARGE = 300_000


class Node:
    """A node's endpoint: replies to `/bkt/large` in parts, to `/bkt/echo` with the body, else with what it got."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.server = S3Server(self, SystemClock())
        self.ends = 0  # so many next requests are ended without a reply
        self.arrived = asyncio.Event()
        self.lost = asyncio.Event()

    def start(self) -> S3Node:
        return S3Node(str(self.server.start(Address("127.0.0.1", 0), "S3_LISTEN_ADDR")))

    def handle(self, request: S3Request, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        self.arrived.set()
        self.seen.append(f"{request.method} {request.path}?{request.query}")
        return self.reply(request, body)

    async def reply(self, request: S3Request, body: Body) -> Reply:
        if self.ends:
            self.ends -= 1
            raise ConnectionResetError
        if request.path == "/bkt/refused":
            return error_reply(request, S3Error("AccessDenied", "no"))
        parts = []
        try:
            while part := await body.read():
                parts.append(part)
        except ConnectionError:
            self.lost.set()
            raise
        if parts:
            self.bodies.append(b"".join(parts))
        if request.path in ("/bkt/large", "/bkt/broken"):
            return Reply(206, [("ETag", '"x"')], LARGE, b"a", self.rest(broken=request.path == "/bkt/broken"))
        text = f"{self.name} {request.header('host')} {request.header('x-amz-signed')}".encode()
        return Reply(200, [("ETag", '"x"'), ("x-milena-node", self.name)], len(text), text)

    async def rest(self, *, broken: bool) -> AsyncIterator[bytes]:
        yield b"b" * 100_000
        if broken:
            raise S3Error("InternalError", "S3 failed")
        yield b"c" * (LARGE - 100_001)

    def end_connections(self) -> None:
        for connection in tuple(self.server.connections):
            connection.abort()


class Given:
    """The nodes that are given, in their order; implements `Nodes`."""

    def __init__(self, nodes: list[S3Node]) -> None:
        self.nodes = nodes
        self.requested: list[tuple[str, bytes]] = []

    async def nodes_for(self, bucket: str, key: bytes) -> list[S3Node]:
        self.requested.append((bucket, key))
        return self.nodes


class Harness:
    """A router's endpoint before two nodes, and a client of it."""

    def __init__(self, given: Given, nodes: list[Node], server: S3Server, address: Address) -> None:
        self.given = given
        self.nodes = nodes
        self.server = server
        self.address = address

    async def request(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """The reply to a request on a connection of its own. Raises IncompleteReadError if it ends early."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            text = f"{head}\r\nhost: s3.example\r\n"
            writer.write(text.encode() + (b"content-length: %d\r\n\r\n" % len(body) if body else b"\r\n") + body)
            return await reply_of(reader)
        finally:
            writer.close()


def parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def reply_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, headers = parsed(await reader.readuntil(b"\r\n\r\n"))
    return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))


@asynccontextmanager
async def harness(rate: float = 0) -> AsyncIterator[Harness]:
    nodes = [Node("first"), Node("second")]
    given = Given([node.start() for node in nodes])
    clock, counts = SystemClock(), EndpointCounts()
    client = HttpNodes(clock)
    limiter = TokenBucket(rate, clock.now())
    endpoint = ForwardingEndpoint(given, client, limiter, clock, domain="", timeout=5, counts=counts)
    server = S3Server(endpoint, clock, counts=counts)
    address = server.start(Address("127.0.0.1", 0), "S3_LISTEN_ADDR")
    try:
        yield Harness(given, nodes, server, address)
    finally:
        client.close()
        for each in (server, *(node.server for node in nodes)):
            await each.shut_down(0)


async def test_what_is_signed_reaches_the_owner_as_it_came_and_its_reply_comes_back() -> None:
    async with harness() as made:
        status, headers, body = await made.request("GET /bkt/a//b%2Fc+d?b=%20&a HTTP/1.1\r\nX-Amz-Signed: 1,  2")
        assert (status, body) == (200, b"first s3.example 1,  2")
        assert (headers["etag"], headers["x-milena-node"]) == ('"x"', "first")
        assert headers["x-amz-id-2"] != headers["x-amz-request-id"]
        assert made.nodes[0].seen == ["GET /bkt/a//b%2Fc+d?b=%20&a"]
        assert made.given.requested == [("bkt", b"a//b/c+d")]
        assert made.server.counts.requests["GetObject"] == 1


async def test_bodies_of_any_framing_pass() -> None:
    async with harness() as made:
        large = bytes(range(256)) * 4000
        assert (await made.request("PUT /bkt/k HTTP/1.1", large))[0] == 200
        reader, writer = await asyncio.open_connection(*made.address)
        writer.write(b"PUT /bkt/k HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert (await reply_of(reader))[0] == 200
        writer.write(b"PUT /bkt/k HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"def")
        assert (await reply_of(reader))[0] == 200
        writer.close()
        assert made.nodes[0].bodies == [large, b"abc", b"def"]


async def test_a_body_that_a_node_rejects_is_requested_of_no_client() -> None:
    async with harness() as made:
        reader, writer = await asyncio.open_connection(*made.address)
        writer.write(b"PUT /bkt/refused HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert (await reply_of(reader))[0] == 403
        writer.close()
        # A client that does not wait gets the reply too, in the middle of its body.
        assert (await made.request("PUT /bkt/refused HTTP/1.1", bytes(10**6)))[0] == 403


async def test_a_large_reply_passes_and_one_that_ends_early_does_so_for_the_client() -> None:
    async with harness() as made:
        status, _, body = await made.request("GET /bkt/large HTTP/1.1\r\nrange: bytes=0-")
        assert (status, len(body), body[-1:]) == (206, LARGE, b"c")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await made.request("GET /bkt/broken HTTP/1.1")
        reader, writer = await asyncio.open_connection(*made.address)
        writer.write(b"HEAD /bkt/large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        status, headers = parsed(await reader.read())
        assert (status, headers["content-length"]) == (206, str(LARGE))
        writer.close()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_node_that_cannot_be_reached_is_passed_over(method: str) -> None:
    async with harness() as made:
        await made.nodes[0].server.shut_down(0)
        body = b"1" if method == "PUT" else b""
        status, headers, _ = await made.request(f"{method} /bkt/k HTTP/1.1", body)
        assert (status, headers["x-milena-node"]) == (200, "second")


async def test_of_lost_requests_a_read_is_repeated_once_and_a_write_is_not() -> None:
    async with harness() as made:
        first, second = made.nodes
        first.ends = 1
        assert (await made.request("GET /bkt/k HTTP/1.1"))[2].startswith(b"second")
        first.ends, second.ends = 1, 2  # its connection was kept: one may be old
        status, _, body = await made.request("GET /bkt/k HTTP/1.1")
        assert (status, b"<Code>ServiceUnavailable</Code>" in body) == (503, True)
        for head, body in (("PUT /bkt/k HTTP/1.1", b"1"), ("DELETE /bkt/k HTTP/1.1", b"")):
            first.ends, seen = 1, len(second.seen)
            status, _, text = await made.request(head, body)
            assert (status, b"may or may not have been done" in text) == (500, True)
            assert len(second.seen) == seen


async def test_connections_to_a_node_are_kept_and_one_that_it_has_ended_is_replaced() -> None:
    async with harness() as made:
        first = made.nodes[0]
        for _ in range(3):
            await made.request("GET /bkt/k HTTP/1.1")
        assert len(first.server.connections) == 1
        first.end_connections()
        for head, body in (
            ("GET /bkt/k HTTP/1.1", b""),
            ("PUT /bkt/k HTTP/1.1", b"1"),
            ("DELETE /bkt/k HTTP/1.1", b""),
        ):
            status, headers, _ = await made.request(head, body)
            assert (status, headers["x-milena-node"]) == (200, "first")


async def test_a_client_that_ends_in_the_middle_of_a_body_ends_the_request_at_the_node() -> None:
    async with harness() as made:
        reader, writer = await asyncio.open_connection(*made.address)
        writer.write(b"PUT /bkt/k HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n" + b"1" * 500)
        await writer.drain()
        await made.nodes[0].arrived.wait()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await asyncio.wait_for(made.nodes[0].lost.wait(), 10)
        assert made.nodes[0].bodies == []


async def test_without_nodes_and_over_the_limit_there_is_an_error_of_s3() -> None:
    async with harness(rate=2) as made:
        made.given.nodes = []
        status, _, body = await made.request("GET /bkt/k HTTP/1.1")
        assert (status, b"no node of the ring has an S3 endpoint" in body) == (503, True)
        replies = [await made.request("GET /bkt/k HTTP/1.1") for _ in range(4)]
        assert b"<Code>SlowDown</Code>" in replies[-1][2]
        assert (await made.request("GET /bkt/k?torrent HTTP/1.1"))[0] == 405
