"""Wires a node: creates its parts and passes them to each other. This is the only wiring.

`__main__`, the benchmarks and the tests build their nodes here, over their own store, disk, clock and random
numbers. `build` creates policy, memory, journal and write-back, `build_servers` the servers for callers,
`build_membership` the membership in the ring of each router. Nothing is started here: no task, no request, no
listening socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from prometheus_client import CollectorRegistry

from milena_cache.blocks.block_memory import BlockMemory
from milena_cache.blocks.block_reads import BlockReads
from milena_cache.blocks.cluster_blocks import ClusterBlocks
from milena_cache.configuration.config import Config
from milena_cache.copies.collecting import Collected, Collecting
from milena_cache.copies.held_copies import HeldCopies
from milena_cache.copies.holder import Holder
from milena_cache.copies.holder_link import Links as CopyLinks
from milena_cache.copies.journal_roles import NAME as JOURNAL_ROLES
from milena_cache.copies.journal_roles import JournalRoles
from milena_cache.copies.promotion import Promotion
from milena_cache.copies.replicated import ReplicatedJournal
from milena_cache.copies.replication import Replication
from milena_cache.copies.store import CopyStore
from milena_cache.disk_cache.files import Files, FileThreads, Threads
from milena_cache.disk_cache.record import identity_of
from milena_cache.disk_cache.segments import SegmentLog, segment_bytes_of
from milena_cache.disk_cache.tier import DiskCache
from milena_cache.events.changes import ForeignChanges
from milena_cache.events.consumer import Consumer, ConsumerCounts
from milena_cache.events.delivery import Delivery
from milena_cache.events.heartbeats import KEY as HEARTBEAT_KEY
from milena_cache.events.heartbeats import Heartbeats
from milena_cache.events.queue import Queue
from milena_cache.events.trust import Trust
from milena_cache.handover.destination import Destination
from milena_cache.handover.former_owner import FormerOwner
from milena_cache.handover.frames import Range
from milena_cache.handover.handover import Handover
from milena_cache.handover.hot_entries import HotEntries
from milena_cache.handover.merging import Merging
from milena_cache.handover.old_owner import OldOwner
from milena_cache.handover.plan import Move
from milena_cache.handover.source import Links, Source
from milena_cache.handover.tombstones import Tombstones
from milena_cache.jobs.sweep import Plan, Sweep
from milena_cache.jobs.sweeps import Sweeps
from milena_cache.jobs.warming import Warming
from milena_cache.journal.commit_counts import CommitCounts
from milena_cache.journal.disk import Disk
from milena_cache.journal.group_commit import Journal
from milena_cache.membership import stored_ring
from milena_cache.membership.coordinator import NodeDescription, RingStatus
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.late_writes import LateWriteInvalidation
from milena_cache.membership.member_check import MemberCheck
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.peers import Peers
from milena_cache.membership.promises import NAME as PROMISES
from milena_cache.membership.promises import PromiseRequests, PromisesGiven, RingOffers
from milena_cache.membership.registration import Registration
from milena_cache.membership.router_coordinator import RouterCoordinator, RouterTransport
from milena_cache.membership.slot_waiters import SlotWaiters
from milena_cache.memory.entries import Entries
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.metrics import node_registry
from milena_cache.objects.lineage import UNNAMED, lineage_of_cluster
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import ObjectStore
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.objects.version import Version
from milena_cache.origin.bucket_check import BucketCheck, Probe
from milena_cache.origin.conditions import Conditions
from milena_cache.origin.health_probe import S3Watch
from milena_cache.origin.known_buckets import KnownBuckets
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock
from milena_cache.reads.cluster_listing import ClusterListings
from milena_cache.reads.part_reads import PartReads
from milena_cache.reads.peer_listings import PeerListings
from milena_cache.reads.property_reads import PropertyReads
from milena_cache.reads.reader import FetchResult, Node
from milena_cache.sampling.curve import Curve
from milena_cache.sampling.hot_keys import HotKeys
from milena_cache.sampling.sizing import Sizing
from milena_cache.servers.api_methods import ApiMethods, Named
from milena_cache.servers.grpc.methods import grpc_methods
from milena_cache.servers.resp.assembly import resp_server
from milena_cache.servers.resp.server import RespServer
from milena_cache.servers.s3.cluster_objects import ClusterObjects
from milena_cache.service.requests import Requests
from milena_cache.service.samples import Samples, traffic_of
from milena_cache.service.status import Status
from milena_cache.writeback.dead_letters import DeadLetters
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.failing import Failing
from milena_cache.writeback.flush import FlushWaiters
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.recent_uploads import RecentUploads
from milena_cache.writeback.recovery import Replay, replay
from milena_cache.writeback.stuck_writes import StuckWrites
from milena_cache.writeback.unfinished import FailedWrites
from milena_cache.writeback.uploads.queue import UploadQueue
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Uploader
from milena_cache.writeback.withheld import WithheldWrites
from milena_cache.writes.assembly import Assembly
from milena_cache.writes.client_uploads import ClientUploads
from milena_cache.writes.durable import Durable
from milena_cache.writes.multipart import Multipart
from milena_cache.writes.upload_sessions import UploadSessions
from milena_cache.writes.write_through import PUT_TIMEOUT, WriteThrough
from milena_cache.writes.writer import Writes
from milena_common.access.access import Access
from milena_common.access.api_guard import ApiGuard
from milena_common.access.guarding import Guarding
from milena_common.api.methods import NODE_OPERATIONS, NODE_SERVICE
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.memory_shares import copies_memory
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.network.connecting import rejects_connections
from milena_common.network.exited import RejectsConnections
from milena_common.rpc.channel import AsyncGrpcTransport
from milena_common.rpc.pieces import PieceMethods, piece_methods
from milena_common.rpc.server import GrpcServer
from milena_common.runtime.key_locks import KeyLocks
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.object_copies import ObjectCopies
from milena_common.tls.certificates import Certificates
from milena_common.tls.outgoing import Outgoing

# Seconds until slots that were taken over are reported to the routers.
STATUS_SECONDS = 0.05


class NodeLinks(Links, CopyLinks, Protocol):
    """Connections to other nodes, as all parts of a node need them."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """One node, without servers."""

    clock: CorrectedClock
    rng: Callable[[], float]  # from 0 to 1
    budget: ByteBudget  # the process's bytes in flight
    conditions: Conditions
    origin: Origin
    memory: Memory
    freshness: Freshness  # of this node alone: events extend it
    dirty: Dirty
    dirty_writes: DirtyWrites
    journal: Journal[DirtyEntry]
    durable: ReplicatedJournal
    commits: CommitCounts
    uploader: Uploader
    s3_locks: KeyLocks  # held by whatever writes a key in S3
    throttle: UploadThrottle
    failing: Failing
    flush_waiters: FlushWaiters
    dead_letters: DeadLetters
    stuck: StuckWrites
    withheld: WithheldWrites
    failed_writes: FailedWrites
    entries: Entries
    writeback: WriteBack
    write_through: WriteThrough
    writes: Writes
    node: Node
    blocks: BlockReads
    part_reads: PartReads
    uploads: UploadSessions  # objects that are written in steps
    client_uploads: ClientUploads
    property_reads: PropertyReads
    sweeps: Sweeps  # jobs on all entries below a prefix
    warming: Warming
    disk_cache: DiskCache | None
    samples: Samples

    async def replay(self, directory: str) -> Replay:
        """Replay the journal into the dirty table; to be called before serving. `directory` is for messages.

        Raises CannotOpen.
        """
        return await replay(self.journal, self.dirty, self.dirty_writes, self.writeback, self.clock, directory)


@dataclass(frozen=True, slots=True)
class Events:
    """The parts of a node that apply what S3 reports of its objects. `consumer`: None without a queue."""

    changes: ForeignChanges
    heartbeats: Heartbeats
    delivery: Delivery
    counts: ConsumerCounts
    consumer: Consumer | None


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one node. The gRPC server, which needs a running loop, serves what begins with `grpc_`."""

    calls: CallCounts
    bucket_check: BucketCheck
    s3_watch: S3Watch
    status: Status
    requests: Requests
    events: Events
    ownership: Ownership
    fence: NodeFence
    promises: PromisesGiven
    identity: NodeIdentity
    peers: Peers
    copy_peers: Peers
    block_peers: Peers
    cluster_blocks: ClusterBlocks
    s3_peers: Peers
    objects: ClusterObjects
    s3_counts: EndpointCounts
    peer_listings: PeerListings
    handover: Handover
    copies: HeldCopies
    resp: RespServer
    grpc_methods: Mapping[str, Named]
    grpc_pieces: PieceMethods
    access: Access


