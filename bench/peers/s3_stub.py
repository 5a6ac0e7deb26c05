"""Shell. A small fast S3 for benchmarks: ``python -m bench.peers.s3_stub [--synthetic BYTES] [--keep BYTES]``.

Benchmarks of a cache need an S3 that costs little itself, has any number of objects at once, and a known latency.
This one parses HTTP/1.1 by hand in an asyncio protocol (on uvloop where that is installed), gets responses from
`s3_objects`, and delays each by the configured latency. Large bodies are sent in pieces, as their reader takes
them, and no faster than the configured rate of a connection. It prints its address and serves until it is
terminated. Besides S3 there are paths of its own:

    GET  /_stub/stats            requests so far by method, as JSON; listings count as LIST
    GET  /_stub/sent             bytes of the bodies of responses that were sent so far
    POST /_stub/latency?ms=20    delay later responses by this much
    POST /_stub/rate?mb_s=100    send at most so many megabytes (10**6) a second over each connection; 0: any
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from bench.peers.s3_objects import Objects, Repeated, Response

# Larger bodies are sent in pieces of this.
PIECE_BYTES = 256 * 1024

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(slots=True)
class Stub:
    """The state that all connections share.

    latency: seconds until a response begins
    rate: bytes a second of large bodies, of each connection; 0: any number
    sent: bytes of bodies
    """

    objects: Objects
    latency: float = 0.0
    rate: float = 0.0
    sent: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def own(self, method: str, target: str) -> Response:
        """Respond to the paths that are not S3's."""
        path, _, query = target.partition("?")
        if (method, path) == ("GET", "/_stub/stats"):
            return Response(200, "Content-Type: application/json\r\n", json.dumps(self.counts).encode())
        if (method, path) == ("GET", "/_stub/sent"):
            return Response(200, "Content-Type: application/json\r\n", json.dumps(self.sent).encode())
        if (method, path) == ("POST", "/_stub/latency") and query.startswith("ms="):
            self.latency = float(query.removeprefix("ms=")) / 1000
            return Response(200)
        if (method, path) == ("POST", "/_stub/rate") and query.startswith("mb_s="):
            self.rate = float(query.removeprefix("mb_s=")) * 1e6
            return Response(200)
        return Response(404)


class Connection(asyncio.Protocol):
    """One connection: requests arrive, pipelined or not, and responses are sent in the same order."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._data = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._waiting: deque[Response] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._one_request():
            pass

    def _one_request(self) -> bool:
        if self._head is None:
            stop = self._data.find(b"\r\n\r\n")
            if stop < 0:
                return False
            self._head = _parse_head(self._data[:stop].decode("latin-1"))
            del self._data[: stop + 4]
            if "expect" in self._head[2]:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, target, fields = self._head
        if fields.get("transfer-encoding", "").lower() == "chunked":
            taken = _take_chunks(self._data)
            if taken is None:
                return False
            body, length = taken
        else:
            length = int(fields.get("content-length", 0))
            if len(self._data) < length:
                return False
            body = bytes(self._data[:length])
        del self._data[:length]
        self._head = None
        self._serve(method, target, fields, body)
        return True

    def _serve(self, method: str, target: str, fields: dict[str, str], body: bytes) -> None:
        stub = self._stub
        if target.startswith("/_stub/"):
            self._transport.write(_encode(stub.own(method, target)))
            return
        stub.counts["LIST" if method == "GET" and "list-type=2" in target else method] += 1
        self._waiting.append(stub.objects.respond(method, target, fields, body))
        if stub.latency:
            asyncio.get_running_loop().call_later(stub.latency, self._write_next)
        else:
            self._write_next()

    def _write_next(self) -> None:
        if self._sending is not None or self._transport.is_closing():
            return  # `_send` goes on with what waits
        response = self._waiting.popleft()
        if len(response.body) <= PIECE_BYTES:
            self._stub.sent += len(response.body)
            self._transport.write(_encode(response))
            return
        self._transport.write(_head(response))
        self._sending = asyncio.get_running_loop().create_task(self._send(response.body))

    async def _send(self, body: bytes | Repeated) -> None:
        loop, stub = asyncio.get_running_loop(), self._stub
        began, sent = loop.time(), 0
        while sent < len(body):
            piece = bytes(body[sent : sent + PIECE_BYTES])
            sent += len(piece)
            stub.sent += len(piece)
            self._transport.write(piece)
            await self._writable.wait()
            await asyncio.sleep(max(0.0, began + sent / stub.rate - loop.time()) if stub.rate else 0)
        self._sending = None
        if self._waiting:
            self._write_next()


def _parse_head(text: str) -> tuple[str, str, dict[str, str]]:
    first, *lines = text.split("\r\n")
    method, target, _ = first.split(" ")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return method, target, fields


def _take_chunks(data: bytearray) -> tuple[bytes, int] | None:
    """Return the data of HTTP chunks at the start of `data`, and their end; None if they are incomplete."""
    body, at = bytearray(), 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        size = int(data[at:line_end].split(b";")[0], 16)
        if size == 0:
            break
        if len(data) < line_end + 4 + size:
            return None
        body += data[line_end + 2 : line_end + 2 + size]
        at = line_end + 4 + size
    stop = data.find(b"\r\n\r\n", line_end)  # after the trailers, or at once if there are none
    return None if stop < 0 else (bytes(body), stop + 4)


def _head(response: Response) -> bytes:
    length = len(response.body) if response.content_length is None else response.content_length
    # 204 and 304 have no body, and 204 may not state a length either.
    stated = "" if response.status in (204, 304) else f"Content-Length: {length}\r\n"
    head = f"HTTP/1.1 {response.status} {_PHRASES[response.status]}\r\n{stated}{response.fields}\r\n"
    return head.encode("latin-1")


def _encode(response: Response) -> bytes:
    return _head(response) + bytes(response.body)


async def _serve(port: int, stub: Stub) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers.s3_stub", description="A small fast S3 for benchmarks."
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--synthetic", type=int, metavar="BYTES", help="every key exists, with this many bytes")
    parser.add_argument("--keep", type=int, metavar="BYTES", help="of larger values only the ETag is kept")
    parser.add_argument("--md5-etags", action="store_true", help="ETags are MD5s, as S3's are; slower")
    parser.add_argument("--latency-ms", type=float, default=0.0, metavar="MS")
    parser.add_argument(
        "--mb-s", type=float, default=0.0, metavar="MB", help="a second, of each connection; 0: any"
    )
    options = parser.parse_args()
    objects = Objects(options.synthetic, options.keep, md5_etags=options.md5_etags)
    stub = Stub(objects, options.latency_ms / 1000, options.mb_s * 1e6)
    with asyncio.Runner(loop_factory=_fast_loop()) as runner, suppress(KeyboardInterrupt):
        runner.run(_serve(options.port, stub))


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where it is installed: the stub then takes half as much processor time."""
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    main()
