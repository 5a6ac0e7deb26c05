"""The histogram against what Prometheus expects of one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.metrics.histogram import LATENCY_BUCKETS, Histogram


def test_the_buckets_go_from_50_microseconds_to_10_seconds() -> None:
    assert LATENCY_BUCKETS[0] == 50e-6
    assert LATENCY_BUCKETS[-1] == 10
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))


@given(st.lists(st.floats(0, 100)))
def test_each_row_counts_the_observations_up_to_its_bound(observed: list[float]) -> None:
    histogram = Histogram()
    for seconds in observed:
        histogram.observe(seconds)
    rows = histogram.cumulative()
    assert [float(bound) for bound, _ in rows] == [*LATENCY_BUCKETS, float("inf")]
    for bound, count in rows:
        assert count == sum(seconds <= float(bound) for seconds in observed)
    assert rows[-1] == ("+Inf", len(observed))
    assert histogram.total == pytest.approx(sum(observed))
