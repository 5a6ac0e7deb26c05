"""Pure. The newest ring that this node has: the slots that it owns, and the owners of the others.

The ring with the greatest epoch counts, from whichever router it came. It is kept while no router can be reached,
so that the loss of a router stops no reads or writes.

For each slot the ring has the epoch since which its owner has owned it without a break, and entries are stamped
with it (`owned_since`). "This node owns the slot" alone would not be enough to serve an entry: (1) the node keeps
an entry; (2) the slot moves to another node, which acknowledges a write; (3) the slot moves back, and the entry of
step 1 is older than an acknowledged write. The stamp is then smaller than the slot's new epoch, and the entry is
revalidated first.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1

from milena_common.api.errors import Moved, NodeLost, NoNodes
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.identity import Identity

# In `Ownership.since`: the slot is owned by another node, or by none.
ELSEWHERE = -1


@dataclass(frozen=True, slots=True)
class RingNode:
    """A node as `CLUSTER SLOTS`, `SHARDS` and `NODES` show it.

    address: its gRPC address, host:port
    resp_address: host:port of its RESP server, "" if it has none
    id: its name for Redis clients, 40 hexadecimal digits that depend on `address` alone
    ranges: its slots as (first, last), both included, ascending; adjacent ranges are merged
    """

    address: str
    resp_address: str
    id: str
    ranges: tuple[tuple[int, int], ...]


class Ownership:
    """The newest ring of the node at the gRPC address `me`.

    These are plain attributes, since every request reads them:

    epoch: the epoch of the ring; 0 while none is known
    since: by slot, the epoch since which this node owns it, or ELSEWHERE. The same list for the lifetime of the
        process, changed in place: a reference to it never becomes stale
    single: True if this node owns every slot since one and the same epoch, which is `since[0]`
    slots: how many slots this node owns
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
        """Take over a ring that is newer than the known one; True if this node lost or gained slots.

        A slot with a new `owned_since` counts too: another node may have owned it in between.
        """
        if slot_map.epoch <= self.epoch:
            return False
        since = [ELSEWHERE] * SLOTS
        for first, last, node, owned_since in slot_map.ranges:
            if node.address == self.me:
                since[first : last + 1] = [owned_since] * (last + 1 - first)
        # Nothing awaits from here on, so every request decides by the old ring or by the new one, and never by the
        # epoch of one and the slots of the other.
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
        """Return the newest ring as it was received; empty while none is known."""
        return self._map

    def identity_at(self, resp_address: str) -> Identity:
        """Return the identity to expect at `resp_address`; its node id is "" if the ring has none there."""
        slot_map = self._map
        node_id = next((node.node_id for node in slot_map.nodes if node.resp_address == resp_address), "")
        return Identity(slot_map.cluster_id, slot_map.default_bucket, node_id)

    @property
    def nodes(self) -> tuple[RingNode, ...]:
        """Return all nodes of the ring."""
        if self._nodes is None:
            # Computed at the first use: it takes milliseconds, and after most changes of the ring is not needed.
            self._nodes = _ring_nodes(self._map)
        return self._nodes

    def mine_since(self, cache_key: bytes) -> int:
        """Return the epoch since which this node owns the key's slot; ELSEWHERE if it does not."""
        return self.since[0] if self.single else self.since[slot_of(cache_key)]

    def owned_since(self, cache_key: bytes) -> int:
        """Return the epoch since which this node owns the key's slot.

        Raises Moved if another node owns it, NodeLost if that one has no RESP server, NoNodes if no ring is known
        or the slot has no owner.
        """
        slot = slot_of(cache_key)
        since = self.since[slot]
        if since == ELSEWHERE:
            raise self.elsewhere(slot)
        return since

    def elsewhere(self, slot: int) -> Moved | NodeLost | NoNodes:
        """Return the error for a request about `slot`, which this node does not own."""
        if not self.epoch:
            return NoNodes("no ring is known: this node has not received one from a router yet (ROUTER_ADDR)")
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
        """Return host:port of the RESP server of the slot's owner; "" if it has none, or the slot has no owner."""
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
