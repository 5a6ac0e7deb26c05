"""What a node may report of its part in the ring."""

from __future__ import annotations

import pytest

from milena_common.api.errors import InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS
from milena_router.ring.ring_status import RingStatus, ring_status


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
