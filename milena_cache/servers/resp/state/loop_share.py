"""Coordination. Fair sharing of the event loop between the RESP connections: slices in a round-robin queue.

The loop delivers a busy socket's bytes in large reads, uvloop up to 32 reads of 256,000 bytes in a row. A
connection that worked until all of its commands were done would block the loop for seconds: other clients time out,
health checks fail, and the node's lease expires.

So a connection works for a *slice*. With commands left it stops reading from its socket, which also ends the row of
reads, and is enqueued here. In each round of the loop the connections in the queue get one slice each, until
LOOP_SECONDS are used; the others keep their place for the next round. Work done in `data_received` is counted too:
many connections that each do little there would otherwise add up to a round without an end. Beyond LOOP_SECONDS in
one round, bytes that arrive are enqueued as well, but for a few of other nodes (`_MEMBER_BYTES` in `connection`).

So one round of the loop takes at most about two LOOP_SECONDS and one slice, however many connections have work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

# Seconds of work in one round of the loop, for the queue, and once more for bytes that just arrived.
LOOP_SECONDS: Final = 0.004
# The longest and the shortest slice of one connection, in seconds. One command is not divided.
MAX_SLICE_SECONDS: Final = 0.002
MIN_SLICE_SECONDS: Final = 0.0005
# After a slice that took longer, other connections run before the next bytes of the same one are read.
HEAVY_SECONDS: Final = 0.001
# Work this short is not counted: there cannot be enough of it in one round.
_COUNTED_SECONDS: Final = 0.00005


class Waits(Protocol):
    """A connection that waits for a slice."""

    def run_slice(self) -> None:
        """Work for one slice."""


class LoopShare:
    """The queue of connections that wait for a slice. `now` returns monotonic seconds.

    exhausted: True if bytes that arrive have to wait for the next round of the loop. A plain attribute, since it
        is used at every read
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
        """Count seconds of work that was done in `data_received`."""
        if seconds >= _COUNTED_SECONDS:
            self._used += seconds
            self.exhausted = self._used >= LOOP_SECONDS
            self._schedule()

    def enqueue(self, waits: Waits) -> None:
        """Give `waits` one slice, in the next round of the loop or a later one. It must not be enqueued already."""
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
            # The length is taken before the loop: connections that are enqueued again wait for the next round.
            for _ in range(len(queue)):
                queue.popleft().run_slice()
                if self._now() >= until:
                    break
        finally:
            if queue:
                self._schedule()
