"""What a node knows of the ring: its own slots, the owners of the others, and never an older ring."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_common.api.errors import Moved, NodeLost, NoNodes
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_router.ring.watch_streams import ring_update

ME, OTHER, MUTE = MapNode("me:1", "me:6379", "i"), MapNode("o:1", "[::1]:6379", "o"), MapNode("m:1", "", "m")
KEY = b"some key"
SLOT = slot_of(KEY)
LAST = SLOTS - 1


def known(epoch: int, *ranges: tuple[int, int, MapNode, int]) -> SlotMap:
    return SlotMap(epoch, "photos", (ME, OTHER, MUTE), tuple(MapRange(*each) for each in ranges))


def test_before_a_ring_is_known() -> None:
    ownership = Ownership(ME.address)
    assert (ownership.epoch, ownership.slots, ownership.single, ownership.nodes) == (0, 0, False, ())
    assert ownership.since == [ELSEWHERE] * SLOTS
    assert ownership.resp_address_of(SLOT) == ""
    with pytest.raises(NoNodes, match="no ring is known"):
        ownership.owned_since(KEY)


def test_slots_of_its_own_and_of_another() -> None:
    ownership = Ownership(ME.address)
    assert ownership.update(known(9, (0, SLOT, ME, 4), (SLOT + 1, LAST, OTHER, 5)))
    assert (ownership.epoch, ownership.slots, ownership.single) == (9, SLOT + 1, False)
    assert ownership.owned_since(KEY) == 4
    assert ownership.update(known(10, (0, SLOT - 1, ME, 4), (SLOT, LAST, OTHER, 10)))
    with pytest.raises(Moved) as moved:
        ownership.owned_since(KEY)
    assert (moved.value.slot, moved.value.address) == (SLOT, "[::1]:6379")
    assert ownership.resp_address_of(SLOT) == "[::1]:6379"
    assert ownership.resp_address_of(0) == "me:6379"


def test_an_owner_that_does_not_speak_redis_cannot_be_named() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, LAST, MUTE, 4)))
    with pytest.raises(NodeLost, match=rf"^node m:1, which owns slot {SLOT}, .*RESP_ADDR"):
        ownership.owned_since(KEY)


def test_a_slot_without_an_owner() -> None:
    ownership = Ownership(ME.address)
    assert not ownership.update(known(9, (0, SLOT - 1, OTHER, 4))), "it has no slots, as before"
    with pytest.raises(NoNodes, match=f"slot {SLOT}"):
        ownership.owned_since(KEY)


def test_an_older_ring_and_the_same_are_not_taken_over() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, LAST, ME, 4)))
    for epoch in (0, 8, 9):
        assert not ownership.update(known(epoch, (0, LAST, OTHER, 4)))
    assert not ownership.update(SlotMap.empty())
    assert ownership.single
    assert ownership.epoch == 9


def test_a_ring_that_changes_nothing_for_this_node() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, 5, ME, 4), (6, LAST, OTHER, 4)))
    assert not ownership.update(known(10, (0, 5, ME, 4), (6, LAST, MUTE, 10)))
    assert ownership.epoch == 10


def test_slots_owned_anew_are_a_change() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, LAST, ME, 4)))
    assert ownership.update(known(10, (0, LAST, ME, 10)))
    assert ownership.owned_since(KEY) == 10


def test_single_is_all_slots_since_one_epoch() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, LAST, ME, 4)))
    assert ownership.single
    ownership.update(known(10, (0, 5, ME, 4), (6, LAST, ME, 10)))
    assert not ownership.single
    assert ownership.slots == SLOTS


def test_the_list_of_slots_is_the_same_for_ever() -> None:
    ownership = Ownership(ME.address)
    since = ownership.since
    ownership.update(known(9, (0, LAST, ME, 4)))
    assert since == [4] * SLOTS


def test_the_nodes_as_a_cluster_client_is_shown_them() -> None:
    ownership = Ownership(ME.address)
    ownership.update(known(9, (0, 5, ME, 4), (6, 9, ME, 5), (10, 10, OTHER, 4), (12, LAST, ME, 4)))
    me, other, mute = ownership.nodes
    assert me.ranges == ((0, 9), (12, LAST))
    assert other.ranges == ((10, 10),)
    assert mute.ranges == ()
    assert (me.address, me.resp_address, mute.resp_address) == ("me:1", "me:6379", "")
    names = {node.id for node in ownership.nodes}
    assert len(names) == 3
    assert all(len(name) == 40 and set(name) <= set("0123456789abcdef") for name in names)
    again = Ownership(OTHER.address)
    again.update(known(30, (0, LAST, ME, 30)))
    assert [node.id for node in again.nodes] == [node.id for node in ownership.nodes]


NAMES = st.sampled_from("abc")


class ThroughEveryRing(RuleBasedStateMachine):
    """Nodes come, go and restart; a node receives some rings, some late and some twice."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring.empty()
        self.history = [self.ring]
        self.ownership = Ownership("a:1")
        self.received = self.ring

    def become(self, members: dict[str, Member], renewed: str | None = None) -> None:
        self.ring = self.ring.with_members(
            members.values(), self.ring.epoch + 2, renewed=[renewed] if renewed else []
        )
        self.history.append(self.ring)

    @property
    def members(self) -> dict[str, Member]:
        return {member.address: member for member in self.ring.members}

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        renewed = f"{name}:1" if f"{name}:1" in self.members else None
        self.become(self.members | {f"{name}:1": Member(f"{name}:1", addresses={"resp": f"{name}:6379"})}, renewed)

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.become({address: member for address, member in self.members.items() if address != f"{name}:1"})

    @rule(back=st.integers(0, 2))
    def notify(self, back: int) -> None:
        ring = self.history[-1 - min(back, len(self.history) - 1)]
        before = list(self.ownership.since)
        changed = self.ownership.update(SlotMap.from_update(ring_update(ring, "b", "c")))
        assert changed == (before != self.ownership.since)
        if ring.epoch > self.received.epoch:
            self.received = ring

    @invariant()
    def it_has_the_newest_ring_that_it_received(self) -> None:
        assert self.ownership.epoch == self.received.epoch
        for key in (b"1", b"2", b"3", b"4", b"5"):
            slot, address, since = self.received.find(key)
            if address == "a:1":
                assert self.ownership.owned_since(key) == since
                continue
            assert self.ownership.since[slot] == ELSEWHERE
            with pytest.raises(Moved if address else NoNodes) as raised:
                self.ownership.owned_since(key)
            if isinstance(raised.value, Moved):
                assert raised.value.address == f"{address[0]}:6379"


TestThroughEveryRing = ThroughEveryRing.TestCase
TestThroughEveryRing.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