@dataclass(frozen=True, slots=True)
class Membership:
    """The parts that keep a node in each router's ring, and its ownership of slots consistent with its peers."""

    late_writes: LateWriteInvalidation
    promise_requests: PromiseRequests
    ring_offers: RingOffers
    registrations: Sequence[Registration]


def build(
    config: Config,
    store: ObjectStore,
    disk: Disk,
    clock: CorrectedClock,
    rng: Callable[[], float],
    *,
    budget: ByteBudget,
    fresh: ObjectStore | None = None,
    conditions: Conditions | None = None,
    lineage: str = UNNAMED,
    put_timeout: float = PUT_TIMEOUT,
    disk_files: Files | None = None,
    file_threads: Threads | None = None,
) -> NodeParts:
    """Return the parts of a node in front of `store`, with its journal on `disk`.

    `fresh` is the same store on new connections, `store` itself if there is none. `conditions`: the known
    capabilities of the store; none by default. `lineage` is the stamp of writes until the node has joined a
    cluster. `put_timeout`: seconds for one attempt of a write through to S3.
    `disk_files`: the files of the disk cache, which only this node uses; None: there is none. They are used in
    `file_threads`.
    """
    origin = Origin(
        store,
        clock,
        rng,
        fresh=fresh or store,
        retries=config.s3_retries,
        concurrency=config.s3_concurrency,
        place_timeout=config.request_timeout,
        hedge_after=config.hedge_after,
    )
    commits = CommitCounts()
    journal: Journal[DirtyEntry] = Journal(disk, clock, lineage, (commits,))
    origin.observed = journal.learn
    # What makes a write durable before it is acknowledged; writes and write-back know no more of it.
    replicated = ReplicatedJournal(journal, config.copies_policy)
    durable: Durable[DirtyEntry] = replicated
    memory = Memory(config.max_entries, config.max_bytes, config.eviction_policy)
    # By then a read and its hedge have had their time.
    fetches: SingleFlight[FetchResult] = SingleFlight(late_after=2 * config.hedge_after)
    freshness = replace(config.freshness)
    entries = Entries(memory, fetches, freshness, clock)
    dirty = Dirty(config.dirty_max_bytes, config.dirty_memory_bytes)
    conditions = conditions or Conditions(config.s3_conditions)
    uploader = Uploader(origin, conditions, journal.lineages)
    reads, s3_locks, recent = ReadCounts(), KeyLocks(), RecentUploads()
    # Wakes the loop of uploads when there may be something to do.
    wake = asyncio.Event()
    queue, flush_waiters = UploadQueue(wake.set), FlushWaiters(dirty, wake.set)
    failing = Failing(config.stuck_after)
    dirty_writes = DirtyWrites(dirty, journal, durable, entries, config.buckets, clock, failing, flush_waiters)
    dead_letters = DeadLetters(dirty, dirty_writes, journal, entries, queue, clock)
    stuck = StuckWrites(dirty, dirty_writes, journal, entries, failing, s3_locks, queue, clock)
    withheld = WithheldWrites(origin, dirty, dirty_writes, journal.lineages, clock, rng)
    failed_writes = FailedWrites(dirty, dirty_writes, dead_letters, stuck, failing)
    # Uploads without a response must not take all places of S3_CONCURRENCY.
    throttle = UploadThrottle(min(config.flush_concurrency, config.s3_concurrency), rng)
    writeback = WriteBack(
        dirty,
        dirty_writes,
        durable,
        uploader,
        entries,
        s3_locks,
        recent,
        reads,
        clock,
        rng,
        budget,
        queue=queue,
        wake=wake,
        flush_waiters=flush_waiters,
        failing=failing,
        throttle=throttle,
        delay=config.flush_delay,
        policy=config.write_conflict,
    )
    write_through = WriteThrough(
        uploader,
        durable,
        dirty,
        dirty_writes,
        s3_locks,
        recent,
        entries,
        clock,
        rng,
        config.s3_retries,
        put_timeout,
    )
    writes = Writes(
        origin=origin,
        buckets=KnownBuckets(origin, config.buckets.default, clock),
        write_through=write_through,
        durable=durable,
        lineages=journal.lineages,
        dirty=dirty,
        dirty_writes=dirty_writes,
        s3_locks=s3_locks,
        writeback=writeback,
        entries=entries,
        clock=clock,
        mode=config.write_mode,
        max_value_bytes=config.max_value_bytes,
    )

    assembly = Assembly(origin, conditions, journal.lineages, writes.reaper.is_over, rng, config.s3_retries)

    def multipart(target: Object, owned_since: int) -> Multipart:
        return Multipart(target.ref, lambda: durable.next_version(owned_since), assembly)

    node = Node(
        store=origin,
        memory=memory,
        fetches=fetches,
        entries=entries,
        dirty=dirty,
        dirty_writes=dirty_writes,
        recent=recent,
        writes=writes,
        reads=reads,
        freshness=freshness,
        buckets=config.buckets,
        clock=clock,
        max_value_bytes=config.max_value_bytes,
        revalidate_timeout=config.revalidate_timeout,
        block_threshold=config.block_threshold,
    )
    hot_keys = HotKeys(reads, clock)
    curve = Curve(config.max_entries, config.max_bytes, config.eviction_policy, freshness)
    sizing = Sizing(memory, curve, lambda: traffic_of(reads, origin.counts), config.prices, clock)
    blocks = BlockReads(origin, BlockMemory(memory, clock), config.block_bytes, clock)
    disk_cache = None
    if disk_files is not None and config.disk_cache is not None:
        settings = config.disk_cache
        identity = identity_of(config.s3.endpoint_url, config.buckets.default, config.buckets.prefix)
        segments = SegmentLog(disk_files, identity, settings.max_bytes, segment_bytes_of(settings.max_bytes))
        disk_cache = DiskCache(segments, file_threads or FileThreads(), dirty, clock, settings.bytes_per_second)
        entries.copies, memory.on_evicted = disk_cache, disk_cache.evicted
        memory.change_feed.drop_copy = disk_cache.forget
        node.disk_cache = node.uncounted.disk_cache = disk_cache

    def begin_sweep(plan: Plan) -> Sweep:
        matches = config.buckets.files_below(plan.bucket, plan.prefix)
        return Sweep(plan, matches, memory, entries, blocks.memory, dirty)

    return NodeParts(
        clock=clock,
        rng=rng,
        budget=budget,
        conditions=conditions,
        origin=origin,
        memory=memory,
        freshness=freshness,
        dirty=dirty,
        dirty_writes=dirty_writes,
        journal=journal,
        durable=replicated,
        commits=commits,
        uploader=uploader,
        s3_locks=s3_locks,
        throttle=throttle,
        failing=failing,
        flush_waiters=flush_waiters,
        dead_letters=dead_letters,
        stuck=stuck,
        withheld=withheld,
        failed_writes=failed_writes,
        entries=entries,
        writeback=writeback,
        write_through=write_through,
        writes=writes,
        node=node,
        blocks=blocks,
        part_reads=PartReads(node, origin, entries.existence, blocks, config.max_value_bytes),
        uploads=UploadSessions(writes, multipart, budget, clock, config.max_value_bytes),
        client_uploads=ClientUploads(origin, writes, assembly, clock),
        property_reads=PropertyReads(origin, entries.existence, dirty, dirty_writes, freshness, clock),
        sweeps=Sweeps(begin_sweep, clock),
        warming=Warming(node, config.s3_concurrency),
        disk_cache=disk_cache,
        samples=Samples(sizing, hot_keys),
    )


