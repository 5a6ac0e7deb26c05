"""Coordination. Streams of the ring, for clients with direct connections to nodes, and for the nodes.

A watcher gets the ring at once and then after each change. It gets the newest ring when it is ready for one, so a
slow reader skips rings, and nothing is queued for it.

A watcher that announces the feature RUNS gets the first ring of a stream in a short form, and then only what
differs from the ring that the stream sent last. Watchers of the version before get whole rings of ranges.

Without direct access only nodes get the ring. Clients get one in which the router itself has all slots, if it has a
Redis port: they use that as they would use a node's, and a version that knows no such port works the same way.

A watcher that announces MOVES too, as nodes do, also gets the moves in progress and the released epoch, and an
update when only that changes. One that announces COPIES gets the holders of the slots.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import NamedTuple

from milena_common.api.errors import FailedPrecondition
from milena_common.api.methods import WATCH_RING, served_by_router
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.copies_message import PlacedCopies, copies_message
from milena_common.cluster.copy_holders import CopyRun, Held
from milena_common.cluster.member import RESP, RESP_TLS
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS, runs_message
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_runs import differences
from milena_common.cluster.slots import SLOTS
from milena_common.rpc.calls import Message, StreamMethod
from milena_router.ring.membership import Membership

# Clients and nodes together; each keeps a connection open.
MAX_WATCHERS = 8192
# Rings that are kept to make changes of. A watcher that has missed more gets the whole ring.
MAX_BASES = 8


class Published(NamedTuple):
    """A ring as watchers get it, with the nodes that are missing."""

    ring: Ring
    default_bucket: str
    cluster_id: str
    max_value_bytes: int
    missing: tuple[MissingNode, ...]
    released_epoch: int = 0


class RingWatchers:
    """The watchers. `membership` has the newest ring, the nodes' S3_BUCKET and the cluster id.

    During recovery watchers get no ring: their streams are open, and they keep the ring that they have. Without
    `direct_access` only members of the ring get it, and others that of `own_port`. `open` is the number of
    watchers. Updates have `max_value_bytes`, so that clients reject larger values without sending them.
    """

    def __init__(self, membership: Membership, direct_access: bool, max_value_bytes: int = 0) -> None:
        self.open = 0
        self.own_port: Member | None = None  # this router as a node, by its Redis port
        self._membership = membership
        self._direct_access = direct_access
        self._max_value_bytes = max_value_bytes
        self._changed = asyncio.Event()
        self._stopped = False
        self._newest: Published | None = None
        self._bases: deque[Published] = deque(maxlen=MAX_BASES)
        # The update to the newest ring, by the features of the watcher and the epoch of the ring that it has.
        self._updates: dict[tuple[int, int], bytes] = {}

    def streams(self) -> Mapping[str, tuple[str, type[Message], StreamMethod]]:
        """Return the router's streams, for a `GrpcServer`."""
        return served_by_router({WATCH_RING: self.watch})

    async def watch(self, request: pb.WatchRingRequest, _: float | None) -> AsyncGenerator[bytes, None]:
        """Yield serialized updates until `stop`.

        Raises FailedPrecondition if the ring is withheld from this caller.
        """
        self._check_access(request.node_id)
        self.open += 1
        try:
            if not (request.node_id or self._direct_access):
                # Never to a node: it would take the router for the owner of its slots.
                async for update in self._own_port():
                    yield update
                return
            features = request.features & (RUNS | MOVES | COPIES) if request.features & RUNS else 0
            sent, released = -1, 0
            while not self._stopped:
                epoch = self._membership.ring.epoch
                now_released = self._membership.released_epoch if features & MOVES else 0
                if (epoch == sent and now_released == released) or self._membership.recovering:
                    await self._changed.wait()
                else:
                    if sent < 0:
                        self._check_access(request.node_id)  # the members were not known during recovery
                    # The epoch and not the ring: a thousand slow watchers must not keep a thousand old rings.
                    base, sent, released = sent, epoch, now_released
                    yield self._serialized(features, base)
        finally:
            self.open -= 1

    def wake_watchers(self) -> None:
        """Wake all watchers: there is a new ring, or another released epoch."""
        self._changed.set()
        self._changed = asyncio.Event()

    def end_streams(self) -> None:
        """End every stream."""
        self._stopped = True
        self._changed.set()

    async def _own_port(self) -> AsyncGenerator[bytes, None]:
        """Yield the ring of this router's own port, again when cluster or bucket become known, until `stop`."""
        sent = ("", "")
        while not self._stopped:
            membership = self._membership
            known = membership.cluster_id, membership.default_bucket
            if membership.recovering or known == sent or self.own_port is None:
                await self._changed.wait()
                continue
            sent = known
            own, epoch = self.own_port, membership.ring.epoch
            ring = Ring.restored(epoch, [own], [(0, SLOTS - 1, own.address, epoch)])
            yield ring_update(ring, known[1], known[0], self._max_value_bytes).SerializeToString()

    def _check_access(self, node_id: str) -> None:
        if self._direct_access or (node_id and self._membership.recovering):
            return
        if not node_id and self.own_port is not None:
            return
        if not node_id or all(member.node_id != node_id for member in self._membership.ring.members):
            raise FailedPrecondition(
                "this router has DIRECT_ACCESS=false: only nodes of the ring get the nodes' addresses; send "
                "requests to the router"
            )

    def _serialized(self, features: int, base_epoch: int) -> bytes:
        """Return the update for a watcher that has the ring with `base_epoch`, -1: none; `features` are bits.

        Cached: building one costs as much as sending it to a hundred.
        """
        membership = self._membership
        newest = self._newest
        if newest is None or newest.ring is not membership.ring:
            if newest is not None:
                self._bases.append(newest)
            self._updates.clear()
            newest = self._newest = Published(
                membership.ring,
                membership.default_bucket,
                membership.cluster_id,
                self._max_value_bytes,
                membership.missing.all(),
                membership.released_epoch,
            )
        elif newest.released_epoch != membership.released_epoch:
            self._updates.clear()
            newest = self._newest = newest._replace(released_epoch=membership.released_epoch)
        if base_epoch == newest.ring.epoch:
            base: Published | None = newest
        else:
            base = next((each for each in self._bases if features and each.ring.epoch == base_epoch), None)
        key = (features, base.ring.epoch if base else 0)
        update = self._updates.get(key)
        if update is None:
            if base is newest:
                message = released_update(newest)
            elif features:
                message = short_update(newest, base, features)
            else:
                message = ring_update(*newest[:5])
            update = self._updates[key] = message.SerializeToString()
        return update


