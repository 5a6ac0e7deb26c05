"""Coordination. Keeps the node in one router's ring: joins, renews the lease, leaves.

It joins again every third of the lease, so that two renewals may be lost before the lease expires. While the router
cannot be reached it retries with jittered backoff, without a limit; it logs that once a minute, not at each
attempt. Renewals go over a stream that stays open: an overloaded router ends unary calls that wait to begin, and a
renewal lost to that would take the node out of the ring just when it is needed.

A restarted router does not know the ring and requests the one that this node holds, or held before its own restart:
it is sent only then, and not with each renewal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from milena_cache.membership.identity import NodeIdentity
from milena_common.api.errors import MilenaError
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import SlotMap
from milena_common.rpc.transport import ExchangingTransport
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.1, max_delay=2.0)
# Timeout of one join or renewal.
CALL_SECONDS = 2.0
# Minimum seconds between two log lines about failed attempts.
LOG_AGAIN_SECONDS = 60.0


class Identity:
    """A node's description of itself in its joins.

    address: its gRPC address, host:port
    node_id: the id of this process
    weight: its share of the slots relative to other nodes
    addresses: its further addresses by protocol
    default_bucket: the S3 bucket of keys without one
    journal_id: the id of its journal, "" if it has none
    """

    def __init__(
        self,
        address: str,
        node_id: str,
        weight: float,
        addresses: Mapping[str, str],
        default_bucket: str,
        journal_id: str = "",
    ) -> None:
        self.address = address
        self.node_id = node_id
        self.weight = weight
        self.addresses = addresses
        self.default_bucket = default_bucket
        self.journal_id = journal_id


class Registration:
    """The node's membership at one router."""

    def __init__(
        self,
        router: str,
        connection: ExchangingTransport,
        identity: Identity,
        clock: Clock,
        rng: Callable[[], float],
        newest_epoch: Callable[[], int],
        ring: Callable[[], SlotMap],
        cluster: NodeIdentity,
        status: Callable[[], NodeStatus],
    ) -> None:
        """Arguments that need an explanation:

        router: its address, host:port
        rng: random numbers from 0 to 1, for the jitter
        newest_epoch: returns the greatest epoch in the version of any write of this node
        ring: returns the newest ring, from whichever router it came, or from before this process started
        status: returns the counts of dirty writes that go with each renewal and with Leave
        """
        self.router = router
        self._connection = connection
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._newest_epoch = newest_epoch
        self._lease_until = 0.0
        self._epoch = 0
        self._ring = ring
        self._cluster = cluster
        self._status = status
        self._granted = 0.0  # the longest lease, in seconds
        self._join_sent = False
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
                        self._identity.address,
                        error,
                    )
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))
            else:
                if failures:
                    log.info("router %s answers again after %d failed attempts", self.router, failures)
                failures = 0
                logged_at = float("-inf")
                await self._renewal_is_due(lease / 3)

    def hurry(self) -> None:
        """Renew now, not when the renewal is due: the router may have restarted and wait for this node's ring."""
        self._hurried.set()

    async def _renewal_is_due(self, seconds: float) -> None:
        self._hurried.clear()
        due = asyncio.ensure_future(self._clock.sleep(seconds))
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((due, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            due.cancel()
            hurried.cancel()

    async def _join(self) -> float:
        """Join once. Return the lease in seconds. Raises MilenaError."""
        me, status = self._identity, self._status()
        request = pb.JoinRequest(
            address=me.address,
            node_id=me.node_id,
            weight=me.weight,
            addresses=me.addresses,
            default_bucket=me.default_bucket,
            epoch=max(self._epoch, self._newest_epoch()),
            cluster_id=self._cluster.claimed,
            ring_epoch=max(self._epoch, self._ring().epoch),
            dirty_entries=status.dirty_entries,
            dead_letters=status.dead_letters,
            degraded=status.degraded,
            journal_id=me.journal_id,
        )
        self._join_sent = True  # the router may have added this node even if its reply is lost
        requested_at = self._clock.now()
        was_joined = self.joined
        response: Any = await self._connection.exchange("KeepLease", request, CALL_SECONDS)
        ring = self._ring()
        if response.send_ring and ring.epoch:
            # The ring and its cluster id in one message: between two, the ring could change.
            request.cluster_id = ring.cluster_id
            request.last_ring.ring.CopyFrom(ring.to_update())
            request.last_ring.lease_seconds = self._granted
            requested_at = self._clock.now()
            response = await self._connection.exchange("KeepLease", request, CALL_SECONDS)
        # 0: a router that does not expire its members.
        lease = response.lease_seconds or 5.0
        # Counted from the request, not from the reply, so that the lease expires here before it does at the router.
        self._lease_until = requested_at + lease
        self._granted = max(self._granted, lease)
        self._cluster.observe(self.router, response.cluster_id)
        self._epoch = max(self._epoch, response.epoch)
        if not was_joined:
            log.info(
                "joined router %s as %s: lease %.3g s, epoch %d, ring of %d",
                self.router,
                me.address,
                lease,
                response.epoch,
                response.ring_size,
            )
        return lease

    async def leave(self, timeout: float) -> None:
        """Leave the ring, within `timeout` seconds. A failure is logged: the lease expires by itself anyway."""
        if not self._join_sent:
            return
        self._join_sent = False
        me, status = self._identity, self._status()
        request = pb.LeaveRequest(
            address=me.address,
            node_id=me.node_id,
            dirty_entries=status.dirty_entries,
            dead_letters=status.dead_letters,
        )
        try:
            await self._connection.call("Leave", request, timeout)
            log.info("left router %s", self.router)
        except MilenaError as error:
            log.warning("could not leave router %s, whose lease will expire by itself: %s", self.router, error)
        self._lease_until = 0.0

    async def close(self) -> None:
        await self._connection.close()
