"""Coordination. What the commands of the Redis door work with: the node's parts, and the way from key to object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from milena_cache.configuration.config import Config
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.names import Buckets, Object
from milena_cache.reads.reader import Node
from milena_cache.servers.grpc.methods import CacheService
from milena_cache.servers.resp.dispatch.command import Access, Command, CommandError
from milena_cache.servers.resp.dispatch.session import Session
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.cursors import Cursors
from milena_cache.servers.resp.state.loop_share import LoopShare
from milena_cache.servers.resp.state.overload import Overload
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_cache.servers.resp.state.ring_view import RingView
from milena_cache.servers.resp.state.tracking import Tracking
from milena_cache.servers.resp.statistics.command_metrics import CommandMetrics
from milena_cache.servers.resp.statistics.command_stats import CommandStats
from milena_cache.servers.resp.statistics.rates import Rates
from milena_cache.servers.resp.statistics.slow_commands import SlowCommands
from milena_cache.service.status import Status
from milena_common.api.errors import InvalidRequest, MilenaError
from milena_common.api.keys import SCHEME, split_cache_key
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.process.facts import ProcessFacts
from milena_common.runtime.clock import Clock


@dataclass(slots=True)
class Context:
    """One node's door. `timeout` is how long a command may take, in seconds. `budget` is the process's."""

    node: Node
    buckets: Buckets
    ownership: Ownership
    service: CacheService
    status: Status
    calls: CallCounts
    limiter: TokenBucket
    tracking: Tracking
    clock: Clock
    config: Config
    timeout: float
    clients: Clients
    plain_gets: PlainGets
    cursors: Cursors
    budget: ByteBudget
    facts: ProcessFacts
    identity: NodeIdentity
    commands: Mapping[bytes, Command[Context]] = field(default_factory=dict)
    stats: CommandStats = field(default_factory=CommandStats)
    slow: SlowCommands = field(default_factory=SlowCommands)
    ring: RingView = field(default_factory=RingView)
    command_metrics: CommandMetrics = field(init=False)
    share: LoopShare = field(init=False)
    overload: Overload = field(init=False)
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        self.command_metrics = CommandMetrics(self.calls, self.stats, self.slow, self.clock)
        self.share = LoopShare(self.clock.now)
        self.overload = Overload(self.calls, self.stats)
        self.rates = Rates(self.clock.now())

    def place(self, key: bytes) -> tuple[Object, int]:
        """The object that `key` names, and the epoch since which this node owns it.

        Raises InvalidRequest, AccessDenied, Moved, NoNodes.
        """
        try:
            bucket, object_key = split_cache_key(key)
        except UnicodeDecodeError:
            raise InvalidRequest("bucket: is not UTF-8") from None
        target = self.buckets.resolve(bucket, object_key)
        return target, self.ownership.owned_since(target.cache_key)

    def touched(self, command: Command[Context], argv: list[bytes]) -> tuple[Access, list[bytes]]:
        """What the command does to which objects, by cache key; as it is written if no object is named so."""
        if command.about is not None:
            return command.about(self, argv)
        access = command.access_of(argv)
        if access == "none":
            return access, []
        keys = command.keys_in(argv)
        if any(key.startswith(SCHEME) for key in keys):
            keys = [self._cache_key(key) if key.startswith(SCHEME) else key for key in keys]
        return access, keys

    def _cache_key(self, key: bytes) -> bytes:
        try:
            bucket, object_key = split_cache_key(key)
            return self.buckets.resolve(bucket, object_key).cache_key
        except (MilenaError, UnicodeDecodeError):
            return key

    def check_slots(self, session: Session, keys: list[bytes]) -> None:
        """Refuse a command whose keys are in several slots, as Redis Cluster does, unless one node has them all."""
        if len(keys) < 2 or self.ownership.single or session.deferring:
            return
        first = slot_of(keys[0])
        if any(slot_of(key) != first for key in keys):
            raise CommandError("CROSSSLOT Keys in request don't hash to the same slot")