def released_update(published: Published) -> pb.RingUpdate:
    """Return the update of a watcher that has this ring with another released epoch."""
    epoch = published.ring.epoch
    return pb.RingUpdate(epoch=epoch, base_epoch=epoch, released_epoch=published.released_epoch)


def ring_update(
    ring: Ring,
    default_bucket: str,
    cluster_id: str,
    max_value_bytes: int = 0,
    missing: Iterable[MissingNode] = (),
) -> pb.RingUpdate:
    """Return the whole ring with ranges, which every version reads.

    `max_value_bytes` 0 leaves that field unknown.
    """
    places = {member.address: place for place, member in enumerate(ring.members)}
    update = pb.RingUpdate(
        epoch=ring.epoch,
        nodes=[_ring_node(member) for member in ring.members],
        default_bucket=default_bucket,
        cluster_id=cluster_id,
        max_value_bytes=max_value_bytes,
        missing=[node.to_message() for node in missing],
    )
    for first, last, address, owned_since in ring.ranges():
        update.slots.add(first=first, last=last, node=places[address], owned_since=owned_since)
    return update


def short_update(published: Published, base: Published | None = None, features: int = RUNS) -> pb.RingUpdate:
    """Return the ring with runs: what differs from `base`, whole without one.

    `features`: with MOVES also all moves in progress and the released epoch; with COPIES the holders.
    """
    ring = published.ring
    places = {member.address: place for place, member in enumerate(ring.members)}
    update = pb.RingUpdate(
        epoch=ring.epoch,
        default_bucket=published.default_bucket,
        cluster_id=published.cluster_id,
        max_value_bytes=published.max_value_bytes,
    )
    nodes = {member.address: _ring_node(member) for member in ring.members}
    known: dict[str, pb.RingNode] = {}
    if base is None or not all(each.members and not each.copies.waiting for each in (ring, base.ring)):
        # Slots that have no owner, which a change cannot express.
        base = None
        update.runs.CopyFrom(runs_message(ring.ranges(), places))
    else:
        update.base_epoch = base.ring.epoch
        known = {member.address: _ring_node(member) for member in base.ring.members}
        update.removed.extend(sorted(known.keys() - nodes.keys()))
        update.runs.CopyFrom(runs_message(ring.differences(base.ring), places))
    update.nodes.extend(node for address, node in nodes.items() if known.get(address) != node)
    update.same_missing = base is not None and base.missing == published.missing
    if features & COPIES:
        _add_copies(update, ring, base.ring if base else None)
    if features & MOVES:
        update.released_epoch = published.released_epoch
        if ring.pending:
            update.pending.CopyFrom(runs_message(ring.pending, places))
    if not update.same_missing:
        update.missing.extend(node.to_message() for node in published.missing)
    return update


def _ring_node(member: Member) -> pb.RingNode:
    return pb.RingNode(
        address=member.address,
        resp_address=member.addresses.get(RESP, ""),
        resp_tls_address=member.addresses.get(RESP_TLS, ""),
        node_id=member.node_id,
        weight=member.weight,
        journal_id=member.journal_id,
        copies=member.copies,
        zone=member.zone,
    )


# Of a ring without copies.
_NO_HOLDERS = (CopyRun(0, SLOTS - 1, Held("", ())),)


def _add_copies(update: pb.RingUpdate, ring: Ring, base: Ring | None) -> None:
    """Add the holders to `update`: those that differ from `base`, all without one."""
    update.copies_wanted = ring.copies.target
    update.greatest_members = ring.copies.greatest_members
    places = {member.address: place for place, member in enumerate(ring.members)}
    runs: Sequence[CopyRun] = ring.copies.runs or _NO_HOLDERS
    if base is not None:
        runs = differences(base.copies.runs or _NO_HOLDERS, runs)
    placed = [
        PlacedCopies(first, last, tuple((places[each.address], each.since or None) for each in held.holders))
        for first, last, held, _ in runs
        if held.holders or base is not None
    ]
    lost: dict[tuple[str, str], int] = {}
    for part in ring.copies.waiting:
        for member in part.processes:
            if (member.address, member.node_id) not in lost:
                lost[member.address, member.node_id] = len(ring.members) + len(lost)
                update.lost_holders.append(_ring_node(member))
        since = None if part.awaited.complete else part.epoch
        processes = tuple((lost[member.address, member.node_id], since) for member in part.processes)
        placed.append(PlacedCopies(part.first, part.last, processes))
    if placed:
        update.copies.CopyFrom(copies_message(sorted(placed)))
