"""A router that has started: what it learns from joining nodes, when it publishes a ring, and which."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from milena_common.api.errors import FailedPrecondition, InvalidRequest, NoNodes
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring.known_ring import knowledge
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Knowledge, LastRing, Recovery
from milena_router.ring.watch_streams import RingWatchers, ring_update
from tests.support.fake_clock import FakeClock, run_ready_tasks

LEASE, WAIT = 5.0, 8.0
WALL = 1_700_000_000.0
A, B, C = (Member(f"{name}:1", f"id-{name}", addresses={"resp": f"{name}:6379"}) for name in "abc")
CLUSTER = "cluster-1"


def ring_of(*members: Member, epoch: int = 40) -> Ring:
    """A ring whose slots are owned since different epochs."""
    ring = Ring.empty().with_members(members[:1], epoch - len(members))
    for number in range(1, len(members)):
        ring = ring.with_members(members[: number + 1], epoch - len(members) + number)
    return ring.with_members(members, epoch)


def knowledge_of(ring: Ring, cluster: str = CLUSTER, *, newest: int = 0, lease: float = LEASE) -> Knowledge:
    """What a node knows that holds `ring` and sends it."""
    return Knowledge(cluster, newest or ring.epoch, LastRing(ring, "b", cluster, lease))


def held(ring: Ring, cluster: str = CLUSTER) -> Knowledge:
    """What the same node says before its ring is requested."""
    return replace(knowledge_of(ring, cluster), last=None)


class Started:
    """A membership just after the router's start."""

    def __init__(self, wait: float = WAIT) -> None:
        self.now = 100.0
        self.membership = Membership(LEASE, self.now, Recovery(LEASE, wait), "new-cluster")

    def join(
        self, member: Member, known: Knowledge | None = None, *, bucket: str = "b", seen: int = 0
    ) -> list[Change]:
        membership = self.membership
        membership.join(member, bucket, seen, self.now, WALL, known or Knowledge())
        return membership.recover(self.now, WALL)

    def after(self, seconds: float, *renewing: Member) -> list[Change]:
        """Let time pass, as a router that looks at its leases, while some nodes renew theirs."""
        changes: list[Change] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LEASE / 10)
            for member in renewing:
                self.membership.join(member, "b", 0, self.now, WALL)
            self.membership.expire(self.now, WALL)
            changes += self.membership.recover(self.now, WALL)
        return changes

    @property
    def ranges(self) -> list[tuple[int, int, str, int]]:
        return list(self.membership.ring.ranges())


@pytest.fixture
def started() -> Started:
    return Started()


def test_the_same_nodes_get_the_same_ring_with_the_same_epoch_and_owned_since(started: Started) -> None:
    last = ring_of(A, B, C)
    assert started.join(A, knowledge_of(last)) == []
    assert started.join(B, held(last)) == []
    assert started.membership.recovering
    assert started.membership.ring.epoch == 0
    changes = started.join(C, held(last))
    assert {change.reason for change in changes} == {"in the last ring"}
    assert started.membership.ring.epoch == last.epoch
    assert started.ranges == list(last.ranges())
    assert (started.membership.cluster_id, started.membership.default_bucket) == (CLUSTER, "b")


def test_a_ring_that_was_recovered_goes_on_as_any_other(started: Started) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last))
    started.join(B, held(last))
    change = started.membership.join(C, "b", 0, started.now, WALL)
    assert change is not None
    expected = last.with_members([A, B, C], change.ring.epoch)
    assert list(change.ring.ranges()) == list(expected.ranges())
    assert change.ring.successor(0) == expected.successor(0)


def test_a_fresh_node_that_joins_first_gets_no_ring_of_its_own(started: Started) -> None:
    last = ring_of(A, B)
    assert started.join(C) == []
    assert started.after(2.0, C) == []
    assert started.join(A, knowledge_of(last)) == []
    changes = started.join(B, held(last))
    assert [(change.address, change.reason) for change in changes] == [(C.address, "new")]
    ring = started.membership.ring
    assert ring.epoch > last.epoch
    kept = [slot for slot in range(0, 16384, 100) if ring.owner(slot) == last.owner(slot)]
    assert kept
    assert all(ring.owner(slot) == C.address for slot in range(0, 16384, 100) if slot not in kept)


