"""Pure. Validates what a node reports of its part in the changing ring, and converts the message.

Nodes are not trusted: every field has a bound. Slots that a node reports as taken are compared with the moves that
this router planned (`Ring.with_taken`), and an acknowledgement counts for rings that this router has published.
"""

from __future__ import annotations

from dataclasses import dataclass

from milena_common.api.errors import InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES, read_runs
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS


@dataclass(frozen=True, slots=True)
class RingStatus:
    """A node's part in the ring.

    moves: True if it fences itself by its lease, takes part in promises and hands slots over
    acknowledged_epoch: it promises no node any more to stand by an older ring
    taken: the pending slots that it has taken over, in ascending order, with the planned epoch of their moves
    leaving: True if all its slots should move to other nodes
    foreign_writes: True if it has, or may have, writes of other nodes' slots that it has not handed in yet
    """

    moves: bool = False
    acknowledged_epoch: int = 0
    taken: tuple[Run, ...] = ()
    leaving: bool = False
    foreign_writes: bool = False


NO_STATUS = RingStatus()


def ring_status(request: pb.JoinRequest, address: str) -> RingStatus:
    """Return what the node at `address` reports. Raises InvalidRequest.

    A node without the feature takes no part: the other fields of its report are ignored.
    """
    if not request.features & MOVES:
        return NO_STATUS
    taken: list[Run] = []
    if request.HasField("taken"):
        if len(request.taken.epochs) > SLOTS:
            raise InvalidRequest(f"taken: has {len(request.taken.epochs)} epochs; allowed are {SLOTS}")
        try:
            taken = read_runs(request.taken, [address])
        except ValueError as error:
            raise InvalidRequest(f"taken: {error}") from None
    return RingStatus(True, request.acknowledged_epoch, tuple(taken), request.leaving, request.foreign_writes)
