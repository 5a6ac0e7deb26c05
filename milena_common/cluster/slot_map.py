"""Pure. The ring as those who follow it know it: which node owns each slot, immutable, with an epoch.

Made of the `RingUpdate` that a router sends. A lookup is on the way of every call, so each slot's answer is made
when the map is: finding the owner of a key is its CRC and one index into a tuple.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slots import SLOTS, slot_of


class Target(NamedTuple):
    """Who owns a slot: the node's gRPC address, where it speaks the Redis protocol, and since which epoch.

    `address` is "" if nobody owns the slot, `resp_address` also if the owner does not speak it.
    """

    slot: int
    address: str
    resp_address: str
    owned_since: int


_NOBODYS = tuple(Target(slot, "", "", 0) for slot in range(SLOTS))


class MapNode(NamedTuple):
    """A node of the ring: its gRPC address and name in the ring, its Redis door ("": none), its process,
    its weight relative to others, and its journal ("": unknown).
    """

    address: str
    resp_address: str
    node_id: str
    weight: float = 1.0
    journal_id: str = ""


class MapRange(NamedTuple):
    """Slots `first` to `last`, both included, which `node` has owned since the epoch `owned_since`."""

    first: int
    last: int
    node: MapNode
    owned_since: int


class SlotMap:
    """Slot → node. Make one with `from_update`, or `empty()` for a ring that is not known (epoch 0).

    `targets` has every slot's answer, by slot. `cluster_id` is "" if the router is of a version without one.
    `max_value_bytes` is the largest value that the router takes, 0 if it does not say. `missing` are the nodes that
    left without handing over, kept for a router that starts anew.
    """

    __slots__ = (
        "cluster_id",
        "default_bucket",
        "epoch",
        "max_value_bytes",
        "missing",
        "nodes",
        "ranges",
        "targets",
    )

    def __init__(
        self,
        epoch: int,
        default_bucket: str,
        nodes: tuple[MapNode, ...],
        ranges: tuple[MapRange, ...],
        cluster_id: str = "",
        max_value_bytes: int = 0,
        missing: tuple[MissingNode, ...] = (),
    ) -> None:
        """`ranges` ascend and do not overlap; slots in none have no owner. Raises ValueError if it is not so."""
        self.epoch = epoch
        self.default_bucket = default_bucket
        self.cluster_id = cluster_id
        self.missing = missing
        self.nodes = nodes
        self.ranges = ranges
        self.max_value_bytes = max_value_bytes
        targets = list(_NOBODYS)
        free = 0
        for first, last, (address, resp_address, *_), owned_since in ranges:
            if not free <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last} after {free - 1}, of {SLOTS}")
            free = last + 1
            for slot in range(first, free):
                targets[slot] = Target(slot, address, resp_address, owned_since)
        self.targets = tuple(targets)

    @classmethod
    def empty(cls) -> Self:
        return cls(0, "", (), ())

    @classmethod
    def from_update(cls, update: pb.RingUpdate) -> Self:
        """Raises ValueError, saying what is wrong, for an update that is no ring."""
        nodes = tuple(
            MapNode(node.address, node.resp_address, node.node_id, node.weight or 1.0, node.journal_id)
            for node in update.nodes
        )
        addresses = {node.address for node in nodes}
        if len(addresses) < len(nodes) or "" in addresses:
            raise ValueError("a node has no address, or the address of another one")
        try:
            ranges = tuple(
                MapRange(part.first, part.last, nodes[part.node], part.owned_since) for part in update.slots
            )
        except IndexError:
            raise ValueError(f"slots are owned by a node that is not one of the {len(nodes)}") from None
        missing = tuple(map(MissingNode.from_message, update.missing))
        return cls(
            update.epoch,
            update.default_bucket,
            nodes,
            ranges,
            update.cluster_id,
            update.max_value_bytes,
            missing,
        )

    def to_update(self) -> pb.RingUpdate:
        """Return the message that `from_update` reads this map from."""
        places = {node.address: place for place, node in enumerate(self.nodes)}
        update = pb.RingUpdate(
            epoch=self.epoch,
            default_bucket=self.default_bucket,
            cluster_id=self.cluster_id,
            max_value_bytes=self.max_value_bytes,
            nodes=[
                pb.RingNode(
                    address=node.address,
                    resp_address=node.resp_address,
                    node_id=node.node_id,
                    weight=node.weight,
                    journal_id=node.journal_id,
                )
                for node in self.nodes
            ],
            missing=[node.to_message() for node in self.missing],
        )
        for first, last, node, owned_since in self.ranges:
            update.slots.add(first=first, last=last, node=places[node.address], owned_since=owned_since)
        return update

    def find(self, cache_key: bytes) -> Target:
        """The owner of `cache_key`."""
        return self.targets[slot_of(cache_key)]
