"""Coordination. Flights: one S3 read per key, shared by everybody who waits for it.

A flight is a task of its own. Who waits can give up without harm to the others, and an error reaches those who
wait and nobody after them.

Invariant: what a flight brings is kept only while the flight is *attached*. A write or delete of the key detaches
it, because the read may have begun before the write; nobody joins it after that either, or a reader that came
after the write was acknowledged would be told what was before. The same holds for a request that comes with a
newer `owned_since` than the flight's: another node may have written in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """One S3 read under way. `attached`: its result may still be kept."""

    __slots__ = ("attached", "key", "owned_since", "task")

    def __init__(self, key: bytes, owned_since: int) -> None:
        self.key = key
        self.owned_since = owned_since
        self.attached = True
        self.task: asyncio.Task[T]


class Flights(Generic[T]):
    """The flights of one node, by cache key."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def join(self, key: bytes, owned_since: int) -> Flight[T] | None:
        """The flight for `key` that a request of this ownership may share."""
        flight = self._by_key.get(key)
        if flight is not None and flight.owned_since < owned_since:
            self.detach(key)
            return None
        return flight

    def start(self, key: bytes, owned_since: int, read: Callable[[Flight[T]], Awaitable[T]]) -> Flight[T]:
        """Start `read` as the flight for `key`, in place of any other."""
        self.detach(key)
        flight: Flight[T] = Flight(key, owned_since)

        async def fly() -> T:
            return await read(flight)

        flight.task = asyncio.get_running_loop().create_task(fly())
        self._by_key[key] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda task: self._landed(flight, task))
        return flight

    def detach(self, key: bytes) -> None:
        """Keep nothing of the flight for `key`, and let nobody join it any more."""
        flight = self._by_key.pop(key, None)
        if flight is not None:
            flight.attached = False

    async def wait(self, flight: Flight[T], timeout: float) -> bool:
        """Whether the flight has landed within `timeout` seconds."""
        await asyncio.wait((flight.task,), timeout=max(0.0, timeout))
        return flight.task.done()

    async def cancel_all(self) -> None:
        """Break off every flight; for the end of the process."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, flight: Flight[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        if not task.cancelled():
            task.exception()  # everybody may have given up waiting; that is no event for the log