def node_identity(config: Config, parts: NodeParts, node_id: str) -> NodeIdentity:
    """Return the identity of a node, for callers that expect a certain one; its cluster is in the journal."""
    journal, dirty = parts.journal, parts.dirty
    return NodeIdentity(
        config.buckets.default,
        node_id,
        journal.disk.metadata().get("cluster", ""),
        lambda: len(dirty) > 0,
        lambda cluster_id: journal.defer(lambda disk: disk.set_metadata("cluster", cluster_id)),
    )


def grpc_server(
    config: Config, parts: NodeParts, identity: NodeIdentity, access: Access | None = None
) -> GrpcServer:
    """Return the gRPC server, not listening yet and without methods. Needs a running loop.

    `access`: users and logins; None: anyone may do everything.
    """
    bucket = config.buckets.default
    guard = None if access is None else ApiGuard(access, lambda: bucket, parts.clock.now)
    return GrpcServer(
        NODE_SERVICE,
        config.max_value_bytes,
        parts.budget,
        config.request_timeout,
        check=identity.check,
        guard=guard,
        verifies_clients=config.tls.demands_certificates,
    )


def build_servers(
    config: Config,
    parts: NodeParts,
    address: str,
    identity: NodeIdentity,
    stopping: Callable[[], bool],
    probes: Sequence[Probe] = (),
    links: NodeLinks | None = None,
    rejects: RejectsConnections = rejects_connections,
    access: Access | None = None,
    certificates: Certificates | None = None,
    queue: Queue | None = None,
) -> Servers:
    """Return the servers. `address` is the node's advertised address.

    `stopping` returns True once the node must accept no more requests. `probes` probe the store when it first
    responds. `links`: connections to other nodes for moving slots and copies, if not those of `Peers`. `rejects`:
    tries whether an address refuses connections. `access`: users and logins; by default anyone may do everything.
    `certificates` encrypt connections to other nodes; None: they are plain. `queue`: of S3's events; None: none.
    """
    access = access or Access(parts.clock)
    clock, bucket = parts.clock, config.buckets.default
    calls = CallCounts((*NODE_OPERATIONS, "other"))
    bucket_check = BucketCheck(parts.origin, bucket, clock, parts.rng, probes)
    status = Status(
        parts.node,
        parts.origin.counts,
        calls,
        bucket_check,
        parts.journal,
        parts.writeback,
        parts.failing,
        config.dirty_max_age,
        stopping,
        clock,
    )
    s3_watch = S3Watch(parts.origin, bucket, clock)
    status.concerns += [parts.conditions, s3_watch]
    ownership = Ownership(address, identity.node_id)
    fence = NodeFence(ownership, clock.machine, config.fenced_reads)
    parts.journal.unacknowledged = fence.unacknowledged
    parts.writes.fence_error = parts.write_through.fence_error = fence.fence_error
    parts.writeback.paused = parts.writes.reaper.paused = lambda: fence.closed
    status.concerns.append(fence)
    promises = PromisesGiven(
        ownership, clock, parts.journal.store_metadata, parts.journal.disk.metadata().get(PROMISES, "")
    )
    limiter = TokenBucket(config.rate_limit, clock.now())
    outgoing = Outgoing(config.tls.mode, certificates)
    peers = Peers(ownership.identity_at, ownership.tls_address_at, outgoing, access.credentials)
    peer_listings = PeerListings(
        parts.dirty, parts.dirty_writes, parts.node.recent, ownership, clock, parts.node.listings
    )
    slot_waiters = SlotWaiters(clock)
    ownership.on_change = slot_waiters.changed
    handover = build_handover(config, parts, ownership, links or peers)
    # Connections of their own: what waits for the disks of other nodes must hold up no promises.
    copy_peers = Peers(ownership.identity_at, ownership.tls_address_at, outgoing, access.credentials)
    copies = build_copies(config, parts, ownership, handover, links or peers, links or copy_peers)
    # The same for megabytes of values, which wait behind the requests of clients.
    block_peers = Peers(
        ownership.identity_at, ownership.tls_address_at, outgoing, access.credentials, name="milena-blocks"
    )
    cluster_blocks = ClusterBlocks(parts.blocks, ownership, links or block_peers, parts.budget, clock)
    parts.part_reads.blocks = cluster_blocks
    s3_peers = Peers(
        ownership.identity_at, ownership.tls_address_at, outgoing, access.credentials, name="milena-s3"
    )
    status.concerns.append(copies)
    status.unpromoted = lambda: copies.promotion.unpromoted
    if parts.disk_cache is not None:
        status.concerns.append(parts.disk_cache)
    events = build_events(config, parts, ownership, peers, queue)
    requests = Requests(
        parts.node,
        ClusterListings(ownership, peers, config.buckets, clock),
        parts.part_reads,
        parts.uploads,
        parts.client_uploads,
        parts.property_reads,
        parts.flush_waiters,
        parts.failed_writes,
        parts.sweeps,
        parts.warming,
        events.changes,
        events.heartbeats,
        config.buckets,
        ownership,
        fence,
        identity,
        limiter,
        config.request_timeout,
        lambda: parts.conditions.foretells_etags,
    )
    objects = ClusterObjects(requests, links or s3_peers, config.buckets, calls, clock, address)
    object_copies = ObjectCopies(objects, parts.budget, config.max_value_bytes)
    member_check = MemberCheck(ownership, rejects, clock.sleep)
    resp = resp_server(
        config=config,
        node=parts.node,
        buckets=config.buckets,
        ownership=ownership,
        fence=fence,
        promises=promises,
        requests=requests,
        peer_listings=peer_listings,
        blocks=parts.blocks,
        handover=handover,
        copies=copies,
        slot_waiters=slot_waiters,
        api=ApiMethods(requests, status, member_check, object_copies, parts.samples, address, believes_owner=False),
        status=status,
        calls=calls,
        clock=clock,
        budget=parts.budget,
        access=access,
        outgoing=outgoing,
        links=links or block_peers,
    )
    # Over gRPC a router, or another node, may leave out since when this node owns the object.
    api = ApiMethods(requests, status, member_check, object_copies, parts.samples, address, believes_owner=True)
    methods = grpc_methods(api, requests, parts.budget, clock, slot_waiters)
    fence.on_change.append(resp.fence_changed)
    handover.source.on_change = resp.slots_changed
    copies.promotion.on_served = resp.fence_changed
    return Servers(
        calls,
        bucket_check,
        s3_watch,
        status,
        requests,
        events,
        ownership,
        fence,
        promises,
        identity,
        peers,
        copy_peers,
        block_peers,
        cluster_blocks,
        s3_peers,
        objects,
        EndpointCounts(),
        peer_listings,
        handover,
        copies,
        resp,
        methods,
        piece_methods(methods, parts.budget, clock),
        access,
    )


