"""Coordination. Write-back: uploads the dirty entries to S3.

    acknowledged ──▶ fresh (waits FLUSH_DELAY) ─┐               ┌─ uploaded ──▶ retired, a clean entry in memory
                                                ├▶ upload ──────┼─ newer write meanwhile ──▶ fresh
                     retry (waits its backoff) ─┘ one at a time ├─ transient failure ──▶ retry
                                                  for each key  └─ rejected, conflict ──▶ dead letter

Invariants:
1. Uploads of one key are serialized (`s3_locks`), and each takes the newest write at its start. Every other code
   that writes the key in S3 holds the same lock.
2. An entry and its journal record are removed only when S3 is known to hold the entry's version or a later one, or
   when an operator drops it (`DirtyWrites.retire`).
3. A key that waits or fails does not delay other keys: retries have slots of their own (`slots`), and failures
   count against their key alone (`failing`) until S3 accepts no write at all (`throttle`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from math import inf

from milena_cache.memory.entries import Entries
from milena_cache.objects.entry import entry_of
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.object_store import Fault, OriginFailure
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.objects.version import ABSENT, Version
from milena_cache.objects.write_request import may_have_etag
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.failing import STUCK_RETRY_SECONDS, STUCK_TRIES, Failing
from milena_cache.writeback.flush import FlushWaiters
from milena_cache.writeback.read_ahead import ReadAhead
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_cache.writeback.releases import Releases
from milena_cache.writeback.upload_load import UploadLoad
from milena_cache.writeback.uploads.alarm import Alarm
from milena_cache.writeback.uploads.queue import QueuedUpload, UploadQueue
from milena_cache.writeback.uploads.slots import UploadSlots
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Conflict, Policy, Uploader, UploadOutcome, UploadResult, Write
from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock
from milena_common.runtime.key_locks import KeyLocks
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=5.0)
# An upload that begins more than this many seconds after it was due is late: other nodes may have owned the key's
# slot in the meantime.
LATE_SECONDS = 1.0
# The loop looks so often if a pause is over.
PAUSE_SECONDS = 0.1
# The loop sleeps at least this long, so that uploads that become due one after the other begin together.
GRAIN_SECONDS = 0.002

RESULTS = (*(outcome.value for outcome in UploadOutcome), "retried", "refused", "expired")


class WriteBack:
    """Uploads the entries of `dirty`, up to `throttle.limit` at once, each `delay` seconds after its write.

    Values that are read back from the journal count as bytes in flight, in `budget`, while they are uploaded.
    """

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        releases: Releases,
        uploader: Uploader,
        entries: Entries,
        s3_locks: KeyLocks,
        recent: RecentUploads,
        reads: ReadCounts,
        clock: Clock,
        rng: Callable[[], float],
        budget: ByteBudget,
        *,
        queue: UploadQueue,
        wake: asyncio.Event,
        flush_waiters: FlushWaiters,
        failing: Failing,
        throttle: UploadThrottle,
        delay: float,
        policy: Policy,
    ) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.last_success = 0.0
        # Called with the cache key and the `owned_since` of a write when S3 has it; see `membership/late_writes`.
        self.wrote: Callable[[bytes, int], Awaitable[None] | None] = lambda key, owned_since: None
        # Called with the cache key and version of a delete that S3 has, before its record is released; see
        # `handover/tombstones`.
        self.deleted: Callable[[bytes, Version], None] = lambda key, version: None
        # Called before S3 gets a delete that no journal has, as `Tombstones.deleting`.
        self.deleting: Callable[[bytes, Version], bool] = lambda key, version: False
        # True while nothing may be uploaded: another node may own the slots, and have later writes.
        self.paused: Callable[[], bool] = lambda: False
        # Returns True for a key that must not be uploaded now, because its slot moves; the same for all keys of a
        # slot. See `milena_cache.handover`.
        self.holds_back: Callable[[bytes], bool] | None = None
        # By slot; there may be a hundred thousand.
        self._held_back: dict[int, set[bytes]] = {}
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._releases = releases
        self._uploader = uploader
        self._entries = entries
        self._s3_locks = s3_locks
        self._recent = recent
        self._clock = clock
        self._rng = rng
        self._budget = budget
        self._delay = delay
        self._policy: Policy = policy
        self._queued = queue
        self._wake = wake
        self._alarm = Alarm(wake, clock)
        # True if an upload that was due found no room beside those in flight, or was held back by the throttle.
        self._held_up = False
        self._flush_waiters = flush_waiters
        self._failing = failing
        self._throttle = throttle
        self._uploads: set[asyncio.Task[None]] = set()
        self._values = ReadAhead(dirty, dirty_writes, queue)
        self._slots = UploadSlots(dirty.memory_limit)
        self._load = UploadLoad(throttle, dirty, reads, clock, delay)
        self._log = LogLimiter()

    @property
    def uploads(self) -> int:
        """Return the number of uploads in flight."""
        return len(self._uploads)

    # ---- the queue

    def acknowledged(self, entry: DirtyEntry) -> None:
        """Queue `entry`, which is in the dirty table as its key's newest write, unless its key is queued already.

        While an older write of the key is being uploaded nothing is queued: `_uploaded` or `_upload_failed` queue
        the newest write when that upload ends. Queued twice, the key would hold two slots, one of them to wait.
        """
        upload = entry.upload
        if not upload.queued and not upload.uploading and not entry.dead:
            self._queue(entry, upload.since + self._delay)

    def _queue(self, entry: DirtyEntry, due: float) -> None:
        entry.upload.queued = True
        self._queued.add(entry.key, due)

    def requeue_held_back(self, slots: Collection[int] | None = None) -> None:
        """Queue the entries that were held back and are not any more, of `slots` or of all."""
        for slot in list(self._held_back) if slots is None else self._held_back.keys() & slots:
            keys = self._held_back[slot]
            if self.holds_back is not None and self.holds_back(next(iter(keys))):
                continue
            del self._held_back[slot]
            for key in keys:
                entry = self._dirty.get(key)
                if entry is not None and not entry.upload.queued and not entry.upload.uploading and not entry.dead:
                    self._queue(entry, self._clock.now())

    def _retry(self, entry: DirtyEntry, reason: str) -> None:
        now = self._clock.now()
        failure = self._failing.failed(entry.key, reason, now, self._clock.wall())
        entry.upload.failures = failure.tries
        entry.upload.queued = True
        stuck = self._failing.is_stuck(failure, now)
        backoff = STUCK_RETRY_SECONDS if stuck else BACKOFF.delay(failure.tries, self._rng)
        self._queued.add_retry(entry.key, now + backoff)
        self._wake.set()
        if failure.tries == STUCK_TRIES and self._log.allow(now):
            text = "%s: not in S3 after %d attempts: %s%s"
            log.warning(text, self._dirty_writes.ref(entry), STUCK_TRIES, reason, self._log.suppressed())

    def _next(self, now: float) -> tuple[QueuedUpload | None, int, float]:
        """Return the next upload and the bytes of its value, or None, 0 and the seconds until there may be one."""
        fresh, retry, wait = self._queued.due(
            now, hurry=self._flush_waiters.waiting, newest=self._throttle.newest_first
        )
        self._held_up = False
        for due in (retry, fresh):
            if due is None:
                continue
            entry = self._dirty.get(due.key)
            size = entry.size if entry is not None else 0
            self._held_up = True
            if self._slots.has_memory(size, retry=due.retry):
                until = self._throttle.wait(now, self._slots, retry=due.retry, fresh_wait=fresh is not None)
                if until <= 0:
                    self._queued.take(due)
                    return due, size, 0.0
                wait = min(wait, until)
        return None, 0, wait

    # ---- the loop

    async def run(self) -> None:
        """Upload until cancelled."""
        try:
            while True:
                try:
                    await self._run()
                except Exception:  # a defect in Milena: without a restart acknowledged writes would never reach S3
                    log.exception("the write-back loop failed, and is restarted")
                    await self._clock.sleep(BACKOFF.max_delay)
        finally:
            self._alarm.cancel()

    async def _run(self) -> None:
        while True:
            now = self._clock.now()
            if self.paused():
                await self._alarm.wait(now + PAUSE_SECONDS)
                continue
            self._load.sample(now)
            due, size, wait = self._next(now)
            if due is None:
                await self._alarm.wait(now + max(wait, GRAIN_SECONDS))
                continue
            self._take(now, due, size)
            task = asyncio.get_running_loop().create_task(self._upload_in_turn(due, size))
            self._uploads.add(task)
            task.add_done_callback(self._task_done)

    def _take(self, now: float, due: QueuedUpload, size: int) -> None:
        """Count an upload that begins, at once: the next look must not take its slot for free."""
        self._throttle.began(now, retry=due.retry)
        self._slots.take(size, retry=due.retry)

    async def _upload_in_turn(self, due: QueuedUpload, size: int) -> None:
        """Upload `due`, and then, as long as one is due, the next one that may begin when its slot is free.

        A task for each, begun by the loop that a done one has to wake, would be a tenth of an upload's time. `size`
        is that of its value, for which a slot has been taken.
        """
        while True:
            try:
                sent = await self._upload(due.key)
            finally:
                self._slots.release(size, retry=due.retry)
            # What sends nothing has not waited: a chain of such keys would not leave the event loop to others.
            if not sent or self.paused():
                return
            now = self._clock.now()
            self._load.sample(now)
            following, size, wait = self._next(now)
            if following is None:
                # The loop may wait for a slot, without a timer: (1) every slot is taken, and it finds a key that is
                # due; (2) this task takes that key; (3) here the next key is not due yet. No task would look again.
                self._alarm.ring_by(now + max(wait, GRAIN_SECONDS))
                return
            due = following
            self._take(now, due, size)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._uploads.discard(task)
        if self._held_up:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("write-back failed", exc_info=error)

    async def stop(self) -> None:
        """Cancel the uploads in flight; for the end of the process."""
        for task in list(self._uploads):
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)
        self._alarm.cancel()

    # ---- one upload

    async def _upload(self, key: bytes) -> bool:
        """Upload the newest write of `key`; return False if that has sent nothing to S3."""
        async with self._s3_locks.hold(key, None):
            if self._begins_to_record(key):
                await self._releases.has_released(key)
                await self._releases.copies_released(key)
            entry = self._dirty.get(key)
            if entry is None:
                return False
            entry.upload.queued = False
            if entry.dead:
                return False
            if self.paused():  # since it was taken from the queue, while it waited for the key's lock
                self._queue(entry, entry.upload.since)
                return False
            if self.holds_back is not None and self.holds_back(key):
                self._held_back.setdefault(slot_of(key), set()).add(key)
                return False
            if self._dirty_writes.is_gone(entry) and entry.deleted and not self._may_be_in_s3(entry):
                await self._releases.has_released(key)
                if self._dirty.get(key) is entry:  # else a newer write came during the await, and is queued
                    self.results["expired"] += 1
                    self.deleted(key, entry.version)
                    self._dirty_writes.retire(entry)
                    self._entries.invalidate(key)
                    self._recent.add(key, exists=False)
                return False
            try:
                value = None if entry.deleted else self._values.value(entry)
            except FailedPrecondition:
                return False  # the record is damaged; `value` has made the entry a dead letter
            except Exception as error:
                self._retry(entry, repr(error))
                raise
            ref = self._dirty_writes.ref(entry)
            belief = entry.belief
            if not belief.indeterminate and self._must_look(entry, value):
                belief = belief.in_doubt()
            write = Write(
                ref,
                entry.version,
                value,
                belief,
                "fail" if belief.conditional else self._policy,
                expires_at=entry.expires_at,
                expired=entry.expired,
            )
            # Beyond the limit if need be: the value is in memory already.
            read_back = entry.size if entry.value is None and value is not None else 0
            self._budget.add(read_back)
            self._dirty.upload_began(entry)
            try:
                result = await self._uploader.upload(write, inf, partial(self._may_send, key))
            except (OriginFailure, Conflict) as failure:
                self._upload_failed(write, self._newest(key), failure)
            except BaseException as error:
                self._dirty.upload_finished(self._newest(key), succeeded=False, now=self._clock.now())
                self._retry(self._newest(key), self._broken_off(key, error))
                raise
            else:
                if result.outcome is UploadOutcome.SUPERSEDED and self._newest(key).version == write.version:
                    # Readers see what S3 has only when no node would serve this write instead, if it got the slot.
                    self._releases.retired(key, write.version)
                    await self._releases.copies_released(key)
                if write.value is None:
                    # S3 stores no version for a delete. If a record of an earlier put were still in the file when
                    # this entry and its record are gone, a crash would replay that put, find nothing later in S3,
                    # and upload it: the deleted object would be back.
                    await self._releases.has_released(key)
                self._uploaded(write, self._newest(key), result)
            finally:
                self._budget.release(read_back)
        if key in self._dirty:  # else `retire` has done it
            self._flush_waiters.progress(key)
        return True

    def _begins_to_record(self, key: bytes) -> bool:
        """Return True if the newest write of `key` is a delete that must be durable before S3 gets it."""
        entry = self._dirty.get(key)
        if entry is None or entry.journaled or entry.dead or not self._dirty_writes.is_gone(entry):
            return False
        return self._may_send(key) and self.deleting(key, entry.version)

    def _may_send(self, key: bytes) -> bool:
        """Return True if this node is the one to change the key in S3, still: an upload looks there first.

        (1) An upload looks; (2) the process is paused for longer than its lease; (3) the key's new owner deletes
        it; (4) this process goes on, with its put of an earlier value.
        """
        return not self.paused() and not (self.holds_back is not None and self.holds_back(key))

    def _broken_off(self, key: bytes, error: BaseException) -> str:
        """Return the reason of an upload that ended with `error`, which is not an error of S3."""
        if not isinstance(error, asyncio.CancelledError):
            return repr(error)
        # The node stops. S3's error for an earlier attempt is of more use to an operator than the cancellation.
        before = self._failing.get(key)
        return before.reason if before is not None else "broken off when the node stopped"

    def _may_be_in_s3(self, entry: DirtyEntry) -> bool:
        """Return False for an expired write that was never sent, over an object that S3 does not have."""
        belief = entry.belief
        return not entry.expired or belief.base is not ABSENT or belief.indeterminate or belief.maybe_absent

    def _must_look(self, entry: DirtyEntry, value: bytes | None) -> bool:
        """Return True if another node may have written the same bytes as the base since, with another expiry.

        The same bytes have the same ETag, so `If-Match` cannot tell the two apart: (1) this write, which has the
        bytes of its base, waits longer than it should; (2) the slot moves, and its new owner writes the same bytes
        with a later expiry; (3) this upload's condition holds, and it replaces the later expiry with its own. A
        HEAD first shows the version of the other write.
        """
        base = entry.belief.base
        late = self._clock.now() - entry.upload.since >= self._delay + LATE_SECONDS
        if value is None or not isinstance(base, str) or not late:
            return False
        return may_have_etag(value, entry.etag, base)

    def _newest(self, key: bytes) -> DirtyEntry:
        entry = self._dirty.get(key)
        assert entry is not None, "an entry is removed only under its key's lock"
        return entry

    def _uploaded(self, write: Write, entry: DirtyEntry, result: UploadResult) -> None:
        """Process the result of `write`; `entry` is now the newest write of its key.

        If `entry` is later than `write` it stays dirty and is queued again, with S3's new state as its base.
        """
        now = self._clock.now()
        outcome = result.outcome
        self.results[outcome.value] += 1
        self.last_success = self._clock.wall()
        self._failing.succeeded(entry.key, now)
        if self._throttle.succeeded(entry.key):
            log.info("S3 accepts writes again: %d dirty writes wait for their upload", self._dirty.waiting)
        self._dirty.upload_finished(entry, succeeded=True, now=now)
        self.wrote(entry.key, entry.belief.owned_since)
        entry.upload.failures = 0
        if outcome is UploadOutcome.SUPERSEDED:
            entry.belief = entry.belief.in_doubt()  # the newest write may be superseded too: the next upload looks
        elif outcome is UploadOutcome.KEPT_BESIDE:
            entry.belief = entry.belief.kept_beside()
        else:
            entry.belief = entry.belief.uploaded(result.base, expires=bool(write.expires_at))
        if entry.version != write.version:
            self._queue(entry, now + self._delay)
            return
        if write.value is None and outcome is not UploadOutcome.SUPERSEDED:
            self.deleted(entry.key, entry.version)
        self._dirty_writes.retire(entry)
        if outcome in (UploadOutcome.SUPERSEDED, UploadOutcome.KEPT_BESIDE):
            if outcome is UploadOutcome.SUPERSEDED:
                log.info("%s: %s was not uploaded: a later write is in S3", write.ref, write.version)
            self._entries.invalidate(entry.key)
            self._recent.discard(entry.key)
        else:
            self._recent.add(entry.key, exists=write.value is not None)
            etag = result.base if isinstance(result.base, str) else ""
            expires_at = NEVER if write.value is None else write.expires_at
            self._entries.keep(entry.key, entry_of(write.value, etag, now, entry.belief.owned_since, expires_at))

    def _upload_failed(self, write: Write, entry: DirtyEntry, failure: OriginFailure | Conflict) -> None:
        now = self._clock.now()
        self._dirty.upload_finished(entry, succeeded=False, now=now)
        entry.belief = entry.belief.upload_failed(write.belief, deleted=write.value is None)
        if isinstance(failure, OriginFailure) and self._may_pass(failure, entry.key, now):
            self.results["retried"] += 1
            self._retry(entry, str(failure))
        elif entry.version != write.version:
            self._queue(entry, now + self._delay)  # S3 rejected the older write; it may accept the newer one
        else:
            self.results["refused"] += 1
            self._dirty_writes.mark_dead(entry, str(failure))

    def _may_pass(self, failure: OriginFailure, key: bytes, now: float) -> bool:
        """Return True if another attempt may succeed; reports the failure to the throttle."""
        fault = failure.fault
        if fault is Fault.BUSY:
            return True
        if fault is Fault.THROTTLED:
            self._throttle.throttled(now)
            return True
        if fault.of_object:
            return False
        if self._throttle.failed(now, key):
            log.warning("S3 does not accept writes: %s; %d dirty writes wait", failure, self._dirty.waiting)
        return True
