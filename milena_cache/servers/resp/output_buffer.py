"""Coordination. What a connection has to send: the parts of one write, and what waits for a slow reader."""

from __future__ import annotations

import asyncio
from collections import deque

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.pending_replies import LARGE, Large, Reply

# Bytes of answers that wait for the client, from which on it is taken for slow: it is disconnected if it takes none
# of them for too long, and when the process has too many bytes in flight, none of its commands is begun.
HIGH_WATER = 1024 * 1024
# Below this, bytes that wait are not counted. Above, `writable` is false.
_UNCOUNTED = 64 * 1024


class OutputBuffer:
    """`parts` leave with the next `flush`. `writable`: the client reads what it is sent, or nearly all of it."""

    __slots__ = ("_ready", "_session", "_transport", "lost", "parts", "writable")

    def __init__(self, transport: asyncio.Transport, session: Session) -> None:
        self.parts: list[bytes] = []
        self.writable = True
        self.lost = False
        self._ready: deque[Reply] = deque()
        self._transport = transport
        self._session = session
        transport.set_write_buffer_limits(high=_UNCOUNTED)

    def flush(self) -> None:
        """Send the parts in one write."""
        parts = self.parts
        if not parts:
            return
        if not self.lost:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self._session.sent += len(data)
            self._transport.write(data)
        parts.clear()

    def add(self, reply: Reply) -> None:
        """Send an answer with the next `flush`, or at once if it is large."""
        if len(reply) > 1 and isinstance(reply, Large):
            self.flush()
            self._send(reply)
            return
        self.parts.extend(reply)
        if len(reply) > 1 and sum(map(len, reply)) >= LARGE:
            self.flush()

    def _send(self, reply: Reply) -> None:
        if not self.lost:
            self._session.sent += sum(map(len, reply))
            self._transport.writelines(reply)

    def add_when_read(self, reply: Reply) -> None:
        """Send an answer that has no place in an order, but no more of them than the client reads."""
        if self.lost:
            return
        if self.writable:
            self.add(reply)
        else:
            self._ready.append(reply)

    def add_message(self, message: bytes) -> None:
        """Send what is no answer, behind every answer so far: it may be about one of them."""
        if self._ready:
            self._ready.append((message,))
        else:
            self.parts.append(message)

    def resumed(self) -> None:
        """The client reads again."""
        self.writable = True
        while self._ready and self.writable:
            self._send(self._ready.popleft())

    def end(self) -> None:
        """Nothing can be sent any more."""
        self.lost = True
        self._ready.clear()

    @property
    def behind(self) -> bool:
        """Whether answers wait that the transport does not have yet."""
        return bool(self._ready)

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read them."""
        return self._transport.get_write_buffer_size() + sum(sum(map(len, reply)) for reply in self._ready)
