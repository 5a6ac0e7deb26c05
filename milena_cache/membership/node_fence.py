"""Coordination. The fence of a running node: opens and closes its ownership of slots as `fence.Fence` decides.

The hot path compares the time of a batch of requests with `check_at`, and calls `may_serve` only from then on. So a
process that was stopped for longer than its lease, and goes on with commands waiting in its sockets, checks before
the first of them. What it serves in the microseconds between the comparison and the sending of a reply cannot be
checked: a read is then as old as its request, and a write is acknowledged only after a comparison of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from typing import Literal

from milena_cache.membership.coordinator import Lease
from milena_cache.membership.fence import Fence
from milena_cache.membership.ownership import Ownership
from milena_common.api.errors import NoNodes
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

FencedReads = Literal["refuse", "stale"]
FENCED_READS: tuple[FencedReads, ...] = ("refuse", "stale")
# After how many seconds a caller may try again: as often as promises are asked for.
RETRY_SECONDS = 0.25
CLOSED = (
    "this node is fenced: no router has renewed its lease, and not all other members of its ring have promised to "
    "wait, so another node may own its slots; it serves again once a router renews the lease"
)
UNKNOWN = (
    "the lease of this node ended before the write was acknowledged, so its outcome is unknown: it is kept, and "
    "may still take effect"
)


class NodeFence:
    """The fence of one node. `clock` is the machine's: its time of day must not be corrected by that of S3.

    check_at: monotonic seconds from which on `may_serve` must be called before anything is served
    closures: how often the fence was closed
    on_change: called after it was closed or opened
    """

    def __init__(self, ownership: Ownership, clock: Clock, reads: FencedReads = "refuse") -> None:
        self.check_at = inf
        self.closures = 0
        self.on_change: list[Callable[[], None]] = []
        self.serves_stale = reads == "stale"
        self.fence = Fence()
        self._ownership = ownership
        self._clock = clock
        self._leaving = False
        self._is_out = False  # of the newest ring, whose nodes fence

    @property
    def closed(self) -> bool:
        """True if the node may not serve now."""
        now = self._clock.now()
        return not (self.may_serve(now) if now >= self.check_at else self.fence.is_open)

    def ahead(self) -> float:
        """Return by how many seconds the time of day is ahead of the clock; read it before requesting a right."""
        return self._clock.wall() - self._clock.now()

    def granted(self, router: str, lease: Lease, ahead: float) -> None:
        """Count a lease of `router`; `ahead` was read before the request."""
        self.fence.granted(router, lease.seconds, lease.sent_at, lease.epoch, ahead)
        self.may_serve(self._clock.now())

    def returned(self, router: str) -> None:
        """Forget the lease of `router`, which was given back: the node leaves."""
        self._leaving = True
        self.fence.returned(router)
        self.may_serve(self._clock.now())

    def promised(
        self, seconds: float, requested_at: float, epoch: int, ahead: float, members: frozenset[str]
    ) -> None:
        """Count the promises of `members`; see `Fence.promised`."""
        self.fence.promised(seconds, requested_at, epoch, ahead, members)
        self.may_serve(self._clock.now())

    def adopt_ring(self) -> None:
        """Look at the newest ring of the ownership, and check."""
        ownership = self._ownership
        self._is_out = bool(ownership.slot_map.released_epoch) and not ownership.is_member
        self.fence.adopt_ring(ownership.epoch, ownership.other_members)
        self.may_serve(self._clock.now())

    def may_serve(self, now: float) -> bool:
        """Return True if the node may serve at `now`; open or close its ownership accordingly."""
        before = self.fence.is_open
        is_open = self.fence.may_serve(now, self._clock.wall())
        self.check_at = self.fence.check_at
        if is_open is not before:
            if is_open:
                self._ownership.open()
            else:
                self._ownership.close(CLOSED, RETRY_SECONDS)
            # Not when the ring arrives before the first lease, nor when the node leaves.
            if self.fence.seconds and not self._leaving:
                self.closures += not is_open
                log.warning("the node serves its slots again" if is_open else f"the node serves no slot: {CLOSED}")
            for changed in self.on_change:
                changed()
        return is_open

    def fence_error(self) -> NoNodes | None:
        """Return the error for what may not begin now; None if it may."""
        return NoNodes(f"{CLOSED}; nothing was done", RETRY_SECONDS) if self.closed else None

    def unacknowledged(self) -> str:
        """Return why writes that have just become durable must not be acknowledged; "" if they may be.

        A node that a newer ring does not have any more redirects requests, and its fence is not closed. But of
        writes that were being made durable when the ring arrived, their new owner knows nothing, and it may serve.
        """
        return UNKNOWN if self.closed or self._is_out else ""

    # ---- for the status

    def not_ready(self) -> list[str]:
        return [CLOSED] if self.closed else []

    def degraded(self) -> list[str]:
        if self.closed:
            return ["fence: closed, the node serves no slot, and uploads wait until it is open"]
        if self.fence.by_promise:
            return ["fence: no router renews the lease, the node serves by promises of all other nodes"]
        return []
