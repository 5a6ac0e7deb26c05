"""Coordination. Write-back: brings the dirty entries to S3.

    acknowledged ──▶ fresh (waits FLUSH_DELAY) ─┐              ┌─ landed ──▶ gone, the copy in memory is clean
                                                ├▶ upload ─────┼─ newer one meanwhile ──▶ fresh
                     retry (waits its backoff) ─┘   in turn    ├─ may pass ──▶ retry
                                                               └─ refused, conflict ──▶ dead letter

Invariants:
1. Uploads of one key happen one at a time (`turns`), each of the newest write at its beginning. Whatever else
   writes the key in S3 holds the same turn.
2. An entry goes, and its record with it, only when S3 is known to hold its version or a later one, or when somebody
   drops it.
3. A key that waits, whatever for, keeps no other from going, and so does one that fails: retries have slots of
   their own (`upload_slots`), and their failures are theirs (`failing`) until S3 takes no write at all (`pace`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from functools import partial
from math import inf

from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged
from milena_cache.memory.entries import Entries
from milena_cache.memory.lru import entry_of
from milena_cache.objects.expiry import NEVER, is_expired
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.objects.version import ABSENT
from milena_cache.objects.write_request import may_have_etag
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.writeback.dead_letters import DeadLetters
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.failing import STUCK_RETRY_SECONDS, STUCK_TRIES, Failing
from milena_cache.writeback.flush import FlushWaiters
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_cache.writeback.stuck_writes import StuckWrites
from milena_cache.writeback.upload_load import UploadLoad
from milena_cache.writeback.uploads.queue import QueuedUpload, UploadQueue
from milena_cache.writeback.uploads.slots import UploadSlots
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Conflict, Policy, Uploader, UploadOutcome, UploadResult, Write
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import CallBytes
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.key_locks import KeyLocks
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=5.0)
# An upload that is so much later than it should be may come after other nodes have owned the key's slot.
LATE_SECONDS = 1.0

RESULTS = (*(outcome.value for outcome in UploadOutcome), "retried", "refused", "expired")


class WriteBack:
    """Uploads what is in `dirty`, `pace.most` entries at once; `delay` in seconds.

    Values that are read back from the journal count as bytes in flight, in `budget`, while they are uploaded.
    """

    def __init__(
        self,
        dirty: Dirty,
        journal: Journal[DirtyEntry],
        uploader: Uploader,
        entries: Entries,
        s3_locks: KeyLocks,
        buckets: Buckets,
        reads: ReadCounts,
        clock: CorrectedClock,
        rng: Callable[[], float],
        budget: ByteBudget,
        *,
        throttle: UploadThrottle,
        delay: float,
        policy: Policy,
        stuck_after: float = 600.0,
    ) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.last_success = 0.0
        # Called with a cache key and the ownership of its write when S3 has that; see `moved_writes`.
        self.wrote: Callable[[bytes, int], Awaitable[None] | None] = lambda key, owned_since: None
        self.throttle = throttle
        self._dirty = dirty
        self._journal = journal
        self._uploader = uploader
        self._entries = entries
        self.s3_locks = s3_locks
        self._buckets = buckets
        self._clock = clock
        self._rng = rng
        self._budget = budget
        self._delay = delay
        self._policy: Policy = policy
        self._queued = UploadQueue()
        self._wake = asyncio.Event()
        self._uploads: set[asyncio.Task[None]] = set()
        self.flush_waiters = FlushWaiters(dirty, self._wake.set)
        self._slots = UploadSlots(dirty.memory_limit)
        self.failing = Failing(stuck_after)
        self._log = LogLimiter()
        self.dead_letters = DeadLetters(
            dirty, journal, entries, clock, ref_of=self.ref_of, requeue=self._upload_now, retire=self.retire
        )
        self.stuck = StuckWrites(
            *(dirty, journal, entries, self.failing, s3_locks, clock),
            ref_of=self.ref_of,
            hasten=self._hasten,
            retire=self.retire,
        )
        self._load = UploadLoad(throttle, dirty, reads, clock, delay)
        self.recent = RecentUploads()

    @property
    def uploads(self) -> int:
        """How many are under way."""
        return len(self._uploads)

    # ---- what is to be uploaded

    def acknowledged(self, entry: DirtyEntry) -> None:
        """`entry`, which is in the table of dirty entries, is its key's newest write."""
        if not entry.queued and not entry.uploading and not entry.dead:
            self._queue(entry, entry.since + self._delay)

    def _queue(self, entry: DirtyEntry, due: float) -> None:
        entry.queued = True
        if self._queued.add(entry.key, due):
            self._wake.set()

    def _upload_now(self, entry: DirtyEntry) -> None:
        self._queue(entry, self._clock.now())

    def _hasten(self, keys: Set[bytes]) -> None:
        self._queued.hasten(keys, self._clock.now())
        self._wake.set()

    def _retry(self, entry: DirtyEntry, reason: str) -> None:
        now = self._clock.now()
        failure = self.failing.failed(entry.key, reason, now, self._clock.wall())
        entry.failures = failure.tries
        entry.queued = True
        stuck = self.failing.is_stuck(failure, now)
        backoff = STUCK_RETRY_SECONDS if stuck else BACKOFF.delay(failure.tries, self._rng)
        self._queued.add_retry(entry.key, now + backoff)
        if failure.tries == STUCK_TRIES and self._log.allow(now):
            text = "%s: not in S3 after %d attempts: %s%s"
            log.warning(text, self.ref_of(entry), STUCK_TRIES, reason, self._log.suppressed())

    def _next(self, now: float) -> tuple[QueuedUpload | None, float]:
        """The key whose turn it is, or None and the seconds until there is one."""
        fresh, retry, wait = self._queued.due(
            now, hurry=self.flush_waiters.waiting, newest=self.throttle.newest_first
        )
        for due in (retry, fresh):
            if due is not None and self._slots.has_memory(self._size(due.key), retry=due.retry):
                until = self.throttle.wait(now, self._slots, retry=due.retry, fresh_wait=fresh is not None)
                if until <= 0:
                    self._queued.take(due)
                    return due, 0.0
                wait = min(wait, until)
        return None, wait

    def _size(self, key: bytes) -> int:
        entry = self._dirty.get(key)
        return entry.size if entry is not None else 0

    # ---- the loop

    async def run(self) -> None:
        """Upload, for ever."""
        while True:
            try:
                await self._run()
            except Exception:  # a defect; acknowledged writes must not stay here because of it
                log.exception("write-back stopped, and begins again")
                await self._clock.sleep(BACKOFF.max_delay)

    async def _run(self) -> None:
        while True:
            now = self._clock.now()
            self._load.sample(now)
            due, wait = self._next(now)
            if due is None:
                await self._rest(wait)
                continue
            self.throttle.began(now, retry=due.retry)
            task = asyncio.get_running_loop().create_task(self._upload(due.key))
            self._uploads.add(task)
            size = self._size(due.key)
            self._slots.take(size, retry=due.retry)
            task.add_done_callback(partial(self._task_done, size, due.retry))

    def _task_done(self, size: int, retry: bool, task: asyncio.Task[None]) -> None:
        self._uploads.discard(task)
        self._slots.release(size, retry=retry)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("write-back failed", exc_info=error)

    async def _rest(self, seconds: float) -> None:
        """Return after so long, or when something has changed."""
        if seconds == inf:
            await self._wake.wait()
        else:
            sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
            waking = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleeping.cancel()
                waking.cancel()
        self._wake.clear()

    async def stop(self) -> None:
        """Break off what is under way; for the end of the process."""
        for task in list(self._uploads):
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)

    # ---- one upload

    async def _upload(self, key: bytes) -> None:
        async with self.s3_locks.hold(key, None):
            entry = self._dirty.get(key)
            if entry is None:
                return
            entry.queued = False
            if entry.dead:
                return
            if self.is_gone(entry) and entry.deleted and not self._may_be_in_s3(entry):
                await self._journal.has_let_go(key)
                if self._dirty.get(key) is entry:  # else a newer write has come, and waits already
                    self.results["expired"] += 1
                    self.retire(entry)
                    self._entries.invalidate(key)
                    self.recent.add(key, exists=False)
                return
            if entry.value is None and not entry.deleted:
                CallBytes(self._budget).set_total(entry.size)
            try:
                value = None if entry.deleted else self.value_of(entry)
            except Damaged:
                return
            except Exception as error:
                self._retry(entry, repr(error))
                raise
            ref = self.ref_of(entry)
            policy: Policy = "fail" if entry.conditional else self._policy
            write = Write(
                ref,
                entry.version,
                value,
                entry.base,
                policy,
                entry.indeterminate or self._must_look(entry, value),
                maybe_absent=entry.maybe_absent,
                expires_at=entry.expires_at,
                expired=entry.expired,
                keeps=entry.keeps,
                late=entry.owned_since < 0,
            )
            self._dirty.upload_began(entry)
            try:
                result = await self._uploader.upload(write, inf)
            except (OriginFailure, Conflict) as failure:
                self._upload_failed(write, self._newest(key), failure)
            except BaseException as error:
                self._dirty.upload_finished(self._newest(key), succeeded=False, now=self._clock.now())
                self._retry(self._newest(key), self._broken_off(key, error))
                raise
            else:
                if write.value is None:
                    # S3 keeps no version of a delete: an earlier record must not come back after it.
                    await self._journal.has_let_go(key)
                self._uploaded(write, self._newest(key), result)
        self.flush_waiters.progress(key)

    def _broken_off(self, key: bytes, error: BaseException) -> str:
        """Return the reason why an upload ended with `error`, which is not S3's."""
        if not isinstance(error, asyncio.CancelledError):
            return repr(error)
        # The node stops. What S3 said to an earlier attempt tells an operator more than that this one was stopped.
        before = self.failing.get(key)
        return before.reason if before is not None else "broken off when the node stopped"

    def is_gone(self, entry: DirtyEntry) -> bool:
        """Whether it says that its object does not exist: it is a delete, or the object has come to its end.

        Until S3 has told its time the value is kept, and uploaded with its end: this machine's clock may be wrong.
        """
        if entry.expires_at and not entry.deleted and is_expired(entry.expires_at, self._clock.wall()):
            if not self._clock.s3.known:
                return True
            self._dirty.expire(entry)
            self._entries.change_feed.notify(entry.key)
        return entry.deleted

    def _may_be_in_s3(self, entry: DirtyEntry) -> bool:
        """Whether a delete has anything to do, be it with an earlier write."""
        return not entry.expired or entry.base is not ABSENT or entry.indeterminate or entry.maybe_absent

    def _must_look(self, entry: DirtyEntry, value: bytes | None) -> bool:
        """Whether another node may have written the base's own bytes anew meanwhile, to end at another time.

        Their ETag is the same. So a late write that changes no byte goes by what a look says, or it would put its
        own end in the place of a later one.
        """
        base = entry.base
        late = self._clock.now() - entry.since >= self._delay + LATE_SECONDS
        if value is None or not isinstance(base, str) or not late:
            return False
        return may_have_etag(value, entry.etag, base)

    def ref_of(self, entry: DirtyEntry) -> Ref:
        """The object in S3."""
        return self._buckets.object_at(entry.key).ref

    def value_of(self, entry: DirtyEntry) -> bytes:
        """The value of an entry that is no delete. Raises Damaged, having made it a dead letter."""
        if entry.damaged:
            raise Damaged(entry.dead)
        if entry.value is not None:
            return entry.value
        try:
            return self._journal.read(entry.version.seq)
        except Damaged as damage:
            log.critical("%s: its journal record %d %s", self.ref_of(entry), entry.version.seq, damage)
            self._die(entry, f"damaged: the journal record {damage}", damaged=True)
            raise

    def _newest(self, key: bytes) -> DirtyEntry:
        entry = self._dirty.get(key)
        assert entry is not None, "a live entry goes only in its turn"
        return entry

    def _uploaded(self, write: Write, entry: DirtyEntry, result: UploadResult) -> None:
        """`write` has ended; `entry` is the newest write of its key now."""
        now = self._clock.now()
        outcome = result.outcome
        self.results[outcome.value] += 1
        self.last_success = self._clock.wall()
        self.failing.succeeded(entry.key, now)
        if self.throttle.succeeded(entry.key):
            log.info("S3 takes writes again: %d wait", len(self._dirty))
        self._dirty.upload_finished(entry, succeeded=True, now=now)
        self.wrote(entry.key, entry.owned_since)
        entry.indeterminate = False
        entry.failures = 0
        if outcome is UploadOutcome.SUPERSEDED:
            entry.indeterminate = True  # a newer one may be superseded too
        elif outcome is not UploadOutcome.KEPT_BESIDE:
            entry.base, entry.maybe_absent = result.base, bool(write.expires_at)
            if entry.keeps:  # a later change of the end; a copy inside S3 may give another ETag to the same bytes
                entry.keeps = result.base if isinstance(result.base, str) else ""
        if entry.version != write.version:
            self._queue(entry, now + self._delay)
            return
        self.retire(entry)
        if outcome in (UploadOutcome.SUPERSEDED, UploadOutcome.KEPT_BESIDE):
            if outcome is UploadOutcome.SUPERSEDED:
                log.info("%s: %s was not uploaded: a later write is in S3", write.ref, write.version)
            self._entries.invalidate(entry.key)
            self.recent.discard(entry.key)
        else:
            self.recent.add(entry.key, exists=write.value is not None)
            etag = result.base if isinstance(result.base, str) else ""
            expires_at = NEVER if write.value is None else write.expires_at
            self._entries.keep(entry.key, entry_of(write.value, etag, now, entry.owned_since, expires_at))

    def retire(self, entry: DirtyEntry) -> None:
        """S3 has it or what is later; only in its key's turn."""
        self._dirty.pop(entry)
        self.failing.clear(entry.key)
        for seq in entry.records():
            self._journal.remove(seq, entry.key)
        self.flush_waiters.progress(entry.key)

    def _upload_failed(self, write: Write, entry: DirtyEntry, failure: OriginFailure | Conflict) -> None:
        now = self._clock.now()
        self._dirty.upload_finished(entry, succeeded=False, now=now)
        entry.base, entry.indeterminate = write.base, write.indeterminate
        # Of a newer write, it is known from the start if it came over a delete.
        entry.maybe_absent = write.maybe_absent or (entry.maybe_absent and write.value is None)
        if isinstance(failure, OriginFailure) and self._may_pass(failure, entry.key, now):
            self.results["retried"] += 1
            self._retry(entry, str(failure))
        elif entry.version != write.version:
            self._queue(entry, now + self._delay)  # the newer one may fare better
        else:
            self.results["refused"] += 1
            self._die(entry, str(failure))

    def _may_pass(self, failure: OriginFailure, key: bytes, now: float) -> bool:
        """Whether another attempt may succeed; sets the pace of all accordingly."""
        fault = failure.fault
        if fault is Fault.BUSY:
            return True
        if fault is Fault.THROTTLED:
            self.throttle.throttled(now)
            return True
        if fault.of_object:
            return False
        if self.throttle.failed(now, key):
            log.warning("S3 does not take writes: %s; %d wait", failure, len(self._dirty))
        return True

    def _die(self, entry: DirtyEntry, reason: str, *, damaged: bool = False) -> None:
        self.failing.clear(entry.key)
        self.dead_letters.add(entry, reason, damaged=damaged)
        self.flush_waiters.progress(entry.key)
