"""A ring whose nodes hand slots over: moves, losses and what is released, silent rings, routers that restart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from milena_common.api.errors import InvalidRequest, NodeLost
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.slots import SLOTS
from milena_router.ring.abandoning import AbandonedMoves
from milena_router.ring.known_ring import knowledge
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Membership
from milena_router.ring.ring_status import RingStatus
from milena_router.ring.stuck_moves import STUCK_LEASES, StuckMove, number_of
from tests.router.ring.moving_ring import CLUSTER, LEASE, WALL, Node, Router, node, restarted, ring_of
from tests.support.fake_clock import FakeClock

THIRD = SLOTS // 3


@pytest.fixture
def nodes() -> tuple[Node, Node, Node]:
    return node("a"), node("b"), node("c")


# ---- moves


def test_a_join_moves_slots_only_when_the_new_node_reports_them(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    owned = router.owned()
    router.join(c)
    planned = router.membership.ring
    assert router.owned() == owned | {c.address: 0}
    assert router.is_released, "no process was lost"
    c.taken = planned.pending
    change = router.join(c)
    assert change is not None
    assert (change.kind, change.address, change.reason) == ("Move", c.address, f"took over {THIRD} slots")
    assert router.owned()[c.address] == THIRD
    assert {run.owned_since for run in change.ring.ranges() if run.address == c.address} == {planned.epoch}
    assert router.join(c) is None, "the same report again"


def test_slots_reported_with_another_epoch_do_not_count(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    c.taken = tuple(run._replace(owned_since=run.owned_since - 1) for run in router.membership.ring.pending)
    assert router.join(c) is None
    assert router.owned()[c.address] == 0


def test_another_weight_moves_slots_too(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    router = ring_of(a, b)
    a.member = node("a").member.__class__(a.address, a.member.node_id, 3.0, a.member.addresses, a.member.journal_id)
    router.join(a)
    assert router.owned()[a.address] == SLOTS // 2
    router.finish_moves(a, b)
    assert router.owned()[a.address] == SLOTS * 3 // 4


def test_moves_that_waited_for_others_are_planned_when_those_are_done(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    d = node("d")
    router = ring_of(a, b)
    router.join(c)
    router.join(d)
    router.finish_moves(a, b, c, d)
    assert set(router.owned().values()) == {SLOTS // 4}
    assert router.look() == []


def test_a_node_that_leaves_gives_all_its_slots_away_and_stays_until_it_goes(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    b.leaving = True
    change = router.join(b)
    assert change is not None
    assert change.reason == "is leaving"
    assert sum(run.last + 1 - run.first for run in router.membership.ring.pending) == router.owned()[b.address]
    router.finish_moves(a, b, c)
    assert router.owned()[b.address] == 0
    assert router.join(b) is None, "it is a member without slots"
    ranges = router.membership.ring.ranges()
    assert router.membership.remove_member(b.address, b.member.node_id, router.now, router.wall)
    assert router.membership.ring.ranges() == ranges
    assert router.is_released


def test_nodes_without_the_feature_get_their_slots_at_once_and_the_ring_is_not_fenced(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    c.moves = False
    router.join(c)
    assert router.owned()[c.address] == THIRD
    assert router.released == 0
    upgraded = restarted(c)
    router.join(upgraded)
    assert router.is_released
    assert router.released > 0


def test_a_restarted_process_with_another_weight_owns_its_slots_anew(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    router = ring_of(a, b)
    again = restarted(a)
    again.member = a.member.__class__(a.address, again.member.node_id, 2.0, a.member.addresses, "journal-a")
    router.join(again)
    ring = router.membership.ring
    assert {run.owned_since for run in ring.ranges() if run.address == a.address} == {ring.epoch}


# ---- losses and releases


def test_a_loss_is_released_when_all_others_have_acknowledged_it(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    before = router.membership.ring.epoch
    a.acknowledged = before  # it has promised something for the ring before
    assert router.after(LEASE + 1, a, b)
    ring = router.membership.ring
    assert set(router.owned()) == {a.address, b.address}
    assert router.released == ring.epoch - 1
    assert "a:1" in router.membership.releases.all()[0].described()
    a.acknowledged = None
    router.join(a)
    router.look()
    assert router.is_released


def test_a_member_that_is_lost_too_is_waited_for_a_lease_and_a_promise(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    router.after(LEASE / 2, a)
    router.after(LEASE, a)
    assert set(router.owned()) == {a.address}
    assert not router.is_released
    router.after(LEASE / 2 - 0.1, a)
    assert not router.is_released
    router.after(LEASE / 2 + 0.7, a)
    assert router.is_released


def test_a_node_that_only_others_unknown_to_the_lost_one_acknowledge_stays_unreleased() -> None:
    """X and Y have a ring in which they promise each other to stand by it; Z joins, and they do not hear of it."""
    x, y, z = node("x"), node("y"), node("z")
    router = ring_of(x, y)
    router.join(z)
    router.after(5 * LEASE, z)
    assert set(router.owned()) == {z.address}
    assert not router.is_released
    assert any("milena leave --forget" in loss.described() for loss in router.membership.releases.all())
    router.membership.write_off(x.address, router.wall)
    router.membership.write_off(y.address, router.wall)
    router.join(z)
    assert router.is_released


def test_a_lost_process_that_returns_and_acknowledges_its_loss_proves_it() -> None:
    x, y, z = node("x"), node("y"), node("z")
    router = ring_of(x, y)
    router.join(z)
    router.after(5 * LEASE, z)
    old_x, old_y = x.ring, y.ring
    for each in (x, y):
        router.join(each)
        assert not router.is_released, "it has the ring, and has not said so"
    assert x.ring is not old_x
    assert y.ring is not old_y
    router.join(x)
    router.join(y)
    assert router.is_released


def test_a_process_restarted_with_its_journal_is_released_at_once(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    epoch = router.membership.ring.epoch
    router.join(restarted(c))
    assert router.membership.ring.epoch > epoch
    assert router.is_released


def test_a_process_with_another_journal_waits_for_the_lease_of_the_one_before(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    router.now += LEASE / 2
    for each in (a, b):
        router.join(each)
    other = restarted(c, journal="empty")
    router.join(other)
    for each in (a, b, other):
        router.join(each)
    assert not router.is_released
    router.after(LEASE / 2 + 0.1, a, b, other)
    assert router.is_released


def test_a_journal_that_is_back_proves_an_earlier_loss(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    a.acknowledged = router.membership.ring.epoch
    router.after(LEASE + 1, a, b)
    assert not router.is_released
    router.join(restarted(c))
    assert router.is_released


def test_a_node_that_leaves_or_has_ended_is_released_at_once(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    assert router.membership.process_exited(c.address, "another", router.now, router.wall) is None
    change = router.membership.process_exited(c.address, c.member.node_id, router.now, router.wall)
    assert change is not None
    assert change.reason == "its process has ended"
    assert router.is_released
    assert [missing.address for missing in router.membership.missing.all()] == [c.address]
    router.membership.remove_member(b.address, b.member.node_id, router.now, router.wall)
    assert router.is_released


def test_a_member_removed_by_hand_may_hold_its_lease_still(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    router.membership.remove_member(c.address, "", router.now, router.wall)
    assert not router.is_released
    router.after(LEASE, a, b)
    assert router.is_released


# ---- a silent ring


def test_when_all_nodes_fall_silent_the_ring_is_kept(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    router.now += LEASE / 4
    router.join(b)
    router.now += LEASE / 4
    router.join(c)
    ring = router.membership.ring
    assert router.after(10 * LEASE) == []
    assert router.membership.frozen == {a.address, b.address, c.address}
    assert router.membership.ring is ring
    router.join(b)
    assert not router.membership.frozen
    router.join(c)
    assert router.membership.ring is ring
    changes = router.after(LEASE + 1, b, c)
    assert [(change.kind, change.address) for change in changes if change.kind == "Leave"] == [("Leave", a.address)]


def test_a_new_node_does_not_take_the_places_of_a_silent_ring(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.after(2 * LEASE)
    router.join(c)
    router.after(3 * LEASE, c)
    assert router.owned()[c.address] == 0
    assert set(router.owned()) == {a.address, b.address, c.address}
    for each in (a, b):
        router.membership.remove_member(each.address, "", router.now, router.wall)
    router.after(1.0, c)
    assert router.owned() == {c.address: SLOTS}
    router.after(LEASE, c)
    assert router.is_released, "a person decided"


def test_a_node_is_lost_only_after_another_was_heard(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    router = ring_of(a, b)
    router.look(0.4 * LEASE)
    router.join(b)
    router.look(0.4 * LEASE)
    assert router.look(0.3 * LEASE) == [], "b was not heard for longer than half a lease"
    router.join(b)
    (lost,) = router.look()
    assert (lost.kind, lost.address) == ("Leave", a.address)


def test_a_silent_ring_survives_the_sleep_of_its_router(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    router = ring_of(a, b)
    router.now += LEASE / 4
    router.join(b)
    router.look(100 * LEASE)
    assert router.after(3 * LEASE) == []
    assert set(router.owned()) == {a.address, b.address}


# ---- a router that restarts


def test_a_restarted_router_goes_on_with_the_moves(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    for each in (a, b, c):
        router.join(each)
    ring = router.membership.ring
    again = Router(started=True, now=5.0)
    for each in (a, b, c):
        again.join(each)
    assert again.membership.ring.epoch == ring.epoch
    assert again.membership.ring.pending == ring.pending
    assert again.is_released, "the router before had released it"
    again.finish_moves(a, b, c)
    assert again.owned()[c.address] == THIRD


def test_a_restarted_router_releases_what_was_not_when_all_have_acknowledged_again(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    a.acknowledged = router.membership.ring.epoch
    router.after(LEASE + 1, a, b)
    router.join(b)
    released, epoch = router.released, router.membership.ring.epoch
    assert released < epoch
    again = Router(started=True, now=5.0)
    again.join(a)
    again.join(b)
    assert again.membership.ring.epoch == epoch
    assert again.released == released
    again.after(2 * LEASE + 0.5, a, b)
    assert again.released == released, "a has not acknowledged"
    a.acknowledged = None
    again.join(a)
    assert again.is_released


def test_a_member_that_is_not_back_is_a_loss(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    ring_of(a, b, c)
    again = Router(started=True, now=5.0)
    again.join(a)
    b.acknowledged = b.ring.epoch if b.ring else 0
    again.join(b)
    again.after(LEASE + 0.6, a, b)
    assert set(again.owned()) == {a.address, b.address}
    assert again.released == again.membership.ring.epoch - 1
    b.acknowledged = None
    again.join(b)
    assert again.is_released


def test_a_restarted_router_ends_moves_to_nodes_without_the_feature(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    for each in (a, b, c):
        router.join(each)
    again = Router(started=True, now=5.0)
    for each in (a, b, c):
        each.moves = False
        again.join(each)
    assert not again.membership.ring.pending
    assert again.owned()[c.address] == THIRD
    assert again.released == 0


# ---- messages


def test_an_acknowledgement_of_a_ring_that_there_is_not_counts_for_the_present_one(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    a.acknowledged = 2**63
    router.join(a)
    router.after(LEASE + 1, b)
    assert not router.is_released


@pytest.mark.parametrize("released", [0, 1])
def test_a_last_ring_with_an_impossible_released_epoch_is_rejected(released: int) -> None:
    a = node("a")
    ring_of(a)
    request = a.request(with_ring=True)
    request.last_ring.ring.released_epoch = request.last_ring.ring.epoch + released
    if released:
        with pytest.raises(InvalidRequest, match="released_epoch"):
            knowledge(request, 2 * WALL)
    else:
        last = knowledge(request, 2 * WALL).last
        assert last is not None
        assert (last.released_epoch, last.cluster_id) == (last.ring.epoch, CLUSTER)


# ---- moves that make no progress


def stuck_after(router: Router, seconds: float, *renewing: Node) -> list[StuckMove]:
    router.after(seconds, *renewing)
    return router.membership.stuck_moves(router.now)


def test_a_move_without_progress_is_stuck_after_some_leases(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    assert router.membership.stuck_moves(router.now) == []
    assert stuck_after(router, STUCK_LEASES * LEASE - 1, a, b, c) == []
    # One slot less is progress of the move between these two nodes, and of no other.
    first = router.membership.ring.pending[0]
    moving = router.membership.ring.owner(first.first)
    c.taken = (first._replace(last=first.first),)
    router.join(c)
    c.taken = ()
    (stuck,) = stuck_after(router, 2, a, b, c)
    assert stuck.destination == c.address
    assert {stuck.owner} == {a.address, b.address} - {moving}
    assert len(stuck_after(router, STUCK_LEASES * LEASE, a, b, c)) == 2


def test_slots_of_an_abandoned_move_stay_with_their_owner_and_are_planned_anew(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    before = router.membership.ring
    router.membership.stuck_moves(router.now)
    total = 0
    for move in stuck_after(router, STUCK_LEASES * LEASE, a, b, c):
        change = router.membership.abandon(move, move.slots, router.now, router.wall)
        assert change is not None
        assert (change.kind, change.address) == ("Move", c.address)
        assert router.membership.abandon(move, move.slots, router.now, router.wall) is None, "it is abandoned"
        total += number_of(move.slots)
        assert router.membership.progress.abandoned_slots == total
    assert total == THIRD
    after = router.membership.ring
    assert (after.pending, after.ranges()) == ((), before.ranges()), "owned since the same epochs"
    assert after.epoch > before.epoch
    assert router.is_released
    router.after(STUCK_LEASES * LEASE - 1, a, b, c)
    assert router.membership.ring is after, "not at once"
    router.after(2, a, b, c)
    assert router.membership.ring.pending
    router.finish_moves(a, b, c)
    assert router.owned()[c.address] == THIRD


def test_an_abandoned_move_does_not_hold_up_a_change_of_members(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    router.membership.stuck_moves(router.now)
    for move in stuck_after(router, STUCK_LEASES * LEASE, a, b, c):
        router.membership.abandon(move, move.slots, router.now, router.wall)
    d = node("d")
    router.join(d)
    assert {run.address for run in router.membership.ring.pending} == {c.address, d.address}


def test_the_next_move_between_the_same_nodes_gets_twice_as_long(nodes: tuple[Node, Node, Node]) -> None:
    a, b, _ = nodes
    router = ring_of(a)
    router.join(b)
    router.membership.stuck_moves(router.now)
    (move,) = stuck_after(router, STUCK_LEASES * LEASE, a, b)
    router.membership.abandon(move, move.slots, router.now, router.wall)
    router.after(STUCK_LEASES * LEASE + 1, a, b)
    assert router.membership.stuck_moves(router.now) == []
    assert stuck_after(router, STUCK_LEASES * LEASE, a, b) == []
    assert len(stuck_after(router, STUCK_LEASES * LEASE, a, b)) == 1


async def test_only_what_the_destination_has_promised_not_to_take_is_abandoned() -> None:
    a, b = node("a"), node("b")
    clock = FakeClock()
    leases = Leases(Membership(LEASE, clock.now()), clock, lambda change: None)
    replies: list[Exception | cache_pb.AbandonMovesResponse] = [
        NodeLost("did not respond"),
        cache_pb.AbandonMovesResponse(),
    ]
    requests: list[cache_pb.AbandonMovesRequest] = []

    async def call(address: str, method: str, request: bytes, timeout: float) -> bytes:
        assert (address, method) == (b.address, "AbandonMoves")
        requests.append(cache_pb.AbandonMovesRequest.FromString(request))
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply.SerializeToString()

    def renew(seconds: float) -> None:
        for _ in range(int(seconds)):
            clock.tick(1)
            for each in (a, b):
                leases.join(each.member, "photos", 0, status=RingStatus(True, leases.ring.epoch))

    for each in (a, b):
        leases.join(each.member, "photos", 0, status=RingStatus(True, leases.ring.epoch))
    planned = leases.ring
    first, last = planned.pending[0][:2]
    replies[1] = cache_pb.AbandonMovesResponse(taken=[last])
    abandoned = AbandonedMoves(leases, call, clock)
    await abandoned.abandon_stuck()
    renew(STUCK_LEASES * LEASE)
    await abandoned.abandon_stuck()
    assert leases.ring is planned, "there was no reply"
    await abandoned.abandon_stuck()
    assert [(run.first, run.last) for run in leases.ring.pending] == [(last, last)]
    assert [(each.epoch, list(each.first), list(each.last)) for each in requests] == [
        (planned.epoch, [first], [last])
    ] * 2


def with_moves(nodes: tuple[Node, Node, Node]) -> Router:
    """a and b are a ring, and slots of theirs are pending to c."""
    a, b, c = nodes
    router = ring_of(a, b)
    router.join(c)
    for each in nodes:
        router.join(each)
    assert router.membership.ring.pending
    assert router.is_released
    return router


def test_an_owner_that_restarts_with_its_journal_keeps_the_slots_that_were_moving(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = with_moves(nodes)
    before = router.membership.ring
    again = restarted(a)
    router.join(again)
    ring = router.membership.ring
    assert ring.slots_by_node()[a.address] == before.slots_by_node()[a.address]
    assert all(run.owned_since == before.epoch + 1 for run in ring.ranges() if run.address == a.address)
    # b's moves go on, with the epoch that they had.
    assert {run.owned_since for run in ring.pending} == {before.pending[0].owned_since}
    assert {before.owner(slot) for first, last, *_ in ring.pending for slot in range(first, last + 1)} == {
        b.address
    }
    # Later the slots move after all.
    for _ in range(20):
        pending = router.membership.ring.pending
        c.taken = tuple(pending)
        for each in (again, b, c):
            router.join(each)
        router.membership.balance(router.wall)
    assert router.membership.ring.is_balanced()
    assert router.is_released


def test_it_serves_them_when_the_destination_has_acknowledged_that(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = with_moves(nodes)
    c.acknowledged = router.membership.ring.epoch
    again = restarted(a)
    router.join(again)
    for each in (again, b, c):
        router.join(each)
    assert not router.is_released, "c may have taken slots over, and have writes that it has not handed in"
    c.acknowledged = None
    router.join(c)
    assert router.is_released


def test_it_waits_for_the_lease_of_a_destination_that_is_lost(nodes: tuple[Node, Node, Node]) -> None:
    a, b, c = nodes
    router = with_moves(nodes)
    again = restarted(a)
    router.join(again)
    router.after(LEASE + 0.1, again, b)
    assert c.address not in router.membership.leases
    assert not router.is_released
    router.after(LEASE, again, b)
    router.join(b)
    assert router.is_released


def test_a_destination_that_restarts_with_its_journal_hands_in_what_it_has_first(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = with_moves(nodes)
    again = restarted(c)
    again.acknowledged = 0
    router.join(again)
    for each in (a, b, again):
        router.join(each)
    assert not router.is_released
    again.acknowledged = None
    router.join(again)
    router.join(again)
    assert router.is_released


def test_a_router_says_that_nodes_are_absent_until_all_have_handed_in_what_they_have(
    nodes: tuple[Node, Node, Node],
) -> None:
    a, b, c = nodes
    router = ring_of(a, b, c)
    for each in nodes:
        router.join(each)
    membership = router.membership
    assert not membership.has_absent_nodes
    router.after(LEASE + 1, a, b)
    assert membership.has_absent_nodes, "c is missing"
    again = restarted(c)
    lease = membership.leases[a.address]
    lease.ring_status = replace(lease.ring_status, foreign_writes=True)
    router.join(again)
    assert not len(membership.missing)
    assert membership.has_absent_nodes, "a has something to hand in"
    router.join(a)
    for each in (a, b, again):
        router.join(each)
    assert not membership.has_absent_nodes
