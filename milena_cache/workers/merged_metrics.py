"""Shell. The metrics of all workers as one collection: each sample gets the label `worker`.

They are not added up: a worker that was restarted counts from 0 again, which `rate()` understands of each worker,
and not of the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from milena_common.metrics.families import counters, gauges


class WorkerState(NamedTuple):
    """What the parent knows of a worker: whether its process runs, and how often it was started again."""

    running: bool
    restarts: int


def worker_metrics(states: Sequence[WorkerState]) -> Iterator[Metric]:
    """Yield the parent's own metrics."""
    rows = [(str(index), state) for index, state in enumerate(states)]
    up = "Whether the process of the worker runs"
    yield gauges("milena_worker_up", up, "worker", ((index, float(state.running)) for index, state in rows))
    restarts = "How often the worker was started again"
    counts = (([index], float(state.restarts)) for index, state in rows)
    yield counters("milena_worker_restarts", restarts, ["worker"], counts)


def merge(texts: Mapping[int, str]) -> list[Metric]:
    """Return the families of all workers' metrics; `texts` has what each worker has returned, by its index."""
    merged: dict[str, Metric] = {}
    for index, text in texts.items():
        for family in text_string_to_metric_families(text):
            into = merged.get(family.name)
            if into is None:
                into = merged[family.name] = Metric(family.name, family.documentation, family.type)
            for sample in family.samples:
                into.add_sample(sample.name, {**sample.labels, "worker": str(index)}, sample.value)
    return list(merged.values())


class Merged(Collector):
    """What was merged last, and the parent's own metrics, for a registry."""

    def __init__(self, states: Callable[[], Sequence[WorkerState]]) -> None:
        self.families: list[Metric] = []
        self._states = states

    def collect(self) -> Iterator[Metric]:
        yield from self.families
        yield from worker_metrics(self._states())

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: the names are not known before the first scrape."""
        return iter(())
