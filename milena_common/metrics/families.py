"""Shell. Metric families for what Milena counts in plain integers, made at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.histogram import Histogram
from milena_common.process.distribution import installed_version


class _Collector(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        yield gauge("milena_build_info", "The version that runs", 1, {"version": installed_version()})
        yield from self._collect()


def registry(collect: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    """A registry of the process's own figures and what `collect` yields at each scrape."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    made.register(_Collector(collect))
    return made


def gauge(name: str, text: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    """One gauge sample."""
    family = GaugeMetricFamily(name, text, labels=list(labels or ()))
    family.add_metric(list((labels or {}).values()), value)
    return family


def gauges(name: str, text: str, label: str, rows: Iterable[tuple[str, float]]) -> Metric:
    """Gauge samples by one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for labelled, value in rows:
        family.add_metric([labelled], value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """One counter sample; `name` is without `_total`."""
    return CounterMetricFamily(name, text, value=value)


def counters(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """Counter samples by label values; `name` is without `_total`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def in_flight(prefix: str, budget: ByteBudget) -> Iterable[Metric]:
    """Yield the samples of the process's budget of bytes in flight; `prefix` begins their names."""
    yield gauge(f"{prefix}_bytes", "Bytes in flight: requests, fetches and answers, with copies", budget.used)
    yield gauge(f"{prefix}_limit_bytes", "MAX_IN_FLIGHT_BYTES", budget.limit)
    yield gauge(f"{prefix}_waiting_requests", "Requests that wait for their bytes", budget.queued)
    yield gauge(f"{prefix}_waiting_bytes", "Bytes that those requests wait for", budget.queued_bytes)
    yield counter(f"{prefix}_rejected", "Requests for which there was no room in time", budget.rejected)


def histogram(name: str, text: str, observed: Histogram) -> Metric:
    """One histogram."""
    family = HistogramMetricFamily(name, text)
    family.add_metric([], buckets=observed.cumulative(), sum_value=observed.total)
    return family


def histograms(name: str, text: str, label: str, rows: Iterable[tuple[str, Histogram]]) -> Metric:
    """Histograms by one label."""
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in rows:
        family.add_metric([value], buckets=histogram.cumulative(), sum_value=histogram.total)
    return family


def plain_counters(name: str, text: str, labels: list[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    """Counter samples whose name does not end in `_total`, because existing dashboards query them so.

    Their type is `unknown`: a counter of the metrics library would have the ending appended.
    """
    family = Metric(name, text, "unknown")
    for values, value in rows:
        family.add_sample(name, dict(zip(labels, values, strict=True)), value)
    return family
