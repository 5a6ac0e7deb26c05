"""Pure. A coordinator that keeps its members in memory, and fails or delays its replies as a test wants.

`FakeRing` is what the cluster holds, and each node has a `FakeCoordinator` to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milena_cache.membership.coordinator import Lease, NodeDescription, Renewal
from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from tests.support.fake_clock import FakeClock


class FakeRing:
    """Members with leases of `lease_seconds`, on `clock`. Call `expire` for what time does."""

    def __init__(self, clock: FakeClock, lease_seconds: float) -> None:
        self.clock = clock
        self.lease_seconds = lease_seconds
        self.cluster_id = "c1"
        self.current = SlotMap.empty()
        self.changed = asyncio.Event()
        self._members: dict[str, tuple[float, NodeDescription]] = {}

    def renew(self, renewal: Renewal) -> None:
        """Raises FailedPrecondition for a node of another cluster or bucket."""
        node = renewal.node
        if renewal.cluster_id not in ("", self.cluster_id):
            raise FailedPrecondition(f"cluster_id: this is cluster {self.cluster_id}")
        for _, member in self._members.values():
            if member.default_bucket != node.default_bucket:
                raise FailedPrecondition(f"default_bucket: the ring's is {member.default_bucket}")
        before = self._members.get(node.address)
        self._members[node.address] = self.clock.now() + self.lease_seconds, node
        if before is None or before[1] != node:
            self._publish(renewal.seen_epoch)

    def leave(self, node: NodeDescription) -> None:
        member = self._members.get(node.address)
        if member is not None and member[1].node_id == node.node_id:
            del self._members[node.address]
            self._publish()

    def expire(self) -> None:
        """Remove members whose leases have expired."""
        left = {address: each for address, each in self._members.items() if each[0] > self.clock.now()}
        if left != self._members:
            self._members = left
            self._publish()

    def _publish(self, seen_epoch: int = 0) -> None:
        nodes = tuple(
            MapNode(address, member.addresses.get("resp", ""), member.node_id)
            for address, (_, member) in sorted(self._members.items())
        )
        epoch = max(self.current.epoch, seen_epoch) + 1
        ranges = []  # of equal length; every change begins all ownerships anew
        for place, node in enumerate(nodes):
            first, last = SLOTS * place // len(nodes), SLOTS * (place + 1) // len(nodes) - 1
            ranges.append(MapRange(first, last, node, epoch))
        bucket = next((member.default_bucket for _, member in self._members.values()), "")
        self.current = SlotMap(epoch, bucket, nodes, tuple(ranges), self.cluster_id)
        self.changed.set()
        self.changed = asyncio.Event()


class FakeCoordinator:
    """One node's connection to `ring`.

    `problem`: raised by each call. `reply_seconds`: how long each reply to a renewal takes. `renewals` and `left`
    are the calls: each renewal with the time at which it arrived, and each node that left.
    """

    address = "r:50050"

    def __init__(self, ring: FakeRing) -> None:
        self.ring = ring
        self.problem: MilenaError | None = None
        self.reply_seconds = 0.0
        self.renewals: list[tuple[float, Renewal]] = []
        self.left: list[NodeDescription] = []
        self.on_disconnected: Callable[[], None] = lambda: None
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition("it is closed")
        if self.problem:
            raise self.problem

    async def renew(self, renewal: Renewal) -> Lease:
        sent_at = self.ring.clock.now()
        self.renewals.append((sent_at, renewal))
        self._check()
        self.ring.renew(renewal)
        if self.reply_seconds:
            await self.ring.clock.sleep(self.reply_seconds)
        current = self.ring.current
        return Lease(self.ring.lease_seconds, sent_at, current.epoch, len(current.nodes), self.ring.cluster_id)

    async def leave_ring(self, node: NodeDescription, status: NodeStatus, timeout: float) -> None:
        self._check()
        self.left.append(node)
        self.ring.leave(node)

    async def follow_ring(self, on_change: Callable[[SlotMap], None], on_disconnected: Callable[[], None]) -> None:
        self.on_disconnected = on_disconnected
        known = 0
        while True:
            current, changed = self.ring.current, self.ring.changed
            if current.epoch > known:
                known = current.epoch
                on_change(current)
            else:
                await changed.wait()

    async def close(self) -> None:
        self._closed = True
