"""Coordination. Keeps the membership in time: takes joins and leaves, ends leases, and announces each change.

The log lines start with `Join` and `Leave`: operators search for these words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from milena_common.clock import Clock
from milena_common.ring import Member, Ring
from milena_router.membership import Change, Membership

log = logging.getLogger(__name__)


class Leases:
    """The membership on a clock. `on_change` is called after every change, before anybody is answered."""

    def __init__(self, membership: Membership, clock: Clock, on_change: Callable[[Change], None]) -> None:
        self.membership = membership
        self.changes = {"join": 0, "leave": 0}
        self._clock = clock
        self._on_change = on_change

    @property
    def ring(self) -> Ring:
        return self.membership.ring

    def join(self, member: Member, default_bucket: str, seen_epoch: int) -> bool:
        """Whether the ring or a member changed. Raises FailedPrecondition for another default bucket."""
        change = self.membership.join(member, default_bucket, seen_epoch, self._clock.now(), self._clock.wall())
        if change:
            self._announce(change)
        return change is not None

    def leave(self, address: str, node_id: str = "") -> bool:
        """Whether there was such a node; with a `node_id`, only if it is that one."""
        change = self.membership.leave(address, node_id, self._clock.wall())
        if change:
            self._announce(change)
        return change is not None

    async def run(self) -> None:
        """End the leases that are over, for ever."""
        while True:
            await self._clock.sleep(self.membership.lease_seconds / 10)
            for change in self.membership.expire(self._clock.now(), self._clock.wall()):
                self._announce(change)

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
