"""The miss-ratio curve beside full simulations of the same memories, and its bounds."""

from __future__ import annotations

import random
import tracemalloc
from hashlib import blake2b
from math import inf

import pytest

from bench.traces.replay import UNLIMITED, contents, replay
from bench.traces.traces import Trace, shipped_trace
from milena_cache.eviction.policies import EVICTION_POLICIES, LRU, S3FIFO, S3FIFO_SIZE
from milena_cache.memory.freshness import Freshness
from milena_cache.sampling.curve import MAX_KEYS, SCALES, Curve, share_of

FOR_EVER = Freshness(ttl=inf, jitter=0, grace=0, keep=0, stale_if_error=0, negative_ttl=inf)
# The greatest difference from the full simulation, in percentage points of the hit ratio.
MAX_ERROR = 2.0
MAX_BYTES = 4 * 2**20


def hash_of(key: bytes, seed: int = 0) -> int:
    return int.from_bytes(blake2b(key, digest_size=8, salt=b"%d" % seed).digest(), "little", signed=True)


def curve_of(trace: Trace, share: float, policy: str, max_keys: int | None = None) -> Curve:
    """Return the curve after all reads of `trace`, for a memory of `share` of all objects."""
    limit = max(1, int(contents(trace) * share))
    limits = (limit, UNLIMITED) if trace.sizes is None else (UNLIMITED, limit)
    curve = Curve(*limits, policy, FOR_EVER, max_keys)
    keys = [b"%d" % number for number in range(max(trace.objects) + 1)]
    hashes = [hash_of(key) for key in keys]
    sizes = trace.sizes
    for number in trace.objects:
        curve.read(hashes[number], len(keys[number]), 0 if sizes is None else sizes[number], 0.0)
    return curve


@pytest.mark.parametrize(
    ("name", "share", "policy", "max_keys"),
    [
        ("web12", 0.1, S3FIFO, MAX_KEYS[S3FIFO]),
        ("adapt_size", 0.1, S3FIFO_SIZE, MAX_KEYS[S3FIFO_SIZE]),
        # As with a memory of many more entries, where one key in ten is simulated, and fewer.
        ("web07", 0.05, LRU, MAX_KEYS[LRU] // 2),
    ],
)
def test_the_curve_is_within_two_points_of_full_simulations(
    name: str, share: float, policy: str, max_keys: int
) -> None:
    trace = shipped_trace(name)
    curve = curve_of(trace, share, policy, max_keys)
    sampled = [1 - each.misses / len(trace.objects) for each in curve.miniatures]
    full = [replay(trace, share * scale, policy).hits for scale in SCALES]
    errors = [100 * abs(one - other) for one, other in zip(sampled, full, strict=True)]
    assert max(errors) < MAX_ERROR, (errors, full)
    assert share_of(curve.miniatures[-1].threshold) < 0.5, "then it was not sampled"
    assert max(len(each.memory) for each in curve.miniatures) <= max_keys


@pytest.mark.parametrize("policy", EVICTION_POLICIES)
def test_however_many_keys_are_read_it_takes_less_than_four_mebibytes(policy: str) -> None:
    rng = random.Random(1)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        curve = Curve(10_000, UNLIMITED, policy, FOR_EVER)
        for number in range(6_000):
            curve.read(rng.getrandbits(63), 20, number * number, float(number // 10))
        assert tracemalloc.get_traced_memory()[0] - before < MAX_BYTES
    finally:
        tracemalloc.stop()
    entries = [len(each.memory) for each in curve.miniatures]
    assert max(entries) <= MAX_KEYS[policy]
    assert min(entries) > MAX_KEYS[policy] / 2


def test_what_does_not_exist_or_is_removed_is_read_again() -> None:
    curve = Curve(100, UNLIMITED, LRU, Freshness(10, 0, 5, 100, 0, negative_ttl=2))
    one = curve.miniatures[2]
    curve.read(1, 1, None, 0.0)
    curve.read(1, 1, None, 1.0)
    assert (one.misses, one.requests, one.bytes) == (1, 1, 0)
    curve.read(1, 1, 7, 3.0)
    assert (one.misses, one.requests, one.bytes) == (2, 2, 7), "the absence was not known any more"
    curve.drop_key(1)
    curve.read(1, 1, 7, 3.0)
    assert (one.misses, one.requests, one.bytes) == (3, 3, 14)
    curve.store(1, 1, 9, 3.0)
    assert (one.misses, one.requests, one.bytes) == (3, 3, 14), "a write is no read"


def test_entries_are_revalidated_as_the_node_does() -> None:
    curve = Curve(100, UNLIMITED, LRU, Freshness(10, 0, 5, 100, 0, negative_ttl=2))
    one = curve.miniatures[2]
    curve.read(1, 1, 7, 0.0)
    curve.read(1, 1, 7, 9.0)
    assert (one.misses, one.requests, one.bytes) == (1, 1, 7), "fresh"
    curve.read(1, 1, 7, 12.0)
    assert (one.misses, one.requests, one.bytes) == (1, 2, 7), (
        "in its grace: a hit, and a request in the background"
    )
    curve.read(1, 1, 7, 21.0)
    assert (one.misses, one.requests, one.bytes) == (1, 2, 7), "which made it fresh"
    curve.read(1, 1, 7, 60.0)
    assert (one.misses, one.requests, one.bytes) == (2, 3, 7), "confirmed first, without its bytes"
    curve.read(1, 1, 7, 300.0)
    assert (one.misses, one.requests, one.bytes) == (3, 4, 14), "too old for that"


def test_what_blocks_take_is_missing_at_each_size() -> None:
    curve = Curve(UNLIMITED, 100_000, LRU, FOR_EVER)
    for number in range(1000):
        curve.read(hash_of(b"%d" % number), 8, 1000, 0.0)
    before = [each.memory.bytes for each in curve.miniatures]
    curve.lend(0.5)
    for each, was in zip(curve.miniatures, before, strict=True):
        assert each.memory.bytes <= each.memory.max_bytes
        assert each.memory.bytes - each.memory.lent < 0.6 * was
    curve.lend(0.0)
    assert all(not each.memory.lent for each in curve.miniatures)


def test_a_large_object_is_admitted_as_by_the_whole_memory() -> None:
    """Of a sample of a tenth, 1 % of its bytes would reject objects that the node keeps."""
    curve = Curve(UNLIMITED, 10_000_000, S3FIFO, FOR_EVER, max_keys=200)
    for number in range(5000):
        curve.read(hash_of(b"%d" % number), 8, 10_000, 0.0)
    whole = curve.miniatures[2]
    assert share_of(whole.threshold) < 0.3
    assert not whole.memory.is_large(90_000)
    assert whole.memory.is_large(110_000)


def test_thinning_takes_from_the_largest_samples_first() -> None:
    curve = Curve(2_000, UNLIMITED, LRU, FOR_EVER)
    for number in range(40_000):
        curve.read(hash_of(b"%d" % number), 8, 100, 0.0)
    before = [each.threshold for each in curve.miniatures]
    assert before == sorted(before, reverse=True)
    assert before[0] == curve.threshold > before[-1]
    entries = [len(each.memory) for each in curve.miniatures]
    for _ in range(3):
        curve.thin()
    assert curve.threshold < before[0]
    after = [each.threshold for each in curve.miniatures]
    assert after[-1] == before[-1]
    assert len(curve.miniatures[0].memory) == pytest.approx(entries[0] * share_of(after[0]), rel=0.2)