def test_a_member_that_stays_away_leaves_when_its_lease_is_certainly_over(started: Started) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last, lease=20.0))
    assert started.after(19.5, A) == []
    changes = started.after(1.0, A)
    assert [(change.kind, change.address) for change in changes] == [("Leave", B.address)]
    assert started.membership.ring.members == (A,)
    since = {owner: {since for _, _, address, since in last.ranges() if address == owner} for owner in (A.address,)}
    assert since[A.address] <= {each for _, _, _, each in started.ranges}, "what was A's is owned since when it was"


def test_the_wait_begins_with_the_first_join_and_not_with_the_start(started: Started) -> None:
    started.after(3600)
    last = ring_of(A, B)
    assert started.join(A, knowledge_of(last)) == []
    assert started.after(1, A) == []
    assert started.join(B, held(last))


def test_a_member_that_left_meanwhile_is_not_waited_for(started: Started) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last))
    assert not started.membership.withdraw(B.address, "another process", WALL)
    assert started.membership.withdraw(B.address, B.node_id, WALL)
    (change,) = started.membership.recover(started.now, WALL)
    assert (change.kind, change.address) == ("Leave", B.address)


def test_a_member_that_was_restarted_too_owns_its_slots_anew(started: Started) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last))
    changes = started.join(Member(B.address, "id-new", addresses=B.addresses))
    assert [(change.address, change.reason) for change in changes] == [(B.address, "restarted")]
    ring = started.membership.ring
    for _, _, address, since in ring.ranges():
        assert (since == ring.epoch) is (address == B.address)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (Member(B.address, B.node_id, 3.0, B.addresses), "weight changed"),
        (Member(B.address, B.node_id, 1.0, {"resp": "b:7000"}), "addresses changed"),
    ],
)
def test_what_changed_during_recovery_makes_the_next_ring(started: Started, changed: Member, reason: str) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last))
    (change,) = started.join(changed, held(last))
    assert (change.address, change.reason) == (B.address, reason)
    assert started.membership.ring.epoch > last.epoch


def test_another_port_for_metrics_is_no_change(started: Started) -> None:
    last = ring_of(A)
    with_ops = Member(A.address, A.node_id, addresses={**A.addresses, "ops": "a:9091"})
    started.join(with_ops, knowledge_of(last))
    assert started.membership.ring.epoch == last.epoch
    assert started.membership.ring.members == (with_ops,)


def test_the_newest_ring_counts_independent_of_its_source_and_time(started: Started) -> None:
    older, newer = ring_of(A, epoch=40), ring_of(A, B, epoch=50)
    started = Started()
    assert started.join(B, held(newer)) == [], "it is asked for its ring"
    assert started.membership.recovery is not None
    assert started.membership.recovery.wants_ring(held(newer))
    assert started.join(A, knowledge_of(older)) == [], "and what it answers is waited for"
    assert started.join(B, knowledge_of(newer))
    assert started.membership.ring.epoch == newer.epoch


def test_a_ring_that_was_made_and_reached_no_node_has_all_slots_owned_anew(started: Started) -> None:
    last = ring_of(A, B)
    started.join(A, knowledge_of(last, newest=last.epoch + 1))
    started.join(B, held(last))
    ring = started.membership.ring
    assert ring.epoch > last.epoch + 1
    assert {since for _, _, _, since in ring.ranges()} == {ring.epoch}


def test_two_restarts_in_a_row_come_back_to_the_same_ring() -> None:
    last = ring_of(A, B, C)
    for _ in range(2):
        started = Started()
        started.join(C, knowledge_of(last))
        started.join(A, held(last))
        started.join(B, held(last))
        last = started.membership.ring
    assert list(last.ranges()) == list(ring_of(A, B, C).ranges())


def owner_of_each_slot(ring: Ring) -> list[str]:
    return [ring.owner(slot) for slot in range(16384)]


