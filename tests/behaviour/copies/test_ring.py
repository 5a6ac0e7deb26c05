"""The holders of copies over time: reports of owners, failures, slots that wait, and a router's restart."""

from __future__ import annotations

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.copy_holders import Listed
from milena_common.cluster.member import Member
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from milena_router.ring.known_ring import knowledge
from milena_router.ring.leases import Leases
from milena_router.ring.losses.copy_timers import MAX_DOUBLINGS, FailingHolders
from milena_router.ring.ring_status import HolderSlots, ring_status
from milena_router.ring.watch_streams import Published, short_update
from tests.router.ring.moving_ring import LEASE, Node, Router, node, ring_of
from tests.support.fake_clock import FakeClock

ALL = RUNS | MOVES | COPIES
WAIT = 60.0


def holder(name: str, process: int = 1, journal: str | None = None) -> Node:
    return node(name, process, journal, copies=2)


def fill(router: Router, *nodes: Node) -> None:
    """Every owner reports its filling holders as complete, until there are none."""
    for _ in range(5):
        for each in nodes:
            each.ring = router.slot_map()
            each.completed = tuple(
                HolderSlots(run.first, run.last, listed.address)
                for run in router.membership.ring.copies.runs
                if run.held.owner == each.address
                for listed in run.held.holders
                if listed.since
            )
            router.join(each)
            each.completed = ()


def pair() -> tuple[Router, Node, Node]:
    a, b = holder("a"), holder("b")
    router = ring_of(a, b)
    fill(router, a, b)
    assert router.membership.ring.slots_with_missing_copies() == 0
    return router, a, b


def slot_of(router: Router, each: Node) -> int:
    return next(run.first for run in router.membership.ring.ranges() if run.address == each.address)


def test_holders_that_their_owners_name_as_filled_are_complete_in_the_ring() -> None:
    a, b = holder("a"), holder("b")
    router = ring_of(a, b)
    slot = slot_of(router, b)
    b.ring = router.slot_map()
    fill(router, a, b)
    assert [(each.node.address, each.complete) for each in router.slot_map().holders(slot)] == [(a.address, True)]
    assert router.slot_map().copies_wanted == 2
    assert router.changes[-1].kind == "Copy"


def test_a_caller_that_joins_a_member_with_only_some_fields_does_not_end_the_copies() -> None:
    router, a, _ = pair()
    before = router.membership.ring
    known = a.member
    partly = Member(known.address, known.node_id, addresses=known.addresses)
    router.membership.join(partly, "", 0, router.now, router.wall)
    assert router.membership.ring is before


def test_a_killed_owner_is_replaced_by_its_holder_at_once() -> None:
    router, a, b = pair()
    slot = slot_of(router, a)
    router.membership.process_exited(a.address, a.member.node_id, router.now, router.wall)
    assert router.membership.ring.owner(slot) == b.address
    assert router.membership.ring.copies.target == 2, "a loss does not lessen it"
    assert router.membership.ring.slots_with_missing_copies() == SLOTS


def test_a_failed_holder_is_listed_again_after_a_lease_and_then_after_longer_ones() -> None:
    router, a, b = pair()
    slot = slot_of(router, a)
    for leases in (1, 2, 4):
        a.ring = router.slot_map()
        a.failed = tuple(
            HolderSlots(part.first, part.last, b.address)
            for part in a.ring.copies
            if a.ring.target(part.first).address == a.address
        )
        router.join(a)
        a.failed = ()
        assert router.membership.ring.holders(slot) == ()
        router.after(LEASE * leases - 1, a, b)
        assert router.membership.ring.holders(slot) == ()
        router.after(2, a, b)
        (listed,) = router.membership.ring.holders(slot)
        assert listed.address == b.address
        assert listed.since, "it is filled again"


def test_failures_are_forgotten_with_the_process_and_when_the_holder_is_filled() -> None:
    failing = FailingHolders(LEASE)
    failing.add("a", "b", 5, 0.0)
    failing.add("a", "b", 5, 1.0)
    assert failing.avoided(LEASE - 0.1) == {("a", "b")}
    assert not failing.avoided(LEASE), "the same report again counts once"
    for epoch in range(6, 20):
        failing.add("a", "b", epoch, 0.0)
    assert not failing.avoided(LEASE * 2**MAX_DOUBLINGS)
    failing.completed("a", "b")
    failing.add("a", "b", 30, 0.0)
    assert not failing.avoided(LEASE)
    failing.add("a", "b", 31, 0.0)
    failing.restarted("b")
    assert not failing.avoided(0.0)


def both_lost() -> tuple[Router, Node, Node]:
    """C is left; of some slots A was the owner and B the holder, and both are lost."""
    router, a, b = pair()
    c = holder("c")
    router.join(c)
    slots = {run.address: run.first for run in router.membership.ring.ranges()}
    assert router.membership.ring.holders(slots[a.address])[0] == Listed(b.address)
    for each in (a, b):
        router.membership.process_exited(each.address, each.member.node_id, router.now, router.wall)
    assert router.membership.ring.copies.waiting
    return router, a, c


def test_slots_wait_for_a_lost_node_until_it_returns() -> None:
    router, _, c = both_lost()
    processes = {each.address for part in router.membership.ring.copies.waiting for each in part.processes}
    assert processes == {"b:1"}, "it had them last"
    waiting = router.slot_map()
    assert all(each.node.address == "b:1" for part in waiting.copies for each in part.holders if each.complete)
    router.after(WAIT / 2, c)
    back = holder("b", 2)
    router.join(back)
    assert not router.membership.ring.copies.waiting
    assert back.address in router.owned()


