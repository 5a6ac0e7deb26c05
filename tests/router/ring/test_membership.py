"""Who is in the ring: single cases first, then any sequence of events against a simple model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.slot_assignment import Member
from milena_router.ring.membership import MAX_AHEAD_MS, Change, Membership

LEASE = 5.0
WALL = 1_700_000_000.0
A, B, C = (Member(f"node-{name}:50051", node_id=f"id-{name}") for name in "abc")


def join(
    membership: Membership, member: Member, now: float = 0.0, *, seen: int = 0, wall: float = WALL
) -> Change | None:
    return membership.join(member, "bucket", seen, now, wall)


def watch(membership: Membership, start: float, end: float) -> list[Change]:
    """Look at the leases from `start` to `end`, as often as the router does."""
    changes, now = [], start
    while now < end:
        now = min(end, now + LEASE / 10)
        changes += membership.expire(now, WALL + now)
    return changes


@pytest.fixture
def membership() -> Membership:
    return Membership(LEASE, 0.0)


def test_a_join_makes_a_new_ring(membership: Membership) -> None:
    change = join(membership, A)
    assert change == Change("Join", A.address, "new", membership.ring)
    assert membership.ring.members == (A,)
    assert membership.ring.epoch == WALL * 1000


def test_joining_again_renews_the_lease_and_changes_nothing(membership: Membership) -> None:
    join(membership, A)
    ring = membership.ring
    assert watch(membership, 0, 4) == []
    assert join(membership, A, 4) is None
    assert membership.ring is ring
    assert watch(membership, 4, 8.9) == []
    assert [change.reason for change in watch(membership, 8.9, 9.1)] == ["lease expired"]


def test_a_lease_that_ends_takes_the_node_out(membership: Membership) -> None:
    join(membership, A)
    join(membership, B, 3)
    (change,) = watch(membership, 0, 7)
    assert (change.kind, change.address, change.reason) == ("Leave", A.address, "lease expired")
    assert membership.ring.members == (B,)
    assert set(membership.leases) == {B.address}


def test_leaving(membership: Membership) -> None:
    join(membership, A)
    join(membership, B)
    change = membership.remove_member(A.address, "", 0.0, WALL)
    assert change == Change("Leave", A.address, "left", membership.ring)
    assert membership.ring.members == (B,)


def test_leaving_without_being_there_changes_nothing(membership: Membership) -> None:
    join(membership, A)
    ring = membership.ring
    assert membership.remove_member(B.address, "", 0.0, WALL) is None
    assert membership.ring is ring


def test_another_weight_is_another_ring(membership: Membership) -> None:
    join(membership, A)
    join(membership, B)
    epoch = membership.ring.epoch
    heavy = Member(A.address, A.node_id, weight=3.0)
    change = join(membership, heavy)
    assert change is not None
    assert (change.kind, change.reason) == ("Join", "weight changed")
    assert membership.ring.epoch > epoch
    assert membership.ring.slots_by_node()[A.address] > 2 * membership.ring.slots_by_node()[B.address]


def test_a_restarted_node_owns_its_slots_anew(membership: Membership) -> None:
    """Whatever copies a process at this address has, they may be from before the other one's writes."""
    join(membership, A)
    join(membership, B)
    before = membership.ring
    change = join(membership, Member(A.address, "another id"))
    assert change is not None
    assert (change.kind, change.reason) == ("Join", "restarted")
    assert membership.ring.slots_by_node() == before.slots_by_node()
    for slot_key in (b"a", b"b", b"c", b"d", b"e", b"f"):
        old, new = before.find(slot_key), membership.ring.find(slot_key)
        assert old.address == new.address
        assert new.owned_since == (membership.ring.epoch if new.address == A.address else old.owned_since)


def test_other_addresses_are_another_ring_with_the_same_owners(membership: Membership) -> None:
    join(membership, A)
    join(membership, B)
    before = membership.ring
    change = join(membership, Member(A.address, A.node_id, addresses={"resp": "node-a:6379"}))
    assert change is not None
    assert (change.kind, change.reason) == ("Join", "addresses changed")
    assert membership.ring.epoch > before.epoch
    assert membership.ring.members[0].addresses == {"resp": "node-a:6379"}
    assert list(membership.ring.ranges()) == list(before.ranges())


