"""What records of the journal are, by slot: a later role replaces an earlier one, and a restart knows all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milena_cache.copies.journal_roles import JournalRoles, Role
from milena_cache.membership.ownership import COLLECTED, WHOLE

SLOT = st.integers(0, 30)
STEP = st.tuples(SLOT, st.integers(0, 5), st.integers(0, 9), st.sampled_from(Role))


@given(st.lists(STEP), SLOT, st.integers(0, 100), st.booleans())
def test_the_last_role_of_a_slot_counts_for_the_records_before_it(
    steps: list[tuple[int, int, int, Role]], slot: int, number: int, copy: bool
) -> None:
    roles, expected, newest = JournalRoles(), Role.COPY if copy else Role.OWN, 0
    for first, more, later, role in steps:
        newest += later
        roles.set_role(first, first + more, newest, role)
        if first <= slot <= first + more:
            expected = role if number <= newest else (Role.COPY if copy else Role.OWN)
    if expected is Role.DROPPED and not copy:
        expected = Role.OWN
    assert roles.role(slot, number, copy=copy) is expected
    assert JournalRoles(roles.to_text()).role(slot, number, copy=copy) is expected


def test_whole_slots_are_known_after_a_restart() -> None:
    roles = JournalRoles()
    roles.whole.add(5, 9, WHOLE)
    roles.whole.add(8, 12, COLLECTED)
    assert [*JournalRoles(roles.to_text()).whole] == [(5, 7, WHOLE), (8, 12, COLLECTED)]


def test_roles_of_slots_without_records_are_forgotten() -> None:
    roles = JournalRoles()
    roles.set_role(0, 9, 7, Role.COPY)
    roles.keep([3])
    assert roles.role(3, 7, copy=False) is Role.COPY
    assert roles.role(4, 7, copy=False) is Role.OWN
