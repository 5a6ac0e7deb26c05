"""Shell. The node's metrics, by name."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from milena_cache.doors.grpc import CacheService
from milena_cache.node import Node
from milena_cache.origin import OriginCounts
from milena_cache.report import Report
from milena_common.calls import CallCounts
from milena_common.metrics import counter, counters, gauge, histograms, plain_counters, registry


def node_registry(
    calls: CallCounts,
    node: Node,
    origin: OriginCounts,
    service: CacheService,
    report: Report,
) -> CollectorRegistry:
    """The registry that `/metrics` shows."""

    def collect() -> Iterable[Metric]:
        yield from _reads(node)
        yield from _calls(calls, service)
        yield from _memory(node)
        yield from _origin(origin)
        yield gauge("milena_cache_flights", "Reads of S3 in progress", len(node.flights))
        yield gauge("milena_cache_ready", "1 if the node is ready", float(not report.not_ready()))
        yield gauge("milena_cache_joined", "1 if the node's lease is running", float(report.joined))

    return registry(collect)


def _reads(node: Node) -> Iterable[Metric]:
    reads = node.reads
    yield counter("milena_cache_hits", "Reads answered without waiting for S3", reads.hits)
    yield counter("milena_cache_misses", "Reads that waited for S3", reads.misses)
    yield counters(
        "milena_cache_outcomes",
        "Reads by outcome",
        ["outcome"],
        (([outcome], number) for outcome, number in reads.outcomes.items()),
    )
    yield counter("milena_cache_hit_bytes", "Bytes of values served without waiting for S3", reads.hit_bytes)
    yield counter("milena_cache_miss_bytes", "Bytes of values served after waiting for S3", reads.miss_bytes)


def _calls(calls: CallCounts, service: CacheService) -> Iterable[Metric]:
    operations = calls.by_operation.items()
    yield plain_counters(
        "milena_request_counter",
        "Calls received",
        ["operation"],
        (([name], counts.requests) for name, counts in operations),
    )
    yield plain_counters(
        "milena_error_counter",
        "Calls answered with an error, by gRPC status",
        ["operation", "code"],
        _errors(calls),
    )
    yield histograms(
        "milena_operation_duration_seconds",
        "From a call's arrival to its answer",
        "operation",
        ((name, counts.durations) for name, counts in operations),
    )
    yield counter("milena_received_bytes", "Bytes of values received from callers", service.received_bytes)
    yield counter("milena_sent_bytes", "Bytes of values sent to callers", service.sent_bytes)


def _errors(calls: CallCounts) -> Iterable[tuple[list[str], float]]:
    for name, counts in calls.by_operation.items():
        # There from the start, so that a rate over the first error is not lost.
        for code in counts.errors.keys() | {"unavailable"}:
            yield [name, code], counts.errors.get(code, 0)


def _memory(node: Node) -> Iterable[Metric]:
    memory = node.memory
    yield gauge("milena_cache_entries", "Entries in memory", len(memory))
    yield gauge("milena_cache_capacity_entries", "LRU_SIZE", memory.max_entries)
    yield gauge("milena_cache_bytes", "Bytes in memory: keys, values, and their keeping", memory.bytes)
    yield gauge("milena_cache_capacity_bytes", "LRU_BYTES", memory.max_bytes)
    yield counters(
        "milena_cache_evictions",
        "Entries pushed out, by the limit that was reached",
        ["reason"],
        (([reason], number) for reason, number in memory.evictions.items()),
    )


def _origin(origin: OriginCounts) -> Iterable[Metric]:
    yield counters(
        "milena_s3_requests",
        "Requests to S3, each attempt counted, by HTTP status or what the transport met",
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
