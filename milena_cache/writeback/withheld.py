"""Coordination. Withheld dead letters that S3 has after all are dropped.

A write is withheld if its key may have been deleted since it was acknowledged, which no node knows any more. Most
such writes are those that a node has kept because it was away while others uploaded them: S3 has them, or a later
one. So the object of each is looked at, once S3 responds; what S3 does not have stays, for an operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf

from milena_cache.objects.lineage import Lineages
from milena_cache.objects.object_store import NO_METADATA, OriginFailure
from milena_cache.objects.version import lineage_of, stamped
from milena_cache.origin.requests import Origin
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# Objects that are looked at at the same time.
CONCURRENCY = 8
BACKOFF = Backoff(first=0.5, max_delay=30.0)
# So many failures in a row end it: what is left stays withheld.
ATTEMPTS = 20


class WithheldWrites:
    """Looks at the objects of withheld writes, as many as there are. `dropped`: number of those that S3 has."""

    def __init__(
        self,
        origin: Origin,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        lineages: Lineages,
        clock: Clock,
        rng: Callable[[], float],
    ) -> None:
        self.dropped = 0
        self._origin = origin
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._lineages = lineages
        self._clock = clock
        self._rng = rng
        self._waiting: deque[DirtyEntry] = deque()
        self._task: asyncio.Task[None] | None = None
        dirty_writes.on_withheld = self._add

    def _add(self, entry: DirtyEntry) -> None:
        self._waiting.append(entry)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def cancel_looks(self) -> None:
        """Cancel everything, at the end of the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        try:
            while self._waiting and failures < ATTEMPTS:
                some = [self._waiting.popleft() for _ in range(min(CONCURRENCY, len(self._waiting)))]
                looked = await asyncio.gather(*map(self._look, some))
                failed = [entry for entry, done in zip(some, looked, strict=True) if not done]
                self._waiting.extendleft(failed)
                failures = failures + 1 if failed else 0
                if failed:
                    await self._clock.sleep(BACKOFF.delay(failures, self._rng))
            self._waiting.clear()
        finally:
            self._task = None

    async def _look(self, entry: DirtyEntry) -> bool:
        """Drop the entry if S3 has its version or a later one; False if S3 has not responded."""
        if self._dirty.withheld.get(entry.key) is not entry:
            return True
        ref = self._dirty_writes.ref(entry)
        try:
            found = await self._origin.look(ref, inf)
        except OriginFailure as failure:
            return failure.fault.of_object
        metadata = found.metadata if found else NO_METADATA
        version, lineage = stamped(metadata, ref), lineage_of(metadata)
        if version is None or version < entry.version or not self._lineages.comparable(lineage, late=True):
            return True
        if self._dirty.withheld.get(entry.key) is entry:
            log.info("%s: %s is not withheld any more: S3 has it, or a later write", ref, entry.version)
            self._dirty_writes.retire(entry)
            self.dropped += 1
        return True
