"""Shell. Converts plain integer counts to metric families of the Prometheus client library, at each scrape.

The data path counts without the library's locks; exported names and labels are those that dashboards query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from milena_common.access.guarding import Guarding
from milena_common.build import is_compiled
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.histogram import Histogram
from milena_common.process.distribution import installed_version


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        labels = {"version": installed_version(), "compiled": "true" if is_compiled() else "false"}
        yield gauge(
            "milena_build_info", "The version that runs, and whether its hot modules are compiled", 1, labels
        )
        yield from self._collect()


def registry(collect: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    """Return a registry of the process metrics and of what `collect` yields at each scrape."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    made.register(_Collector(collect))
    return made


def gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    """Return one gauge sample."""
    family = GaugeMetricFamily(name, text, labels=list(labels or ()))
    family.add_metric(list((labels or {}).values()), value)
    return family


def gauges(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    """Return gauge samples by one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for labelled, value in rows:
        family.add_metric([labelled], value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """Return one counter sample; `name` is without `_total`."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """Return counter samples by label values; `name` is without `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def in_flight(prefix: str, budget: ByteBudget) -> Iterable[Metric]:
    """Yield the samples of the process's budget of bytes in flight; `prefix` begins their names."""
    yield gauge(f"{prefix}_bytes", "Bytes in flight: requests, fetches and responses, with copies", budget.used)
    yield gauge(f"{prefix}_limit_bytes", "MAX_IN_FLIGHT_BYTES", budget.limit)
    yield gauge(f"{prefix}_waiting_requests", "Requests that wait for their bytes", budget.queued)
    yield gauge(f"{prefix}_waiting_bytes", "Bytes that those requests wait for", budget.queued_bytes)
    yield counter(f"{prefix}_rejected", "Requests rejected because there was no room in time", budget.rejected)


def guarding_metrics(guarding: Guarding) -> Iterable[Metric]:
    """Yield what a process exports about logins, its table of users, and the audit log."""
    access = guarding.access
    yield gauge(
        "milena_insecure_listener",
        "1 if other machines can reach a port on which no login is required",
        float(guarding.insecure),
    )
    yield counters(
        "milena_auth_failures",
        "Failed logins, and requests without a login where one is required",
        ["port", "reason"],
        (([port, reason], number) for (port, reason), number in access.failures.items()),
    )
    yield counters(
        "milena_acl_reloads",
        "How often the files of users and tokens were read again, by result",
        ["result"],
        (([result], number) for result, number in guarding.files.reloads.items()),
    )
    yield counter("milena_user_limited", "Requests rejected by a limit of their user", access.limits.rejected)
    yield counter("milena_audit_dropped", "Events that the audit log lost", guarding.audit.dropped)


def histogram(name: str, text: str, observed: Histogram) -> Metric:
    """Return one histogram."""
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets=observed.cumulative(), sum_value=observed.total)
    return family


def histograms(name: str, text: str, label: str, rows: Iterable[tuple[str, Histogram]]) -> Metric:
    """Return histograms by one label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in rows:
        family.add_metric([value], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family


def plain_counters(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """Return counter samples whose name does not end in `_total`, because existing dashboards query them so.

    Their type is `unknown`: the metrics library would append `_total` to a counter.
    """
    family = Metric(name, text, "unknown")
    for values, value in rows:
        family.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return family