def test_a_ring_with_a_history_is_recovered_exactly_and_goes_on_from_there(started: Started) -> None:
    """The same nodes, joined in another way, would own other slots: the nodes' ring decides."""
    d, e = (Member(f"{name}:1", f"id-{name}", addresses={"resp": f"{name}:6379"}) for name in "de")
    last = Ring.empty()
    for epoch, members in enumerate(([A], [A, B, d], [A, B, C, d, e], [A, C, e], [A, B, C, e], [A, B, C]), 30):
        last = last.with_members(members, epoch)
    assert owner_of_each_slot(last) != owner_of_each_slot(ring_of(A, B, C))
    message = pb.RingUpdate.FromString(ring_update(last, "b-bucket", CLUSTER).SerializeToString())
    known = knowledge(request_with(message), WALL)
    assert known.last is not None
    for member in (C, A, B):
        started.join(member, known, bucket="b-bucket")
    assert started.membership.ring.epoch == last.epoch
    assert started.ranges == last.ranges()
    change = started.membership.join(d, "b-bucket", 0, started.now, WALL)
    assert change is not None
    assert change.ring.ranges() == last.with_members([A, B, C, d], change.ring.epoch).ranges()


def test_a_node_that_is_away_during_the_restart_gets_its_slots_back_and_no_other_slot_moves(
    started: Started,
) -> None:
    full = ring_of(A, B, C)
    had = owner_of_each_slot(full)
    without_c = full.with_members([A, B], full.epoch + 1)
    started.join(A, knowledge_of(without_c))
    started.join(B, held(without_c))
    assert owner_of_each_slot(started.membership.ring) == owner_of_each_slot(without_c)
    started.join(C)
    has = owner_of_each_slot(started.membership.ring)
    assert sum(a != b for a, b in zip(had, has, strict=True)) <= 2, "shares are rounded, up or down"


def test_a_node_that_the_restart_finds_away_loses_its_slots_and_the_others_keep_theirs(started: Started) -> None:
    last = ring_of(A, B, C)
    started.join(A, knowledge_of(last))
    started.join(B, held(last))
    assert started.after(WAIT + 1, A, B)
    for before, after in zip(owner_of_each_slot(last), owner_of_each_slot(started.membership.ring), strict=True):
        assert after == before or before == C.address
    started.join(C, held(last))
    has = owner_of_each_slot(started.membership.ring)
    assert sum(a != b for a, b in zip(owner_of_each_slot(last), has, strict=True)) <= 2


def test_nodes_that_were_all_restarted_own_the_same_slots_anew(started: Started) -> None:
    """They know the ring of before from their journals, and belong to no cluster yet."""
    last = ring_of(A, B, C)
    for member in (A, B, C):
        restarted = replace(member, node_id=f"new-{member.node_id}")
        assert started.join(restarted, held(last, "")) == [], "it is asked for its ring"
        started.join(restarted, knowledge_of(last, lease=0.0))
    ring = started.membership.ring
    assert ring.epoch > last.epoch
    assert owner_of_each_slot(ring) == owner_of_each_slot(last)
    assert {since for _, _, _, since in ring.ranges()} == {ring.epoch}


def test_epochs_grow_after_recovery_though_the_clock_is_set_back(started: Started) -> None:
    ahead = int(WALL * 1000) + 10**9
    last = ring_of(A, epoch=ahead)
    started.join(A, knowledge_of(last), seen=ahead + 7)
    assert started.membership.ring.epoch == ahead
    change = started.membership.join(B, "b", 0, started.now, WALL)
    assert change is not None
    assert change.ring.epoch > ahead


def test_a_new_cluster_waits_once_and_gets_an_id(started: Started) -> None:
    started.join(A)
    started.join(B)
    assert started.after(WAIT - 0.6, A, B) == []
    changes = started.after(1.0, A, B)
    assert {change.address for change in changes} == {A.address, B.address}
    assert started.membership.cluster_id == "new-cluster"


