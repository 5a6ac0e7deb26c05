"""Metric families under exactly the names that dashboards query."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from milena_common.metrics.call_counts import CallCounts
from milena_common.metrics.families import counter, counters, gauge, histograms, plain_counters, registry
from milena_common.metrics.histogram import Histogram


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_families_have_the_names_that_they_were_given() -> None:
    latency = Histogram()
    latency.observe(0.001)
    made = registry(
        lambda: [
            gauge("ring_nodes", "n", 3),
            gauge("share", "n", 0.5, {"node": "a:1"}),
            counter("limited", "n", 7),
            counters("calls", "n", ["operation"], [(["get"], 5), (["put"], 6)]),
            plain_counters("milena_request_counter", "n", ["operation"], [(["get"], 9)]),
            histograms("seconds", "n", "operation", [("get", latency)]),
        ]
    )
    found = samples(generate_latest(made).decode())
    assert found["ring_nodes", ()] == 3
    assert found["share", (("node", "a:1"),)] == 0.5
    assert found["limited_total", ()] == 7
    assert found["calls_total", (("operation", "put"),)] == 6
    assert found["milena_request_counter", (("operation", "get"),)] == 9
    assert found["seconds_bucket", (("le", "0.0005"), ("operation", "get"))] == 0
    assert found["seconds_bucket", (("le", "0.001"), ("operation", "get"))] == 1
    assert found["seconds_count", (("operation", "get"),)] == 1
    assert found["seconds_sum", (("operation", "get"),)] == 0.001
    names = {name for name, _ in found}
    assert "milena_build_info" in names
    assert "process_resident_memory_bytes" in names
    assert "milena_request_counter_total" not in names
    openmetrics = generate_openmetrics(made).decode()
    assert "\nmilena_request_counter{" in openmetrics


def test_two_registries_do_not_know_of_each_other() -> None:
    """Two nodes fit into one process."""
    one, other = registry(lambda: [gauge("x", "n", 1)]), registry(lambda: [gauge("x", "n", 2)])
    assert samples(generate_latest(one).decode())["x", ()] == 1
    assert samples(generate_latest(other).decode())["x", ()] == 2


def test_counts_of_calls_add_up() -> None:
    calls = CallCounts(("get", "put"))
    calls["get"].requests += 2
    calls["put"].requests += 1
    calls["get"].count_error("unavailable")
    calls["get"].count_error("unavailable")
    calls["put"].count_error("internal")
    assert calls.requests == 3
    assert calls.errors == 3
    assert calls["get"].errors == {"unavailable": 2}
