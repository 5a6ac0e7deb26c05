"""Coordination. One budget of bytes in flight for a process, taken before the bytes are read.

In flight are: requests being received, values being fetched from S3, responses not sent yet. Every server and
every fetch of a process takes its bytes from the same `ByteBudget`, so that the peak memory of the process is its
base, its caches and this budget, however many connections there are.

**Invariants.** `used` is the sum of all grants that were not released. It exceeds `limit` only while a single
grant larger than `limit` is alone, or by what `add` took without waiting. Grants are given in the order of
requests, so that small requests do not overtake a large one for ever. At most MAX_QUEUED requests wait; further
ones are rejected at once, and a waiting one is rejected when its timeout ends.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from milena_common.api.errors import Overloaded

# Each queued request costs a future and its place in the queue, about 1 KB.
MAX_QUEUED = 4096


class ByteBudget:
    """Bytes that may be in flight at the same time.

    `limit` and `used` are in bytes; `rejected` counts the requests that found no room in time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.rejected = 0
        # Bytes by the future of the request, in the order of requests. An abandoned request is removed at once,
        # at any position. If it stayed until it reached the front, abandoned requests behind a large waiting one
        # would fill the queue, and new requests would be rejected although hardly any are waiting.
        self._queued: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    @property
    def queued(self) -> int:
        """Return the number of requests that wait for their bytes."""
        return len(self._queued)

    @property
    def queued_bytes(self) -> int:
        """Return the sum of the bytes that those requests wait for."""
        return sum(self._queued.values())

    def try_take(self, size: int) -> bool:
        """Take `size` bytes if they are free and no request is queued; True if they were taken."""
        if self._queued or (self.used and self.used + size > self.limit):
            return False
        self.used += size
        return True

    def add(self, size: int) -> None:
        """Take `size` bytes that are in memory already, even beyond the limit: later requests wait."""
        self.used += size

    def request(self, size: int) -> asyncio.Future[None]:
        """Return a future that is done when `size` bytes have been taken for the caller.

        A caller that gives up passes the future to `abandon`. Raises Overloaded if the queue is full.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.try_take(size):
            future.set_result(None)
        elif len(self._queued) >= MAX_QUEUED:
            raise self._overloaded(size)
        else:
            self._queued[future] = size
        return future

    def abandon(self, size: int, future: asyncio.Future[None]) -> None:
        """Cancel a `request` of `size` bytes, whether or not it was granted meanwhile."""
        # A grant and a cancellation may come in the same iteration of the event loop: then the caller owns the
        # bytes although it never saw them, and only this releases them.
        if future.done() and not future.cancelled():
            self.release(size)
            return
        self._queued.pop(future, None)
        future.cancel()
        self._grant()

    def reject(self, size: int, future: asyncio.Future[None]) -> None:
        """Cancel a `request` whose timeout has passed, and count it as rejected unless it was granted meanwhile."""
        self.rejected += not future.done()
        self.abandon(size, future)

    async def take(self, size: int, timeout: float | None) -> None:
        """Wait up to `timeout` seconds (None: no limit) until `size` bytes are taken. Raises Overloaded."""
        future = self.request(size)
        if future.done():
            return
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(future)
        except TimeoutError:
            self.abandon(size, future)
            raise self._overloaded(size) from None
        except BaseException:
            self.abandon(size, future)
            raise

    def release(self, size: int) -> None:
        """Release `size` bytes that were taken, and grant queued requests that fit now."""
        self.used -= size
        self._grant()

    def _grant(self) -> None:
        queued = self._queued
        while queued:
            future, size = next(iter(queued.items()))
            if not future.done():
                if self.used and self.used + size > self.limit:
                    return
                self.used += size
                future.set_result(None)
            del queued[future]

    def _overloaded(self, size: int) -> Overloaded:
        self.rejected += 1
        return Overloaded(
            f"no room for {size} bytes more: {self.used} bytes are in flight and {len(self._queued)} requests "
            f"wait; the limit is {self.limit} (MAX_IN_FLIGHT_BYTES); try again later"
        )
