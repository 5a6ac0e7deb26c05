"""Coordination. The turns of TLS handshakes on one event loop, for all of its ports.

A connection whose client has begun a handshake waits here for its turn: `handshake_throttle` decides when the next
handshake begins, and whose it is. Until then the connection takes no memory of TLS. No two begin in one iteration
of the loop. Threads cannot do them: aiofastnet begins each with a state of OpenSSL of its own, in the loop.

At most MAX_WAITING connections wait, each MAX_WAIT_SECONDS at most. One more takes the place of the newest one of
the source that has the most of them: those are closed, and neither accepting nor other sources wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from milena_common.network.handshake_throttle import FairQueue, HandshakeThrottle

# Connections that wait; each takes some 4 KiB.
MAX_WAITING = 4096
# Seconds; a client that has waited for longer has given up, or is about to.
MAX_WAIT_SECONDS = 10.0
# Connections that have waited too long are ended in one iteration of the loop, at most.
_TIMED_OUT_AT_ONCE = 16


class TooManyHandshakes(OSError):
    """A connection was ended before its handshake, because too many of its source wait."""


class _Turn(NamedTuple):
    """One that waits: `begins` is set when it may begin, until the loop's time `until`."""

    begins: asyncio.Future[None]
    cost: float
    until: float


class Handshakes:
    """The handshakes of clients. `served` returns how many commands the process has served since its start."""

    def __init__(self, served: Callable[[], int]) -> None:
        self._served = served
        self._throttle = HandshakeThrottle()
        self._queue: FairQueue[_Turn] = FairQueue(MAX_WAITING)
        self._scheduled = False

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._queue)

    async def wait_turn(self, port: str, source: str, cost: float) -> None:
        """Return when a handshake that takes `cost` seconds of the event loop may begin.

        `port` and `source` (an address or network) have turns of their own. Raises TimeoutError after
        MAX_WAIT_SECONDS, TooManyHandshakes if the connection has to give way.
        """
        loop = asyncio.get_running_loop()
        turn = _Turn(loop.create_future(), cost, loop.time() + MAX_WAIT_SECONDS)
        displaced = self._queue.add(port, source, turn)
        if displaced is not None and not displaced.begins.done():
            displaced.begins.set_exception(TooManyHandshakes("too many connections wait for their handshake"))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._begin_next)
        await turn.begins

    def _begin_next(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        wait = self._throttle.wait(now, self._served())
        if wait:
            loop.call_later(wait, self._begin_next)
            return
        for _ in range(min(_TIMED_OUT_AT_ONCE, len(self._queue))):
            turn = self._queue.pop_next()
            if turn.begins.done():  # its connection has ended, while the process stops
                continue
            if now >= turn.until:
                turn.begins.set_exception(TimeoutError("the handshake has waited for its turn for too long"))
                continue
            self._throttle.began(now, turn.cost)
            turn.begins.set_result(None)
            break
        self._scheduled = bool(self._queue)
        if self._scheduled:
            loop.call_soon(self._begin_next)
