"""The check of counters must not take wrong for right."""

from __future__ import annotations

import pytest

from tests.faults.ring_faults.counters import Counters

# (began, returned, number, is_read) of each call; returned None: the outcome is unknown.
Calls = list[tuple[float, float | None, int, bool]]


def wrong(calls: Calls) -> str:
    counters = Counters()
    for began, returned, number, is_read in calls:
        call = counters.begin("k", began, is_read=is_read)
        if returned is not None:
            counters.returned(call, returned, number)
    return counters.wrong().get("k", "")


@pytest.mark.parametrize(
    "calls",
    [
        [],
        [(1, 2, 1, False), (3, 4, 2, False), (5, 6, 2, True)],
        [(1, 4, 2, False), (2, 3, 1, False)],  # they overlap
        [(1, None, 0, False), (2, 3, 2, False)],  # the unknown one took effect
        [(1, None, 0, False), (2, 3, 1, False)],  # and here it did not
        [(1, None, 0, False), (2, 3, 1, False), (4, 5, 3, False)],  # or later
        [(1, 2, 0, True)],
    ],
)
def test_what_can_be_explained_is_right(calls: Calls) -> None:
    assert wrong(calls) == ""


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ([(1, 2, 1, False), (3, 4, 1, False)], "several increments returned 1"),
        ([(1, 2, 2, False)], "2, and 1 increments had been begun"),
        ([(1, None, 0, False), (2, 3, 2, False), (4, 5, 1, False)], "returned 1 after another call had returned 2"),
        ([(1, 2, 1, False), (3, 4, 0, True)], "a read returned 0 after another call had returned 1"),
        ([(1, 2, 1, True), (3, 4, 1, False)], "1, and 0 increments had been begun"),
    ],
)
def test_lost_and_doubled_increments_are_found(calls: Calls, text: str) -> None:
    assert text in wrong(calls)


def test_a_rejected_increment_has_had_no_effect() -> None:
    counters = Counters()
    rejected = counters.begin("k", 1)
    counters.rejected("k", rejected)
    counters.returned(counters.begin("k", 2), 3, 2)
    assert "1 increments had been begun" in counters.wrong()["k"]
