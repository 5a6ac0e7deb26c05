"""The windows of a copy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_cache.memory.freshness import Freshness, Window

PLAIN = Freshness(ttl=100, jitter=0, grace=10, keep=50, stale_if_error=30, negative_ttl=5)


@pytest.mark.parametrize(
    ("age", "window"),
    [
        (0, Window.FRESH),
        (99.9, Window.FRESH),
        (100, Window.GRACE),
        (109.9, Window.GRACE),
        (110, Window.KEEP),
        (159.9, Window.KEEP),
        (160, Window.GONE),
    ],
)
def test_the_windows_follow_one_another(age: float, window: Window) -> None:
    assert PLAIN.window(b"k", age, negative=False) is window


def test_a_negative_entry_is_fresh_or_gone() -> None:
    assert PLAIN.window(b"k", 4.9, negative=True) is Window.FRESH
    assert PLAIN.window(b"k", 5.0, negative=True) is Window.GONE


def test_serving_on_errors_ends_with_the_shorter_of_its_limit_and_keep() -> None:
    assert PLAIN.may_serve_on_error(b"k", 129.9)
    assert not PLAIN.may_serve_on_error(b"k", 130)
    long = Freshness(ttl=100, jitter=0, grace=10, keep=50, stale_if_error=1e6, negative_ttl=5)
    assert long.may_serve_on_error(b"k", 159.9)
    assert not long.may_serve_on_error(b"k", 160)


@given(st.binary(min_size=1, max_size=50), st.floats(0, 1))
def test_jitter_shortens_the_ttl_by_at_most_its_share(key: bytes, jitter: float) -> None:
    freshness = Freshness(1000, jitter, 0, 0, 0, 0)
    assert 1000 * (1 - jitter) <= freshness.fresh_for(key) <= 1000
    assert freshness.fresh_for(key) == freshness.fresh_for(bytes(key))


def test_jitter_spreads_what_was_loaded_together() -> None:
    freshness = Freshness(1000, 0.1, 0, 0, 0, 0)
    ends = sorted(freshness.fresh_for(b"key-%d" % i) for i in range(1000))
    assert ends[0] < 905
    assert ends[-1] > 995


def test_a_ttl_of_zero_queries_s3_every_time() -> None:
    strict = Freshness(0, 0.1, 0, 60, 60, 0)
    assert strict.window(b"k", 0.0, negative=False) is Window.KEEP
    assert strict.window(b"k", 0.0, negative=True) is Window.GONE
