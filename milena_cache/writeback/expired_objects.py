"""Coordination. The expired-object reaper: deletes expired objects from S3 in the background when a read finds one.

Requests do not wait for it: for readers an expired object does not exist, whether S3 still holds it or not. It is
deleted with its key's lock held, after a HEAD, and with `If-Match`: without the condition, a write by another
program between the HEAD and the DELETE would be deleted. If S3 fails, the object stays, and the next read that
finds it starts the reaper again.

The clock of this machine may be wrong. So an object is deleted only if it has expired by S3's own clock, as the
`Date` header of that HEAD gives it, and only while the two clocks agree.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from math import inf

from milena_cache.memory.entries import Entries
from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import expiry_of, is_expired
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, Info, OriginFailure, Ref
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock, is_skewed
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.releases import Releases
from milena_common.runtime.key_locks import KeyLocks
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# Deletions in flight. Expired objects beyond that are found again at their next read.
MAX_REMOVALS = 64
# A deletion waits so many seconds at most until it is recorded.
RECORD_SECONDS = 5.0
# After a failure of S3 no deletion begins for this many seconds.
PAUSE_SECONDS = 1.0


class ExpiredObjectReaper:
    """Deletes expired objects of one node; `s3_locks` are the key locks of uploads."""

    def __init__(
        self,
        origin: Origin,
        conditions: Conditions,
        dirty: Dirty,
        entries: Entries,
        s3_locks: KeyLocks,
        releases: Releases,
        clock: CorrectedClock,
    ) -> None:
        self.removed = 0
        # True while nothing may be deleted: another node may own the slot, and have written the object anew.
        self.paused: Callable[[], bool] = lambda: False
        # Called with the cache key, the place and the metadata of an object that was deleted from S3.
        self.deleted: Callable[[bytes, Ref, Mapping[str, str]], None] = lambda key, ref, metadata: None
        # Called before it is deleted, as `Tombstones.expiring`.
        self.deleting: Callable[[bytes, Ref, Mapping[str, str]], bool] = lambda key, ref, metadata: False
        self._conditions = conditions
        self._origin = origin
        self._dirty = dirty
        self._entries = entries
        self._s3_locks = s3_locks
        self._releases = releases
        self._clock = clock
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._not_before = -inf
        self._log = LogLimiter()

    def is_over(self, found: Info, ref: Ref) -> bool:
        """Return True if the object `found` at `ref` has expired by the corrected clock."""
        return is_expired(expiry_of(found.metadata, ref), self._clock.wall())

    def _is_over_at_s3(self, found: Info, ref: Ref) -> bool:
        """Return True if the object `found` at `ref` has expired by the clock of S3 itself."""
        date = found.server_date
        if date is None or is_skewed(self._clock.machine.wall() - date):
            if self._log.allow(self._clock.now()):
                why = "which sends no Date header" if date is None else "whose clock differs from this machine's"
                log.warning("%s has expired, and stays in S3, %s%s", ref, why, self._log.suppressed())
            return False
        return is_expired(expiry_of(found.metadata, ref), date)

    def noticed(self, target: Object, owned_since: int) -> None:
        """Start to delete an object that a read found expired; the slot is owned since epoch `owned_since`.

        Returns at once. Does nothing while the object is being deleted already, or MAX_REMOVALS others are.
        """
        key = target.cache_key
        if key in self._tasks:
            return
        self._entries.change_feed.notify(key)
        self._entries.change_feed.event("expired", key)
        if len(self._tasks) < MAX_REMOVALS and self._clock.now() >= self._not_before:
            task = asyncio.get_running_loop().create_task(self._remove(target, owned_since))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key))

    async def _remove(self, target: Object, owned_since: int) -> None:
        key, ref = target
        try:
            async with self._s3_locks.hold(key, None):
                if key in self._dirty:
                    return  # a write of the key is dirty: its upload replaces or deletes the expired object
                if self.paused():
                    return
                requested_at = self._clock.now()
                found = await self._origin.describe(ref, inf)
                if found is not None:
                    if not self.is_over(found, ref):
                        self._entries.invalidate(key)
                        return
                    over = not self.paused() and self._is_over_at_s3(found, ref)
                    if over and await self._is_recorded(key, ref, found) and not self.paused():
                        await self._delete(key, ref, found.etag)
                        self.deleted(key, ref, found.metadata)
                if key not in self._dirty:
                    self._entries.keep(key, Entry(None, "", requested_at, owned_since))
        except OriginFailure as failure:
            if failure.fault is Fault.CHANGED:
                self._entries.invalidate(key)  # another writer changed the object after the HEAD
                return
            self._not_before = self._clock.now() + PAUSE_SECONDS
            if self._log.allow(self._clock.now()):
                log.warning("%s has expired, and stays in S3: %s%s", ref, failure, self._log.suppressed())

    async def _is_recorded(self, key: bytes, ref: Ref, found: Info) -> bool:
        """Return True once S3 may get the delete; False if it cannot be recorded in time, and must wait."""
        if not self.deleting(key, ref, found.metadata):
            return True
        try:
            async with asyncio.timeout(RECORD_SECONDS):
                return await self._releases.has_released(key) and await self._releases.copies_released(key)
        except TimeoutError:
            return False

    async def _delete(self, key: bytes, ref: Ref, etag: str) -> None:
        self._entries.fence_reads(key)
        try:
            conditional = self._conditions.sends(Capability.DELETE)
            await self._origin.delete(ref, inf, if_match=etag if conditional else "")
        finally:
            self._entries.fence_reads(key)
        self.removed += 1

    async def finish(self) -> None:
        """Cancel the deletions in flight; for the end of the process."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
