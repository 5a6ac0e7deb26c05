"""Coordination. Puts the Redis door together from the parts of a node."""

from __future__ import annotations

from milena_cache.buckets import Buckets
from milena_cache.config import Config
from milena_cache.doors.grpc import CacheService
from milena_cache.doors.redis.clients import Clients
from milena_cache.doors.redis.context import Context
from milena_cache.doors.redis.cursors import Cursors
from milena_cache.doors.redis.door import RedisDoor
from milena_cache.doors.redis.hits import Hits
from milena_cache.doors.redis.invalidations import Invalidations
from milena_cache.doors.redis.table import command_table
from milena_cache.doors.redis.tracking import Tracking
from milena_cache.node import Node
from milena_cache.node_identity import NodeIdentity
from milena_cache.ownership import Ownership
from milena_cache.report import Report
from milena_common.byte_budget import ByteBudget
from milena_common.calls import CallCounts
from milena_common.clock import Clock
from milena_common.limiter import TokenBucket
from milena_common.process_facts import ProcessFacts


def redis_door(
    *,
    config: Config,
    node: Node,
    buckets: Buckets,
    ownership: Ownership,
    service: CacheService,
    report: Report,
    calls: CallCounts,
    limiter: TokenBucket,
    identity: NodeIdentity,
    clock: Clock,
    budget: ByteBudget,
) -> RedisDoor:
    """The door, not yet listening. `budget`: the process's bytes in flight."""
    hits = Hits(node.memory, node.dirty, ownership, config.freshness, node.reads)
    tracking = Tracking(config.tracking_max_keys)
    clients = Clients()
    context = Context(
        node=node,
        buckets=buckets,
        ownership=ownership,
        service=service,
        report=report,
        calls=calls,
        limiter=limiter,
        identity=identity,
        tracking=tracking,
        clock=clock,
        config=config,
        timeout=config.request_timeout,
        clients=clients,
        hits=hits,
        budget=budget,
        # Greater than any that an earlier process of this node gave.
        cursors=Cursors(int(clock.wall() * 1e6)),
        facts=ProcessFacts(),
        table=command_table(),
    )
    invalidations = Invalidations(tracking, clients, node.memory.changes, node.memory, node.dirty, clock)
    return RedisDoor(context, hits, invalidations)
