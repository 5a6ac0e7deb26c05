"""Coordination. The path of a put or delete until it is acknowledged, by durability class.

    back      journal (fsync) ─▶ dirty entry ─▶ acknowledged;   write-back uploads it to S3 later
    memory                       dirty entry ─▶ acknowledged;   the same, but a crash loses it
    through   S3 ─▶ entry in memory ─▶ acknowledged

Invariants:
1. After a write was acknowledged, no read that starts later gets an older value through this node: the dirty or
   clean entry is made before the acknowledgement, and the results of S3 reads in flight are discarded
   (`fence_reads`).
2. Writes of one key are ordered. Journaled writes are ordered by their sequence numbers, which they get on arrival.
   All other writes take the key's lock, and begin only when no write of the key is queued for the journal.
3. A failed, unacknowledged write may have taken effect only if its error says so. It never undoes an acknowledged
   write: that one stays dirty until S3 has it or a later one.
4. A caller's timeout or cancellation cancels no request to S3 and no commit; but no request begins after it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from milena_cache.memory.entries import Entries
from milena_cache.memory.existence import known_of
from milena_cache.objects.expiry import NEVER, is_expired, to_the_millisecond
from milena_cache.objects.lineage import Lineages
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import NO_ATTRIBUTES, NO_METADATA, OriginFailure
from milena_cache.objects.version import ABSENT, UNKNOWN, Base
from milena_cache.objects.write_request import LARGE_BYTES, Ack, Change, NotDurable, Receipt
from milena_cache.origin.conditions import Capability
from milena_cache.origin.known_buckets import KnownBuckets
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.expired_objects import ExpiredObjectReaper
from milena_cache.writeback.loop import WriteBack
from milena_cache.writes.assembly import StoredParts
from milena_cache.writes.durable import Durable, NotCopied
from milena_cache.writes.journaled import JournaledWrites
from milena_cache.writes.ownership_revalidation import OwnershipRevalidation
from milena_cache.writes.write_through import WriteThrough
from milena_common.api.durability import BACK, DURABILITIES, MEMORY, THROUGH, Durability
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    MilenaError,
    Unavailable,
)
from milena_common.api.etags import etag_of
from milena_common.api.keys import check_value_size
from milena_common.runtime.key_locks import KeyLocks

log = logging.getLogger(__name__)

T = TypeVar("T")

# Why a write that asks for less has to go through S3: the label in metrics, and the text in errors.
FORCED = {
    "dirty_limit": "the dirty entries have reached DIRTY_MAX_BYTES or DIRTY_MEMORY_BYTES",
    "journal_full": "the journal's disk is full",
    "draining": "the node is stopping",
    NotCopied.reason: "too few other nodes can have a copy of it (COPIES_POLICY)",
}


class _WriteLock(AbstractAsyncContextManager[None]):
    """What `Writes.lock` returns, for one use."""

    def __init__(
        self, locks: KeyLocks, journaled: JournaledWrites, clock: CorrectedClock, key: bytes, timeout: float
    ) -> None:
        self._locks = locks
        self._journaled = journaled
        self._clock = clock
        self._key = key
        self._timeout = timeout
        self._lock: asyncio.Lock

    async def __aenter__(self) -> None:
        deadline = self._clock.now() + self._timeout
        self._lock = await self._locks.acquire(self._key, self._timeout)
        try:
            while self._key in self._journaled:
                await self._journaled.wait_for_commit()
                if self._clock.now() >= deadline:
                    raise TimeoutError
        except BaseException:
            self._locks.release(self._key, self._lock)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._locks.release(self._key, self._lock)


class Writes:
    """The writes of one node. `mode` is the durability class of writes that name none.

    keeps_in_memory: True if that class is `memory`
    """

    def __init__(
        self,
        *,
        origin: Origin,
        buckets: KnownBuckets,
        write_through: WriteThrough,
        durable: Durable[DirtyEntry],
        lineages: Lineages,
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
        # Returns the error for a write that may not go on, because the node may not own its slot any more.
        self.fence_error: Callable[[], MilenaError | None] = lambda: None
        self.reaper = ExpiredObjectReaper(
            origin, write_through.conditions, dirty, entries, s3_locks, durable, clock
        )
        # Raises if the key's slot is not this node's any more; called before a write that had to wait takes effect.
        self.check_owner: Callable[[Change], None] = lambda change: None
        self._s3_locks = s3_locks
        self._revalidation = OwnershipRevalidation(origin, dirty, dirty_writes, s3_locks, entries, clock, lineages)
        self._origin = origin
        self.buckets = buckets
        self._write_through = write_through
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._entries = entries
        self._clock = clock
        self._mode = mode
        self.keeps_in_memory = mode == MEMORY
        self._max_value_bytes = max_value_bytes
        self._write_locks = KeyLocks()
        self._journaled = JournaledWrites(
            durable, dirty, dirty_writes, writeback, entries, clock, self.acknowledged
        )
        self._tasks: set[asyncio.Task[Any]] = set()

    def use_ownership(self, check_owner: Callable[[Change], None], has_lost: Callable[[bytes, int], bool]) -> None:
        """Write only what this node owns: `check_owner` before a write takes effect, `has_lost` at its end."""
        self.check_owner = check_owner
        self._journaled.has_lost = self._write_through.has_lost = has_lost

    @property
    def draining(self) -> bool:
        """True if no write may become dirty, because the node stops: all go through to S3."""
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
        metadata: Mapping[str, str] = NO_METADATA,
        attributes: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> Ack:
        """Store the object within `timeout` seconds, in the requested durability class or a stronger one.

        The object expires at `expires_at`, in seconds since 1970; if that time has passed, this is a delete.
        S3 keeps `metadata` and `attributes` with it: with any of them the class must be `through`.

        Raises InvalidRequest for a value that is too large; ConditionFailed; DeadlineExceeded after `timeout`, in
        which case the write may still take effect; OriginUnavailable, AccessDenied or FailedPrecondition with S3's
        error text.
        """
        check_value_size(len(value), self._max_value_bytes)
        etag = await asyncio.to_thread(etag_of, value) if len(value) >= LARGE_BYTES else ""
        assert durability == THROUGH or not (metadata or attributes), "the journal has no room for them"
        change = Change(
            target,
            value,
            etag,
            owned_since,
            if_match,
            if_none_match,
            expires_at,
            metadata=metadata,
            attributes=attributes,
        )
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
        """Delete the object; no error if there is none, unless `if_match` is given. Raises as `put` does."""
        change = Change(target, None, owned_since=owned_since, if_match=if_match)
        return await self._make(change, durability or self._mode, timeout)

    async def store_parts(self, change: Change, parts: StoredParts, timeout: float) -> Ack:
        """Make the object whose bytes S3 has in `parts`, as a put of class `through`. Raises as `put` does.

        `change` has its condition; the value of it does not count.
        """
        return await self.wait_for(self._store_parts_locked(change, parts, timeout), change.target, timeout)

    async def _store_parts_locked(self, change: Change, parts: StoredParts, timeout: float) -> Ack:
        deadline, key = self._clock.now() + timeout, change.target.cache_key
        async with self.lock(key, timeout):
            self.check_fence()
            if change.conditional:
                self._write_through.conditions.check(Capability.MULTIPART)
            decided = change.conditional and key in self._dirty
            if decided:
                await self._check_condition(change, deadline)
            self.check_fence()
            self.check_owner(change)
            ack = await self._write_through.store_parts(change, parts, deadline, decided=decided)
        self._count_ack(THROUGH, deadline)
        return ack

    def overwrite(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Acknowledge a put without options, if the node's class is `memory` and `JournaledWrites.overwrite` can.

        `key` is the cache key. Returns False, with nothing changed, in every other case.
        """
        return (
            self.keeps_in_memory
            and len(value) <= self._max_value_bytes
            and key not in self._write_locks
            and self._journaled.overwrite(key, value, owned_since)
        )

    def overwrite_many(self, keys: list[bytes], values: list[bytes], owned_since: list[int], start: int = 0) -> int:
        """Acknowledge the first of these puts from `start` on, in order, and return how many.

        As many as `JournaledWrites.overwrite_many` can, if the node's class is `memory`: puts without options.
        `keys` are cache keys.
        """
        if not self.keeps_in_memory:
            return 0
        locks, largest = self._write_locks, self._max_value_bytes
        locked = bool(locks)
        end = len(keys)
        for at in range(start, end):
            if len(values[at]) > largest or (locked and keys[at] in locks):
                end = at
                break
        return self._journaled.overwrite_many(keys, values, owned_since, start, end)

    def remember(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Acknowledge a put without options, if the node's class is `memory` and it need not wait; else False.

        `key` is the cache key.
        """
        return (
            self.keeps_in_memory
            and len(value) <= self._max_value_bytes
            and key not in self._write_locks
            and self._journaled.remember_value(key, value, owned_since)
        )

    def remember_all(self, keys: list[bytes], values: list[bytes], owned_since: list[int]) -> bool:
        """Acknowledge all of these puts without options, in order, if `remember` can each; else none, and False.

        `keys` are cache keys. It takes less than 2 ms for 1024 of them, and is not divided.
        """
        if not self.keeps_in_memory:
            return False
        largest = self._max_value_bytes
        for value in values:
            if len(value) > largest:
                return False
        locks = self._write_locks
        if locks:
            for key in keys:
                if key in locks:
                    return False
        return self._journaled.remember_all(keys, values, owned_since)

    def begin(self, change: Change, durability: Durability | None, timeout: float) -> Ack | asyncio.Future[Ack]:
        """Write as `put` and `delete` do, without a coroutine; return the acknowledgement at once if possible.

        Raises InvalidRequest for a value that is too large, and if the slot has another owner by now: between
        commands' look at the ring and this, S3 may have been read. The future raises all other errors, and logs
        nothing if it is never awaited.
        """
        change = self._checked(change)
        self.check_owner(change)
        durability = durability or self._mode
        acked: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        begun = self._write_at_once(change, durability, timeout, _AckFuture(self, change, timeout, acked))
        if isinstance(begun, Ack):
            return begun
        return acked if begun else self._begin_in_turn(change, durability, timeout)

    def begin_at_once(
        self, change: Change, durability: Durability | None, receipt: Receipt, timeout: float
    ) -> Ack | bool:
        """Write as `begin` does, if the write need not wait for its turn; the caller has just looked at the ring.

        Return the acknowledgement; or True if `receipt` will get it; or False if the write has to wait, and nothing
        was done. Raises InvalidRequest for a value that is too large, and Unavailable if nothing can be written.
        """
        return self._write_at_once(self._checked(change), durability or self._mode, timeout, receipt)

    def continue_in_turn(self, change: Change, error: NotDurable, timeout: float) -> asyncio.Task[Ack]:
        """Return the write of a change that the journal did not take, in the class that is possible."""
        return self._begin_in_turn(change, BACK, timeout, tried=isinstance(error, NotCopied))

    async def _make(self, change: Change, durability: Durability, timeout: float) -> Ack:
        change = self._checked(change)
        self.check_owner(change)
        appending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        begun = self._write_at_once(change, durability, timeout, appending)
        if isinstance(begun, Ack):
            return begun
        tried = False
        if begun:
            try:
                await appending
            except NotDurable as error:
                tried = isinstance(error, NotCopied)
            else:
                self.acknowledged[BACK] += 1
                return Ack(BACK, change.etag, change.value)
        return await self._write_in_turn(change, durability, timeout, tried=tried)

    def _checked(self, change: Change) -> Change:
        """Return the change with its expiry resolved: past, it is a delete; else in whole milliseconds.

        Raises InvalidRequest for a value that is too large.
        """
        if change.value is not None:
            check_value_size(len(change.value), self._max_value_bytes)
        if not change.expires_at:
            return change
        if is_expired(change.expires_at, self._clock.wall()):
            return change._replace(value=None, etag="", expires_at=NEVER, keeps="")
        return change._replace(expires_at=to_the_millisecond(change.expires_at))

    def _write_at_once(
        self, change: Change, durability: Durability, timeout: float, receipt: Receipt
    ) -> Ack | bool:
        """Acknowledge the write, or start its journaled append for `receipt`, and return True.

        False if it has to wait for its key's lock, or for S3 to say that its bucket exists, or cannot be made in
        this class now.

        Skipping the lock is safe only while it is free (`key not in self._write_locks`). Otherwise: (1) a
        conditional write of the key holds the lock and checks its condition against the newest entry; (2) this
        write is acknowledged; (3) the conditional write overwrites it, although its condition no longer holds.
        A `memory` write must also wait for writes queued for the journal: it would be acknowledged at once, and
        an earlier write would replace its entry when the commit ends.
        """
        key = change.target.cache_key
        if (
            durability is not THROUGH
            and not change.conditional
            and key not in self._write_locks
            and change.target.ref.bucket in self.buckets
        ):
            if durability == BACK and not self._journaled.rejection(change):
                self._journaled.append_for(receipt, change, timeout)
                return True
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
        return False

    # ---- several writes of which all take effect, or none

    def are_idle(self, keys: Iterable[bytes], durability: Durability | None) -> bool:
        """True if writes of this class can begin at once, and no write of `keys` waits."""
        return (durability or self._mode) != THROUGH and not any(
            key in self._write_locks or key in self._journaled for key in keys
        )

    def begin_together(
        self, changes: Sequence[Change], durability: Durability | None, timeout: float
    ) -> list[Ack] | Awaitable[list[Ack]] | None:
        """Make all the changes in this step of the event loop, or return None, and nothing was done.

        Their conditions were read in the same step, and `are_idle` holds. Returns the acknowledgements, or an
        awaitable of them, which raises NotDurable if nothing of them is left. Raises as `begin` does.
        """
        durability = durability or self._mode
        changes = [self._checked(change) for change in changes]
        for change in changes:
            self.check_owner(change)
            self._write_through.check_condition(change)
        if not all(change.target.ref.bucket in self.buckets for change in changes):
            return None
        if self._not_together(changes, durability):
            return None
        bases = [self._base_if_met(change, {}) for change in changes]
        if None in bases:
            return None
        return self._make_together(changes, bases, durability, timeout)  # type: ignore[arg-type]

    def _not_together(self, changes: Sequence[Change], durability: Durability) -> str:
        """Return why changes cannot all be made in a class other than `through`, one of FORCED; "" if they can."""
        if durability == MEMORY:
            if self._journaled.fit_in_memory(changes):
                return ""
            return "draining" if self.draining else "dirty_limit"
        return self._journaled.rejection_of_all(changes)

    def _make_together(
        self, changes: Sequence[Change], bases: Sequence[Base], durability: Durability, timeout: float
    ) -> list[Ack] | Awaitable[list[Ack]]:
        if durability == MEMORY:
            return [self._journaled.remember(change, base) for change, base in zip(changes, bases, strict=True)]
        return self._durable_together(changes, self._journaled.append_all(changes, bases, timeout), timeout)

    async def _durable_together(
        self, changes: Sequence[Change], appended: Sequence[asyncio.Future[None]], timeout: float
    ) -> list[Ack]:
        deadline = self._clock.now() + timeout
        for result in await asyncio.gather(*appended, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        for _ in changes:
            self._count_ack(BACK, deadline)
        return [Ack(BACK, change.etag, change.value) for change in changes]

    def _base_if_met(self, change: Change, looked: Mapping[bytes, Base]) -> Base | None:
        """Return S3's object under the newest write, if memory has what meets the change's condition.

        Else what `looked` has for the key, None without that.
        """
        if not change.conditional:
            return UNKNOWN
        key = change.target.cache_key
        entry = self._dirty.get(key)
        current: Base
        if entry is None:
            base = current = self._entries.current(key, change.owned_since)
        elif entry.belief.owned_since < change.owned_since:
            return looked.get(key)
        else:
            base = entry.belief.base
            current = ABSENT if self._dirty_writes.is_gone(entry) else self._dirty_writes.etag(entry)
        return base if change.is_met_by(current) else looked.get(key)

    async def write_all_locked(
        self, changes: Sequence[Change], durability: Durability | None, deadline: float
    ) -> list[Ack]:
        """Make all the changes or none, while the caller holds the `lock` of every key.

        Several ones are made in the journal by one commit, or all in memory, and never through S3, which takes one
        object at a time: (1) S3 has the first object; (2) the process ends; (3) readers see half a transaction.
        Raises as `write_locked` does, and Unavailable or FailedPrecondition where only S3 could take them.
        """
        if len(changes) == 1:
            return [await self.write_locked(changes[0], durability, deadline)]
        durability = durability or self._mode
        if durability == THROUGH:
            raise FailedPrecondition(
                "several keys cannot be written together in the durability class through: S3 takes one object at a "
                "time; nothing was done"
            )
        changes = [self._checked(change) for change in changes]
        for bucket in {change.target.ref.bucket for change in changes}:
            await self.buckets.confirm_exists(bucket, deadline)
        self.check_fence()
        for change in changes:
            self._write_through.check_condition(change)
        looked: dict[bytes, Base] = {}
        while True:
            # Without waiting between the first base and the writes: an upload that ends in between would have the
            # base of its key be an object that is not there any more.
            bases: list[Base] = []
            for change in changes:
                base = self._base_if_met(change, looked)
                if base is None:
                    looked[change.target.cache_key] = await self._check_condition(change, deadline)
                    break
                bases.append(base)
            else:
                break
        self.check_fence()
        for change in changes:
            self.check_owner(change)
        if reason := self._not_together(changes, durability):
            raise Unavailable(
                f"several keys cannot be written together now, because {FORCED[reason]}; nothing was done"
            )
        made = self._make_together(changes, bases, durability, max(0.0, deadline - self._clock.now()))
        if isinstance(made, list):
            return made
        try:
            return await made
        except NotCopied as error:
            raise outcome_unknown(Unavailable(error.why)) from None
        except NotDurable as error:
            text = f"several keys cannot be written together now, because {FORCED[error.reason]}; nothing was done"
            raise Unavailable(text) from None

    # ---- writes that wait

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    async def wait_for(self, work: Coroutine[Any, Any, T], target: Object, timeout: float) -> T:
        """Return the result of `work`, a write of the object, which continues if the caller stops waiting.

        Raises DeadlineExceeded after `timeout` seconds, or if `work` raises TimeoutError.
        """
        task = self._in_background(work)
        await asyncio.wait((task,), timeout=timeout)
        try:
            if not task.done():
                raise TimeoutError
            return task.result()
        except TimeoutError:
            text = f"{target.ref}: not written within {timeout:.3g} s; the write may still take effect"
            raise DeadlineExceeded(text) from None

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: asyncio logs nothing if the caller has given up

    def _begin_in_turn(
        self, change: Change, durability: Durability, timeout: float, *, tried: bool = False
    ) -> asyncio.Task[Ack]:
        task = self._in_background(self._write_in_turn(change, durability, timeout, tried=tried))
        # The task takes the lock only when it runs. Announced, the lock counts as taken from now on; otherwise a
        # later write of the key could pass `_write_at_once` first and be overwritten by this earlier one.
        self._write_locks.announce(change.target.cache_key, task)
        return task

    async def _write_in_turn(
        self, change: Change, durability: Durability, timeout: float, *, tried: bool = False
    ) -> Ack:
        """Write when the key's lock is free. `tried`: some journal may have the write, and show it one day."""
        try:
            return await self.wait_for(self._write_locked(change, durability, timeout), change.target, timeout)
        except MilenaError as error:
            if tried:
                raise outcome_unknown(error) from None
            raise

    async def _write_locked(self, change: Change, durability: Durability, timeout: float) -> Ack:
        deadline = self._clock.now() + timeout
        async with self.lock(change.target.cache_key, timeout):
            return await self.write_locked(change, durability, deadline)

    def lock(self, key: bytes, timeout: float) -> AbstractAsyncContextManager[None]:
        """Hold the key's write lock, with no write of the key queued for the journal.

        Raises TimeoutError if it is not acquired within `timeout` seconds.
        """
        return _WriteLock(self._write_locks, self._journaled, self._clock, key, timeout)

    async def write_locked(self, change: Change, durability: Durability | None, deadline: float) -> Ack:
        """Make the change, while the caller holds the key's `lock`; `deadline`: monotonic time. Raises as `put`."""
        change, durability, key = self._checked(change), durability or self._mode, change.target.cache_key
        base: Base = UNKNOWN
        if durability != THROUGH:
            await self.buckets.confirm_exists(change.target.ref.bucket, deadline)
        self.check_fence()
        self._write_through.check_condition(change)
        decided = change.conditional and (durability != THROUGH or change.value is None or key in self._dirty)
        if decided:
            base = await self._check_condition(change, deadline)
        # After everything that waits: the lock, and S3's reply about the condition.
        self.check_fence()
        self.check_owner(change)
        reason = ""
        tried = False
        if durability == MEMORY:
            if self._journaled.fits_in_memory(change):
                return self._journaled.remember(change, base)
            reason = "draining" if self.draining else "dirty_limit"
        if durability == BACK:
            reason = self._journaled.rejection(change)
            if not reason:
                try:
                    await self._journaled.append(change, base, max(0.0, deadline - self._clock.now()))
                except NotDurable as error:
                    reason = error.reason
                    tried = isinstance(error, NotCopied)
                else:
                    self._count_ack(BACK, deadline)
                    return Ack(BACK, change.etag, change.value)
        if reason:
            self.forced[reason] += 1
        if key in self._dirty:
            # What S3 holds under a dirty entry is determined when the write has the key's turn in S3. Otherwise:
            # (1) a delete is dirty over etag "1", and is being uploaded; (2) the condition of this write holds, and
            # its base is "1"; (3) the upload is done, and the entry is gone; (4) this write finds no object where
            # it expects "1", and takes our own delete for one by another writer.
            base = UNKNOWN
        try:
            ack = await self._write_through.write(change, base, deadline, decided=decided)
        except ConditionFailed as error:
            if tried:
                raise outcome_unknown(error) from None
            raise
        except MilenaError as error:
            raise (outcome_unknown if tried else _because)(error, reason) from None
        self._count_ack(THROUGH, deadline)
        return ack

    def _count_ack(self, durability: Durability, deadline: float) -> None:
        # After the deadline its caller has got DeadlineExceeded.
        if self._clock.now() < deadline:
            self.acknowledged[durability] += 1

    async def _check_condition(self, change: Change, deadline: float) -> Base:
        """Return S3's object under the newest write, which meets the change's condition. Raises ConditionFailed."""
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
                # The entry may be older than the version that the caller has seen: look in S3 before failing.
                sent_at = self._clock.now()
                try:
                    found = await self._origin.look(target.ref, deadline)
                except OriginFailure as failure:
                    raise failure.as_error() from None
                if found is not None and self.reaper.is_over(found, target.ref):
                    found = None
                base = current = found.etag if found is not None else ABSENT
                self._entries.invalidate_unless(
                    target.cache_key, known_of(found, target.ref, sent_at, change.owned_since)
                )
        if not change.is_met_by(current):
            has = "it does not exist" if current is ABSENT else f"its ETag is {current}"
            requested = f"if_match={change.if_match}" if change.if_match else 'if_none_match="*"'
            raise ConditionFailed(f"{target.ref}: {requested} was requested, and {has}")
        return base

    # ---- the rest

    def check_fence(self) -> None:
        """Raise what `refusal` returns."""
        if (rejected := self.fence_error()) is not None:
            raise rejected

    def journaling(self, key: bytes) -> bool:
        """Return True while a write of `key` is queued for the journal or in a commit."""
        return key in self._journaled

    def busy(self) -> Iterator[bytes]:
        """Iterate over the keys with a write or an upload in flight; a key may come twice."""
        return chain(self._journaled, self.slow())

    def slow(self) -> Iterator[bytes]:
        """Iterate over the keys with an upload or a write in flight that may wait for S3; a key may come twice."""
        return chain(self._write_locks, self._s3_locks)

    async def revalidate(self, entry: DirtyEntry, owned_since: int, deadline: float) -> None:
        """Revalidate a dirty entry of an earlier ownership, see `OwnershipRevalidation`. Raises as `put` does."""
        await self._revalidation.revalidate(entry, owned_since, deadline)

    def mark_unconfirmed(self, key: bytes) -> None:
        """Have a dirty entry of `key` revalidated before it is served: another writer may have changed it."""
        entry = self._dirty.get(key)
        if entry is not None:
            entry.belief = entry.belief.unconfirmed()

    async def finish(self, timeout: float) -> int:
        """Wait for the writes in flight, at most `timeout` seconds; return how many have not finished."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self.reaper.finish()
        return len(self._tasks)


class _AckFuture:
    """The receipt of a write that was begun by itself: it sets `acked`, and marks errors as retrieved.

    A future that has the error of a caller who has given up would be logged otherwise.
    """

    __slots__ = ("_acked", "_change", "_timeout", "_writes")

    def __init__(self, writes: Writes, change: Change, timeout: float, acked: asyncio.Future[Ack]) -> None:
        self._writes = writes
        self._change = change
        self._timeout = timeout
        self._acked = acked

    def done(self) -> bool:
        return self._acked.done()

    def set_result(self, result: None, /) -> None:
        self._writes.acknowledged[BACK] += 1
        self._acked.set_result(Ack(BACK, self._change.etag, self._change.value))

    def set_exception(self, error: Exception, /) -> None:
        if isinstance(error, NotDurable):
            # Not within the commit that has failed, whose other writes do not have their result yet.
            asyncio.get_running_loop().call_soon(self._continue, error)
        else:
            self._acked.set_exception(error)
            self._acked.exception()

    def _continue(self, error: NotDurable) -> None:
        in_turn = self._writes.continue_in_turn(self._change, error, self._timeout)
        in_turn.add_done_callback(partial(_pass_on, self._acked))


def _pass_on(acked: asyncio.Future[Ack], task: asyncio.Task[Ack]) -> None:
    if acked.done() or task.cancelled():
        acked.cancel()
    elif error := task.exception():
        acked.set_exception(error)
        acked.exception()  # marks it as retrieved, as above
    else:
        acked.set_result(task.result())


def outcome_unknown(error: MilenaError, reason: str = NotCopied.reason) -> MilenaError:
    """Return the error for a write that did not get through to S3, and that a journal may have nevertheless."""
    if isinstance(error, DeadlineExceeded) or "unknown" in str(error):
        return error
    return Unavailable(f"the outcome of the write is unknown: {FORCED[reason]}; {error}")


def _because(error: MilenaError, reason: str) -> MilenaError:
    """Return `error` with the reason why a write of a weaker class had to go through to S3."""
    return type(error)(f"{error}; the write had to go through S3, because {FORCED[reason]}") if reason else error
