"""Shell. A reverse proxy in front of S3 that makes it fail on purpose, and writes down the requests to S3.

How it works, and why so:

- It runs an event loop of its own in a thread of its own. Everything that tests call is synchronous and
  thread-safe, so a plain test and an async test use it the same way, and it goes on answering while a test's
  own loop is busy.
- Every message is read whole and passed on as the bytes that it was (see `http1`), so that what S3 sees is what
  the client sent. One header is taken out: `Expect: 100-continue` is between the client and this proxy, which
  reads every body at once.
- Each request travels to S3 on a connection of its own. A pooled connection may turn out to be closed just when
  a request was written to it, and whether to repeat it is a question that a proxy for tests must not have.
- For each request the rules are applied in the order in which they were made. Delays add up; the first rule with
  another fault decides.
- "Connection refused" is not a fault of a request but a state: `reject()` closes the listener and every
  connection, `accept()` listens on the same port again, which was kept reserved meanwhile.

    with FaultProxy("http://127.0.0.1:5000") as proxy:
        proxy.inject(SLOW_DOWN, method="GET", key="a", times=2)
        ... a client of proxy.endpoint_url reads "a" ...
        assert proxy.count("GET", "a") == 3
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.support.ports import ReservedPort
from tests.support.s3.faults import (
    Delay,
    Drip,
    Fault,
    Hang,
    LoseRequest,
    LoseResponse,
    OtherETags,
    Reply,
    Request,
    Rule,
    ShiftDate,
    TruncatedBody,
)
from tests.support.s3.http1 import STREAM_LIMIT, Head, read_body, read_head

_T = TypeVar("_T")
_CONTROL_SECONDS = 10.0


class FaultProxy:
    """A proxy for `upstream` (``http://host:port``); `seed` settles what rules with a probability do."""

    def __init__(self, upstream: str, seed: int = 0) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port or 80)
        self._random = Random(seed)
        self._rules: list[Rule] = []
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._port = ReservedPort()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._connected_so_far = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def endpoint_url(self) -> str:
        return f"http://{self._port.address}"

    # ---- life

    def start(self) -> None:
        self._thread.start()
        self.accept()

    def stop(self) -> None:
        self.reject()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CONTROL_SECONDS)
        # Connections that were accepted while the others ended.
        late = asyncio.all_tasks(self._loop)
        for task in late:
            task.cancel()
        if late:
            self._loop.run_until_complete(asyncio.wait(late))
        self._loop.close()
        self._port.close()

    def __enter__(self) -> FaultProxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- faults

    def inject(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        key: str | None = None,
        where: Callable[[Request], bool] | None = None,
        times: int | None = None,
        probability: float = 1.0,
    ) -> Rule:
        """From now on do `fault` to the requests that match; `rule.applied` says to how many it was done."""
        rule = Rule(fault, method, key, where, times, probability)
        with self._changed:
            self._rules.append(rule)
        return rule

    def reject(self) -> None:
        """End every connection and refuse new ones."""
        self._run(self._close())

    def accept(self) -> None:
        """Take connections (again), on the same port."""
        self._run(self._listen())

    def heal(self) -> None:
        """No faults any more: forget all rules and take connections. What hangs goes on hanging."""
        with self._changed:
            self._rules.clear()
        self.accept()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse connections inside the block."""
        self.reject()
        try:
            yield
        finally:
            self.accept()

    # ---- what was asked

    def requests(self, method: str | None = None, key: str | None = None) -> list[Request]:
        """The requests that arrived so far, faulty ones included, in order; key "" is for those about a bucket."""
        with self._changed:
            return [r for r in self._requests if method in (None, r.method) and key in (None, r.key)]

    def count(self, method: str | None = None, key: str | None = None) -> int:
        return len(self.requests(method, key))

    def wait_for(
        self, number: int, method: str | None = None, key: str | None = None, *, timeout: float = 5.0
    ) -> None:
        """Block until `number` such requests arrived. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.count(method, key) >= number, timeout):
                seen = self.count(method, key)
                raise TimeoutError(f"{seen} of {number} requests {method} {key!r} arrived within {timeout} s")

    @property
    def connections(self) -> int:
        """How many connections were made so far."""
        with self._changed:
            return self._connected_so_far

    def clear_requests(self) -> None:
        """Begin to count anew."""
        with self._changed:
            self._requests.clear()

    # ---- inside the loop

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CONTROL_SECONDS)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, "127.0.0.1", self._port.number, limit=STREAM_LIMIT, backlog=1024
            )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        with self._changed:
            self._connected_so_far += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            del self._connections[task]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its reply; returns whether the connection can carry another."""
        head = await read_head(reader)
        if head is None:
            return False
        if head.fields.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await read_body(reader, head, until_close=False)
        request = Request(head.start[0], head.start[1], head.fields, body)
        delay, fault = self._admit(request)
        if delay:
            await asyncio.sleep(delay)
        if isinstance(fault, Hang):
            while await reader.read(65536):
                pass
            return False
        if isinstance(fault, LoseRequest):
            return False
        if isinstance(fault, Reply):
            request.status = fault.status
            writer.write(_error(fault, request))
            await writer.drain()
            return head.keeps_alive
        reply, content = await self._forward(request, head)
        if isinstance(fault, LoseResponse):
            return False
        request.status = int(reply.start[1])
        cut = isinstance(fault, TruncatedBody) and bool(content)
        if isinstance(fault, TruncatedBody):
            content = content[: len(content) // 2 if fault.after is None else fault.after]
        writer.write(_altered(reply, fault))
        if isinstance(fault, Drip):
            for byte in content:
                await asyncio.sleep(fault.seconds)
                writer.write(bytes((byte,)))
        else:
            writer.write(content)
        await writer.drain()
        ends_with_connection = reply.length is None and not reply.chunked and not _bodiless(request, reply)
        return head.keeps_alive and reply.keeps_alive and not cut and not ends_with_connection

    def _admit(self, request: Request) -> tuple[float, Fault | None]:
        """Write the request down; seconds to wait, and what then to do to it (None: nothing)."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            delay = 0.0
            for rule in self._rules:
                if rule.claims(request, self._random):
                    if not isinstance(rule.fault, Delay):
                        return delay, rule.fault
                    delay += rule.fault.seconds
            return delay, None

    async def _forward(self, request: Request, head: Head) -> tuple[Head, bytes]:
        reader, writer = await asyncio.open_connection(*self._upstream, limit=STREAM_LIMIT)
        try:
            writer.write(head.without("expect") + request.body)
            reply = await read_head(reader)
            while reply is not None and reply.start[1].startswith("1"):
                reply = await read_head(reader)
            if reply is None:
                raise ConnectionError("S3 closed the connection without an answer")
            if _bodiless(request, reply):
                return reply, b""
            return reply, await read_body(reader, reply, until_close=True)
        finally:
            writer.close()


def _altered(reply: Head, fault: Fault | None) -> bytes:
    """The head of a reply with what a fault changes in it."""
    if isinstance(fault, ShiftDate):
        return _shifted(reply, fault.seconds)
    etag = reply.fields.get("etag", "")
    if isinstance(fault, OtherETags) and etag:
        return reply.raw.replace(etag.encode(), etag[::-1].encode())
    return reply.raw


def _shifted(reply: Head, seconds: float) -> bytes:
    """Return the head of `reply` with a Date that is `seconds` from now."""
    date = formatdate(time.time() + seconds, usegmt=True).encode()
    return reply.without("date").removesuffix(b"\r\n") + b"Date: " + date + b"\r\n\r\n"


def _bodiless(request: Request, reply: Head) -> bool:
    return request.method == "HEAD" or reply.start[1] in ("204", "304")


def _error(reply: Reply, request: Request) -> bytes:
    body = reply.body(request)
    return (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
        f"Content-Type: application/xml\r\nContent-Length: {len(body)}\r\nx-amz-request-id: fault\r\n\r\n"
    ).encode() + (b"" if request.method == "HEAD" else body)
