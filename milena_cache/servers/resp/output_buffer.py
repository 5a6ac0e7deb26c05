"""Coordination. The output of one connection: the parts of the next write, and replies that wait for a slow reader.

Replies in order need no queue here: while the client does not read, no further command begins. Replies out of order
(deferred ones) come whenever S3 has replied, for commands that began long before: they wait here until the client
reads, so that the transport's buffer stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque

from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.pending_replies import LARGE, Large, Reply

# From this many unsent bytes on a client is slow: it is disconnected if it reads none of them for too long, and
# while the process exceeds its budget of bytes in flight, none of its commands begins.
HIGH_WATER = 1024 * 1024
# Up to this, unsent bytes are not counted. Above, `writable` is False.
_UNCOUNTED = 64 * 1024
# Parts, and bytes of them, that are joined into one write.
MAX_PIECES = 256
_JOINED_BYTES = 64 * 1024


class OutputBuffer:
    """The output of one connection.

    parts: bytes that the next `write_out` writes
    writable: False while the transport holds more than _UNCOUNTED unsent bytes
    lost: True if nothing can be sent any more
    """

    __slots__ = ("_joined", "_ready", "_scheduled", "_session", "_transport", "lost", "parts", "writable")

    def __init__(self, transport: asyncio.Transport, session: Session) -> None:
        self.parts: list[bytes] = []
        self.writable = True
        self.lost = False
        self._ready: deque[Reply] = deque()
        self._joined = 0
        self._scheduled = False
        self._transport = transport
        self._session = session
        transport.set_write_buffer_limits(high=_UNCOUNTED)

    def write_out(self) -> None:
        """Write the parts to the transport, in one call."""
        parts = self.parts
        if not parts:
            return
        if not self.lost:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self._session.sent += len(data)
            self._transport.write(data)
        parts.clear()
        self._joined = 0

    def count(self, size: int) -> None:
        """Count `size` bytes that were appended to `parts`, and write what is enough for one write."""
        self._joined += size
        if self._joined >= _JOINED_BYTES or len(self.parts) > MAX_PIECES:
            self.write_out()

    def write_soon(self) -> None:
        """Write the parts in the next round of the event loop.

        Each write of a transport may be a system call. So the replies to the commands that wait for one commit of
        the journal, which come one after the other in one round, are written together.
        """
        if len(self.parts) > MAX_PIECES:
            self.write_out()
        elif not self._scheduled and self.parts:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write_scheduled)

    def _write_scheduled(self) -> None:
        self._scheduled = False
        self.write_out()

    def add(self, reply: Reply) -> None:
        """Append a reply to `parts`; a large one is written at once, without being copied into them."""
        if len(reply) > 1 and isinstance(reply, Large):
            self.write_out()
            self._send(reply)
            return
        self.parts.extend(reply)
        if len(reply) > 1:
            size = 0
            for part in reply:
                size += len(part)
            if size >= LARGE:
                self.write_out()

    def _send(self, reply: Reply) -> None:
        if not self.lost:
            self._session.sent += sum(map(len, reply))
            self._transport.writelines(reply)

    def add_when_read(self, reply: Reply) -> None:
        """Send a reply that has no place in the order of commands, as soon as the client reads."""
        if self.lost:
            return
        if self.writable:
            self.add(reply)
        else:
            self._ready.append(reply)

    def add_message(self, message: bytes) -> None:
        """Send a message that is not a reply, behind all replies so far.

        It must not overtake those in `_ready`: (1) the deferred reply to a GET waits there; (2) the key changes,
        and its invalidation is sent past it; (3) the client gets the reply last, and caches the old value
        permanently.
        """
        if self._ready:
            self._ready.append((message,))
        else:
            self.parts.append(message)

    def resumed(self) -> None:
        """Send what has waited, since the client reads again."""
        self.writable = True
        while self._ready and self.writable:
            self._send(self._ready.popleft())

    def discard(self) -> None:
        """Drop what waits; nothing is sent any more."""
        self.lost = True
        self._ready.clear()

    @property
    def behind(self) -> bool:
        """True if replies wait that the transport does not have yet."""
        return bool(self._ready)

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the client to read them."""
        return self._transport.get_write_buffer_size() + sum(sum(map(len, reply)) for reply in self._ready)
