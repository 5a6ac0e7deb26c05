"""Traces: what is read from files, and the eviction policies on those that are short."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from bench.traces.reference import LIBCACHESIM, defects
from bench.traces.replay import replay
from bench.traces.traces import NAMES, Trace, shipped_trace, trace_of_file
from milena_cache.eviction.policies import EVICTION_POLICIES, LRU, S3FIFO, S3FIFO_SIZE


def hits(trace: Trace, share: float) -> dict[str, float]:
    return {policy: 100 * replay(trace, share, policy).hits for policy in EVICTION_POLICIES}


@pytest.mark.parametrize(("name", "share"), [("web12", 0.05), ("web07", 0.01), ("adapt_size", 0.1)])
def test_s3fifo_is_as_good_as_the_reference_and_better_than_lru(name: str, share: float) -> None:
    found = hits(shipped_trace(name), share)
    assert defects(name, share, found) == []
    assert found[S3FIFO] < LIBCACHESIM[name, share] + 2, "then something else was replayed"


def test_by_size_there_are_more_hits_where_sizes_differ() -> None:
    found = hits(shipped_trace("adapt_size"), 0.1)
    assert found[S3FIFO_SIZE] > found[S3FIFO] + 2
    assert found[S3FIFO_SIZE] > found[LRU] + 4


@pytest.mark.parametrize("name", NAMES)
def test_traces_number_their_objects_in_the_order_of_their_first_reads(name: str) -> None:
    trace = shipped_trace(name)
    firsts = list(dict.fromkeys(trace.objects))
    assert firsts == list(range(len(firsts)))
    assert trace.sizes is None or len(trace.sizes) == len(firsts)


def test_a_file_has_names_and_may_have_sizes(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("a 10\nb 20\na 10\n")
    assert trace_of_file(path) == Trace("own", array("I", [0, 1, 0]), array("I", [10, 20]))
    path.write_text("a\nb\n")
    assert trace_of_file(path).sizes is None


@pytest.mark.parametrize(
    ("text", "at"), [("a 1\nb x\n", ":2"), ("a 1 2\n", ":1"), ("a -1\n", ":1"), ("", "no line")]
)
def test_a_file_that_is_no_trace_is_rejected_with_the_line(tmp_path: Path, text: str, at: str) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=at):
        trace_of_file(path)


def test_a_ratio_outside_its_bounds_is_reported() -> None:
    good = {policy: LIBCACHESIM["web12", 0.05] for policy in (S3FIFO, S3FIFO_SIZE)} | {LRU: 60.0}
    assert defects("web12", 0.05, good) == []
    (line,) = defects("web12", 0.05, good | {S3FIFO: LIBCACHESIM["web12", 0.05] - 0.6})
    assert "libCacheSim" in line
    (line,) = defects("web12", 0.05, good | {LRU: 62.0})
    assert "lru" in line
