"""Shell. The router's metrics: their names, help texts and sources, collected at each scrape.

Names and labels are those of docs and dashboards; the counts are plain integers of the router's parts.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from milena_common.access.guarding import Guarding
from milena_common.cluster.slots import SLOTS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.certificates import certificate_metrics
from milena_common.metrics.families import (
    counter,
    counters,
    gauge,
    guarding_metrics,
    histograms,
    in_flight,
    registry,
)
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.metrics import endpoint_metrics
from milena_common.tls.certificates import Certificates
from milena_router.redis.server import RedisServer
from milena_router.ring.leases import Leases
from milena_router.ring.losses.copy_timers import number_waiting
from milena_router.ring.watch_streams import RingWatchers
from milena_router.shared.shared_leases import SharedLeases, StoreCounts


def router_registry(
    calls: CallCounts,
    leases: Leases,
    limiter: TokenBucket,
    watchers: RingWatchers,
    budget: ByteBudget,
    certificates: Certificates | None = None,
    guarding: Guarding | None = None,
    redis: RedisServer | None = None,
    s3: EndpointCounts | None = None,
) -> CollectorRegistry:
    """Return the registry that `/metrics` exports."""

    def collect() -> Iterable[Metric]:
        operations = calls.by_operation.items()
        yield counters(
            "milena_router_requests",
            "Calls received",
            ["operation"],
            (([name], counts.requests) for name, counts in operations),
        )
        yield counters(
            "milena_router_errors",
            "Calls that failed, by gRPC status",
            ["operation", "code"],
            (([name, code], number) for name, counts in operations for code, number in counts.errors.items()),
        )
        yield histograms(
            "milena_router_request_duration_seconds",
            "From a call's arrival to its response",
            "operation",
            ((name, counts.durations) for name, counts in operations),
        )
        yield counter("milena_router_rate_limited", "Calls rejected by RATE_LIMIT", limiter.rejected)
        yield from in_flight("milena_router_in_flight", budget)
        yield from certificate_metrics(certificates)
        if guarding is not None:
            yield from guarding_metrics(guarding)
        if redis is not None:
            yield from redis_metrics(redis)
        if s3 is not None:
            yield from endpoint_metrics(s3)
        ring = leases.ring
        yield gauge("milena_router_ring_nodes", "Nodes in the ring", len(ring.members))
        yield gauge("milena_router_ring_epoch", "The ring's epoch, which grows with every change", ring.epoch)
        yield gauge(
            "milena_router_ring_recovering",
            "1 after the start, until a ring is published",
            float(leases.recovering),
        )
        membership = leases.membership
        yield gauge(
            "milena_router_ring_frozen",
            "1 while all nodes of the ring are silent and keep their places, because this router may be isolated",
            float(bool(membership.frozen)),
        )
        yield gauge(
            "milena_router_ring_pending_slots",
            "Slots that their owners hand over to other nodes",
            sum(last + 1 - first for first, last, _, _ in ring.pending),
        )
        yield counter(
            "milena_router_ring_abandoned_slots",
            "Slots of moves that made no progress, and were left with their owners",
            membership.progress.abandoned_slots,
        )
        yield gauge(
            "milena_router_ring_unreleased_losses",
            "Lost nodes whose slots the new owners do not serve yet",
            len(membership.releases) if membership.moving else 0,
        )
        yield gauge(
            "milena_router_ring_copies_target",
            "How many journals an acknowledged write must be in; 0: not all nodes keep copies",
            ring.copies.target,
        )
        yield gauge(
            "milena_router_ring_slots_missing_copies",
            "Slots with fewer complete holders of copies than are wanted",
            ring.slots_with_missing_copies(),
        )
        yield gauge(
            "milena_router_ring_waiting_slots",
            "Slots without an owner, whose owner and complete holders are lost",
            number_waiting(ring),
        )
        yield counter(
            "milena_router_ring_given_up_slots",
            "Slots without an owner that were given to others after RECOVERY_WAIT_SECONDS: their writes are lost",
            membership.waiting.given_up_slots,
        )
        yield gauge(
            "milena_router_missing_nodes",
            "Nodes that left without handing over, and are neither back nor written off",
            len(leases.membership.missing),
        )
        yield counters(
            "milena_router_ring_changes",
            "Membership changes",
            ["change"],
            (([kind], number) for kind, number in leases.changes.items()),
        )
        yield gauge("milena_router_ring_watchers", "Clients and nodes that follow the ring", watchers.open)
        if isinstance(leases, SharedLeases):
            yield from etcd_metrics(leases.counts)
        dirty = GaugeMetricFamily(
            "milena_router_missing_node_dirty_entries",
            "Acknowledged writes not in S3, dead letters included, as last reported by a node that left without "
            "handing over; -1: not known",
            labels=["node", "journal"],
        )
        for node in leases.membership.missing.all():
            writes = -1 if node.dirty_entries is None else node.dirty_entries + node.dead_letters
            dirty.add_metric([node.address, node.journal_id], writes)
        yield dirty
        slots = GaugeMetricFamily("milena_router_ring_slots", f"Slots of {SLOTS} owned", labels=["node"])
        share = GaugeMetricFamily(
            "milena_router_ring_share_ratio", "Share of the slots owned, 0 to 1", labels=["node"]
        )
        for address, owned in ring.slots_by_node().items():
            slots.add_metric([address], owned)
            share.add_metric([address], owned / SLOTS)
        yield slots
        yield share

    return registry(collect)


def redis_metrics(redis: RedisServer) -> Iterable[Metric]:
    """Yield what a router with RESP_ADDR or RESP_TLS_ADDR exports about that port."""
    operations = redis.calls.by_operation.items()
    yield gauge("milena_router_resp_connections", "Open connections of the Redis protocol", len(redis.connections))
    yield counter("milena_router_resp_connections_opened", "Connections since the start", redis.context.opened)
    yield counter(
        "milena_router_resp_connections_rejected", "Connections over RESP_MAX_CONNECTIONS", redis.context.rejected
    )
    yield counter(
        "milena_router_resp_disconnected", "Connections ended: they did not log in or read", redis.disconnected
    )
    yield counters(
        "milena_router_resp_commands",
        "Commands of the Redis protocol received",
        ["operation"],
        (([name], counts.requests) for name, counts in operations),
    )
    yield counters(
        "milena_router_resp_errors",
        "Commands that failed, by the code word of the error",
        ["operation", "code"],
        (([name, code], number) for name, counts in operations for code, number in counts.errors.items()),
    )
    yield histograms(
        "milena_router_resp_command_duration_seconds",
        "From a command's arrival to its reply",
        "operation",
        ((name, counts.durations) for name, counts in operations),
    )
    channels = redis.feeds.channels
    yield gauge("milena_router_pubsub_subscribers", "Connections with a subscription", channels.subscribers)
    yield counter(
        "milena_router_pubsub_published", "Messages published by clients of this router", channels.published
    )
    yield counter(
        "milena_router_pubsub_delivered", "Messages sent to subscribers of this router", channels.delivered
    )
    yield counter("milena_router_resp_forwarded", "Commands sent to nodes", redis.upstreams.forwarded)
    yield counter(
        "milena_router_resp_repeated",
        "Commands sent again: their slot had moved, or they were reads whose node had failed",
        redis.upstreams.repeated,
    )


def etcd_metrics(counts: StoreCounts) -> Iterable[Metric]:
    """Yield what a router with ETCD_ENDPOINTS exports about etcd."""
    yield gauge(
        "milena_router_etcd_reachable",
        "0 while etcd does not respond to this router, which then renews no lease",
        float(counts.reachable),
    )
    yield counter(
        "milena_router_etcd_conflicts", "Changes made again because another router was faster", counts.conflicts
    )
    yield counter("milena_router_etcd_failures", "Calls to etcd that failed", counts.failures)
    yield counter(
        "milena_router_etcd_watch_restarts", "How often following the ring in etcd ended", counts.watch_restarts
    )
