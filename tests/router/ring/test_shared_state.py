"""The shared part of a membership: which of its attributes are in it, and the way back from a change."""

from __future__ import annotations

from dataclasses import fields

from milena_common.cluster.slot_assignment import Member
from milena_router.ring.losses.releases import Loss
from milena_router.ring.membership import Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.ring_status import RingStatus
from milena_router.ring.shared_state import LOCAL, SHARED, SharedState, copied, restore, shared_state, take_over

A, B = Member("a:1", "a-1", journal_id="ja"), Member("b:1", "b-1", journal_id="jb")


def with_members(*members: Member) -> Membership:
    membership = Membership(5.0, 0.0)
    for member in members:
        membership.join(member, "b", 0, 0.0, 1e9, status=RingStatus(True))
    return membership


def test_every_attribute_is_shared_or_each_routers_own() -> None:
    assert vars(Membership(5.0, 0.0)).keys() == SHARED | LOCAL
    assert not SHARED & LOCAL


def test_a_change_that_is_taken_back_leaves_no_trace() -> None:
    membership = with_members(A, B)
    membership.releases.add(Loss("x:1", "x-1", "", membership.ring.epoch, 10.0, {"a:1", "b:1"}))
    before, state = copied(membership), shared_state(membership)
    membership.releases.acknowledged("a:1", "a-1", membership.ring.epoch)
    membership.join(Member("c:1", "c-1"), "b", 0, 1.0, 1e9, status=RingStatus(True))
    membership.leases["a:1"].until = 99.0
    membership.frozen.add("a:1")
    membership.progress.abandoned_moves["a:1", "b:1"] += 1
    membership.expire(50.0, 1e9)
    assert shared_state(membership) != state
    restore(membership, before)
    assert shared_state(membership) == state
    assert membership.leases["a:1"].until == 5.0
    assert not membership.frozen


def test_a_state_is_not_touched_by_later_changes() -> None:
    membership = with_members(A)
    membership.releases.add(Loss("x:1", "x-1", "", membership.ring.epoch, 10.0, {"a:1"}))
    state = shared_state(membership)
    membership.releases.acknowledged("a:1", "a-1", membership.ring.epoch)
    assert state.losses[0].awaited == {"a:1"}
    assert shared_state(membership) != state


def test_renewals_and_acknowledgements_alone_are_no_change() -> None:
    membership = with_members(A)
    state = shared_state(membership)
    membership.join(A, "b", 0, 3.0, 1e9, status=RingStatus(True, membership.ring.epoch))
    assert shared_state(membership) == state
    assert membership.leases["a:1"].until == 8.0


def test_what_another_router_decided_is_taken_over_and_the_own_view_of_leases_stays() -> None:
    first, second = with_members(A, B), with_members(A)
    second.leases["a:1"].until = 7.0
    state = shared_state(first)
    take_over(second, state, 4.0, Recovery(5.0, 5.0))
    assert shared_state(second) == state
    assert second.leases["a:1"].until == 7.0
    assert second.leases["b:1"].until == 9.0
    replaced = with_members(Member("a:1", "a-2"))
    take_over(second, shared_state(replaced), 4.0, Recovery(5.0, 5.0))
    assert second.leases["a:1"].until == 9.0
    assert "b:1" not in second.leases


def test_a_router_recovers_with_the_others() -> None:
    membership = with_members(A)
    recovering = Membership(5.0, 0.0, Recovery(5.0, 5.0))
    state, recovery = shared_state(recovering), Recovery(5.0, 5.0)
    take_over(membership, state, 1.0, recovery)
    assert membership.recovery is recovery
    assert not membership.leases
    take_over(membership, state, 2.0, Recovery(5.0, 5.0))
    assert membership.recovery is recovery
    take_over(membership, shared_state(with_members(A)), 3.0, recovery)
    assert not membership.recovering


def test_all_of_the_state_is_compared() -> None:
    assert all(each.compare for each in fields(SharedState))
