"""Shell. The node's metrics: their names, help texts and sources, collected at each scrape.

Names and labels are those of docs and dashboards; the counts are plain integers of the node's parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import nan

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from milena_cache.blocks.block_reads import BlockReads
from milena_cache.blocks.cluster_blocks import ClusterBlocks
from milena_cache.copies.held_copies import HeldCopies
from milena_cache.disk_cache.tier import DiskCache
from milena_cache.events.changes import ForeignChanges
from milena_cache.events.consumer import ConsumerCounts
from milena_cache.events.delivery import Delivery
from milena_cache.events.heartbeats import Heartbeats
from milena_cache.handover.source import Source
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.commit_counts import CommitCounts
from milena_cache.journal.group_commit import Journal
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.promises import PromisesGiven
from milena_cache.memory.freshness import Freshness
from milena_cache.origin.conditions import Conditions, State
from milena_cache.origin.requests import OriginCounts
from milena_cache.reads.part_reads import PartReads
from milena_cache.reads.reader import Node
from milena_cache.sampling.curve import share_of
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.tracking import Tracking
from milena_cache.service.requests import Requests
from milena_cache.service.samples import Samples
from milena_cache.service.status import Status
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.recovery import Replay
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Uploader
from milena_cache.writes.writer import Writes
from milena_common.access.guarding import Guarding
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.certificates import certificate_metrics
from milena_common.metrics.families import (
    counter,
    counters,
    gauge,
    gauges,
    guarding_metrics,
    histogram,
    histograms,
    in_flight,
    plain_counters,
    registry,
)
from milena_common.s3.counts import EndpointCounts
from milena_common.s3.metrics import endpoint_metrics
from milena_common.tls.certificates import Certificates


def node_registry(
    calls: CallCounts,
    node: Node,
    origin: OriginCounts,
    requests: Requests,
    status: Status,
    writeback: WriteBack,
    throttle: UploadThrottle,
    uploader: Uploader,
    journal: Journal[DirtyEntry],
    commits: CommitCounts,
    replayed: Replay,
    ownership: Ownership,
    fence: NodeFence,
    promises: PromisesGiven,
    source: Source,
    tombstones: Tombstones,
    copies: HeldCopies,
    blocks: BlockReads,
    cluster_blocks: ClusterBlocks,
    part_reads: PartReads,
    clients: Clients,
    tracking: Tracking,
    resp: Context,
    budget: ByteBudget,
    s3: EndpointCounts,
    changes: ForeignChanges,
    heartbeats: Heartbeats,
    delivery: Delivery,
    consumed: ConsumerCounts,
    freshness: Freshness,
    samples: Samples,
    certificates: Certificates | None,
    guarding: Guarding | None = None,
    disk_cache: DiskCache | None = None,
) -> CollectorRegistry:
    """Return the registry that `/metrics` exports."""

    def collect() -> Iterable[Metric]:
        yield from _reads(node)
        yield from _calls(calls, requests)
        yield from _memory(node)
        if disk_cache is not None:
            yield from _disk_cache(disk_cache)
        yield from _origin(origin)
        yield from _store(uploader.conditions)
        yield from _writes(node.writes)
        yield from _dirty(node.dirty, status)
        yield from _writeback(writeback, throttle, uploader)
        yield from _journal(journal, commits, replayed, status)
        yield from _redis(clients, tracking, resp)
        yield from endpoint_metrics(s3)
        yield from _events(changes, heartbeats, delivery, consumed, freshness)
        yield from _samples(node, samples)
        yield from in_flight("milena_in_flight", budget)
        yield from certificate_metrics(certificates)
        if guarding is not None:
            yield from guarding_metrics(guarding)
        yield gauge("milena_cache_flights", "Reads of S3 in progress", len(node.fetches))
        yield gauge("milena_cache_ready", "1 if the node is ready", float(not status.not_ready()))
        yield gauge(
            "milena_cache_degraded", "1 if an operator should look at the node", float(bool(status.degraded()))
        )
        yield gauge(
            "milena_clock_skew_seconds",
            "Seconds by which this machine's time of day is ahead of S3's, 0: unknown",
            status.clock_skew,
        )
        yield gauge("milena_ring_epoch", "Epoch of the newest ring that the node knows, 0: none", ownership.epoch)
        yield gauge("milena_ring_slots", "Slots that the node serves, 0 while its fence is closed", ownership.slots)
        yield gauge("milena_fence_closed", "1 while the node serves no slot, for want of a lease", fence.closed)
        yield gauge(
            "milena_fence_by_promises", "1 while it serves by promises of all other nodes", fence.fence.by_promise
        )
        yield counter("milena_fence_closures", "Times that the fence was closed", fence.closures)
        yield gauge("milena_tombstones", "Deletes in S3 of which absent nodes may have older puts", len(tombstones))
        yield counter(
            "milena_tombstones_dropped", "Tombstones dropped although a node was absent", tombstones.dropped
        )
        yield from _copies(copies)
        yield from _blocks(blocks, cluster_blocks, part_reads)
        yield histogram(
            "milena_handover_pause_seconds",
            "For how long slots were stopped to be handed over, one observation for each slot",
            source.pauses,
        )
        yield counter("milena_promises_given", "Promises given to other nodes", promises.given)
        yield counter("milena_rate_limited", "Requests rejected by RATE_LIMIT", requests.limiter.rejected)
        yield gauge("milena_cache_joined", "1 if the node's lease is running", float(status.joined))

    return registry(collect)


def _disk_cache(disk_cache: DiskCache) -> Iterable[Metric]:
    counts = disk_cache.counts
    yield gauge("milena_disk_cache_off", "1 if an error has switched the disk cache off", not disk_cache.works)
    yield gauge("milena_disk_cache_entries", "Values on disk that reads find", len(disk_cache))
    yield gauge("milena_disk_cache_bytes", "Size of the files of the disk cache", disk_cache.used_bytes)
    yield gauge("milena_disk_cache_limit_bytes", "DISK_CACHE_BYTES", disk_cache.max_bytes)
    yield gauge("milena_disk_cache_queue_bytes", "Bytes that wait to be written", disk_cache.queue.bytes)
    yield gauge(
        "milena_disk_cache_load_seconds",
        "Seconds until what was on disk at the start was found; 0: not yet",
        disk_cache.load_seconds,
    )
    yield counters(
        "milena_disk_cache_reads",
        "Reads of keys that memory did not have, by what the disk cache had",
        ["result"],
        (
            (["hit"], counts.hits),
            (["miss"], counts.misses),
            (["busy"], counts.busy),
            (["late"], counts.late),
            (["damaged"], counts.damaged),
        ),
    )
    yield counters(
        "milena_disk_cache_values",
        "Values that were evicted from memory, or from the oldest segment, by what became of them",
        ["result"],
        (
            (["written"], counts.written),
            (["reinserted"], counts.reinserted),
            (["dropped"], counts.dropped),
            (["not_admitted"], counts.not_admitted),
        ),
    )
    yield counter("milena_disk_cache_written_bytes", "Bytes written to the disk cache", disk_cache.written_bytes)
    yield counter("milena_disk_cache_errors", "Errors of its file system", counts.errors)


def _blocks(blocks: BlockReads, cluster: ClusterBlocks, parts: PartReads) -> Iterable[Metric]:
    memory = blocks.memory
    yield gauge("milena_blocks", "Blocks of large objects in memory", len(memory))
    yield gauge("milena_blocks_bytes", "Bytes of these blocks, part of milena_cache_bytes", memory.bytes)
    yield gauge("milena_blocks_limit_bytes", "Maximum of these bytes, half of LRU_BYTES", memory.max_bytes)
    yield counter("milena_blocks_hits", "Blocks that reads found in memory", blocks.hits)
    yield counter("milena_blocks_joined", "Blocks that another read had requested already", blocks.joined)
    yield counter("milena_blocks_fetched", "Blocks that S3 returned", blocks.fetched)
    yield counter("milena_blocks_requests", "Ranged GETs sent to S3 for blocks", blocks.requests)
    yield counter("milena_blocks_ahead", "Blocks requested ahead of sequential readers", blocks.ahead)
    used = blocks.ahead_joined + memory.ahead_used
    yield counter("milena_blocks_ahead_used", "Blocks requested ahead that were read later", used)
    yield counter("milena_blocks_ahead_unused", "Blocks requested ahead and dropped unread", memory.ahead_unused)
    yield counter("milena_blocks_evictions", "Blocks evicted to make room", memory.evictions)
    yield counter("milena_blocks_from_peers", "Groups of blocks that other nodes returned", cluster.from_peers)
    yield counter(
        "milena_blocks_peer_failures",
        "Groups that another node should have returned and did not",
        cluster.peer_failures,
    )
    yield counter("milena_blocks_direct", "Reads of blocks that clients requested of this node", parts.direct)


def _events(
    changes: ForeignChanges,
    heartbeats: Heartbeats,
    delivery: Delivery,
    consumed: ConsumerCounts,
    freshness: Freshness,
) -> Iterable[Metric]:
    yield counters(
        "milena_events_changes",
        "Changes of this node's objects that S3 has reported, by what became of the entry",
        ["result"],
        (([result], number) for result, number in changes.results.items()),
    )
    yield counter("milena_events_received", "Messages received from the queue of S3's events", consumed.received)
    yield counter("milena_events_delivered", "Messages that all nodes concerned have applied", consumed.delivered)
    yield counter("milena_events_postponed", "Messages left in the queue for another attempt", consumed.postponed)
    yield counter(
        "milena_events_unreadable", "Messages deleted because they are no events of S3", consumed.unreadable
    )
    yield counter("milena_events_foreign", "Changes of objects that the node does not serve", delivery.foreign)
    yield counter("milena_events_queue_failures", "Requests to the queue that failed", consumed.failures)
    yield counter("milena_events_heartbeats", "Heartbeat objects that the node has written", heartbeats.written)
    yield counter(
        "milena_events_heartbeat_failures", "Heartbeat objects that it could not write", heartbeats.failures
    )
    yield gauge(
        "milena_events_lag_seconds",
        "Seconds since the newest heartbeat was written whose event has arrived; NaN without a queue",
        heartbeats.lag,
    )
    yield gauge(
        "milena_events_fresh_seconds",
        "Age up to which events make entries fresh, at most EVENTS_TTL_SECONDS; 0: they do not",
        freshness.vouched,
    )


def _samples(node: Node, samples: Samples) -> Iterable[Metric]:
    hot = samples.hot_keys.view()
    yield gauge("milena_hot_keys_reads_per_second", "Reads a second in the last window", hot.reads)
    yield gauge(
        "milena_hot_keys_top_share",
        "The most frequent key's share of these reads, 0 to 1",
        hot.by_reads[0].reads / hot.reads if hot.by_reads else 0.0,
    )
    yield gauge(
        "milena_hot_keys_top_bytes_share",
        "The share of the bytes read of the key of which most are, 0 to 1",
        hot.by_bytes[0].read_bytes / hot.read_bytes if hot.by_bytes else 0.0,
    )
    curve = samples.sizing.curve.miniatures
    scales = [f"{each.scale:g}" for each in curve]
    yield counters(
        "milena_size_misses",
        "Estimated reads that would have waited for S3, with a memory of so many times the size",
        ["scale"],
        (([scale], each.misses) for scale, each in zip(scales, curve, strict=True)),
    )
    yield counters(
        "milena_size_requests",
        "Estimated requests to S3 for reads, with such a memory",
        ["scale"],
        (([scale], each.requests) for scale, each in zip(scales, curve, strict=True)),
    )
    yield counters(
        "milena_size_read_bytes",
        "Estimated bytes that S3 would have returned for them",
        ["scale"],
        (([scale], each.bytes) for scale, each in zip(scales, curve, strict=True)),
    )
    yield gauges(
        "milena_size_sample",
        "The share of the keys, 0 to 1, from which they are estimated",
        "scale",
        ((scale, share_of(each.threshold)) for scale, each in zip(scales, curve, strict=True)),
    )
    yield counter(
        "milena_size_lost",
        "Events of the sample that were not simulated, for want of time",
        node.memory.samples.lost,
    )


def _copies(copies: HeldCopies) -> Iterable[Metric]:
    store, promotion = copies.store, copies.promotion
    yield gauge("milena_copies", "Copies of other nodes' dirty writes that this node holds", len(store))
    yield gauge("milena_copies_bytes", "Bytes of these copies, overhead included", store.bytes)
    yield gauge("milena_copies_limit_bytes", "Maximum of these bytes, DIRTY_COPY_BYTES", store.max_bytes)
    yield counter("milena_copies_taken", "Copies that were taken from other nodes", copies.holder.taken)
    yield counter("milena_copies_rejected", "Frames of copies rejected for want of room", copies.holder.full)
    yield counter(
        "milena_copies_promoted", "Copies of lost nodes' writes that became this node's", promotion.promoted
    )
    yield counter("milena_copies_dropped", "Copies dropped because the ring needs them no more", promotion.dropped)
    yield gauge(
        "milena_copies_collecting_slots",
        "Slots of lost nodes not served until other nodes have sent what they have",
        promotion.collecting_slots,
    )
    replication = copies.replication
    yield gauge(
        "milena_copies_missing",
        "Slots of this node of which too few holders have every write",
        replication.slots_with_missing_copies,
    )
    yield gauge("milena_copies_target", "Journals that the ring wants an acknowledged write in", replication.target)
    yield gauge("milena_copies_configured", "COPIES", copies.configured)
    yield counter("milena_copies_sent", "Records sent to holders with their commit", replication.sent)
    yield counter("milena_copies_failed", "Writes that were not copied in time", replication.failed)


def _reads(node: Node) -> Iterable[Metric]:
    reads = node.reads
    yield counter("milena_cache_hits", "Reads served without waiting for S3", reads.hits)
    yield counter("milena_cache_misses", "Reads that waited for S3", reads.misses)
    yield counters(
        "milena_cache_outcomes",
        "Reads by outcome",
        ["outcome"],
        (([outcome], number) for outcome, number in reads.outcomes.items()),
    )
    yield counter("milena_cache_hit_bytes", "Bytes of values served without waiting for S3", reads.hit_bytes)
    yield counter("milena_cache_miss_bytes", "Bytes of values served after waiting for S3", reads.miss_bytes)


def _calls(calls: CallCounts, requests: Requests) -> Iterable[Metric]:
    operations = calls.by_operation.items()
    yield plain_counters(
        "milena_request_counter",
        "Calls received",
        ["operation"],
        (([name], counts.requests) for name, counts in operations),
    )
    yield plain_counters(
        "milena_error_counter",
        "Calls that failed, by gRPC status",
        ["operation", "code"],
        _errors(calls),
    )
    yield counters(
        "milena_moved",
        "Calls redirected to the node that owns the key",
        ["operation"],
        (([name], counts.moved) for name, counts in operations),
    )
    yield histograms(
        "milena_operation_duration_seconds",
        "From a call's arrival to its response",
        "operation",
        ((name, counts.durations) for name, counts in operations),
    )
    yield counter("milena_received_bytes", "Bytes of values received from callers", requests.received_bytes)
    yield counter("milena_sent_bytes", "Bytes of values sent to callers", requests.sent_bytes)


def _redis(clients: Clients, tracking: Tracking, resp: Context) -> Iterable[Metric]:
    channels, publisher, forwarder = resp.channels, resp.publisher, resp.forwarder
    yield gauge("milena_resp_connections", "Open connections of the RESP server", len(clients))
    yield counter("milena_resp_accepted_connections", "Connections accepted since the start", clients.accepted)
    yield counter(
        "milena_resp_refused_connections", "Connections rejected because of RESP_MAX_CONNECTIONS", clients.rejected
    )
    yield counters(
        "milena_resp_disconnects",
        "Connections that the node closed, by reason",
        ["reason"],
        (([reason], number) for reason, number in clients.disconnects.items()),
    )
    yield counter("milena_resp_deferred", "Deferred replies, sent as pushes", clients.deferred)
    yield counter("milena_resp_flushed", "Objects that FLUSHDB and FLUSHALL have deleted", resp.flushed)
    yield gauge("milena_pubsub_channels", "Channels with a subscriber at this node", channels.channels)
    yield gauge("milena_pubsub_subscribers", "Connections with a subscription", channels.subscribers)
    yield counter("milena_pubsub_published", "Messages published by clients of this node", channels.published)
    yield counter("milena_pubsub_delivered", "Messages sent to subscribers of this node", channels.delivered)
    yield counter(
        "milena_pubsub_dropped",
        "Messages that another node did not get: it was not reachable, or too many waited for it",
        publisher.dropped,
    )
    if forwarder is not None:
        upstreams = forwarder.upstreams
        yield counter(
            "milena_resp_forwarded", "Commands of clients that were sent to other nodes", upstreams.forwarded
        )
        yield counter(
            "milena_resp_forwarded_again",
            "Those of them that were sent again",
            upstreams.repeated,
        )
    yield gauge("milena_tracking_keys", "Keys that clients track", tracking.keys)
    yield gauge("milena_tracking_clients", "Connections with CLIENT TRACKING on", tracking.clients)
    yield counter("milena_invalidations", "Invalidations sent to tracking clients", tracking.invalidations)


def _errors(calls: CallCounts) -> Iterable[tuple[list[str], float]]:
    for name, counts in calls.by_operation.items():
        # Exported from the start, so that a rate includes the first error.
        for code in counts.errors.keys() | {"unavailable"}:
            yield [name, code], counts.errors.get(code, 0)


def _memory(node: Node) -> Iterable[Metric]:
    memory = node.memory
    yield gauge("milena_cache_entries", "Entries in memory", len(memory))
    yield gauge("milena_cache_capacity_entries", "LRU_SIZE", memory.max_entries)
    yield gauge("milena_cache_bytes", "Bytes in memory: keys, values, and overhead", memory.bytes)
    yield gauge("milena_cache_capacity_bytes", "LRU_BYTES", memory.max_bytes)
    yield gauge("milena_cache_pinned_entries", "Entries that are not evicted", len(memory.pinned))
    yield gauge("milena_cache_pinned_bytes", "Bytes of these entries", memory.pinned_bytes)
    yield counter(
        "milena_cache_not_admitted", "Large objects that the eviction policy did not keep", memory.not_admitted
    )
    yield counters(
        "milena_cache_evictions",
        "Entries evicted, by the limit that was reached",
        ["reason"],
        (([reason], number) for reason, number in memory.evictions.items()),
    )


def _writes(writes: Writes) -> Iterable[Metric]:
    yield counters(
        "milena_writes",
        "Puts and deletes acknowledged, by the durability class that was reached",
        ["durability"],
        (([durability], number) for durability, number in writes.acknowledged.items()),
    )
    yield counters(
        "milena_writeback_forced_through",
        "Writes of class back or memory that had to go through S3, by reason",
        ["reason"],
        (([reason], number) for reason, number in writes.forced.items()),
    )


def _dirty(dirty: Dirty, status: Status) -> Iterable[Metric]:
    yield gauge("milena_writeback_dirty_entries", "Keys whose newest write is not in S3", dirty.waiting)
    yield gauge("milena_writeback_dirty_bytes", "Bytes of dirty writes and dead letters", dirty.bytes)
    yield gauge("milena_writeback_limit_bytes", "DIRTY_MAX_BYTES", dirty.max_bytes)
    yield gauge("milena_writeback_memory_bytes", "Bytes of dirty values in memory", dirty.memory_bytes)
    yield gauge("milena_writeback_oldest_seconds", "Age of the oldest dirty write, 0 if none", status.oldest)
    yield gauge("milena_writeback_max_age_seconds", "DIRTY_MAX_AGE_SECONDS", status.max_age)
    yield gauge("milena_writeback_dead_letters", "Writes that S3 rejected permanently", dirty.dead_letters)
    yield gauge("milena_writeback_stuck", "Dirty writes that fail while others reach S3", status.stuck)
    yield gauge("milena_writeback_dead_letter_bytes", "Bytes of dead letters", dirty.dead_bytes)


def _writeback(writeback: WriteBack, throttle: UploadThrottle, uploader: Uploader) -> Iterable[Metric]:
    yield counters(
        "milena_writeback_flushes",
        "Uploads of dirty writes, by result",
        ["result"],
        (([result], number) for result, number in writeback.results.items()),
    )
    yield counters(
        "milena_writeback_conflicts",
        "Dirty writes whose object another writer had changed in S3, by policy",
        ["policy"],
        (([policy], number) for policy, number in uploader.conflicts.items()),
    )
    yield gauge("milena_writeback_uploads", "Uploads in progress", writeback.uploads)
    yield gauge("milena_writeback_concurrency", "Uploads allowed at once now", throttle.limit)
    yield gauge(
        "milena_writeback_last_success_timestamp_seconds",
        "Time of the last successful upload, seconds since 1970; 0: none yet",
        writeback.last_success,
    )


def _journal(
    journal: Journal[DirtyEntry], commits: CommitCounts, replayed: Replay, status: Status
) -> Iterable[Metric]:
    yield counter("milena_journal_commits", "Commits, each with one sync of the disk", commits.commits)
    yield histogram("milena_journal_commit_records", "Writes in a commit", commits.writes)
    yield histogram("milena_journal_commit_duration_seconds", "Duration of a commit", commits.durations)
    yield gauge("milena_journal_full", "1 if the journal's disk is full", float(journal.full))
    yield gauge("milena_journal_damaged_records", "Damaged records in the journal", status.damaged)
    yield gauge("milena_journal_replayed_records", "Records found at the start", replayed.records)
    yield gauge("milena_journal_replay_seconds", "Duration of the replay at the start", replayed.seconds)
    yield gauge("milena_journal_bytes", "Size of the journal's file", journal.disk.used_bytes)


def _store(conditions: Conditions) -> Iterable[Metric]:
    yield gauges(
        "milena_s3_capability",
        "Probed capabilities of the S3 store: 1 works, 0 does not, NaN unknown",
        "capability",
        ((each.value, _known(finding.state)) for each, finding in conditions.findings.items()),
    )
    yield counter(
        "milena_s3_conditions_denied",
        "Conditional writes that S3 denied although their condition held",
        conditions.exceptions,
    )


def _known(state: State) -> float:
    return nan if state is State.UNKNOWN else float(state is State.WORKS)


def _origin(origin: OriginCounts) -> Iterable[Metric]:
    yield counters(
        "milena_s3_requests",
        "Requests to S3, each attempt counted, by HTTP status or transport failure",
        ["operation", "code"],
        (([name, code], number) for (name, code), number in origin.requests.items()),
    )
    yield histograms(
        "milena_s3_request_duration_seconds",
        "Duration of each request to S3",
        "operation",
        origin.durations.items(),
    )
    yield counter("milena_s3_bytes_read", "Bytes of values read from S3", origin.bytes_read)
    yield counter("milena_s3_bytes_written", "Bytes of values written to S3", origin.bytes_written)
