"""Pure. The fence: how long this node may serve its slots. Time is an argument.

It may while one of its rights is valid: the lease of a router, or the promises of all other members of its ring.
A right is counted from when it was requested, and ends `margin_of` before it does for those that granted it, so
that clocks may differ in rate. It is valid only with a ring that is as new as the one by which it was granted.
Otherwise: (1) a router has replaced this node in ring 8; (2) the node renews, and gets a lease in ring 9; (3) it
would serve the slots of ring 7, which it still has.

A promise covers only the ring by which it was given, for those that gave it stand by that one no longer than until
this node has a newer one (`promises`). Otherwise: (1) b and c promise to stand by ring 7; (2) this node gets ring 8
from b, so that both promises end; (3) a router replaces it in ring 9, which both acknowledge, while it would still
serve by ring 8. And all other members of that ring must have promised: routers that do not agree may have two rings
with one epoch.

Time is that of a clock that goes on while the machine is suspended (CLOCK_BOOTTIME). That a virtual machine was
paused shows in the time of day alone, once that is corrected: a right ends sooner by whatever the time of day gains
on the clock, and at once if the two have moved by more than the margin in either direction. It is never valid
for longer, and a right that has ended so stays ended. Such a pause is noticed CHECK_SECONDS later at most. What the
time of day gains while a request for a right is in flight counts too, even if it is set back before the right
arrives.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

MIN_MARGIN_SECONDS = 0.5
# The time of day is compared at least this often, in seconds.
CHECK_SECONDS = 0.1
# What the time of day gains between two checks is remembered from so many seconds on, at most so many times; of
# more, the oldest two become one.
GAIN_SECONDS = 0.01
MAX_GAINS = 16


def margin_of(seconds: float) -> float:
    """Return by how many seconds a right of `seconds` ends sooner here than for those that granted it.

    Half of a right of less than a second, which would otherwise never be valid.
    """
    return min(max(MIN_MARGIN_SECONDS, seconds / 10), seconds / 2)


class Right(NamedTuple):
    """A right to serve.

    until: when it ends, in seconds of the node's clock
    epoch: of the ring by which it was granted
    ahead: by how many seconds the time of day was ahead of the clock when it was requested
    margin: in seconds, see `margin_of`
    seen: by how much the time of day was ahead at the last check
    lost: by how many seconds it ends sooner, because the time of day has gained that much on the clock in all
    members: the ids of the processes that promised; None for the lease of a router, which covers every ring
    """

    until: float
    epoch: int
    ahead: float
    margin: float
    members: frozenset[str] | None
    seen: float
    lost: float = 0.0

    def at(self, now: float, ahead: float) -> Right | None:
        """Return the right as it is at `now`, when the time of day is ahead by `ahead`; None if it has ended."""
        lost = self.lost + max(0.0, ahead - self.seen)
        if abs(ahead - self.ahead) > self.margin or lost > self.margin or now >= self.until - lost:
            return None
        return self._replace(seen=ahead, lost=lost)

    @property
    def expires_at(self) -> float:
        """Return when it ends, in seconds of the node's clock."""
        return self.until - self.lost


