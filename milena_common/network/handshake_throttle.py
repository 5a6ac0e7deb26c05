"""Pure. When the next TLS handshake of clients may begin, and whose.

A handshake takes about half a millisecond of the event loop, which commands of other clients need too. After the
restart of a node or a network thousands of clients connect at once. Without a bound: (1) their handshakes fill the
loop and a whole core; (2) each command waits for several handshakes, and for the system to give the process a core
again. So while commands run, handshakes get SHARE of the loop's time, by what one costs with this certificate.
While none run they get all of it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

# The share of the event loop's time for handshakes while commands run.
SHARE: Final = 0.25
# Commands count as running for this many seconds after the last one.
BUSY_SECONDS: Final = 0.25
# Timers are no finer than a millisecond, so that some handshakes may begin together to make up for a late timer.
BURST_SECONDS: Final = 0.005

T = TypeVar("T")


class HandshakeThrottle:
    """Decides when a handshake may begin. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._served = 0
        self._busy_until = float("-inf")

    def wait(self, now: float, served: int) -> float:
        """Return for how many seconds the next handshake has to wait; 0 if it may begin.

        `served`: how many commands the process has served since its start.
        """
        if served != self._served:
            self._served = served
            self._busy_until = now + BUSY_SECONDS
        return max(0.0, self._next_at - now) if now < self._busy_until else 0.0

    def began(self, now: float, cost: float) -> None:
        """Record that a handshake begins that takes `cost` seconds of the event loop."""
        # What began while no commands ran is no debt: the next handshakes would wait for all of it.
        paid_until = min(max(self._next_at, now - BURST_SECONDS), now)
        self._next_at = paid_until + cost / SHARE


class FairQueue(Generic[T]):
    """At most `limit` items that wait, each of a port and a source, an address or network.

    They are taken from the ports in turn, of a port from its sources in turn, and of a source in order. So a health
    check does not wait for thousands of clients of another port, nor a client for all those of a greedy source.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        # Ports, and the sources of each, in the order of their turns; none of them is empty.
        self._ports: dict[str, dict[str, deque[T]]] = {}
        # The sources, by the number of their items.
        self._by_length: dict[int, dict[tuple[str, str], None]] = {}
        self._longest = 0

    def __len__(self) -> int:
        return self._count

    def add(self, port: str, source: str, item: T) -> T | None:
        """Append `item`; return the item that has to give way to it, removed already, None if there is room.

        That is the newest item of the source that has the most, which may be `item` itself.
        """
        sources = self._ports.setdefault(port, {})
        items = sources.setdefault(source, deque())
        items.append(item)
        self._resized(port, source, len(items) - 1, len(items))
        if self._count <= self._limit:
            return None
        greedy_port, greedy_source = next(reversed(self._by_length[self._longest]))
        items = self._ports[greedy_port][greedy_source]
        removed = items.pop()
        self._resized(greedy_port, greedy_source, len(items) + 1, len(items))
        if not items:
            self._remove(greedy_port, greedy_source)
        return removed

    def pop_next(self) -> T:
        """Remove and return the item whose turn it is. There must be one."""
        port, sources = next(iter(self._ports.items()))
        source, items = next(iter(sources.items()))
        item = items.popleft()
        self._resized(port, source, len(items) + 1, len(items))
        del sources[source]
        if items:
            sources[source] = items  # behind the others
        del self._ports[port]
        if sources:
            self._ports[port] = sources
        return item

    def _remove(self, port: str, source: str) -> None:
        del self._ports[port][source]
        if not self._ports[port]:
            del self._ports[port]

    def _resized(self, port: str, source: str, before: int, after: int) -> None:
        """Keep the sources by length, so that the longest one is found without a look at all."""
        self._count += after - before
        lane = port, source
        if before:
            same = self._by_length[before]
            del same[lane]
            if not same:
                del self._by_length[before]
        if after:
            self._by_length.setdefault(after, {})[lane] = None
        if after > self._longest or (before == self._longest and before not in self._by_length):
            self._longest = after
