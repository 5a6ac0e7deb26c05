"""Coordination. Runs the membership on a clock: handles joins and leaves, expires leases, announces each change.

After the router's start, requests wait here until the last ring is recovered.

The log lines start with `Join`, `Leave`, `Forget`, `Move` and `Copy`: operators search for these words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from milena_common.api.errors import NoNodes
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_runs import Run
from milena_common.runtime.clock import Clock
from milena_common.runtime.deadlines import inner
from milena_router.ring.joining import Joining, joining
from milena_router.ring.losses.copy_timers import number_waiting, waits_for
from milena_router.ring.membership import NOTHING_KNOWN, Change, Membership
from milena_router.ring.recovery import Knowledge
from milena_router.ring.ring_status import NO_STATUS, RingStatus
from milena_router.ring.stuck_moves import StuckMove

log = logging.getLogger(__name__)

# Seconds between checks for the end of recovery. A join can end it as well.
RECOVERY_CHECK_SECONDS = 0.1
# Seconds after which a request that was rejected during recovery should be repeated; most recoveries end sooner.
RETRY_SECONDS = 1.0


class Leases:
    """The membership on a clock. `on_change` is called after every change, before any response is sent, and
    `on_released` when more slots of the same ring may be served.
    """

    def __init__(
        self,
        membership: Membership,
        clock: Clock,
        on_change: Callable[[Change], None],
        on_released: Callable[[], None] = lambda: None,
    ) -> None:
        self.membership = membership
        self.changes = {"join": 0, "leave": 0, "forget": 0, "move": 0, "copy": 0}
        self._clock = clock
        self._on_change = on_change
        self._on_released = on_released
        self._released = (0, 0)  # epoch of the ring, and the released one
        self._frozen = False
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
        status: RingStatus = NO_STATUS,
    ) -> bool:
        """Return True if the ring or a member changed. Raises FailedPrecondition for another default bucket or
        cluster.
        """
        now, wall = self._clock.now(), self._clock.wall()
        change = self.membership.join(member, default_bucket, seen_epoch, now, wall, known, node_status, status)
        if change:
            self._announce(change)
        recovered = change is None and self._recover()
        self._release_proved(now)
        return change is not None or recovered

    def leave(self, address: str, node_id: str = "", node_status: NodeStatus | None = None) -> bool:
        """Remove a node; return True if it existed and, if `node_id` is given, has that id.

        `node_status` is the leaving node's own report, None if another caller removes it.
        """
        if self.recovering:
            known = self.membership.withdraw(address, node_id, self._clock.wall(), node_status)
            self._recover()
            return known
        now, wall = self._clock.now(), self._clock.wall()
        change = self.membership.remove_member(address, node_id, now, wall, node_status)
        if change:
            self._announce(change)
        self._release_proved(now)
        return change is not None

    def process_exited(self, address: str, node_id: str) -> bool:
        """Remove a node whose process has provably ended; return True if it was a member."""
        now, wall = self._clock.now(), self._clock.wall()
        change = self.membership.process_exited(address, node_id, now, wall)
        if change:
            self._announce(change)
        self._release_proved(now)
        return change is not None

    def abandon(self, move: StuckMove, slots: Sequence[Run]) -> bool:
        """Leave `slots` of a stuck move with their owners; return True if the ring changed."""
        change = self.membership.abandon(move, slots, self._clock.now(), self._clock.wall())
        if change:
            self._announce(change)
        self._release_proved(self._clock.now())
        return change is not None

    def write_off(self, address: str) -> bool:
        """Write off the missing node at `address`; False if there is none."""
        change = self.membership.write_off(address, self._clock.wall())
        if change:
            self._announce(change)
        self._release_proved(self._clock.now())
        return change is not None

    # ---- what changes the ring, for callers that need not know where its state is kept

    async def request_join(self, request: pb.JoinRequest) -> Joining:
        """Add a node or renew its lease, and return what it reports. Raises InvalidRequest, FailedPrecondition.

        Where the state is kept elsewhere, this and the next ones also raise Unavailable: it may have been changed.
        """
        reported = joining(request, self._clock.wall())
        self.join(*reported)
        return reported

    async def request_leave(self, address: str, node_id: str, node_status: NodeStatus | None) -> bool:
        """As `leave`."""
        return self.leave(address, node_id, node_status)

    async def request_exit(self, address: str, node_id: str) -> bool:
        """As `process_exited`."""
        return self.process_exited(address, node_id)

    async def request_abandon(self, move: StuckMove, slots: Sequence[Run]) -> bool:
        """As `abandon`."""
        return self.abandon(move, slots)

    async def request_write_off(self, address: str) -> bool:
        """As `write_off`."""
        return self.write_off(address)

    async def run(self) -> None:
        """Expire leases until cancelled."""
        while True:
            pause = self.membership.lease_seconds / 10
            await self._clock.sleep(min(pause, RECOVERY_CHECK_SECONDS) if self.recovering else pause)
            now, wall = self._clock.now(), self._clock.wall()
            for change in self.membership.expire(now, wall):
                self._announce(change)
            moves = self.membership.balance(wall)
            if moves:
                self._announce(moves)
            self._recover()
            self._release_proved(now)

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

    def degraded(self) -> list[str]:
        """Return why an operator should look at the ring; empty if there is no reason."""
        membership = self.membership
        reasons = [self.why()] if self.recovering and membership.leases else []
        if membership.frozen:
            reasons.append(
                f"all {len(membership.frozen)} nodes of the ring fell silent within one lease: the ring is kept as "
                "it is, because this router may be the isolated one; nodes that are gone must be removed by hand "
                "(milena leave ADDRESS)"
            )
        if membership.moving:
            reasons += [loss.described() for loss in membership.releases.all()]
        return reasons + self._missing_copies()

    def _missing_copies(self) -> list[str]:
        membership, ring = self.membership, self.ring
        reasons = []
        waiting = number_waiting(ring)
        if waiting:
            seconds = membership.waiting.seconds_left(ring, self._clock.now())
            reasons.append(
                f"{waiting} slots have no owner: their owner and all complete holders of copies are lost. They "
                f"wait for {waits_for(ring)}, at most {seconds:.0f} s more; if none will come back, run "
                "`milena leave --forget` with their addresses"
            )
        missing = ring.slots_with_missing_copies()
        if missing:
            reasons.append(
                f"{missing} slots have fewer than {ring.copies.target - 1} complete holders of copies: a further "
                "loss may leave them without an owner"
            )
        return reasons

    def _release_proved(self, now: float) -> None:
        """Publish the released epoch if it has changed for the same ring, and log the ring's freeze and its end."""
        self.membership.releases.drop_proved(now)
        self._publish_released()

    def _publish_released(self) -> None:
        """Call `on_released` if more slots of the same ring are released; log the ring's freeze and its end."""
        membership = self.membership
        if bool(membership.frozen) != self._frozen:
            self._frozen = not self._frozen
            if self._frozen:
                log.warning("Frozen: %s", self.degraded()[0])
            else:
                log.info("the ring is not frozen any more: a node renewed its lease, or all were removed")
        released = (membership.ring.epoch, membership.released_epoch)
        before, self._released = self._released, released
        if released[0] == before[0] and released[1] != before[1]:
            log.info("Release epoch=%d released_epoch=%d", *released)
            self._on_released()

    def _recover(self) -> bool:
        """End recovery if its conditions are met; return True if it ended."""
        before = self.recovering
        changes = self.membership.recover(self._clock.now(), self._clock.wall())
        if not before or self.recovering:
            return False
        self._publish_recovered()
        for change in changes:
            self._announce(change)
        return True

    def _publish_recovered(self) -> None:
        """Let the requests go on that wait for the ring."""
        self._recovered.set()
        ring = self.membership.ring
        log.info(
            "the ring is published: cluster=%s epoch=%d ring_size=%d",
            self.membership.cluster_id,
            ring.epoch,
            len(ring.members),
        )

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
