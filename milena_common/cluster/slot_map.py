"""Pure. The ring as nodes and clients receive it: the owner of each slot, immutable, with an epoch.

It is built from the `RingUpdate` that a router sends: a whole ring, or the changes of one. The owners are kept as
ranges of slots, and nothing is computed for each slot: that would stop the event loop of every node and client for
milliseconds at each change of the ring.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, Self

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.runs_message import read_runs, runs_message
from milena_common.cluster.slot_runs import Run, replaced
from milena_common.cluster.slots import SLOTS


class Target(NamedTuple):
    """The owner of a slot: its gRPC address, the address of its RESP server, and the epoch since which it owns it.

    `address` is "" if the slot has no owner, `resp_address` also if the owner has no RESP server.
    """

    slot: int
    address: str
    resp_address: str
    owned_since: int


class MapNode(NamedTuple):
    """A node of the ring.

    Its gRPC address, its RESP address ("": none), the id of its process, its weight relative to others, and the id
    of its journal ("": unknown).
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
    """Slot → node. Create one with `from_update`, or `empty()` for an unknown ring (epoch 0).

    - `ranges`: the owners of the slots, ascending; slots in none have no owner.
    - `cluster_id`: "" if the router is of a version without one.
    - `max_value_bytes`: the largest value that the router accepts, 0 if unknown.
    - `missing`: the nodes that left without handing over, kept for a router that restarts.
    - `pending`: the moves in progress, as ranges of their destination, owned since the epoch that they will have.
      Until the owner has handed the slots over, it serves them.
    - `released_epoch`: slots owned since a later epoch may still be served by their owner before, which was lost; 0
      if nodes of this ring do not fence.
    """

    __slots__ = (
        "cluster_id",
        "default_bucket",
        "epoch",
        "max_value_bytes",
        "missing",
        "nodes",
        "pending",
        "ranges",
        "released_epoch",
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
        pending: tuple[MapRange, ...] = (),
        released_epoch: int = 0,
    ) -> None:
        """Build the map. `ranges` ascend and do not overlap, else ValueError; slots in none have no owner."""
        free = 0
        for first, last, _, _ in ranges:
            if not free <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last} after {free - 1}, of {SLOTS}")
            free = last + 1
        self.pending = pending
        self.released_epoch = released_epoch
        self.epoch = epoch
        self.default_bucket = default_bucket
        self.cluster_id = cluster_id
        self.missing = missing
        self.nodes = nodes
        self.ranges = ranges
        self.max_value_bytes = max_value_bytes

    @classmethod
    def empty(cls) -> Self:
        return cls(0, "", (), ())

    @classmethod
    def from_update(cls, update: pb.RingUpdate, base: SlotMap | None = None) -> SlotMap:
        """Return the map of `update`. Raises ValueError with the reason if it is not a valid ring.

        `base` is the last map of the same stream, None if there is none: an update may have only what differs.
        """
        if update.base_epoch == update.epoch and base is not None and base.epoch == update.epoch:
            return base.with_released_epoch(update.released_epoch)
        nodes = tuple(
            MapNode(node.address, node.resp_address, node.node_id, node.weight or 1.0, node.journal_id)
            for node in update.nodes
        )
        _check(nodes)
        missing = tuple(map(MissingNode.from_message, update.missing))
        if update.base_epoch:
            if base is None or base.epoch != update.base_epoch:
                known = base.epoch if base is not None else 0
                raise ValueError(f"a change of the ring with epoch {update.base_epoch}; known is {known}")
            nodes, ranges = _changed(base, update, nodes)
            missing = base.missing if update.same_missing else missing
        elif update.HasField("runs"):
            runs = read_runs(update.runs, [node.address for node in nodes])
            ranges = _ranges(runs, nodes)
        else:
            try:
                ranges = tuple(
                    MapRange(part.first, part.last, nodes[part.node], part.owned_since) for part in update.slots
                )
            except IndexError:
                raise ValueError(f"slots are owned by a node that is not one of the {len(nodes)}") from None
        return cls(
            update.epoch,
            update.default_bucket,
            nodes,
            ranges,
            update.cluster_id,
            update.max_value_bytes,
            missing,
            _ranges(read_runs(update.pending, [node.address for node in nodes]), nodes)
            if update.HasField("pending")
            else (),
            update.released_epoch,
        )

    def with_released_epoch(self, epoch: int) -> SlotMap:
        """Return this map with another released epoch."""
        return SlotMap(
            self.epoch,
            self.default_bucket,
            self.nodes,
            self.ranges,
            self.cluster_id,
            self.max_value_bytes,
            self.missing,
            self.pending,
            epoch,
        )

    def to_update(self) -> pb.RingUpdate:
        """Return the message from which `from_update` builds this map."""
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
            released_epoch=self.released_epoch,
        )
        if self.pending:
            runs = [Run(first, last, node.address, since) for first, last, node, since in self.pending]
            update.pending.CopyFrom(runs_message(runs, places))
        for first, last, node, owned_since in self.ranges:
            update.slots.add(first=first, last=last, node=places[node.address], owned_since=owned_since)
        return update

    def target(self, slot: int) -> Target:
        """Return the owner of `slot`."""
        place = bisect_right(self.ranges, slot, key=_first) - 1
        if place >= 0:
            _, last, node, owned_since = self.ranges[place]
            if slot <= last:
                return Target(slot, node.address, node.resp_address, owned_since)
        return Target(slot, "", "", 0)


def _first(part: MapRange) -> int:
    return part[0]


def _check(nodes: tuple[MapNode, ...]) -> None:
    addresses = {node.address for node in nodes}
    if len(addresses) < len(nodes) or "" in addresses:
        raise ValueError("a node has no address, or the address of another one")


def _ranges(runs: list[Run], nodes: tuple[MapNode, ...]) -> tuple[MapRange, ...]:
    by_address = {node.address: node for node in nodes}
    try:
        return tuple(
            MapRange(first, last, by_address[address], owned_since)
            for first, last, address, owned_since in runs
            if address
        )
    except KeyError as error:
        raise ValueError(f"slots are owned by {error}, which is no node") from None


def _changed(
    base: SlotMap, update: pb.RingUpdate, changed: tuple[MapNode, ...]
) -> tuple[tuple[MapNode, ...], tuple[MapRange, ...]]:
    """Return the nodes and ranges of `base` after the changes in `update`.

    Raises ValueError if they do not fit.
    """
    by_address = {node.address: node for node in base.nodes}
    known = by_address.keys() & {node.address for node in changed}
    by_address |= {node.address: node for node in changed}
    for address in update.removed:
        by_address.pop(address, None)
    nodes = tuple(by_address[address] for address in sorted(by_address))
    moved = _ranges(read_runs(update.runs, [node.address for node in nodes]), nodes)
    if sum(last + 1 - first for first, last, _, _ in base.ranges) != SLOTS:
        raise ValueError("a change of a ring that has slots without an owner")
    ranges = base.ranges
    if known:
        readdressed = {
            part: part._replace(node=by_address[part.node.address]) for part in ranges if part.node.address in known
        }
        ranges = tuple(readdressed.get(part, part) for part in ranges)
    ranges = tuple(replaced(ranges, moved))
    if not by_address.keys() >= {part.node.address for part in ranges}:
        raise ValueError("slots are owned by a node that was removed")
    return nodes, ranges
