"""Coordination. How the connections of the Redis door share the event loop: short turns, one after the other.

The loop hands a busy socket's bytes over in large reads, uvloop up to 32 reads of 256,000 bytes in a row. A
connection that worked until it had answered all of them would keep the loop for seconds from everything else: from
other clients, from health checks, and from the renewal of the node's lease.

So a connection works on its commands for a *slice*. If it has more to do, it stops reading from its socket, which
also ends the row of reads, and waits in the queue here. Once in each round of the loop, the connections in the
queue get a slice each, until LOOP_SECONDS are over; the others keep their place for the next round. What
connections do as soon as bytes arrive is counted as well: beyond LOOP_SECONDS in one round, bytes that arrive wait
in the queue too.

So one round of the loop takes about two LOOP_SECONDS, and one slice more, however many connections have work to
do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

# Seconds of work in one round of the loop, for the queue and once more for what just arrived.
LOOP_SECONDS: Final = 0.004
# The longest and the shortest slice of one connection, in seconds. One command is not divided.
MAX_SLICE_SECONDS: Final = 0.002
MIN_SLICE_SECONDS: Final = 0.0005
# A turn that took longer is followed by other connections before the next bytes of the same one are read.
HEAVY_SECONDS: Final = 0.001
# Turns this short are not counted: there cannot be enough of them in one round.
_COUNTED_SECONDS: Final = 0.00005


class Waits(Protocol):
    """Who waits for a turn."""

    def run_slice(self) -> None:
        """Work for one slice."""


class LoopShare:
    """The queue of connections that wait for a turn. `now` gives monotonic seconds.

    `exhausted`: bytes that arrive have to wait for the next round of the loop. A plain attribute, since every read
    looks at it.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._queue: deque[Waits] = deque()
        self._scheduled = False
        self._used = 0.0
        self.exhausted = False

    def __len__(self) -> int:
        return len(self._queue)

    def slice(self) -> float:
        """Return for how many seconds a connection may work now."""
        waiting = len(self._queue)
        if waiting < 2:
            return MAX_SLICE_SECONDS
        return max(MIN_SLICE_SECONDS, LOOP_SECONDS / (waiting + 1))

    def used(self, seconds: float) -> None:
        """Count the time of a turn that was taken as soon as bytes arrived."""
        if seconds >= _COUNTED_SECONDS:
            self._used += seconds
            self.exhausted = self._used >= LOOP_SECONDS
            self._schedule()

    def enqueue(self, waits: Waits) -> None:
        """Give `waits` one turn, in the next round of the loop or a later one. It must not wait here already."""
        self._queue.append(waits)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        self._scheduled = False
        self._used = 0.0
        self.exhausted = False
        queue = self._queue
        until = self._now() + LOOP_SECONDS
        try:
            # Those that are enqueued again meanwhile have to wait for the next round.
            for _ in range(len(queue)):
                queue.popleft().run_slice()
                if self._now() >= until:
                    break
        finally:
            if queue:
                self._schedule()
