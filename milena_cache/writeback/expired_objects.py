"""Coordination. Takes objects that have come to their own end out of S3, in the background, when one is noticed.

Nobody waits for it: for readers the object does not exist any more, whether S3 still holds it or not. It is removed
in its key's turn, after a look, and on the condition that it is still the same: what somebody has written meanwhile
stays. Where S3 cannot do that, the object stays too, and is found again by who notices it next.

The clock of this machine may be wrong. So an object is removed only if it has come to its end by S3's own clock, as
the answer to that look tells it, and only while the two clocks agree.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf

from milena_cache.memory.entries import Entries
from milena_cache.memory.lru import Entry
from milena_cache.objects.expiry import expiry_of, is_expired
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, Info, OriginFailure, Ref
from milena_cache.origin.conditions import Capability, Conditions
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock, is_skewed
from milena_cache.writeback.dirty_table import Dirty
from milena_common.runtime.key_locks import KeyLocks
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# So many objects are on their way out at once; what is noticed beyond that is noticed again at its next read.
MAX_REMOVALS = 64
# After S3 has failed, nothing is removed for so many seconds.
PAUSE_SECONDS = 1.0


class ExpiredObjectReaper:
    """Removes objects of one node; `s3_locks` are those of uploads."""

    def __init__(
        self,
        origin: Origin,
        conditions: Conditions,
        dirty: Dirty,
        entries: Entries,
        s3_locks: KeyLocks,
        clock: CorrectedClock,
    ) -> None:
        self.removed = 0
        self._conditions = conditions
        self._origin = origin
        self._dirty = dirty
        self._entries = entries
        self._s3_locks = s3_locks
        self._clock = clock
        self._tasks: dict[bytes, asyncio.Task[None]] = {}
        self._not_before = -inf
        self._log = LogLimiter()

    def is_over(self, found: Info, ref: Ref) -> bool:
        """Whether what S3 holds at `ref` has come to its end."""
        return is_expired(expiry_of(found.metadata, ref), self._clock.wall())

    def _is_over_at_s3(self, found: Info, ref: Ref) -> bool:
        """Return whether S3 has told that what it holds at `ref` has come to its end."""
        date = found.server_date
        if date is None or is_skewed(self._clock.machine.wall() - date):
            if self._log.allow(self._clock.now()):
                why = "which does not tell its time" if date is None else "whose clock differs from this machine's"
                log.warning("%s stays in S3, %s%s", ref, why, self._log.suppressed())
            return False
        return is_expired(expiry_of(found.metadata, ref), date)

    def noticed(self, target: Object, owned_since: int) -> None:
        """What a copy or S3 has of the object has come to its end; the slot is owned since `owned_since`."""
        key = target.cache_key
        if key in self._tasks:
            return
        self._entries.change_feed.notify(key)
        if len(self._tasks) < MAX_REMOVALS and self._clock.now() >= self._not_before:
            task = asyncio.get_running_loop().create_task(self._remove(target, owned_since))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key))

    async def _remove(self, target: Object, owned_since: int) -> None:
        key, ref = target
        try:
            async with self._s3_locks.hold(key, None):
                if key in self._dirty:
                    return  # the upload does what has to be done
                requested_at = self._clock.now()
                found = await self._origin.describe(ref, inf)
                if found is not None:
                    if not self.is_over(found, ref):
                        self._entries.invalidate(key)
                        return
                    if self._is_over_at_s3(found, ref):
                        await self._delete(key, ref, found.etag)
                if key not in self._dirty:
                    self._entries.keep(key, Entry(None, "", requested_at, owned_since))
        except OriginFailure as failure:
            if failure.fault is Fault.CHANGED:
                self._entries.invalidate(key)  # somebody else was faster
                return
            self._not_before = self._clock.now() + PAUSE_SECONDS
            if self._log.allow(self._clock.now()):
                log.warning("%s has come to its end, and stays in S3: %s%s", ref, failure, self._log.suppressed())

    async def _delete(self, key: bytes, ref: Ref, etag: str) -> None:
        self._entries.fence_reads(key)
        try:
            conditional = self._conditions.sends(Capability.DELETE)
            await self._origin.delete(ref, inf, if_match=etag if conditional else "")
        finally:
            self._entries.fence_reads(key)
        self.removed += 1

    async def finish(self) -> None:
        """Break off what is under way; for the end of the process."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