@pytest.mark.parametrize("sent", [True, False])
def test_a_ring_that_one_node_has_is_waited_for_after_the_others(started: Started, sent: bool) -> None:
    """Interleaving: (1) a fresh node joins; (2) when the wait is nearly over, a node says that it has a ring."""
    ring = ring_of(A, B)
    started.join(C)
    assert not started.after(WAIT - 1, C)
    assert not started.join(A, held(ring))
    started.now += 2.0
    assert not started.join(A, held(ring)), "a new ring would not know what others had"
    if sent:
        assert not started.join(C)
        changes = started.join(A, knowledge_of(ring))
        assert {change.address for change in changes} == {"b:1", "c:1"}
        assert started.membership.cluster_id == CLUSTER
        return
    started.now += 5.0
    assert {change.address for change in started.join(A, held(ring))} == {"a:1", "c:1"}, "it does not send it"


def test_a_router_that_knows_that_the_cluster_is_new_does_not_wait() -> None:
    started = Started(wait=0.0)
    assert started.join(A)
    assert not started.membership.recovering


def test_a_wait_of_zero_still_recovers_a_ring_that_there_is() -> None:
    started = Started(wait=0.0)
    last = ring_of(A, B)
    assert started.join(A, held(last)) == []
    assert started.join(A, knowledge_of(last)) == []
    assert started.join(B, held(last))
    assert started.membership.ring.epoch == last.epoch


def test_a_router_that_was_asleep_does_not_take_that_for_the_nodes_silence(started: Started) -> None:
    started.join(A, knowledge_of(ring_of(A, B)))
    started.now += 600
    started.membership.expire(started.now, WALL)
    assert started.membership.recover(started.now, WALL) == []
    assert set(started.membership.leases) == {A.address}


def test_when_all_nodes_that_had_joined_are_gone_the_wait_begins_anew(started: Started) -> None:
    started.join(C)
    started.after(WAIT + LEASE + 1)
    assert started.join(C) == []
    assert started.membership.recovering


@pytest.mark.parametrize("foreign_first", [True, False])
def test_a_node_of_another_cluster_is_rejected_in_either_order_of_joining(foreign_first: bool) -> None:
    last, foreign = ring_of(A, B), ring_of(C, Member("d:1", "id-d"), epoch=40)
    started = Started()
    joins = [(C, knowledge_of(foreign, "cluster-2")), (A, knowledge_of(last)), (B, held(last))]
    for member, known in joins if foreign_first else [*joins[1:], joins[0]]:
        try:
            started.join(member, known)
        except FailedPrecondition:
            assert not foreign_first
    assert started.membership.cluster_id == CLUSTER
    assert {member.address for member in started.membership.ring.members} == {A.address, B.address}
    with pytest.raises(FailedPrecondition, match=r"cluster_id: .*cluster-2.*cluster-1"):
        started.join(C, held(foreign, "cluster-2"))


def test_without_a_ring_the_cluster_of_most_journals_counts(started: Started) -> None:
    started.join(C, Knowledge("cluster-2"))
    started.join(A, Knowledge(CLUSTER))
    started.join(B, Knowledge(CLUSTER))
    started.after(WAIT - LEASE + 0.1)
    for member, cluster in ((A, CLUSTER), (B, CLUSTER), (C, "cluster-2")):
        started.membership.join(member, "b", 0, started.now, WALL, Knowledge(cluster))
    started.after(LEASE - 0.05)
    assert started.membership.cluster_id == CLUSTER
    assert {member.address for member in started.membership.ring.members} == {A.address, B.address}


def test_a_node_with_another_bucket_does_not_keep_out_those_of_the_last_ring(started: Started) -> None:
    last = ring_of(A)
    started.join(C, bucket="another")
    started.join(A, knowledge_of(last))
    assert started.membership.default_bucket == "b"
    assert started.membership.ring.members == (A,)


