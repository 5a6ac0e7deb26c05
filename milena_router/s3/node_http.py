"""Shell. Requests of S3 clients, sent to a node over HTTP/1.1 as they came, and the node's replies.

- What is signed is not changed: path and query as sent, the host, and all headers but those of the connection.
- The body goes on while it comes, and a large reply while it is read: at most some hundred kilobytes of either are
  in memory. A client that waits for `100 Continue` gets it when the node sends its own.
- A connection carries one request at a time, and is kept for the next one for KEEP_SECONDS. There are never more of
  them than requests, which the endpoint's server bounds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

from milena_common.api.errors import NodeLost, NodeUnreachable
from milena_common.network.connecting import open_connection
from milena_common.runtime.clock import Clock
from milena_common.s3.body.received import Body
from milena_common.s3.replies import Reply
from milena_common.s3.wire.request import S3Request
from milena_router.s3.endpoint import READS, S3Node

CONNECT_SECONDS: Final = 1.0
# A node ends a connection that is idle for 75 s.
KEEP_SECONDS: Final = 30.0
MAX_KEPT: Final = 256
# Seconds in which a node must send the next bytes of a reply, and in which it must take the next ones of a body,
# which may wait for S3.
SILENT_SECONDS: Final = 20.0
TAKE_SECONDS: Final = 60.0
# Of a reply up to this size, all is read before it is passed on.
WHOLE_BYTES: Final = 64 * 1024
READ_BYTES: Final = 64 * 1024
# Nodes send no longer head.
MAX_HEAD_BYTES: Final = 64 * 1024

_OF_THE_CONNECTION: Final = frozenset(("connection", "keep-alive", "transfer-encoding", "proxy-connection"))
# What the endpoint's server writes by itself.
_OF_THE_SERVER: Final = frozenset((*_OF_THE_CONNECTION, "content-length", "date", "server", "x-amz-request-id"))


class _Head(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    length: int
    closes: bool


class _Connection(asyncio.StreamReaderProtocol):
    """A connection to a node."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=loop)
        super().__init__(self.reader, loop=loop)
        self.kept_at = 0.0
        self.used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = transport
        loop = asyncio.get_running_loop()
        self.writer = asyncio.StreamWriter(transport, self, self.reader, loop)  # type: ignore[arg-type]

    @property
    def is_over(self) -> bool:
        return self.transport.is_closing() or self.reader.at_eof()

    def abort(self) -> None:
        self.writer.transport.abort()


