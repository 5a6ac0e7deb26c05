"""Coordination. The node's policy for reads, over dirty entries, memory, single-flight calls and S3.

    read    memory ── a dirty entry: acknowledged, and not in S3 yet ──▶ hit               never awaits
              │    ── an entry that may be served ──▶ hit, stale, negative_hit             never awaits
              └─ none ─▶ single-flight call ─▶ S3 ─▶ memory ──▶ miss, revalidated, changed, coalesced, bypass
                            ├─ a copy on disk that is fresh ─▶ memory ──▶ hit
                            └─ S3 fails, and there is an entry within its keep ──▶ stale_error

Memory is looked up once, and the result is passed on; only the fetch looks up again, since time has passed by then.
Puts and deletes are in `writes`.

Invariants:
1. Reads see acknowledged writes: a read that starts after an acknowledgement gets no older value through this node.
   A dirty entry is served before any clean one; a read of S3 that was in flight when a write of its key began or
   ended is neither kept nor joined afterwards.
2. An entry or dirty entry from an earlier ownership of its slot (`owned_since`) is never served without
   confirmation by S3, not even when S3 fails: another node may have acknowledged a newer value in between.
3. A caller that times out or is cancelled cancels no request to S3: single-flight calls run in the node's own
   tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol, TypeVar

from milena_cache.memory.entries import Entries
from milena_cache.memory.existence import Known, known_of
from milena_cache.memory.freshness import Freshness, Window
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SharedCall, SingleFlight
from milena_cache.objects.entry import Entry, cost_of, differ, entry_of
from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import expiry_of, is_expired, to_the_millisecond
from milena_cache.objects.names import Buckets, Object
from milena_cache.objects.object_store import Absent, Page, Readable, Ref, Stored, TooLarge
from milena_cache.objects.read_outcomes import HITS, ReadCounts
from milena_cache.objects.unlisted import Unlisted
from milena_cache.reads.listing import Listings
from milena_cache.reads.read_modify_write import KEEP, Decide, Modified, NewValue, Otherwise, modify
from milena_cache.reads.refresh import Refresher
from milena_cache.reads.shared_reads import SharedReads
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_cache.writes.writer import Writes
from milena_common.api.durability import Durability
from milena_common.api.errors import MilenaError, NoNodes, OriginUnavailable
from milena_common.runtime.clock import Clock

T = TypeVar("T")

# In place of an `owned_since`: the fence is closed, and only clean entries may be served.
FENCED = 2**63


class Reply(NamedTuple):
    """The reply to a read.

    outcome: one of `read_outcomes`
    entry: the object; its `value` is None if it does not exist
    age: seconds since S3 last confirmed it; 0 for a dirty entry
    dirty: True if the object was acknowledged and is not in S3 yet
    """

    outcome: str
    entry: Entry
    age: float
    dirty: bool = False


class FetchResult(NamedTuple):
    """The result of a single-flight read.

    outcome: one of `read_outcomes`
    entry: the object, whether or not it was kept in memory
    """

    outcome: str
    entry: Entry


class DiskCopies(Protocol):
    """Values of evicted entries, and of those of earlier processes; see `milena_cache.disk_cache`."""

    async def read_copy(self, key: bytes) -> Entry | None:
        """Return the copy of a key, with the stamp of its last confirmation by S3; None if there is none."""


class Node:
    """The reads of one cache node. All times are taken from `clock`."""

    def __init__(
        self,
        *,
        store: Readable,
        memory: Memory,
        fetches: SingleFlight[FetchResult],
        entries: Entries,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        recent: RecentUploads,
        writes: Writes,
        reads: ReadCounts,
        freshness: Freshness,
        buckets: Buckets,
        clock: Clock,
        max_value_bytes: int,
        revalidate_timeout: float,
        block_threshold: int,
    ) -> None:
        self.reads = reads
        self.memory = memory
        self.fetches = fetches
        self.dirty = dirty
        self.dirty_writes = dirty_writes
        self.recent = recent
        self.writes = writes
        self.change_feed = entries.change_feed
        self._store = store
        self._entries = entries
        self._freshness = freshness
        self.clock = clock
        self._max_value_bytes = max_value_bytes
        # Objects over this are read in blocks where only a part of them is requested, see `part_reads`.
        self.max_whole_bytes = max(1, min(block_threshold, max_value_bytes, memory.max_bytes))
        self._existence = entries.existence
        self._shared = SharedReads(reads, clock, revalidate_timeout)
        self.listings = Listings(store, buckets, dirty, dirty_writes, recent, clock)
        self.refresher = Refresher(entries, dirty)
        # Returns an entry of another node that is to be served instead of S3's object, for the ownership since an
        # epoch; None if there is none, see `milena_cache.handover.old_owner`.
        self.from_old_owner: Callable[[bytes, int], Awaitable[Entry | None]] | None = None
        # Values on disk; None without DISK_CACHE_DIR.
        self.disk_cache: DiskCopies | None = None
        # True if its reads are events of the sample by which the memory's size is judged.
        self._samples = True
        # The same node for reads on behalf of writes, which the hit ratio leaves out.
        self.uncounted = copy(self)
        self.uncounted._samples = False
        self.uncounted.reads = ReadCounts()
        self.uncounted._shared = self._shared.counting(self.uncounted.reads)

    # Reading.

    def lookup(self, target: Object, owned_since: int = 0) -> Reply | None:
        """Return the reply from memory; None if S3 must be read first. Never awaits.

        An entry within its grace is served, and revalidated in the background. Raises FailedPrecondition if an
        acknowledged value is damaged in the journal.
        """
        if owned_since == FENCED:
            return self._fenced(target)
        dirty = self.dirty.get(target.cache_key)
        if dirty is not None:
            return self._reply_dirty(dirty) if dirty.belief.owned_since >= owned_since else None
        entry = self.memory.get(target.cache_key)
        return None if entry is None else self._reply_entry(target, entry, owned_since)

    def _reply_entry(self, target: Object, entry: Entry, owned_since: int) -> Reply | None:
        """Return the reply from `entry`; None if it may not be served without a request to S3."""
        checked_at, checked_since = entry.stamp
        if checked_since < owned_since:
            return None
        age = self.clock.now() - checked_at
        window = self._freshness.window(target.cache_key, age, negative=entry.value is None)
        if entry.expires_at and self._is_expired(entry):
            return self._expired(target, entry, age, window)
        if window is Window.FRESH:
            outcome = "hit" if entry.value is not None else "negative_hit"
        elif window is Window.GRACE:
            outcome = "stale"
            self._refresh(target, entry)
        else:
            return None
        if type(entry) is not Entry and self._samples:
            self.memory.read_sampled(target.cache_key, entry)
        self.reads.hit(outcome, target.cache_key, entry.size)
        return Reply(outcome, entry, age)

    def size_in_memory(self, target: Object) -> int:
        """Return the length in bytes of the value in a dirty or clean entry; 0 if there is none."""
        dirty = self.dirty.get(target.cache_key)
        if dirty is not None:
            return dirty.size
        entry = self.memory.peek(target.cache_key)
        return entry.size if entry is not None else 0

    def _reply_dirty(self, dirty: DirtyEntry) -> Reply:
        now = self.clock.now()
        if dirty.deleted or (dirty.expires_at and self.dirty_writes.is_gone(dirty)):
            entry = Entry(None, "", now, dirty.belief.owned_since)
            outcome = "negative_hit"
        else:
            value, etag = self.dirty_writes.value(dirty), self.dirty_writes.etag(dirty)
            entry = entry_of(value, etag, now, dirty.belief.owned_since, dirty.expires_at)
            outcome = "hit"
        self.reads.hit(outcome, dirty.key, entry.size)
        return Reply(outcome, entry, 0.0, dirty=True)

    def _fenced(self, target: Object) -> Reply:
        """Return the reply from a clean entry that may be kept, whatever its age; nothing is requested of S3.

        S3 could not confirm it: the owner may have acknowledged writes that S3 does not have yet. For the same
        reason a dirty write of this node is not served. Raises NoNodes if there is no such entry.
        """
        entry = self.memory.get(target.cache_key)
        if entry is not None and target.cache_key not in self.dirty and not self._is_expired(entry):
            age = self.clock.now() - entry.checked_at
            window = self._freshness.window(target.cache_key, age, negative=entry.value is None)
            if window is not Window.GONE:
                self.reads.hit("stale_fenced", target.cache_key, entry.size)
                return Reply("stale_fenced", entry, age)
        self.reads.outcomes["error"] += 1
        raise NoNodes(f"{target.ref}: this node is fenced, and has no clean entry of the key; nothing was done")

    def _expired(self, target: Object, cached: Entry, age: float, window: Window) -> Reply | None:
        """Return the reply for an object whose expiry has passed; None if its entry is too old to rely on.

        Beyond its grace S3 is read: the object may have been written anew, with another expiry.
        """
        if window is not Window.FRESH and window is not Window.GRACE:
            return None
        self.writes.reaper.noticed(target, cached.owned_since)
        self.reads.hit("negative_hit", target.cache_key, 0)
        return Reply("negative_hit", Entry(None, "", cached.checked_at, cached.owned_since), age)

    async def _revalidate(self, target: Object, timeout: float, owned_since: int) -> Reply | None:
        """Have S3 confirm a dirty entry from an earlier ownership, if there still is one; return `lookup`'s reply.

        None if that has no reply. Raises OriginUnavailable after `timeout` seconds, and what the revalidation
        raises. Always looks up again, since this begins later than its caller has looked: (1) a delete from an
        earlier ownership is dirty, and S3 still has the object; (2) a read sees that the delete is to be
        revalidated; (3) before this begins, a put of the key becomes dirty, so that nothing is to be revalidated.
        S3's object, read instead, would be older than the delete.
        """
        dirty = self.dirty.get(target.cache_key)
        if dirty is None or dirty.belief.owned_since >= owned_since:
            return self.lookup(target, owned_since)
        try:
            async with asyncio.timeout(timeout):
                await self.writes.revalidate(dirty, owned_since, self.clock.now() + timeout)
        except TimeoutError:
            self.reads.outcomes["error"] += 1
            raise OriginUnavailable(f"S3 head of {target.ref}: no response within {timeout:.3g} s") from None
        except MilenaError:
            self.reads.outcomes["error"] += 1
            raise
        return self.lookup(target, owned_since)

    async def get(self, target: Object, timeout: float, owned_since: int = 0) -> Reply:
        """As `read`, but always to be awaited."""
        reply = self.read(target, timeout, owned_since)
        return reply if isinstance(reply, Reply) else await reply

    def read(
        self, target: Object, timeout: float, owned_since: int = 0, *, whole: bool = True
    ) -> Reply | Awaitable[Reply]:
        """Return the object if memory has it, else an awaitable that has it within `timeout` seconds.

        The request to S3 has begun by then: it continues even if the result is not awaited. `whole`: False if an
        object over `max_whole_bytes` is not to be fetched: awaiting may raise TooLarge then, with size and ETag.
        Raises FailedPrecondition; awaiting raises OriginUnavailable, AccessDenied or FailedPrecondition with S3's
        message.
        """
        if owned_since == FENCED:
            return self._fenced(target)
        dirty = self.dirty.get(target.cache_key)
        if dirty is not None:
            if dirty.belief.owned_since < owned_since:
                return self._read_after_revalidation(target, timeout, owned_since, whole)
            return self._reply_dirty(dirty)
        entry = self.memory.get(target.cache_key)
        if entry is not None:
            reply = self._reply_entry(target, entry, owned_since)
            if reply is not None:
                return reply
        return self._read_through(target, timeout, owned_since, entry, whole)

    async def _read_after_revalidation(
        self, target: Object, timeout: float, owned_since: int, whole: bool
    ) -> Reply:
        reply = await self._revalidate(target, timeout, owned_since)
        if reply is None:
            # Looked up again: the revalidation may have replaced the entry.
            found = self._read_through(target, timeout, owned_since, self.memory.get(target.cache_key), whole)
            reply = found if isinstance(found, Reply) else await found
        return reply

    def _read_through(
        self, target: Object, timeout: float, owned_since: int, entry: Entry | None, whole: bool
    ) -> Reply | Awaitable[Reply]:
        """Join or start a fetch. `entry`: what memory has, which may not be served without that."""
        cached = self._servable_on_error(target, entry, owned_since)
        if cached is not None and self._shared.expects_failure(target):
            self._refresh(target, cached)
            return self._served_stale(target, cached)
        call = self.fetches.join(target.cache_key, owned_since, self.clock.now())
        shared = call is not None
        if call is None:
            call = self._start(target, owned_since)
            call.whole = whole
        else:
            call.spare = False
            if whole:
                call.whole = True
        call.counted = call.counted or self._samples

        def reply(fetched: FetchResult) -> Reply:
            outcome = "coalesced" if shared else fetched.outcome
            count = self.reads.hit if outcome in HITS else self.reads.miss
            count(outcome, target.cache_key, fetched.entry.size)
            return Reply(outcome, fetched.entry, max(0.0, self.clock.now() - fetched.entry.checked_at))

        if cached is None:
            return self._shared.result(call, target, timeout, "get", reply)
        return self._newer_or_stale(call, target, timeout, cached, reply)

    async def _newer_or_stale(
        self,
        call: SharedCall[FetchResult],
        target: Object,
        timeout: float,
        cached: Entry,
        reply: Callable[[FetchResult], Reply],
    ) -> Reply:
        fetched = await self._shared.wait(self.fetches, call, target, timeout, "get", has_entry=True)
        return self._served_stale(target, cached) if fetched is None else reply(fetched)

    def _servable_on_error(self, target: Object, entry: Entry | None, owned_since: int) -> Entry | None:
        if entry is None or entry.value is None or entry.owned_since < owned_since or self._is_expired(entry):
            return None
        age = self.clock.now() - entry.checked_at
        return entry if self._freshness.may_serve_on_error(target.cache_key, age) else None

    def _served_stale(self, target: Object, cached: Entry) -> Reply:
        self.reads.hit("stale_error", target.cache_key, cached.size)
        return Reply("stale_error", cached, self.clock.now() - cached.checked_at)

    def _refresh(self, target: Object, cached: Entry) -> None:
        """Revalidate `cached` in the background, if no read of the key is in flight and a probe is allowed."""
        joined = self.fetches.join(target.cache_key, cached.owned_since, self.clock.now())
        if joined is None and self._shared.may_probe(target):
            self._start(target, cached.owned_since)

    def has_current(self, target: Object, owned_since: int) -> bool:
        """True if a read would be served from memory, or join another one. It counts as no use of an entry."""
        key = target.cache_key
        if key in self.dirty or key in self.fetches:
            return True
        entry = self.memory.peek(key)
        if entry is None or entry.owned_since < owned_since or self._is_expired(entry):
            return False
        age = self.clock.now() - entry.checked_at
        window = self._freshness.window(key, age, negative=entry.value is None)
        return window is Window.FRESH or window is Window.GRACE

    def start_warming(self, target: Object, owned_since: int) -> SharedCall[FetchResult] | None:
        """Begin to read an object that no reader has requested; None if `has_current` is True.

        What it returns is kept only if it evicts nothing, unless a reader joins. It counts as no read.
        """
        if self.has_current(target, owned_since):
            return None
        call = self._start(target, owned_since)
        call.whole = False
        call.spare = True
        return call

    def _start(self, target: Object, owned_since: int) -> SharedCall[FetchResult]:
        return self.fetches.start(
            target.cache_key, owned_since, lambda call: self._fetch(target, owned_since, call), self.clock.now()
        )

    async def _fetch(self, target: Object, owned_since: int, call: SharedCall[FetchResult]) -> FetchResult:
        """Read the object from S3, conditionally if there is an entry; keep the result if `call` is attached."""
        before = cached = self.memory.get(target.cache_key)
        if cached is not None:
            age = self.clock.now() - cached.checked_at
            window = self._freshness.window(target.cache_key, age, negative=cached.value is None)
            if window is Window.FRESH and cached.owned_since >= owned_since and not self._is_expired(cached):
                return FetchResult("revalidated", cached)  # another read has renewed it since the lookup
            if window is Window.GONE or cached.value is None or self._is_expired(cached):
                cached = None
        if self.disk_cache is not None and cached is None:
            copy = await self.disk_cache.read_copy(target.cache_key)
            if copy is not None and not self._is_expired(copy):
                # Anything that would have dropped the entry in memory meanwhile has dropped the copy.
                if call.attached and self._is_fresh(target, copy, owned_since):
                    self.fetches.detach(target.cache_key)
                    self._sample_read(call, copy)
                    return FetchResult("hit" if self._keep(call, target.cache_key, copy) else "bypass", copy)
                cached = copy
        if self.from_old_owner is not None and cached is None:
            handed = await self.from_old_owner(target.cache_key, owned_since)
            if handed is not None and call.attached and not self._is_expired(handed):
                self.fetches.detach(target.cache_key)
                self._sample_read(call, handed)
                kept = self._keep(call, target.cache_key, handed)
                return FetchResult("hit" if kept else "bypass", handed)
        requested_at = self.clock.now()
        try:
            got = await self._shared.observed(target, self._request(target.ref, cached, owned_since, call))
        except TooLarge as large:
            if call.attached and (found := large.found) is not None:
                # No later reader may join: (1) a read of a part starts this call, and the object is too large for
                # that; (2) a read of the whole object joins before the call's end is processed; (3) it fails,
                # because the object is too large, although it is within MAX_VALUE_BYTES.
                self.fetches.detach(target.cache_key)
                # S3 has another version than the entry, which would be asked about again by each read of a part.
                self.memory.remove(target.cache_key)
                # So that reads of its parts, see `part_reads`, need no request for its size.
                expires_at = expiry_of(found.metadata, target.ref)
                self._remember_size(target, found.size, found.etag, expires_at, requested_at, owned_since)
            raise
        # The age counts from the request, not from the reply: S3 may have changed while the reply was on its way.
        outcome = "changed" if cached else "miss"
        if isinstance(got, Absent):
            entry = Entry(None, "", requested_at, owned_since)
        else:
            expires_at = expiry_of(got.metadata, target.ref)
            entry = entry_of(got.value, got.etag, requested_at, owned_since, expires_at)
            if cached is not None and cached.value is got.value:
                outcome = "revalidated"
            if self._is_expired(entry):
                entry = Entry(None, "", requested_at, owned_since)
                self.writes.reaper.noticed(target, owned_since)
        self._sample_read(call, entry)
        if not call.attached:
            # The readers of this call get a result that is not kept, so that no later one is compared with it. If
            # one of them keeps it in a near cache: (1) a write detaches the call and is announced; (2) this older
            # result is returned; (3) nothing changes any more, and the near cache keeps it. So announce once more.
            self._entries.change_feed.notify(target.cache_key)
            # Nor may the entry from before the call be served afterwards: (1) it is past its grace, and S3 has a
            # later version; (2) a write detaches the call; (3) the readers of the call get the later version; (4)
            # the write fails, and the entry stays; (5) S3 fails, and a read is served the entry.
            now = self.memory.peek(target.cache_key)
            if now is not None and before is not None and not differ(now, before) and differ(now, entry):
                self._entries.invalidate(target.cache_key)
        else:
            # Another read of a late call may still be in flight with an older version; see `single_flight`. And no
            # later reader may join: (1) the value is too large for memory, and is announced; (2) a reader joins
            # this call before its end is processed, and keeps the value in a near cache; (3) the object changes,
            # which is not announced, since memory has nothing to compare with.
            self.fetches.detach(target.cache_key)
            if not self._keep(call, target.cache_key, entry):
                outcome = "bypass"
                self._remember_size(target, entry.size, entry.etag, entry.expires_at, requested_at, owned_since)
        return FetchResult(outcome, entry)

    def _sample_read(self, call: SharedCall[FetchResult], entry: Entry) -> None:
        """Record that memory had no entry for readers of `call`, which `entry` is about to be stored for.

        Before it is stored: in a simulated memory that has what was stored, the read would be a hit.
        """
        if call.counted:
            self.memory.samples.read(call.key, entry)

    def _is_fresh(self, target: Object, copy: Entry, owned_since: int) -> bool:
        """True if a copy from disk may be served as a fresh entry in memory would be."""
        if copy.owned_since < owned_since:
            return False
        age = self.clock.now() - copy.checked_at
        return self._freshness.window(target.cache_key, age, negative=False) is Window.FRESH

    def _keep(self, call: SharedCall[FetchResult], key: bytes, entry: Entry) -> bool:
        """Put the result of `call` into memory; False if it is not kept."""
        if call.spare and self.memory.peek(key) is None and not self.memory.has_room(cost_of(key, entry)):
            self._entries.change_feed.notify(key)
            return False
        return self._entries.keep(key, entry)

    def _remember_size(
        self, target: Object, size: int, etag: str, expires_at: float, checked_at: float, owned_since: int
    ) -> None:
        """Keep size and ETag of an object that is too large for memory, as after a HEAD."""
        self._existence.keep(target.cache_key, Known(size, etag, expires_at, checked_at, owned_since))

    async def _request(
        self, ref: Ref, cached: Entry | None, owned_since: int, call: SharedCall[FetchResult]
    ) -> Stored | Absent:
        """Return what S3 holds, with the entry's own value object if the object has not changed.

        Raises TooLarge for an object over MAX_VALUE_BYTES, or over `max_whole_bytes` if no reader of `call` needs
        the whole one.
        """
        if not call.whole:
            try:
                return await self._conditionally(ref, cached, owned_since, self.max_whole_bytes)
            except TooLarge:
                # Another reader may have joined since, which needs the whole object.
                if not call.whole:
                    raise
        return await self._conditionally(ref, cached, owned_since, self._max_value_bytes)

    async def _conditionally(
        self, ref: Ref, cached: Entry | None, owned_since: int, max_bytes: int
    ) -> Stored | Absent:
        etag = cached.etag if cached is not None else ""
        if cached is None or cached.value is None or not etag:
            return await self._store.get(ref, max_bytes=max_bytes)
        if cached.expires_at or cached.indeterminate or cached.owned_since < owned_since:
            # The same bytes may have been written anew with another expiry: the ETag is the same, and a 304 has no
            # metadata. A HEAD has.
            info = await self._store.head(ref)
            if info is not None and same_etag(info.etag, etag):
                return Stored(cached.value, etag, info.metadata)
            etag = ""
        got = await self._store.get(ref, if_none_match=etag, max_bytes=max_bytes)
        return Stored(cached.value, etag) if got is Absent.NOT_MODIFIED else got

    def _is_expired(self, entry: Entry) -> bool:
        return bool(entry.expires_at) and is_expired(entry.expires_at, self.clock.wall())

    async def exists(self, target: Object, timeout: float, owned_since: int = 0) -> tuple[Reply, int]:
        """Return a reply without the value, and the object's size in bytes (0 if it does not exist).

        Within `timeout` seconds; by a HEAD if nothing is known of the object. Raises as `get` does.
        """
        found = self.read_metadata(target, timeout, owned_since)
        return found if isinstance(found, tuple) else await found

    def read_metadata(
        self, target: Object, timeout: float, owned_since: int = 0
    ) -> tuple[Reply, int] | Coroutine[Any, Any, tuple[Reply, int]]:
        """As `exists`, but at once if memory has the reply."""
        if owned_since == FENCED:
            found = self._fenced(target)
            return found, found.entry.size
        entry = None
        reply = None
        dirty = self.dirty.get(target.cache_key)
        if dirty is not None:
            if dirty.belief.owned_since < owned_since:
                return self._exists_after_revalidation(target, timeout, owned_since)
            reply = self._reply_dirty(dirty)
        else:
            entry = self.memory.get(target.cache_key)
            reply = None if entry is None else self._reply_entry(target, entry, owned_since)
        return self._exists(target, timeout, owned_since, entry) if reply is None else (reply, reply.entry.size)

    async def _exists_after_revalidation(
        self, target: Object, timeout: float, owned_since: int
    ) -> tuple[Reply, int]:
        reply = await self._revalidate(target, timeout, owned_since)
        if reply is not None:
            return reply, reply.entry.size
        found = self._exists(target, timeout, owned_since, self.memory.get(target.cache_key))
        return found if isinstance(found, tuple) else await found

    def _exists(
        self, target: Object, timeout: float, owned_since: int, entry: Entry | None
    ) -> tuple[Reply, int] | Coroutine[Any, Any, tuple[Reply, int]]:
        """Send a HEAD, unless one has been sent. `entry`: what memory has, which may not be served without that."""
        key = target.cache_key
        now = self.clock.now()
        known = self._existence.get(key, owned_since)
        if known is not None:
            self.reads.hit("hit", key, 0)
            self.change_feed.notify(key)  # the memory has no entry with which a later reply could be compared
            return Reply("hit", known.stand_in(), now - known.checked_at), known.size or 0
        cached = self._servable_on_error(target, entry, owned_since)
        if cached is not None and self._shared.expects_failure(target):
            self._refresh(target, cached)
            return self._served_stale(target, cached), cached.size
        # Here and not in the coroutine, which may begin later: a write that began in between would not be seen.
        heads = self._existence.heads
        call = heads.join(key, owned_since, now)
        outcome = "miss" if call is None else "coalesced"
        if call is None:
            call = heads.start(key, owned_since, lambda call: self._head(target, owned_since, call), now)
        return self._found_or_stale(call, target, timeout, cached, outcome)

    async def _found_or_stale(
        self, call: SharedCall[Known], target: Object, timeout: float, cached: Entry | None, outcome: str
    ) -> tuple[Reply, int]:
        heads = self._existence.heads
        found = await self._shared.wait(heads, call, target, timeout, "head", has_entry=cached is not None)
        if found is None:
            assert cached is not None
            return self._served_stale(target, cached), cached.size
        self.reads.miss(outcome, target.cache_key, 0)
        age = max(0.0, self.clock.now() - found.checked_at)
        return Reply(outcome, found.stand_in(), age), found.size or 0

    async def _head(self, target: Object, owned_since: int, call: SharedCall[Known]) -> Known:
        """Send a HEAD for the object, and keep the result while `call` is attached."""
        key = target.cache_key
        requested_at = self.clock.now()
        info = await self._shared.observed(target, self._store.head(target.ref))
        expired = info is not None and self.writes.reaper.is_over(info, target.ref)
        if expired:
            self.writes.reaper.noticed(target, owned_since)
        known = known_of(None if expired else info, target.ref, requested_at, owned_since)
        attached = call.attached
        before = self.memory.peek(key)
        if before is not None and before.checked_at < requested_at:
            self._entries.invalidate_unless(key, known)
        if known.size is None:
            if attached and key not in self.fetches:
                self._entries.keep(key, Entry(None, "", requested_at, owned_since))
            else:
                self.change_feed.notify(key)
            return known
        if attached:
            call.attached = False
            self._entries.found(key, known)
        else:
            self.change_feed.notify(key)
        return known

    # Changing.

    async def modify(
        self,
        target: Object,
        decide: Decide,
        timeout: float,
        owned_since: int = 0,
        durability: Durability | None = None,
        *,
        counted: bool = False,
    ) -> Modified:
        """Replace the object's newest version by what `decide` returns for it, atomically; see `modify`.

        `counted`: the previous version is returned to the client (as GETDEL does), so this counts as a read too.
        """
        reader = self if counted else self.uncounted
        return await modify(
            reader, self.writes, self.clock, target, decide, timeout, owned_since=owned_since, durability=durability
        )

    async def expire(self, target: Object, expires_at: float, timeout: float, owned_since: int = 0) -> bool:
        """Set the object's expiry to `expires_at` (seconds since 1970; 0: never); False if there is no object.

        If that time has passed, the object is deleted. Raises as `modify` does.
        """
        expires_at = to_the_millisecond(expires_at)

        def decide(entry: Entry) -> NewValue | Otherwise:
            if entry.value is None or entry.expires_at == expires_at:
                return KEEP
            return NewValue(entry.value, expires_at, only_expiry=True)

        return (await self.modify(target, decide, timeout, owned_since)).before.value is not None

    def invalidate_entry(self, target: Object) -> None:
        """Drop the entry and HEAD result, and have a dirty entry confirmed by S3, since S3 may have changed."""
        self._entries.invalidate(target.cache_key)
        self.writes.mark_unconfirmed(target.cache_key)

    async def list(
        self,
        bucket: str,
        prefix: bytes,
        cursor: str,
        limit: int,
        timeout: float,
        delimiter: bytes = b"",
        others: Sequence[Unlisted] = (),
    ) -> Page:
        """Return a page of the bucket's keys, without the node's S3_PREFIX. Raises as `Listings.page` does."""
        return await self.listings.page(bucket, prefix, cursor, limit, timeout, delimiter, others)

    async def finish(self) -> None:
        """Cancel the reads in flight, at the end of the process."""
        await asyncio.gather(self.fetches.cancel_all(), self._existence.heads.cancel_all())
