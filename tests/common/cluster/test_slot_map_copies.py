"""The holders of copies as nodes and clients know them, over the wire and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.copies_message import PlacedCopies, copies_message, read_copies
from milena_common.cluster.slot_map import CopyRange, Holder, MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS

A, B, C = (
    MapNode(f"{name}:50051", f"{name}:6379", name, 1.0, f"journal-{name}", 2, zone)
    for name, zone in (("a", "north"), ("b", "north"), ("c", "south"))
)
# A process that is lost, at whose address another one runs.
LOST = MapNode("b:50051", "b:6379", "before", 1.0, "lost-journal", 2, "north")

COPIES = (
    CopyRange(0, 99, (Holder(B, True), Holder(C, False, 6))),
    CopyRange(100, 4999, (Holder(LOST, True), Holder(C, True))),
    CopyRange(9000, SLOTS - 1, (Holder(C, False, 7),)),
)


def ring(copies: tuple[CopyRange, ...], epoch: int = 7) -> SlotMap:
    owned = (MapRange(0, 99, A, 3), MapRange(5000, SLOTS - 1, B, 4))
    return SlotMap(
        epoch,
        "photos",
        (A, B, C),
        owned,
        "c1",
        released_epoch=5,
        copies=copies,
        copies_wanted=3,
        greatest_members=4,
    )


def over_the_wire(slot_map: SlotMap) -> SlotMap:
    return SlotMap.from_update(pb.RingUpdate.FromString(slot_map.to_update().SerializeToString()))


def test_a_ring_keeps_its_copies_over_the_wire() -> None:
    received = over_the_wire(ring(COPIES))
    assert received.copies == COPIES
    assert (received.copies_wanted, received.greatest_members) == (3, 4)
    assert received.nodes == (A, B, C), "with zones, and the copies that they want"
    assert received.with_released_epoch(6).copies == COPIES


def test_a_ring_without_copies_has_none_on_the_wire() -> None:
    update = SlotMap(7, "photos", (A, B), (MapRange(0, SLOTS - 1, A, 3),)).to_update()
    assert not update.HasField("copies")
    assert SlotMap.from_update(update).copies == ()


def test_the_holders_of_a_slot_are_found() -> None:
    slot_map = ring(COPIES)
    assert slot_map.holders(99) == COPIES[0].holders
    assert slot_map.holders(5000) == ()
    assert slot_map.holders(SLOTS - 1) == (Holder(C, False, 7),)
    assert SlotMap.empty().holders(0) == ()


def change_of(*copies: PlacedCopies, nodes: tuple[pb.RingNode, ...] = (), target: int = 3) -> pb.RingUpdate:
    update = pb.RingUpdate(epoch=8, base_epoch=7, nodes=nodes, copies_wanted=target, greatest_members=4)
    update.runs.lengths.append(SLOTS)
    update.runs.owners.append(0)
    update.runs.since.append(0)
    update.runs.epochs.append(0)
    if copies:
        update.copies.CopyFrom(copies_message(copies))
    return update


BASE = SlotMap(
    7,
    "photos",
    (A, B, C),
    (MapRange(0, SLOTS - 1, A, 3),),
    copies=(CopyRange(0, SLOTS - 1, (Holder(B, True),)),),
    copies_wanted=2,
)


def test_a_change_of_a_ring_has_only_the_slots_whose_holders_differ() -> None:
    changed = SlotMap.from_update(
        change_of(PlacedCopies(10, 19, ((1, None), (2, 8))), PlacedCopies(20, 29, ())), BASE
    )
    assert changed.copies == (
        CopyRange(0, 9, (Holder(B, True),)),
        CopyRange(10, 19, (Holder(B, True), Holder(C, False, 8))),
        CopyRange(30, SLOTS - 1, (Holder(B, True),)),
    )


def test_a_change_without_copies_leaves_them_and_one_that_wants_none_takes_them_away() -> None:
    assert SlotMap.from_update(change_of(), BASE).copies == BASE.copies
    assert SlotMap.from_update(change_of(target=0), BASE).copies == ()


def test_a_holder_that_was_restarted_is_the_new_process() -> None:
    restarted = pb.RingNode(address=B.address, resp_address="b:7000", node_id="b2", copies=2)
    changed = SlotMap.from_update(change_of(nodes=(restarted,)), BASE)
    assert [holder.node.node_id for holder in changed.holders(0)] == ["b2"]


def test_a_holder_that_was_removed_without_a_change_of_its_slots_is_rejected() -> None:
    update = change_of()
    update.removed.append(B.address)
    with pytest.raises(ValueError, match="a holder is a node that was removed"):
        SlotMap.from_update(update, BASE)


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        (pb.SlotCopies(lengths=[5], lists=[0]), "copies of 5 slots"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1]), "not one of 0"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1], sizes=[2], holders=[0], since=[0]), "lists of 2 holders"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1], sizes=[2], holders=[1, 1], since=[0, 0]), "one holder twice"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1], sizes=[1], holders=[0], since=[1]), "not one of 0, 0"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1], sizes=[1], holders=[3], since=[0]), "not one of the 3 nodes"),
        (pb.SlotCopies(lengths=[SLOTS], lists=[1], sizes=[9], holders=range(9), since=[0] * 9), "has 9 holders"),
    ],
)
def test_what_are_no_copies_is_rejected(message: pb.SlotCopies, argv: str) -> None:
    update = ring(()).to_update()
    update.copies.CopyFrom(message)
    with pytest.raises(ValueError, match=argv):
        SlotMap.from_update(update)


LISTS = st.lists(
    st.tuples(st.integers(0, 9), st.none() | st.integers(0, 2**60)), max_size=4, unique_by=lambda e: e[0]
)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 200), LISTS.map(tuple)), max_size=30))
def test_every_list_of_holders_is_read_as_it_was_written(
    parts: list[tuple[int, int, tuple[tuple[int, int]]]],
) -> None:
    runs: list[PlacedCopies] = []
    free = 0
    for gap, length, holders in parts:
        if runs and not gap and runs[-1].holders == holders:  # they are joined
            runs[-1] = runs[-1]._replace(last=free + length - 1)
        else:
            runs.append(PlacedCopies(free + gap, free + gap + length - 1, holders))
        free += gap + length
    message = pb.SlotCopies.FromString(copies_message(runs).SerializeToString())
    assert read_copies(message) == runs
