"""When TLS handshakes may begin, and whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.network.handshake_throttle import (
    BURST_SECONDS,
    BUSY_SECONDS,
    SHARE,
    FairQueue,
    HandshakeThrottle,
)

COST = 0.0005


def begun_within(
    throttle: HandshakeThrottle, begins: float, seconds: float, *, busy: bool, timer: float = 0.001
) -> int:
    """Return how many handshakes begin within `seconds`, with timers that are late by up to `timer`."""
    now, number, served = begins, 0, 0
    while now < begins + seconds:
        served += busy
        wait = throttle.wait(now, served)
        if wait:
            now += -(-wait // timer) * timer
            continue
        throttle.began(now, COST)
        number += 1
        now += COST
    return number


@pytest.mark.parametrize("begins", [0.0, 1e6])
def test_while_commands_run_handshakes_have_their_share(begins: float) -> None:
    number = begun_within(HandshakeThrottle(), begins, 2.0, busy=True)
    assert number == pytest.approx(2.0 * SHARE / COST, rel=0.01)


def test_while_no_commands_run_they_have_all() -> None:
    assert begun_within(HandshakeThrottle(), 5.0, 1.0, busy=False) == pytest.approx(1.0 / COST, rel=0.01)


def test_commands_count_as_running_for_a_while() -> None:
    throttle = HandshakeThrottle()
    assert throttle.wait(1.0, 1) == 0.0
    for _ in range(10):
        throttle.began(1.0, COST)
    assert throttle.wait(1.0, 1) == pytest.approx(COST / SHARE)
    throttle.began(1.0 + BUSY_SECONDS * 0.999, 1.0)
    assert throttle.wait(1.0 + BUSY_SECONDS * 0.999, 1) > 0
    assert throttle.wait(1.0 + BUSY_SECONDS, 1) == 0.0


def test_handshakes_while_nothing_ran_are_no_debt_later() -> None:
    throttle = HandshakeThrottle()
    begun_within(throttle, 0.0, 1.0, busy=False)
    assert 0 < throttle.wait(1.0, 1) <= COST / SHARE


def test_no_more_than_a_few_make_up_for_a_late_timer() -> None:
    throttle = HandshakeThrottle()
    throttle.wait(1.0, 1)
    throttle.began(1.0, COST)
    number = 0
    while not throttle.wait(1.2, 2):
        throttle.began(1.2, COST)
        number += 1
    assert number <= BURST_SECONDS * SHARE / COST + 1


def test_ports_and_sources_alternate() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for number in range(3):
        queue.add("resp", "greedy", f"greedy {number}")
    queue.add("resp", "other", "other")
    queue.add("http", "probe", "probe")
    taken = [queue.pop_next() for _ in range(len(queue))]
    assert taken == ["greedy 0", "probe", "other", "greedy 1", "greedy 2"]
    assert not queue


def test_the_newest_of_the_source_with_the_most_gives_way() -> None:
    queue: FairQueue[str] = FairQueue(4)
    assert [queue.add("resp", "greedy", f"greedy {number}") for number in range(4)] == [None] * 4
    assert queue.add("resp", "greedy", "one more") == "one more"
    assert queue.add("resp", "other", "other") == "greedy 3"
    assert queue.add("resp", "third", "third") == "greedy 2"
    assert queue.add("resp", "greedy", "again") == "again"
    assert sorted(queue.pop_next() for _ in range(4)) == ["greedy 0", "greedy 1", "other", "third"]


@given(
    st.integers(1, 5),
    st.lists(
        st.one_of(st.none(), st.tuples(st.sampled_from(["resp", "http"]), st.sampled_from("abc"))), max_size=60
    ),
)
def test_nothing_is_lost_and_the_bound_holds(limit: int, steps: list[tuple[str, str] | None]) -> None:
    queue: FairQueue[tuple[str, str, int]] = FairQueue(limit)
    inside: set[tuple[str, str, int]] = set()
    for number, step in enumerate(steps):
        if step is None:
            if queue:
                inside.remove(queue.pop_next())
            continue
        item = (*step, number)
        inside.add(item)
        removed = queue.add(*step, item)
        if removed is not None:
            counts = Counter(each[:2] for each in inside)
            assert counts[removed[:2]] == max(counts.values())
            assert removed[2] == max(each[2] for each in inside if each[:2] == removed[:2])
            inside.remove(removed)
        assert len(queue) == len(inside) <= limit
    while queue:
        inside.remove(queue.pop_next())
    assert not inside
