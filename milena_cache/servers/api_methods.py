"""Coordination. The node's API methods over protobuf: messages in, serialized messages out.

Both servers have them, gRPC as its methods and RESP in MILENA.CALL, because the router and Milena's clients send
the same messages either way. Messages are only decoded and encoded here; `service.requests` does what they request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from milena_cache.jobs.sweep import Plan
from milena_cache.membership.member_check import MemberCheck
from milena_cache.objects.object_store import Page
from milena_cache.objects.write_request import Ack
from milena_cache.sampling.hot_keys import HotKey
from milena_cache.service.requests import Got, Place, Requests
from milena_cache.service.samples import Samples
from milena_cache.service.status import Status
from milena_cache.writes.upload_sessions import Received, Step
from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import check_durability
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import MAX_VALUE_BYTES, split_cache_key
from milena_common.api.methods import ABANDON_MOVES, CHECK_MEMBER, INVALIDATE, handlers_of, served_by_node
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from milena_common.rpc.calls import Message, Method
from milena_common.s3.object_copies import ObjectCopies

# The operation under which a method is counted, the class of its request, and the method.
Named = tuple[str, type[Message], Method]


# Makes a response of its serialized fields, up to the header of `value`, and the value.
Join = Callable[[bytes, bytes], Any]
# From this size on a value is appended to the other fields of its response as it is.
LARGE_BYTES: Final = 64 * 1024
# Field 2 of GetResponse, of a length that follows. Fields may come in any order.
_VALUE_TAG: Final = b"\x12"


def _join(fields: bytes, value: bytes) -> bytes:
    return fields + value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class ApiMethods:
    """The API methods of one node for one server.

    Every method takes a request and the seconds until the caller's deadline (None: it has none), and returns a
    serialized response. Raises MilenaError.

    address: the node's, for responses
    samples: what the node knows of its reads from samples of them
    by_word: the methods by name, as the Redis protocol has it
    believes_owner: True if a request without `owned_since` is served in any case; False if this node's own ring
        decides whether it owns the object
    """

    def __init__(
        self,
        requests: Requests,
        status: Status,
        member_check: MemberCheck,
        copies: ObjectCopies,
        samples: Samples,
        address: str,
        *,
        believes_owner: bool,
    ) -> None:
        self._requests = requests
        self._status = status
        self._member_check = member_check
        self._copies = copies
        self.samples = samples
        self.address = address
        self._unstated = 0 if believes_owner else None
        self._methods: Mapping[str, Named] = served_by_node(
            {
                **handlers_of(self),
                INVALIDATE: self.invalidate,
                CHECK_MEMBER: self.check_member,
                ABANDON_MOVES: self.abandon_moves,
            }
        )
        self.by_word = {name.encode(): named for name, named in self._methods.items()}

    def methods(self) -> Mapping[str, Named]:
        """Return the methods by name."""
        return self._methods

    def admit_object(self, request: pb.GetRequest | pb.PutRequest | pb.DeleteRequest | pb.UploadRequest) -> Place:
        """Admit a request on one object, and return its place. Raises RateLimited, and as `Requests.place` does."""
        if self._requests.limiter.rate:
            self._requests.admit()
        self._requests.check_fence()
        place = self._requests.place_to_read if isinstance(request, pb.GetRequest) else self._requests.place
        return place(request.bucket, request.key, request.owned_since or self._unstated)

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        response = self.get_at(request, self.admit_object(request), remaining)
        return response if isinstance(response, bytes) else await response

    def get_at(
        self, request: pb.GetRequest, place: Place, remaining: float | None, join: Join = _join
    ) -> Any | Coroutine[Any, Any, Any]:
        """Return the response to a Get that has begun, or an awaitable of it if the object is not in memory.

        `join`: makes the response with a large value of its fields and the value; bytes by default.
        """
        requests = self._requests
        if request.properties:
            return self._get_with_properties(request, place, remaining)
        if request.offset or request.length or request.if_match:
            if request.metadata_only:
                raise InvalidRequest("offset, length, if_match: allowed are none of them with metadata_only")
            got = requests.get_part(
                place,
                remaining,
                ByteRange(request.offset, request.length),
                if_match=request.if_match,
                max_bytes=request.max_bytes,
            )
        else:
            got = requests.get(place, remaining, metadata_only=request.metadata_only, max_bytes=request.max_bytes)
        return self._got(got, join=join) if isinstance(got, Got) else self._fetched(got, join)

    def get_blocks(
        self, request: pb.GetRequest, remaining: float | None, join: Join = _join
    ) -> Any | Coroutine[Any, Any, Any] | None:
        """Return the response to a read of blocks, or an awaitable of it; `join` as in `get_at`.

        None, now or awaited: it is to be served as a Get, which does not read it as blocks.
        """
        blocks = request.blocks
        got = self._requests.get_blocks(
            request.bucket,
            request.key,
            request.if_match,
            blocks.size,
            ByteRange(request.offset, request.length),
            blocks.group_bytes,
            ByteRange(blocks.ahead_offset, blocks.ahead_length),
            remaining,
        )
        if got is None:
            return None
        return self._got(got, join=join) if isinstance(got, Got) else self._fetched_blocks(got, join)

    async def _fetched_blocks(self, fetching: Awaitable[Got | None], join: Join) -> Any:
        got = await fetching
        return None if got is None else self._got(got, join=join)

    def _get_with_properties(
        self, request: pb.GetRequest, place: Place, remaining: float | None
    ) -> bytes | Coroutine[Any, Any, bytes]:
        if request.metadata_only:
            found = self._requests.describe(place, remaining)
        else:
            found = self._requests.get_with_properties(
                place,
                remaining,
                ByteRange(request.offset, request.length),
                request.max_bytes or MAX_VALUE_BYTES,
                if_match=request.if_match,
            )
        return self._got(*found) if isinstance(found, tuple) else self._fetched_with_properties(found)

    async def _fetched_with_properties(self, fetching: Awaitable[tuple[Got, Properties]]) -> bytes:
        response: bytes = self._got(*await fetching)
        return response

    async def _fetched(self, fetching: Awaitable[Got], join: Join) -> Any:
        return self._got(await fetching, join=join)

    def _got(self, got: Got, properties: Properties | None = None, join: Join = _join) -> Any:
        outcome, exists, value, omitted, size, etag, age, dirty, ttl_ms, block_bytes, group_bytes = got
        # A message would copy a large value twice, to memory that is new each time.
        large = len(value) >= LARGE_BYTES
        fields = pb.GetResponse(
            successful=exists,
            value=b"" if large else value,
            outcome=outcome,
            age_seconds=age,
            etag=etag,
            node=self.address,
            size=size,
            dirty=dirty,
            ttl_ms=ttl_ms,
            omitted=omitted,
            last_modified=0.0 if properties is None else properties.last_modified,
            headers=None if properties is None else properties.headers,
            metadata=None if properties is None else properties.metadata,
            block_bytes=block_bytes,
            group_bytes=group_bytes,
        ).SerializeToString()
        return join(fields + _VALUE_TAG + _varint(len(value)), value) if large else fields

    # The next four are not `async`: they check the request when they are called, and the coroutine that waits
    # holds no reference to it. An `async def` would keep a put's message, which is a second copy of the value,
    # until the write is acknowledged.

    def put(self, request: pb.PutRequest, remaining: float | None) -> Coroutine[Any, Any, bytes]:
        writing = self._requests.put(
            self.admit_object(request),
            request.value,
            remaining,
            durability=request.durability,
            if_match=request.if_match,
            if_none_match=request.if_none_match,
            ttl_ms=request.ttl_ms,
            properties=Properties(0.0, dict(request.headers), dict(request.metadata)),
            exact_etag=request.exact_etag,
        )
        return self._written(writing)

    async def _written(self, writing: Awaitable[Ack]) -> bytes:
        ack = await writing
        return pb.PutResponse(
            successful=True, etag=ack.etag, node=self.address, durability=ack.durability
        ).SerializeToString()

    def delete(self, request: pb.DeleteRequest, remaining: float | None) -> Coroutine[Any, Any, bytes]:
        deleting = self._requests.delete(
            self.admit_object(request), remaining, durability=request.durability, if_match=request.if_match
        )
        return self._deleted(deleting)

    async def _deleted(self, deleting: Awaitable[Ack]) -> bytes:
        ack = await deleting
        return pb.DeleteResponse(successful=True, node=self.address, durability=ack.durability).SerializeToString()

    def upload(self, request: pb.UploadRequest, remaining: float | None) -> Coroutine[Any, Any, bytes]:
        if request.store_upload:
            parts = [UploadedPart(each.number, each.etag) for each in request.parts]
            completing = self._requests.complete_upload(
                self.admit_object(request),
                request.store_upload,
                parts,
                remaining,
                if_match=request.if_match,
                if_none_match=request.if_none_match,
            )
            return self._completed(completing)
        step = Step(
            request.upload,
            request.offset,
            request.value,
            request.complete,
            request.abort,
            check_durability(request.durability),
            request.if_match,
            request.if_none_match,
        )
        return self._received(self._requests.upload(self.admit_object(request), step, remaining))

    async def _completed(self, completing: Awaitable[Ack]) -> bytes:
        ack = await completing
        return pb.UploadResponse(
            successful=True, etag=ack.etag, node=self.address, durability=ack.durability
        ).SerializeToString()

    async def _received(self, receiving: Awaitable[Received]) -> bytes:
        size, ack = await receiving
        etag, durability = ("", "") if ack is None else (ack.etag, ack.durability)
        return pb.UploadResponse(
            successful=True, etag=etag, node=self.address, durability=durability, received=size
        ).SerializeToString()

    async def copy(self, request: pb.CopyRequest, remaining: float | None) -> bytes:
        # Rate, fence and ownership are those of the reads and writes that it takes.
        written = await self._requests.copy_object(
            self._copies,
            (request.source_bucket, request.source_key),
            (request.bucket, request.key),
            remaining,
            durability=request.durability,
            if_match=request.if_match,
            if_none_match=request.if_none_match,
            source_if_match=request.source_if_match,
        )
        if written is None:
            return pb.CopyResponse(node=self.address).SerializeToString()
        return pb.CopyResponse(
            successful=True, etag=written.etag, node=written.node, durability=written.durability
        ).SerializeToString()

    def list(self, request: pb.ListRequest, remaining: float | None) -> Coroutine[Any, Any, bytes]:
        self._requests.admit()
        listing = self._requests.list_page(
            request.bucket,
            request.prefix,
            request.cursor,
            request.limit,
            remaining,
            delimiter=request.delimiter,
        )
        return self._listed(listing)

    async def _listed(self, listing: Awaitable[Page]) -> bytes:
        page = await listing
        objects = [
            pb.ObjectInfo(key=info.key.encode(), size=info.size, etag=info.etag, last_modified=info.last_modified)
            for info in page.objects
        ]
        prefixes = [prefix.encode() for prefix in page.prefixes]
        return pb.ListResponse(objects=objects, cursor=page.cursor, prefixes=prefixes).SerializeToString()

    async def stats(self, _: pb.StatsRequest, __: float | None) -> bytes:
        return pb.StatsResponse(
            values=self._status.values(),
            not_ready="; ".join(self._status.not_ready()),
            degraded=self._status.degraded(),
        ).SerializeToString()

    async def invalidate(self, request: pb.InvalidateRequest, _: float | None) -> bytes:
        if request.changes or request.heartbeat:
            changes = ((change.bucket, change.key, change.etag) for change in request.changes)
            self._requests.apply_changes(changes, request.heartbeat)
        else:
            self._requests.invalidate_object(request.bucket, request.key)
        return pb.InvalidateResponse(successful=True).SerializeToString()

    async def check_member(self, request: pb.CheckMemberRequest, _: float | None) -> bytes:
        exited = await self._member_check.exited(request.address, request.node_id)
        return pb.CheckMemberResponse(exited=exited).SerializeToString()

    async def abandon_moves(self, request: pb.AbandonMovesRequest, _: float | None) -> bytes:
        ranges = list(zip(request.first, request.last, strict=False))
        return pb.AbandonMovesResponse(
            taken=self._requests.abandon_moves(ranges, request.epoch)
        ).SerializeToString()

    async def refresh(self, request: pb.RefreshRequest, _: float | None) -> bytes:
        done = await self._requests.refresh(request.bucket, request.keys, request.prefix)
        return pb.RefreshResponse(refreshed=done.refreshed, dirty=done.dirty).SerializeToString()

    async def sweep(self, request: pb.SweepRequest, _: float | None) -> bytes:
        if request.end:
            self._requests.drop_sweep(request.job)
            return pb.SweepResponse(done=True).SerializeToString()
        plan = Plan(request.action, request.bucket, request.prefix, request.dry_run)
        done = await self._requests.sweep_prefix(request.job, plan, request.limit)
        return pb.SweepResponse(**done._asdict()).SerializeToString()

    async def size(self, request: pb.SizeRequest, remaining: float | None) -> bytes:
        estimates = self.samples.sizing.estimates()
        points = [
            pb.SizePoint(
                scale=each.scale,
                max_entries=each.max_entries,
                max_bytes=each.max_bytes,
                hit_ratio=each.hit_ratio,
                gets=each.gets,
                puts=each.puts,
                read_bytes=each.read_bytes,
                cost=each.cost,
                sample=each.sample,
            )
            for each in estimates.points
        ]
        node = pb.NodeSize(
            seconds=estimates.seconds, reads=estimates.reads, hit_ratio=estimates.hit_ratio, points=points
        )
        return pb.SizeResponse(nodes=[node]).SerializeToString()

    async def hot_keys(self, request: pb.HotKeysRequest, remaining: float | None) -> bytes:
        view = self.samples.hot_keys.view()
        if request.reset:
            self.samples.hot_keys.begin_anew()
        node = pb.NodeHotKeys(
            seconds=view.seconds,
            reads=view.reads,
            read_bytes=view.read_bytes,
            by_reads=map(_hot_key, view.by_reads),
            by_bytes=map(_hot_key, view.by_bytes),
        )
        return pb.HotKeysResponse(nodes=[node]).SerializeToString()

    async def warm(self, request: pb.WarmRequest, remaining: float | None) -> bytes:
        done = await self._requests.warm(
            request.bucket, request.keys, request.sizes, remaining, dry_run=request.dry_run
        )
        return pb.WarmResponse(**vars(done)).SerializeToString()

    async def flush(self, request: pb.FlushRequest, remaining: float | None) -> bytes:
        done = await self._requests.flush(request.bucket, request.keys, remaining)
        return pb.FlushResponse(
            remaining=done.remaining, failed=done.failed, flushed=done.flushed
        ).SerializeToString()

    async def list_dead_letters(self, request: pb.ListDeadLettersRequest, _: float | None) -> bytes:
        failed, total = self._requests.list_dead_letters(request.limit)
        writes = []
        for entry, reason, failed_at in failed:
            bucket, key = split_cache_key(entry.key)
            writes.append(
                pb.FailedWrite(
                    key=key,
                    bucket=bucket,
                    operation="delete" if entry.deleted else "put",
                    size=entry.size,
                    version=str(entry.version),
                    reason=reason,
                    failed_at=failed_at,
                    node=self.address,
                )
            )
        return pb.ListDeadLettersResponse(writes=writes, total=total).SerializeToString()

    async def resolve_dead_letters(self, request: pb.ResolveDeadLettersRequest, _: float | None) -> bytes:
        resolved = await self._requests.resolve_dead_letters(
            request.bucket, request.keys, request.all, request.action
        )
        return pb.ResolveDeadLettersResponse(resolved=resolved).SerializeToString()


def _hot_key(hot: HotKey) -> pb.HotKey:
    bucket, key = split_cache_key(hot.key)
    return pb.HotKey(key=key, bucket=bucket, reads=hot.reads, read_bytes=hot.read_bytes)
