"""Coordination. The API methods of a node, independent of the protocol of a request.

A server decodes a request, calls the methods here, and encodes what they return. Identity, ownership, rate limit
and counts are decided here, once for all protocols; what a principal may do, in `milena_common.access`.

- `check_identity`: the connection is meant for this node.
- `admit`: the rate of requests is within RATE_LIMIT.
- `place`: the object of a request, and the epoch since which this node owns it.

Bounds on memory are not here: each protocol has its own number of copies of a message in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from milena_cache.blocks.layout import Version
from milena_cache.events.changes import ForeignChanges, ReportedChange, state_of
from milena_cache.events.heartbeats import Heartbeats
from milena_cache.jobs.sweep import Plan, Swept
from milena_cache.jobs.sweeps import Sweeps
from milena_cache.jobs.warming import Warmed, Warming, WarmTarget
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER, expires_after, remaining_ms
from milena_cache.objects.names import Buckets, Object
from milena_cache.objects.object_store import Page
from milena_cache.objects.properties import attributes_of
from milena_cache.objects.unlisted import Unlisted
from milena_cache.objects.write_request import Ack, Change
from milena_cache.reads.cluster_listing import ClusterListings
from milena_cache.reads.listing import names_of
from milena_cache.reads.part_reads import Part, PartReads, RangeOf
from milena_cache.reads.property_reads import PropertyReads
from milena_cache.reads.reader import FENCED, Node, Reply
from milena_cache.reads.refresh import Refreshed
from milena_cache.writeback.flush import Flushed, FlushWaiters
from milena_cache.writeback.unfinished import FailedWrite, FailedWrites
from milena_cache.writes.client_uploads import ClientUploads
from milena_cache.writes.upload_sessions import Received, Step, UploadSessions
from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import THROUGH, check_condition, check_durability
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    InvalidRequest,
    NoNodes,
    OriginUnavailable,
    Unavailable,
)
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from milena_common.cluster.slots import SLOTS
from milena_common.limits.token_bucket import TokenBucket, over_limit
from milena_common.resp.identity import Identity
from milena_common.runtime.deadlines import inner
from milena_common.s3.object_copies import Copy, ObjectCopies
from milena_common.s3.objects import Found, Written

# An object, and the ring epoch since which this node owns it; 0: any entry may be served.
Place = tuple[Object, int]

# Maximum number of keys in a page of a list, and of failed writes in a reply.
MAX_LIST = 1000

# How often an object may change between a read and the HEAD for its properties.
MAX_CHANGES = 3

_NO_PROPERTIES = Properties()


class Got(NamedTuple):
    """The result of a get.

    outcome: one of `read_outcomes`
    exists: True if the object exists
    value: of a part if only that was requested; b"" if only metadata was, or if it is `omitted`
    omitted: True if the value is larger than the caller takes, and remains in memory
    size: bytes in the whole value, also if it or a part of it is left out
    etag: as S3 spells it, quotes included; "" if not known
    age: seconds since S3 last confirmed it
    dirty: True if it was acknowledged and is not in S3 yet
    ttl_ms: milliseconds until the object expires; 0 if it does not
    block_bytes, group_bytes: of an object that is kept in blocks, and in groups of them, else 0
    """

    outcome: str
    exists: bool
    value: bytes
    omitted: bool
    size: int
    etag: str
    age: float
    dirty: bool
    ttl_ms: int
    block_bytes: int = 0
    group_bytes: int = 0


class Requests:
    """The API methods of one node.

    `request_timeout`: seconds for requests without a deadline. `remaining`, in the methods: seconds until the
    caller's deadline, None without one. All of them raise InvalidRequest for arguments that are not allowed, and
    AccessDenied for a bucket that is not served.
    """

    def __init__(
        self,
        node: Node,
        listings: ClusterListings,
        parts: PartReads,
        uploads: UploadSessions,
        client_uploads: ClientUploads,
        properties: PropertyReads,
        flush_waiters: FlushWaiters,
        failed_writes: FailedWrites,
        sweeps: Sweeps,
        warming: Warming,
        changes: ForeignChanges,
        heartbeats: Heartbeats,
        buckets: Buckets,
        ownership: Ownership,
        fence: NodeFence,
        identity: NodeIdentity,
        limiter: TokenBucket,
        request_timeout: float,
        foretells_etags: Callable[[], bool],
    ) -> None:
        self.identity = identity
        self.limiter = limiter
        self.received_bytes = 0  # of values, in puts
        self.sent_bytes = 0  # of values, in gets
        self._node = node
        self._listings = listings
        self._parts = parts
        self._uploads = uploads
        self.client_uploads = client_uploads
        self._properties = properties
        self._flush_waiters = flush_waiters
        self._failed_writes = failed_writes
        self._sweeps = sweeps
        self._warming = warming
        self._changes = changes
        self._heartbeats = heartbeats
        self._buckets = buckets
        self._ownership = ownership
        self._fence = fence
        self._clock = node.clock
        self._request_timeout = request_timeout
        self._foretells_etags = foretells_etags

    # ---- identity, rate limit, ownership

    def check_identity(self, meant: Identity) -> None:
        """Raise WrongNode if `meant` is another cluster, bucket or process than this one.

        For RESP connections, which send their identity once. gRPC calls send it each time, and the gRPC server,
        which is created before there is an address, uses the check of `identity` directly.
        """
        self.identity.check(meant)

    def admit(self) -> None:
        """Take a token of the rate limit for a request on an object. Raises RateLimited."""
        if self.limiter.rate and (wait := self.limiter.take_tokens(self._clock.now())):
            raise over_limit("this node's", self.limiter.rate, wait)

    def place(self, bucket: str, key: bytes, owned_since: int | None = None) -> Place:
        """Return the object of a request, and the epoch since which this node owns it.

        `owned_since`: the epoch by the caller's ring, which is trusted in a ring of nodes that do not fence. None,
        and in other rings always: by this node's own ring, which raises what `Ownership.elsewhere` returns if this
        node does not serve the object. So does a node that has left, and is in no ring any more: a router that
        has lost the others sends it requests, by an older ring. And a process that has just started, and has no
        ring yet: what the slot's last owner has acknowledged is collected by the ring that it will get.
        """
        target, ownership = self._buckets.resolve(bucket, key), self._ownership
        if owned_since is None or ownership.slot_map.released_epoch or ownership.may_be_elsewhere:
            own = ownership.owned_since(target.cache_key)
            return target, own if owned_since is None else max(own, owned_since)
        return target, owned_since

    def place_to_read(self, bucket: str, key: bytes, owned_since: int | None = None) -> Place:
        """Return the place of an object to read.

        That is FENCED, and names clean entries of any age that may be kept, if the fence is closed, FENCED_READS is
        `stale`, and the object would be this node's were it open.
        """
        try:
            return self.place(bucket, key, owned_since)
        except NoNodes:
            target = self._buckets.resolve(bucket, key)
            if not (self._fence.serves_stale and self._ownership.unfenced_since(target.cache_key) != ELSEWHERE):
                raise
            return target, FENCED

    def check_fence(self) -> None:
        """Check if it is time to, for a request that does not come over RESP."""
        now = self._clock.now()
        if now >= self._fence.check_at:
            self._fence.may_serve(now)

    # ---- objects

    def size_in_memory(self, place: Place) -> int:
        """Return the length in bytes of the value that a get would return from memory; 0 if there is none."""
        return self._node.size_in_memory(place[0])

    def part_in_memory(self, place: Place, byte_range: ByteRange) -> int:
        """Return how many bytes a get of a part would return from memory at most; 0 if there are none."""
        target, owned_since = place
        size = self._node.size_in_memory(target)
        return byte_range.max_bytes(size) if size else self._parts.bytes_in_memory(target, byte_range, owned_since)

    def get(
        self, place: Place, remaining: float | None, *, metadata_only: bool = False, max_bytes: int = 0
    ) -> Got | Coroutine[Any, Any, Got]:
        """Return the object from memory, or an awaitable of it if it has to be read from S3.

        `max_bytes`: the caller takes no larger value; 0: any. Awaiting raises as `Node.get` does.
        """
        target, owned_since = place
        timeout = self._timeout(remaining)
        if metadata_only:
            found = self._node.read_metadata(target, timeout, owned_since)
            return self._described(*found) if isinstance(found, tuple) else self._found(found)
        reply = self._node.read(target, timeout, owned_since)
        return self._got(reply, max_bytes) if isinstance(reply, Reply) else self._fetched(reply, max_bytes)

    def get_part(
        self, place: Place, remaining: float | None, byte_range: ByteRange, *, if_match: str, max_bytes: int = 0
    ) -> Got | Coroutine[Any, Any, Got]:
        """Return a part of the object as `get` does. Raises as `PartReads.read_part` does."""
        check_condition(if_match, "")
        part = self.part(place, byte_range.within, remaining, if_match)
        return self._got_part(part, max_bytes) if isinstance(part, Part) else self._fetched_part(part, max_bytes)

    def get_blocks(
        self,
        bucket: str,
        key: bytes,
        etag: str,
        size: int,
        part: ByteRange,
        group_bytes: int,
        ahead: ByteRange,
        remaining: float | None,
    ) -> Got | Coroutine[Any, Any, Got | None] | None:
        """Return bytes of one version of an object of `size` bytes, as `PartReads.read_blocks` does.

        It needs neither a slot nor a lease: what is named by its ETag is the same at any node.
        """
        check_condition(etag, "")
        if self.limiter.rate:
            self.admit()
        version = Version(self._buckets.resolve(bucket, key), etag, size)
        found = self._parts.read_blocks(version, part, group_bytes, ahead, self._timeout(remaining))
        if found is None:
            return None
        return self._got_part(found, 0) if isinstance(found, Part) else self._fetched_blocks(found)

    async def _fetched_blocks(self, reading: Awaitable[Part | None]) -> Got | None:
        part = await reading
        return None if part is None else self._got_part(part, 0)

    def part(
        self, place: Place, range_of: RangeOf, remaining: float | None = None, if_match: str = ""
    ) -> Part | Coroutine[Any, Any, Part]:
        """Return the range of the object, or an awaitable of it. Raises as `PartReads.read_part` does."""
        target, owned_since = place
        return self._parts.read_part(target, range_of, self._timeout(remaining), owned_since, if_match)

    def get_with_properties(
        self, place: Place, remaining: float | None, byte_range: ByteRange, max_bytes: int, *, if_match: str = ""
    ) -> tuple[Got, Properties] | Coroutine[Any, Any, tuple[Got, Properties]]:
        """Return at most `max_bytes` of a range of the object, and its properties. Raises as `get_part` does."""
        check_condition(if_match, "")

        def range_of(size: int) -> ByteRange:
            start, length = byte_range.within(size)
            return ByteRange(start, min(length, max_bytes))

        def read() -> Got | Coroutine[Any, Any, Got]:
            part = self.part(place, range_of, remaining, if_match)
            return self._got_part(part, 0) if isinstance(part, Part) else self._fetched_part(part, 0)

        got = read()
        if isinstance(got, Got):
            properties = self._known_properties(place, got)
            if properties is not None:
                return got, properties
        return self._with_properties(place, got, remaining, read)

    def describe(
        self, place: Place, remaining: float | None
    ) -> tuple[Got, Properties] | Coroutine[Any, Any, tuple[Got, Properties]]:
        """Return the object without its value, and its properties. Raises as `get` does."""

        def look() -> Got | Coroutine[Any, Any, Got]:
            return self.get(place, remaining, metadata_only=True)

        got = look()
        if isinstance(got, Got):
            properties = self._known_properties(place, got)
            if properties is not None:
                return got, properties
        return self._with_properties(place, got, remaining, look)

    def _known_properties(self, place: Place, got: Got) -> Properties | None:
        if not got.exists:
            return _NO_PROPERTIES
        target, owned_since = place
        return self._properties.find(target, got.etag, got.outcome, owned_since, dirty=got.dirty)

    async def _with_properties(
        self,
        place: Place,
        got: Got | Coroutine[Any, Any, Got],
        remaining: float | None,
        read: Callable[[], Got | Coroutine[Any, Any, Got]],
    ) -> tuple[Got, Properties]:
        """Return the result of a read with the properties of the same version.

        If S3 has another version than the entry, the entry is dropped, and the object read once more.
        """
        target, owned_since = place
        deadline = self._clock.now() + self._timeout(remaining)
        for _ in range(MAX_CHANGES):
            if not isinstance(got, Got):
                got = await got
            properties = self._known_properties(place, got)
            if properties is None:
                timeout = max(0.0, deadline - self._clock.now())
                properties = await self._properties.read(target, got.etag, timeout, owned_since)
            if properties is not None:
                return got, properties
            self._node.refresher.now((target.cache_key,))
            got = read()
        if not isinstance(got, Got):
            got.close()
        raise OriginUnavailable(f"{target.ref}: was replaced {MAX_CHANGES} times while it was read")

    async def _fetched_part(self, reading: Awaitable[Part], max_bytes: int) -> Got:
        return self._got_part(await reading, max_bytes)

    def _got_part(self, part: Part, max_bytes: int) -> Got:
        (outcome, entry, age, dirty), value, size = part
        if omitted := 0 < max_bytes < len(value) and outcome != "bypass":
            value = b""
        self.sent_bytes += len(value)
        ttl_ms = self._ttl_ms(entry.expires_at)
        found = Got(outcome, entry.value is not None, value, omitted, size, entry.etag, age, dirty, ttl_ms)
        return self._in_blocks(found, part.reply)

    async def _found(self, looking: Awaitable[tuple[Reply, int]]) -> Got:
        return self._described(*await looking)

    async def _fetched(self, reading: Awaitable[Reply], max_bytes: int) -> Got:
        return self._got(await reading, max_bytes)

    def _described(self, reply: Reply, size: int) -> Got:
        outcome, entry, age, dirty = reply
        ttl_ms = self._ttl_ms(entry.expires_at)
        found = Got(outcome, entry.value is not None, b"", False, size, entry.etag, age, dirty, ttl_ms)
        return self._in_blocks(found, reply)

    def _in_blocks(self, found: Got, reply: Reply) -> Got:
        parts = self._parts
        # A router finds out by the last field of a message that its value was omitted, and requests it once more.
        if found.omitted or not parts.is_in_blocks(reply, found.size):
            return found
        return found._replace(block_bytes=parts.block_bytes, group_bytes=parts.group_bytes)

    def _got(self, reply: Reply, max_bytes: int) -> Got:
        outcome, entry, age, dirty = reply
        value = entry.value or b""
        size = len(value)
        # A value that was fetched and not kept is never left out: the caller's next request would fetch it again.
        if omitted := 0 < max_bytes < size and outcome != "bypass":
            value = b""
        self.sent_bytes += len(value)
        ttl_ms = self._ttl_ms(entry.expires_at) if entry.expires_at else 0
        return Got(outcome, entry.value is not None, value, omitted, size, entry.etag, age, dirty, ttl_ms)

    def _ttl_ms(self, expires_at: float) -> int:
        return remaining_ms(expires_at, self._clock.wall()) if expires_at else 0

    def put(
        self,
        place: Place,
        value: bytes,
        remaining: float | None,
        *,
        durability: str,
        if_match: str,
        if_none_match: str,
        ttl_ms: int,
        properties: Properties = _NO_PROPERTIES,
        exact_etag: bool = False,
    ) -> Coroutine[Any, Any, Ack]:
        """Store the object. `ttl_ms`: milliseconds until it expires; 0: never. Raises as `Writes.put` does.

        With `properties` the write goes through to S3, which keeps them: the journal does not. `exact_etag`: so
        does one that names no class if only S3 can say which ETag the object will have.
        """
        check_condition(if_match, if_none_match)
        if exact_etag and not durability and not self._foretells_etags():
            durability = THROUGH
        self.received_bytes += len(value)
        target, owned_since = place
        return self._node.writes.put(
            target,
            value,
            self._timeout(remaining),
            owned_since=owned_since,
            durability=THROUGH if properties.headers or properties.metadata else check_durability(durability),
            if_match=if_match,
            if_none_match=if_none_match,
            metadata=properties.metadata,
            attributes=attributes_of(properties.headers),
            expires_at=expires_after(ttl_ms, self._clock.wall()) if ttl_ms else NEVER,
        )

    def upload(self, place: Place, step: Step, remaining: float | None) -> Coroutine[Any, Any, Received]:
        """Do a step of writing an object of any size. Raises as `UploadSessions.step` does."""
        check_condition(step.if_match, step.if_none_match)
        self.received_bytes += len(step.value)
        target, owned_since = place
        return self._uploads.step(target, owned_since, step, self._timeout(remaining))

    def complete_upload(
        self,
        place: Place,
        upload: str,
        parts: Sequence[UploadedPart],
        remaining: float | None,
        *,
        if_match: str,
        if_none_match: str,
    ) -> Coroutine[Any, Any, Ack]:
        """Make the object of the parts that S3 has. Raises as `Writes.store_parts` does."""
        check_condition(if_match, if_none_match)
        target, owned_since = place
        change = Change(target, b"", "", owned_since, if_match, if_none_match)
        return self.client_uploads.complete(change, upload, parts, self._timeout(remaining))

    async def copy_object(
        self,
        copies: ObjectCopies,
        source: tuple[str, bytes],
        target: tuple[str, bytes],
        remaining: float | None,
        *,
        durability: str,
        if_match: str,
        if_none_match: str,
        source_if_match: str,
    ) -> Written | None:
        """Copy an object of any node by `copies`, within the caller's time; None if there is none.

        Raises as `ObjectCopies.make`, and ConditionFailed if the source's ETag is not `source_if_match`.
        """
        check_condition(if_match, if_none_match)
        check_condition(source_if_match, "")
        if self._buckets.resolve(*source) == self._buckets.resolve(*target):
            raise InvalidRequest("key: is that of the source; an object is not copied to itself")
        deadline = self._clock.now() + self._timeout(remaining)

        def left() -> float:
            seconds = deadline - self._clock.now()
            if seconds <= 0:
                raise DeadlineExceeded("the object was not copied in time")
            return seconds

        def check(found: Found) -> None:
            if source_if_match and not same_etag(found.etag, source_if_match):
                raise ConditionFailed(f"source_if_match: the object's ETag is {found.etag}, not {source_if_match}")

        durability = check_durability(durability) or ""
        return await copies.make(
            Copy(source, target, check, None, durability, if_match, if_none_match, left, left, lambda _: None)
        )

    def delete(
        self, place: Place, remaining: float | None, *, durability: str, if_match: str
    ) -> Coroutine[Any, Any, Ack]:
        """Remove the object. Raises as `Writes.delete` does."""
        check_condition(if_match, "")
        target, owned_since = place
        return self._node.writes.delete(
            target,
            self._timeout(remaining),
            owned_since=owned_since,
            durability=check_durability(durability),
            if_match=if_match,
        )

    def list_page(
        self, bucket: str, prefix: bytes, cursor: str, limit: int, remaining: float | None, *, delimiter: bytes
    ) -> Coroutine[Any, Any, Page]:
        """Return a page of at most `limit` keys and common prefixes (0: as many as a page may have).

        It has what any node has written, and lacks what any has deleted. Raises NoNodes if the fence is closed, and
        as `ClusterListings.page` and `Node.list` do.
        """
        if (rejected := self._fence.fence_error()) is not None:
            raise rejected
        limit = min(limit or MAX_LIST, MAX_LIST)

        def list_page(timeout: float, others: Sequence[Unlisted]) -> Coroutine[Any, Any, Page]:
            return self._node.list(bucket, prefix, cursor, limit, timeout, delimiter, others)

        names = names_of(prefix, cursor, limit, delimiter)
        return self._listings.page(bucket, names, list_page, self._timeout(remaining))

    async def check_bucket(self, bucket: str, timeout: float) -> None:
        """Raise FailedPrecondition if S3 has no such bucket, OriginUnavailable if it does not reply."""
        if not await self._node.writes.buckets.confirm_exists(bucket, self._clock.now() + timeout):
            raise OriginUnavailable(f"bucket {bucket}: S3 has not said that it exists")

    # ---- for operators and other nodes

    def invalidate_object(self, bucket: str, key: bytes) -> None:
        """Drop the node's entry of the object; see `Node.invalidate_entry`."""
        self._node.invalidate_entry(self._buckets.resolve(bucket, key))

    def apply_changes(self, changes: Iterable[tuple[str, bytes, str]], heartbeat: float) -> None:
        """Apply what another node has read in S3's events: buckets, keys and ETags, and a heartbeat (0: none).

        Raises as `ForeignChanges.apply` does.
        """
        if heartbeat:
            self._heartbeats.received(heartbeat)
        resolve = self._buckets.resolve
        self._changes.apply(
            [ReportedChange(resolve(bucket, key).cache_key, state_of(etag)) for bucket, key, etag in changes]
        )

    def abandon_moves(self, ranges: Sequence[tuple[int, int]], epoch: int) -> list[int]:
        """Take no slots of `ranges` by moves of `epoch` any more; return those that this node has taken already.

        Raises InvalidRequest.
        """
        if len(ranges) > SLOTS or not all(first <= last < SLOTS for first, last in ranges):
            raise InvalidRequest(f"first, last: allowed are slots below {SLOTS}, in ascending ranges")
        return [slot for first, last in ranges for slot in self._ownership.abandon(first, last, epoch)]

    async def refresh(self, bucket: str, keys: Sequence[bytes], prefix: bytes) -> Refreshed:
        """Drop the clean entries of `keys`; without any, of all keys that begin with `prefix`."""
        if keys and prefix:
            raise InvalidRequest("keys, prefix: allowed is one of them")
        if keys:
            return await self._node.refresher.keys(self._cache_keys(bucket, keys))
        return await self._node.refresher.matching(self._buckets.files_below(bucket, prefix))

    async def sweep_prefix(self, job: str, plan: Plan, limit: int) -> Swept:
        """Do the next part of a job on all entries below a prefix. Raises as `Sweeps.advance` does."""
        return await self._sweeps.advance(job, plan, limit)

    def drop_sweep(self, job: str) -> None:
        """Forget a job, wherever it is."""
        self._sweeps.forget(job)

    async def warm(
        self, bucket: str, keys: Sequence[bytes], sizes: Sequence[int], remaining: float | None, *, dry_run: bool
    ) -> Warmed:
        """Read objects into memory as `Warming.warm` does. Keys that this node does not own, or not now, are left.

        `sizes`: in bytes, of each of the keys; empty if they are not known.
        """
        if len(keys) > MAX_LIST:
            raise InvalidRequest(f"keys: got {len(keys)}; allowed are at most {MAX_LIST}")
        if sizes and len(sizes) != len(keys):
            raise InvalidRequest(f"sizes: got {len(sizes)} for {len(keys)} keys; allowed is one for each")
        self.check_fence()
        objects, elsewhere = [], []
        for number, key in enumerate(keys):
            try:
                target, owned_since = self.place(bucket, key)
            except Unavailable:
                elsewhere.append(key)
            else:
                objects.append(WarmTarget(key, target, owned_since, sizes[number] if sizes else 0))
        done = await self._warming.warm(objects, self._timeout(remaining), dry_run=dry_run)
        done.left += elsewhere
        return done

    async def flush(self, bucket: str, keys: Sequence[bytes], remaining: float | None) -> Flushed:
        """Wait until the writes of `keys` are in S3; without any keys, the writes of all keys."""
        cache_keys = self._cache_keys(bucket, keys) if keys else None
        return await self._flush_waiters.wait_flushed(cache_keys, self._timeout(remaining))

    def list_dead_letters(self, limit: int) -> tuple[Sequence[FailedWrite], int]:
        """Return the first `limit` (0: MAX_LIST) writes that S3 rejects, and how many there are in all."""
        failed = self._failed_writes.listed(self._clock.now())
        return failed[: limit or MAX_LIST], len(failed)

    async def resolve_dead_letters(self, bucket: str, keys: Sequence[bytes], every: bool, action: str) -> int:
        """Upload the failed writes of `keys`, or all of them, once more ("retry"), or drop them ("drop").

        Return how many there were.
        """
        if bool(keys) == every:
            raise InvalidRequest("keys, all: allowed is one of them, the keys of failed writes or all")
        cache_keys = None if every else self._cache_keys(bucket, keys)
        match action:
            case "retry":
                return await self._failed_writes.retry(cache_keys)
            case "drop":
                return await self._failed_writes.drop(cache_keys)
            case _:
                raise InvalidRequest(f"action: got {action[:80]!r}; allowed: retry, drop")

    def _cache_keys(self, bucket: str, keys: Iterable[bytes]) -> Sequence[bytes]:
        return [self._buckets.resolve(bucket, key).cache_key for key in keys]

    def _timeout(self, remaining: float | None) -> float:
        return inner(self._request_timeout if remaining is None else remaining)
