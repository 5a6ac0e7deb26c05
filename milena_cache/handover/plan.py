"""Pure. The moves in progress of a ring that concern one node: what it hands over, and what it receives.

A move is identified by its two processes and its epoch. So a move that is planned anew, or one whose destination
has restarted, is another move, and nothing that was sent for the earlier one counts.
"""

from __future__ import annotations

from typing import NamedTuple

from milena_common.cluster.slot_map import SlotMap


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
    targets = slot_map.targets
    for first, last, node, epoch in slot_map.pending:
        by_owner: dict[tuple[str, str], set[int]] = {}
        for slot in range(first, last + 1):
            target = targets[slot]
            by_owner.setdefault((target.address, target.resp_address), set()).add(slot)
        for (owner, resp_address), slots in by_owner.items():
            if owner == node.address or me not in (owner, node.address):
                continue
            gives = owner == me
            move = Move(owner, node.address, node.node_id, epoch, node.resp_address if gives else resp_address)
            (giving if gives else receiving).setdefault(move, set()).update(slots)
    return giving, receiving
