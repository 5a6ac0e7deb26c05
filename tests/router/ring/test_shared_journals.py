"""Two nodes with one journal: the first one stays, the second is rejected with a sentence, and no order of events
lets both in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import FailedPrecondition
from milena_router.ring.membership import Membership
from milena_router.ring.recovery import Lease, Recovery
from milena_router.ring.shared_journals import without_copies
from tests.router.ring.running_membership import LEASE, NOTHING, WALL, A, B, C, Router

COPY = replace(B, address="copy:1", node_id="id-copy")


def test_a_second_live_node_with_a_journal_is_rejected_and_the_error_names_both_and_what_to_do(
    router: Router,
) -> None:
    ring = router.membership.ring
    with pytest.raises(FailedPrecondition) as raised:
        router.join(COPY)
    assert str(raised.value) == (
        "journal_id: copy:1 has journal journal-b, and so has b:1, whose lease runs. Two nodes on two copies of "
        "one journal overwrite newer objects with older ones: stop copy:1 and start it with an empty JOURNAL_DIR; "
        "or, if it is to take the place of b:1, stop that one and wait, copy:1 joins by itself then"
    )
    assert router.membership.ring is ring
    assert set(router.membership.leases) == {A.address, B.address}


def test_the_first_node_goes_on_as_if_there_were_no_copy(router: Router) -> None:
    for _ in range(10):
        with pytest.raises(FailedPrecondition, match=r"copy:1 .* b:1"):
            router.join(COPY)
        router.after(1.0, A, B)
    assert set(router.membership.leases) == {A.address, B.address}
    assert router.missing == []


def test_a_node_with_no_journal_id_or_one_of_its_own_is_no_copy(router: Router) -> None:
    router.join(C)
    router.join(replace(COPY, journal_id=""))
    router.join(replace(B, address="old:1", node_id="id-old", journal_id=""))
    assert len(router.membership.leases) == 5


def test_a_node_restarted_at_its_address_is_no_copy(router: Router) -> None:
    router.join(replace(B, node_id="another process"))
    assert router.membership.leases[B.address].member.node_id == "another process"


@pytest.mark.parametrize("leaves", [True, False], ids=["left", "lease over"])
def test_a_node_takes_the_place_of_another_when_that_one_is_gone(router: Router, leaves: bool) -> None:
    if leaves:
        router.membership.remove_member(B.address, B.node_id, router.now, WALL, NOTHING)
    else:
        router.after(2 * LEASE, A)
    router.join(COPY)
    assert COPY.address in router.membership.leases
    assert router.missing == []
    with pytest.raises(FailedPrecondition, match=r"b:1 .* copy:1"):
        router.join(B)


def test_after_a_routers_start_the_member_of_the_last_ring_stays_although_the_copy_came_first(
    router: Router,
) -> None:
    started = Router(started=True)
    started.join(COPY)
    started.after(1.0)
    started.join(A, known=router.known())
    started.join(B)
    assert not started.membership.recovering
    assert set(started.membership.leases) == {A.address, B.address}
    assert started.missing == []
    with pytest.raises(FailedPrecondition, match=r"copy:1 .* b:1"):
        started.join(COPY)


def test_in_a_new_cluster_the_one_that_came_first_stays() -> None:
    started = Router(started=True)
    started.join(COPY)
    started.after(1.0)
    started.join(B)
    started.join(COPY)
    started.after(LEASE - 1.0)
    assert not started.membership.recovering
    assert set(started.membership.leases) == {COPY.address}


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "j1", "j2", "j3"])), max_size=8),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "j1", "j2", "j3"])), max_size=4),
)
def test_one_node_is_left_for_each_journal_and_all_that_have_none(
    came: list[tuple[str, str]], last: list[tuple[str, str]]
) -> None:
    leases = {
        f"{name}:1": Lease(replace(A, address=f"{name}:1", journal_id=journal), since, since + LEASE)
        for since, (name, journal) in enumerate(came)
    }
    kept = without_copies(leases, [replace(A, address=f"{name}:1", journal_id=journal) for name, journal in last])
    journals = [lease.member.journal_id for lease in kept.values() if lease.member.journal_id]
    assert sorted(journals) == sorted({each.member.journal_id for each in leases.values()} - {""})
    assert {address for address, lease in leases.items() if not lease.member.journal_id} <= kept.keys()


def test_the_check_needs_no_recovery() -> None:
    membership = Membership(LEASE, 0.0, Recovery(LEASE, LEASE))
    membership.join(B, "photos", 0, 0.0, WALL)
    membership.join(COPY, "photos", 0, 0.0, WALL)
    assert len(membership.leases) == 2, "which of them is the member is found out at the end"