class HttpNodes:
    """Sends requests to nodes; implements `milena_router.s3.endpoint.NodeClient`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[S3Node, deque[_Connection]] = {}

    def close(self) -> None:
        """Close the connections that are kept."""
        for connections in self._kept.values():
            for connection in connections:
                connection.abort()
        self._kept.clear()

    async def send(self, node: S3Node, request: S3Request, body: Body, timeout: float) -> Reply:
        """Return the node's reply: see `NodeClient`."""
        while True:
            connection = await self._connect(node)
            try:
                return await self._exchange(node, connection, request, body, timeout)
            except NodeUnreachable:
                # A connection that was kept, and that the node had ended: nothing was done.
                connection.abort()
            except BaseException:
                connection.abort()
                raise

    async def _connect(self, node: S3Node) -> _Connection:
        kept = self._kept.get(node)
        while kept:
            connection = kept.pop()
            if not connection.is_over and self._clock.now() - connection.kept_at < KEEP_SECONDS:
                return connection
            connection.abort()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await open_connection(_Connection, node.address, node.security, node.server_name)
        except OSError as error:  # TimeoutError is one
            text = f"node {node.address} cannot be reached: {error or 'it does not respond'}"
            raise NodeUnreachable(text) from None

    def put_back(self, node: S3Node, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        connection.used = True
        connection.kept_at = self._clock.now()
        kept = self._kept.setdefault(node, deque())
        kept.append(connection)
        if len(kept) > MAX_KEPT:
            kept.popleft().abort()
        if len(self._kept) > MAX_KEPT:
            for other in self._kept.pop(next(iter(self._kept))):
                other.abort()

    async def _exchange(
        self, node: S3Node, connection: _Connection, request: S3Request, body: Body, timeout: float
    ) -> Reply:
        chunked = body.length is None
        connection.writer.write(_head_of(request, chunked=chunked))
        sending: asyncio.Task[None] | None = None
        go_on = asyncio.Event()
        if body.length != 0:
            if request.header("expect").lower() != "100-continue":
                go_on.set()
            sending = asyncio.create_task(_send_body(node, connection, body, go_on, chunked=chunked))
        try:
            head = await self._head(node, connection, request, sending, go_on, timeout)
        finally:
            sent = sending is None or sending.done()
            if sending is not None:
                sending.cancel()
                await asyncio.wait((sending,))
        reusable = sent and not head.closes
        length = 0 if request.method == "HEAD" or head.status in (204, 304) else head.length
        if length <= WHOLE_BYTES:
            content = await _read_exactly(node, connection, length)
            if reusable:
                self.put_back(node, connection)
            else:
                connection.abort()
            return Reply(head.status, head.headers, head.length, content)
        rest = _Rest(self, node, connection, length, reusable=reusable)
        return Reply(head.status, head.headers, head.length, b"", rest.parts(), rest.let_go)

    async def _head(
        self,
        node: S3Node,
        connection: _Connection,
        request: S3Request,
        sending: asyncio.Task[None] | None,
        go_on: asyncio.Event,
        timeout: float,
    ) -> _Head:
        """Return the head of the reply. Its time begins when the body was sent."""
        reading = asyncio.create_task(_read_head(connection.reader))
        try:
            while True:
                if sending is not None and not sending.done() and go_on.is_set():
                    await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
                    if sending.done():
                        sending.result()  # raises what ended it
                    if not reading.done():
                        continue
                head = await asyncio.wait_for(reading, timeout)
                if head.status >= 200:
                    return head
                if head.status == 100:
                    go_on.set()
                reading = asyncio.create_task(_read_head(connection.reader))
        except TimeoutError:
            raise NodeLost(f"node {node.address} did not reply within {timeout:g} s") from None
        except (_NoReply, ValueError) as error:
            unsent = sending is not None and not go_on.is_set()
            nothing_came = isinstance(error, _NoReply) and not error.begun
            repeatable = unsent or (sending is None and request.method in READS)
            if connection.used and nothing_came and repeatable:
                raise NodeUnreachable(f"node {node.address} had ended the connection") from None
            raise NodeLost(f"node {node.address} ended the connection without a reply") from None
        finally:
            reading.cancel()


class _NoReply(Exception):
    """A connection ended in place of a reply. `begun`: something of one had come."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class _Rest:
    """The body of a large reply, which is read as its client takes it."""

    def __init__(
        self, nodes: HttpNodes, node: S3Node, connection: _Connection, length: int, *, reusable: bool
    ) -> None:
        self._nodes = nodes
        self._node = node
        self._connection = connection
        self._missing = length
        self._reusable = reusable

    async def parts(self) -> AsyncIterator[bytes]:
        while self._missing:
            async with asyncio.timeout(SILENT_SECONDS):
                part = await self._connection.reader.read(min(READ_BYTES, self._missing))
            if not part:
                raise NodeLost(f"node {self._node.address} ended the reply before its end")
            self._missing -= len(part)
            yield part

    def let_go(self) -> None:
        if self._missing or not self._reusable:
            self._connection.abort()
        else:
            self._nodes.put_back(self._node, self._connection)


def _head_of(request: S3Request, *, chunked: bool) -> bytes:
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = [f"{request.method} {target} HTTP/1.1\r\n"]
    lines += [
        f"{name}: {value}\r\n"
        for name, value in request.headers.items()
        if name not in _OF_THE_CONNECTION and not (chunked and name == "content-length")
    ]
    lines.append("transfer-encoding: chunked\r\n\r\n" if chunked else "\r\n")
    return "".join(lines).encode("latin-1")


async def _send_body(
    node: S3Node, connection: _Connection, body: Body, go_on: asyncio.Event, *, chunked: bool
) -> None:
    """Send the body once the node wants it.

    Raises ConnectionError if the client ends it before its end, NodeLost if the node does not take it.
    """
    await go_on.wait()
    writer = connection.writer
    while part := await body.read():
        # A node that has ended the connection may have replied before: that is seen where its reply is read.
        with suppress(ConnectionError):
            writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            try:
                async with asyncio.timeout(TAKE_SECONDS):
                    await writer.drain()
            except TimeoutError:
                raise NodeLost(f"node {node.address} took nothing for {TAKE_SECONDS:g} s") from None
    if chunked:
        writer.write(b"0\r\n\r\n")


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    """Return the next head. Raises _NoReply, ValueError."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise _NoReply(begun=bool(error.partial)) from None
    except asyncio.LimitOverrunError:
        raise ValueError("the head is too long") from None
    except ConnectionError:
        raise _NoReply(begun=False) from None
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    status = int(first.split(" ", 2)[1])
    headers, length, closes = [], 0, False
    for line in lines:
        name, _, value = line.partition(":")
        value = value.strip()
        match name.lower():
            case "content-length":
                length = int(value)
            case "connection":
                closes = value.lower() == "close"
            case "x-amz-request-id":
                headers.append(("x-amz-id-2", value))
        if name.lower() not in _OF_THE_SERVER:
            headers.append((name, value))
    return _Head(status, headers, length, closes)


async def _read_exactly(node: S3Node, connection: _Connection, length: int) -> bytes:
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            return await connection.reader.readexactly(length) if length else b""
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        raise NodeLost(f"node {node.address} ended the reply before its end") from None
