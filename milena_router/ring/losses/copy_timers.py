"""Pure. What takes its time about copies: failed holders that are left out, and slots that wait for lost nodes.

**Failed holders.** An owner that reports a holder as failed waits for a ring without it; if the node became a
filling holder in the same ring again, no write would be acknowledged. So it is left out for a lease, and each time
that it fails again for twice as long, up to a bound, until it has been filled once.

**Slots that wait.** The ring says since which epoch a slot has no owner; RECOVERY_WAIT_SECONDS count from when this
router first had that ring, so a router that has just started waits a whole time once more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from milena_common.cluster.slot_assignment import Ring

# How often a pause is doubled at most.
MAX_DOUBLINGS = 5
# Pairs of owner and holder that are kept; beyond it those that may be listed again soonest are forgotten.
MAX_PAIRS = 4096


@dataclass(slots=True)
class _Failure:
    """until: when the pair may be listed again; epoch: of the ring by which it failed."""

    until: float
    epoch: int
    times: int


class FailingHolders:
    """The pairs of an owner and a failed holder, by address. Times are the router's monotonic seconds."""

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._failures: dict[tuple[str, str], _Failure] = {}

    def add(self, owner: str, holder: str, epoch: int, now: float) -> None:
        """Record a failure that was found by the ring of `epoch`; further ones of the same ring count once."""
        known = self._failures.get((owner, holder))
        if known is not None and known.epoch >= epoch:
            return
        times = known.times + 1 if known is not None else 0
        until = now + self._lease_seconds * 2 ** min(times, MAX_DOUBLINGS)
        self._failures[owner, holder] = _Failure(until, epoch, times)
        if len(self._failures) > MAX_PAIRS:
            del self._failures[min(self._failures, key=lambda pair: self._failures[pair].until)]

    def completed(self, owner: str, holder: str) -> None:
        """Record that the holder has been filled."""
        self._failures.pop((owner, holder), None)

    def restarted(self, address: str) -> None:
        """Record that another process is at `address`, about which nothing is known."""
        for pair in [pair for pair in self._failures if address in pair]:
            del self._failures[pair]

    def avoided(self, now: float) -> Collection[tuple[str, str]]:
        """Return the pairs of owner and node that are not to be listed now."""
        return frozenset(pair for pair, failure in self._failures.items() if failure.until > now)


class WaitingSlots:
    """The slots that wait for a lost process. Times are the router's monotonic seconds.

    given_up_slots: how many slots were given to other nodes although their writes were not back
    """

    def __init__(self, wait_seconds: float) -> None:
        self.given_up_slots = 0
        self._wait_seconds = wait_seconds
        self._since: dict[int, float] = {}  # by the epoch since which slots wait

    def given_up(self, ring: Ring, now: float) -> int:
        """Return the epoch such that slots that wait since it, or before, are waited for no longer; 0 if none."""
        epochs = {part.epoch for part in ring.copies.waiting}
        self._since = {epoch: self._since.get(epoch, now) for epoch in epochs}
        over = [epoch for epoch, since in self._since.items() if now - since >= self._wait_seconds]
        return max(over, default=0)

    def seconds_left(self, ring: Ring, now: float) -> float:
        """Return the seconds until the first waiting slots are given up; 0 if none wait."""
        since = [self._since.get(part.epoch, now) for part in ring.copies.waiting]
        return max(0.0, min(since) + self._wait_seconds - now) if since else 0.0


def number_waiting(ring: Ring) -> int:
    """Return how many slots of `ring` wait for a lost process."""
    return sum(part.last + 1 - part.first for part in ring.copies.waiting)


def waits_for(ring: Ring) -> str:
    """Return what the waiting slots of `ring` wait for, for operators."""
    lost = sorted({member.address for part in ring.copies.waiting for member in part.processes})
    return f"one of the lost nodes {', '.join(lost[:5])}{' and others' if len(lost) > 5 else ''}"
