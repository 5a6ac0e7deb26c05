"""Coordination. Group commit: all writes that are queued when a commit starts share its sync.

    write ──▶ queued ─┐                    ┌─ on_done(token, True), in the order of the writes; futures done
    write ──▶ queued ─┴▶ put all ─▶ commit ┤
                            (one sync)     └─ full: its writes raise JournalFull │ failed: the node stops

A write that arrives while no commit runs starts one at the end of this iteration of the event loop, together with
the other writes of the iteration. While a commit runs, writes queue for the next. No timer delays a write. Under
load one sync thus covers as many writes as arrived during the sync before it.

Invariants:
1. `on_done` gets True, and a write's future is resolved, only after the commit that contains it was synced, and in
   the order of the writes. Observers see every commit once, in order, between its sync and these.
2. Deferred operations (removals of records, rejections) keep their order among themselves, and, unless there are
more
   than MAX_DEFERRED, they are in the file no later than any write that was made after them. They are part of the
   next
   commit; without a write they wait `DEFER_SECONDS`, so that many share a commit.
3. After DiskFull nothing of the commit has taken effect, its writes have raised, and its deferred operations are
   tried again.
4. After DiskFailed nothing is acknowledged: the disk's contents after a failed sync are unknown
   (https://wiki.postgresql.org/wiki/Fsync_Errors). Syncing again would be wrong: the kernel may have marked the
   lost
   pages clean, and the second fsync succeeds without them. So the process ends; committed records are replayed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from milena_cache.journal.commit import (
    Commit,
    CommitObserver,
    Copying,
    JournalFailed,
    JournalFull,
    Leaving,
    NotAcknowledged,
    QueuedWrite,
)
from milena_cache.journal.disk import Disk, DiskFailed, DiskFull
from milena_cache.journal.full_disk import MAX_DEFERRED, Room, take_ballast
from milena_cache.journal.record import Damaged, Record, decode, encode
from milena_cache.journal.records import RecoveredCopies, Replayed, replayed
from milena_cache.journal.version_allocator import Versions
from milena_cache.objects.lineage import UNNAMED, Lineages
from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import Version, lineage_of, stamped
from milena_cache.objects.write_request import OnDone, Receipt
from milena_common.api.errors import DeadlineExceeded
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")

DEFER_SECONDS = 0.05
# Seconds between attempts while the disk is full.
PROBE_SECONDS = 1.0
# While a commit runs, writes whose deadline has passed get DeadlineExceeded every so many seconds.
STUCK_SECONDS = 0.05
MAX_BATCH_BYTES = 2**26


class Journal(Generic[T]):
    """The journal on `disk`. `T` is the caller's token for a write, here the dirty entry.

    `lineage` is the lineage for a journal that has none yet; see `objects/lineage`. `observers` see its commits.
    """

    def __init__(
        self, disk: Disk, clock: Clock, lineage: str = UNNAMED, observers: Sequence[CommitObserver] = ()
    ) -> None:
        self.disk = disk
        self.lineages = Lineages(disk.metadata(), lineage)
        self.versions = Versions(clock.wall(), disk.metadata())
        self.full = False
        self.failed = asyncio.Event()
        self.failure = ""
        # Called once for each commit, after its sync: why its writes must not be acknowledged, "" if they may be.
        self.unacknowledged: Callable[[], str] = lambda: ""
        # Takes the records at the start that are copies of other nodes' writes.
        self.copies: RecoveredCopies | None = None
        # Has writes copied to other nodes before they are complete; None in a node that keeps no copies.
        self.copying: Copying | None = None
        self.quarantined = disk.damaged()
        self._clock = clock
        self._observers = [*observers]
        self._queued: list[QueuedWrite[Any]] = []
        self._deferred: list[Callable[[Disk], None]] = []
        self._barriers: list[asyncio.Future[None]] = []
        self._watchers: list[asyncio.Future[None]] = []
        # Records whose removal was requested and that may still be in the file, by key.
        self._leaving = Leaving()
        self._markers = 0
        self._storing_metadata = False
        self._room = Room(self._do, self._run_deferred, lambda: len(self._deferred))
        self._committing: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._deferred_scheduled = True  # until the replay is done
        self._loop: asyncio.AbstractEventLoop
        # The writes of the commit in progress, and the timer that looks for those that wait too long; it stays when
        # the commit ends, since the next one mostly follows at once.
        self._in_commit: list[QueuedWrite[Any]] | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def observe(self, observer: CommitObserver) -> None:
        """Have `observer` see all later commits."""
        self._observers.append(observer)

    # ---- the start

    def replay(self) -> AsyncIterator[list[Replayed]]:
        """Yield the records in the order of the writes, some at a time; called once, before anything else.

        Quarantines damaged records whose key is unknown. Begins the first transaction when all were read.
        """
        self._loop = asyncio.get_running_loop()
        return replayed(self.disk, self._seen, self._begin_writing)

    def _seen(self, step: Sequence[Replayed]) -> None:
        for record, *_ in step:
            epoch, _ = record.version
            self.versions.seen(record.version)
            if record.number:
                self.versions.seen(Version(epoch, record.number))

    async def _begin_writing(self, damaged: Sequence[int]) -> None:
        self.quarantined += len(damaged)
        for seq in damaged:
            self._deferred.append(partial(_quarantine, seq))
        await self.disk.roll_back()
        self._deferred += [self._store_metadata, take_ballast]
        self._deferred_scheduled = False
        await self.sync_barrier()

    # ---- writing

    def next_version(self, owned_since: int) -> Version:
        """Return the version of a write that begins now, journaled or not."""
        version = self.versions.next(owned_since)
        if self.versions.due:
            self._reserve()
        return version

    def next_versions(self, owned_since: int, number: int) -> Version:
        """Return the version of the first of `number` writes that begin now; the others have the `seq` after it."""
        first = self.versions.next_many(owned_since, number)
        if self.versions.due:
            self._reserve()
        return first

    def _reserve(self) -> None:
        if not self._storing_metadata:
            self._storing_metadata = True
            self.defer(self._store_metadata)

    def learn(self, ref: Ref, metadata: Mapping[str, str]) -> None:
        """Make later versions greater than that of an object in S3 that another cluster wrote."""
        version = stamped(metadata, ref)
        # Versions of the own cluster are excluded: (1) this node loses a slot without knowing it yet; (2) the new
        # owner uploads a write; (3) this node sees its version, and acknowledges a stale write with a greater one,
        # which would supersede the new owner's.
        if version is not None and lineage_of(metadata) not in self.lineages.kin:
            self.versions.learn(version)

    def learned(self, version: Version) -> None:
        """Make later versions greater than that of another node of the cluster, which has handed over its write.

        Raises nothing: a version that no clock gives before about the year 4200 is ignored, see `Versions.learn`.
        """
        self.versions.learn(version)
        if self.versions.due:
            self._reserve()

    def joined(self, lineage: str) -> None:
        """Stamp writes with the lineage of the ring that this node is a member of."""
        if self.lineages.joined(lineage):
            self.defer(self._store_metadata)

    def rejection(self, key: bytes) -> str:
        """Return why no write can be made durable now, "" if it can be tried. No key makes a difference."""
        return JournalFull.reason if self.full else ""

    def append(self, record: Record, token: T, on_done: OnDone[T], timeout: float) -> asyncio.Future[None]:
        """Put the record into the next commit; see `writes.durable`, which this implements."""
        return self.write(record.stored_as, encode(record), token, on_done, timeout)

    def append_all(
        self,
        records: Sequence[Record],
        tokens: Sequence[T],
        on_done: OnDone[T],
        timeout: float,
    ) -> list[asyncio.Future[None]]:
        """Put the records into one commit; see `writes.durable`, which this implements."""
        futures: list[asyncio.Future[None]] = []
        for record, token in zip(records, tokens, strict=True):
            future = self._loop.create_future()
            joined = bool(futures)
            self._queue(record.stored_as, encode(record), token, on_done, future, timeout, joined=joined)
            futures.append(future)
        return futures

    def append_for(self, receipt: Receipt, record: Record, token: T, on_done: OnDone[T], timeout: float) -> None:
        """Put the record into the next commit; see `writes.durable`, which this implements."""
        self._queue(record.stored_as, encode(record), token, on_done, receipt, timeout)

    def write(self, seq: int, raw: bytes, token: U, on_done: OnDone[U], timeout: float) -> asyncio.Future[None]:
        """Queue the record for the next commit; the future is done when it is durable. Its token may be any.

        The future raises JournalFull, DeadlineExceeded after `timeout` seconds, JournalFailed, or NotAcknowledged
        for a durable write that must not be acknowledged; the call itself raises JournalFailed if the journal has
        failed already. `on_done(token, durable)` is called just before the future is done, also if the future was
        cancelled or has timed out: its write may still become durable.
        """
        future = self._loop.create_future()
        self._queue(seq, raw, token, on_done, future, timeout)
        return future

    def write_for(
        self,
        receipt: Receipt,
        seq: int,
        raw: bytes,
        token: U,
        on_done: OnDone[U],
        timeout: float,
    ) -> None:
        """Do what `write` does, with `receipt` in place of the future."""
        self._queue(seq, raw, token, on_done, receipt, timeout)

    def _queue(
        self,
        seq: int,
        raw: bytes,
        token: U,
        on_done: OnDone[U],
        receipt: Receipt,
        timeout: float,
        *,
        joined: bool = False,
    ) -> None:
        if self.failure:
            raise JournalFailed(f"the node's journal failed: {self.failure}")
        self._queued.append(QueuedWrite(seq, raw, token, on_done, receipt, self._loop.time() + timeout, joined))
        if self._committing is None:
            self._start()

    def defer(self, work: Callable[[Disk], None]) -> None:
        """Commit `work` within about DEFER_SECONDS, and before any later write (see invariant 2)."""
        self._deferred.append(work)
        if self._committing is None and not self._deferred_scheduled:
            self._deferred_scheduled = True
            self._spawn(self._commit_deferred())

    def release(self, seq: int, key: bytes) -> None:
        """Remove a record of `key` that is no longer needed, as a deferred operation."""
        self._leaving.add(key)

        def work(disk: Disk) -> None:
            disk.remove_record(seq)
            self._leaving.removed(key)

        self.defer(work)

    def retired(self, key: bytes, version: Version) -> None:
        """Do nothing: there are no copies but the records."""

    async def copies_released(self, key: bytes) -> bool:
        """Return True: there are no copies but the records."""
        return True

    def keep_tombstone(self, number: int, raw: bytes, key: bytes | None) -> None:
        """Store a tombstone, as a deferred operation: before the removals that are requested later.

        `key`: the cache key for which `has_released` waits until it is stored, None for none. On a full disk it is
        not stored: it would take the room that is needed to take records out.
        """
        waits = None if self.full else key
        if waits is not None:
            self._leaving.add(waits)

        def work(disk: Disk) -> None:
            if not self.full:
                disk.put_tombstone(number, raw)
            if waits is not None:
                self._leaving.removed(waits)

        self.defer(work)

    async def has_released(self, key: bytes) -> bool:
        """Commit the pending removals of records of `key` now, and its tombstone; False if that is not possible."""
        if key in self._leaving or self._storing_metadata:
            await self._barrier()
        return key not in self._leaving

    def is_leaving(self, keys: Iterable[bytes]) -> bool:
        """Return True while a removed record of one of `keys` can come back, or its tombstone is not durable."""
        return any(key in self._leaving for key in keys)

    async def have_released(self, keys: Iterable[bytes], *, soon: bool) -> bool:
        """Return True once no removed record of any of `keys` can come back, and their tombstones are durable.

        False if that is not possible now. `soon`: commit now; else with the next commit, in about DEFER_SECONDS.
        """
        if not self.is_leaving(keys):
            return True
        # Later removals of the keys are not waited for, so this counts as the removal of a key of its own, which no
        # cache key can be: they are UTF-8.
        self._markers += 1
        mark = b"\xff%d" % self._markers
        self._leaving.add(mark)
        self.defer(lambda disk: self._leaving.removed(mark))
        while mark in self._leaving and not self.failure and not self.full:
            await (self._barrier() if soon else self.wait_commit())
        return mark not in self._leaving

    async def _barrier(self) -> None:
        """Return when everything that was requested so far was committed, or its commit was tried and failed."""
        if self.failure:
            return
        barrier: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._barriers.append(barrier)
        if self._committing is None and not self.full:  # while it is full, `_probe` tries
            self._start()
        await barrier

    async def store_metadata(self, name: str, text: str) -> bool:
        """Commit `text` under `name` now; True once it is durable, False if the journal is full or has failed."""
        if self.full or self.failure:
            return False

        def work(disk: Disk) -> None:
            disk.set_metadata(name, text)

        self._deferred.append(work)
        await self._barrier()
        return not self.failure and work not in self._deferred  # after a failed commit it is deferred again

    async def wait_commit(self) -> None:
        """Return when the next commit has ended, whether it succeeded or not."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    def drop_quarantined(self) -> None:
        """Delete the damaged records whose key is unknown."""
        self.quarantined = 0
        self.defer(lambda disk: disk.drop_quarantined())

    async def sync_barrier(self) -> None:
        """Return when everything that was requested so far was committed, or its commit was tried and failed."""
        if self._queued or self._deferred or self._committing is not None:
            await self._barrier()

    def read(self, seq: int) -> bytes:
        """Return the value of a committed put. Raises Damaged."""
        raw = self.disk.read_record(seq)
        if raw is None:
            raise Damaged("is gone")
        value = decode(seq, raw)[0].value
        assert value is not None, "a delete has no value"
        return value

    def read_all(self, seqs: Sequence[int]) -> dict[int, bytes]:
        """Return the values of committed puts by number, without those for which `read` raises Damaged."""
        values: dict[int, bytes] = {}
        for seq, raw in self.disk.read_records(seqs).items():
            try:
                value = decode(seq, raw)[0].value
            except Damaged:
                continue
            if value is not None:
                values[seq] = value
        return values

    async def close(self) -> None:
        """Commit what is queued, and release the directory."""
        if not self.failure:
            await self.sync_barrier()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._stuck is not None:
            self._stuck.cancel()
        await self.disk.close()

    # ---- committing

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _start(self) -> None:
        self._committing = self._spawn(self._commit_all())

    async def _commit_deferred(self) -> None:
        await self._clock.sleep(DEFER_SECONDS)
        self._deferred_scheduled = False
        if self._deferred and not self.full:
            await self._barrier()

    async def _commit_all(self) -> None:
        try:
            while not self.failure:
                if not self._queued:
                    await asyncio.sleep(0)  # writes of this iteration of the event loop join the commit
                if not self._queued and (self.full or not self._barriers):
                    return  # deferred operations wait for `_commit_deferred`, or for the probe
                await self._finish(self._begin())
        finally:
            self._committing = None
            if self._deferred and not self._deferred_scheduled:
                self._deferred_scheduled = True
                self._spawn(self._commit_deferred())

    def _take(self) -> list[QueuedWrite[T]]:
        """Take the writes of the next commit: at most MAX_BATCH_BYTES, but at least one, and all joined to it."""
        total = 0
        for number, write in enumerate(self._queued):
            total += len(write.raw)
            if total > MAX_BATCH_BYTES and number and not write.joined:
                batch, self._queued = self._queued[:number], self._queued[number:]
                return batch
        batch, self._queued = self._queued, []
        return batch

    def _begin(self, max_deferred: int = MAX_DEFERRED) -> Commit[T]:
        """Put the queued writes and deferred operations into the transaction, and begin to commit it."""
        batch, deferred = self._take(), self._deferred[:max_deferred]
        del self._deferred[:max_deferred]
        barriers: list[asyncio.Future[None]] = []
        # A barrier may go with this commit only if nothing that was requested before it is left for the next one:
        # `has_let_go` would return while the record is still in the file.
        if not self._queued and not self._deferred:
            barriers, self._barriers = self._barriers, []
        started = self._clock.now()
        committing: Awaitable[None] | Exception
        try:
            for work in deferred:
                work(self.disk)
            for write in batch:
                self.disk.put_record(write.seq, write.raw)
            # First the frames to the holders, which have the longer way. And the disk's thread needs the GIL to
            # begin, which it would have to wait for while they are made.
            if self.copying is not None:
                self.copying.begun(batch)
            committing = self.disk.commit()
        except Exception as error:
            committing = error
        return Commit(batch, deferred, barriers, committing, started)

    async def _finish(self, commit: Commit[T]) -> bool:
        """Wait for the commit, complete its writes, and wake barriers and watchers; True if it succeeded."""
        batch, made = commit.batch, False
        self._in_commit = batch
        if self._stuck is None:
            self._stuck = self._loop.call_later(STUCK_SECONDS, self._expire_stuck)
        try:
            if isinstance(commit.committing, Exception):
                raise commit.committing
            await commit.committing
        except DiskFull as error:
            await self._did_not_fit(error, commit)
        except DiskFailed as error:
            self._has_failed(str(error), batch)
        except Exception as error:  # a defect in Milena, after which the file's contents are unknown too
            log.exception("the journal's commit failed")
            self._has_failed(repr(error), batch)
        else:
            self._leaving.committed()
            self.versions.stored()
            made = True
            self._observe(batch, self._clock.now() - commit.started)
            if self.full and batch:
                self._has_room()
            self._complete(batch if self.copying is None else self.copying.committed(batch))
        finally:
            self._in_commit = None
            _wake(commit.barriers)
            self.wake_watchers()
        return made

    def _complete(self, batch: Iterable[QueuedWrite[Any]]) -> None:
        rejected = self.unacknowledged() if batch else ""
        for write in batch:
            why_not = write.on_done(write.token, True) or rejected
            if write.future.done():
                pass
            elif why_not:
                write.future.set_exception(NotAcknowledged(why_not))
            else:
                write.future.set_result(None)

    def complete(self, batch: Iterable[QueuedWrite[Any]]) -> None:
        """Complete writes that `copying` has kept beyond their commit."""
        self._complete(batch)
        self.wake_watchers()

    def wake_watchers(self) -> None:
        """Have `wait_commit` return: some writes are done."""
        watchers, self._watchers = self._watchers, []
        _wake(watchers)

    def _observe(self, batch: list[QueuedWrite[T]], seconds: float) -> None:
        for observer in self._observers:
            try:
                observer.committed(batch, seconds)
            except Exception:  # a defect of the observer; the writes are durable all the same
                log.exception("an observer of the journal's commits failed")

    def _store_metadata(self, disk: Disk) -> None:
        self._storing_metadata = False
        for name, text in {**self.versions.metadata(), **self.lineages.metadata()}.items():
            disk.set_metadata(name, text)

    # ---- a full disk, a failed disk

    async def _did_not_fit(self, error: DiskFull, commit: Commit[T]) -> None:
        try:
            await self.disk.roll_back()
        except DiskFailed as failure:
            self._has_failed(str(failure), commit.batch)
            return
        self._leaving.rolled_back()
        self.versions.rolled_back()
        self._deferred[:0] = commit.deferred
        if not self.full:
            self.full = True
            log.error("the journal is full (%s): writes go through to S3 before they are acknowledged", error)
            self._spawn(self._probe())
        if self.copying is not None:
            self.copying.rolled_back(commit.batch)
        for write in commit.batch:
            write.fail(JournalFull(str(error)))

    async def _probe(self) -> None:
        """Try every PROBE_SECONDS until there is room."""
        while self.full and not self.failure:
            await self._clock.sleep(PROBE_SECONDS)
            if self._committing is None:
                self._committing = self._spawn(self._make_room())
                await asyncio.wait((self._committing,))

    async def _make_room(self) -> None:
        try:
            if await self._room.make():
                self._has_room()
        finally:
            self._committing = None
            barriers, self._barriers = self._barriers, []
            _wake(barriers)  # a barrier ends after an attempt, successful or not
        if not self.full and self._queued:
            self._start()

    async def _do(self, operation: Callable[[Disk], None]) -> bool:
        """Commit `operation` alone; return True if that succeeded."""
        self._deferred.insert(0, operation)
        if not self.failure and await self._finish(self._begin(1)):
            return True
        self._deferred.remove(operation)
        return False

    async def _run_deferred(self, max_deferred: int) -> bool:
        """Commit at most `max_deferred` deferred operations; return True if that succeeded."""
        return not self.failure and await self._finish(self._begin(max_deferred))

    def _has_room(self) -> None:
        self.full = False
        log.info("the journal has room again: writes are acknowledged from it")

    def _has_failed(self, error: str, batch: list[QueuedWrite[T]]) -> None:
        self.failure = error
        log.critical(
            "the journal's disk failed (%s): the node stops. Acknowledged writes are in the journal and are "
            "uploaded when a node starts on it",
            error,
        )
        _wake(self._barriers)
        for write in (*batch, *self._queued):
            write.fail(JournalFailed(f"the node's journal failed: {error}; the write may still take effect"))
        self._queued = []
        self.failed.set()

    def _expire_stuck(self) -> None:
        self._stuck = None
        if self._in_commit is None:
            return
        now = self._loop.time()
        for write in (*self._in_commit, *self._queued):
            if now >= write.deadline and not write.future.done():
                text = "the journal's disk did not respond in time; the write may still take effect"
                error = DeadlineExceeded(text)
                write.future.set_exception(error)
        self._stuck = self._loop.call_later(STUCK_SECONDS, self._expire_stuck)


def _quarantine(seq: int, disk: Disk) -> None:
    disk.quarantine(seq)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
