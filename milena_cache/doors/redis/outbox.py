"""Coordination. What a connection has to send: the parts of one write, and what waits for a slow reader."""

from __future__ import annotations

import asyncio
from collections import deque

from milena_cache.doors.redis.session import Session
from milena_cache.doors.redis.waiting import Answer

# Bytes of answers that may wait for the client before no command is begun any more.
HIGH_WATER = 1024 * 1024


# To send a piece by itself takes as long as to copy so many bytes.
PIECE_BYTES = 4 * 1024


class Outbox:
    """`parts` leave with the next `flush`. `writable`: the client reads what it is sent, or nearly all of it."""

    __slots__ = ("_ready", "_session", "_transport", "lost", "parts", "writable")

    def __init__(self, transport: asyncio.Transport, session: Session) -> None:
        self.parts: list[bytes] = []
        self.writable = True
        self.lost = False
        self._ready: deque[Answer] = deque()
        self._transport = transport
        self._session = session
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def flush(self) -> None:
        """Send the parts in one write."""
        parts = self.parts
        if not parts or self.lost:
            parts.clear()
            return
        if len(parts) == 1:
            self._session.sent += len(parts[0])
            self._transport.write(parts[0])
        else:
            size = sum(map(len, parts))
            self._session.sent += size
            if size < PIECE_BYTES * len(parts):
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)
        parts.clear()

    def add_when_read(self, answer: Answer) -> None:
        """Send an answer that has no place in an order, but no more of them than the client reads."""
        if self.lost:
            return
        if self.writable:
            self.parts.extend(answer)
        else:
            self._ready.append(answer)

    def resumed(self) -> None:
        """The client reads again."""
        self.writable = True
        while self._ready and self.writable:
            answer = self._ready.popleft()
            self._session.sent += sum(map(len, answer))
            self._transport.writelines(answer)

    def end(self) -> None:
        """Nothing can be sent any more."""
        self.lost = True
        self._ready.clear()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read them."""
        return self._transport.get_write_buffer_size() + sum(sum(map(len, answer)) for answer in self._ready)
