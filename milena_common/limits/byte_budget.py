"""Coordination. One budget of bytes in flight for a process, taken before the bytes are read.

In flight are: requests that arrive, values that are being fetched from S3, answers that are not sent yet. Every
server and every fetch of a process takes its bytes from the same `ByteBudget`, so that the peak memory of the
process is its base, its caches and this budget, however many connections there are.

**Invariants.** `used` is the sum of all grants that were not released. It exceeds `limit` only while a single
grant larger than `limit` is alone, or by what was added without asking. Grants are given in the order of asking,
so that small requests do not overtake a large one for ever. At most MAX_WAITING requests wait; more are rejected
at once, and one that waits is rejected when its own time is up.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from milena_common.api.errors import Overloaded

# Each one that waits costs a future and its place in the queue, about 1 KB.
MAX_QUEUED = 4096


class ByteBudget:
    """Bytes that may be in flight at the same time.

    `limit` and `used` are in bytes; `rejected` counts the requests for which there was no room in time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.rejected = 0
        # Bytes by the future of the request, in the order of asking. One that gives up is taken out at once,
        # wherever it stands: kept until it comes to the front, those that gave up behind a large request that waits
        # would fill the queue, and what asks then would be rejected although next to nothing waits.
        self._queued: OrderedDict[asyncio.Future[None], int] = OrderedDict()

    @property
    def queued(self) -> int:
        """How many requests wait for their bytes."""
        return len(self._queued)

    @property
    def queued_bytes(self) -> int:
        """Return the sum of the bytes that those requests wait for."""
        return sum(self._queued.values())

    def try_take(self, size: int) -> bool:
        """Take `size` bytes if they are free and nobody waits for bytes already; True if they were taken."""
        if self._queued or (self.used and self.used + size > self.limit):
            return False
        self.used += size
        return True

    def add(self, size: int) -> None:
        """Take `size` bytes that are in memory already, whether or not they are free: what asks later waits."""
        self.used += size

    def request(self, size: int) -> asyncio.Future[None]:
        """Return a future that is done when `size` bytes have been taken for the caller.

        A caller that gives up passes the future to `abandon`. Raises Overloaded if too many wait already.
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
        """Give up a `request` of `size` bytes, whether or not it was granted meanwhile."""
        # A grant and a cancellation may come in the same turn of the event loop: then the bytes are the caller's
        # although it never saw them, and only this gives them back.
        if future.done() and not future.cancelled():
            self.release(size)
            return
        self._queued.pop(future, None)
        future.cancel()
        self._grant()

    def reject(self, size: int, future: asyncio.Future[None]) -> None:
        """Give up a `request` whose time is up, and count it as rejected unless it was granted meanwhile."""
        self.rejected += not future.done()
        self.abandon(size, future)

    async def take(self, size: int, timeout: float | None) -> None:
        """Wait up to `timeout` seconds (None: without end) until `size` bytes are taken. Raises Overloaded."""
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
        """Give back `size` bytes that were taken, and grant what waits for them."""
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
