"""What is known of a store, for parts that are tested without a probe."""

from __future__ import annotations

from milena_cache.origin.conditions import Capability, Conditions, ConditionsMode, Finding, State


def made_conditions(state: State = State.WORKS, mode: ConditionsMode = "auto") -> Conditions:
    """A store at which every capability is in `state`."""
    made = Conditions(mode)
    made.findings = dict.fromkeys(Capability, Finding(state))
    return made
