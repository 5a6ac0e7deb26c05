"""Connections of the S3 endpoint, as clients see them that speak HTTP well or badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from milena_common.network.addresses import Address
from milena_common.runtime.clock import SystemClock
from milena_common.s3.body.received import Body
from milena_common.s3.http_server import MAX_HEAD_BYTES, WRITE_BYTES, S3Server
from milena_common.s3.replies import Reply, error_reply
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request


class Handler:
    """Replies to `/echo` with the body, to `/refuse` before reading it, to `/large` in parts, else the path."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def handle(self, request: S3Request, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        self.seen.append(f"{request.method} {request.path}")
        if request.path == "/echo":
            return self.echo(body)
        if request.path == "/refuse":
            return error_reply(request, S3Error("AccessDenied", "no"))
        if request.path in ("/large", "/broken"):
            size = 3 * WRITE_BYTES
            return Reply(200, [], size, b"a" * WRITE_BYTES, self.rest(broken=request.path == "/broken"))
        text = request.path.encode()
        return Reply(200, [("ETag", '"x"')], len(text), text)

    async def echo(self, body: Body) -> Reply:
        parts = []
        while part := await body.read():
            parts.append(part)
        text = b"".join(parts)
        return Reply(200, [], len(text), text)

    async def rest(self, *, broken: bool) -> AsyncIterator[bytes]:
        yield b"b" * WRITE_BYTES
        if broken:
            raise S3Error("InternalError", "S3 failed")
        yield b"c" * WRITE_BYTES


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Handler]]:
    handler = Handler()
    server = S3Server(handler, SystemClock())
    address = server.start(Address("127.0.0.1", 0), "S3_LISTEN_ADDR")
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer, handler
    finally:
        writer.close()
        await server.shut_down(0)


async def reply_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def test_requests_of_a_connection_are_served_in_their_order() -> None:
    async with connected() as (reader, writer, handler):
        body = b"x" * 100_000
        writer.write(
            b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nPUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"
            + body
            + b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        found = [await reply_of(reader) for _ in range(3)]
        assert [text for _, _, text in found] == [b"/1", body, b"/2"]
        assert len({headers["x-amz-request-id"] for _, headers, _ in found}) == 3
        assert handler.seen == ["GET /1", "PUT /echo", "GET /2"]


async def test_a_client_that_ends_its_side_in_the_middle_of_a_body_gets_an_error() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"PUT /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab")
        writer.write_eof()
        status, headers, body = await reply_of(reader)
        assert (status, headers["connection"]) == (400, "close")
        assert b"<Code>IncompleteBody</Code>" in body
        assert await reader.read() == b""


async def test_a_client_that_waits_is_notified_to_send_its_body() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"PUT /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert (await reply_of(reader))[2] == b"abc"


async def test_a_client_that_waits_sends_no_body_that_is_rejected() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"PUT /refuse HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        status, headers, body = await reply_of(reader)
        assert (status, headers["connection"]) == (403, "close")
        assert b"<Code>AccessDenied</Code>" in body
        assert await reader.read() == b""


@pytest.mark.parametrize("size", [1000, 1_000_000])
async def test_a_body_behind_an_early_reply_is_dropped(size: int) -> None:
    async with connected() as (reader, writer, handler):
        writer.write(b"PUT /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        status, headers, _ = await reply_of(reader)
        writer.write(b"x" * size + b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n")
        await writer.drain()
        assert status == 403
        if headers.get("connection") == "close":
            assert await reader.read() == b""
            assert handler.seen == ["PUT /refuse"]
        else:
            assert (await reply_of(reader))[2] == b"/after"


async def test_a_body_in_chunks_of_http() -> None:
    async with connected() as (reader, writer, _):
        writer.write(
            b"PUT /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert (await reply_of(reader))[2] == b"abcde"


async def test_a_large_reply_comes_in_parts() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\nHEAD /large HTTP/1.1\r\nhost: a\r\n\r\n")
        _, _, body = await reply_of(reader)
        assert body == b"a" * WRITE_BYTES + b"b" * WRITE_BYTES + b"c" * WRITE_BYTES
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % (3 * WRITE_BYTES) in head


async def test_a_reply_that_cannot_be_finished_ends_short_of_its_length() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"GET /broken HTTP/1.1\r\nhost: a\r\n\r\n")
        with pytest.raises(asyncio.IncompleteReadError):
            await reply_of(reader)


@pytest.mark.parametrize(
    "sent",
    [
        b"junk\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: a\r\nx: " + b"y" * MAX_HEAD_BYTES,
        b"PUT /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    ],
)
async def test_what_is_not_http_ends_the_connection(sent: bytes) -> None:
    async with connected() as (reader, writer, handler):
        writer.write(sent)
        status, headers, body = await reply_of(reader)
        assert (status, headers["connection"]) == (400, "close")
        assert b"<Code>InvalidRequest</Code>" in body
        assert await reader.read() == b""
        assert handler.seen == []
