"""The delays between attempts stay within their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.runtime.backoff import Backoff


@given(
    st.floats(0.001, 10),
    st.floats(1, 100),
    st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_a_delay_is_between_a_tenth_of_its_bound_and_its_bound(
    first: float, times: float, failures: int, rng: float
) -> None:
    backoff = Backoff(first, first * times)
    bound = min(backoff.max_delay, first * 2 ** min(failures - 1, 40))
    assert bound * 0.099 <= backoff.delay(failures, lambda: rng) <= bound


def test_the_bound_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(0.1, 1.0)
    assert [backoff.delay(failures, lambda: 1.0) for failures in (1, 2, 3, 4, 5, 6)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    )
