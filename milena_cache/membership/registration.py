"""Coordination. Keeps the node in the ring of one coordinator: joins, renews the lease, leaves, follows the ring.

It renews every third of the lease, so that two renewals may be lost before the lease expires. While the coordinator
cannot be reached it retries with jittered backoff, without a limit, and logs that once a minute, not at each
attempt. The log calls it a router, which is what operators run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from milena_cache.membership.coordinator import Coordinator, NodeDescription, Renewal, RingStatus
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.node_fence import NodeFence
from milena_common.api.errors import MilenaError
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import SlotMap
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=2.0)
# Minimum seconds between two log lines about failed attempts.
LOG_AGAIN_SECONDS = 60.0


class Registration:
    """The node's membership at one coordinator."""

    def __init__(
        self,
        coordinator: Coordinator,
        node: NodeDescription,
        clock: Clock,
        rng: Callable[[], float],
        newest_epoch: Callable[[], int],
        ring: Callable[[], SlotMap],
        ring_changed: Callable[[SlotMap], None],
        cluster: NodeIdentity,
        status: Callable[[], NodeStatus],
        ring_status: Callable[[], RingStatus] = RingStatus,
        fence: NodeFence | None = None,
        renewed: Callable[[str, bool, float], None] = lambda router, absent, seconds: None,
        next_status_number: Callable[[], int] = lambda: 0,
    ) -> None:
        """Arguments that need an explanation:

        clock: the one by which the coordinator counts leases
        rng: random numbers from 0 to 1, for the jitter
        newest_epoch: returns the greatest epoch in the version of any write of this node
        ring: returns the newest ring, of any coordinator, or from before this process started
        ring_changed: called with each newer ring of this one
        status: returns the counts of dirty writes that go with each renewal, and with leaving
        ring_status: returns the node's part in the changing ring; what changes in it is reported at once
        fence: gets each lease; None for a node that does not fence
        renewed: called with the address of the coordinator, whether a node is absent, and the seconds of each lease
        next_status_number: returns the number of the next status; all registrations of a node have the same
        """
        self.router = coordinator.address
        self._coordinator = coordinator
        self._node = node
        self._clock = clock
        self._rng = rng
        self._newest_epoch = newest_epoch
        self._lease_until = 0.0
        self._epoch = 0
        self._ring = ring
        self._ring_changed = ring_changed
        self._cluster = cluster
        self._status = status
        self._ring_status = ring_status
        self._fence = fence
        self._renewed = renewed
        self._next_status_number = next_status_number
        self._reported = RingStatus()
        self._longest_lease = 0.0  # seconds
        self._join_sent = False
        self._left_with_writes = False
        self._hurried = asyncio.Event()

    @property
    def joined(self) -> bool:
        """True if the lease has not expired by this node's clock."""
        return self._clock.now() < self._lease_until

    async def run(self) -> None:
        """Join and renew the lease until cancelled."""
        failures = 0
        logged_at = float("-inf")
        while True:
            try:
                lease = await self._join()
            except MilenaError as error:
                failures += 1
                if self._clock.now() - logged_at >= LOG_AGAIN_SECONDS:
                    logged_at = self._clock.now()
                    log.warning(
                        "Failed to join router %s as %s: %s; trying again until it works",
                        self.router,
                        self._node.address,
                        error,
                    )
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))
            else:
                if failures:
                    log.info("router %s responds again after %d failed attempts", self.router, failures)
                failures = 0
                logged_at = float("-inf")
                await self._renewal_is_due(lease / 3)

    def renew_if_changed(self) -> None:
        """Renew now if the node's part in the changing ring is not what was reported last."""
        if self._ring_status() != self._reported:
            self._hurried.set()

    async def follow_ring(self) -> None:
        """Follow the coordinator's ring until cancelled.

        When the coordinator is lost, the lease is renewed as soon as it is back, not when that is due: it may have
        restarted, and wait for the ring of this node.
        """
        await self._coordinator.follow_ring(self._ring_changed, self._hurried.set)

    async def _renewal_is_due(self, seconds: float) -> None:
        # A loss of the stream before the renewal that has just succeeded is no reason for another one. A ring that
        # arrived during that is: the renewal was sent before, and does not acknowledge it.
        self._hurried.clear()
        if self._ring_status() != self._reported:
            return
        due = asyncio.ensure_future(self._clock.sleep(seconds))
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((due, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            due.cancel()
            hurried.cancel()

    async def _join(self) -> float:
        """Join once. Return the lease in seconds. Raises MilenaError."""
        ring = self._ring()
        self._reported = self._ring_status()
        renewal = Renewal(
            node=self._node,
            cluster_id=self._cluster.claimed,
            seen_epoch=max(self._epoch, self._newest_epoch()),
            ring_epoch=max(self._epoch, ring.epoch),
            ring=ring,
            longest_lease=self._longest_lease,
            status=self._status(),
            ring_status=self._reported,
            status_number=self._next_status_number(),
        )
        self._join_sent = True  # this node may be a member even if the reply is lost
        was_joined = self.joined
        ahead = self._fence.ahead() if self._fence is not None else 0.0
        lease = await self._coordinator.renew(renewal)
        self._lease_until = lease.expires_at
        self._longest_lease = max(self._longest_lease, lease.seconds)
        self._cluster.observe(self.router, lease.cluster_id)
        self._epoch = max(self._epoch, lease.epoch)
        if self._fence is not None:
            self._fence.granted(self.router, lease, ahead)
        self._renewed(self.router, lease.absent_nodes, lease.seconds)
        if not was_joined:
            log.info(
                "joined router %s as %s: lease %.3g s, epoch %d, ring of %d",
                self.router,
                self._node.address,
                lease.seconds,
                lease.epoch,
                lease.ring_size,
            )
        return lease.seconds

    async def leave_ring(self, timeout: float) -> None:
        """Leave the ring, within `timeout` seconds. A failure is logged: the lease expires by itself anyway."""
        if not self._join_sent:
            return
        self._join_sent = False
        # Before the lease is over for the router, which then gives the slots to others.
        if self._fence is not None:
            self._fence.returned(self.router)
        status = self._status()
        self._left_with_writes = status.has_writes
        try:
            await self._coordinator.leave_ring(self._node, status, timeout)
            log.info("left router %s", self.router)
        except MilenaError as error:
            log.warning("could not leave router %s, whose lease will expire by itself: %s", self.router, error)
        self._lease_until = 0.0

    async def handed_in(self, timeout: float) -> None:
        """Notify the router, which records this node as missing, that the owners have all its writes now.

        Does nothing if it left without writes, or has some still. To be called when their removal from the journal
        is durable: a journal that a router does not record may come back after its deletes were forgotten.
        """
        status = self._status()
        if not self._left_with_writes or status.has_writes:
            return
        try:
            await self._coordinator.leave_ring(self._node, status, timeout)
        except MilenaError as error:
            log.warning(
                "router %s may record this node as missing, although its writes were handed in: %s",
                self.router,
                error,
            )

    async def close(self) -> None:
        await self._coordinator.close()
