from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_client.core.rate_limit_queue import RateLimitQueue
from milena_client.core.retry import Attempts, RetryBudget, RetryPolicy
from milena_common.api.errors import (
    AccessDenied,
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    MilenaError,
    Moved,
    NodeLost,
    NodeUnreachable,
    NoNodes,
    OriginUnavailable,
    Overloaded,
    RateLimited,
    TryAgain,
    Unavailable,
)

POLICY = RetryPolicy(first=0.05, max_delay=1.0, tokens=10.0, refund=0.1)


def attempts(
    *, repeatable: bool = True, deadline: float = 5.0, budget: RetryBudget | None = None, random: float = 0.999
) -> Attempts:
    return Attempts(
        POLICY,
        budget or RetryBudget(POLICY),
        RateLimitQueue(),
        repeatable=repeatable,
        deadline=deadline,
        rng=lambda: random,
    )


@pytest.mark.parametrize(
    ("error", "read", "write"),
    [
        (RateLimited("", 0.01), True, True),
        (Overloaded(""), True, True),
        (NoNodes(""), True, True),
        (TryAgain(""), True, True),
        (Moved(5, "a:1"), True, True),
        (Unavailable(""), True, False),
        (NodeLost(""), True, False),
        (NodeUnreachable(""), True, True),
        (OriginUnavailable(""), True, False),
        (DeadlineExceeded(""), False, False),
        (InvalidRequest(""), False, False),
        (AccessDenied(""), False, False),
        (FailedPrecondition(""), False, False),
        (InternalError(""), False, False),
    ],
)
def test_what_is_tried_again(error: MilenaError, read: bool, write: bool) -> None:
    assert (attempts(repeatable=True).next_delay(error, 0.0) is not None) is read
    assert (attempts(repeatable=False).next_delay(error, 0.0) is not None) is write


def test_pauses_grow_up_to_the_maximum() -> None:
    tries = attempts(deadline=1000.0)
    pauses = [tries.next_delay(Unavailable(""), 0.0) or 0.0 for _ in range(8)]
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0], rel=0.01)


def test_a_rate_limit_is_waited_for_as_long_as_it_says() -> None:
    assert attempts().next_delay(RateLimited("", 2.0), 0.0) == 2.0
    assert attempts().next_delay(RateLimited("", 4.9), 0.2) is None


@given(st.lists(st.floats(0, 2)), st.floats(0.01, 60), st.floats(0, 0.999))
def test_no_pause_ends_after_the_deadline(failures_after: list[float], deadline: float, random: float) -> None:
    tries, now = attempts(deadline=deadline, random=random), 0.0
    for seconds in failures_after:
        now += seconds
        delay = tries.next_delay(Unavailable(""), now)
        if delay is None:
            break
        assert delay > 0
        now += delay
        assert now < deadline


def test_an_outage_does_not_multiply_the_load() -> None:
    budget = RetryBudget(POLICY)
    retries = sum(attempts(budget=budget).next_delay(Unavailable(""), 0.0) is not None for _ in range(1000))
    assert retries == 10
    # Ten successes are worth one retry.
    for _ in range(11):
        budget.refund_success()
    retries = sum(attempts(budget=budget).next_delay(Unavailable(""), 0.0) is not None for _ in range(1000))
    assert retries == 1


def test_successes_fill_the_budget_and_no_more() -> None:
    budget = RetryBudget(POLICY)
    for _ in range(1000):
        budget.refund_success()
    assert sum(budget.take_token() for _ in range(1000)) == 10


def test_a_rate_limit_costs_no_token() -> None:
    budget = RetryBudget(POLICY)
    while budget.take_token():
        pass
    assert attempts(budget=budget).next_delay(RateLimited("", 0.1), 0.0) is not None


def test_no_tokens_no_retries() -> None:
    policy = RetryPolicy(tokens=0)
    tries = Attempts(policy, RetryBudget(policy), RateLimitQueue(), repeatable=True, deadline=5.0, rng=lambda: 0.5)
    assert tries.next_delay(Unavailable(""), 0.0) is None


def test_when_time_runs_out_the_cause_is_the_error() -> None:
    tries = attempts()
    cause = Unavailable("S3 is down")
    assert tries.next_delay(cause, 0.0) is not None
    assert tries.next_delay(DeadlineExceeded("too late"), 4.9) is None
    assert tries.error is cause


def test_a_call_that_was_only_slow_timed_out() -> None:
    tries = attempts()
    slow = DeadlineExceeded("too late")
    assert tries.next_delay(slow, 5.0) is None
    assert tries.error is slow
