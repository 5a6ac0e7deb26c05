"""The metrics of all workers in one text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from milena_cache.workers.merged_metrics import Merged, WorkerState, merge

WORKER = """# HELP milena_cache_hits_total Reads that did not wait for S3
# TYPE milena_cache_hits_total counter
milena_cache_hits_total {hits}
# HELP milena_request_counter Requests
# TYPE milena_request_counter untyped
milena_request_counter{{operation="get"}} 7.0
# HELP milena_operation_duration_seconds Duration
# TYPE milena_operation_duration_seconds histogram
milena_operation_duration_seconds_bucket{{le="0.1",operation="get"}} 1.0
milena_operation_duration_seconds_bucket{{le="+Inf",operation="get"}} 2.0
milena_operation_duration_seconds_count{{operation="get"}} 2.0
milena_operation_duration_seconds_sum{{operation="get"}} 0.5
"""


def text(merged: Merged) -> list[str]:
    registry = CollectorRegistry()
    registry.register(merged)
    return generate_latest(registry).decode().splitlines()


def test_each_sample_has_its_worker_and_each_family_is_there_once() -> None:
    merged = Merged(lambda: [WorkerState(True, 0), WorkerState(False, 3)])
    merged.families = merge({0: WORKER.format(hits="5.0"), 1: WORKER.format(hits="6.0")})
    lines = text(merged)
    assert [
        line for line in lines if line.startswith(("milena_cache_hits", "milena_request", "milena_worker"))
    ] == [
        'milena_cache_hits_total{worker="0"} 5.0',
        'milena_cache_hits_total{worker="1"} 6.0',
        'milena_request_counter{operation="get",worker="0"} 7.0',
        'milena_request_counter{operation="get",worker="1"} 7.0',
        'milena_worker_up{worker="0"} 1.0',
        'milena_worker_up{worker="1"} 0.0',
        'milena_worker_restarts_total{worker="0"} 0.0',
        'milena_worker_restarts_total{worker="1"} 3.0',
    ]
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 5
    assert "# TYPE milena_request_counter untyped" in types
    assert 'milena_operation_duration_seconds_bucket{le="+Inf",operation="get",worker="1"} 2.0' in lines


def test_a_worker_that_does_not_respond_is_left_out() -> None:
    merged = Merged(lambda: [WorkerState(True, 0), WorkerState(False, 1)])
    merged.families = merge({1: WORKER.format(hits="6.0")})
    assert 'milena_cache_hits_total{worker="1"} 6.0' in text(merged)
    assert not [line for line in text(merged) if line.startswith("milena_cache") and 'worker="0"' in line]
