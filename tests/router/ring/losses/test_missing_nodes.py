"""Nodes that left without handing over: who is remembered, with what, until when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milena_common.api.errors import FailedPrecondition, InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MAX_REASON, MAX_REASONS, MissingNode, NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring.known_ring import knowledge, node_status
from milena_router.ring.losses.missing_nodes import MAX_MISSING, MissingNodes
from milena_router.ring.recovery import LastRing
from tests.router.ring.running_membership import CLUSTER, LEASE, NOTHING, WALL, WRITES, A, B, C, Router


def test_a_node_whose_lease_ends_is_missing_with_what_it_last_reported(router: Router) -> None:
    router.after(2 * LEASE, A)
    assert router.missing == [("b:1", 9, 2, "lease expired")]
    (node,) = router.membership.missing.all()
    assert (node.node_id, node.journal_id) == ("id-b", "journal-b")
    assert node.described(node.since + 240) == (
        "node b:1 has been missing for 240 s (lease expired), last reported with 9 acknowledged writes not in S3 "
        "and 2 dead letters"
    )


def test_the_newest_status_counts(router: Router) -> None:
    router.join(B, NodeStatus(3))
    router.after(2 * LEASE, A)
    assert router.missing == [("b:1", 3, 0, "lease expired")]


def test_a_node_without_reports_is_missing_with_an_unknown_number(router: Router) -> None:
    router.join(C, None)
    router.after(2 * LEASE, A, B)
    assert router.missing == [("c:1", None, 0, "lease expired")]
    assert "an unknown number of" in router.membership.missing.all()[0].described(0.0)


def test_a_node_that_hands_over_is_not_missing(router: Router) -> None:
    router.membership.remove_member(B.address, B.node_id, router.now, WALL, NOTHING)
    assert router.missing == []


def test_a_node_that_takes_writes_along_is_missing(router: Router) -> None:
    router.membership.remove_member(B.address, B.node_id, router.now, WALL, NodeStatus(4))
    assert router.missing == [("b:1", 4, 0, "left with acknowledged writes")]
    router.membership.remove_member(A.address, A.node_id, router.now, WALL, NodeStatus(0, 1))
    assert router.missing[1] == ("a:1", 0, 1, "left with acknowledged writes")


def test_taking_out_a_lost_node_by_hand_does_not_drop_its_writes(router: Router) -> None:
    router.membership.remove_member(B.address, "", router.now, WALL)
    assert router.missing == [("b:1", 9, 2, "taken out of the ring by hand")]
    router.membership.remove_member(A.address, "", router.now, WALL)
    assert len(router.missing) == 1, "it had none"


def test_a_node_whose_writes_are_handed_in_after_it_left_is_missing_no_more(router: Router) -> None:
    remove = router.membership.remove_member
    remove(B.address, B.node_id, router.now, WALL, NodeStatus(4))
    epoch = router.membership.ring.epoch
    assert remove(B.address, "another process", router.now, WALL, NOTHING) is None
    assert remove(B.address, B.node_id, router.now, WALL, NodeStatus(1)) is None, "it has some still"
    assert remove(B.address, "", router.now, WALL) is None, "a person knows nothing of its writes"
    assert router.missing == [("b:1", 4, 0, "left with acknowledged writes")]
    change = remove(B.address, B.node_id, router.now, WALL, NOTHING)
    assert change is not None
    assert (change.kind, change.reason) == ("Forget", "its writes were handed in")
    assert change.ring.epoch > epoch, "the nodes keep the record for other routers no more"
    assert router.missing == []
    assert remove(B.address, B.node_id, router.now, WALL, NOTHING) is None


@pytest.mark.parametrize("left", ["before", "after"])
def test_a_router_that_recovers_takes_no_record_over_whose_writes_were_handed_in(router: Router, left: str) -> None:
    router.join(C)
    if left == "before":
        router.membership.remove_member(B.address, B.node_id, router.now, WALL, WRITES)
    known = router.known()
    started = Router(started=True)
    started.join(A, known=known)
    if left == "after":
        started.membership.withdraw(B.address, B.node_id, WALL, WRITES)
        assert len(started.missing) == 1
    started.membership.withdraw(B.address, B.node_id, WALL, NOTHING)
    assert started.membership.recovering
    started.join(C)
    assert not started.membership.recovering
    assert started.missing == []


def test_clients_of_the_old_protocol_leave_as_before(router: Router) -> None:
    router.join(Member("d:1"), None)
    router.membership.remove_member("d:1", "", router.now, WALL)
    assert router.missing == []


@pytest.mark.parametrize(
    "back",
    [
        replace(B, node_id="another process"),
        replace(B, address="moved:1", node_id="another process"),
        replace(B, journal_id=""),
    ],
    ids=["restarted", "at another address", "of an older version"],
)
def test_a_node_that_comes_back_is_missing_no_more(router: Router, back: Member) -> None:
    router.after(2 * LEASE, A)
    router.join(back)
    assert router.missing == []


def test_another_node_at_the_address_does_not_bring_the_journal_back(router: Router) -> None:
    router.after(2 * LEASE, A)
    router.join(replace(B, node_id="another process", journal_id="empty"))
    assert router.missing == [("b:1", 9, 2, "lease expired")]


def test_a_restart_without_its_journal_is_noticed_within_the_lease_too(router: Router) -> None:
    router.join(replace(B, node_id="another process", journal_id="empty"))
    assert router.missing == [("b:1", 9, 2, "a node with another journal is in its place")]
    router.join(replace(B, node_id="a third"))
    assert [address for address, *_ in router.missing] == ["b:1"], "the empty one is gone now"
    assert router.membership.missing.all()[0].journal_id == "empty"


def test_a_journal_that_moved_within_the_lease_is_missing_no_more_when_it_is_let_in(router: Router) -> None:
    moved = replace(B, address="moved:1", node_id="another process")
    with pytest.raises(FailedPrecondition, match="journal-b"):
        router.join(moved, WRITES)
    router.after(LEASE, A)
    router.join(moved, WRITES)
    router.after(2 * LEASE, A, moved)
    assert set(router.membership.leases) == {A.address, moved.address}
    assert router.missing == []


def test_a_missing_node_can_be_written_off_and_members_cannot(router: Router) -> None:
    router.after(2 * LEASE, A)
    ring = router.membership.ring
    assert router.membership.write_off(A.address, WALL) is None
    change = router.membership.write_off(B.address, WALL + router.now)
    assert change is not None
    assert (change.kind, change.address) == ("Forget", B.address)
    assert change.ring.epoch > ring.epoch, "the nodes keep the list with the ring, and must hear of it"
    assert list(change.ring.ranges()) == list(ring.ranges()), "and no slot moves for it"
    assert router.missing == []
    assert router.membership.write_off(B.address, WALL) is None


def test_a_router_that_starts_anew_hears_of_missing_nodes_from_the_others(router: Router) -> None:
    router.after(2 * LEASE, A)
    since = router.membership.missing.all()[0].since
    started = Router(started=True)
    started.join(A, known=router.known())
    assert not started.membership.recovering
    assert started.missing == [("b:1", 9, 2, "lease expired")]
    assert started.membership.missing.all()[0].since == since


def test_a_node_that_is_back_before_the_new_router_knows_of_it_is_not_missing(router: Router) -> None:
    router.after(2 * LEASE, A)
    started = Router(started=True)
    started.join(replace(B, address="moved:1"), WRITES)
    started.join(A, known=router.known())
    assert started.missing == []


def test_a_member_that_does_not_come_back_after_a_routers_start_is_missing(router: Router) -> None:
    started = Router(started=True)
    started.join(A, known=router.known())
    started.after(2 * LEASE, A)
    assert started.missing == [("b:1", None, 0, "not back after the router's start")]


def test_a_member_that_leaves_while_a_router_recovers_is_judged_by_what_it_says(router: Router) -> None:
    for said, missing in ((NOTHING, []), (WRITES, [("b:1", 9, 2, "left with acknowledged writes")])):
        started = Router(started=True)
        started.join(A, known=router.known())
        started.membership.withdraw(B.address, B.node_id, WALL, said)
        started.membership.recover(started.now, WALL)
        assert not started.membership.recovering
        assert started.missing == missing
        assert all(node.journal_id == B.journal_id for node in started.membership.missing.all())


def test_a_member_that_is_lost_again_while_a_router_recovers_keeps_its_count(router: Router) -> None:
    router.join(C)
    started = Router(started=True)
    started.join(A, known=router.known())
    started.join(B, WRITES)
    started.after(LEASE - 0.1, A)
    started.after(LEASE, A)
    assert ("b:1", 9, 2, "lease expired") in started.missing
    assert ("c:1", None, 0, "not back after the router's start") in started.missing


def test_what_nodes_send_of_missing_nodes_is_checked(router: Router) -> None:
    router.after(2 * LEASE, A)
    for change in (
        {"address": ""},
        {"address": "x" * 301},
        {"journal_id": "x" * 201},
        {"reason": "x" * (MAX_REASON + 1)},
        {"missing_since": float("nan")},
    ):
        last = router.last_ring()
        for name, value in change.items():
            setattr(last.ring.missing[0], name, value)
        with pytest.raises(InvalidRequest, match="missing"):
            knowledge(pb.JoinRequest(cluster_id=CLUSTER, last_ring=last), WALL)


def test_a_status_is_truncated_to_what_is_kept_and_none_is_none() -> None:
    assert node_status(pb.JoinRequest(dead_letters=3)) is None
    said = node_status(pb.JoinRequest(dirty_entries=0, degraded=["x" * 1000] * 20))
    assert said == NodeStatus(0, 0, ("x" * MAX_REASON,) * MAX_REASONS)
    assert node_status(pb.LeaveRequest(dirty_entries=5, dead_letters=1)) == NodeStatus(5, 1)


def test_the_memory_is_bounded_and_those_with_the_fewest_writes_go_first() -> None:
    missing = MissingNodes()
    for number in range(MAX_MISSING + 40):
        member = Member(f"n{number}:1", journal_id=f"j{number}")
        dirty = 0 if number % 5 == 0 else None if number % 5 == 1 else number
        missing.add_lost(member, None if dirty is None else NodeStatus(dirty), [], WALL + number, "lease expired")
    assert len(missing) == MAX_MISSING
    kept = missing.all()
    assert [node.since for node in kept] == sorted(node.since for node in kept)
    assert sum(node.dirty_entries is None for node in kept) == (MAX_MISSING + 40 + 3) // 5, "unknown is not few"
    assert sum(node.dirty_entries == 0 for node in kept) < (MAX_MISSING + 40) // 5


def test_a_node_that_is_lost_twice_is_remembered_once() -> None:
    missing = MissingNodes()
    missing.add_lost(A, WRITES, [], WALL, "lease expired")
    missing.add_lost(replace(A, address="moved:1"), NOTHING, [], WALL + 9, "lease expired")
    assert missing.all() == (MissingNode("moved:1", "id-a", "journal-a", 0, 0, WALL + 9, "lease expired"),)


def test_the_last_ring_of_a_node_of_an_older_version_has_none_missing() -> None:
    ring = Ring.empty().with_members([A], 4)
    assert LastRing(ring, "b", CLUSTER, LEASE).missing == ()