class Fence:
    """The rights of one node. With several routers, the lease of any one of them is enough.

    seconds: the length of the newest lease; 0 before the first
    is_open: the result of the last `may_serve`
    by_promise: True if at the last check only promises were valid
    check_at: when to check again, in seconds of the node's clock: before that the result cannot change
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_open = True
        self.by_promise = False
        self.check_at = inf
        self._leases: dict[str, tuple[Right, ...]] = {}
        self._promise: Right | None = None
        self._epoch = 0
        self._others: frozenset[str] = frozenset()
        # By how much the time of day was ahead at the last check, when that was, and what it has gained by when.
        self._seen = 0.0
        self._seen_at = -inf
        self._gains: list[tuple[float, float]] = []

    def adopt_ring(self, epoch: int, others: frozenset[str]) -> None:
        """Record the epoch of the newest ring, and the ids of its other processes.

        Without others nothing is fenced: the ring is of one node, which no other can replace; or this process is
        not in it, and serves nothing anyway; or its nodes do not fence.
        """
        self._epoch, self._others = epoch, others

    @property
    def active(self) -> bool:
        """True if the node needs a right."""
        return bool(self._others)

    def granted(self, router: str, seconds: float, sent_at: float, epoch: int, ahead: float) -> None:
        """Record a lease of `seconds` that was requested of `router` at `sent_at`; see `Right` for the rest.

        The one before stays, if it is valid with the present ring and this one is not yet: the ring comes by
        another connection, often later, and a router counts the lease from its newest renewal. It ends no later
        than this one: a router that was restarted with a shorter LEASE_SECONDS waits no longer than that.
        """
        self.seconds = seconds
        right = self._right(seconds, sent_at, epoch, ahead, None)
        valid = [
            kept._replace(until=min(kept.until, right.until))
            for kept in self._leases.get(router, ())
            if kept.epoch <= self._epoch < epoch
        ]
        self._leases[router] = (*valid[-1:], right)

    def returned(self, router: str) -> None:
        """Record that the node gives back the lease of `router`, which then does not wait for promises either."""
        self._leases.pop(router, None)
        self._promise = None

    def promised(
        self, seconds: float, requested_at: float, epoch: int, ahead: float, members: frozenset[str]
    ) -> None:
        """Record that `members` stand by the ring with `epoch` for `seconds`; they were requested at
        `requested_at`."""
        self._promise = self._right(seconds, requested_at, epoch, ahead, members)

    def _right(
        self, seconds: float, requested_at: float, epoch: int, ahead: float, members: frozenset[str] | None
    ) -> Right:
        margin = margin_of(seconds)
        lost, seen = 0.0, ahead
        if self._seen_at > requested_at:
            lost, seen = sum(gained for at, gained in self._gains if at > requested_at), self._seen
        return Right(requested_at + seconds - margin, epoch, ahead, margin, members, seen, lost)

    def _look_at_time(self, now: float, ahead: float) -> None:
        """Remember what the time of day has gained on the clock since the last check, if it is much."""
        if self._seen_at > -inf and ahead - self._seen >= GAIN_SECONDS:
            self._gains.append((now, ahead - self._seen))
            if len(self._gains) > MAX_GAINS:
                (_, first), (at, second) = self._gains[:2]
                self._gains[:2] = [(at, first + second)]
        self._seen, self._seen_at = ahead, now

    def may_serve(self, now: float, wall: float) -> bool:
        """Return True if the node may serve at `now`, seconds of its clock; `wall`: the time of day then."""
        self._look_at_time(now, wall - now)
        self._drop_expired(now, wall - now)
        leases_end, promise_expires_at = self._expire_at()
        until = max(leases_end, promise_expires_at)
        self.is_open = not self.active or now < until
        self.by_promise = self.active and leases_end <= now < promise_expires_at
        # While closed, only a new right or ring can open it, after which it is checked.
        self.check_at = min(now + CHECK_SECONDS, until) if self.active and self.is_open else inf
        return self.is_open

    def request_at(self) -> float:
        """Return when to ask for promises: when less than half of the longest right is left; inf if never."""
        if not self.active or not self.seconds:
            return inf
        return max(self._expire_at()) - (self.seconds - margin_of(self.seconds)) / 2

    def _drop_expired(self, now: float, ahead: float) -> None:
        for router, rights in self._leases.items():
            self._leases[router] = tuple(left for right in rights if (left := right.at(now, ahead)) is not None)
        if self._promise is not None:
            self._promise = self._promise.at(now, ahead)

    def _expire_at(self) -> tuple[float, float]:
        """Return when the rights end that are valid with the present ring: leases and promises; -inf if none is."""
        lease = max(
            (
                right.expires_at
                for rights in self._leases.values()
                for right in rights
                if right.epoch <= self._epoch
            ),
            default=-inf,
        )
        promise = self._promise
        if promise is None or promise.epoch != self._epoch or not self._others <= (promise.members or frozenset()):
            return lease, -inf
        return lease, promise.expires_at