def test_members_that_are_missing_keep_their_places(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milena_router.ring.membership.MAX_MEMBERS", 2)
    last = ring_of(A, B)
    started.join(A, knowledge_of(last))
    with pytest.raises(FailedPrecondition, match="2 nodes"):
        started.join(C)
    assert started.join(B, held(last))


def test_routers_that_share_nodes_agree_on_the_smaller_id() -> None:
    one, two = (Membership(LEASE, 0.0, None, name) for name in ("id-1", "id-2"))
    for membership in (one, two):
        membership.join(A, "b", 0, 0.0, WALL)
        membership.join(B, "b", 0, 0.0, WALL)
    change = two.join(A, "b", 0, 1.0, WALL, Knowledge("id-1"))
    assert change is not None
    assert one.join(A, "b", 0, 1.0, WALL, Knowledge("id-1")) is None
    assert (one.cluster_id, two.cluster_id) == ("id-1", "id-1")


# ---- on a clock


async def test_requests_wait_for_the_ring_and_are_rejected_before_their_time_is_up() -> None:
    clock = FakeClock()
    recovery = Recovery(LEASE, WAIT)
    leases = Leases(Membership(LEASE, clock.now(), recovery), clock, lambda _: None)
    last = ring_of(A, B)
    leases.join(A, "b", 0, knowledge_of(last))
    short = asyncio.ensure_future(leases.published(1.0))
    long = asyncio.ensure_future(leases.published(10.0))
    await clock.advance(0.95)
    with pytest.raises(NoNodes, match=r"recovers the last ring.*b:1") as rejected:
        await short
    assert rejected.value.retry_after > 0
    leases.join(B, "b", 0, held(last))
    await run_ready_tasks()
    assert 8.9 < await long < 9.2
    assert leases.why() == ""


async def test_watchers_get_nothing_before_the_ring_is_known() -> None:
    clock = FakeClock()
    membership = Membership(LEASE, clock.now(), Recovery(LEASE, WAIT))
    watchers = RingWatchers(membership, direct_access=False)
    leases = Leases(membership, clock, lambda _: watchers.wake_watchers())
    updates = watchers.watch(pb.WatchRingRequest(node_id=A.node_id), None)
    first = asyncio.ensure_future(anext(updates))
    await run_ready_tasks()
    assert not first.done()
    last = ring_of(A)
    leases.join(A, "b", 0, knowledge_of(last))
    assert pb.RingUpdate.FromString(await first) == ring_update(last, "b", CLUSTER)
    with pytest.raises(FailedPrecondition, match="DIRECT_ACCESS"):
        await anext(watchers.watch(pb.WatchRingRequest(node_id="a stranger"), None))


# ---- from the message


def request(ring: Ring) -> pb.JoinRequest:
    return request_with(ring_update(ring, "b-bucket", CLUSTER))


def request_with(update: pb.RingUpdate) -> pb.JoinRequest:
    made = pb.JoinRequest(address=A.address, cluster_id=CLUSTER, ring_epoch=update.epoch, default_bucket="b-bucket")
    made.last_ring.ring.CopyFrom(update)
    made.last_ring.lease_seconds = LEASE
    return made


def test_a_ring_arrives_as_it_was() -> None:
    last = ring_of(A, Member(B.address, B.node_id, 2.5, B.addresses), C)
    known = knowledge(request(last), WALL)
    assert known.last is not None
    assert known.last.ring.members == last.members
    assert list(known.last.ring.ranges()) == list(last.ranges())
    assert known.last.ring.epoch == last.epoch


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", 0), ("epoch", 2**63), ("cluster_id", "another"), ("default_bucket", "no bucket!")],
)
def test_what_is_no_ring_is_rejected_by_name(field: str, value: object) -> None:
    wrong = request(ring_of(A))
    setattr(wrong.last_ring.ring, field, value)
    with pytest.raises(InvalidRequest, match=r"last_ring|bucket"):
        knowledge(wrong, WALL)


def test_slots_that_were_owned_since_a_later_epoch_are_rejected() -> None:
    wrong = request(ring_of(A))
    wrong.last_ring.ring.slots[0].owned_since = wrong.last_ring.ring.epoch + 1
    with pytest.raises(InvalidRequest, match="last_ring"):
        knowledge(wrong, WALL)
