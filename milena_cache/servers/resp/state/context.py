"""Coordination. The context of all commands of one RESP server: the node's parts, and the resolution of keys.

Handlers get it as an argument and keep no state of their own; what belongs to one connection is in its `Session`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from milena_cache.blocks.block_reads import BlockReads
from milena_cache.configuration.config import Config
from milena_cache.copies.held_copies import HeldCopies
from milena_cache.handover.handover import Handover
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.promises import PromisesGiven
from milena_cache.membership.slot_waiters import SlotWaiters
from milena_cache.objects.names import Buckets
from milena_cache.reads.peer_listings import PeerListings
from milena_cache.reads.reader import Node
from milena_cache.servers.api_methods import ApiMethods
from milena_cache.servers.resp.dispatch.command import Command
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.scripts.sandbox import Sandbox
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.cursors import Cursors
from milena_cache.servers.resp.state.forwarder import Forwarder
from milena_cache.servers.resp.state.keyspace_events import KeyspaceEvents
from milena_cache.servers.resp.state.loop_share import LoopShare
from milena_cache.servers.resp.state.other_nodes import OtherNodes
from milena_cache.servers.resp.state.overload import Overload
from milena_cache.servers.resp.state.permissions import Permissions
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_cache.servers.resp.state.plain_sets import PlainSets
from milena_cache.servers.resp.state.publisher import Publisher
from milena_cache.servers.resp.state.ring_view import RingView
from milena_cache.servers.resp.state.tracking import Tracking
from milena_cache.servers.resp.statistics.command_metrics import CommandMetrics
from milena_cache.servers.resp.statistics.command_stats import CommandStats
from milena_cache.servers.resp.statistics.rates import Rates
from milena_cache.servers.resp.statistics.slow_commands import SlowCommands
from milena_cache.service.requests import Place, Requests
from milena_cache.service.status import Status
from milena_common.access.api_guard import ApiGuard
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.api.keys import SCHEME, split_cache_key
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.scripts import Scripts
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.process.facts import ProcessFacts
from milena_common.pubsub.channels import Channels
from milena_common.resp.command_ordering import Access
from milena_common.resp.redis_replies import CommandError
from milena_common.runtime.clock import Clock


@dataclass(slots=True)
class Context:
    """The context of one node's RESP server.

    node: reads, writes and memory of the node
    buckets: the names of the buckets that are served
    ownership: the newest ring, and the slots that this node serves
    fence: whether it may serve them now
    promises: what this node has promised to other nodes
    permissions: what connections may do
    api_guard: the same for the methods of the API
    requests, api: the API methods, independent of a protocol and over protobuf
    peer_listings: the listings of other nodes
    blocks: the blocks of large objects that this node has
    handover: the moves of slots
    copies: the copies of other nodes' writes
    slot_waiters: commands that wait for a slot that is handed over
    status: reasons not to be ready, and metrics by name
    calls: counts and durations by operation, for the metrics
    tracking: the table of tracked keys
    clock: the time, monotonic and of day
    config: the node's configuration
    timeout: how long a command may take, seconds
    clients: the open connections
    plain_gets: the fast path of GET
    plain_sets: that of SET
    cursors: the positions of scans
    budget: the process's budget of bytes in flight
    facts: version, memory and processor time of the process
    other_nodes: what commands on all keys request of the other nodes
    channels: the subscriptions of clients
    keyspace_events: events of keys as messages
    publisher: sends messages of clients to the other nodes
    forwarder: sends commands to the owners of their keys; None: clients get MOVED (RESP_FORWARD)
    scripts: those that clients have sent; `sandbox` returns what runs them, and raises CommandError without Lua
    flushed: objects that FLUSHDB has deleted
    commands: all commands by name in upper case
    stats: counts by command and error, for INFO
    slow: the slow log and the latency monitor
    ring, tls_ring: the ring as CLUSTER returns it, to clients without and with TLS
    command_metrics: counts each reply in `calls`, `stats` and `slow`
    share: the queue of connections that wait for a slice
    overload: the connections that are behind
    rates: values that INFO derives from counts
    """

    node: Node
    buckets: Buckets
    ownership: Ownership
    fence: NodeFence
    promises: PromisesGiven
    requests: Requests
    peer_listings: PeerListings
    blocks: BlockReads
    handover: Handover
    copies: HeldCopies
    slot_waiters: SlotWaiters
    api: ApiMethods
    status: Status
    calls: CallCounts
    tracking: Tracking
    clock: Clock
    config: Config
    timeout: float
    clients: Clients
    plain_gets: PlainGets
    cursors: Cursors
    budget: ByteBudget
    facts: ProcessFacts
    permissions: Permissions
    api_guard: ApiGuard
    other_nodes: OtherNodes
    channels: Channels
    keyspace_events: KeyspaceEvents
    publisher: Publisher
    commands: Mapping[bytes, Command[Context]] = field(default_factory=dict)
    scripts: Scripts = field(default_factory=Scripts)
    sandbox: Callable[[], Sandbox] = field(default_factory=lambda: cache(Sandbox))
    forwarder: Forwarder | None = None
    flushed: int = 0
    stats: CommandStats = field(default_factory=CommandStats)
    slow: SlowCommands = field(default_factory=SlowCommands)
    ring: RingView = field(default_factory=RingView)
    tls_ring: RingView = field(default_factory=lambda: RingView(encrypted=True))
    command_metrics: CommandMetrics = field(init=False)
    share: LoopShare = field(init=False)
    overload: Overload = field(init=False)
    plain_sets: PlainSets = field(init=False)
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        self.command_metrics = CommandMetrics(self.calls, self.stats, self.slow, self.clock)
        self.share = LoopShare(self.clock.now)
        self.overload = Overload(self.calls, self.stats)
        self.rates = Rates(self.clock.now())
        self.plain_sets = PlainSets(
            self.commands[b"SET"],
            self.buckets,
            self.ownership,
            self.node.writes,
            self.calls["put"],
            self.stats["set"],
            self.clock.now,
        )

    def place(self, key: bytes) -> Place:
        """Return the object that `key` names, and the epoch since which this node owns its slot.

        Raises InvalidRequest, AccessDenied, and what `Ownership.elsewhere` returns.
        """
        return self.requests.place(*_named(key))

    def check_key(self, key: bytes) -> None:
        """Raise InvalidRequest or AccessDenied if `key` names no object, of whichever node."""
        self.buckets.resolve(*_named(key))

    def forwarder_for(self, session: Session) -> Forwarder | None:
        """Return what sends the client's commands to other nodes; None if there are none, or it is redirected.

        A client that tracks keys is: its invalidations come from the nodes that it reads from.
        """
        if not session.forwards or session.tracking or self.ownership.single:
            return None
        return self.forwarder

    def place_to_read(self, key: bytes) -> Place:
        """As `place`, for a read: while the fence is closed, see `Requests.place_to_read`."""
        return self.requests.place_to_read(*_named(key))

    def touched(self, command: Command[Context], argv: list[bytes]) -> tuple[Access, list[bytes]]:
        """Return what the command does to its objects, and their cache keys, for ordering and tracking.

        A key that resolves to no object is returned as it is written. Cache keys are necessary: `s3://bucket/k` and
        `k` may name one object, and commands on both must not be in flight together if they conflict.
        """
        if command.about is not None:
            return command.about(self, argv)
        access = command.access_of(argv)
        if access == "none":
            return access, []
        keys = command.keys_in(argv)
        if any(key.startswith(SCHEME) for key in keys):
            keys = [self.cache_key(key) if key.startswith(SCHEME) else key for key in keys]
        return access, keys

    def cache_key(self, key: bytes) -> bytes:
        """Return the cache key of the object that `key` names; `key` itself if it names none."""
        try:
            bucket, object_key = split_cache_key(key)
            return self.buckets.resolve(bucket, object_key).cache_key
        except (MilenaError, UnicodeDecodeError):
            return key

    def ring_of(self, session: Session) -> RingView:
        """Return the ring as clients like that of `session` see it."""
        return self.tls_ring if session.encrypted else self.ring

    def spans_nodes(self, session: Session) -> bool:
        """True if commands on all keys are about those of all nodes: the client uses this one for all of them."""
        uses_one = session.spans or (self.forwarder is not None and session.forwards)
        return uses_one and not self.ownership.single

    def check_slots(self, session: Session, keys: list[bytes]) -> None:
        """Raise CommandError for keys in several slots, as Redis Cluster does, unless this node owns all slots."""
        if len(keys) < 2 or self.ownership.single or session.deferring:
            return
        first = slot_of(keys[0])
        if any(slot_of(key) != first for key in keys):
            raise CommandError("CROSSSLOT Keys in request don't hash to the same slot")


def _named(key: bytes) -> tuple[str, bytes]:
    """Return the bucket and the key of the object that `key` names. Raises InvalidRequest."""
    try:
        return split_cache_key(key)
    except UnicodeDecodeError:
        raise InvalidRequest("bucket: is not UTF-8") from None
