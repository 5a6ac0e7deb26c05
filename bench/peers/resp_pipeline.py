"""Shell. A Redis client that is as fast as Python allows: one connection, one write per iteration of the loop.

All commands of an iteration of the event loop are sent together, and replies are matched by their order. It
supports only SET, whose reply is one line.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast


class RespPipeline(asyncio.Protocol):
    """One connection; create it with `connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._commands: list[bytes] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tail = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def set(self, key: bytes, value: bytes) -> asyncio.Future[None]:
        """Return a future, done at the acknowledgement.

        It raises RuntimeError with the reply, or ConnectionError.
        """
        if not self._commands:
            self._loop.call_soon(self._send)
        self._commands.append(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value))
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _send(self) -> None:
        self._transport.write(b"".join(self._commands))
        self._commands.clear()

    def data_received(self, data: bytes) -> None:
        *lines, self._tail = (self._tail + data).split(b"\r\n")
        for line in lines:
            future = self._waiting.popleft()
            if line == b"+OK":
                future.set_result(None)
            else:
                future.set_exception(RuntimeError(line.decode()))

    def connection_lost(self, error: Exception | None) -> None:
        for future in self._waiting:
            future.set_exception(ConnectionError("the server has closed the connection"))
        self._waiting.clear()

    def close(self) -> None:
        self._transport.close()


async def connect(host: str, port: int) -> RespPipeline:
    """Return a connected client. Raises OSError."""
    _, pipeline = await asyncio.get_running_loop().create_connection(RespPipeline, host, port)
    return pipeline