def test_two_processes_at_one_address_are_called_that(membership: Membership) -> None:
    join(membership, A)
    twin = Member(A.address, "twin")
    assert join(membership, twin).reason == "restarted"  # type: ignore[union-attr]
    change = join(membership, A)
    assert change is not None
    assert "two nodes advertise this address" in change.reason
    assert "ADVERTISE_ADDR" in change.reason


def test_a_join_without_an_id_renews_and_changes_nothing(membership: Membership) -> None:
    join(membership, A)
    ring = membership.ring
    assert join(membership, Member(A.address, weight=5.0)) is None
    assert membership.ring is ring
    assert membership.leases[A.address].member == A


def test_a_process_that_stops_late_does_not_take_out_its_successor(membership: Membership) -> None:
    join(membership, A)
    join(membership, Member(A.address, "successor"))
    assert membership.remove_member(A.address, A.node_id, 0.0, WALL) is None
    assert membership.remove_member(A.address, "successor", 0.0, WALL) is not None


def test_the_ring_takes_no_more_nodes_than_its_maximum(
    membership: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milena_router.ring.membership.MAX_MEMBERS", 2)
    join(membership, A)
    join(membership, B)
    with pytest.raises(FailedPrecondition, match="2 nodes"):
        join(membership, C)
    assert join(membership, A) is None, "members renew all the same"


def test_an_epoch_far_in_the_future_is_not_believed(membership: Membership) -> None:
    join(membership, A, seen=2**63)
    assert membership.ring.epoch <= WALL * 1000 + MAX_AHEAD_MS + 1


# ---- epochs


def test_epochs_grow_faster_than_the_wall_clock_if_need_be(membership: Membership) -> None:
    epochs = []
    for member in (A, B, C):
        join(membership, member)
        epochs.append(membership.ring.epoch)
    assert epochs == [WALL * 1000, WALL * 1000 + 1, WALL * 1000 + 2]


def test_epochs_grow_though_the_clock_is_set_back(membership: Membership) -> None:
    join(membership, A)
    before = membership.ring.epoch
    join(membership, B, wall=WALL - 10_000)
    assert membership.ring.epoch == before + 1


def test_epochs_are_beyond_what_a_node_has_seen_of_another_router(membership: Membership) -> None:
    seen = int(WALL * 1000) + 10**9
    join(membership, A, seen=seen)
    assert membership.ring.epoch == seen + 1


# ---- one default bucket a ring


def test_a_node_with_another_bucket_is_rejected_with_both_names(membership: Membership) -> None:
    membership.join(A, "photos", 0, 0.0, WALL)
    ring = membership.ring
    with pytest.raises(FailedPrecondition, match=r"^default_bucket: .*S3_BUCKET=videos.*S3_BUCKET=photos"):
        membership.join(B, "videos", 0, 0.0, WALL)
    assert membership.ring is ring
    assert set(membership.leases) == {A.address}


def test_a_rejected_node_does_not_renew_its_lease(membership: Membership) -> None:
    membership.join(A, "photos", 0, 0.0, WALL)
    membership.join(B, "photos", 0, 0.0, WALL)
    until = membership.leases[B.address].until
    with pytest.raises(FailedPrecondition):
        membership.join(B, "videos", 0, 3.0, WALL)
    assert membership.leases[B.address].until == until


def test_a_node_that_names_no_bucket_is_welcome(membership: Membership) -> None:
    membership.join(A, "photos", 0, 0.0, WALL)
    assert membership.join(B, "", 0, 0.0, WALL)
    assert membership.default_bucket == "photos"


def test_an_empty_or_lone_ring_may_change_its_bucket(membership: Membership) -> None:
    membership.join(A, "photos", 0, 0.0, WALL)
    membership.join(A, "videos", 0, 1.0, WALL)
    assert membership.default_bucket == "videos"
    membership.remove_member(A.address, "", 0.0, WALL)
    assert membership.join(B, "music", 0, 2.0, WALL)
    assert membership.default_bucket == "music"


# ---- a router that was asleep


@pytest.mark.parametrize("last_renewal", [0.0, 3.0, 4.4])
def test_a_router_that_wakes_up_gives_its_nodes_time_to_renew(membership: Membership, last_renewal: float) -> None:
    join(membership, A)
    watch(membership, 0, last_renewal)
    join(membership, A, last_renewal)
    watch(membership, last_renewal, 4.5)
    assert membership.expire(3600, WALL) == []
    assert membership.ring.members == (A,)
    assert join(membership, A, 3600.01) is None


def test_time_asleep_makes_no_lease_longer_than_a_lease(membership: Membership) -> None:
    """A node whose renewal was waiting when the router woke up may die then, and must not stay for long."""
    join(membership, A)
    watch(membership, 0, 1)
    join(membership, A, 3600)
    assert membership.expire(3600, WALL) == []
    assert membership.leases[A.address].until == 3600 + LEASE
    assert [change.address for change in watch(membership, 3600, 3600 + LEASE)] == [A.address]


def test_a_node_that_died_while_the_router_slept_leaves_after_it_woke_up(membership: Membership) -> None:
    join(membership, A)
    assert membership.expire(3600, WALL) == []
    assert len(watch(membership, 3600, 3600 + LEASE)) == 1


# ---- any sequence of events

ADDRESSES = st.sampled_from([f"10.0.0.{n}:50051" for n in range(4)])
PAUSES = st.sampled_from([0.1, 0.5, 1.0, 2.4])


class Model(RuleBasedStateMachine):
    """Joins, renewals, leaves, time and sleep in any order, against a dict of address → (weight, until)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.wall = WALL
        self.checked = self.now
        self.membership = Membership(LEASE, self.now)
        self.expected: dict[str, tuple[float, float]] = {}
        self.ring = self.membership.ring

    @rule(address=ADDRESSES, weight=st.sampled_from([1.0, 1.0, 1.0, 2.0]), ahead=st.sampled_from([0, 0, 10]))
    def join(self, address: str, weight: float, ahead: int) -> None:
        known = self.expected.get(address)
        seen = self.ring.epoch + ahead if ahead else 0
        change = self.membership.join(Member(address, weight=weight), "b", seen, self.now, self.wall)
        assert (change is None) == (known is not None and known[0] == weight)
        if change:
            assert self.membership.ring.epoch > seen
        self.expected[address] = (weight, self.now + LEASE)

    @rule(address=ADDRESSES)
    def leave(self, address: str) -> None:
        change = self.membership.remove_member(address, "", self.now, self.wall)
        assert (change is not None) == (address in self.expected)
        self.expected.pop(address, None)

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    @rule(seconds=PAUSES)
    def the_router_looks(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule(seconds=st.sampled_from([10.0, 1000.0]))
    def the_router_sleeps(self, seconds: float) -> None:
        self.now += seconds
        before = set(self.expected)
        self.look()
        assert set(self.expected) == before, "no node is removed for the router's own absence"

    @rule(back=st.sampled_from([1.0, 10_000.0]))
    def the_clock_is_set_back(self, back: float) -> None:
        self.wall -= back

    def look(self) -> None:
        away, self.checked = self.now - self.checked, self.now
        if away > LEASE / 2:
            self.expected = {
                address: (weight, min(until + away, self.now + LEASE))
                for address, (weight, until) in self.expected.items()
            }
        over = {address for address, (_, until) in self.expected.items() if until <= self.now}
        changes = self.membership.expire(self.now, self.wall)
        assert {change.address for change in changes} == over
        assert all((change.kind, change.reason) == ("Leave", "lease expired") for change in changes)
        for address in over:
            del self.expected[address]

    @invariant()
    def the_ring_has_exactly_the_members_with_a_lease(self) -> None:
        ring = self.membership.ring
        assert {node.address: node.weight for node in ring.members} == {
            address: weight for address, (weight, _) in self.expected.items()
        }
        assert self.membership.leases.keys() == self.expected.keys()
        for address, (_, until) in self.expected.items():
            assert self.membership.leases[address].until == until
            assert until <= self.now + LEASE
        assert sum(ring.slots_by_node().values()) == (16384 if self.expected else 0)

    @invariant()
    def every_new_ring_has_a_greater_epoch(self) -> None:
        ring = self.membership.ring
        assert ring is self.ring or ring.epoch > self.ring.epoch
        self.ring = ring


TestAnySequence = Model.TestCase
TestAnySequence.settings = settings(max_examples=25, stateful_step_count=25)
