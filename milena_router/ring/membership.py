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

**A node that leaves without handing over** is recorded (`milena_router.ring.losses.missing_nodes`). Each change of
these records makes a new ring, because the nodes keep them with the ring for the next router.

**Where all members hand slots over** (they report it), a change of members makes moves, and a ring follows each
report of slots that a node has taken over. `released_epoch` says which slots of lost processes may be served
(`milena_router.ring.losses.releases`). In such a ring a node that falls silent is lost only if another one is heard
after it: if all fall silent, this router is the isolated one. Then the ring is frozen: all members keep their
places until one of them is heard again, or a person removes them.

**A move that is stuck** (`milena_router.ring.stuck_moves`) is abandoned: its slots stay with their owner, and the
next moves are planned after a while, or when the members change.

**Where all members keep copies of each other's writes**, the ring has the holders of each slot, and changes when an
owner reports that one is complete or has failed (`milena_router.ring.losses.copy_timers`). Slots whose owner and
complete holders are all lost wait for one of them (`milena_router.ring.losses.copy_timers`).

**The cluster id** is created with the first ring and kept by the nodes. A node that holds a ring or dirty writes of
another cluster is rejected: its slots and versions are not comparable. Two routers that share nodes each created an
id; a node that is a member here reports the smaller one, and that becomes the id of both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from milena_common.api.errors import FailedPrecondition
from milena_common.cluster.member import RESP, RESP_TLS
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_assignment import Member, PlanChange, Ring
from milena_common.cluster.slot_runs import Run, overlaps
from milena_router.ring import shared_journals
from milena_router.ring.losses.copy_timers import FailingHolders, WaitingSlots, number_waiting, waits_for
from milena_router.ring.losses.missing_nodes import MissingNodes
from milena_router.ring.losses.releases import Loss, Releases
from milena_router.ring.recovery import Knowledge, LastRing, Lease, Recovery
from milena_router.ring.ring_status import NO_STATUS, RingStatus
from milena_router.ring.stuck_moves import StuckMove, StuckMoves, number_of

# Bounds the epoch that a node with a wrong clock can report.
MAX_AHEAD_MS = 10 * 366 * 86_400_000
# Shares are whole slots: with more members, equal ones would differ from their mean by more than 2 %.
MAX_MEMBERS = 320


@dataclass(frozen=True, slots=True)
class Change:
    """One membership change, and the ring after it.

    `kind` is "Join", "Leave", "Forget", or "Move" and "Copy" if only slots move or only holders change; then
    `address` may be "".
    """

    kind: str
    address: str
    reason: str
    ring: Ring


NOT_BACK = "not back after the router's start"
EXPIRED = "lease expired"
EXITED = "its process has ended"
NOTHING_KNOWN = Knowledge()


