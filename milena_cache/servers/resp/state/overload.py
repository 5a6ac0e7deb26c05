"""Coordination. Load shedding: rejects GETs at once while the node cannot keep up with its requests.

A reply after its client's timeout is lost work, and while more GETs arrive than the node can serve, all that wait
become that old: the node would be busy with nothing but lost work. Rejecting a GET costs a tenth of serving it, so
an old backlog is rejected as a whole, and the GETs after it are served in time.

The age of bytes in a socket is not known. But a connection that had more to read each time its commands were done
is *behind*, and its oldest bytes may be as old as the time since then. A single client that sends without pause is
behind as well, and gets its share (`loop_share`); so rejection begins only while MANY connections are behind. For
each connection it ends when that has caught up. Other commands than GETs are never rejected here.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from typing import Final

from milena_cache.servers.resp.dispatch.admission import RETRY_AFTER_MS
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.statistics.command_stats import CommandStats
from milena_common.api.errors import Overloaded
from milena_common.metrics.call_counts import CallCounts
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import to_resp
from milena_common.resp.parser import CommandReader
from milena_common.rpc.status import to_grpc

# A connection with fewer bytes in its socket (some 500 GETs) is not behind. After a shorter read it is not looked
# at.
BEHIND_BYTES: Final = 16 * 1024
# GETs are rejected on connections that have been behind for longer.
BEHIND_SECONDS: Final = 0.5
# With this many connections behind the node is overloaded.
MANY: Final = 16

# Short, since it may be sent a million times a second. Nothing was done.
_ERROR = Overloaded(f"retry-after-ms={RETRY_AFTER_MS} overloaded")
_LINE = error_line(to_resp(_ERROR))
_CODE = to_grpc(_ERROR)[0].name.lower()


class Overload:
    """The connections of one server that are behind."""

    def __init__(self, calls: CallCounts, stats: CommandStats) -> None:
        self._gets = calls["get"]
        self._stats = stats
        self._since: dict[int, float] = {}
        # Connections whose GETs are rejected until they have caught up, even if fewer than MANY are behind by then:
        # the rest of an old backlog is as old as its beginning.
        self._rejected: set[int] = set()

    def look(self, number: int, reader: CommandReader, transport: asyncio.Transport, now: float) -> None:
        """Update, after a slice that ended with a long read, whether connection `number` is behind.

        `now` is monotonic seconds.
        """
        if reader.fed <= BEHIND_BYTES:
            return
        if reader.more or unread_bytes(transport) > BEHIND_BYTES:
            self._since.setdefault(number, now)
        else:
            self.caught_up(number)

    def caught_up(self, number: int) -> None:
        """Clear connection `number`, which is not behind any more, or has closed."""
        self._since.pop(number, None)
        self._rejected.discard(number)

    def rejects(self, number: int, now: float) -> bool:
        """True if the GETs of connection `number` are to be rejected at `now`, in monotonic seconds."""
        if len(self._since) >= MANY and self._since.get(number, now) < now - BEHIND_SECONDS:
            self._rejected.add(number)
        return number in self._rejected

    def reject(self, reader: CommandReader, session: Session, parts: list[bytes]) -> bool:
        """Reject the GETs that are next in `reader`, and append the replies to `parts`; False if there are none."""
        number = reader.skip_gets()
        if not number:
            return False
        gets, counted, errors = self._gets, self._stats["get"], self._stats.errors
        session.last_command = "get"
        session.commands += number
        gets.requests += number
        gets.errors[_CODE] = gets.errors.get(_CODE, 0) + number
        counted.rejected += number
        errors[_ERROR.code] = errors.get(_ERROR.code, 0) + number
        parts.append(_LINE * number)
        return True


def unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes wait in the transport's socket; 0 if it has none."""
    socket = transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
