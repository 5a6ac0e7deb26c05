"""The ring as clients and nodes know it: the same replies as the router's, and nothing else taken for a ring."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.runs_message import runs_message
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap, Target
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS
from milena_router.ring.watch_streams import Published, ring_update, short_update

A = pb.RingNode(address="a:50051", resp_address="a:6379", node_id="1")
B = pb.RingNode(address="b:50051")


def update(*ranges: tuple[int, int, int], nodes: tuple[pb.RingNode, ...] = (A, B)) -> pb.RingUpdate:
    slots = [pb.SlotRange(first=first, last=last, node=node, owned_since=5) for first, last, node in ranges]
    return pb.RingUpdate(epoch=7, nodes=nodes, slots=slots, default_bucket="photos")


def test_before_any_ring_is_known() -> None:
    empty = SlotMap.empty()
    assert (empty.epoch, empty.nodes, empty.default_bucket) == (0, (), "")
    assert empty.target(SLOTS - 1) == Target(SLOTS - 1, "", "", 0)


def test_an_update_is_read() -> None:
    ring = SlotMap.from_update(update((0, 0, 0), (1, 9000, 1), (12000, SLOTS - 1, 0)))
    assert (ring.epoch, ring.default_bucket) == (7, "photos")
    assert ring.nodes == (MapNode("a:50051", "a:6379", "1"), MapNode("b:50051", "", ""))
    assert ring.target(0) == Target(0, "a:50051", "a:6379", 5)
    assert ring.target(1) == Target(1, "b:50051", "", 5)
    assert ring.target(9000).address == "b:50051"
    assert [ring.target(slot) for slot in (9001, 11999)] == [Target(9001, "", "", 0), Target(11999, "", "", 0)]


def test_slots_after_the_last_range_are_nobodys() -> None:
    ring = SlotMap.from_update(update((5, 6, 0)))
    assert ring.target(SLOTS - 1) == Target(SLOTS - 1, "", "", 0)


@pytest.mark.parametrize(
    ("wrong", "argv"),
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
def test_what_is_no_ring_is_rejected(wrong: pb.RingUpdate, argv: str) -> None:
    with pytest.raises(ValueError, match=argv):
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
    assert SlotMap.from_update(slot_map.to_update()).ranges == slot_map.ranges
    assert {node.address for node in slot_map.nodes} == {member.address for member in ring.members}
    for key in keys:
        slot, address, since = ring.find(key)
        expected = Target(slot, address, f"{address[0]}:6379", since) if address else Target(slot, "", "", 0)
        assert slot_map.target(slot) == expected


# ---- the short form, and changes of a ring


def published(ring: Ring, missing: tuple[MissingNode, ...] = ()) -> Published:
    return Published(ring, "b", "c", 9, missing)


def received(sent: pb.RingUpdate, base: SlotMap | None = None) -> SlotMap:
    return SlotMap.from_update(pb.RingUpdate.FromString(sent.SerializeToString()), base)


def nodes_of(names: str, ids: str = "1") -> list[Member]:
    return [Member(f"{name}:50051", ids, addresses={"resp": f"{name}:6379"}) for name in names]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcdef")), st.sampled_from("12"), st.booleans()), min_size=2, max_size=6
    )
)
def test_changes_of_a_ring_lead_to_the_same_map_as_the_whole_one(history: list[tuple[set[str], str, bool]]) -> None:
    ring = Ring.empty(1)
    sent, base = published(ring), None
    for epoch, (names, ids, lost) in enumerate(history, 2):
        old = sent
        members = nodes_of("".join(names), ids)
        renewed = [member.address for member in members if member not in ring.members]
        ring = ring.with_members(members, epoch, renewed=renewed)
        sent = published(ring, (MissingNode("x:1", "", "", None, 0, 5.0, "lost"),) if lost else ())
        if base is None:
            base = received(short_update(old))
        by_change = received(short_update(sent, old), base)
        whole, by_ranges = received(short_update(sent)), received(ring_update(*sent[:5]))
        for slot_map in (by_change, whole):
            assert slot_map.ranges == by_ranges.ranges
            assert slot_map.nodes == by_ranges.nodes
            assert slot_map.missing == by_ranges.missing
            assert (slot_map.epoch, slot_map.cluster_id, slot_map.max_value_bytes) == (epoch, "c", 9)
        base = by_change


def test_a_change_has_only_what_differs() -> None:
    before = Ring.empty().with_members(nodes_of("abcdefgh"), 1)
    after = before.with_members(nodes_of("abcdefghi"), 2)
    change = short_update(published(after), published(before))
    assert [node.address for node in change.nodes] == ["i:50051"]
    assert change.same_missing
    known = received(short_update(published(before)))
    changed = received(change, known)
    kept = [slot for slot in range(SLOTS) if changed.target(slot) == known.target(slot)]
    assert len(kept) == SLOTS - after.slots_by_node()["i:50051"], "other slots stay with their owner"
    left = short_update(published(before), published(after))
    assert (list(left.removed), list(left.nodes)) == (["i:50051"], [])


def test_a_change_of_another_ring_than_the_last_one_is_rejected() -> None:
    before = Ring.empty().with_members(nodes_of("ab"), 5)
    change = short_update(published(before.with_members(nodes_of("abc"), 6)), published(before))
    assert change.base_epoch == 5
    with pytest.raises(ValueError, match=r"epoch 5; known is 0"):
        received(change)
    with pytest.raises(ValueError, match=r"epoch 5; known is 4"):
        received(change, received(short_update(published(Ring.empty().with_members(nodes_of("ab"), 4)))))


@pytest.mark.parametrize(
    "runs",
    [
        pb.SlotRuns(lengths=[SLOTS - 1], owners=[1], since=[0], epochs=[5]),
        pb.SlotRuns(lengths=[SLOTS, 1], owners=[1, 1], since=[0, 0], epochs=[5]),
        pb.SlotRuns(lengths=[SLOTS, 0], owners=[1, 1], since=[0, 0], epochs=[5]),
        pb.SlotRuns(lengths=[SLOTS], owners=[3], since=[0], epochs=[5]),
        pb.SlotRuns(lengths=[SLOTS], owners=[1], since=[1], epochs=[5]),
        pb.SlotRuns(lengths=[SLOTS], owners=[1], since=[], epochs=[5]),
    ],
)
def test_runs_that_are_no_assignment_are_rejected(runs: pb.SlotRuns) -> None:
    with pytest.raises(ValueError, match="run"):
        SlotMap.from_update(pb.RingUpdate(epoch=7, nodes=(A, B), runs=runs))


def test_a_join_in_a_ring_of_300_nodes_is_at_most_64_kib_for_each_watcher() -> None:
    members = [
        Member(
            f"cache-{number}.cache.prod.svc.cluster.local:50051",
            f"{number:032x}",
            addresses={"resp": f"cache-{number}.cache.prod.svc.cluster.local:6379"},
            journal_id=f"{number:032x}",
        )
        for number in range(301)
    ]
    names = [member.address for member in members]
    # Slots one by one: no ring is larger.
    scattered = Ring.restored(
        10**12, members[:300], [(slot, slot, names[slot % 300], 10**12 - slot % 99) for slot in range(SLOTS)]
    )
    joined = scattered.with_members(members, 10**12 + 1)
    missing = tuple(MissingNode(f"{name}", "i" * 32, "j" * 32, 5, 0, 1e9, "lease expired") for name in names[:256])
    change = short_update(published(joined, missing), published(scattered, missing))
    assert change.ByteSize() <= 4 * 1024
    with_missing = short_update(published(joined, missing), published(scattered))
    assert with_missing.ByteSize() <= 64 * 1024
    assert short_update(published(joined)).ByteSize() < ring_update(*published(joined)[:5]).ByteSize() / 2


# ---- moves in progress, and what is released


def test_moves_in_progress_and_the_released_epoch_are_read_and_kept() -> None:
    message = update((0, SLOTS - 1, 0))
    message.pending.CopyFrom(runs_message([Run(100, 199, "b:50051", 6)], {"a:50051": 0, "b:50051": 1}))
    message.released_epoch = 6
    ring = SlotMap.from_update(message)
    assert ring.pending == (MapRange(100, 199, MapNode("b:50051", "", ""), 6),)
    assert ring.released_epoch == 6
    assert ring.target(150).address == "a:50051", "the owner serves until it has handed over"
    again = SlotMap.from_update(ring.to_update())
    assert (again.pending, again.released_epoch) == (ring.pending, 6)


def test_an_update_of_the_same_epoch_changes_only_what_is_released() -> None:
    ring = SlotMap.from_update(update((0, SLOTS - 1, 0)))
    released = SlotMap.from_update(pb.RingUpdate(epoch=7, base_epoch=7, released_epoch=7), ring)
    assert released.released_epoch == 7
    assert (released.nodes, released.ranges, released.epoch) == (ring.nodes, ring.ranges, 7)


def test_a_move_to_a_node_that_is_not_in_the_ring_is_no_valid_ring() -> None:
    message = update((0, SLOTS - 1, 0), nodes=(A,))
    message.pending.CopyFrom(runs_message([Run(100, 199, "b:50051", 6)], {"b:50051": 1}))
    with pytest.raises(ValueError, match="not one of 1"):
        SlotMap.from_update(message)
