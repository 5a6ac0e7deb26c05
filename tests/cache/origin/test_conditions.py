"""What follows from what a store was found to honour."""

from __future__ import annotations

import pytest

from milena_cache.objects.object_store import Ref
from milena_cache.origin.conditions import MAX_EXCEPTIONS, Capability, Conditions, ConditionsMode, Finding, State
from milena_common.api.errors import FailedPrecondition
from tests.support.conditions import made_conditions

REPLACE = Capability.REPLACE
FAILED = [State.IGNORED, State.UNSUPPORTED, State.NEVER_HOLDS]


def test_before_a_probe_conditions_are_sent_and_not_trusted() -> None:
    conditions = Conditions("auto")
    assert (conditions.sends(REPLACE), conditions.trusts(REPLACE)) == (True, False)
    assert (conditions.not_ready(), conditions.degraded()) == ([], [])


@pytest.mark.parametrize("state", FAILED)
def test_a_condition_that_does_not_work_is_neither_sent_nor_trusted_and_said(state: State) -> None:
    conditions = made_conditions(state)
    assert (conditions.sends(REPLACE), conditions.trusts(REPLACE)) == (False, False)
    assert conditions.not_ready() == []
    assert any("put_if_match" in reason and state.value in reason for reason in conditions.degraded())


def test_off_sends_none_whatever_works_and_is_no_reason_to_worry() -> None:
    conditions = made_conditions(State.WORKS, "off")
    assert (conditions.sends(REPLACE), conditions.trusts(REPLACE)) == (False, False)
    assert conditions.degraded() == []


@pytest.mark.parametrize("state", [*FAILED, State.UNKNOWN])
def test_require_rejects_what_is_not_known_to_work_and_names_the_variable(state: State) -> None:
    with pytest.raises(FailedPrecondition, match=r"S3_CONDITIONS=require.*put_if_match"):
        made_conditions(state, "require").check(REPLACE)
    made_conditions(State.WORKS, "require").check(REPLACE)
    made_conditions(state, "auto").check(REPLACE)


@pytest.mark.parametrize("mode", ["auto", "require", "off"])
def test_only_require_makes_a_node_unready_and_only_by_conditions_that_fail(mode: ConditionsMode) -> None:
    for state in State:
        reasons = made_conditions(state, mode).not_ready()
        assert bool(reasons) == (mode == "require" and state not in (State.WORKS, State.UNKNOWN))
        assert all("S3_CONDITIONS" in reason for reason in reasons)


def test_what_could_not_be_probed_is_said_without_stopping_anything() -> None:
    conditions = Conditions("require")
    conditions.learn({REPLACE: Finding(State.UNKNOWN, "the probe failed: AccessDenied")})
    assert conditions.not_ready() == []
    assert conditions.degraded() == ["S3: put_if_match: unknown (the probe failed: AccessDenied)"]


def test_a_later_probe_that_fails_makes_nothing_unknown_again() -> None:
    conditions = made_conditions(State.IGNORED)
    conditions.learn({REPLACE: Finding(State.UNKNOWN, "timeout")})
    assert conditions.state(REPLACE) is State.IGNORED


def test_one_object_is_not_the_store_and_several_in_a_row_are() -> None:
    conditions = made_conditions()
    for _ in range(2 * MAX_EXCEPTIONS):
        conditions.did_not_hold(REPLACE, Ref("b", "the same"))
    assert conditions.trusts(REPLACE)
    assert any("denied for 1 object" in reason for reason in conditions.degraded())
    conditions.held(REPLACE)
    assert conditions.degraded() == []
    for number in range(MAX_EXCEPTIONS):
        assert conditions.trusts(REPLACE)
        conditions.did_not_hold(REPLACE, Ref("b", str(number)))
    assert conditions.state(REPLACE) is State.NEVER_HOLDS
    assert conditions.trusts(Capability.CREATE)


def test_a_missing_feature_is_news_once() -> None:
    conditions = made_conditions()
    assert conditions.unsupported(REPLACE)
    assert not conditions.unsupported(REPLACE)
