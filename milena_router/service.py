"""Coordination. The router's gRPC methods: they validate, limit and forward requests, and change or show the ring.

Methods take a request message and the caller's remaining seconds, and return serialized responses; `GrpcServer`
converts their errors to statuses. During recovery, requests that need the ring wait for its publication.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from milena_common.api.byte_range import ByteRange
from milena_common.api.durability import check_condition, check_durability
from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.api.keys import cache_key, canonical_bucket, check_bucket, check_key, check_value_size
from milena_common.api.methods import (
    COPY,
    DELETE,
    GET,
    JOIN,
    KEEP_LEASE,
    LEAVE,
    LIST,
    NODES,
    OWNER,
    PUT,
    STATS,
    UPLOAD,
    ApiMethod,
    handlers_of,
    served_by_node,
    served_by_router,
)
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes
from milena_common.limits.token_bucket import TokenBucket, over_limit
from milena_common.rpc.calls import Message, Method
from milena_common.rpc.pieces import PieceMethods, piece_methods
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner, time_for_room
from milena_router.config import Config
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.forwarding.prefix_jobs import sweep, warm
from milena_router.forwarding.refresh import refresh
from milena_router.forwarding.samples import hot_keys, size
from milena_router.forwarding.writeback import WriteBack
from milena_router.ring.fast_death import FastDeath
from milena_router.ring.joining import node_address
from milena_router.ring.known_ring import node_status
from milena_router.ring.leases import Leases

# Open streams for lease renewals, one for each node.
MAX_LEASES = 4096


class RouterService:
    """The methods. Each takes a request and the caller's remaining seconds, and returns a serialized response."""

    def __init__(
        self,
        config: Config,
        leases: Leases,
        forwarder: Forwarder,
        limiter: TokenBucket,
        clock: Clock,
        budget: ByteBudget,
        fast_death: FastDeath | None = None,
        addresses: JoinAddresses | None = None,
    ) -> None:
        self._fast_death = fast_death
        self._addresses = addresses
        self._renewing: dict[str, str] = {}  # the process that renews on a stream, by its address
        self._config = config
        self._leases = leases
        self._forwarder = forwarder
        self._writeback = WriteBack(lambda: leases.ring, forwarder)
        self._limiter = limiter
        self._clock = clock
        self._budget = budget

    def methods(self) -> Mapping[str, tuple[str, type[Message], Method]]:
        """Return the service's methods, for a `GrpcServer`."""
        handlers: Mapping[ApiMethod, Method] = {
            **handlers_of(self),
            JOIN: self.join,
            LEAVE: self.leave,
            NODES: self.nodes,
            OWNER: self.owner,
        }
        # These are parsed as the node's messages, which they become without a copy of the value.
        return {**served_by_router(handlers), **served_by_node({PUT: self.put, UPLOAD: self.upload})}

    def exchanges(self) -> Mapping[str, tuple[str, type[Message], Method]]:
        """Return the methods that are called for each request of a stream, for a `GrpcServer`."""
        return served_by_router({KEEP_LEASE: self.keep_lease})

    def pieces(self) -> PieceMethods:
        """Return the methods that return or take one object in pieces, for a `GrpcServer`.

        Each stream counts once for RATE_LIMIT, when it begins.
        """

        async def get(request: pb.GetRequest, remaining: float | None) -> bytes:
            return await self._get(request, self._timeout(remaining))

        async def upload(request: cache_pb.UploadRequest, remaining: float | None) -> bytes:
            return await self._upload(request, self._timeout(remaining))

        served = {**served_by_router({GET: get}), **served_by_node({UPLOAD: upload})}
        return piece_methods(served, self._budget, self._clock, self._admit)

    def exchange_closed(self, request: pb.JoinRequest) -> None:
        """Notice that the stream of renewals ended whose last request this is."""
        address = node_address(request.address)
        if self._renewing.get(address) == request.node_id:
            del self._renewing[address]
        if self._fast_death is not None:
            self._fast_death.stream_closed(address, request.node_id)

    async def get(self, request: pb.GetRequest, remaining: float | None) -> bytes:
        return await self._get(request, self._admit(remaining))

    async def _get(self, request: pb.GetRequest, timeout: float) -> bytes:
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        key = self._file(request.bucket, request.key)
        check_condition(request.if_match, "")
        byte_range = ByteRange(request.offset, request.length)
        max_bytes = 0 if request.metadata_only else SMALL_BYTES

        def build(owned_since: int) -> bytes:
            return cache_pb.GetRequest(
                key=request.key,
                bucket=request.bucket,
                owned_since=owned_since,
                metadata_only=request.metadata_only,
                max_bytes=max_bytes,
                offset=byte_range.offset,
                length=byte_range.length,
                if_match=request.if_match,
            ).SerializeToString()

        deadline = self._clock.now() + timeout
        response = await self._forwarder.read_at_owner(GET.name, key, build, timeout)
        held = None
        # A large value is requested when there is room for it. In rare cases it has grown meanwhile: then once
        # more.
        while size := omitted_bytes(response):
            size = byte_range.max_bytes(size)
            held = held or CallBytes(self._budget)
            if COPIES * size > held.held:
                await held.take(COPIES * size - held.held, time_for_room(deadline - self._clock.now()))
            max_bytes = size
            response = await self._forwarder.read_at_owner(GET.name, key, build, deadline - self._clock.now(), size)
        if held is not None or len(response) > 2 * SMALL_BYTES:
            (held or CallBytes(self._budget)).set_total(COPIES * len(response))
        return response

    async def put(self, request: cache_pb.PutRequest, remaining: float | None) -> bytes:
        # The node's message has the router's fields and `owned_since`. So the received message is forwarded,
        # without copying the value into another one.
        timeout = self._admit(remaining)
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        key = self._file(request.bucket, request.key)
        check_value_size(len(request.value), self._config.max_value_bytes)
        check_durability(request.durability)
        check_condition(request.if_match, request.if_none_match)

        def build(owned_since: int) -> bytes:
            request.owned_since = owned_since
            return request.SerializeToString()

        return await self._forwarder.write_at_owner(PUT.name, key, build, _invalidate_request(request), timeout)

    async def upload(self, request: cache_pb.UploadRequest, remaining: float | None) -> bytes:
        return await self._upload(request, self._admit(remaining))

    async def _upload(self, request: cache_pb.UploadRequest, timeout: float) -> bytes:
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        key = self._file(request.bucket, request.key)
        check_durability(request.durability)
        check_condition(request.if_match, request.if_none_match)

        def build(owned_since: int) -> bytes:  # as in `put`
            request.owned_since = owned_since
            return request.SerializeToString()

        return await self._forwarder.write_at_owner(UPLOAD.name, key, build, _invalidate_request(request), timeout)

    async def delete(self, request: pb.DeleteRequest, remaining: float | None) -> bytes:
        timeout = self._admit(remaining)
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        key = self._file(request.bucket, request.key)
        check_durability(request.durability)
        check_condition(request.if_match, "")

        def build(owned_since: int) -> bytes:
            return cache_pb.DeleteRequest(
                key=request.key,
                bucket=request.bucket,
                owned_since=owned_since,
                durability=request.durability,
                if_match=request.if_match,
            ).SerializeToString()

        return await self._forwarder.write_at_owner(DELETE.name, key, build, _invalidate_request(request), timeout)

    async def copy(self, request: pb.CopyRequest, remaining: float | None) -> bytes:
        timeout = self._admit(remaining)
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        self._file(request.source_bucket, request.source_key)
        key = self._file(request.bucket, request.key)
        check_durability(request.durability)
        check_condition(request.if_match, request.if_none_match)
        # Any node can copy, by the owners of both keys; that of the target saves it a step.
        serialized = request.SerializeToString()
        return await self._forwarder.write_at_owner(
            COPY.name, key, lambda _: serialized, _invalidate_request(request), timeout
        )

    async def list(self, request: pb.ListRequest, remaining: float | None) -> bytes:
        timeout = self._admit(remaining)
        if self._leases.recovering:
            timeout = await self._leases.published(timeout)
        # Any node can list, since listings come from S3; choosing it by the prefix distributes the load.
        serialized = request.SerializeToString()
        return await self._forwarder.read_at_owner(LIST.name, request.prefix, lambda _: serialized, timeout)

    async def keep_lease(self, request: pb.JoinRequest, remaining: float | None) -> bytes:
        """As `join`, on a stream, which shows that the process is alive."""
        response = await self.join(request, remaining)
        self._renewing[node_address(request.address)] = request.node_id
        return response

    async def join(self, request: pb.JoinRequest, _: float | None) -> bytes:
        """Add a node or renew its lease.

        Raises AccessDenied for addresses that are not allowed, FailedPrecondition for that of another live node.
        """
        address = node_address(request.address)
        lease = self._leases.membership.leases.get(address)
        if self._addresses is not None:
            is_new = lease is None or lease.member.node_id != request.node_id
            called = (address, *filter(None, request.addresses.values()))
            await self._addresses.check_all(called, fresh=is_new)
        holder = self._renewing.get(address, request.node_id)
        if holder != request.node_id:
            lease = self._leases.membership.leases.get(address)
            # A process on the journal of the one before: that has ended, since a journal has one process at a time.
            follows = lease is not None and request.journal_id and request.journal_id == lease.member.journal_id
            if (
                lease is not None
                and not follows
                and lease.member.node_id == holder
                and lease.until > self._clock.now()
            ):
                raise FailedPrecondition(
                    f"address: {address} is that of a node that is alive, and renews its lease; nothing was done. "
                    "A process that takes its place can join when it has ended"
                )
        known = (await self._leases.request_join(request)).known
        membership, ring = self._leases.membership, self._leases.ring
        return pb.JoinResponse(
            successful=True,
            lease_seconds=self._config.lease_seconds,
            epoch=ring.epoch,
            ring_size=len(ring.members),
            cluster_id=membership.cluster_id,
            send_ring=membership.recovery is not None and membership.recovery.wants_ring(known),
            released_epoch=membership.released_epoch,
            absent_nodes=membership.has_absent_nodes,
        ).SerializeToString()

    async def leave(self, request: pb.LeaveRequest, remaining: float | None) -> bytes:
        address = node_address(request.address)
        if request.forget:
            await self._with_ring(remaining)
            successful = await self._leases.request_write_off(address)
        else:
            successful = await self._leases.request_leave(address, request.node_id, node_status(request))
        return pb.LeaveResponse(successful=successful, epoch=self._leases.ring.epoch).SerializeToString()

    async def nodes(self, _: pb.NodesRequest, __: float | None) -> bytes:
        ring = self._leases.ring
        now = self._clock.now()
        slots = ring.slots_by_node()
        membership = self._leases.membership
        nodes = [
            pb.NodeInfo(
                address=address,
                node_id=lease.member.node_id,
                weight=lease.member.weight,
                addresses=lease.member.addresses,
                slots=slots.get(address, 0),
                lease_remaining_seconds=lease.until - now,
                member_seconds=now - lease.since,
                dirty_entries=lease.node_status.dirty_entries if lease.node_status else None,
                dead_letters=lease.node_status.dead_letters if lease.node_status else 0,
                degraded=lease.node_status.degraded if lease.node_status else (),
            )
            for address, lease in sorted(membership.leases.items())
        ]
        missing = [node.to_message() for node in membership.missing.all()]
        return pb.NodesResponse(epoch=ring.epoch, nodes=nodes, missing=missing).SerializeToString()

    async def owner(self, request: pb.OwnerRequest, remaining: float | None) -> bytes:
        await self._with_ring(remaining)
        ring = self._leases.ring
        owner = ring.find(self._file(request.bucket, request.key))
        return pb.OwnerResponse(
            slot=owner.slot,
            address=owner.address,
            successor=ring.successor(owner.slot),
            epoch=ring.epoch,
            owned_since=owner.owned_since,
        ).SerializeToString()

    async def stats(self, _: pb.StatsRequest, remaining: float | None) -> bytes:
        timeout = inner(await self._with_ring(remaining))
        addresses = [member.address for member in self._leases.ring.members]
        nodes = await asyncio.gather(*(self._stats_of(address, timeout) for address in addresses))
        return pb.StatsResponse(nodes=nodes).SerializeToString()

    async def flush(self, request: pb.FlushRequest, remaining: float | None) -> bytes:
        timeout = await self._with_ring(remaining)
        self._check_objects(request.bucket, request.keys)
        return (await self._writeback.flush(request, timeout)).SerializeToString()

    async def list_dead_letters(self, request: pb.ListDeadLettersRequest, remaining: float | None) -> bytes:
        return (
            await self._writeback.list_dead_letters(request, await self._with_ring(remaining))
        ).SerializeToString()

    async def resolve_dead_letters(self, request: pb.ResolveDeadLettersRequest, remaining: float | None) -> bytes:
        timeout = await self._with_ring(remaining)
        self._check_objects(request.bucket, request.keys)
        return (await self._writeback.resolve_dead_letters(request, timeout)).SerializeToString()

    async def refresh(self, request: pb.RefreshRequest, remaining: float | None) -> bytes:
        timeout = await self._with_ring(remaining)
        self._check_objects(request.bucket, request.keys)
        bucket = canonical_bucket(request.bucket, self._leases.membership.default_bucket)
        return (await refresh(request, bucket, self._leases.ring, self._forwarder, timeout)).SerializeToString()

    async def sweep(self, request: pb.SweepRequest, remaining: float | None) -> bytes:
        timeout = await self._with_ring(remaining)
        self._check_objects(request.bucket, ())
        return (await sweep(request, self._leases.ring, self._forwarder, timeout)).SerializeToString()

    async def warm(self, request: pb.WarmRequest, remaining: float | None) -> bytes:
        timeout = await self._with_ring(remaining)
        self._check_objects(request.bucket, request.keys)
        bucket = canonical_bucket(request.bucket, self._leases.membership.default_bucket)
        return (await warm(request, bucket, self._leases.ring, self._forwarder, timeout)).SerializeToString()

    async def size(self, request: pb.SizeRequest, remaining: float | None) -> bytes:
        timeout = inner(await self._with_ring(remaining))
        return (await size(request, self._leases.ring, self._forwarder, timeout)).SerializeToString()

    async def hot_keys(self, request: pb.HotKeysRequest, remaining: float | None) -> bytes:
        timeout = inner(await self._with_ring(remaining))
        return (await hot_keys(request, self._leases.ring, self._forwarder, timeout)).SerializeToString()

    async def _stats_of(self, address: str, timeout: float) -> pb.NodeStats:
        try:
            response = await self._forwarder.request(address, STATS.name, b"", timeout)
        except MilenaError as error:
            return pb.NodeStats(address=address, error=str(error))
        stats = cache_pb.StatsResponse.FromString(response)
        return pb.NodeStats(
            address=address, values=dict(stats.values), not_ready=stats.not_ready, degraded=stats.degraded
        )

    def _admit(self, remaining: float | None) -> float:
        """Return the request's timeout in seconds. Raises RateLimited."""
        # Not a coroutine, since most requests do not wait here.
        wait = self._limiter.take_tokens(self._clock.now())
        if wait:
            raise over_limit("the router's", self._limiter.rate, wait)
        return self._timeout(remaining)

    async def _with_ring(self, remaining: float | None) -> float:
        timeout = self._timeout(remaining)
        return await self._leases.published(timeout) if self._leases.recovering else timeout

    def _file(self, bucket: str, key: bytes) -> bytes:
        """Validate a request's object, and return its cache key. Raises InvalidRequest."""
        check_key(key)
        bucket = canonical_bucket(bucket, self._leases.membership.default_bucket)
        if bucket:
            check_bucket(bucket)
        return cache_key(bucket, key)

    def _check_objects(self, bucket: str, keys: Iterable[bytes]) -> None:
        """Raise InvalidRequest unless all of `keys` can be objects of `bucket`."""
        if canonical_bucket(bucket, self._leases.membership.default_bucket):
            check_bucket(bucket)
        for key in keys:
            check_key(key)

    def _timeout(self, remaining: float | None) -> float:
        return self._config.request_timeout if remaining is None else remaining


_OMITTED = cache_pb.GetResponse(omitted=True).SerializeToString()


def omitted_bytes(response: bytes) -> int:
    """Return the size of the value that a node omitted from its serialized Get response; 0 if none."""
    # The field is the last one; checking the end of the bytes costs next to nothing for responses without it.
    if not response.endswith(_OMITTED):
        return 0
    parsed = cache_pb.GetResponse.FromString(response)
    return parsed.size if parsed.omitted else 0


def _invalidate_request(
    request: cache_pb.PutRequest | cache_pb.UploadRequest | pb.CopyRequest | pb.DeleteRequest,
) -> bytes:
    return cache_pb.InvalidateRequest(key=request.key, bucket=request.bucket).SerializeToString()
