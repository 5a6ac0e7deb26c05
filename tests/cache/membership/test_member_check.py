"""What a node confirms to a router: that the process of another member of its ring has ended."""

from __future__ import annotations

import pytest

from milena_cache.membership.member_check import MemberCheck
from milena_cache.membership.ownership import Ownership
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.network.exited import ATTEMPTS

ME, OTHER, MUTE = MapNode("me:1", "me:6379", "i"), MapNode("o:1", "o:6379", "o"), MapNode("m:1", "", "m")


class Harness:
    """`refusing`: addresses that refuse connections; `tried`: those to which connections were attempted."""

    def __init__(self) -> None:
        self.refusing: set[str] = set()
        self.tried: list[str] = []
        ownership = Ownership(ME.address)
        ownership.update(SlotMap(9, "photos", (ME, OTHER, MUTE), (MapRange(0, SLOTS - 1, ME, 4),)))
        self.check = MemberCheck(ownership, self.rejects, self.sleep)

    async def rejects(self, address: str, timeout: float) -> bool:
        self.tried.append(address)
        return address in self.refusing

    async def sleep(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize(
    ("refusing", "exited"),
    [({"o:1", "o:6379"}, True), ({"o:1"}, False), ({"o:6379"}, False), (set(), False)],
)
async def test_a_process_has_exited_if_both_its_ports_reject_connections(refusing: set[str], exited: bool) -> None:
    harness = Harness()
    harness.refusing = refusing
    assert await harness.check.exited("o:1", "o") is exited
    assert set(harness.tried) == {"o:1", "o:6379"}


async def test_ports_are_tried_again_before_it_is_confirmed() -> None:
    harness = Harness()
    harness.refusing = {"m:1"}
    assert await harness.check.exited("m:1", "m")
    assert harness.tried == ["m:1"] * ATTEMPTS


@pytest.mark.parametrize(
    ("address", "node_id"), [("o:1", "another"), ("o:1", ""), ("x:1", "o"), ("me:1", "i"), ("", "")]
)
async def test_only_members_of_the_ring_are_tried(address: str, node_id: str) -> None:
    harness = Harness()
    harness.refusing = {"o:1", "o:6379", "x:1", "me:1", "me:6379"}
    assert not await harness.check.exited(address, node_id)
    assert harness.tried == []