class Membership:
    """Leases and ring. `now` is monotonic seconds, `wall` seconds since 1970.

    `recovery`: the state of recovery before the first ring, None if there was no router before.
    `new_cluster_id` is the cluster's id if no node reports one. `recovery_wait` is how many seconds slots wait
    whose owner and complete holders are lost.
    """

    def __init__(
        self,
        lease_seconds: float,
        now: float,
        recovery: Recovery | None = None,
        new_cluster_id: str = "",
        recovery_wait: float = 60.0,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.ring = Ring.empty()
        self.default_bucket = ""
        self.cluster_id = ""
        self.leases: dict[str, Lease] = {}
        self.missing = MissingNodes()
        self.recovery = recovery
        self.frozen: set[str] = set()  # addresses of the members that all fell silent
        self.releases = Releases()
        self.progress = StuckMoves(lease_seconds)
        self.failing = FailingHolders(lease_seconds)
        self.waiting = WaitingSlots(recovery_wait)
        self._avoided: Collection[tuple[str, str]] = frozenset()  # when the holders were planned
        self.plan_at = now  # moves are planned from then on, unless members change
        self.promise_seconds = lease_seconds  # the longest lease, and so the longest promise
        self._balanced: Ring | None = None  # a ring that is known to need no moves
        self._new_cluster_id = new_cluster_id
        self._checked_at = now

    @property
    def recovering(self) -> bool:
        """True while the ring of the previous router is not known yet."""
        return self.recovery is not None

    @property
    def moving(self) -> bool:
        """True if all members fence themselves and hand slots over."""
        return bool(self.leases) and all(lease.ring_status.moves for lease in self.leases.values())

    @property
    def released_epoch(self) -> int:
        """Return the greatest epoch whose slots may be served; 0 if the members do not fence themselves."""
        return self.releases.released(self.ring.epoch) if self.moving and self.recovery is None else 0

    @property
    def has_absent_nodes(self) -> bool:
        """True if a node may still hand in writes that are older than what S3 has."""
        return bool(
            self.recovering
            or self.frozen
            or len(self.missing)
            or len(self.releases)
            or any(lease.ring_status.foreign_writes for lease in self.leases.values())
        )

    def join(
        self,
        member: Member,
        default_bucket: str,
        seen_epoch: int,
        now: float,
        wall: float,
        known: Knowledge = NOTHING_KNOWN,
        node_status: NodeStatus | None = None,
        status: RingStatus = NO_STATUS,
    ) -> Change | None:
        """Add `member` or renew its lease; return a Change if something changed, which it does not during recovery.

        `node_status` is the node's report of its writes, None if it sends none; `report` that of its part in the
        ring.

        Raises FailedPrecondition if its default bucket differs from the members' (the same bare key would name
        different objects on different nodes), if it belongs to another cluster, and if a node at another address
        has its journal.
        """
        if self.recovery is not None:
            self._join_recovering(
                self.recovery, member, default_bucket, seen_epoch, now, wall, known, node_status, status
            )
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
            lease = self.leases[address] = Lease(
                member, now, now + self.lease_seconds, now, node_status=node_status, ring_status=status
            )
            self.missing.returned(member)
            self.releases.restarted(member)
            self.failing.restarted(address)
            joined = self._changed("Join", address, "new", seen_epoch, wall)
            lease.member_epoch = self.ring.epoch
            if not self.releases.is_lost(address, member.node_id):
                lease.acknowledged = self.ring.epoch  # a lease counts at a node that has this ring
            self._acknowledge(lease)
            return joined
        if address in self.frozen:
            self._thaw(now)
        held, lease.until, lease.heard_at = lease.until, now + self.lease_seconds, now
        previous, reported = lease.member, lease.ring_status
        if previous.node_id and not member.node_id:
            return None  # a caller that sends only the address
        if previous.node_id == member.node_id and reported.moves and not status.moves:
            # A process keeps its features: this is a caller that sends only some fields. Without its copies the
            # ring would have none, and acknowledge with one journal.
            status = reported
            member = replace(
                member,
                journal_id=member.journal_id or previous.journal_id,
                copies=previous.copies,
                zone=previous.zone,
            )
        if previous.node_id == member.node_id and status.is_older(reported):
            status, node_status = status.late(reported), lease.node_status
        lease.ring_status = status
        is_replaced = previous.node_id != member.node_id
        self._replace(lease, member, node_status, wall)
        reason = ""
        if adopts:
            reason = "cluster id of another router"
        elif is_replaced:
            # Another process, without the entries of the old one; or two processes that alternate at one address.
            twins = member.node_id == lease.replaced_id
            reason = "two nodes advertise this address: set ADVERTISE_ADDR" if twins else "restarted"
            lease.replaced_id = previous.node_id
        elif previous.weight != member.weight:
            reason = "weight changed"
        elif previous.addresses != member.addresses:
            # Clients with direct connections to the node need its new addresses.
            reason = "addresses changed"
        elif (previous.copies, previous.zone) != (member.copies, member.zone):
            reason = "copies or zone changed"
        elif reported.moves != status.moves:
            reason = "features changed"
        elif reported.leaving != status.leaving and self.moving:
            reason = "is leaving" if status.leaving else "is not leaving any more"
        change: Change | None = None
        if reason:
            renewed = [address] if is_replaced else []
            restarted = renewed if _has_same_journal(previous, member) else []
            before = self.ring
            change = self._changed("Join", address, reason, seen_epoch, wall, renewed=renewed, restarted=restarted)
            for each in restarted:
                self._await_destinations(before, each, previous.node_id, now)
        if is_replaced:
            self._process_replaced(lease, previous, held)
        self._acknowledge(lease)
        taken = self._take_over(lease, seen_epoch, wall)
        copied = self._change_holders(lease, seen_epoch, now, wall)
        first = change or taken or copied
        return replace(first, ring=self.ring) if first is not None else None

    def _process_replaced(self, lease: Lease, previous: Member, held_until: float) -> None:
        """Record that `previous` is gone, whose place and lease another process has: `held_until` was its end."""
        address, journal_id = previous.address, previous.journal_id
        self.failing.restarted(address)
        lease.acknowledged = self.ring.epoch
        if _has_same_journal(previous, lease.member):
            self.releases.restarted(lease.member)  # the journal's promises are the new process's
            return
        self.releases.member_lost(address, held_until + self.promise_seconds)
        others = self.leases.keys() - {address}
        self.releases.add(Loss(address, previous.node_id, journal_id, self.ring.epoch, held_until, set(others)))

    def _await_destinations(self, before: Ring, address: str, node_id: str, now: float) -> None:
        """Release the present ring only when the destinations of moves that a restart aborted have acknowledged it.

        `address`, `node_id`: the process that was restarted, with its journal, in the ring `before`. A destination
        may have taken slots over, and acknowledged writes, which no router knows yet: it acknowledges the ring when
        it has handed them in to the owner.
        """
        if not before.pending or not self.moving:
            return
        awaited = {
            move.address
            for _, _, move, owned in overlaps(before.pending, before.ranges())
            if address in (move.address, owned.address) and move.address in self.leases
        }
        if awaited:
            self.releases.add(Loss(address, node_id, "", self.ring.epoch, now, awaited))

    def _acknowledge(self, lease: Lease) -> None:
        """Record the epoch that a member acknowledges, at most that of the present ring."""
        epoch = min(lease.ring_status.acknowledged_epoch, self.ring.epoch)
        lease.acknowledged = max(lease.acknowledged, epoch)
        self.releases.acknowledged(lease.member.address, lease.member.node_id, epoch)

    def _take_over(self, lease: Lease, seen_epoch: int, wall: float) -> Change | None:
        """Give a member the slots that it reports as taken over; return the change, None if there is none."""
        address, status = lease.member.address, lease.ring_status
        if not status.taken or not (self.ring.pending or self.ring.copies.runs) or not self.moving:
            return None
        before = self.ring.slots_by_node()[address]
        epoch = self._next_epoch(seen_epoch, wall)
        ring = self.ring.with_taken(address, status.taken, epoch, self._plan_change())
        if ring is None:
            return None
        self.ring = ring
        number = ring.slots_by_node()[address] - before
        change = Change("Move", address, f"took over {number} slots", ring)
        return replace(change, ring=self.ring) if self._balance(wall) else change

    def _change_holders(self, lease: Lease, seen_epoch: int, now: float, wall: float) -> Change | None:
        """Follow a member's report about the holders of its slots; return the change, None if there is none."""
        address, status = lease.member.address, lease.ring_status
        if not (status.completed or status.failed_holders) or not self.ring.copies.runs:
            return None
        for holder in {each.holder for each in status.failed_holders}:
            self.failing.add(address, holder, status.copies_epoch, now)
        ring = self.ring.with_reports(
            address,
            status.completed,
            status.failed_holders,
            status.copies_epoch,
            self._next_epoch(seen_epoch, wall),
            self._plan_change(),
        )
        if ring is None:
            return None
        failed = sorted({each.holder for each in status.failed_holders})
        completed = sorted({each.holder for each in status.completed} - set(failed))
        for holder in completed:
            self.failing.completed(address, holder)
        self.ring = ring
        reasons = [f"{each} failed as its holder" for each in failed] + [
            f"{each} has its copies" if each != address else "it has collected the writes of a lost owner"
            for each in completed
        ]
        return Change("Copy", address, "; ".join(reasons[:5]), ring)

    def balance(self, wall: float) -> Change | None:
        """Plan the moves and holders that the ring needs now; return the change, None without.

        Slots that have waited for long enough are given to other nodes.
        """
        if self.recovery is not None:
            return None
        return self._end_wait(wall) or self._balance(wall) or self._list_again(wall)

    def _end_wait(self, wall: float) -> Change | None:
        given_up = self.waiting.given_up(self.ring, self._checked_at)
        if not given_up or not self.leases or self.frozen:
            return None
        waited_for, number = waits_for(self.ring), number_waiting(self.ring)
        change = self._changed("Move", "", "", 0, wall, given_up=given_up)
        number -= number_waiting(self.ring)
        self.waiting.given_up_slots += number
        reason = f"{number} slots have waited for {waited_for}: acknowledged writes that S3 does not have are lost"
        return replace(change, reason=reason)

    def _list_again(self, wall: float) -> Change | None:
        """List holders again that had failed, if they may be; None if none may."""
        if not self.ring.copies.runs or self.failing.avoided(self._checked_at) == self._avoided:
            return None
        ring = self.ring.with_copies(self._next_epoch(0, wall), self._plan_change())
        if ring is None:
            return None
        self.ring = ring
        return Change("Copy", "", "holders that had failed are filled again", ring)

    def _balance(self, wall: float) -> Change | None:
        if self.ring is self._balanced or self.ring.pending or not self.moving or self._checked_at < self.plan_at:
            return None
        if self.ring.is_balanced(self._leaving()):
            self._balanced = self.ring
            return None
        return self._changed("Move", "", "the next moves", 0, wall)

    def stuck_moves(self, now: float) -> list[StuckMove]:
        """Return the moves that make no progress; `abandon` removes them when their destinations have agreed."""
        return self.progress.find(self.ring, now) if self.recovery is None and self.moving else []

    def abandon(self, move: StuckMove, slots: Sequence[Run], now: float, wall: float) -> Change | None:
        """Leave `slots` of `move` with their owners; None if they are not pending to its destination any more.

        The destination must have promised not to take them. Slots that it has taken before are not among them.
        """
        ring = self.ring.without_moves(slots, self._next_epoch(0, wall)) if self.recovery is None else None
        if ring is None:
            return None
        number = number_of(self.ring.pending) - number_of(ring.pending)
        self.ring = ring
        self.progress.abandoned(move, number, self.leases)
        self.plan_at = now + self.progress.retry_after()
        return Change("Move", move.destination, f"abandoned the move of {number} slots from {move.owner}", ring)

    def _plan_change(
        self,
        departed: int = 0,
        clean: Collection[str] = (),
        forgotten: Collection[str] = (),
        given_up: int = 0,
        doubtful: bool = False,
    ) -> PlanChange:
        self._avoided = self.failing.avoided(self._checked_at)
        return PlanChange(self._leaving(), self._avoided, departed, clean, forgotten, given_up, doubtful)

    def _leaving(self) -> list[str]:
        return [address for address, lease in self.leases.items() if lease.ring_status.leaving]

    def _thaw(self, now: float) -> None:
        """End the freeze: a member is heard again, and the others get a lease's time to be heard too."""
        self.frozen.clear()
        for lease in self.leases.values():
            lease.until = max(lease.until, now + self.lease_seconds)

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
        """Remove the record of the missing node at `address`; None if there is none. Members are not affected.

        It is also a person's word that no process of that node runs any more, so its slots are released, and that
        its journal does not come back, so that no slots wait for it.
        """
        awaited = any(member.address == address for part in self.ring.copies.waiting for member in part.processes)
        found = [self.missing.write_off(address), self.releases.write_off(address), awaited]
        if not any(found) or self.recovery is not None:
            return None
        return self._changed("Forget", address, "written off", 0, wall, departed=1, forgotten=[address])

    def remove_member(
        self, address: str, node_id: str, now: float, wall: float, node_status: NodeStatus | None = None
    ) -> Change | None:
        """Remove the node at `address`; None if there is none, or it has another id than `node_id` (if given).

        `node_status` is the leaving node's own report, None if another caller removes it. A process that has left
        with writes leaves once more when their owners have them: then its record is removed.
        """
        lease = self.leases.get(address)
        if lease is None or (node_id and lease.member.node_id and node_id != lease.member.node_id):
            if _took_nothing_along(node_id, node_status) and self.missing.handed_in(address, node_id):
                return self._changed("Forget", address, "its writes were handed in", 0, wall)
            return None
        self._remove(address)
        self._departed(lease, node_id, node_status, wall)
        clean = (
            bool(node_id)
            and node_status is not None
            and not node_status.has_writes
            and not self._has_unknown_slots(lease)
        )
        change = self._changed(
            "Leave", address, "left", 0, wall, departed=int(clean or not node_id), clean=[address] if clean else []
        )
        if node_id:
            self.releases.member_exited(address, now + self.promise_seconds)
        else:
            # A person decides that it goes, and not that it has stopped.
            self.releases.member_lost(address, lease.until + self.promise_seconds)
            self._add_loss(lease, set(self.leases), None)
        return change

    def _has_unknown_slots(self, lease: Lease) -> bool:
        """Return True if the ring gave slots with copies to this member, and it may not know that.

        (1) A node leaves, which is the complete holder of a lost owner's slots; (2) the router gives it those
        slots; (3) its word arrives that it has no writes, from before that. It has: the copies.
        """
        known = lease.ring_status.acknowledged_epoch
        return bool(self.ring.copies.runs) and any(
            run.owned_since > known for run in self.ring.ranges() if run.address == lease.member.address
        )

    def process_exited(self, address: str, node_id: str, now: float, wall: float) -> Change | None:
        """Remove the node at `address`, whose process `node_id` has provably ended; None if that is no member.

        It serves nothing any more, so nothing is waited for.
        """
        lease = self.leases.get(address)
        if lease is None or not node_id or lease.member.node_id != node_id or self.recovery is not None:
            return None
        self._remove(address)
        self.missing.add_lost(lease.member, lease.node_status, self._members(), wall, EXITED)
        change = self._changed("Leave", address, EXITED, 0, wall)
        self.releases.member_exited(address, now + self.promise_seconds)
        return change

    def _remove(self, address: str) -> Lease:
        self.frozen.discard(address)
        return self.leases.pop(address)

    def _add_loss(self, lease: Lease, others: set[str], witnesses: set[str] | None) -> None:
        """Record that a member was lost with the present ring."""
        member = lease.member
        self.releases.add(
            Loss(member.address, member.node_id, member.journal_id, self.ring.epoch, lease.until, others, witnesses)
        )

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
        over = self._over(now)
        # A ring that is not fenced has no promises, for which a witness is needed.
        fenced = self.released_epoch > 0
        gone = [self._remove(address) for address in over]
        for lease in gone:
            self.missing.add_lost(lease.member, lease.node_status, self._members(), wall, EXPIRED)
        if self.recovery is not None:
            if not self.leases:
                self.recovery.emptied()
            return []
        if not over:
            return []
        last = self._changed("Leave", over[-1], EXPIRED, 0, wall)
        for lease in gone:
            self.releases.member_lost(lease.member.address, lease.until + self.promise_seconds)
            witnesses = {
                address for address, other in self.leases.items() if other.member_epoch <= lease.acknowledged
            }
            self._add_loss(lease, set(self.leases), witnesses if fenced else None)
        for lease in gone:
            # Each was a member of the ring before the losses of the others.
            for other in gone:
                if other is not lease:
                    self.releases.promised(lease.member.address, other.until + self.promise_seconds)
        return [replace(last, address=address) for address in over]

    def _over(self, now: float) -> list[str]:
        """Return the addresses of the nodes that are lost; freeze the ring if all fell silent."""
        over = [address for address, lease in self.leases.items() if lease.until <= now]
        if not over or self.recovery is not None or not (self.moving or self.frozen):
            return over
        if len(over) == len(self.leases):
            self.frozen = set(over)
        # Nodes renew every third of their leases. If none was heard for half of one, they may all be silent.
        heard_since = now - self.lease_seconds / 2
        if all(lease.heard_at < heard_since for lease in self.leases.values()):
            return []
        return [address for address in over if address not in self.frozen]

    # ---- with other routers

    def renewed_elsewhere(
        self,
        address: str,
        node_id: str,
        lease_seconds: float,
        now: float,
        acknowledged: int,
        status: NodeStatus | None,
        status_number: int = 0,
    ) -> None:
        """Record that another router has renewed the lease of the process `node_id`, at `now` at the latest.

        `acknowledged`: the epoch that the node acknowledged with that, `status_number`: that of its status.
        """
        lease = self.leases.get(address)
        if lease is None or lease.member.node_id != node_id:
            return
        if address in self.frozen:
            self._thaw(now)
        lease.until = max(lease.until, now + max(self.lease_seconds, lease_seconds))
        lease.heard_at = now
        known = lease.ring_status
        if not 0 < status_number < known.number:
            lease.node_status = status or lease.node_status
            lease.ring_status = replace(known, number=max(status_number, known.number))
        lease.acknowledged = max(lease.acknowledged, min(acknowledged, self.ring.epoch))

    def recover_again(self, recovery: Recovery) -> None:
        """Recover the ring of the nodes, as after a start: the state that was kept for it is lost."""
        self.recovery = recovery
        self.ring = Ring.empty()
        self.leases = {}
        self.frozen.clear()
        self.releases = Releases()

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
        status: RingStatus,
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
            lease = self.leases[address] = Lease(member, now, 0.0, now)
        lease.until, lease.heard_at = now + self.lease_seconds, now
        if lease.member.node_id == member.node_id and status.is_older(lease.ring_status):
            status, node_status = status.late(lease.ring_status), lease.node_status
        if member.node_id or not lease.member.node_id:
            self._replace(lease, member, node_status, wall)
            lease.default_bucket, lease.cluster_id = default_bucket, known.cluster_id
            lease.ring_status = status
        recovery.member_joined(member, known, seen_epoch, now)

    def withdraw(self, address: str, node_id: str, wall: float, node_status: NodeStatus | None = None) -> bool:
        """Record during recovery that a node leaves, as `remove_member` does later; return True if it was known."""
        assert self.recovery is not None
        lease = self.leases.get(address)
        if _took_nothing_along(node_id, node_status):
            self.missing.handed_in(address, node_id)
            if len(self.recovery.handed_in) < MAX_MEMBERS:
                self.recovery.handed_in.add((address, node_id))
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
        last = recovered.last
        if last is not None:
            ring = last.ring
            self.ring = Ring.restored(ring.epoch, ring.members, ring.ranges(), ring.pending, ring.copies)
            self.promise_seconds = max(self.promise_seconds, last.lease_seconds)
        self.leases = shared_journals.without_copies(self.leases, self.ring.members)
        members = {address: lease.member for address, lease in self.leases.items()}
        if last is not None:
            known_missing = (
                node for node in last.missing if (node.address, node.node_id) not in recovery.handed_in
            )
            self.missing.restore(known_missing, members.values())
        gone = [
            member
            for member in self.ring.members
            if member.address not in members and not recovery.has_withdrawn(member)
        ]
        for member in gone:
            self.missing.add_lost(member, None, members.values(), wall, NOT_BACK)
        known = {member.address: member for member in self.ring.members}
        differences = _differences(self.ring.members, members)
        stays = not recovered.superseded and (self.moving or not self.ring.pending)
        if last is not None and not differences and stays:
            # Members as they joined: fields that are not published, such as the metrics port, may differ.
            ring = self.ring
            self.ring = Ring.restored(ring.epoch, members.values(), ring.ranges(), ring.pending, ring.copies)
            self._balanced = self.ring
            changes = [Change("Join", address, "in the last ring", self.ring) for address in members]
        else:
            renewed = [address for _, address, reason in differences if reason == "restarted"]
            restarted = [each for each in renewed if _has_same_journal(known[each], members[each])]
            before = self.ring
            ring = self._changed(
                "Join",
                "",
                "",
                seen_epoch,
                wall,
                renewed=members if recovered.superseded else renewed,
                restarted=members.keys() - set(renewed) | set(restarted) if recovered.superseded else restarted,
                doubtful=recovered.superseded,
            ).ring
            for each in restarted:
                self._await_destinations(before, each, known[each].node_id, now)
            changes = [
                Change(kind, address, reason, ring)
                for kind, address, reason in differences
                or [("Join", address, "a newer ring is not known") for address in members]
            ]
        if last is not None:
            leases_end = max(now, recovery.first_join + self.promise_seconds)
            self._recover_releases(last, known, gone, leases_end, recovered.superseded)
        for address, lease in self.leases.items():
            old = known.get(address)
            lease.member_epoch = 0 if old is not None else self.ring.epoch
            if old is None or old.node_id != lease.member.node_id:
                lease.acknowledged = self.ring.epoch
            self._acknowledge(lease)
        return changes

    def _recover_releases(
        self, last: LastRing, known: dict[str, Member], gone: list[Member], leases_end: float, superseded: bool
    ) -> None:
        """Begin with what is not released: losses since the last ring, and those that the router before knew of.

        `known` are the members of the last ring by address, and `gone` those of them that are lost. All leases that
        the router before granted are over at `leases_end`.
        """
        present = set(self.leases)
        promises_end = leases_end + self.promise_seconds
        if superseded or last.released_epoch < last.ring.epoch:
            # Its members must acknowledge this ring again: which acknowledgements the router before waited for is
            # not known.
            self.releases.add(
                Loss("", "", "", last.released_epoch + 1, promises_end, set(present), acknowledge=self.ring.epoch)
            )
        witnesses = present & known.keys()
        for member in gone:
            expires_at = promises_end if len(gone) > 1 else leases_end
            self.releases.add(
                Loss(
                    member.address,
                    member.node_id,
                    member.journal_id,
                    self.ring.epoch,
                    expires_at,
                    set(present),
                    witnesses if last.released_epoch and witnesses else None,
                )
            )
        for address, lease in self.leases.items():
            old = known.get(address)
            if old is not None and old.node_id != lease.member.node_id:
                if old.journal_id and old.journal_id == lease.member.journal_id:
                    continue
                expires_at = promises_end if gone else leases_end
                self.releases.add(
                    Loss(address, old.node_id, old.journal_id, self.ring.epoch, expires_at, present - {address})
                )

    def _next_epoch(self, seen_epoch: int, wall: float) -> int:
        wall_epoch = int(wall * 1000)
        # No correct node has seen an epoch far in the future, and an accepted one could never be undone.
        seen_epoch = min(seen_epoch, wall_epoch + MAX_AHEAD_MS)
        return max(self.ring.epoch + 1, seen_epoch + 1, wall_epoch)

    def _changed(
        self,
        kind: str,
        address: str,
        reason: str,
        seen_epoch: int,
        wall: float,
        *,
        renewed: Collection[str] = (),
        restarted: Collection[str] = (),
        departed: int = 0,
        clean: Collection[str] = (),
        forgotten: Collection[str] = (),
        given_up: int = 0,
        doubtful: bool = False,
    ) -> Change:
        self.ring = self.ring.with_members(
            [lease.member for lease in self.leases.values()],
            self._next_epoch(seen_epoch, wall),
            renewed=renewed,
            restarted=restarted,
            moving=self.moving,
            change=self._plan_change(departed, clean, forgotten, given_up, doubtful),
        )
        return Change(kind, address, reason, self.ring)


def _has_same_journal(before: Member, member: Member) -> bool:
    return bool(member.journal_id) and before.journal_id == member.journal_id


def _took_nothing_along(node_id: str, node_status: NodeStatus | None) -> bool:
    """True if a process reports itself, as it leaves, that all its acknowledged writes are elsewhere."""
    return bool(node_id) and node_status is not None and not node_status.has_writes


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
        elif any(old.addresses.get(name) != member.addresses.get(name) for name in (RESP, RESP_TLS)):
            found.append(("Join", address, "addresses changed"))
        elif (old.copies, old.zone) != (member.copies, member.zone):
            found.append(("Join", address, "copies or zone changed"))
    return found
