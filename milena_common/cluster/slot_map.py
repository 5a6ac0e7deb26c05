"""Pure. The ring as nodes and clients receive it: the owner of each slot, immutable, with an epoch.

It is built from the `RingUpdate` that a router sends: a whole ring, or the changes of one. The owners are kept as
ranges of slots, and nothing is computed for each slot: that would stop the event loop of every node and client for
milliseconds at each change of the ring.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, Self

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.copies_message import PlacedCopies, Places, copies_message, read_copies
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.runs_message import read_runs, runs_message
from milena_common.cluster.slot_runs import Run, replaced
from milena_common.cluster.slots import SLOTS


class Target(NamedTuple):
    """The owner of a slot: its gRPC address, the address of its RESP server, and the epoch since which it owns it.

    `address` is "" if the slot has no owner, `resp_address` also if the owner has no RESP server. The last one is
    that of its RESP server with TLS.
    """

    slot: int
    address: str
    resp_address: str
    owned_since: int
    resp_tls_address: str = ""


class MapNode(NamedTuple):
    """A node of the ring.

    Its gRPC address, its RESP address ("": none), the id of its process, its weight relative to others, the id of
    its journal ("": unknown), how many journals it wants a write in (0: it keeps no copies), its zone ("":
    unknown), and its RESP address with TLS ("": none). If it serves RESP with TLS only, that is its RESP address.
    """

    address: str
    resp_address: str
    node_id: str
    weight: float = 1.0
    journal_id: str = ""
    copies: int = 0
    zone: str = ""
    resp_tls_address: str = ""

    @property
    def plain_resp_address(self) -> str:
        """Return where it serves RESP without TLS, "" if nowhere."""
        return "" if self.resp_address == self.resp_tls_address else self.resp_address


class Holder(NamedTuple):
    """A node that has copies of the writes to some slots, and is not their owner.

    `complete`: it has every acknowledged write of the slots that S3 does not have; else it is being filled, as it
    is listed since the epoch `since`, which is 0 for a complete one.
    """

    node: MapNode
    complete: bool
    since: int = 0


class CopyRange(NamedTuple):
    """Slots `first` to `last`, both included, and the holders of their copies.

    The first complete holder gets the slots if their owner is lost. Of slots without an owner, the holders are the
    lost processes that have their writes.
    """

    first: int
    last: int
    holders: tuple[Holder, ...]


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
    - `copies`: the holders of the slots' copies, ascending; slots in none have no holder.
    - `copies_wanted`: how many journals an acknowledged write must be in, 0 in a ring without copies.
    - `greatest_members`: how many members the ring has had, less those that left or were written off.
    """

    __slots__ = (
        "cluster_id",
        "copies",
        "copies_wanted",
        "default_bucket",
        "epoch",
        "greatest_members",
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
        copies: tuple[CopyRange, ...] = (),
        copies_wanted: int = 0,
        greatest_members: int = 0,
    ) -> None:
        """Build the map. `ranges` ascend and do not overlap, else ValueError; slots in none have no owner."""
        free = 0
        for first, last, _, _ in ranges:
            if not free <= first <= last < SLOTS:
                raise ValueError(f"slots {first} to {last} after {free - 1}, of {SLOTS}")
            free = last + 1
        self.copies = copies
        self.copies_wanted = copies_wanted
        self.greatest_members = greatest_members
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
        nodes = tuple(map(_node, update.nodes))
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
            _copies(update, nodes, base if update.base_epoch else None),
            update.copies_wanted,
            update.greatest_members,
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
            self.copies,
            self.copies_wanted,
            self.greatest_members,
        )

    def to_update(self) -> pb.RingUpdate:
        """Return the message from which `from_update` builds this map."""
        places = {node.address: place for place, node in enumerate(self.nodes)}
        # Few lists are many ranges' holders, and the same object then.
        lists = {id(part.holders): part.holders for part in self.copies}
        lost = dict.fromkeys(holder.node for holders in lists.values() for holder in holders)
        for node in self.nodes:
            lost.pop(node, None)
        update = pb.RingUpdate(
            epoch=self.epoch,
            default_bucket=self.default_bucket,
            cluster_id=self.cluster_id,
            max_value_bytes=self.max_value_bytes,
            nodes=map(_node_message, self.nodes),
            missing=[node.to_message() for node in self.missing],
            released_epoch=self.released_epoch,
            copies_wanted=self.copies_wanted,
            greatest_members=self.greatest_members,
            lost_holders=map(_node_message, lost),
        )
        if self.copies:
            place_of = {node: place for place, node in enumerate([*self.nodes, *lost])}
            placed = {
                key: tuple((place_of[each.node], None if each.complete else each.since) for each in holders)
                for key, holders in lists.items()
            }
            update.copies.CopyFrom(
                copies_message(PlacedCopies(first, last, placed[id(each)]) for first, last, each in self.copies)
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
                return Target(slot, node.address, node.resp_address, owned_since, node.resp_tls_address)
        return Target(slot, "", "", 0)

    def holders(self, slot: int) -> tuple[Holder, ...]:
        """Return the holders of the copies of `slot`, in the order in which they get it."""
        place = bisect_right(self.copies, slot, key=_first) - 1
        if place >= 0 and slot <= self.copies[place].last:
            return self.copies[place].holders
        return ()


def _first(part: MapRange | CopyRange) -> int:
    return part[0]


def _node(message: pb.RingNode) -> MapNode:
    return MapNode(
        message.address,
        message.resp_address or message.resp_tls_address,
        message.node_id,
        message.weight or 1.0,
        message.journal_id,
        message.copies,
        message.zone,
        message.resp_tls_address,
    )


def _node_message(node: MapNode) -> pb.RingNode:
    return pb.RingNode(
        address=node.address,
        resp_address=node.plain_resp_address,
        resp_tls_address=node.resp_tls_address,
        node_id=node.node_id,
        weight=node.weight,
        journal_id=node.journal_id,
        copies=node.copies,
        zone=node.zone,
    )


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


class _Piece(NamedTuple):
    """Slots with the same holders, as `replaced` joins and cuts them."""

    first: int
    last: int
    holders: tuple[Holder, ...]
    epoch: int


def _copies(update: pb.RingUpdate, nodes: tuple[MapNode, ...], base: SlotMap | None) -> tuple[CopyRange, ...]:
    """Return the holders of `update`, after its changes if `base` is the ring that it is a change of.

    Raises ValueError if they do not fit.
    """
    if not update.copies_wanted:
        return ()
    by_place = (*nodes, *map(_node, update.lost_holders))
    lists: dict[Places, tuple[Holder, ...]] = {}
    changes = []
    for first, last, places in read_copies(update.copies) if update.HasField("copies") else ():
        if places not in lists:
            lists[places] = _holders(places, by_place)
        changes.append(_Piece(first, last, lists[places], 0))
    if base is None:
        return tuple(CopyRange(*piece[:3]) for piece in changes if piece.holders)
    by_address = {node.address: node for node in nodes}
    known = [_Piece(*part, 0) for part in base.copies]
    if base.nodes != nodes:
        renewed: dict[int, tuple[Holder, ...]] = {}
        for piece in known:
            if id(piece.holders) not in renewed:
                renewed[id(piece.holders)] = tuple(
                    holder._replace(node=by_address.get(holder.node.address, holder.node))
                    for holder in piece.holders
                )
        known = [piece._replace(holders=renewed[id(piece.holders)]) for piece in known]
    pieces = [piece for piece in replaced(_with_gaps(known), changes) if piece.holders]
    left = {id(piece.holders): piece.holders for piece in pieces}
    if any(holder.node.address not in by_address for holders in left.values() for holder in holders):
        raise ValueError("a holder is a node that was removed")
    return tuple(CopyRange(*piece[:3]) for piece in pieces)


def _holders(places: Places, nodes: tuple[MapNode, ...]) -> tuple[Holder, ...]:
    try:
        return tuple(Holder(nodes[place], since is None, since or 0) for place, since in places)
    except IndexError:
        raise ValueError(f"a holder is not one of the {len(nodes)} nodes") from None


def _with_gaps(pieces: list[_Piece]) -> list[_Piece]:
    """Return `pieces`, which ascend, with the slots between them as pieces without holders."""
    filled = []
    free = 0
    for piece in pieces:
        if free < piece.first:
            filled.append(_Piece(free, piece.first - 1, (), 0))
        filled.append(piece)
        free = piece.last + 1
    if free < SLOTS:
        filled.append(_Piece(free, SLOTS - 1, (), 0))
    return filled