def build_events(
    config: Config, parts: NodeParts, ownership: Ownership, peers: Peers, queue: Queue | None
) -> Events:
    """Return what applies the events of S3, from `queue` and from other nodes that read it."""
    changes = ForeignChanges(parts.entries, parts.s3_locks, parts.blocks.memory, ownership)
    trust = Trust(0.0 if config.events is None else config.events.max_fresh_age)
    place = config.buckets.resolve("", HEARTBEAT_KEY).ref

    def put(value: bytes) -> Awaitable[str]:
        return parts.origin.put(place, value, deadline=parts.clock.now() + PUT_TIMEOUT)

    heartbeats = Heartbeats(trust, parts.freshness, ownership, put, parts.clock)
    delivery = Delivery(ownership, peers, changes, HEARTBEAT_KEY, heartbeats.received, config.buckets)
    counts = ConsumerCounts()
    consumer = None if queue is None else Consumer(queue, delivery, counts, parts.clock, parts.rng)
    return Events(changes, heartbeats, delivery, counts, consumer)


def build_handover(config: Config, parts: NodeParts, ownership: Ownership, links: Links) -> Handover:
    """Return what moves slots between this node and others, and have uploads and writes heed it."""
    journal, entries = parts.journal, parts.entries
    tombstones = Tombstones(journal, ownership, parts.clock, config.tombstone_seconds)
    parts.writeback.deleted = parts.write_through.deleted = tombstones.deleted
    parts.writeback.deleting = parts.write_through.deleting = tombstones.deleting
    parts.writes.reaper.deleted, parts.writes.reaper.deleting = tombstones.expired, tombstones.expiring
    merging = Merging(
        journal,
        parts.dirty,
        parts.dirty_writes,
        parts.writeback,
        entries,
        parts.clock,
        parts.writes.journaling,
        tombstones,
    )
    source = Source(
        ownership,
        parts.dirty,
        parts.dirty_writes,
        parts.writes,
        parts.writeback,
        links,
        lambda: Version(journal.versions.epoch, journal.versions.seq),
        parts.clock,
        parts.budget,
        parts.rng,
        tombstones,
    )

    def watch(on_write: Callable[[bytes], None] | None) -> None:
        entries.on_write = on_write

    def is_known(key: bytes) -> bool:
        if key in parts.memory or key in parts.dirty or key in parts.node.fetches:
            return True
        return parts.disk_cache is not None and key in parts.disk_cache

    old_owner = OldOwner(
        ownership, parts.memory, config.freshness, links, parts.clock, source.served_before, watch, is_known
    )
    destination = Destination(
        ownership, parts.dirty, parts.dirty_writes, parts.writeback, journal, merging, tombstones, parts.clock
    )
    destination.on_change = old_owner.took

    def is_moving(key: bytes) -> bool:
        slot = slot_of(key)
        return source.holds_back(slot) or (destination.holds_back(slot) and destination.has_received(key))

    former_owner = FormerOwner(
        ownership,
        parts.dirty,
        parts.dirty_writes,
        links,
        parts.clock,
        parts.budget,
        parts.rng,
        is_moving,
        source.write_of,
        tombstones,
        journal.sync_barrier,
    )
    parts.dead_letters.on_retry = former_owner.update_moves
    hot_entries = HotEntries(
        old_owner, parts.memory.newest_first, links, parts.clock, config.handover_bytes_per_second
    )
    source.on_handed_over = hot_entries.handed_over
    handover = Handover(
        ownership, parts.dirty, source, destination, old_owner, former_owner, hot_entries, merging, tombstones
    )
    before = stored_ring.from_text(journal.disk.metadata().get(stored_ring.NAME, ""))
    ownership.was_fenced = bool(before.released_epoch) and len(before.nodes) > 1
    parts.writeback.holds_back = handover.holds_back
    parts.writes.use_ownership(handover.check_owner, ownership.has_lost)
    parts.node.from_old_owner = parts.node.uncounted.from_old_owner = old_owner.fetch_entry
    return handover


