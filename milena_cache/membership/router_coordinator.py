"""Coordination. A router as the coordinator of a ring, by its calls KeepLease, Leave and WatchRing.

Renewals go over a stream that stays open: an overloaded router ends unary calls that wait to begin, and a renewal
lost to that would take the node out of the ring just when it is needed.

A restarted router has no ring and requests that of this node: it is sent only then, and not with each renewal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from milena_cache.membership.coordinator import Lease, NodeDescription, Renewal
from milena_common.api.methods import KEEP_LEASE, LEAVE
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS, runs_message
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import AsyncRingWatch, AsyncStreams
from milena_common.cluster.slot_runs import Run
from milena_common.rpc.transport import ExchangingTransport
from milena_common.runtime.clock import Clock

# Timeout of one renewal.
CALL_SECONDS = 2.0
# The lease, in seconds, at a router that does not expire its members.
UNLIMITED_LEASE_SECONDS = 5.0
# Seconds between retries: a router with DIRECT_ACCESS=false sends the ring only to a node that has joined.
RING_PAUSE_SECONDS = 1.0


class RouterTransport(ExchangingTransport, AsyncStreams, Protocol):
    """A connection to a router: for calls, renewals, and following its ring."""


class RouterCoordinator:
    """A `Coordinator`: the router at `address`, host:port, reached over `connection`, which it closes.

    node_id: the id of this process, by which a router recognizes that it may have the ring
    rng: random numbers from 0 to 1, for the pauses between attempts to follow the ring
    """

    def __init__(
        self, address: str, connection: RouterTransport, node_id: str, clock: Clock, rng: Callable[[], float]
    ) -> None:
        self.address = address
        self._connection = connection
        self._node_id = node_id
        self._clock = clock
        self._rng = rng

    async def renew(self, renewal: Renewal) -> Lease:
        node, status, ring_status = renewal.node, renewal.status, renewal.ring_status
        request = pb.JoinRequest(
            address=node.address,
            node_id=node.node_id,
            weight=node.weight,
            addresses=node.addresses,
            default_bucket=node.default_bucket,
            epoch=renewal.seen_epoch,
            cluster_id=renewal.cluster_id,
            ring_epoch=renewal.ring_epoch,
            dirty_entries=status.dirty_entries,
            dead_letters=status.dead_letters,
            degraded=status.degraded,
            journal_id=node.journal_id,
            acknowledged_epoch=ring_status.acknowledged_epoch,
            leaving=ring_status.leaving,
            foreign_writes=ring_status.foreign_writes,
            features=MOVES | COPIES if node.copies else MOVES,
            copies=node.copies,
            zone=node.zone,
            copies_epoch=ring_status.copies_epoch,
            completed=_holder_reports(ring_status.completed),
            failed_holders=_holder_reports(ring_status.failed_holders),
            status_number=renewal.status_number,
        )
        if ring_status.taken:
            runs = [Run(first, last, node.address, since) for first, last, since in ring_status.taken]
            request.taken.CopyFrom(runs_message(runs, {node.address: 0}))
        sent_at = self._clock.now()
        response: Any = await self._connection.exchange(KEEP_LEASE.name, request, CALL_SECONDS)
        if response.send_ring and renewal.ring.epoch:
            request.cluster_id = renewal.ring.cluster_id
            request.last_ring.ring.CopyFrom(renewal.ring.to_update())
            request.last_ring.lease_seconds = renewal.longest_lease
            sent_at = self._clock.now()
            response = await self._connection.exchange(KEEP_LEASE.name, request, CALL_SECONDS)
        seconds = response.lease_seconds or UNLIMITED_LEASE_SECONDS
        return Lease(
            seconds,
            sent_at,
            response.epoch,
            response.ring_size,
            response.cluster_id,
            response.absent_nodes,
        )

    async def leave_ring(self, node: NodeDescription, status: NodeStatus, timeout: float) -> None:
        request = pb.LeaveRequest(
            address=node.address,
            node_id=node.node_id,
            dirty_entries=status.dirty_entries,
            dead_letters=status.dead_letters,
        )
        await self._connection.call(LEAVE.name, request, timeout)

    async def follow_ring(self, on_change: Callable[[SlotMap], None], on_disconnected: Callable[[], None]) -> None:
        watch = AsyncRingWatch(
            self._connection,
            self._clock,
            self._rng,
            on_change,
            node_id=self._node_id,
            rejected_pause=RING_PAUSE_SECONDS,
            on_disconnected=on_disconnected,
            features=RUNS | MOVES | COPIES,
        )
        await watch.run()

    async def close(self) -> None:
        await self._connection.close()


def _holder_reports(ranges: Iterable[tuple[int, int, str]]) -> list[pb.HolderStatus]:
    by_holder: dict[str, pb.HolderStatus] = {}
    for first, last, holder in ranges:
        message = by_holder.setdefault(holder, pb.HolderStatus(holder=holder))
        message.first.append(first)
        message.last.append(last)
    return list(by_holder.values())
