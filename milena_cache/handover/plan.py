"""Pure. The moves in progress of a ring that concern one node: what it hands over, and what it receives.

A move is identified by its two processes and its epoch. So a move that is planned anew, or one whose destination
has restarted, is another move, and nothing that was sent for the earlier one counts.
"""

from __future__ import annotations

from typing import NamedTuple

from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import overlaps


class Move(NamedTuple):
    """A move: the gRPC addresses of owner and destination, the destination's process, and the epoch of the move.

    resp_address: of the destination when it hands over, of the owner when it receives; "" if it has none
    """

    owner: str
    destination: str
    node_id: str
    epoch: int
    resp_address: str


def moves_of(slot_map: SlotMap, me: str) -> tuple[dict[Move, set[int]], dict[Move, set[int]]]:
    """Return the slots by move that the node at `me` hands over, and those that it receives.

    There are none in a ring whose nodes do not fence.
    """
    giving: dict[Move, set[int]] = {}
    receiving: dict[Move, set[int]] = {}
    if not slot_map.released_epoch:
        return giving, receiving
    for first, last, pending, owned in overlaps(slot_map.pending, slot_map.ranges):
        owner, destination = owned.node, pending.node
        if owner.address == destination.address or me not in (owner.address, destination.address):
            continue
        gives = owner.address == me
        move = Move(
            owner.address,
            destination.address,
            destination.node_id,
            pending.owned_since,
            (destination if gives else owner).resp_address,
        )
        (giving if gives else receiving).setdefault(move, set()).update(range(first, last + 1))
    return giving, receiving
