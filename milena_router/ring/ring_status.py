"""Pure. Validates what a node reports of its part in the changing ring, and converts the message.

Nodes are not trusted: every field has a bound. Slots that a node reports as taken are compared with the moves that
this router planned (`Ring.with_taken`), and an acknowledgement counts for rings that this router has published.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from milena_common.api.errors import InvalidRequest
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES, read_runs
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS


class HolderSlots(NamedTuple):
    """Slots `first` to `last`, both included, and the address of one of their holders."""

    first: int
    last: int
    holder: str


@dataclass(frozen=True, slots=True)
class RingStatus:
    """A node's part in the ring.

    moves: True if it fences itself by its lease, takes part in promises and hands slots over
    acknowledged_epoch: it promises no node any more to stand by an older ring
    taken: the pending slots that it has taken over, in ascending order, with the planned epoch of their moves
    leaving: True if all its slots should move to other nodes
    foreign_writes: True if it has, or may have, writes of other nodes' slots that it has not handed in yet
    completed: of its slots, the holders listed as filling that have all copies now, by address, in ascending order
    failed_holders: of its slots, the holders that do not follow, likewise
    copies_epoch: the epoch of the ring by which these were found
    number: grows with each status of the process, 0 if it does not number them. It alone is no change
    """

    moves: bool = False
    acknowledged_epoch: int = 0
    taken: tuple[Run, ...] = ()
    leaving: bool = False
    foreign_writes: bool = False
    completed: tuple[HolderSlots, ...] = ()
    failed_holders: tuple[HolderSlots, ...] = ()
    copies_epoch: int = 0
    number: int = field(default=0, compare=False)

    def is_older(self, known: RingStatus) -> bool:
        """True if the process sent this before `known`, and it came later: by way of another router."""
        return 0 < self.number < known.number

    def late(self, known: RingStatus) -> RingStatus:
        """Return what counts of this one, which is older than `known`: what once true stays true."""
        return replace(known, acknowledged_epoch=self.acknowledged_epoch, taken=self.taken)


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
    return RingStatus(
        True,
        request.acknowledged_epoch,
        tuple(taken),
        request.leaving,
        request.foreign_writes,
        _holder_slots("completed", request.completed),
        _holder_slots("failed_holders", request.failed_holders),
        request.copies_epoch,
        request.status_number,
    )


def _holder_slots(field: str, messages: Iterable[pb.HolderStatus]) -> tuple[HolderSlots, ...]:
    found: list[HolderSlots] = []
    for message in messages:
        free = 0
        if len(message.first) != len(message.last):
            raise InvalidRequest(f"{field}: has {len(message.first)} first slots and {len(message.last)} last ones")
        for first, last in zip(message.first, message.last, strict=True):
            if not free <= first <= last < SLOTS:
                raise InvalidRequest(f"{field}: slots {first} to {last} after {free - 1}, of {SLOTS}")
            found.append(HolderSlots(first, last, message.holder))
            free = last + 1
    return tuple(sorted(found))
