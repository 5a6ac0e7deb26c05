"""Pure. The members of the ring: their leases, and the ring computed from them.

A node is a member from its Join until it leaves or its lease expires. Each change of members makes a new ring and
is returned as a `Change`, for the caller to log and act on. An unchanged Join renews the lease and changes nothing
else.

**Epochs grow across restarts and across routers.** The next epoch is one more than the last, or the wall clock in
milliseconds if that is greater, or one more than the greatest that a joining node has seen. So a restarted router
never publishes an epoch that its predecessor used, even with the clock set back.

**A router that was suspended** (stopped, or starved of CPU) finds every lease expired when it resumes, because the
renewals waited in its socket. It must not empty the ring for its own pause: `expire` detects that it is called
late, and extends every lease by the length of the pause, up to a whole lease from now.

**A starting router** first recovers the ring of its predecessor (`milena_router.ring.recovery`), exactly: the owner
of a slot is state, which the members alone do not determine. Until that ends, joins only grant leases, there is no
ring, and `recover` returns nothing.

**A node that leaves without handing over** is recorded (`milena_router.ring.missing_nodes`). Each change of these
records makes a new ring, because the nodes keep them with the ring for the next router.

**The cluster id** is created with the first ring and kept by the nodes. A node that holds a ring or dirty writes of
another cluster is rejected: its slots and versions are not comparable. Two routers that share nodes each created an
id; a node that is a member here reports the smaller one, and that becomes the id of both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring import shared_journals
from milena_router.ring.missing_nodes import MissingNodes
from milena_router.ring.recovery import Knowledge, Lease, Recovery

# Bounds the epoch that a node with a wrong clock can report.
MAX_AHEAD_MS = 10 * 366 * 86_400_000
# Shares are whole slots: with more members, equal ones would differ from their mean by more than 2 %.
MAX_MEMBERS = 320


@dataclass(frozen=True, slots=True)
class Change:
    """One membership change, and the ring after it. `kind` is "Join", "Leave" or "Forget"."""

    kind: str
    address: str
    reason: str
    ring: Ring


NOT_BACK = "not back after the router's start"
NOTHING_KNOWN = Knowledge()


class Membership:
    """Leases and ring. `now` is monotonic seconds, `wall` seconds since 1970.

    `recovery`: the state of recovery before the first ring, None if there was no router before.
    `new_cluster_id` is the cluster's id if no node reports one.
    """

    def __init__(
        self, lease_seconds: float, now: float, recovery: Recovery | None = None, new_cluster_id: str = ""
    ) -> None:
        self.lease_seconds = lease_seconds
        self.ring = Ring.empty()
        self.default_bucket = ""
        self.cluster_id = ""
        self.leases: dict[str, Lease] = {}
        self.missing = MissingNodes()
        self.recovery = recovery
        self._new_cluster_id = new_cluster_id
        self._checked_at = now

    @property
    def recovering(self) -> bool:
        """True while the ring of the previous router is not known yet."""
        return self.recovery is not None

    def join(
        self,
        member: Member,
        default_bucket: str,
        seen_epoch: int,
        now: float,
        wall: float,
        known: Knowledge = NOTHING_KNOWN,
        node_status: NodeStatus | None = None,
    ) -> Change | None:
        """Add `member` or renew its lease; return a Change if something changed, which it does not during recovery.

        `node_status` is the node's report of its writes, None if it sends none.

        Raises FailedPrecondition if its default bucket differs from the members' (the same bare key would name
        different objects on different nodes), if it belongs to another cluster, and if a node at another address
        has its journal.
        """
        if self.recovery is not None:
            self._join_recovering(self.recovery, member, default_bucket, seen_epoch, now, wall, known, node_status)
            return None
        address = member.address
        others = any(other != address for other in self.leases)
        if default_bucket and self.default_bucket and default_bucket != self.default_bucket and others:
            raise FailedPrecondition(
                f"default_bucket: {address} has S3_BUCKET={default_bucket}, the ring's nodes have "
                f"S3_BUCKET={self.default_bucket}; all nodes of one ring need the same"
            )
        lease = self.leases.get(address)
        is_member = lease is not None and lease.member.node_id == member.node_id
        adopts = bool(known.cluster_id) and (not others or (is_member and known.cluster_id < self.cluster_id))
        if known.cluster_id and known.cluster_id != self.cluster_id and not adopts and not is_member:
            raise FailedPrecondition(
                f"cluster_id: {address} holds a ring or dirty writes of cluster {known.cluster_id}, and this "
                f"router's nodes are cluster {self.cluster_id}; restart the node when its dirty writes are in S3, "
                "or with another JOURNAL_DIR"
            )
        shared_journals.check(member, self.leases)
        if lease is None and len(self.leases) >= MAX_MEMBERS:
            raise _full()
        self.default_bucket = default_bucket or self.default_bucket
        cluster_id = known.cluster_id if adopts else self.cluster_id or self._new_cluster_id
        adopts, self.cluster_id = cluster_id != self.cluster_id, cluster_id
        if lease is None:
            self.leases[address] = Lease(member, now, now + self.lease_seconds, node_status=node_status)
            self.missing.returned(member)
            return self._changed("Join", address, "new", seen_epoch, wall)
        lease.until = now + self.lease_seconds
        previous = lease.member
        if previous.node_id and not member.node_id:
            return None  # a caller that sends only the address
        self._replace(lease, member, node_status, wall)
        if adopts:
            return self._changed("Join", address, "cluster id of another router", seen_epoch, wall)
        if previous.weight != member.weight:
            return self._changed("Join", address, "weight changed", seen_epoch, wall)
        if previous.node_id != member.node_id:
            # Another process, without the entries of the old one; or two processes that alternate at one address.
            twins = member.node_id == lease.replaced_id
            reason = "two nodes advertise this address: set ADVERTISE_ADDR" if twins else "restarted"
            lease.replaced_id = previous.node_id
            return self._changed("Join", address, reason, seen_epoch, wall, renewed=[address])
        if previous.addresses != member.addresses:
            # Clients with direct connections to the node need its new addresses.
            return self._changed("Join", address, "addresses changed", seen_epoch, wall)
        return None

    def _replace(self, lease: Lease, member: Member, node_status: NodeStatus | None, wall: float) -> None:
        """Replace the lease's member by `member`, and record the old one as missing if its journal is gone."""
        before, lease.member = lease.member, member
        if before.journal_id and member.journal_id and before.journal_id != member.journal_id:
            reason = "a node with another journal is in its place"
            self.missing.add_lost(before, lease.node_status, self._members(), wall, reason)
        lease.node_status = node_status
        self.missing.returned(member)

    def _members(self) -> list[Member]:
        return [lease.member for lease in self.leases.values()]

    def write_off(self, address: str, wall: float) -> Change | None:
        """Remove the record of the missing node at `address`; None if there is none. Members are not affected."""
        return self._changed("Forget", address, "written off", 0, wall) if self.missing.write_off(address) else None

    def remove_member(
        self, address: str, node_id: str, wall: float, node_status: NodeStatus | None = None
    ) -> Change | None:
        """Remove the node at `address`; None if there is none, or it has another id than `node_id` (if given).

        `node_status` is the leaving node's own report, None if another caller removes it.

        A process that stops late must not remove the one that was started in its place. During recovery there is no
        ring yet, and `withdraw` must be called instead.
        """
        lease = self.leases.get(address)
        if lease is None or (node_id and lease.member.node_id and node_id != lease.member.node_id):
            return None
        del self.leases[address]
        self._departed(lease, node_id, node_status, wall)
        return self._changed("Leave", address, "left", 0, wall)

    def _departed(self, lease: Lease, node_id: str, node_status: NodeStatus | None, wall: float) -> None:
        """Record a node that left with acknowledged writes as missing."""
        last = node_status or (None if node_id else lease.node_status)
        if last is not None and last.has_writes:
            reason = "left with acknowledged writes" if node_status else "taken out of the ring by hand"
            self.missing.add_lost(lease.member, last, self._members(), wall, reason)

    def expire(self, now: float, wall: float) -> list[Change]:
        """Remove the nodes with expired leases. Call it several times per lease."""
        away, self._checked_at = now - self._checked_at, now
        if away > self.lease_seconds / 2:
            for lease in self.leases.values():
                lease.until = min(lease.until + away, now + self.lease_seconds)
            if self.recovery is not None:
                self.recovery.delayed(away)
        over = [address for address, lease in self.leases.items() if lease.until <= now]
        gone = [self.leases.pop(address) for address in over]
        for lease in gone:
            self.missing.add_lost(lease.member, lease.node_status, self._members(), wall, "lease expired")
        if self.recovery is not None:
            if not self.leases:
                self.recovery.emptied()
            return []
        if not over:
            return []
        last = self._changed("Leave", over[-1], "lease expired", 0, wall)
        return [replace(last, address=address) for address in over]

    # ---- recovery

    def _join_recovering(
        self,
        recovery: Recovery,
        member: Member,
        default_bucket: str,
        seen_epoch: int,
        now: float,
        wall: float,
        known: Knowledge,
        node_status: NodeStatus | None,
    ) -> None:
        """Grant a lease.

        Conflicts are resolved at the end of recovery, when the cluster and its bucket are known.
        """
        address = member.address
        lease = self.leases.get(address)
        if lease is None:
            # Members that have not joined again yet keep their places.
            missing = recovery.awaited(self.leases)
            if address not in missing and len(self.leases) + len(missing) >= MAX_MEMBERS:
                raise _full()
            lease = self.leases[address] = Lease(member, now, 0.0)
        lease.until = now + self.lease_seconds
        if member.node_id or not lease.member.node_id:
            self._replace(lease, member, node_status, wall)
            lease.default_bucket, lease.cluster_id = default_bucket, known.cluster_id
        recovery.member_joined(member, known, seen_epoch, now)

    def withdraw(self, address: str, node_id: str, wall: float, node_status: NodeStatus | None = None) -> bool:
        """Record during recovery that a node leaves, as `remove_member` does later; return True if it was known."""
        assert self.recovery is not None
        lease = self.leases.get(address)
        if lease is not None and node_id and lease.member.node_id not in ("", node_id):
            return False
        joined = self.leases.pop(address, None) is not None
        if joined or node_status is not None:
            # A node that has not joined here yet is known only by its own report.
            self._departed(
                lease or Lease(self.recovery.member(address, node_id), 0.0, 0.0), node_id, node_status, wall
            )
        known = self.recovery.withdraw(address, "" if joined else node_id)
        if not self.leases:
            self.recovery.emptied()
        return joined or known

    def recover(self, now: float, wall: float) -> list[Change]:
        """End recovery if it can end now; return the changes against the last ring, or all its members if none.

        Each change has the published ring: the last one unchanged, unless a member differs.
        """
        recovered = self.recovery.outcome(self.leases, now) if self.recovery is not None else None
        if self.recovery is None or recovered is None:
            return []
        recovery, self.recovery = self.recovery, None
        seen_epoch = recovery.seen_epoch
        self.leases = {address: lease for address, lease in self.leases.items() if recovered.admits(lease)}
        self.default_bucket = recovered.default_bucket
        self.cluster_id = recovered.cluster_id or self._new_cluster_id
        if recovered.last is not None:
            self.ring = Ring.restored(
                recovered.last.ring.epoch, recovered.last.ring.members, recovered.last.ring.ranges()
            )
        self.leases = shared_journals.without_copies(self.leases, self.ring.members)
        members = {address: lease.member for address, lease in self.leases.items()}
        if recovered.last is not None:
            self.missing.restore(recovered.last.missing, members.values())
        for member in self.ring.members:
            if member.address not in members and not recovery.has_withdrawn(member):
                self.missing.add_lost(member, None, members.values(), wall, NOT_BACK)
        differences = _differences(self.ring.members, members)
        if recovered.last is not None and not differences and not recovered.superseded:
            # Members as they joined: fields that are not published, such as the metrics port, may differ.
            self.ring = Ring.restored(self.ring.epoch, members.values(), self.ring.ranges())
            return [Change("Join", address, "in the last ring", self.ring) for address in members]
        renewed = [address for _, address, reason in differences if reason == "restarted"]
        last = self._changed("Join", "", "", seen_epoch, wall, renewed=members if recovered.superseded else renewed)
        return [
            Change(kind, address, reason, last.ring)
            for kind, address, reason in differences
            or [("Join", address, "a newer ring is not known") for address in members]
        ]

    def _changed(
        self, kind: str, address: str, reason: str, seen_epoch: int, wall: float, *, renewed: Collection[str] = ()
    ) -> Change:
        wall_epoch = int(wall * 1000)
        # No correct node has seen an epoch far in the future, and an accepted one could never be undone.
        seen_epoch = min(seen_epoch, wall_epoch + MAX_AHEAD_MS)
        epoch = max(self.ring.epoch + 1, seen_epoch + 1, wall_epoch)
        members = [lease.member for lease in self.leases.values()]
        self.ring = self.ring.with_members(members, epoch, renewed=renewed)
        return Change(kind, address, reason, self.ring)


def _full() -> FailedPrecondition:
    return FailedPrecondition(f"the ring has {MAX_MEMBERS} nodes, which is the maximum")


def _differences(last: Collection[Member], now: dict[str, Member]) -> list[tuple[str, str, str]]:
    """Return the visible differences from the last ring: kind, address and reason of each change."""
    before = {member.address: member for member in last}
    found = [("Leave", address, NOT_BACK) for address in before if address not in now]
    for address, member in now.items():
        old = before.get(address)
        if old is None:
            found.append(("Join", address, "new"))
        elif old.node_id != member.node_id:
            found.append(("Join", address, "restarted"))
        elif old.weight != member.weight:
            found.append(("Join", address, "weight changed"))
        elif old.addresses.get("resp") != member.addresses.get("resp"):
            found.append(("Join", address, "addresses changed"))
    return found
