"""What is shown of a history that is not linearizable: little, enough to show it, and in words."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings

from tests.faults.linearizability.checker import Verdict, check
from tests.faults.linearizability.counterexample import explain, minimal
from tests.faults.linearizability.operations import Kind, Operation, Outcome
from tests.faults.linearizability.test_checker import brute_force, executed, operation, random_operations


@settings(max_examples=100, deadline=None)
@given(random_operations())
def test_what_is_left_is_not_linearizable_and_its_operations_are_of_the_history(
    operations: list[Operation],
) -> None:
    result = check(operations)
    if result.verdict is not Verdict.VIOLATION:
        return
    assert result.failed is not None
    shown = minimal(operations, result.failed)
    assert not brute_force(shown)
    began = {(each.process, each.invoked, each.value) for each in operations}
    assert {(each.process, each.invoked, each.value) for each in shown} <= began


def test_a_lost_write_in_a_long_history_is_shown_by_few_operations() -> None:
    operations = [each for each in executed(Random(1), 1000, 8) if each.outcome is not Outcome.CONDITION_FAILED]
    old = next(each for each in operations if each.kind is Kind.PUT and each.outcome is Outcome.OK)
    at, read = [(at, each) for at, each in enumerate(operations) if each.kind is Kind.GET][-1]
    operations[at] = replace(read, value=old.value)
    result = check(operations)
    assert result.failed == operations[at]
    shown = minimal(operations, operations[at])
    assert len(shown) <= 4
    assert operations[at] in shown


def test_the_explanation_names_what_failed_and_what_was_possible() -> None:
    calls = [
        operation(Kind.PUT, 1_000_000, 2_000_000, "a"),
        operation(Kind.PUT, 3_000_000, 4_000_000, "b"),
        operation(Kind.PUT, 4_500_000, 4_600_000, "other", outcome=Outcome.FAILED),
        operation(Kind.GET, 5_000_000, 6_000_000, "a"),
    ]
    assert explain(calls, check(calls)).splitlines() == [
        "k: no order explains c's get: a (ok); when it was to take effect, the key could hold: b",
        "    invoked ms responded ms  process    operation",
        "         0.000        1.000  c          put a (ok)",
        "         2.000        3.000  c          put b (ok)",
        "         4.000        5.000  c          get: a (ok)   <--",
    ]
    calls = [operation(Kind.GET, 1, 2, "x")]
    assert "no operation wrote x" in explain(calls, check(calls))
