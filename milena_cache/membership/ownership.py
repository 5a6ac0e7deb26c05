"""Pure. What this node knows of the ring: which slots are its own, and who has the others.

The newest ring counts, from whichever router it came. It stays known while no router can be reached: a lost
router stops no reads or writes.

The epoch since which a slot is owned is the stamp of the copies that are kept for it, see
`milena_common.cluster.slot_assignment`: what the node kept before somebody else had the slot is not trusted when it
comes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1

from milena_common.api.errors import Moved, NodeLost, NoNodes
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.identity import Identity

ELSEWHERE = -1


@dataclass(frozen=True, slots=True)
class RingNode:
    """A node as `CLUSTER SLOTS`, `SHARDS` and `NODES` show it.

    `id` is its name there: 40 hexadecimal digits, the same as long as its address is the same. `resp_address` is
    host:port, "" if it does not speak the Redis protocol. `ranges` are (first, last) with both included,
    ascending, as few as there can be.
    """

    address: str
    resp_address: str
    id: str
    ranges: tuple[tuple[int, int], ...]


class Ownership:
    """The ring as the node at the gRPC address `me` knows it.

    Read by every request, so plain attributes: `epoch`, 0 while no ring is known; `since`, by slot the epoch since
    which this node owns it, or -1 if it is another's (one list for ever, changed in place); `single`, whether this
    node owns every slot since one and the same epoch, `since[0]`; `slots`, how many are its own.
    """

    def __init__(self, me: str) -> None:
        self.me = me
        self.epoch = 0
        self.since = [ELSEWHERE] * SLOTS
        self.single = False
        self.slots = 0
        self._nodes: tuple[RingNode, ...] | None = ()
        self._map = SlotMap.empty()

    def update(self, slot_map: SlotMap) -> bool:
        """Take a ring over if it is newer than the known one; whether this node lost or gained slots by it.

        A slot that it owns anew, since somebody else may have had it in between, counts too.
        """
        if slot_map.epoch <= self.epoch:
            return False
        since = [ELSEWHERE] * SLOTS
        for first, last, node, owned_since in slot_map.ranges:
            if node.address == self.me:
                since[first : last + 1] = [owned_since] * (last + 1 - first)
        changed = since != self.since
        self.epoch = slot_map.epoch
        self.since[:] = since
        self.slots = SLOTS - since.count(ELSEWHERE)
        self.single = self.slots == SLOTS and since.count(since[0]) == SLOTS
        self._nodes = None
        self._map = slot_map
        return changed

    @property
    def slot_map(self) -> SlotMap:
        """The newest ring, as it came; empty while none is known."""
        return self._map

    def identity_at(self, resp_address: str) -> Identity:
        """What must be at the Redis door of another node; the process is "" if the ring has no such door."""
        slot_map = self._map
        node_id = next((node.node_id for node in slot_map.nodes if node.resp_address == resp_address), "")
        return Identity(slot_map.cluster_id, slot_map.default_bucket, node_id)

    @property
    def nodes(self) -> tuple[RingNode, ...]:
        """All nodes of the ring."""
        if self._nodes is None:
            # Milliseconds, which a change of the ring need not cost: few ask.
            self._nodes = _ring_nodes(self._map)
        return self._nodes

    def mine_since(self, cache_key: bytes) -> int:
        """The epoch since which this node owns `cache_key`, -1 if it does not."""
        return self.since[0] if self.single else self.since[slot_of(cache_key)]

    def owned_since(self, cache_key: bytes) -> int:
        """The epoch since which this node owns `cache_key`.

        Raises Moved if another one does, NodeLost if that one does not speak the Redis protocol, and NoNodes if no
        ring is known or nobody owns the slot.
        """
        slot = slot_of(cache_key)
        since = self.since[slot]
        if since == ELSEWHERE:
            raise self.elsewhere(slot)
        return since

    def elsewhere(self, slot: int) -> Moved | NodeLost | NoNodes:
        """Why this node does not answer for `slot`, which is not its own."""
        if not self.epoch:
            return NoNodes("no ring is known: this node has not heard from a router yet (ROUTER_ADDR)")
        owner = self._map.targets[slot]
        if not owner.address:
            return NoNodes(f"no node owns slot {slot}")
        if not owner.resp_address:
            return NodeLost(
                f"node {owner.address}, which owns slot {slot}, cannot be reached over the Redis protocol: it does "
                "not speak it (RESP_ADDR)"
            )
        return Moved(slot, owner.resp_address)

    def resp_address_of(self, slot: int) -> str:
        """Where the owner of `slot` speaks the Redis protocol, as host:port; "" if nowhere or nobody owns it."""
        return self._map.targets[slot].resp_address


def _ring_nodes(slot_map: SlotMap) -> tuple[RingNode, ...]:
    ranges: dict[str, list[tuple[int, int]]] = {node.address: [] for node in slot_map.nodes}
    for first, last, owner, _ in slot_map.ranges:
        merged = ranges[owner.address]
        if merged and merged[-1][1] == first - 1:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(
        RingNode(
            node.address,
            node.resp_address,
            sha1(node.address.encode(), usedforsecurity=False).hexdigest(),
            tuple(ranges[node.address]),
        )
        for node in slot_map.nodes
    )
