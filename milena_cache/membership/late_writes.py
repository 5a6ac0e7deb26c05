"""Coordination. Invalidates keys at the new owner of a slot when this node's write reaches S3 after the slot has
moved.

    1. this node owns the slot and begins to upload a write of key k
    2. the slot moves; the new owner gets a GET of k, reads the old object from S3, and keeps it as fresh
    3. the upload of step 1 reaches S3: the new owner serves the old object until its entry is no longer fresh

So every write that reached S3 is reported to `wrote`. If the slot has moved, the new owner is sent an Invalidate at
once, and a write through is acknowledged after its reply. Comparing with the ring at that time is not enough: the
new owner may receive a new ring before this node does. So the writes of the last REMEMBERED_SECONDS are remembered,
and checked again when a new ring arrives.

A dirty entry of this node is not visible to the new owner until it is in S3; see docs/consistency.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from milena_cache.membership.ownership import Ownership
from milena_common.api.errors import MilenaError
from milena_common.cluster.slots import slot_of
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# How long writes are remembered: longer than a ring takes to reach all nodes.
REMEMBERED_SECONDS = 5.0
# Beyond this many remembered writes the oldest are dropped.
MAX_REMEMBERED = 50_000
# Timeout of one Invalidate, and how often it is sent.
NOTIFY_SECONDS = 2.0
ATTEMPTS = 3
# Pause after the first attempt; twice as long after the second.
PAUSE_SECONDS = 0.25


class LateWriteInvalidation:
    """The invalidations that one node sends to the new owners of slots that it has lost.

    `invalidate`: has the node whose RESP server is at an address drop what it has of a cache key, within a timeout
    in seconds; raises MilenaError
    """

    def __init__(
        self, ownership: Ownership, invalidate: Callable[[str, bytes, float], Awaitable[object]], clock: Clock
    ) -> None:
        self._ownership = ownership
        self._invalidate = invalidate
        self._clock = clock
        self._recent: deque[tuple[float, bytes, int]] = deque(maxlen=MAX_REMEMBERED)
        self._tasks: set[asyncio.Task[None]] = set()
        self.notified = 0

    def wrote(self, key: bytes, owned_since: int) -> asyncio.Task[None] | None:
        """Report that S3 has a write of `key`, made under the ownership since epoch `owned_since`.

        Return the task that invalidates the key at the new owner, None if the slot has not moved. The write is
        acknowledged after it is done: until then a read through the new owner may return the old object.
        """
        if not owned_since:
            return None  # the request had no ring epoch, so that its ring is not known
        now = self._clock.now()
        recent = self._recent
        while recent and recent[0][0] < now - REMEMBERED_SECONDS:
            recent.popleft()
        recent.append((now, key, owned_since))
        return self._notify(key) if self._has_moved(key, owned_since) else None

    def ring_changed(self) -> None:
        """Invalidate the remembered writes that have moved in the new ring."""
        for key in {key for _, key, owned_since in self._recent if self._has_moved(key, owned_since)}:
            self._notify(key)

    def _has_moved(self, key: bytes, owned_since: int) -> bool:
        # With a closed fence the slot has not moved, as far as this node knows.
        epoch, mine = self._ownership.epoch, self._ownership.unfenced_since(key)
        # A write from before a restart has `owned_since` -1, which would equal that of a slot of another node:
        # hence `mine < 0`. A write with a newer epoch than the known ring's came by a ring that has not arrived
        # here yet.
        return bool(epoch) and (mine < 0 or mine != owned_since) and owned_since <= epoch

    def _notify(self, key: bytes) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._notify_owner(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _notify_owner(self, key: bytes) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            # Looked up for each attempt: the slot may move again while this waits.
            slot = slot_of(key)
            if self._ownership.unfenced_since(key) >= 0:
                return  # it is this node's again, and entries of an earlier ownership are revalidated anyway
            address = self._ownership.resp_address_of(slot)
            if not address:
                return
            try:
                await self._invalidate(address, key, NOTIFY_SECONDS)
            except MilenaError as error:
                if attempt < ATTEMPTS:
                    await self._clock.sleep(PAUSE_SECONDS * attempt)
                else:
                    log.warning(
                        "node %s could not be notified that a write of slot %d, which it owns now, has reached S3: "
                        "it may serve an older entry until that is no longer fresh: %s",
                        address,
                        slot,
                        error,
                    )
            else:
                self.notified += 1
                return

    async def cancel(self) -> None:
        """Cancel the invalidations in flight, at the end of the process."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
