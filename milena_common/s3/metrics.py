"""Shell. The metrics of an S3 endpoint, the same for router and node."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from milena_common.metrics.families import counters, gauge
from milena_common.s3.counts import EndpointCounts


def endpoint_metrics(counts: EndpointCounts) -> Iterable[Metric]:
    """Yield what a process with an S3 endpoint exports about it."""
    yield counters(
        "milena_s3_endpoint_requests",
        "Requests to the S3 endpoint",
        ["operation"],
        [([operation], number) for operation, number in counts.requests.items()],
    )
    yield counters(
        "milena_s3_endpoint_replies",
        "Replies of the S3 endpoint",
        ["status"],
        [([str(status)], number) for status, number in counts.replies.items()],
    )
    yield gauge("milena_s3_endpoint_connections", "Open connections of the S3 endpoint", counts.connections)
    yield gauge("milena_s3_endpoint_streamed_parts", "Parts that are being passed on to S3", counts.streamed)
