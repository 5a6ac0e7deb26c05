"""Coordination. Flights: one S3 read per key, shared by everybody who waits for it.

A flight is a task of its own. Who waits can give up without harm to the others, and an error reaches those who
wait and nobody after them.

A flight that is late (its answer may be lost) begins to read once more when another reader joins it. The first read
that succeeds ends the flight for all who wait, and the others are cancelled.

Invariant: what a flight brings is kept only while the flight is *attached*. A write or delete of the key detaches
it, because the read may have begun before the write; nobody joins it after that either, or a reader that came
after the write was acknowledged would be told what was before. The same holds for a request that comes with a
newer `owned_since` than the flight's: another node may have written in between. And what one of its reads brought
and was kept detaches it, or this could happen: a second read brings a new version, which is kept; before its
success has cancelled the first read, that one keeps the old version over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

# Reads of one flight, the first included.
MAX_READS = 3


class SharedCall(Generic[T]):
    """S3 reads under way for one key.

    attached: the result may still be kept
    outcome: the result of the first read that succeeds, or the error of the last that fails
    read_at: when the newest read began, monotonic seconds
    """

    __slots__ = ("attached", "key", "outcome", "owned_since", "read", "read_at", "reads", "running")

    def __init__(self, key: bytes, owned_since: int, read: Callable[[SharedCall[T]], Awaitable[T]]) -> None:
        self.key = key
        self.owned_since = owned_since
        self.read = read
        self.attached = True
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.running: set[asyncio.Task[T]] = set()
        self.reads = 0
        self.read_at = -inf


class SingleFlight(Generic[T]):
    """The flights of one node, by cache key. Those older than `late_after` seconds are late."""

    def __init__(self, late_after: float) -> None:
        self.late_after = late_after
        self._by_key: dict[bytes, SharedCall[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[bytes]:
        """The keys of the flights that may be joined."""
        return iter(self._by_key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def join(self, key: bytes, owned_since: int, now: float) -> SharedCall[T] | None:
        """Return the flight for `key` that a request of this ownership may share; it reads again if it is late."""
        call = self._by_key.get(key)
        if call is None:
            return None
        if call.owned_since < owned_since:
            self.detach(key)
            return None
        if now - call.read_at >= self.late_after and call.reads < MAX_READS and not call.outcome.done():
            self._begin(call, now)
        return call

    def start(
        self, key: bytes, owned_since: int, read: Callable[[SharedCall[T]], Awaitable[T]], now: float
    ) -> SharedCall[T]:
        """Start `read` as the flight for `key`, in place of any other."""
        self.detach(key)
        call = SharedCall(key, owned_since, read)
        self._by_key[key] = call
        self._begin(call, now)
        return call

    def _begin(self, call: SharedCall[T], now: float) -> None:
        async def run() -> T:
            return await call.read(call)

        task = asyncio.get_running_loop().create_task(run())
        call.reads += 1
        call.read_at = now
        call.running.add(task)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._read_done(call, task))

    def detach(self, key: bytes) -> None:
        """Keep nothing of the flight for `key`, and let nobody join it any more."""
        call = self._by_key.pop(key, None)
        if call is not None:
            call.attached = False

    async def wait(self, call: SharedCall[T], timeout: float) -> bool:
        """Whether the flight has landed within `timeout` seconds."""
        await asyncio.wait((call.outcome,), timeout=max(0.0, timeout))
        return call.outcome.done()

    async def cancel_all(self) -> None:
        """Break off every flight; for the end of the process."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read_done(self, call: SharedCall[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        call.running.discard(task)
        error = None if task.cancelled() else task.exception()
        succeeded = not task.cancelled() and error is None
        if call.running and not succeeded:
            return  # another read of the flight may still bring something
        if self._by_key.get(call.key) is call:
            del self._by_key[call.key]
        if call.outcome.done():
            return
        if task.cancelled():
            call.outcome.cancel()
        elif error is not None:
            call.outcome.set_exception(error)
            call.outcome.exception()  # everybody may have given up waiting; that is no event for the log
        else:
            call.outcome.set_result(task.result())
            for other in call.running:
                other.cancel()
