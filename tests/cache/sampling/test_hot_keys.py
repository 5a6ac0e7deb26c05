"""Hot keys of a window, from sampled reads."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.sampling.hot_keys import ONE_IN, SAMPLES, TOP_KEYS, WINDOW_SECONDS, HotKeys, HotKeysView
from tests.support.fake_clock import FakeClock


def test_the_last_whole_window_is_shown() -> None:
    clock = FakeClock()
    hot = HotKeys(ReadCounts(), clock)
    for size in (100, 100, 10):
        hot.count(b"a", size)
    hot.count(b"b", 5000)
    assert hot.view() == HotKeysView(), "none has ended"
    clock.tick(WINDOW_SECONDS)
    view = hot.view()
    one = ONE_IN / WINDOW_SECONDS
    assert view.seconds == WINDOW_SECONDS
    assert (view.reads, view.read_bytes) == (pytest.approx(4 * one), pytest.approx(5210 * one))
    assert [(each.key, each.reads, each.read_bytes) for each in view.by_reads] == [
        (b"a", pytest.approx(3 * one), pytest.approx(210 * one)),
        (b"b", pytest.approx(one), pytest.approx(5000 * one)),
    ]
    assert [each.key for each in view.by_bytes] == [b"b", b"a"]
    hot.count(b"c", 1)
    assert hot.view() == view, "the window that has begun is not shown"
    clock.tick(WINDOW_SECONDS)
    assert [each.key for each in hot.view().by_reads] == [b"c"]
    clock.tick(WINDOW_SECONDS)
    assert hot.view().by_reads == ()


def test_a_reset_forgets_both_windows() -> None:
    clock = FakeClock()
    hot = HotKeys(ReadCounts(), clock)
    hot.count(b"a", 1)
    clock.tick(WINDOW_SECONDS)
    hot.count(b"b", 1)
    hot.begin_anew()
    assert hot.view() == HotKeysView()
    clock.tick(WINDOW_SECONDS)
    assert hot.view().by_reads == ()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_one_read_in_so_many_is_sampled_also_where_keys_come_in_the_same_order(batch: int) -> None:
    """Hits are counted in batches, as by the fast path, or one by one; the keys are 64, in turn."""
    reads, sampled = ReadCounts(), Counter[bytes]()
    reads.one_in = ONE_IN
    reads.on_sample = lambda key, size: sampled.update([key])
    keys = [b"%d" % number for number in range(ONE_IN)]
    number = 200_000
    for first in range(0, number, batch):
        if batch == 1:
            reads.hit("hit", keys[first % len(keys)], 0)
            continue
        reads.due -= batch
        while reads.due <= 0:
            reads.take_sample(keys[(first + batch - 1 + reads.due) % len(keys)], 0)
    assert sampled.total() == pytest.approx(number / ONE_IN, rel=0.05)
    expected = sampled.total() / len(keys)
    assert all(0.4 * expected < sampled[key] < 1.9 * expected for key in keys)


def test_the_hottest_keys_of_many_reads_are_found_with_their_rates() -> None:
    rng, clock = random.Random(3), FakeClock()
    reads = ReadCounts()
    hot = HotKeys(reads, clock)
    population = [b"key/%d" % number for number in range(20_000)]
    stream = rng.choices(population, [1 / (number + 1) for number in range(len(population))], k=300_000)
    for key in stream:
        reads.hit("hit", key, 1000)
    clock.tick(WINDOW_SECONDS)
    view, exact = hot.view(), Counter(stream)
    assert len(view.by_reads) == TOP_KEYS
    assert view.reads == pytest.approx(len(stream) / WINDOW_SECONDS, rel=0.05)
    for key, count in exact.most_common(3):
        (found,) = (each for each in view.by_reads[:6] if each.key == key)
        assert found.reads == pytest.approx(count / WINDOW_SECONDS, rel=0.3)
        assert found.read_bytes == pytest.approx(1000 * found.reads, rel=0.2)


def test_of_many_reads_fewer_are_sampled() -> None:
    clock, reads = FakeClock(), ReadCounts()
    hot = HotKeys(reads, clock)
    for _ in range(3 * SAMPLES):
        hot.count(b"a", 1)
    clock.tick(WINDOW_SECONDS)
    (found,) = hot.view().by_reads
    assert found.reads == pytest.approx(3 * SAMPLES * ONE_IN / WINDOW_SECONDS)
    assert reads.one_in == 3 * ONE_IN
    for _ in range(SAMPLES):
        hot.count(b"a", 1)
    clock.tick(WINDOW_SECONDS)
    (again,) = hot.view().by_reads
    assert again.reads == pytest.approx(found.reads)
    assert reads.one_in == 3 * ONE_IN
    clock.tick(WINDOW_SECONDS)
    hot.view()
    assert reads.one_in == ONE_IN
