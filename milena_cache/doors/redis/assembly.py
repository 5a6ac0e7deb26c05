"""Coordination. Puts the Redis door together from the parts of a node."""

from __future__ import annotations

from milena_cache.buckets import Buckets
from milena_cache.config import Config
from milena_cache.doors.grpc import CacheService
from milena_cache.doors.redis.clients import Clients
from milena_cache.doors.redis.context import Context
from milena_cache.doors.redis.door import RedisDoor
from milena_cache.doors.redis.hits import Hits
from milena_cache.doors.redis.table import command_table
from milena_cache.doors.redis.tracking import Tracking
from milena_cache.node import Node
from milena_cache.ownership import Ownership
from milena_cache.report import Report
from milena_common.calls import CallCounts
from milena_common.clock import Clock
from milena_common.limiter import TokenBucket


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
    clock: Clock,
    most_held: int,
) -> RedisDoor:
    """The door, not yet listening. `most_held`: bytes of incomplete commands, of all connections together."""
    context = Context(
        node=node,
        buckets=buckets,
        ownership=ownership,
        service=service,
        report=report,
        calls=calls,
        limiter=limiter,
        tracking=Tracking(),
        clock=clock,
        config=config,
        timeout=config.request_timeout,
        clients=Clients(most_held),
        table=command_table(),
    )
    return RedisDoor(context, Hits(node.memory, node.dirty, ownership, config.freshness, node.reads))
