"""What a node knows of the ring: its own slots, the owners of the others, and never an older ring."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_common.api.errors import FailedPrecondition, MilenaError, Moved, NodeLost, NoNodes, TryAgain
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


# ---- rings of nodes that fence


def fencing(
    epoch: int,
    *ranges: tuple[int, int, MapNode, int],
    released: int,
    pending: tuple[tuple[int, int, MapNode, int], ...] = (),
) -> SlotMap:
    return SlotMap(
        epoch,
        "photos",
        (ME, OTHER, MUTE),
        tuple(MapRange(*each) for each in ranges),
        pending=tuple(MapRange(*each) for each in pending),
        released_epoch=released,
    )


def error_for(ownership: Ownership, slot: int) -> MilenaError:
    """The error for a slot, which the node must not serve."""
    assert ownership.since[slot] == ELSEWHERE
    return ownership.elsewhere(slot)


def test_slots_of_a_lost_owner_are_served_only_when_it_is_released() -> None:
    ownership = Ownership(ME.address)
    ring = fencing(9, (0, 5, ME, 4), (6, 9, ME, 9), (10, LAST, OTHER, 4), released=8)
    ownership.update(ring)
    assert (ownership.since[5], ownership.slots) == (4, 6)
    error = error_for(ownership, 6)
    assert isinstance(error, TryAgain)
    assert error.retry_after > 0
    assert "lease" in str(error)
    assert ownership.update(ring.with_released_epoch(9)), "the release alone is news"
    assert (ownership.since[6], ownership.slots) == (9, 10)
    assert not ownership.update(ring), "and is not taken back by a late update"
    assert ownership.since[6] == 9


def test_a_release_in_another_ring_with_the_same_epoch_says_nothing_of_this_one() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, ME, 9), released=8))
    assert not ownership.update(fencing(9, (0, 5, ME, 9), (6, LAST, OTHER, 9), released=9))
    assert ownership.slots == 0


def test_a_restarted_process_does_not_serve_by_the_entry_of_its_predecessor() -> None:
    restarted = Ownership(ME.address, "another")
    restarted.update(fencing(9, (0, LAST, ME, 4), released=9))
    error = error_for(restarted, 0)
    assert isinstance(error, TryAgain)
    assert "restarted" in str(error)
    of_today = Ownership(ME.address, "another")
    of_today.update(known(9, (0, LAST, ME, 4)))
    assert of_today.single, "a ring of nodes that do not fence is taken by the address"
    unnamed = Ownership(ME.address, ME.node_id)
    unnamed.update(fencing(9, (0, LAST, ME._replace(node_id=""), 4), released=9))
    assert unnamed.single


def test_the_destination_serves_a_slot_from_the_hand_over_on() -> None:
    ownership = Ownership(ME.address)
    moving = fencing(9, (0, LAST, OTHER, 4), released=7, pending=((10, 19, ME, 9),))
    ownership.update(moving)
    assert isinstance(error_for(ownership, 10), Moved), "the owner serves it until then"
    assert ownership.take_slots([(10, 14)], 9)
    assert not ownership.take_slots([(10, 14)], 9), "a hand-over may be repeated"
    assert ownership.take_slots([(15, 15)], 9)
    assert ownership.since[10:20] == [9] * 6 + [ELSEWHERE] * 4
    assert ownership.taken == ((10, 15, 9),)
    # The router has heard of some of it. An unsettled loss, of epoch 8, does not concern slots that were taken.
    ownership.update(
        fencing(10, (0, 9, OTHER, 4), (10, 12, ME, 9), (13, LAST, OTHER, 4), released=7, pending=((13, 19, ME, 9),))
    )
    assert ownership.since[10:20] == [9] * 6 + [ELSEWHERE] * 4
    assert ownership.taken == ((13, 15, 9),)
    assert not ownership.take_slots([(10, 12)], 9), "the confirmation was lost, and comes again"


def test_a_slot_that_moves_here_is_not_served_before_it_is_handed_over() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, OTHER, 4), released=9, pending=((10, 19, ME, 9),)))
    assert ownership.slots == 0


def test_slots_that_the_ring_does_not_move_here_cannot_be_taken() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, OTHER, 4), released=9, pending=((10, 19, ME, 9), (20, 29, MUTE, 9))))
    for first, last, since in ((10, 20, 9), (9, 10, 9), (10, 19, 8), (20, 21, 9)):
        with pytest.raises(FailedPrecondition, match=f"{first} to {last}"):
            ownership.take_slots([(first, last)], since)
    assert ownership.slots == 0
    assert ownership.taken == ()


def test_a_slot_taken_in_a_move_that_is_over_is_not_served() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, OTHER, 4), released=9, pending=((10, 19, ME, 9),)))
    ownership.take_slots([(10, 19)], 9)
    assert ownership.update(fencing(10, (0, LAST, OTHER, 10), released=9)), "this node was thought to be lost"
    assert isinstance(error_for(ownership, 10), Moved)
    # A later move of the same slots begins from nothing.
    ownership.update(fencing(11, (0, LAST, OTHER, 10), released=11, pending=((10, 19, ME, 9),)))
    assert ownership.slots == 0


def test_a_stopped_slot_is_served_by_no_node_until_it_is_handed_over_or_resumed() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, ME, 4), released=9, pending=((10, 19, OTHER, 9),)))
    assert ownership.stop_slots([(10, 14)])
    assert not ownership.single
    error = error_for(ownership, 10)
    assert isinstance(error, TryAgain)
    assert ownership.since[15] == 4
    assert ownership.resume_slots([(10, 14)])
    assert ownership.single
    ownership.stop_slots([(10, 14)])
    assert not ownership.hand_over([(10, 14)]), "nothing is lost by that, which was stopped"
    assert not ownership.resume_slots([(10, 14)])
    moved = error_for(ownership, 10)
    assert isinstance(moved, Moved)
    assert moved.address == OTHER.resp_address == ownership.resp_address_of(10)


def test_a_slot_handed_over_stays_so_until_the_ring_gives_it_back() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, ME, 4), released=9, pending=((10, 19, OTHER, 9),)))
    ownership.hand_over([(10, 19)])
    ownership.update(fencing(10, (0, LAST, ME, 4), released=10, pending=((0, 5, MUTE, 10), (10, 19, OTHER, 9))))
    assert isinstance(error_for(ownership, 10), Moved)
    # The destination was lost. What it has acknowledged meanwhile is not here: the slots are owned anew.
    lost = fencing(11, (0, 9, ME, 4), (10, 19, ME, 11), (20, LAST, ME, 4), released=10)
    ownership.update(lost)
    assert isinstance(error_for(ownership, 10), TryAgain)
    ownership.update(lost.with_released_epoch(11))
    assert ownership.since[10] == 11


def test_a_destination_without_resp_is_not_named() -> None:
    ownership = Ownership(ME.address)
    ownership.update(fencing(9, (0, LAST, ME, 4), released=9, pending=((10, 19, MUTE, 9),)))
    ownership.hand_over([(10, 10)])
    assert isinstance(error_for(ownership, 10), NodeLost)


def test_behind_a_closed_fence_nothing_is_served_whatever_arrives() -> None:
    ownership = Ownership(ME.address)
    ring = fencing(9, (0, LAST, ME, 4), released=9, pending=((10, 19, OTHER, 9),))
    ownership.update(ring)
    ownership.close("the lease is over", 0.5)
    assert (ownership.slots, ownership.single, ownership.closed) == (0, False, "the lease is over")
    error = error_for(ownership, 0)
    assert isinstance(error, NoNodes)
    assert (str(error), error.retry_after) == ("the lease is over; nothing was done", 0.5)
    assert ownership.stop_slots([(10, 10)])
    assert ownership.update(fencing(10, (0, 9, OTHER, 10), (10, LAST, ME, 4), released=10)), "it has lost slots"
    assert ownership.slots == 0
    ownership.open()
    assert ownership.closed == ""
    assert ownership.since[9:11] == [ELSEWHERE, ELSEWHERE]
    ownership.resume_slots([(10, 10)])
    assert ownership.since[9:11] == [ELSEWHERE, 4]


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


def test_slots_that_were_abandoned_are_known_and_those_taken_before_are_kept() -> None:
    ownership = Ownership(ME.address)
    moving = SlotMap(
        9,
        "photos",
        (ME, OTHER),
        (MapRange(0, LAST, OTHER, 5),),
        pending=(MapRange(0, 99, ME, 8),),
        released_epoch=9,
    )
    ownership.update(moving)
    ownership.take_slots([(10, 19)], 8)
    assert ownership.abandon(0, 99, 8) == list(range(10, 20))
    assert ownership.has_abandoned(0, 9, 8)
    assert not ownership.has_abandoned(10, 19, 8)
    assert ownership.has_abandoned(15, 25, 8)
    assert not ownership.has_abandoned(0, 99, 9), "a later move is another one"