def build_copies(
    config: Config,
    parts: NodeParts,
    ownership: Ownership,
    handover: Handover,
    links: Links,
    copy_links: CopyLinks,
) -> HeldCopies:
    """Return what holds copies of other nodes' writes, and makes those of this node's writes.

    Moves of slots, writes and the journal heed it. `copy_links`: connections for the copies of writes.
    """
    journal, tombstones = parts.journal, handover.tombstones
    roles = JournalRoles(journal.disk.metadata().get(JOURNAL_ROLES, ""))
    ownership.collects = True
    ownership.whole.assign(roles.whole)
    store = CopyStore(config.dirty_copy_bytes, copies_memory(config.dirty_memory_bytes))
    holder = Holder(ownership, store, roles, journal, tombstones)
    replication = Replication(
        ownership,
        journal,
        parts.dirty,
        tombstones,
        copy_links,
        parts.clock,
        parts.rng,
        config.copy_timeout,
        config.copies_policy,
    )
    replication.is_pending = lambda key: parts.writes.journaling(key) or handover.merging.is_merging(key)
    parts.durable.replication = replication
    collecting = Collecting(ownership, holder, journal, parts.dirty, tombstones, links, parts.budget)
    promotion = Promotion(
        ownership,
        holder,
        collecting,
        journal,
        parts.dirty,
        parts.dirty_writes,
        parts.writeback,
        parts.entries,
        tombstones,
        parts.clock,
        parts.rng,
        stored_ring.from_text(journal.disk.metadata().get(stored_ring.NAME, "")),
        replication,
    )
    hot_entries, old_owner = handover.hot_entries, handover.old_owner

    def handed_over(move: Move, slots: set[int]) -> None:
        promotion.adopt(slots)
        hot_entries.handed_over(move, slots)

    def took(ranges: Sequence[Range]) -> None:
        promotion.took(ranges)
        replication.took(ranges)
        old_owner.took(ranges)

    moving = tombstones.on_added

    def tombstone_added(key: bytes) -> None:
        moving(key)
        replication.tombstone_added(key)

    tombstones.on_added = tombstone_added
    handover.copies = promotion
    handover.source.on_handed_over = handed_over
    handover.destination.on_change = took
    handover.source.retire_entry = promotion.adopt_or_retire
    handover.source.keeps_tombstones = promotion.is_holder
    handover.former_owner.keeps_tombstones = promotion.is_holder
    collected = Collected(ownership, holder, journal, tombstones)
    return HeldCopies(ownership, store, holder, promotion, collecting, collected, replication, config.copies)


