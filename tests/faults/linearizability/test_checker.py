"""The checker against the definition: every order of few operations, and histories that were made from an order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.linearizability.checker import Bounds, Verdict, check
from tests.faults.linearizability.operations import CONDITIONAL, MATCHING, PUTS, Kind, Operation, Outcome

VALUES = ("a", "b")


def operation(
    kind: Kind,
    invoked: int,
    responded: int | None,
    value: str | None = None,
    expected: str | None = None,
    outcome: Outcome | None = None,
) -> Operation:
    if outcome is None:
        outcome = Outcome.UNKNOWN if responded is None else Outcome.OK
    return Operation("c", "k", kind, invoked, responded, outcome, value, expected)


def verdict(*operations: Operation) -> bool:
    """True if the operations are linearizable."""
    result = check(operations)
    assert result.verdict is not Verdict.UNDECIDED
    return result.verdict is Verdict.LINEARIZABLE


# ---- the definition, spelled out


def applied(state: str | None, each: Operation) -> tuple[bool, str | None]:
    """Whether `each` may take effect with its outcome when the key holds `state`, and the state after it."""
    if each.kind is Kind.GET:
        return state == each.value, state
    holds = each.kind not in CONDITIONAL or state == each.expected
    if each.outcome is Outcome.CONDITION_FAILED:
        return not holds, state
    return holds, each.value


def bars(write: Operation, unknown: Operation) -> bool:
    """Whether `unknown` may take no effect after `write`."""
    takes_effect = write.kind is not Kind.GET and write.outcome is not Outcome.CONDITION_FAILED
    is_earlier = write.process == unknown.process and unknown.invoked < write.invoked
    return write.in_order and takes_effect and is_earlier


def brute_force(operations: Sequence[Operation]) -> bool:
    """Whether there is an order, tried out one after another, that keeps to time and explains every outcome.

    No operation may come after one that was invoked only when it had responded; those of unknown outcome may be
    left out, and all others must be in it.
    """
    counted = [each for each in operations if each.outcome is not Outcome.FAILED]
    counted = [each for each in counted if each.kind is not Kind.GET or each.outcome is Outcome.OK]

    def extends(order: list[Operation], state: str | None, remaining: list[Operation]) -> bool:
        if all(each.outcome is Outcome.UNKNOWN for each in remaining):
            return True
        for at, each in enumerate(remaining):
            if any(each.responded is not None and each.responded < earlier.invoked for earlier in order):
                continue
            if each.outcome is Outcome.UNKNOWN and any(bars(earlier, each) for earlier in order):
                continue
            possible, after = applied(state, each)
            if possible and extends([*order, each], after, remaining[:at] + remaining[at + 1 :]):
                return True
        return False

    return extends([], None, counted)


# ---- histories


@st.composite
def random_operations(draw: st.DrawFn, max_size: int = 6) -> list[Operation]:
    found = []
    for _ in range(draw(st.integers(1, max_size))):
        kind = draw(st.sampled_from([*Kind, Kind.GET, Kind.PUT]))
        outcomes = [Outcome.OK] * 4 + [Outcome.UNKNOWN] * 2 + [Outcome.FAILED]
        if kind in CONDITIONAL:
            outcomes += [Outcome.CONDITION_FAILED] * 2
        outcome = draw(st.sampled_from(outcomes))
        invoked = draw(st.integers(0, 12))
        responded: int | None = invoked + draw(st.integers(0, 6))
        if outcome is Outcome.UNKNOWN and draw(st.booleans()):
            responded = None
        value = None
        if kind in PUTS:
            value = draw(st.sampled_from(VALUES))
        elif kind is Kind.GET:
            value = draw(st.sampled_from([None, *VALUES]))
        expected = draw(st.sampled_from(VALUES)) if kind in MATCHING else None
        process = f"c{draw(st.integers(0, 2))}"
        in_order = draw(st.booleans())
        found.append(Operation(process, "k", kind, invoked, responded, outcome, value, expected, in_order))
    return found


def executed(
    random: Random, number: int, clients: int, unknown: float = 0.1, values: int | None = None
) -> list[Operation]:
    """Operations of a register that takes each at one point of time, called by clients that overlap at random.

    `values`: how many different values there are; None: each write has its own.
    """
    state: str | None = None
    seen: list[str] = ["none"]
    free = [0] * clients
    time = 0
    found = []
    for count in range(number):
        client = random.randrange(clients)
        time = max(time, free[client]) + random.randrange(1, 4)
        invoked = max(free[client], time - random.randrange(0, 12))
        responded = time + random.randrange(0, 12)
        free[client] = responded + 1
        kind = random.choice([Kind.GET, Kind.GET, Kind.GET, Kind.PUT, Kind.PUT, *Kind])
        value = f"v{count if values is None else random.randrange(values)}" if kind in PUTS else None
        expected = None
        if kind in MATCHING:
            expected = state if state is not None and random.random() < 0.7 else random.choice(seen)
        each = Operation(f"c{client}", "k", kind, invoked, responded, Outcome.OK, value, expected)
        if kind is Kind.GET:
            found.append(replace(each, value=state))
            continue
        if random.random() < unknown:
            each = replace(each, outcome=Outcome.UNKNOWN, responded=None if random.random() < 0.8 else responded)
            if random.random() < 0.5:
                possible, after = applied(state, each)
                state = after if possible else state
        else:
            possible, after = applied(state, each)
            if possible:
                state = after
            else:
                each = replace(each, outcome=Outcome.CONDITION_FAILED)
        if state is not None:
            seen = [*seen[-5:], state]
        found.append(each)
    return found


# ---- single rules


def test_a_get_returns_the_last_value_written() -> None:
    put_a, put_b = operation(Kind.PUT, 1, 2, "a"), operation(Kind.PUT, 3, 4, "b")
    assert verdict(put_a, put_b, operation(Kind.GET, 5, 6, "b"))
    assert not verdict(put_a, put_b, operation(Kind.GET, 5, 6, "a"))
    assert not verdict(put_a, put_b, operation(Kind.GET, 5, 6, None))
    assert not verdict(put_a, operation(Kind.GET, 5, 6, "c"))


def test_calls_that_overlap_may_take_effect_in_either_order() -> None:
    put_a, put_b = operation(Kind.PUT, 1, 4, "a"), operation(Kind.PUT, 2, 5, "b")
    assert verdict(put_a, put_b, operation(Kind.GET, 6, 7, "a"))
    assert verdict(put_a, put_b, operation(Kind.GET, 6, 7, "b"))
    assert not verdict(put_a, put_b, operation(Kind.GET, 6, 7, "a"), operation(Kind.GET, 8, 9, "b"))


def test_a_value_that_was_seen_does_not_go_back() -> None:
    slow = operation(Kind.PUT, 1, 10, "b")
    assert not verdict(
        operation(Kind.PUT, 0, 0, "a"), slow, operation(Kind.GET, 2, 3, "b"), operation(Kind.GET, 4, 5, "a")
    )


def test_a_deleted_key_does_not_come_back() -> None:
    calls = [operation(Kind.PUT, 1, 2, "a"), operation(Kind.DELETE, 3, 4)]
    assert verdict(*calls, operation(Kind.GET, 5, 6, None))
    assert not verdict(*calls, operation(Kind.GET, 5, 6, "a"))


def test_of_two_writers_with_one_condition_one_succeeds() -> None:
    first = operation(Kind.PUT, 1, 2, "a")
    one, two = (operation(Kind.PUT_IF_MATCH, 3, 6, value, "a") for value in ("b", "c"))
    assert not verdict(first, one, two)
    assert verdict(first, one, replace(two, outcome=Outcome.CONDITION_FAILED))
    locks = [operation(Kind.PUT_IF_ABSENT, 1, 4, value) for value in ("a", "b")]
    assert not verdict(*locks)
    assert verdict(locks[0], replace(locks[1], outcome=Outcome.CONDITION_FAILED))


def test_a_condition_that_held_all_the_time_does_not_fail() -> None:
    failed = operation(Kind.PUT_IF_MATCH, 3, 4, "b", "a", Outcome.CONDITION_FAILED)
    assert not verdict(operation(Kind.PUT, 1, 2, "a"), failed)
    assert verdict(operation(Kind.PUT, 1, 2, "c"), failed)
    assert verdict(operation(Kind.PUT, 1, 2, "a"), operation(Kind.DELETE, 3, 3), failed)


def test_a_write_of_unknown_outcome_takes_effect_at_any_time_once_or_never() -> None:
    unknown = operation(Kind.PUT, 1, None, "a")
    put, none = operation(Kind.PUT, 3, 4, "b"), operation(Kind.GET, 2, 2, None)
    reads = [operation(Kind.GET, at, at, value) for at, value in ((5, "b"), (6, "a"), (7, "b"), (8, "a"))]
    assert verdict(none, unknown, put, reads[0])
    assert verdict(none, unknown, put, reads[0], reads[1])
    assert not verdict(none, unknown, put, *reads[:3])
    assert not verdict(unknown, operation(Kind.GET, 0, 0, "a")), "it is seen before its invocation"


def test_a_write_of_unknown_outcome_with_a_response_takes_no_effect_after_it() -> None:
    unknown = operation(Kind.PUT, 1, 3, "a", outcome=Outcome.UNKNOWN)
    delete = operation(Kind.DELETE, 4, 5)
    assert verdict(unknown, operation(Kind.GET, 2, 6, "a"), delete)
    assert not verdict(unknown, delete, operation(Kind.GET, 6, 7, "a"))


def test_a_write_in_order_bars_earlier_ones_of_its_process() -> None:
    unknown = operation(Kind.PUT, 1, None, "a")
    put = replace(operation(Kind.PUT, 2, 4, "b"), in_order=True)
    read = operation(Kind.GET, 5, 6, "a")
    assert not verdict(unknown, put, read)
    assert verdict(unknown, replace(put, process="d"), read)
    slow, seen = replace(put, responded=9), operation(Kind.GET, 3, 4, "b")
    assert not verdict(unknown, slow, seen, read), "its effect was seen before its response"
    assert verdict(unknown, operation(Kind.GET, 2, 3, None), put, operation(Kind.GET, 3, 3, "a"))


def test_a_write_that_failed_is_not_seen() -> None:
    assert not verdict(operation(Kind.PUT, 1, 2, "a", outcome=Outcome.FAILED), operation(Kind.GET, 3, 4, "a"))


def test_a_bound_that_is_exceeded_is_undecided() -> None:
    calls = [operation(Kind.PUT, 1, 100, f"v{number}") for number in range(12)]
    assert check(calls, Bounds(work=1000)).verdict is Verdict.UNDECIDED
    assert check(calls, Bounds(configurations=50)).verdict is Verdict.UNDECIDED


def test_the_shortest_prefix_is_named() -> None:
    wrong = operation(Kind.GET, 5, 6, "a")
    calls = [
        operation(Kind.PUT, 1, 2, "a"), operation(Kind.PUT, 3, 4, "b"), wrong, operation(Kind.GET, 7, 8, "c"),
    ]  # fmt: skip
    result = check(calls)
    assert result.failed == wrong
    assert result.values == {"b"}


# ---- against brute force


@settings(max_examples=150, deadline=None)
@given(random_operations())
def test_random_histories_get_the_verdict_of_brute_force(operations: list[Operation]) -> None:
    assert verdict(*operations) == brute_force(operations)


@pytest.mark.parametrize("seed", range(4))
def test_small_executions_are_linearizable_and_changed_ones_get_the_verdict_of_brute_force(seed: int) -> None:
    random = Random(seed)
    violations = 0
    for _ in range(400):
        operations = executed(random, random.randrange(2, 8), random.randrange(1, 5), unknown=0.3, values=2)
        assert brute_force(operations)
        assert verdict(*operations)
        at = random.randrange(len(operations))
        changed = operations[at]
        if changed.kind is Kind.GET:
            operations[at] = replace(changed, value=random.choice([None, "v0", "v1"]))
        elif changed.outcome is Outcome.OK and changed.kind in CONDITIONAL:
            operations[at] = replace(changed, outcome=Outcome.CONDITION_FAILED)
        else:
            del operations[at]
        operations = [replace(each, in_order=random.random() < 0.5) for each in operations]
        expected = brute_force(operations)
        violations += not expected
        assert verdict(*operations) == expected, operations
    assert 50 < violations < 350


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("number", "unknown", "values"),
    [(3000, 0.0, None), (1000, 0.05, None), (300, 0.3, None), (300, 0.0, 5), (60, 0.1, 5)],
)
def test_long_executions_are_linearizable(seed: int, number: int, unknown: float, values: int | None) -> None:
    assert verdict(*executed(Random(seed), number, 8, unknown, values))


def test_ten_thousand_operations_of_one_key_are_within_the_bounds() -> None:
    """A step is a few microseconds, so this is a second or two."""
    result = check(executed(Random(1), 10_000, 8, unknown=0.02))
    assert result.verdict is Verdict.LINEARIZABLE
    assert result.work < 1_000_000


def test_a_changed_reply_in_a_long_execution_is_found() -> None:
    """A value that was overwritten long before comes back in one read."""
    for seed in range(5):
        operations = executed(Random(seed), 400, 4)
        old = next(each.value for each in operations if each.kind is Kind.PUT and each.outcome is Outcome.OK)
        at, read = [(at, each) for at, each in enumerate(operations) if each.kind is Kind.GET][-1]
        operations[at] = replace(read, value=old)
        assert not verdict(*operations)
