"""Pure. Who is in the ring: leases, and the ring that follows from them.

A node is a member from its Join until it leaves or its lease ends. Each change of members makes a new ring and
is returned as a `Change`, for the caller to log and act on. Joining again renews the lease and changes nothing
else.

**Epochs grow across restarts and across routers.** The next epoch is one more than the last, or the wall clock
in milliseconds if that is greater, or one more than the greatest that a joining node has seen. So a router
that was restarted never hands out an epoch that its predecessor used, even with the clock set back.

**A router that was asleep** (stopped, or starved of CPU) finds every lease over when it wakes up, because the
renewals sat in its socket. It must not empty the ring for a fault of its own: `expire` notices that it is
called late, and grants every lease the time that the router itself was away, up to a whole lease from now.
"""

from __future__ import annotations

from dataclasses import dataclass

from milena_common.errors import FailedPrecondition
from milena_common.ring import Member, Ring


@dataclass(frozen=True, slots=True)
class Change:
    """One membership change. `kind` is "Join" or "Leave"; `rings` says whether the ring is a new one."""

    kind: str
    address: str
    reason: str
    ring: Ring
    rings: bool = True


@dataclass(slots=True)
class Lease:
    """A member, when it came, and when its lease ends (seconds on the router's monotonic clock)."""

    member: Member
    since: float
    until: float


class Membership:
    """Leases and ring. `now` is monotonic seconds, `wall` seconds since 1970."""

    def __init__(self, lease_seconds: float, now: float) -> None:
        self.lease_seconds = lease_seconds
        self.ring = Ring.empty()
        self.default_bucket = ""
        self.leases: dict[str, Lease] = {}
        self._checked_at = now

    def join(self, member: Member, default_bucket: str, seen_epoch: int, now: float, wall: float) -> Change | None:
        """Take in `member` or renew its lease; a Change if something changed.

        Raises FailedPrecondition if its default bucket is not the one of the members: the same bare key
        would then name different objects on different nodes.
        """
        address = member.address
        others = any(other != address for other in self.leases)
        if default_bucket and self.default_bucket and default_bucket != self.default_bucket and others:
            raise FailedPrecondition(
                f"default_bucket: {address} has S3_BUCKET={default_bucket}, the ring's nodes have "
                f"S3_BUCKET={self.default_bucket}; all nodes of one ring need the same"
            )
        self.default_bucket = default_bucket or self.default_bucket
        lease = self.leases.get(address)
        if lease is None:
            self.leases[address] = Lease(member, now, now + self.lease_seconds)
            return self._changed("Join", address, "new", seen_epoch, wall)
        previous, lease.member, lease.until = lease.member, member, now + self.lease_seconds
        if previous.weight != member.weight:
            return self._changed("Join", address, "weight changed", seen_epoch, wall)
        if previous.node_id != member.node_id:
            return Change("Join", address, "restarted", self.ring, rings=False)
        return None

    def leave(self, address: str, wall: float) -> Change | None:
        """Take out the node at `address`; None if there is none."""
        if self.leases.pop(address, None) is None:
            return None
        return self._changed("Leave", address, "left", 0, wall)

    def expire(self, now: float, wall: float) -> list[Change]:
        """Take out the nodes whose lease is over. Call it several times in each lease."""
        away, self._checked_at = now - self._checked_at, now
        if away > self.lease_seconds / 2:
            for lease in self.leases.values():
                lease.until = min(lease.until + away, now + self.lease_seconds)
        over = [address for address, lease in self.leases.items() if lease.until <= now]
        changes = []
        for address in over:
            del self.leases[address]
            changes.append(self._changed("Leave", address, "lease expired", 0, wall))
        return changes

    def _changed(self, kind: str, address: str, reason: str, seen_epoch: int, wall: float) -> Change:
        epoch = max(self.ring.epoch + 1, seen_epoch + 1, int(wall * 1000))
        self.ring = self.ring.with_members([lease.member for lease in self.leases.values()], epoch)
        return Change(kind, address, reason, self.ring)
