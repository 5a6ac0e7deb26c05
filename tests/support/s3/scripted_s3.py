"""Shell. An HTTP server on 127.0.0.1 that replies as a test says, byte for byte, and closes each connection.

with ScriptedS3() as s3:
    s3.reply = lambda request: reply(404, "<html>nothing here</html>", {"Content-Type": "text/html"})
    ... a client of s3.endpoint_url ...
    assert [request.method for request in s3.requests] == ["GET"]
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from tests.support.s3.faults import Request
from tests.support.s3.http1 import STREAM_LIMIT, read_body, read_head

XML = {"Content-Type": "application/xml", "x-amz-request-id": "scripted"}
HTML = {"Content-Type": "text/html"}


class Scripted(NamedTuple):
    """A reply. `length`: whether Content-Length is sent; `version`: of HTTP."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    length: bool = True
    version: str = "1.1"

    def on_the_wire(self, method: str) -> bytes:
        headers = dict(self.headers)
        body = self.body
        if headers.get("Transfer-Encoding") == "chunked":
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif self.length:
            headers["Content-Length"] = str(len(body))
        head = f"HTTP/{self.version} {self.status} Said\r\nConnection: close\r\n"
        head += "".join(f"{name}: {text}\r\n" for name, text in headers.items()) + "\r\n"
        return head.encode("latin-1") + (b"" if method == "HEAD" or self.status in (204, 304) else body)


def reply(
    status: int,
    body: str | bytes = b"",
    headers: Mapping[str, str] = XML,
    *,
    length: bool = True,
    version: str = "1.1",
) -> Scripted:
    raw = body.encode() if isinstance(body, str) else body
    return Scripted(status, raw, headers, length, version)


def error(status: int, code: str, more: str = "", headers: Mapping[str, str] = XML) -> Scripted:
    """S3's own error document."""
    document = f"<Error><Code>{code}</Code><Message>scripted</Message>{more}<RequestId>scripted</RequestId></Error>"
    return reply(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{document}', headers)


class ScriptedS3:
    """`reply` is called for each request, on the server's thread; `requests` are all that came."""

    def __init__(self) -> None:
        self.reply: Callable[[Request], Scripted] = lambda request: reply(500)
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted-s3", daemon=True)
        self._port = 0

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def requested(self) -> list[str]:
        """The methods of the requests since the last time."""
        methods = [request.method for request in self.requests]
        self.requests.clear()
        return methods

    def __enter__(self) -> ScriptedS3:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=STREAM_LIMIT)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await read_head(reader)
            if head is not None:
                if head.fields.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await read_body(reader, head, until_close=False)
                request = Request(head.start[0], head.start[1], head.fields, body)
                self.requests.append(request)
                writer.write(self.reply(request).on_the_wire(request.method))
                await writer.drain()
        writer.close()
