"""Counts of frequent keys beside exact ones."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.sampling.frequent_keys import FrequentKeys

KEYS = st.integers(0, 30).map(lambda number: b"%d" % number)


@given(st.lists(st.tuples(KEYS, st.integers(0, 50)), max_size=300), st.integers(1, 8))
def test_a_count_is_at_most_the_sum_and_misses_no_more_than_it_says(
    stream: list[tuple[bytes, int]], capacity: int
) -> None:
    keys, exact = FrequentKeys(capacity), Counter[bytes]()
    for key, weight in stream:
        keys.add(key, weight)
        exact[key] += weight
        assert len(keys) <= 2 * capacity
    counted = dict(keys.greatest(2 * capacity))
    for key, total in exact.items():
        assert total - keys.removed <= counted.get(key, 0) <= total
    assert keys.total == exact.total()
    assert keys.removed * (capacity + 1) <= keys.total


def test_the_most_frequent_keys_of_a_zipf_stream_are_found_with_their_counts() -> None:
    rng = random.Random(7)
    population = [b"key/%d" % number for number in range(50_000)]
    weights = [1 / (number + 1) for number in range(len(population))]
    stream = rng.choices(population, weights, k=40_000)
    keys, exact = FrequentKeys(512), Counter(stream)
    for key in stream:
        keys.add(key, 1)
    expected = dict(exact.most_common(10))
    found = dict(keys.greatest(10))
    assert len(found.keys() & expected.keys()) >= 9
    for key in found.keys() & expected.keys():
        assert 0.9 * expected[key] <= found[key] <= expected[key]


def test_keys_with_the_same_count_have_an_order() -> None:
    keys = FrequentKeys(4)
    for key in (b"a", b"c", b"b"):
        keys.add(key, 1)
    assert keys.greatest(2) == [(b"c", 1), (b"b", 1)]
