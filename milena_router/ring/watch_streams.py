"""Coordination. Streams of the ring, for clients with direct connections to nodes, and for the nodes.

A watcher gets the ring at once and then after each change. It gets the newest ring when it is ready for one, so a
slow reader skips rings, and nothing is queued for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping

from milena_common.api.errors import FailedPrecondition
from milena_common.api.methods import WATCH_RING, served_by_router
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.rpc.server import Message, StreamMethod
from milena_router.ring.membership import Membership

# Clients and nodes together; each keeps a connection open.
MAX_WATCHERS = 8192


class RingWatchers:
    """The watchers. `membership` has the newest ring, the nodes' S3_BUCKET and the cluster id.

    During recovery watchers get no ring: their streams are open, and they keep the ring that they have. Without
    `direct_access` only members of the ring may watch. `open` is the number of watchers. Updates have
    `max_value_bytes`, so that clients reject larger values without sending them.
    """

    def __init__(self, membership: Membership, direct_access: bool, max_value_bytes: int = 0) -> None:
        self.open = 0
        self._membership = membership
        self._direct_access = direct_access
        self._max_value_bytes = max_value_bytes
        self._changed = asyncio.Event()
        self._stopped = False
        self._update = b""
        self._update_of: Ring | None = None

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
            sent: Ring | None = None
            while not self._stopped:
                ring = self._membership.ring
                if ring is sent or self._membership.recovering:
                    await self._changed.wait()
                else:
                    if sent is None:
                        self._check_access(request.node_id)  # the members were not known during recovery
                    sent = ring
                    yield self._serialized(ring)
        finally:
            self.open -= 1

    def wake_watchers(self) -> None:
        """Wake all watchers: there is a new ring."""
        self._changed.set()
        self._changed = asyncio.Event()

    def end_streams(self) -> None:
        """End every stream."""
        self._stopped = True
        self._changed.set()

    def _check_access(self, node_id: str) -> None:
        if self._direct_access or (node_id and self._membership.recovering):
            return
        if not node_id or all(member.node_id != node_id for member in self._membership.ring.members):
            raise FailedPrecondition(
                "this router has DIRECT_ACCESS=false: only nodes of the ring get the nodes' addresses; send "
                "requests to the router"
            )

    def _serialized(self, ring: Ring) -> bytes:
        """Return the update for all watchers, cached: building it costs as much as sending it to a hundred."""
        if self._update_of is not ring:
            membership = self._membership
            update = ring_update(
                ring,
                membership.default_bucket,
                membership.cluster_id,
                self._max_value_bytes,
                membership.missing.all(),
            )
            self._update = update.SerializeToString()
            self._update_of = ring
        return self._update


def ring_update(
    ring: Ring,
    default_bucket: str,
    cluster_id: str,
    max_value_bytes: int = 0,
    missing: Iterable[MissingNode] = (),
) -> pb.RingUpdate:
    """Return the message for `ring` and its `missing` nodes; `max_value_bytes` 0 leaves that field unknown."""
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


def _ring_node(member: Member) -> pb.RingNode:
    return pb.RingNode(
        address=member.address,
        resp_address=member.addresses.get("resp", ""),
        node_id=member.node_id,
        weight=member.weight,
        journal_id=member.journal_id,
    )