def metrics_registry(
    parts: NodeParts,
    servers: Servers,
    replayed: Replay,
    certificates: Certificates | None = None,
    guarding: Guarding | None = None,
) -> CollectorRegistry:
    """Return the registry that `/metrics` exports."""
    return node_registry(
        servers.calls,
        parts.node,
        parts.origin.counts,
        servers.requests,
        servers.status,
        parts.writeback,
        parts.throttle,
        parts.uploader,
        parts.journal,
        parts.commits,
        replayed,
        servers.ownership,
        servers.fence,
        servers.promises,
        servers.handover.source,
        servers.handover.tombstones,
        servers.copies,
        parts.blocks,
        servers.cluster_blocks,
        parts.part_reads,
        servers.resp.clients,
        servers.resp.tracking,
        servers.resp.context,
        parts.budget,
        servers.s3_counts,
        servers.events.changes,
        servers.events.heartbeats,
        servers.events.delivery,
        servers.events.counts,
        parts.freshness,
        parts.samples,
        certificates,
        guarding,
        parts.disk_cache,
    )


def build_membership(
    parts: NodeParts,
    servers: Servers,
    member: NodeDescription,
    routers: Sequence[Address],
    connect: Callable[[str], RouterTransport] = AsyncGrpcTransport,
) -> Membership:
    """Return the parts that join the ring of each of `routers` as the node `member`.

    `connect` returns a connection to the router at an address, host:port.
    """
    ownership, journal, status = servers.ownership, parts.journal, servers.status
    late_writes = LateWriteInvalidation(ownership, servers.peers.invalidate_at, parts.clock)
    parts.writeback.wrote = parts.write_through.wrote = late_writes.wrote

    before = stored_ring.from_text(journal.disk.metadata().get(stored_ring.NAME, ""))

    def store_ring(disk: Disk) -> None:
        # Not on a full disk, where it would take the room that is needed to take records out.
        if not journal.full:
            disk.set_metadata(stored_ring.NAME, stored_ring.to_text(ownership.slot_map))

    def ring_changed(slot_map: SlotMap) -> None:
        known, served = ownership.epoch, ownership.since.copy()
        changed = ownership.update(slot_map)
        # Nothing awaits in between: no request is served by the new ring before its fence is looked at.
        servers.fence.adopt_ring()
        if ownership.epoch > known and slot_map.nodes:
            journal.defer(store_ring)
        servers.handover.update_moves(ownership.slot_map, known)
        servers.identity.ring_changed(ownership.slot_map.cluster_id)
        if ownership.slot_map.cluster_id:
            journal.joined(lineage_of_cluster(ownership.slot_map.cluster_id))
        if changed:
            late_writes.ring_changed()
            both = zip(served, ownership.since, strict=True)
            servers.resp.slots_changed({slot for slot, (old, new) in enumerate(both) if old != new})
        offers.ring_changed()
        asking.ring_changed()
        renew_if_changed()

    def renew_if_changed() -> None:
        for registration in status.registrations:
            registration.renew_if_changed()

    offers = RingOffers(servers.promises, ownership, servers.peers, parts.clock, renew_if_changed)
    asking = PromiseRequests(servers.fence, ownership, servers.peers, parts.clock, ring_changed)
    servers.promises.adopt = ring_changed

    def ring_status() -> RingStatus:
        acknowledged, held = servers.promises.acknowledged_epoch, servers.handover.former_owner.held_epoch
        completed, failed = servers.copies.replication.completed(), servers.copies.replication.failed_holders()
        return RingStatus(
            acknowledged if held is None else min(acknowledged, held),
            ownership.taken,
            servers.handover.leaving,
            servers.handover.former_owner.has_foreign_writes,
            completed,
            failed,
            ownership.epoch if completed or failed else 0,
        )

    took_slots = servers.handover.destination.on_change

    def took(ranges: Sequence[Range]) -> None:
        took_slots(ranges)
        servers.resp.slots_changed([slot for first, last in ranges for slot in range(first, last + 1)])
        # Until a router knows it, it sends clients to the old owner. But a ring takes all nodes and clients some
        # milliseconds, in which they are to hand over the next slots: several batches get one.
        asyncio.get_running_loop().call_later(STATUS_SECONDS, renew_if_changed)

    def served() -> None:
        late_writes.ring_changed()
        servers.resp.fence_changed()
        renew_if_changed()

    servers.copies.replication.on_change = renew_if_changed
    servers.handover.destination.on_change = took
    servers.copies.promotion.on_served = served
    servers.handover.former_owner.on_done = renew_if_changed

    numbers = count(1)
    for router in routers:
        coordinator = RouterCoordinator(str(router), connect(str(router)), member.node_id, parts.clock, parts.rng)
        registration = Registration(
            coordinator,
            member,
            parts.clock,
            parts.rng,
            lambda: journal.versions.epoch,
            lambda: ownership.slot_map if ownership.epoch else before,
            ring_changed,
            servers.identity,
            status.for_routers,
            ring_status,
            servers.fence,
            servers.handover.tombstones.renewed,
            numbers.__next__,
        )
        status.registrations.append(registration)
    return Membership(late_writes, asking, offers, status.registrations)
