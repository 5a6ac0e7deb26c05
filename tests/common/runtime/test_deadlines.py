"""How a deadline is divided on the way inwards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.runtime.deadlines import inner, time_for_room


@given(st.floats(-10, 1e9))
def test_the_next_hop_gets_less_and_never_a_negative_time(remaining: float) -> None:
    assert 0 <= inner(remaining) <= max(0, remaining)
    assert remaining <= 0 or inner(remaining) < remaining


@pytest.mark.parametrize(("remaining", "given_on"), [(5, 4.75), (1, 0.9), (0.1, 0.08), (0.02, 0), (0, 0), (-1, 0)])
def test_a_tenth_is_kept_between_20_and_250_milliseconds(remaining: float, given_on: float) -> None:
    assert inner(remaining) == pytest.approx(given_on)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_longer_timeout_has_a_longer_inner_timeout(one: float, other: float) -> None:
    assert (one <= other) <= (inner(one) <= inner(other))


def test_a_tenth_of_the_time_is_left_when_no_room_was_found() -> None:
    assert time_for_room(60) == pytest.approx(54)
    assert time_for_room(-1) == 0
    assert time_for_room(None) is None
