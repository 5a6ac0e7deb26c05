"""Pure. Who is in the ring: leases, and the ring that follows from them.

A node is a member from its Join until it leaves or its lease ends. Each change of members makes a new ring and
is returned as a `Change`, for the caller to log and act on. Joining again as before renews the lease and changes
nothing else.

**Epochs grow across restarts and across routers.** The next epoch is one more than the last, or the wall clock
in milliseconds if that is greater, or one more than the greatest that a joining node has seen. So a router
that was restarted never hands out an epoch that its predecessor used, even with the clock set back.

**A router that was asleep** (stopped, or starved of CPU) finds every lease over when it wakes up, because the
renewals sat in its socket. It must not empty the ring for a fault of its own: `expire` notices that it is
called late, and grants every lease the time that the router itself was away, up to a whole lease from now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from milena_common.errors import FailedPrecondition
from milena_common.ring import Member, Ring

# A clock may have been wrong by years.
MAX_AHEAD_MS = 10 * 366 * 86_400_000
# Every change decides each slot anew, and costs time for each member.
MAX_MEMBERS = 256


@dataclass(frozen=True, slots=True)
class Change:
    """One membership change, and the ring that followed. `kind` is "Join" or "Leave"."""

    kind: str
    address: str
    reason: str
    ring: Ring


@dataclass(slots=True)
class Lease:
    """A member, when it came and when its lease ends (seconds on the router's monotonic clock).

    `replaced_id` is that of the process that was at this address before.
    """

    member: Member
    since: float
    until: float
    replaced_id: str = ""


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
        if address not in self.leases and len(self.leases) >= MAX_MEMBERS:
            raise FailedPrecondition(f"the ring has {MAX_MEMBERS} nodes, which is the most that it takes")
        self.default_bucket = default_bucket or self.default_bucket
        lease = self.leases.get(address)
        if lease is None:
            self.leases[address] = Lease(member, now, now + self.lease_seconds)
            return self._changed("Join", address, "new", seen_epoch, wall)
        lease.until = now + self.lease_seconds
        previous = lease.member
        if previous.node_id and not member.node_id:
            return None  # somebody who knows no more than the address
        lease.member = member
        if previous.weight != member.weight:
            return self._changed("Join", address, "weight changed", seen_epoch, wall)
        if previous.node_id != member.node_id:
            # Another process, which has none of the copies; or two that take turns, each with its own.
            twins = member.node_id == lease.replaced_id
            reason = "two nodes advertise this address: set ADVERTISE_ADDR" if twins else "restarted"
            lease.replaced_id = previous.node_id
            return self._changed("Join", address, reason, seen_epoch, wall, renewed=address)
        if previous.addresses != member.addresses:
            # Those who go straight to the node must learn where it is now.
            return self._changed("Join", address, "addresses changed", seen_epoch, wall)
        return None

    def leave(self, address: str, node_id: str, wall: float) -> Change | None:
        """Take out the node at `address`; None if there is none, or another one than `node_id` (if that is given).

        A process that stops late must not take out the one that was started in its place.
        """
        lease = self.leases.get(address)
        if lease is None or (node_id and lease.member.node_id and node_id != lease.member.node_id):
            return None
        del self.leases[address]
        return self._changed("Leave", address, "left", 0, wall)

    def expire(self, now: float, wall: float) -> list[Change]:
        """Take out the nodes whose lease is over. Call it several times in each lease."""
        away, self._checked_at = now - self._checked_at, now
        if away > self.lease_seconds / 2:
            for lease in self.leases.values():
                lease.until = min(lease.until + away, now + self.lease_seconds)
        over = [address for address, lease in self.leases.items() if lease.until <= now]
        for address in over:
            del self.leases[address]
        if not over:
            return []
        last = self._changed("Leave", over[-1], "lease expired", 0, wall)
        return [replace(last, address=address) for address in over]

    def _changed(
        self, kind: str, address: str, reason: str, seen_epoch: int, wall: float, *, renewed: str | None = None
    ) -> Change:
        wall_epoch = int(wall * 1000)
        # No honest node has seen an epoch far in the future, and one that is believed would never be got rid of.
        seen_epoch = min(seen_epoch, wall_epoch + MAX_AHEAD_MS)
        epoch = max(self.ring.epoch + 1, seen_epoch + 1, wall_epoch)
        members = [lease.member for lease in self.leases.values()]
        self.ring = self.ring.with_members(members, epoch, renewed=renewed)
        return Change(kind, address, reason, self.ring)
