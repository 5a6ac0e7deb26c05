"""Shell. Puts of large values by a client that holds one copy of the bytes, over gRPC's own HTTP/2 or RESP.

A client library copies each value several times, and cannot send a message that is larger than the formats allow.
These send the frames themselves, as fast as the server reads them: also bodies of gigabytes, and bodies without an
announced size.
"""

from __future__ import annotations

import asyncio
import re
import struct
from contextlib import suppress
from dataclasses import dataclass

from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.rpc.options import REQUEST_BYTES

CHUNK = bytes(2**20)
MAX_FRAME = 16384
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_INITIAL_WINDOW = 4
# The maximum length that a gRPC message can have.
MAX_MESSAGE = 2**32 - 1
# DEADLINE_EXCEEDED as gRPC's servers write it: without Huffman coding, and not as an index of an earlier header, as
# each connection has one call only.
DEADLINE_STATUS = re.compile(rb"grpc-status.4(?!\d)", re.DOTALL)
# The same for OK. A message alone does not mean success: for other statuses, too, gRPC's servers send one, empty.
OK_STATUS = re.compile(rb"grpc-status.0(?!\d)", re.DOTALL)
# The limits that errors name.
LIMITS = (b"MAX_VALUE_BYTES", b"MAX_IN_FLIGHT_BYTES", b"REQUEST_TIMEOUT_SECONDS", b"RATE_LIMIT")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a put.

    - `response`: "ok", "refused", "deadline" (the call's own deadline passed), "timed out" (no response even then)
      or "cut" (the connection ended without a response).
    - `named`: the limit that the error names, "" if none.
    - `sent`: sent bytes of the value.
    - `text`: the readable part of an error.
    """

    response: str
    named: str
    sent: int
    text: str = ""


def outcome(received: bytes, ok: bool, sent: int, responded: bool) -> Outcome:
    """Return the outcome for the bytes that the server sent."""
    if ok:
        return Outcome("ok", "", sent)
    text = "".join(chr(byte) if 32 <= byte < 127 else "|" for byte in received[-600:])
    named = next((limit.decode() for limit in LIMITS if limit in received), "")
    if not named and DEADLINE_STATUS.search(received):
        return Outcome("deadline", "", sent, text)
    return Outcome("refused" if responded else "cut", named, sent, text)


async def put_grpc(
    host: str, port: int, path: str, key: bytes, size: int, seconds: float, *, announced: bool
) -> Outcome:
    """Put `size` zero bytes by the gRPC method `path`; `announced`: its size is in the metadata."""
    head = pb.PutRequest(key=key).SerializeToString() + b"\x1a" + _varint(size)  # field 3: the value
    length = len(head) + size
    reader, writer = await asyncio.open_connection(host, port)
    call = _Call(reader, writer)
    reading = asyncio.create_task(call.read())
    try:
        async with asyncio.timeout(seconds + 5):
            fields = [(b":authority", f"{host}:{port}".encode()), (b"content-type", b"application/grpc")]
            fields += [(b"te", b"trailers"), (b"grpc-timeout", b"%dS" % seconds)]
            if announced:
                fields.append((REQUEST_BYTES.encode(), b"%d" % length))
            # ":method: POST" and ":scheme: http" are in the static table.
            block = b"\x83\x86" + _literal(b":path", path.encode()) + b"".join(_literal(*field) for field in fields)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
            writer.write(_frame(_HEADERS, 4, 1, block))
            await call.send(b"\0" + struct.pack(">I", min(length, MAX_MESSAGE)) + head)
            remaining = size
            while remaining and not call.finished.is_set():
                remaining -= await call.send(CHUNK[: min(remaining, len(CHUNK))])
            if not remaining:
                writer.write(_frame(_DATA, 1, 1, b""))
            await call.finished.wait()
        received = bytes(call.received)
        return outcome(received, OK_STATUS.search(received) is not None, size - remaining, bool(received))
    except TimeoutError:
        return Outcome("timed out", "", size)
    except OSError:
        return outcome(bytes(call.received), False, 0, bool(call.received))
    finally:
        reading.cancel()
        writer.close()


class _Call:
    """One call on one connection: flow control, and the received bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()  # of headers and trailers, and errors of the connection
        self.finished = asyncio.Event()
        self._reader, self._writer = reader, writer
        self._connection, self._stream, self._initial = 65535, 65535, 65535
        self._room = asyncio.Event()

    async def read(self) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await self._reader.readexactly(9)
                kind, flags = head[3], head[4]
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(kind, flags, int.from_bytes(head[5:9], "big"), payload)
        self.finished.set()
        self._room.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & 1:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == _INITIAL_WINDOW:
                    self._stream += value - self._initial
                    self._initial = value
            self._writer.write(_frame(_SETTINGS, 1, 0, b""))
        elif kind == _PING and not flags & 1:
            self._writer.write(_frame(_PING, 1, 0, payload))
        elif kind == _WINDOW:
            more = int.from_bytes(payload, "big")
            if stream:
                self._stream += more
            else:
                self._connection += more
        elif kind in (_HEADERS, _GOAWAY):
            self.received += payload
        if (kind in (_HEADERS, _DATA) and flags & 1) or kind in (_RESET, _GOAWAY):
            self.finished.set()
        self._room.set()

    async def send(self, data: bytes) -> int:
        """Send `data` as flow control allows; return the number of bytes sent until the call ended."""
        view, at = memoryview(data), 0
        while at < len(data) and not self.finished.is_set():
            size = min(len(data) - at, MAX_FRAME, self._connection, self._stream)
            if size <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._connection -= size
            self._stream -= size
            self._writer.write(_frame(_DATA, 0, 1, view[at : at + size].tobytes()))
            at += size
            await self._writer.drain()
        return at


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Return a literal header without indexing; name and value shorter than 127 bytes."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*data, number))


async def put_resp(host: str, port: int, key: bytes, size: int, seconds: float) -> Outcome:
    """Put `size` zero bytes by SET."""
    reader, writer = await asyncio.open_connection(host, port)
    answering = asyncio.create_task(reader.readline())
    remaining = size
    try:
        async with asyncio.timeout(seconds + 5):
            writer.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, size))
            with suppress(OSError):
                while remaining and not answering.done():
                    size_now = min(remaining, len(CHUNK))
                    writer.write(CHUNK[:size_now])
                    remaining -= size_now
                    draining = asyncio.ensure_future(writer.drain())
                    # If it fails after the reply has arrived, the connection has ended, as expected.
                    draining.add_done_callback(lambda task: task.cancelled() or task.exception())
                    await asyncio.wait((draining, answering), return_when=asyncio.FIRST_COMPLETED)
                    if not draining.done():
                        draining.cancel()
                if not remaining:
                    writer.write(b"\r\n")
            response = await answering
        return outcome(response, response.startswith(b"+OK"), size - remaining, bool(response))
    except TimeoutError:
        return Outcome("timed out", "", size - remaining)
    except OSError:
        return Outcome("cut", "", size - remaining)
    finally:
        answering.cancel()
        writer.close()
