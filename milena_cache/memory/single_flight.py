"""Coordination. Single flight: one S3 read at a time for each key, shared by all readers of that key.

The reads of a call run in tasks of their own, not in those of its readers: a reader that times out or is cancelled
cancels nothing for the others. An error goes to the readers that wait at that time and is not cached.

A call is late when its newest read has run for `late_after` seconds: the reply may be lost. The next reader that
joins a late call starts one more read, up to MAX_READS. The first read that succeeds completes the call for all
readers, and the other reads are cancelled.

Invariant: the result of a call is kept only while the call is *attached*, and only an attached call is joined.
Three things detach a call:

- A write or delete of the key. Otherwise: (1) a read begins, and S3 reads the old object; (2) a PUT of the key is
  acknowledged; (3) a reader that comes now joins the call of step 1 and gets the value from before the PUT.
- A request with a newer `owned_since` than the call's. Otherwise: (1) a read begins; (2) the slot moves to another
  node, which acknowledges a write of the key, and back; (3) a reader joins the read of step 1.
- A result of the call that has been kept (`Node._fetch` of `milena_cache.reads.reader`). Otherwise: (1) a late call
  has two reads, and the second brings the newer version, which is kept; (2) before its success is processed and
  cancels the first read, the first read arrives with the older version and is kept over it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from math import inf
from typing import Any, Generic, TypeVar

from milena_common.runtime.completion import done_within

T = TypeVar("T")

# Reads of one call, the first included.
MAX_READS = 3


class SharedCall(Generic[T]):
    """The S3 reads in flight for one key.

    key: the cache key
    owned_since: the ring epoch since which this node owned the key's slot, by the request that started the call
    read: starts one read
    attached: True while the result may be kept and readers may join
    whole: True if a reader needs the whole object, however large; read by what `read` returns
    spare: True if no reader needs the object, so that it is kept only if it evicts nothing; read by the same
    counted: True if a reader needs the object whose reads are counted; read by the same
    outcome: the result of the first read that succeeds, or the error of the last that fails
    running: the tasks of the reads in flight
    reads: how many reads have begun
    read_at: when the newest read began, monotonic seconds
    """

    __slots__ = (
        *("attached", "key", "outcome", "owned_since", "read", "read_at", "reads", "running"),
        *("counted", "spare", "whole"),
    )

    def __init__(
        self, key: bytes, owned_since: int, read: Callable[[SharedCall[T]], Coroutine[Any, Any, T]]
    ) -> None:
        self.key = key
        self.owned_since = owned_since
        self.read = read
        self.attached = True
        self.whole = True
        self.spare = False
        self.counted = False
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.running: set[asyncio.Task[T]] = set()
        self.reads = 0
        self.read_at = -inf


class SingleFlight(Generic[T]):
    """The single-flight calls of one node. A read older than `late_after` seconds is late.

    by_key: the calls that may be joined, by cache key; others only read it
    """

    def __init__(self, late_after: float) -> None:
        self.late_after = late_after
        self.by_key: dict[bytes, SharedCall[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys of the calls that may be joined."""
        return iter(self.by_key)

    def __contains__(self, key: bytes) -> bool:
        return key in self.by_key

    def join(self, key: bytes, owned_since: int, now: float) -> SharedCall[T] | None:
        """Return the call for `key` that a request of this ownership may share; None if there is none.

        `now` is monotonic seconds. A call that is late begins another read.
        """
        call = self.by_key.get(key)
        if call is None:
            return None
        # A request with an older `owned_since` joins: the call began under a later ownership, so its result is
        # newer.
        if call.owned_since < owned_since:
            self.detach(key)
            return None
        if now - call.read_at >= self.late_after and call.reads < MAX_READS and not call.outcome.done():
            self._begin(call, now)
        return call

    def start(
        self, key: bytes, owned_since: int, read: Callable[[SharedCall[T]], Coroutine[Any, Any, T]], now: float
    ) -> SharedCall[T]:
        """Start `read` as the call for `key`, detaching any other; `now` is monotonic seconds."""
        self.detach(key)
        call = SharedCall(key, owned_since, read)
        self.by_key[key] = call
        self._begin(call, now)
        return call

    def _begin(self, call: SharedCall[T], now: float) -> None:
        task = asyncio.get_running_loop().create_task(call.read(call))
        call.reads += 1
        call.read_at = now
        call.running.add(task)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._read_done(call, task))

    def detach(self, key: bytes) -> None:
        """Have the result of the call for `key` not kept, and the call not joined any more."""
        call = self.by_key.pop(key, None)
        if call is not None:
            call.attached = False

    async def wait(self, call: SharedCall[T], timeout: float) -> bool:
        """Wait for the call's outcome; False if there is none within `timeout` seconds. Cancels nothing."""
        # Not `wait_for`: it would cancel the outcome that other readers wait for.
        return await done_within(call.outcome, timeout)

    async def cancel_all(self) -> None:
        """Cancel every read, at the end of the process."""
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
            return  # another read of the call may still succeed
        if self.by_key.get(call.key) is call:
            del self.by_key[call.key]
        # Two reads may finish in the same iteration of the event loop: the first one has set the outcome.
        if call.outcome.done():
            return
        if task.cancelled():
            call.outcome.cancel()
        elif error is not None:
            call.outcome.set_exception(error)
            # Marks it as retrieved: when all readers have timed out, asyncio would log it as never retrieved.
            call.outcome.exception()
        else:
            call.outcome.set_result(task.result())
            for other in call.running:
                other.cancel()
