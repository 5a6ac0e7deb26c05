"""Coordination. What a put or delete does, by durability class, until it is acknowledged.

    back      journal (fsync) ─▶ dirty entry ─▶ acknowledged;   write-back brings it to S3 later
    memory                       dirty entry ─▶ acknowledged;   the same, but a crash loses it
    through   S3 ─▶ copy in memory ─▶ acknowledged

Invariants:
1. After a write was acknowledged, no read that starts later gets an older value through this node: the dirty entry,
   or the copy, is there before the acknowledgement, and reads of S3 that were under way are not believed.
2. Writes of one key are ordered. Those in the journal by their numbers, which they get when they come. All others
   take turns, and begin only when the key has nothing on its way into the journal.
3. A write that failed without an acknowledgement may have happened only if its error says so. It never undoes an
   acknowledged write: that stays dirty until S3 has it or something later.
4. A caller that gives up cancels nothing that S3 or the disk was asked; but nothing is begun after it gave up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from milena_cache.journal.commit import JournalFull
from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.objects.expiry import NEVER, is_expired, to_the_millisecond
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import OriginFailure
from milena_cache.objects.version import ABSENT, UNKNOWN, Base
from milena_cache.objects.write_request import LARGE_BYTES, Ack, Change, etag_of
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.expired_objects import ExpiredObjectReaper
from milena_cache.writeback.loop import WriteBack
from milena_cache.writes.journaled import JournaledWrites
from milena_cache.writes.ownership_revalidation import OwnershipRevalidation
from milena_cache.writes.write_through import WriteThrough
from milena_common.api.durability import BACK, DURABILITIES, MEMORY, THROUGH, Durability
from milena_common.api.errors import ConditionFailed, DeadlineExceeded, MilenaError
from milena_common.api.keys import check_value_size
from milena_common.runtime.key_locks import KeyLocks

log = logging.getLogger(__name__)

T = TypeVar("T")

FORCED = ("dirty_limit", "journal_full", "draining")


class Writes:
    """One node's writes. `mode` is the class of those that name none.

    keeps_in_memory: True if that class is `memory`
    """

    def __init__(
        self,
        *,
        origin: Origin,
        write_through: WriteThrough,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        s3_locks: KeyLocks,
        writeback: WriteBack,
        entries: Entries,
        clock: CorrectedClock,
        mode: Durability,
        max_value_bytes: int,
    ) -> None:
        self.acknowledged: dict[str, int] = dict.fromkeys(DURABILITIES, 0)
        self.forced = dict.fromkeys(FORCED, 0)
        self.reaper = ExpiredObjectReaper(origin, write_through.conditions, dirty, entries, s3_locks, clock)
        self._revalidation = OwnershipRevalidation(
            origin, dirty, dirty_writes, s3_locks, entries, clock, journal.lineages
        )
        self._origin = origin
        self._write_through = write_through
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._entries = entries
        self._clock = clock
        self._mode = mode
        self.keeps_in_memory = mode == MEMORY
        self._max_value_bytes = max_value_bytes
        self._write_locks = KeyLocks()
        self._journaled = JournaledWrites(journal, dirty, writeback, entries, clock, self.acknowledged)
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def draining(self) -> bool:
        """Whether nothing is to become dirty any more, because the node stops."""
        return self._journaled.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._journaled.draining = draining

    # ---- the calls

    async def put(
        self,
        target: Object,
        value: bytes,
        timeout: float,
        *,
        owned_since: int = 0,
        durability: Durability | None = None,
        if_match: str = "",
        if_none_match: str = "",
        expires_at: float = NEVER,
    ) -> Ack:
        """Store the object; within `timeout` seconds, at least in the class that is asked for.

        The object ends at `expires_at` (seconds since 1970; if that has been, this is a delete).

        Raises InvalidRequest for a value that is too large; ConditionFailed; DeadlineExceeded if it is not done in
        time, in which case it may yet happen; OriginUnavailable, AccessDenied or FailedPrecondition with S3's
        words.
        """
        check_value_size(len(value), self._max_value_bytes)
        etag = await asyncio.to_thread(etag_of, value) if len(value) >= LARGE_BYTES else ""
        change = Change(target, value, etag, owned_since, if_match, if_none_match, expires_at)
        return await self._make(change, durability or self._mode, timeout)

    async def delete(
        self,
        target: Object,
        timeout: float,
        *,
        owned_since: int = 0,
        durability: Durability | None = None,
        if_match: str = "",
    ) -> Ack:
        """Remove the object; no error if there is none, unless `if_match` is given. Raises as `put` does."""
        change = Change(target, None, owned_since=owned_since, if_match=if_match)
        return await self._make(change, durability or self._mode, timeout)

    def overwrite(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Acknowledge a put of the node's own class, if that is `memory`, and there is nothing to decide about it.

        `key` is the cache key. False for all others, with nothing done.
        """
        return (
            self.keeps_in_memory
            and len(value) <= self._max_value_bytes
            and key not in self._write_locks
            and self._journaled.overwrite(key, value, owned_since)
        )

    def begin(self, change: Change, durability: Durability | None, timeout: float) -> Ack | asyncio.Future[Ack]:
        """As `put` and `delete`, without a coroutine: the acknowledgement itself if there is nothing to wait for.

        Raises InvalidRequest for a value that is too large; the future raises the rest. Nobody has to await it.
        """
        change = self._checked(change)
        durability = durability or self._mode
        appending = self._write_at_once(change, durability, timeout)
        if isinstance(appending, Ack):
            return appending
        if appending is None:
            return self._begin_in_turn(change, durability, timeout)
        acked: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        appending.add_done_callback(partial(self._has_appended, acked, change, timeout))
        return acked

    def _has_appended(
        self, acked: asyncio.Future[Ack], change: Change, timeout: float, appending: asyncio.Future[None]
    ) -> None:
        error = appending.exception()
        if isinstance(error, JournalFull):
            self._begin_in_turn(change, BACK, timeout).add_done_callback(partial(_pass_on, acked))
        elif acked.done():
            pass  # its caller gave up
        elif error is not None:
            acked.set_exception(error)
            acked.exception()  # as above: that is no event for the log
        else:
            acked.set_result(Ack(BACK, change.etag, change.value))

    async def _make(self, change: Change, durability: Durability, timeout: float) -> Ack:
        change = self._checked(change)
        appending = self._write_at_once(change, durability, timeout)
        if isinstance(appending, Ack):
            return appending
        if appending is not None:
            try:
                await appending
            except JournalFull:
                pass
            else:
                return Ack(BACK, change.etag, change.value)
        return await self._write_in_turn(change, durability, timeout)

    def _checked(self, change: Change) -> Change:
        """The change as it is to be made. Raises InvalidRequest for a value that is too large."""
        if change.value is not None:
            check_value_size(len(change.value), self._max_value_bytes)
        if not change.expires_at:
            return change
        if is_expired(change.expires_at, self._clock.wall()):
            return change._replace(value=None, etag="", expires_at=NEVER, keeps="")
        return change._replace(expires_at=to_the_millisecond(change.expires_at))

    def _write_at_once(
        self, change: Change, durability: Durability, timeout: float
    ) -> Ack | asyncio.Future[None] | None:
        """Acknowledge, or begin, a write for which there is nothing to wait but the journal; None for others."""
        key = change.target.cache_key
        if durability is not THROUGH and not change.conditional and key not in self._write_locks:
            if durability == BACK and not self._journaled.rejection(change):
                return self._journaled.append(change, UNKNOWN, timeout)
            if durability == MEMORY:
                value = change.value
                if (
                    value is not None
                    and not change.expires_at
                    and not change.etag
                    and self._journaled.overwrite(key, value, change.owned_since)
                ):
                    return Ack(MEMORY, "", value)
                if key not in self._journaled and self._journaled.fits_in_memory(change):
                    return self._journaled.remember(change, UNKNOWN)
        return None

    # ---- writes that wait

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    async def wait_for(self, work: Coroutine[Any, Any, T], target: Object, timeout: float) -> T:
        """What `work`, some writing of the object, gives; it goes on when the caller gives up.

        Raises DeadlineExceeded after `timeout` seconds, or if it raises TimeoutError.
        """
        task = self._in_background(work)
        await asyncio.wait((task,), timeout=timeout)
        try:
            if not task.done():
                raise TimeoutError
            return task.result()
        except TimeoutError:
            text = f"{target.ref}: not written within {timeout:.3g} s; it may yet happen"
            raise DeadlineExceeded(text) from None

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have given up; that is no event for the log

    def _begin_in_turn(self, change: Change, durability: Durability, timeout: float) -> asyncio.Task[Ack]:
        task = self._in_background(self._write_in_turn(change, durability, timeout))
        self._write_locks.announce(change.target.cache_key, task)  # so that none behind it takes the short way
        return task

    async def _write_in_turn(self, change: Change, durability: Durability, timeout: float) -> Ack:
        return await self.wait_for(self._write_locked(change, durability, timeout), change.target, timeout)

    async def _write_locked(self, change: Change, durability: Durability, timeout: float) -> Ack:
        deadline = self._clock.now() + timeout
        async with self.lock(change.target.cache_key, timeout):
            return await self.write_locked(change, durability, deadline)

    @asynccontextmanager
    async def lock(self, key: bytes, timeout: float) -> AsyncIterator[None]:
        """Keep every other write of the key waiting.

        Raises TimeoutError if the turn does not come within `timeout` seconds.
        """
        deadline = self._clock.now() + timeout
        async with self._write_locks.hold(key, timeout):
            while key in self._journaled:
                await self._journaled.wait_for_commit()
                if self._clock.now() >= deadline:
                    raise TimeoutError
            yield

    async def write_locked(self, change: Change, durability: Durability | None, deadline: float) -> Ack:
        """Make the change, in its key's `lock`; raises as `put` does."""
        change, durability, key = self._checked(change), durability or self._mode, change.target.cache_key
        base: Base = UNKNOWN
        self._write_through.check_condition(change)
        decided = change.conditional and (durability != THROUGH or change.value is None or key in self._dirty)
        if decided:
            base = await self._check_condition(change, deadline)
        reason = ""
        if durability == MEMORY:
            if self._journaled.fits_in_memory(change):
                return self._journaled.remember(change, base)
            reason = "draining" if self.draining else "dirty_limit"
        if durability == BACK:
            reason = self._journaled.rejection(change)
            if not reason:
                try:
                    await self._journaled.append(change, base, max(0.0, deadline - self._clock.now()))
                except JournalFull:
                    reason = "journal_full"
                else:
                    return Ack(BACK, change.etag, change.value)
        if reason:
            self.forced[reason] += 1
        try:
            ack = await self._write_through.write(change, base, deadline, decided=decided)
        except ConditionFailed:
            raise
        except MilenaError as error:
            raise _because(error, reason) from None
        self.acknowledged[THROUGH] += 1
        return ack

    async def _check_condition(self, change: Change, deadline: float) -> Base:
        """What S3 holds under the newest version, which is what the change asks for. Raises ConditionFailed."""
        target = change.target
        entry = self._dirty.get(target.cache_key)
        if entry is not None and entry.belief.owned_since < change.owned_since:
            await self.revalidate(entry, change.owned_since, deadline)
            entry = self._dirty.get(target.cache_key)
        if entry is not None:
            base = entry.belief.base
            current: Base = ABSENT if self._dirty_writes.is_gone(entry) else self._dirty_writes.etag(entry)
        else:
            base = current = self._entries.current(target.cache_key, change.owned_since)
            if not change.is_met_by(current):
                # The copy may be older than what the caller has seen.
                try:
                    found = await self._origin.look(target.ref, deadline)
                except OriginFailure as failure:
                    raise failure.as_error() from None
                base = current = found.etag if found and not self.reaper.is_over(found, target.ref) else ABSENT
        if not change.is_met_by(current):
            has = "it does not exist" if current is ABSENT else f"its ETag is {current}"
            requested = f"if_match={change.if_match}" if change.if_match else 'if_none_match="*"'
            raise ConditionFailed(f"{target.ref}: {requested} was asked for, and {has}")
        return base

    # ---- the rest

    async def revalidate(self, entry: DirtyEntry, owned_since: int, deadline: float) -> None:
        """Afterwards `entry` may be told to requests of this ownership, or it is gone. Raises as `put` does."""
        await self._revalidation.revalidate(entry, owned_since, deadline)

    def mark_unconfirmed(self, key: bytes) -> None:
        """Somebody else may have written the object: S3 must be asked before an entry is told again."""
        entry = self._dirty.get(key)
        if entry is not None:
            entry.belief = entry.belief.unconfirmed()

    async def finish(self, timeout: float) -> int:
        """Wait for the writes under way, at most `timeout` seconds; how many are left undone."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self.reaper.finish()
        return len(self._tasks)


def _pass_on(acked: asyncio.Future[Ack], task: asyncio.Task[Ack]) -> None:
    if acked.done() or task.cancelled():
        acked.cancel()
    elif error := task.exception():
        acked.set_exception(error)
        acked.exception()  # its caller may have given up
    else:
        acked.set_result(task.result())


def _because(error: MilenaError, reason: str) -> MilenaError:
    """`error`, with why a write that asked for less had to go to S3."""
    why = {
        "dirty_limit": "write-back holds as much as DIRTY_MAX_BYTES allows",
        "journal_full": "the journal's disk is full",
        "draining": "the node is stopping",
    }
    return type(error)(f"{error}; the write had to go through S3, because {why[reason]}") if reason else error
