"""Coordination. GETs that are refused at once because the node cannot keep up with what it is asked.

What is answered after its client has given up is lost work, and while more is asked than can be answered, all that
waits becomes that old. Refusing a GET costs a tenth of answering it: so what waits too long is refused in one go,
and what comes then is answered in time.

How old the bytes in a socket are is not known. But a connection that has had more to read each time its commands
were worked off is *behind*, and the oldest of what it reads may be as old as that. One client that sends without
pause is behind as well, and gets its share, see `loop_share`; so refusing begins only while MANY connections are
behind. It ends for each connection when it has caught up. Other commands than GETs are never refused here.
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

# A connection with fewer bytes in its socket is not behind: some 500 GETs. After a shorter read that is not asked.
BEHIND_BYTES: Final = 16 * 1024
BEHIND_SECONDS: Final = 0.5
# Connections that are behind, from which on the node is overloaded.
MANY: Final = 16

# Short, since it may be sent a million times a second. Nothing was done.
_ERROR = Overloaded(f"retry-after-ms={RETRY_AFTER_MS} overloaded")
_LINE = error_line(to_resp(_ERROR))
_CODE = to_grpc(_ERROR)[0].name.lower()


class Overload:
    """Which connections of one door are behind."""

    def __init__(self, calls: CallCounts, stats: CommandStats) -> None:
        self._gets = calls["get"]
        self._stats = stats
        self._since: dict[int, float] = {}
        # Those of them whose GETs are refused until they have caught up, however many others have: half of an old
        # backlog that is answered is as late as all of it.
        self._rejected: set[int] = set()

    def look(self, number: int, reader: CommandReader, transport: asyncio.Transport, now: float) -> None:
        """Connection `number` has worked for a while; if on a long read, see what its socket has."""
        if reader.fed <= BEHIND_BYTES:
            return
        if reader.more or unread_bytes(transport) > BEHIND_BYTES:
            self._since.setdefault(number, now)
        else:
            self.caught_up(number)

    def caught_up(self, number: int) -> None:
        """The connection is gone, or has caught up."""
        self._since.pop(number, None)
        self._rejected.discard(number)

    def rejects(self, number: int, now: float) -> bool:
        """Return whether GETs of connection `number` are to be refused at `now`, in monotonic seconds."""
        if len(self._since) >= MANY and self._since.get(number, now) < now - BEHIND_SECONDS:
            self._rejected.add(number)
        return number in self._rejected

    def reject(self, reader: CommandReader, session: Session, parts: list[bytes]) -> bool:
        """Refuse the GETs that are next in `reader`, and append the answers to `parts`; False if there are none."""
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
