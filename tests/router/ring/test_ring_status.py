"""What a node may report of its part in the ring."""

from __future__ import annotations

import pytest

from milena_common.api.errors import InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS
from milena_router.ring.ring_status import HolderSlots, RingStatus, ring_status


def test_taken_slots_are_runs_of_the_node_itself() -> None:
    request = pb.JoinRequest(features=MOVES)
    request.taken.CopyFrom(pb.SlotRuns(lengths=[10, SLOTS - 10], owners=[0, 1], since=[0, 0], epochs=[7]))
    assert ring_status(request, "a:1").taken == (Run(10, SLOTS - 1, "a:1", 7),)


def test_reports_are_validated() -> None:
    request = pb.JoinRequest(features=MOVES, acknowledged_epoch=7, leaving=True)
    assert ring_status(request, "a:1") == RingStatus(True, 7, (), True)
    assert ring_status(pb.JoinRequest(acknowledged_epoch=7, leaving=True), "a:1") == RingStatus()
    request.taken.lengths.append(5)
    with pytest.raises(InvalidRequest, match=r"^taken: runs of 5 slots"):
        ring_status(request, "a:1")
    request.taken.CopyFrom(pb.SlotRuns(lengths=[SLOTS], owners=[2], since=[0], epochs=[1]))
    with pytest.raises(InvalidRequest, match=r"^taken: "):
        ring_status(request, "a:1")
    request.taken.CopyFrom(pb.SlotRuns(lengths=[SLOTS], owners=[1], since=[0], epochs=range(SLOTS + 1)))
    with pytest.raises(InvalidRequest, match=r"^taken: has 16385 epochs"):
        ring_status(request, "a:1")


def test_reports_about_holders_are_ranges_by_holder() -> None:
    request = pb.JoinRequest(features=MOVES, copies_epoch=9)
    request.completed.add(holder="c:1", first=[0, 50], last=[9, 59])
    request.completed.add(holder="b:1", first=[20], last=[29])
    request.failed_holders.add(holder="d:1", first=[0], last=[SLOTS - 1])
    status = ring_status(request, "a:1")
    assert status.completed == (HolderSlots(0, 9, "c:1"), HolderSlots(20, 29, "b:1"), HolderSlots(50, 59, "c:1"))
    assert status.failed_holders == (HolderSlots(0, SLOTS - 1, "d:1"),)
    assert status.copies_epoch == 9


@pytest.mark.parametrize(
    ("first", "last", "argv"),
    [
        ([5], [4], "slots 5 to 4 after -1"),
        ([0, 5], [9, 12], "slots 5 to 12 after 9"),
        ([0], [SLOTS], f"of {SLOTS}"),
        ([0], [], "has 1 first slots and 0 last ones"),
    ],
)
def test_ranges_of_holders_that_do_not_ascend_are_rejected(first: list[int], last: list[int], argv: str) -> None:
    for field in ("completed", "failed_holders"):
        request = pb.JoinRequest(features=MOVES)
        getattr(request, field).add(holder="b:1", first=first, last=last)
        with pytest.raises(InvalidRequest, match=f"^{field}: .*{argv}"):
            ring_status(request, "a:1")
