"""The longest time without a successful call."""

from __future__ import annotations

from tests.faults.ring_faults.availability import Availability


def test_the_longest_time_is_between_two_successful_calls_or_at_an_end() -> None:
    found = Availability()
    assert found.longest(["k"], 10.0, 14.0) == 4.0, "no call succeeded"
    for time in (9.0, 11.0, 13.5):
        found.succeeded("k", "direct", time)
    assert found.longest(["k"], 10.0, 14.0) == 2.5
    assert found.longest(["k"], 10.0, 17.0) == 3.5


def test_any_way_to_a_key_counts_unless_one_is_named() -> None:
    found = Availability()
    found.succeeded("k", "direct", 11.0)
    found.succeeded("k", "router", 12.0)
    assert found.longest(["k"], 10.0, 13.0) == 1.0
    assert found.longest(["k"], 10.0, 13.0, "router") == 2.0


def test_a_range_is_available_while_one_of_its_keys_is() -> None:
    found = Availability()
    found.succeeded("a1", "direct", 11.0)
    found.succeeded("a2", "direct", 12.0)
    found.succeeded("b1", "direct", 12.5)
    keys = ["a1", "a2", "b1"]
    assert found.longest_of_a_key(keys, 10.0, 13.0) == 2.5
    assert found.longest_of_a_range(["a1", "a2"], lambda key: key[0], 10.0, 13.0) == 1.0
    assert found.longest_of_a_range(keys, lambda key: key[0], 10.0, 13.0) == 2.5
