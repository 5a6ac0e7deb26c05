"""Coordination. Writes that reach S3 when their slot has another owner already: that one is made to forget the key.

The new owner may have read the object from S3 just before this node's write arrived there, and would serve what
it read for as long as its copies are fresh. So whoever brings a write to S3 says so here. If the slot has
moved, the new owner is told at once, and a write through is acknowledged after that. A node learns of a new
ring a moment after it holds: so the latest writes are remembered, and told when a ring comes in which they have
moved.

What is dirty here is not known to the new owner until it is in S3; see docs/consistency.md.
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

# Longer than a ring takes to be known everywhere.
REMEMBERED_SECONDS = 5.0
MAX_REMEMBERED = 50_000
NOTIFY_SECONDS = 2.0
ATTEMPTS = 3
# After the first attempt; twice as long after the second.
PAUSE_SECONDS = 0.25


class LateWriteInvalidation:
    """`forget` makes the node whose Redis door is at an address forget a cache key, within some seconds."""

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
        """S3 has a write of `key`, made under an ownership since that epoch.

        Returns what to wait for before anybody may count on reading it, if the slot has moved since.
        """
        if not owned_since:
            return None  # its sender does not know the ring, and this node did not look
        now = self._clock.now()
        recent = self._recent
        while recent and recent[0][0] < now - REMEMBERED_SECONDS:
            recent.popleft()
        recent.append((now, key, owned_since))
        return self._notify(key) if self._has_moved(key, owned_since) else None

    def ring_changed(self) -> None:
        """There is a new ring."""
        for key in {key for _, key, owned_since in self._recent if self._has_moved(key, owned_since)}:
            self._notify(key)

    def _has_moved(self, key: bytes, owned_since: int) -> bool:
        epoch, mine = self._ownership.epoch, self._ownership.mine_since(key)
        # A write from before a restart is of no ownership. A request may come by a newer ring than is known here.
        return bool(epoch) and (mine < 0 or mine != owned_since) and owned_since <= epoch

    def _notify(self, key: bytes) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._notify_owner(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _notify_owner(self, key: bytes) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            slot = slot_of(key)
            if self._ownership.since[slot] >= 0:
                return  # it is this node's again, and copies of an earlier ownership are not trusted
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
                        "node %s could not be told that a write of slot %d, which is its own now, has reached S3: "
                        "it may serve an older copy until that is no longer fresh: %s",
                        address,
                        slot,
                        error,
                    )
            else:
                self.notified += 1
                return

    async def stop(self) -> None:
        """Break off what is under way; for the end of the process."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