def test_slots_wait_until_a_person_writes_the_lost_node_off() -> None:
    router, _, c = both_lost()
    assert router.membership.write_off("b:1", router.wall) is not None
    assert not router.membership.ring.copies.waiting
    assert router.owned() == {c.address: SLOTS}


def test_slots_that_have_waited_long_enough_are_given_up_and_counted() -> None:
    router, _, c = both_lost()
    router.after(WAIT - 1, c)
    assert router.membership.ring.copies.waiting
    assert router.membership.waiting.given_up_slots == 0
    router.after(2, c)
    assert not router.membership.ring.copies.waiting
    assert router.membership.waiting.given_up_slots > 0
    assert any("acknowledged writes that S3 does not have are lost" in change.reason for change in router.changes)


def test_a_node_that_leaves_with_all_its_writes_in_s3_reduces_the_target_and_leaves_nothing_waiting() -> None:
    router, a, b = pair()
    router.membership.remove_member(b.address, b.member.node_id, router.now, router.wall, NodeStatus(0))
    ring = router.membership.ring
    assert (ring.copies.target, ring.copies.greatest_members) == (1, 1)
    assert router.owned() == {a.address: SLOTS}
    assert not ring.copies.waiting


def test_a_holder_that_leaves_before_it_knows_that_it_has_a_lost_owners_slots_is_waited_for() -> None:
    """Its word that it has no writes is from before; it has the copies."""
    router, a, b = pair()
    slot = slot_of(router, a)
    router.membership.process_exited(a.address, a.member.node_id, router.now, router.wall)
    assert router.membership.ring.owner(slot) == b.address
    router.membership.remove_member(b.address, b.member.node_id, router.now, router.wall, NodeStatus(0))
    (part,) = [each for each in router.membership.ring.copies.waiting if each.first <= slot <= each.last]
    assert [each.address for each in part.processes] == [b.address]


def test_a_restarted_router_continues_with_the_holders_that_the_nodes_know() -> None:
    router, a, b = pair()
    slot = slot_of(router, a)
    before = router.membership.ring
    again = Router(started=True, now=router.now)
    for each in (a, b, a, b):
        again.join(each)
    ring = again.membership.ring
    assert ring.copies == before.copies
    assert ring.holders(slot) == (Listed(b.address),)


def test_a_restarted_router_knows_what_slots_wait_for() -> None:
    router, _, c = both_lost()
    router.join(c)
    again = Router(started=True, now=router.now)
    again.join(c)
    again.join(c)
    assert not again.membership.recovering
    waiting = again.membership.ring.copies.waiting
    assert [(part.first, part.last) for part in waiting] == [
        (part.first, part.last) for part in router.membership.ring.copies.waiting
    ]
    assert {each.journal_id for part in waiting for each in part.processes} == {"journal-b"}
    back = holder("elsewhere", 1, "journal-b")
    again.join(back)
    assert not again.membership.ring.copies.waiting


def test_a_router_that_lost_a_newer_ring_counts_no_holder_as_complete() -> None:
    router, a, b = pair()
    again = Router(started=True, now=router.now)
    assert a.ring is not None
    slot = slot_of(router, a)
    for each in (a, b, a, b):
        request = each.request(with_ring=True)
        request.ring_epoch += 5  # a ring that was announced, and never arrived
        assert each.ring is not None
        each.ring = SlotMap.from_update(request.last_ring.ring)
        again.membership.join(
            each.member,
            "photos",
            0,
            again.now,
            again.wall,
            knowledge(request, again.wall),
            status=ring_status(request, each.address),
        )
    again.look(LEASE + 1)
    (listed,) = again.membership.ring.holders(slot)
    assert listed.since == again.membership.ring.epoch


def test_watchers_get_only_the_holders_that_differ() -> None:
    router, a, b = pair()
    before = published(router)
    base = SlotMap.from_update(short_update(before, None, ALL))
    router.membership.process_exited(b.address, b.member.node_id, router.now, router.wall)
    router.join(a)
    after = published(router)
    change = short_update(after, before, ALL)
    assert change.base_epoch == before.ring.epoch
    followed = SlotMap.from_update(pb.RingUpdate.FromString(change.SerializeToString()), base)
    whole = SlotMap.from_update(short_update(after, None, ALL))
    assert (followed.copies, followed.copies_wanted) == (whole.copies, whole.copies_wanted)
    assert not short_update(after, before, RUNS | MOVES).HasField("copies"), "only watchers with the feature"


def test_a_member_without_the_feature_ends_the_copies_of_the_ring() -> None:
    router, a, b = pair()
    router.join(node("old"))
    assert router.slot_map().copies_wanted == 0
    assert router.slot_map().copies == ()
    assert router.membership.ring.successor(slot_of(router, a)) != ""
    assert b.member.copies == 2


async def test_the_router_reports_missing_copies_and_waiting_slots_as_degraded() -> None:
    router, _, c = both_lost()
    leases = Leases(router.membership, FakeClock(), lambda change: None)
    lines = leases.degraded()
    assert any("slots have no owner" in line and "one of the lost nodes b:1" in line for line in lines)
    router.membership.write_off("b:1", router.wall)
    assert any("fewer than 1 complete holders" in line for line in leases.degraded())
    assert c.member.copies == 2


def published(router: Router) -> Published:
    membership = router.membership
    return Published(
        membership.ring, "photos", membership.cluster_id, 0, membership.missing.all(), membership.released_epoch
    )
