"""Shell. The HTTP/1.1 connections of an S3 endpoint.

- A request's head has at most MAX_HEAD_BYTES. It is served when the head has come, and its body is read as the
  endpoint takes it. `100 Continue` is sent when the endpoint begins to read, so that a client which waits for
  it sends no body that is refused.
- The requests of one connection are served one after the other, in their order. While one is served no more is read
  than MAX_BODY_BYTES of its body, or of the requests behind it what has come with it.
- Replies have their length, always: a client must be able to tell that one ends early. A reply whose rest cannot be
  read ends with its connection. What a client does not read is not read from the cluster either.
- Connections that are idle, do not send the rest of a request, or do not read, are closed by a sweep; there are at
  most MAX_CONNECTIONS, and a further one replaces the one that has been idle for the longest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Coroutine
from http import HTTPStatus
from itertools import count
from typing import Any, Final, Protocol, cast

import httptools

from milena_common.network.addresses import Address
from milena_common.network.listening import bind
from milena_common.network.security import ServerSecurity
from milena_common.network.spare_listener import SpareListener
from milena_common.runtime.clock import Clock
from milena_common.s3.body.received import Body
from milena_common.s3.callers import PORT
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.replies import Reply, error_reply
from milena_common.s3.wire.conditions import http_date
from milena_common.s3.wire.errors import S3Error
from milena_common.s3.wire.request import S3Request

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_BODY_BYTES: Final = 512 * 1024
MAX_CONNECTIONS: Final = 4096
# Parts in which a reply is passed to the transport.
WRITE_BYTES: Final = 256 * 1024
BACKLOG: Final = 1024
SWEEP_SECONDS: Final = 1.0
# Seconds that a connection may be idle between requests, a client may take for the next bytes of a request, and may
# read nothing of a reply.
IDLE_SECONDS: Final = 75.0
SILENT_SECONDS: Final = 20.0
STALLED_SECONDS: Final = 20.0
# Seconds for which the rest of a body that was not read is dropped, before the connection is closed.
LINGER_SECONDS: Final = 2.0
# Bytes of a body that are read after a reply that did not wait for them, so that the connection can be kept.
MAX_DRAINED_BYTES: Final = 256 * 1024

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
    if status.value >= 200
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Handler(Protocol):
    """What is done for requests."""

    def handle(self, request: S3Request, body: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """Return the reply, or a coroutine of it."""


class S3Server:
    """The HTTP server of an S3 endpoint. `counts` gets its replies and connections."""

    def __init__(
        self,
        handler: Handler,
        clock: Clock,
        security: ServerSecurity | None = None,
        *,
        plain_too: bool = False,
        counts: EndpointCounts | None = None,
    ) -> None:
        self.counts = counts or EndpointCounts()
        self.connections: dict[_Connection, None] = {}  # the one that was used the longest ago first
        self.handler = handler
        self.clock = clock
        self._security = security
        self._plain_too = plain_too
        self._listener: SpareListener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._prefix = secrets.token_hex(3).upper()
        self._numbers = count(1)
        self._date = (0, b"")
        self.stopping = False

    def start(self, address: Address, variable: str) -> Address:
        """Listen, and return the address with the real port. Raises CannotListen, naming `variable`."""
        sockets = bind(address, variable)
        self._listener = SpareListener(
            sockets, lambda: _Connection(self), self._security, plain_too=self._plain_too, port=PORT, spares=0
        )
        self._listener.start(BACKLOG)
        self._sweeper = asyncio.create_task(self._sweep_for_ever())
        return Address(address.host, sockets[0].getsockname()[1])

    async def shut_down(self, grace: float) -> None:
        """Accept no connections, let requests in flight finish within `grace` seconds, and close all."""
        self.stopping = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in tuple(self.connections):
            connection.close_if_idle()
        until = self.clock.now() + grace
        while self.connections and self.clock.now() < until:
            await self.clock.sleep(0.02)
        for connection in tuple(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def opened(self, connection: _Connection) -> None:
        """Add a connection, in place of the one that has been idle for the longest if there are too many."""
        self.connections[connection] = None
        self.counts.connections = len(self.connections)
        if len(self.connections) > MAX_CONNECTIONS:
            idle = next((each for each in self.connections if each.is_idle and each is not connection), connection)
            idle.abort()

    def used(self, connection: _Connection) -> None:
        if len(self.connections) > 1:
            del self.connections[connection]
            self.connections[connection] = None

    def request_id(self) -> str:
        return f"{self._prefix}{next(self._numbers):010X}"

    def head(self, reply: Reply, request_id: str, *, close: bool) -> bytes:
        """Return the head of a reply."""
        second = int(self.clock.wall())
        if self._date[0] != second:
            self._date = second, f"Date: {http_date(second)}\r\nServer: Milena\r\nx-amz-request-id: ".encode()
        lines = [f"{name}: {value}\r\n" for name, value in reply.headers]
        if reply.status not in (204, 304):
            lines.append(f"Content-Length: {reply.length}\r\n")
        lines.append("Connection: close\r\n\r\n" if close else "\r\n")
        # Each character is one byte, as in the headers of requests.
        text = "".join(lines).encode("latin-1", errors="replace")
        return b"%s%s%s\r\n%s" % (_STATUS_LINES[reply.status], self._date[1], request_id.encode(), text)

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_SECONDS)
            now = self.clock.now()
            for connection in tuple(self.connections):
                connection.close_if_late(now)


class _Incoming:
    """A request that comes, and its body, as the endpoint reads it."""

    def __init__(self, connection: _Connection, request: S3Request, length: int | None, *, expects: bool) -> None:
        self.request = request
        self.length = length
        self.complete = False
        self.keep_alive = True
        self.waited = False  # the endpoint has begun to read
        self.expects = expects
        self.parts: deque[bytes] = deque()
        self.size = 0
        self._connection = connection
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False

    async def read(self) -> bytes:
        if not self.waited:
            self.waited = True
            if self.expects and not self.complete and not self.parts:
                self._connection.send_continue()
        while not self.parts:
            if self.complete:
                return b""
            if self.lost:
                raise ConnectionResetError("the client has ended the connection in the middle of a body")
            self._waiter = asyncio.get_running_loop().create_future()
            self._connection.read_more()
            await self._waiter
        part = self.parts.popleft()
        self.size -= len(part)
        self._connection.read_more()
        return part

    def add(self, part: bytes) -> None:
        self.parts.append(part)
        self.size += len(part)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection. httptools calls the methods that begin with `on_`."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._peer = "?"
        self._requests: deque[_Incoming] = deque()  # the one that is served first
        self._receiving: _Incoming | None = None
        self._task: asyncio.Task[None] | None = None
        self._replying = False
        self._reading = True
        self._room: asyncio.Event | None = None  # cleared while the client does not read
        self._stalled_at = 0.0
        self._heard_at = server.clock.now()
        self._closing = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._in_head = True

    # ---- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's have no common class with asyncio's
        peer = transport.get_extra_info("peername")
        if peer:
            self._peer = str(Address(*peer[:2]))
        self._transport.set_write_buffer_limits(high=2 * WRITE_BYTES)
        self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.connections.pop(self, None)
        self._server.counts.connections = len(self._server.connections)
        self._transport = None
        self._closing = True
        for each in self._requests:
            each.lost = True
            each.wake()
        if self._room is not None:
            self._room.set()

    def eof_received(self) -> bool:
        if self._closing:
            return False
        # A client that ends its side still gets the reply to what it has sent.
        if self._receiving is not None:
            self._receiving.lost = True
            self._receiving.wake()
        self._closing = True
        return bool(self._requests)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._heard_at = self._server.clock.now()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._reject("InvalidRequest", "Protocols other than HTTP/1.1 are not served")
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, S3Error):
                self._reject(cause.code, cause.message)
            else:
                self._reject("InvalidRequest", "The request is not HTTP/1.1")
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._reject("InvalidRequest", f"The head of the request has more than {MAX_HEAD_BYTES} bytes")
        if self._requests and not self._replying:
            self._serve()
        self._pause_if_full()

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()
        self._stalled_at = self._server.clock.now()

    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set()

    # ---- the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = {}
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        text, found = name.decode("latin-1").lower(), value.decode("latin-1")
        headers = self._headers
        if text in headers:
            if text in ("host", "content-length", "authorization", "x-amz-content-sha256"):
                raise S3Error("InvalidRequest", f"The header {text} is given twice")
            found = f"{headers[text]},{found}"
        headers[text] = found

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        parser, headers = self._parser, self._headers
        path, _, query = self._url.decode("latin-1").partition("?")
        if not path.startswith("/"):
            path = _path_of(path)
        request = S3Request(
            parser.get_method().decode(),
            path,
            query,
            headers,
            self._server.clock.wall(),
            self._peer,
            self._server.request_id(),
        )
        length = None
        if "transfer-encoding" not in headers:
            length = int(headers.get("content-length") or 0)
        expects = headers.get("expect", "").lower() == "100-continue"
        incoming = _Incoming(self, request, length, expects=expects)
        self._receiving = incoming
        self._requests.append(incoming)

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None:
            self._receiving.add(body)

    def on_message_complete(self) -> None:
        incoming, self._receiving = self._receiving, None
        if incoming is not None:
            incoming.keep_alive = self._parser.should_keep_alive()
            incoming.complete = True
            incoming.wake()
        self._in_head = True

    # ---- serving

    def _serve(self) -> None:
        """Serve the requests that have come, as far as that needs no waiting."""
        while self._requests and self._transport is not None:
            incoming = self._requests[0]
            server = self._server
            server.used(self)
            self._replying = True
            try:
                reply = server.handler.handle(incoming.request, incoming)
            except S3Error as error:
                reply = error_reply(incoming.request, error)
            except Exception:
                reply = self._defect(incoming.request)
            if isinstance(reply, Reply) and reply.more is None and (self._room is None or self._room.is_set()):
                self._send(incoming, reply)
                self._replied(incoming)
                continue
            self._task = asyncio.get_running_loop().create_task(self._reply(incoming, reply))
            return

    async def _reply(self, incoming: _Incoming, replying: Reply | Coroutine[Any, Any, Reply]) -> None:
        try:
            reply = replying if isinstance(replying, Reply) else await replying
        except ConnectionError:
            if not incoming.lost or self._transport is None or self._transport.is_closing():
                self.abort()
                return
            # The client has ended its side in the middle of the body, and may still read.
            text = "You did not provide the number of bytes specified by the Content-Length HTTP header"
            reply = error_reply(incoming.request, S3Error("IncompleteBody", text))
        except asyncio.CancelledError:
            self.abort()
            raise
        except Exception:
            reply = self._defect(incoming.request)
        try:
            await self._has_room()
            self._send(incoming, reply)
            if reply.more is not None and incoming.request.method != "HEAD":
                async for part in reply.more:
                    await self._write(part)
                    if self._transport is None:
                        break
        except Exception as error:
            # Short of its length: the client notices, and must not take it for the whole.
            log.info("S3 endpoint: a reply ended before its end: %s", error)
            self.abort()
        finally:
            if reply.release is not None:
                reply.release()
        self._task = None
        self._replied(incoming)
        self._serve()

    def _defect(self, request: S3Request) -> Reply:
        log.exception("S3 endpoint: %s failed", request.request_id)
        text = "We encountered an internal error. Please try again."
        return error_reply(request, S3Error("InternalError", text))

    def _send(self, incoming: _Incoming, reply: Reply) -> None:
        """Write the head of the reply, and what is there of its body."""
        if self._transport is None:
            return
        self._server.counts.reply(reply.status)
        # What was not read of a body is in the way of the next request. A client that waits for `100 Continue`
        # sends it or does not: only a new connection is certain.
        small = incoming.length is not None and incoming.length <= MAX_DRAINED_BYTES and not incoming.expects
        unread = not incoming.complete and not small
        close = unread or not incoming.keep_alive or self._closing or self._server.stopping
        head = self._server.head(reply, incoming.request.request_id, close=close)
        self._closing = self._closing or close
        body = reply.body
        if not body or incoming.request.method == "HEAD":
            self._transport.write(head)
        elif len(body) <= WRITE_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def _write(self, part: bytes) -> None:
        for at in range(0, len(part), WRITE_BYTES):
            await self._has_room()
            if self._transport is None:
                return
            self._transport.write(part[at : at + WRITE_BYTES] if len(part) > WRITE_BYTES else part)
        await self._has_room()

    async def _has_room(self) -> None:
        if self._room is not None and not self._room.is_set():
            await self._room.wait()

    def _replied(self, incoming: _Incoming) -> None:
        self._replying = False
        if self._requests and self._requests[0] is incoming:
            self._requests.popleft()
        if self._receiving is incoming:
            self._receiving = None  # the rest of its body is dropped
        incoming.parts.clear()
        if self._closing and self._transport is not None:
            if incoming.complete or incoming.lost or not self._transport.can_write_eof():
                self._transport.close()
            else:
                self._linger(self._transport)
            return
        self.read_more()

    def _linger(self, transport: asyncio.Transport) -> None:
        """End this side of the connection, and drop what the client still sends.

        Closed at once, the system would reset the connection because of those bytes, and the client could lose the
        reply.
        """
        transport.write_eof()
        if not self._reading:
            self._reading = True
            transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.abort)

    def _reject(self, code: str, message: str) -> None:
        """Reply to what is no request, and close."""
        if self._transport is None or self._closing:
            return
        if not self._replying and not self._requests:
            request = S3Request("GET", "/", "", {}, 0.0, self._peer, self._server.request_id())
            reply = error_reply(request, S3Error(code, message))
            self._transport.write(self._server.head(reply, request.request_id, close=True) + reply.body)
        self._closing = True
        if not self._replying:
            self._requests.clear()
            self._transport.close()

    def send_continue(self) -> None:
        """Tell the client to send the body."""
        if self._transport is not None:
            self._transport.write(_CONTINUE)

    # ---- bounds

    def _pause_if_full(self) -> None:
        """Stop reading while a request is served and enough of its body, or of the next request, is here."""
        if not self._reading or self._transport is None or not self._requests:
            return
        served = self._requests[0]
        if served.complete or served.size >= MAX_BODY_BYTES or len(self._requests) > 1:
            self._transport.pause_reading()
            self._reading = False

    def read_more(self) -> None:
        """Go on reading, if that was stopped and there is room."""
        if self._reading or self._transport is None or self._closing:
            return
        served = self._requests[0] if self._requests else None
        if served is None or (not served.complete and served.size < MAX_BODY_BYTES):
            self._reading = True
            self._heard_at = self._server.clock.now()
            self._transport.resume_reading()

    @property
    def is_idle(self) -> bool:
        """True if no request is served or comes."""
        return not self._requests and self._receiving is None

    def close_if_idle(self) -> None:
        if self.is_idle and self._transport is not None:
            self._transport.close()

    def close_if_late(self, now: float) -> None:
        """Close the connection if it was idle or silent for too long, or does not read."""
        if self._transport is None:
            return
        if self._room is not None and not self._room.is_set():
            if now - self._stalled_at > STALLED_SECONDS:
                self.abort()
            return
        silent = now - self._heard_at
        waits = self._receiving is not None or (self._in_head and self._head_bytes > 0)
        if waits and self._reading:
            if silent > SILENT_SECONDS:
                self.abort()
        elif not self._requests and silent > IDLE_SECONDS:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()


def _path_of(url: str) -> str:
    """Return the path of an absolute URL, as a proxy is sent; "" for anything else."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return ""
    return "/" + rest.partition("/")[2]
