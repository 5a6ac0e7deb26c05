"""The ring in the journal: as it was, or none."""

from __future__ import annotations

import pytest

from milena_cache.membership.stored_ring import from_text, to_text
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import SlotMap
from milena_router.ring.watch_streams import ring_update


def known() -> SlotMap:
    ring = Ring.empty().with_members([Member(f"cache{n}:50051", f"id{n}", n + 1.0) for n in range(3)], 5)
    ring = ring.with_members([*ring.members, Member("new:50051", "id")], 9)
    return SlotMap.from_update(ring_update(ring, "bucket", "cluster"))


def test_a_ring_comes_back_as_it_was() -> None:
    slot_map = known()
    stored = from_text(to_text(slot_map))
    assert stored.to_update() == slot_map.to_update()
    assert stored.ranges == slot_map.ranges


@pytest.mark.parametrize("text", ["", "no base64!", "QUJD", to_text(known())[:-40]])
def test_without_a_readable_ring_there_is_none(text: str) -> None:
    assert from_text(text).epoch == 0


def test_a_ring_of_300_nodes_takes_little_of_the_journal() -> None:
    members = [
        Member(f"cache-{n}.cache.prod.svc.cluster.local:50051", f"{n * 7919:032x}", journal_id=f"{n * 104729:032x}")
        for n in range(300)
    ]
    ring = Ring.empty()
    for epoch, count in enumerate(range(250, 301, 5), 10**12):
        ring = ring.with_members(members[:count], epoch)
    assert len(to_text(SlotMap.from_update(ring_update(ring, "bucket", "cluster")))) < 64 * 1024
