"""Coordination. Runs the membership on a clock: handles joins and leaves, expires leases, announces each change.

After the router's start, requests wait here until the last ring is recovered.

The log lines start with `Join`, `Leave` and `Forget`: operators search for these words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from milena_common.api.errors import NoNodes
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner
from milena_router.ring.membership import NOTHING_KNOWN, Change, Membership
from milena_router.ring.recovery import Knowledge

log = logging.getLogger(__name__)

# Seconds between checks for the end of recovery. A join can end it as well.
RECOVERY_CHECK_SECONDS = 0.1
# Seconds after which a request that was rejected during recovery should be repeated; most recoveries end sooner.
RETRY_SECONDS = 1.0


class Leases:
    """The membership on a clock. `on_change` is called after every change, before any response is sent."""

    def __init__(self, membership: Membership, clock: Clock, on_change: Callable[[Change], None]) -> None:
        self.membership = membership
        self.changes = {"join": 0, "leave": 0, "forget": 0}
        self._clock = clock
        self._on_change = on_change
        self._recovered = asyncio.Event()

    @property
    def ring(self) -> Ring:
        return self.membership.ring

    @property
    def recovering(self) -> bool:
        """True while the ring of the previous router is not known yet."""
        return self.membership.recovering

    def join(
        self,
        member: Member,
        default_bucket: str,
        seen_epoch: int,
        known: Knowledge = NOTHING_KNOWN,
        node_status: NodeStatus | None = None,
    ) -> bool:
        """Return True if the ring or a member changed. Raises FailedPrecondition for another default bucket or
        cluster.
        """
        now, wall = self._clock.now(), self._clock.wall()
        change = self.membership.join(member, default_bucket, seen_epoch, now, wall, known, node_status)
        if change:
            self._announce(change)
        return change is not None or self._recover()

    def leave(self, address: str, node_id: str = "", node_status: NodeStatus | None = None) -> bool:
        """Remove a node; return True if it existed and, if `node_id` is given, has that id.

        `node_status` is the leaving node's own report, None if another caller removes it.
        """
        if self.recovering:
            known = self.membership.withdraw(address, node_id, self._clock.wall(), node_status)
            self._recover()
            return known
        change = self.membership.remove_member(address, node_id, self._clock.wall(), node_status)
        if change:
            self._announce(change)
        return change is not None

    def write_off(self, address: str) -> bool:
        """Write off the missing node at `address`; False if there is none."""
        change = self.membership.write_off(address, self._clock.wall())
        if change:
            self._announce(change)
        return change is not None

    async def run(self) -> None:
        """Expire leases until cancelled."""
        while True:
            pause = self.membership.lease_seconds / 10
            await self._clock.sleep(min(pause, RECOVERY_CHECK_SECONDS) if self.recovering else pause)
            for change in self.membership.expire(self._clock.now(), self._clock.wall()):
                self._announce(change)
            self._recover()

    async def published(self, timeout: float) -> float:
        """Wait for the end of recovery, and return the seconds left of `timeout`.

        Raises NoNodes, shortly before the timeout, if recovery has not ended by then.
        """
        started = self._clock.now()
        recovered = asyncio.ensure_future(self._recovered.wait())
        alarm = asyncio.ensure_future(self._clock.sleep(inner(timeout)))
        try:
            await asyncio.wait((recovered, alarm), return_when=asyncio.FIRST_COMPLETED)
        finally:
            recovered.cancel()
            alarm.cancel()
        if self.recovering:
            why = f"the router has started and {self.why()}"
            if not self.membership.leases:
                why = f"no node in the ring: {why}; start a cache node (ROUTER_ADDR must name this router)"
            raise NoNodes(f"{why}; nothing was done", RETRY_SECONDS)
        return timeout - (self._clock.now() - started)

    def why(self) -> str:
        """Return the reason why no ring is published yet; "" if one is."""
        recovery = self.membership.recovery
        if recovery is None:
            return ""
        joined = len(self.membership.leases)
        missing = sorted(recovery.awaited(self.membership.leases))
        waits = f"waits for {', '.join(missing[:5])}" if missing else "waits for nodes that have the last ring"
        limit = f", at most {recovery.seconds_left(self._clock.now()):.1f} s more" if joined else ""
        return f"recovers the last ring: {joined} nodes have joined, it {waits}{limit}"

    def _recover(self) -> bool:
        """End recovery if its conditions are met; return True if it ended."""
        before = self.recovering
        changes = self.membership.recover(self._clock.now(), self._clock.wall())
        if not before or self.recovering:
            return False
        self._recovered.set()
        ring = self.membership.ring
        log.info(
            "the ring is published: cluster=%s epoch=%d ring_size=%d",
            self.membership.cluster_id,
            ring.epoch,
            len(ring.members),
        )
        for change in changes:
            self._announce(change)
        return True

    def _announce(self, change: Change) -> None:
        self.changes[change.kind.lower()] += 1
        log.info(
            "%s node=%s reason=%r epoch=%d ring_size=%d",
            change.kind,
            change.address,
            change.reason,
            change.ring.epoch,
            len(change.ring.members),
        )
        self._on_change(change)
