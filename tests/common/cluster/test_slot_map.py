"""The ring as clients and nodes know it: the same answers as the router's, and nothing else taken for a ring."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import MapNode, SlotMap, Target
from milena_common.cluster.slots import SLOTS, slot_of
from milena_router.ring.watch_streams import ring_update

A = pb.RingNode(address="a:50051", resp_address="a:6379", node_id="1")
B = pb.RingNode(address="b:50051")


def update(*ranges: tuple[int, int, int], nodes: tuple[pb.RingNode, ...] = (A, B)) -> pb.RingUpdate:
    slots = [pb.SlotRange(first=first, last=last, node=node, owned_since=5) for first, last, node in ranges]
    return pb.RingUpdate(epoch=7, nodes=nodes, slots=slots, default_bucket="photos")


def test_before_any_ring_is_known() -> None:
    empty = SlotMap.empty()
    assert (empty.epoch, empty.nodes, empty.default_bucket) == (0, (), "")
    assert empty.find(b"k") == Target(slot_of(b"k"), "", "", 0)


def test_an_update_is_read() -> None:
    ring = SlotMap.from_update(update((0, 0, 0), (1, 9000, 1), (12000, SLOTS - 1, 0)))
    assert (ring.epoch, ring.default_bucket) == (7, "photos")
    assert ring.nodes == (MapNode("a:50051", "a:6379", "1"), MapNode("b:50051", "", ""))
    assert ring.targets[0] == Target(0, "a:50051", "a:6379", 5)
    assert ring.targets[1] == Target(1, "b:50051", "", 5)
    assert ring.targets[9000].address == "b:50051"
    assert [ring.targets[slot] for slot in (9001, 11999)] == [Target(9001, "", "", 0), Target(11999, "", "", 0)]
    assert [target.slot for target in ring.targets] == list(range(SLOTS))


def test_slots_after_the_last_range_are_nobodys() -> None:
    ring = SlotMap.from_update(update((5, 6, 0)))
    assert len(ring.targets) == SLOTS
    assert ring.targets[-1] == Target(SLOTS - 1, "", "", 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (update((0, 5, 0), (5, 9, 1)), "slots 5 to 9 after 5"),
        (update((5, 9, 0), (0, 4, 1)), "slots 0 to 4 after 9"),
        (update((9, 5, 0)), "slots 9 to 5"),
        (update((0, SLOTS, 0)), f"of {SLOTS}"),
        (update((0, 5, 2)), "not one of the 2"),
        (update((0, 5, 0), nodes=()), "not one of the 0"),
        (update(nodes=(A, pb.RingNode(address="a:50051"))), "the address of another one"),
        (update(nodes=(A, pb.RingNode())), "no address"),
    ],
)
def test_what_is_no_ring_is_refused(wrong: pb.RingUpdate, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SlotMap.from_update(wrong)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), unique=True, max_size=4), min_size=1, max_size=4),
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20),
)
def test_every_key_has_the_owner_that_the_router_gives_it(rings: list[list[str]], keys: list[bytes]) -> None:
    ring = Ring.empty()
    for names in rings:
        members = [Member(f"{name}:50051", name, addresses={"resp": f"{name}:6379"}) for name in names]
        ring = ring.with_members(members, ring.epoch + 3)
    slot_map = SlotMap.from_update(pb.RingUpdate.FromString(ring_update(ring, "b", "c").SerializeToString()))
    assert (slot_map.epoch, slot_map.cluster_id) == (ring.epoch, "c")
    assert SlotMap.from_update(slot_map.to_update()).targets == slot_map.targets
    assert {node.address for node in slot_map.nodes} == {member.address for member in ring.members}
    for key in keys:
        slot, address, since = ring.find(key)
        expected = Target(slot, address, f"{address[0]}:6379", since) if address else Target(slot, "", "", 0)
        assert slot_map.find(key) == expected
