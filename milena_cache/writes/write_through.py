"""Coordination. Write-through: writes that are in S3 before they are acknowledged.

A write holds its key's lock on S3 from its first attempt to its end, so that no upload of an older write runs
concurrently. If it succeeds, it replaces a dirty entry, whose record is removed before the acknowledgement. If the
journal has no room for the removal, a crash may bring the record back: a put is acknowledged all the same, because
its version in S3 is the later one; a delete leaves no version in S3, so it fails, and the dirty entry stays. If the
write fails, the dirty entry stays, and its upload finds out whether S3 has the write; without a dirty entry, the
clean entry is marked stale, because S3 may have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from milena_cache.memory.entries import Entries
from milena_cache.memory.existence import Known
from milena_cache.objects.entry import entry_of
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.object_store import OriginFailure, Ref
from milena_cache.objects.version import ABSENT, UNKNOWN, Base, Version
from milena_cache.objects.write_request import Ack, Change
from milena_cache.origin.conditions import Capability
from milena_cache.origin.requests import BACKOFF
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_cache.writeback.uploads.upload import Conflict, Policy, Uploader, UploadOutcome, UploadResult, Write
from milena_cache.writes.assembly import StoredParts
from milena_cache.writes.durable import Durable
from milena_common.api.durability import THROUGH
from milena_common.api.errors import ConditionFailed, MilenaError, Unavailable
from milena_common.runtime.clock import Clock
from milena_common.runtime.key_locks import KeyLocks

# A put is correct even while an earlier write's record is still in the journal. But after a crash that record could
# be taken for a conflict with what others write later. So a put waits for its removal as long as a healthy disk may
# need, in seconds.
PUT_TIMEOUT = 0.1


class WriteThrough:
    """Writes of one node through to S3, each with up to `retries` further attempts."""

    def __init__(
        self,
        uploader: Uploader,
        durable: Durable[DirtyEntry],
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        s3_locks: KeyLocks,
        recent: RecentUploads,
        entries: Entries,
        clock: Clock,
        rng: Callable[[], float],
        retries: int,
        put_timeout: float = PUT_TIMEOUT,
    ) -> None:
        self.conditions = uploader.conditions
        # Called as `WriteBack.wrote` is.
        self.wrote: Callable[[bytes, int], Awaitable[None] | None] = lambda key, owned_since: None
        # Called as `WriteBack.deleted` is, before the acknowledgement.
        self.deleted: Callable[[bytes, Version], None] = lambda key, version: None
        # Called before S3 gets a delete of a key without dirty entry, as `Tombstones.deleting`.
        self.deleting: Callable[[bytes, Version], bool] = lambda key, version: False
        # Returns the error for a request to S3 that may not begin, because the node may not own the slot any more.
        self.fence_error: Callable[[], MilenaError | None] = lambda: None
        # Returns True if the key's slot is not this node's any more since the given epoch.
        self.has_lost: Callable[[bytes, int], bool] = lambda key, owned_since: False
        self._uploader = uploader
        self._durable = durable
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._s3_locks = s3_locks
        self._recent = recent
        self._entries = entries
        self._clock = clock
        self._rng = rng
        self._retries = retries
        self._put_timeout = put_timeout

    def check_condition(self, change: Change) -> None:
        """Raise FailedPrecondition for a conditional write that S3_CONDITIONS=require does not allow here."""
        if change.conditional:
            condition = Capability.CREATE if change.if_none_match else Capability.REPLACE
            self.conditions.check(Capability.DELETE if change.value is None else condition)

    async def write(self, change: Change, base: Base, deadline: float, *, decided: bool) -> Ack:
        """Write the change to S3; no request begins after `deadline` (monotonic seconds).

        `decided`: the change's condition was checked and holds, and `base` is S3's object under it; otherwise S3
        checks it. Raises ConditionFailed; TimeoutError if the key's lock is not free in time; the error of
        `OriginFailure.as_error` if S3 fails; Unavailable for a delete whose earlier record cannot be removed, and
        if `refusal` has an error by the end; that error if it has one before S3 may have got the write.
        """
        key = change.target.cache_key
        deleted = change.value is None
        # An object that expires leaves no version in S3 in the end, as a deleted one does.
        strict = deleted or bool(change.expires_at)
        async with self._s3_locks.hold(key, max(0.0, deadline - self._clock.now())):
            if strict and not await self._let_go(key, deadline):
                raise _no_room(change.target.ref)
            self._entries.fence_reads(key)
            write = self._prepare(change, base, decided)
            if deleted and not await self._delete_recorded(key, write.version, deadline):
                raise Unavailable(
                    f"{write.ref}: a node is away that may have an earlier write of the key, and the delete could "
                    "not be recorded here and at the nodes with copies; nothing was done"
                )
            try:
                result = await self._attempts(write, deadline)
            except BaseException as error:
                self._failed(write, key, error)
                if isinstance(error, Conflict):
                    raise ConditionFailed(f"{write.ref}: {error}") from None
                if isinstance(error, OriginFailure):
                    raise error.as_error() from None
                raise
            finally:
                self._entries.fence_reads(key)
            if not await self._copies_released(key, write.version, deadline):
                self._is_doubtful(write, key)
                raise Unavailable(
                    f"{write.ref}: S3 has the write, and its outcome is unknown: a node that holds a copy of an "
                    "earlier write of the key has not confirmed that it gives it up"
                )
            if deleted and result.outcome is not UploadOutcome.SUPERSEDED:
                self.deleted(key, write.version)
            if not await self._retire_earlier(key, deadline, strict=strict):
                self._is_doubtful(write, key)
                what, again = ("deleted in S3", "delete") if deleted else ("S3 has it, with its expiry", "write")
                raise Unavailable(
                    f"{write.ref}: {what}, but the journal has no room to remove the record of an earlier write, "
                    f"which stays; {again} it again when there is room"
                )
            etag = result.base if isinstance(result.base, str) else ""
            if result.outcome is UploadOutcome.SUPERSEDED:
                self._entries.invalidate(key)
                self._recent.discard(key)
            else:
                self._recent.add(key, exists=change.value is not None)
                now = self._clock.now()
                self._entries.keep(key, entry_of(change.value, etag, now, change.owned_since, change.expires_at))
                self._entries.change_feed.notify(key)
                self._entries.change_feed.event("del" if change.value is None else "set", key)
            notified = self.wrote(key, change.owned_since)
            if notified is not None:
                await notified
            await self._let_go(key, min(deadline, self._clock.now() + self._put_timeout))
            if (rejected := self._rejected(change)) is not None:
                raise _unknown(write, rejected)
            return Ack(THROUGH, etag, None)

    async def store_parts(self, change: Change, parts: StoredParts, deadline: float, *, decided: bool) -> Ack:
        """Make the object whose bytes S3 has in `parts`; no request begins after `deadline` (monotonic seconds).

        `decided` and errors are as in `write`. The version in S3 may be smaller than that of an earlier write of
        the key (see `multipart`), or there is none (see `client_uploads`), so this is acknowledged only when no
        record and no copy of such a write is left.
        """
        target, key = change.target, change.target.cache_key
        async with self._s3_locks.hold(key, max(0.0, deadline - self._clock.now())):
            if not await self._let_go(key, deadline):
                raise _no_room(target.ref)
            self._entries.fence_reads(key)
            if (rejected := self.fence_error()) is not None:
                raise rejected
            try:
                etag, found = await parts.complete(change, deadline, decided=decided)
            except BaseException as error:
                if isinstance(error, ConditionFailed):
                    self._entries.invalidate(key)  # S3 has something else than the caller knows
                elif getattr(error, "ambiguous", True):
                    self._parts_doubtful(key)
                if isinstance(error, OriginFailure):
                    raise error.as_error() from None
                raise
            finally:
                self._entries.fence_reads(key)
            if not await self._copies_released(key, self._durable.next_version(change.owned_since), deadline):
                self._parts_doubtful(key)
                raise Unavailable(
                    f"{target.ref}: S3 has the write, and its outcome is unknown: a node that holds a copy of an "
                    "earlier write of the key has not confirmed that it gives it up"
                )
            if not await self._retire_earlier(key, deadline, strict=True):
                self._parts_doubtful(key)
                raise Unavailable(
                    f"{target.ref}: S3 has the write, and its outcome is unknown: the journal has no room to "
                    "remove the record of an earlier write, which stays"
                )
            self._recent.add(key, exists=True)
            self._entries.invalidate(key)
            if found is not None:
                known = Known(found.size, found.etag, NEVER, self._clock.now(), change.owned_since)
                self._entries.found(key, known)
            notified = self.wrote(key, change.owned_since)
            if notified is not None:
                await notified
            if (rejected := self._rejected(change)) is not None:
                why = str(rejected).removesuffix("; nothing was done")
                raise Unavailable(f"{target.ref}: the outcome of the write is unknown: {why}")
            return Ack(THROUGH, etag, None)

    def _rejected(self, change: Change) -> MilenaError | None:
        """Return why a write that S3 has must not be acknowledged; None if it may be.

        By the ring of its new owner a slot has no holders that this node knows. So what was waited for above says
        nothing then: (1) this node is taken for lost, and joins again before it sees the ring without it; (2) a
        holder gets the slot; (3) this write ends here, and the new owner serves its copy of the write before.
        """
        if self.has_lost(change.target.cache_key, change.owned_since):
            return Unavailable("another node owns the key's slot since the write began")
        return self.fence_error()

    def _parts_doubtful(self, key: bytes) -> None:
        """Record that S3 may have an object that is not acknowledged, under the dirty entry if there is one."""
        entry = self._dirty.get(key)
        if entry is not None:
            entry.belief = entry.belief.in_doubt()
        else:
            self._entries.mark_stale(key)

    async def _delete_recorded(self, key: bytes, version: Version, deadline: float) -> bool:
        """Return True once S3 may get a delete: no node will take an earlier write of the key for the newest."""
        if key in self._dirty or not self.deleting(key, version):
            return True  # the dirty write is later than what other nodes may have
        return await self._let_go(key, deadline) and await self._copies_released(key, version, deadline)

    async def _copies_released(self, key: bytes, version: Version, deadline: float) -> bool:
        """Return True if no holder of copies would serve an earlier write of the key, if it got the slot.

        Until then no reader may see the write: (1) it is a delete, and S3 has it; (2) a read returns no object; (3)
        this node is lost, and a holder serves the put before, of which S3 does not show that it was deleted.
        """
        if key in self._dirty:
            self._durable.retired(key, version)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                return await self._durable.copies_released(key)
        except TimeoutError:
            return False

    async def _retire_earlier(self, key: bytes, deadline: float, *, strict: bool) -> bool:
        """Retire the dirty entry of the key, which S3 has superseded; False if its records cannot be removed.

        `strict`: they must be, since S3 has no version of this write that shows it to be the later one. Then no
        reader sees the write before they are: (1) a delete over a dirty put; (2) a read returns no object; (3) the
        process is killed, and the next one serves the put that its journal has. If they cannot be removed in time,
        the entry stays, as if this write had not been.
        """
        entry = self._dirty.get(key)
        first = strict and entry is not None and self._dirty_writes.release_records(entry)
        if first and not await self._let_go(key, deadline):
            return False
        if entry is not None:
            self._dirty_writes.retire(entry)
        return not strict or await self._let_go(key, deadline)

    async def _let_go(self, key: bytes, deadline: float) -> bool:
        """Return True once no released record of the key can come back; False if one still can at `deadline`."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.now())):
                # Once more: what had no room is tried again, in case that was for a moment.
                return await self._durable.has_released(key) or await self._durable.has_released(key)
        except TimeoutError:
            return False

    def _prepare(self, change: Change, base: Base, decided: bool) -> Write:
        key = change.target.cache_key
        entry = self._dirty.get(key)
        version = self._durable.next_version(change.owned_since)
        owned_since, conditional = change.owned_since, change.conditional
        strict = conditional and not decided
        indeterminate = maybe_absent = False
        if strict:
            base = change.if_match or ABSENT
            # S3 also compares with the ETag of an expired object that it still holds, and the caller must not match
            # that: unless memory has the ETag as the current one, the upload looks first.
            indeterminate = bool(change.if_match) and self._entries.current(key, owned_since) != change.if_match
        elif entry is None and base is UNKNOWN:
            base, maybe_absent = self._entries.base(key, owned_since)
        belief = S3Belief(base, owned_since, maybe_absent, indeterminate, conditional, change.keeps)
        if entry is not None and not strict:
            # S3 holds what it holds under the dirty write, whose attempts may have happened without a response: a
            # delete of ours that S3 may have carried out is not a deletion by another writer. If the dirty write is
            # a new object, this one is new too, and no attributes are preserved.
            belief = belief.replacing(entry.belief, deleted=entry.deleted, dead=entry.dead is not None)
        policy: Policy | None = "fail" if conditional else None
        return Write(
            change.target.ref,
            version,
            change.value,
            belief,
            policy,
            strict,
            change.expires_at,
            metadata=change.metadata,
            attributes=change.attributes,
        )

    async def _attempts(self, write: Write, deadline: float) -> UploadResult:
        failures = 0
        ambiguous = False
        while True:
            if (rejected := self.fence_error()) is not None:
                raise _unknown(write, rejected) if ambiguous else rejected
            try:
                return await self._uploader.upload(write, deadline)
            except OriginFailure as failure:
                failures += 1
                # If one attempt may have been carried out, the whole write may have been.
                failure.ambiguous = ambiguous = ambiguous or failure.ambiguous
                pause = BACKOFF.delay(failures, self._rng)
                too_late = self._clock.now() + pause >= deadline
                if not failure.fault.retryable or failures > self._retries or too_late:
                    raise
            await self._clock.sleep(pause)

    def _is_doubtful(self, write: Write, key: bytes) -> None:
        """Record that S3 has a write that is not acknowledged, and that holders may not know of."""
        entry = self._dirty.get(key)
        if entry is not None:
            entry.belief = entry.belief.write_through_failed(write.belief, deleted=write.value is None)
        else:
            self._entries.mark_stale(key)

    def _failed(self, write: Write, key: bytes, error: BaseException) -> None:
        entry = self._dirty.get(key)
        if entry is not None:
            entry.belief = entry.belief.write_through_failed(write.belief, deleted=write.value is None)
        elif isinstance(error, Conflict):
            self._entries.invalidate(key)
        elif not isinstance(error, OriginFailure) or error.ambiguous:
            self._entries.mark_stale(key)


def _no_room(ref: Ref) -> Unavailable:
    """Return the error for a write that begins while a crash could bring back an earlier one, which is over."""
    return Unavailable(
        f"{ref}: the journal has no room to remove the record of an earlier write, which a crash could bring back; "
        "nothing was done"
    )


def _unknown(write: Write, rejected: MilenaError) -> Unavailable:
    """Return the error for a write that S3 may have, or has, and that must not be acknowledged."""
    why = str(rejected).removesuffix("; nothing was done")
    return Unavailable(f"{write.ref}: the outcome of the write is unknown: {why}")
