"""Pure. Recovers the ring of the previous router after a router's start.

Publishing a ring of the first nodes to join would make temporary owners: they read S3 while the real owner still
holds dirty writes, so reads return older values and conditional updates are lost. A starting router therefore
publishes nothing, and collects what joining nodes report: each sends the epoch of the newest ring that it holds,
and that ring on request. Recovery ends when

- every member of the newest ring has joined again (or left): the same ring is published, with the same
  `owned_since`, and with the same epoch if no member differs; or
- the leases of the missing members have certainly expired. The old router cannot have granted a lease after this
  one started, and the wait is counted from the first Join that arrives here, which is later still: a router that
  starts before its network works does not mistake that time for the nodes' silence; or
- no node has a ring, and the wait for a new cluster has ended.

Interleavings that this avoids:

- A newly added node joins first: it has no ring, so it waits with the others.
- A node reports that it holds a newer ring, and that ring is still in flight while the last missing member joins:
  recovery does not end while a requested ring is outstanding. If no other ring is known, that counts for some time
  after the wait as well: a ring of the nodes that are there would lose sight of what only the others' disks have.
- The old router replied to a Join with an epoch whose ring it could not send any more: that epoch was published,
  the ring is unknown, so all slots count as owned since the new epoch.
- A node of another cluster joins first: rings are kept by cluster, and the cluster with the most members present
  wins; nodes of others are rejected when they renew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from milena_common.cluster.missing_node import MissingNode, NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring
from milena_router.ring.ring_status import NO_STATUS, RingStatus

# Nodes that cannot reach a router retry within this time: 2 s of pause, 2 s of a call or of gRPC's own pause.
NODE_RETRY_SECONDS = 5.0
# Rings of different clusters that are kept; more than one is a configuration error already.
MAX_CLUSTERS = 8


@dataclass(frozen=True, slots=True)
class LastRing:
    """The newest ring that a node holds. `lease_seconds`: the longest lease that its routers have granted.

    `missing`: the records of nodes that had left without handing over. `released_epoch`: the last one that the node
    received of its router, 0 if none.
    """

    ring: Ring
    default_bucket: str
    cluster_id: str
    lease_seconds: float
    missing: tuple[MissingNode, ...] = ()
    released_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The report of a joining node about the ring.

    `cluster_id` is that of its ring, or of the dirty writes in its journal, "" if it has neither. `ring_epoch` is
    the greatest epoch that a router sent to this process, 0 if none. `last` is its ring if that was requested.
    """

    cluster_id: str = ""
    ring_epoch: int = 0
    last: LastRing | None = None


@dataclass(slots=True)
class Lease:
    """A member, the time of its Join and of its lease's end (seconds on the router's monotonic clock).

    `replaced_id` is the id of the previous process at this address. `node_status` is the member's last report,
    None from a node that sends none. `ring_status` is its last one about the ring. `acknowledged` is an epoch such
    that the process has no older ring; `member_epoch` that of the first ring with a member at this address, 0 if a
    router before this one made it. `heard_at` is the time of its last renewal.
    """

    member: Member
    since: float
    until: float
    heard_at: float = 0.0
    replaced_id: str = ""
    default_bucket: str = ""
    cluster_id: str = ""
    node_status: NodeStatus | None = None
    ring_status: RingStatus = NO_STATUS
    acknowledged: int = 0
    member_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of recovery. `last` is the ring to continue from, None for a new cluster.

    `superseded`: a newer ring than `last` was published, and no present node has it.
    """

    last: LastRing | None
    default_bucket: str
    cluster_id: str
    superseded: bool = False

    def admits(self, lease: Lease) -> bool:
        """True if a node that joined during recovery belongs to the recovered cluster."""
        return lease.default_bucket in ("", self.default_bucket) and lease.cluster_id in ("", self.cluster_id)


class Recovery:
    """The reports since the start. `lease_seconds` is this router's own.

    `new_cluster_seconds`: the seconds to wait when no node has a ring. `handed_in`: address and process id of nodes
    that left, and whose writes their owners have: a known ring may still have them as missing.
    """

    def __init__(self, lease_seconds: float, new_cluster_seconds: float) -> None:
        self.seen_epoch = 0
        self.handed_in: set[tuple[str, str]] = set()
        self._new_cluster_seconds = new_cluster_seconds
        self._lease_seconds = max(lease_seconds, new_cluster_seconds)
        self._rings: dict[str, LastRing] = {}
        self._newest: dict[str, int] = {}  # by cluster, the greatest reported epoch
        self._outstanding: set[str] = set()  # addresses of nodes whose ring was requested
        self._gone: set[tuple[str, str]] = set()  # address and process id of nodes that left
        self._first_join: float | None = None

    @property
    def first_join(self) -> float:
        """Return when the first node joined, after which no other router granted a lease; 0 before that."""
        return self._first_join or 0.0

    def member_joined(self, member: Member, known: Knowledge, seen_epoch: int, now: float) -> None:
        """Record a Join or a renewal."""
        if self._first_join is None:
            self._first_join = now
        self.seen_epoch = max(self.seen_epoch, seen_epoch, known.ring_epoch)
        self._gone.discard((member.address, member.node_id))
        cluster = known.cluster_id
        if known.ring_epoch:
            self._newest[cluster] = max(self._newest.get(cluster, 0), known.ring_epoch)
        last = known.last
        if last is not None:
            held = self._rings.get(last.cluster_id)
            newer = last.ring.epoch > held.ring.epoch if held else len(self._rings) < MAX_CLUSTERS
            if newer:
                self._rings[last.cluster_id] = last
            self._lease_seconds = max(self._lease_seconds, last.lease_seconds)
        if last is None and self.wants_ring(known):
            self._outstanding.add(member.address)
        else:
            self._outstanding.discard(member.address)

    def wants_ring(self, known: Knowledge) -> bool:
        """True if the node should send its ring: it may be newer than the known ones."""
        held = self._rings.get(known.cluster_id)
        return known.last is None and known.ring_epoch > (held.ring.epoch if held else 0)

    def withdraw(self, address: str, node_id: str) -> bool:
        """Record that a node leaves by itself and is not awaited; return True if a known ring has it.

        `node_id` "": any process at that address.
        """
        self._outstanding.discard(address)
        found = False
        for member in self._members():
            if member.address == address and node_id in ("", member.node_id):
                self._gone.add((member.address, member.node_id))
                found = True
        return found

    def member(self, address: str, node_id: str) -> Member:
        """Return the process at `address`, with all fields that a known ring has for it."""
        known = (each for each in self._members() if (each.address, each.node_id) == (address, node_id))
        return next(known, Member(address, node_id))

    def has_withdrawn(self, member: Member) -> bool:
        """True if `member` of a known ring left by itself after this router's start."""
        return (member.address, member.node_id) in self._gone

    def delayed(self, seconds: float) -> None:
        """Extend the wait by `seconds`, in which this process did not run and nodes could not join."""
        if self._first_join is not None:
            self._first_join += seconds

    def emptied(self) -> None:
        """Restart the wait with the next Join: all nodes that had joined are gone again."""
        self._first_join = None
        self._outstanding.clear()

    def awaited(self, present: Iterable[str]) -> set[str]:
        """Return the addresses of known rings' members that have neither joined nor left."""
        gone = {address for address, _ in self._gone}
        return {member.address for member in self._members()} - set(present) - gone

    def _members(self) -> list[Member]:
        return [member for last in self._rings.values() for member in last.ring.members]

    def seconds_left(self, now: float) -> float:
        """Return the maximum of seconds until recovery ends, if a node has joined."""
        if self._first_join is None:
            return self._new_cluster_seconds
        knows = bool(self._rings or self._newest)
        wait = self._lease_seconds if knows else self._new_cluster_seconds
        return max(0.0, self._first_join + wait - now)

    def outcome(self, present: Mapping[str, Lease], now: float) -> Recovered | None:
        """Return the result if recovery ends now, else None. `present`: by address, the nodes that have joined."""
        if not present:
            return None
        rings = [last for last in self._rings.values() if any(map(_admits(last), present.values()))]
        if not rings and self._outstanding.intersection(present) and not self._is_late(now):
            return None
        if self.seconds_left(now):
            rings = [last for last in rings if not self._outstanding and not self._missing(last, present)]
            if not rings:
                return None
        last = max(rings, key=lambda each: (_members_in(each, present), each.ring.epoch), default=None)
        if last is not None:
            newest = self._newest.get(last.cluster_id, 0)
            return Recovered(last, last.default_bucket, last.cluster_id, newest > last.ring.epoch)
        bucket = _commonest(lease.default_bucket for lease in present.values())
        leases = [lease for lease in present.values() if lease.default_bucket in ("", bucket)]
        return Recovered(None, bucket, _commonest(lease.cluster_id for lease in leases))

    def _is_late(self, now: float) -> bool:
        """Return True if a node that joined when the wait ended would have sent its ring by now."""
        return not self.seconds_left(now - NODE_RETRY_SECONDS)

    def _missing(self, last: LastRing, present: Mapping[str, Lease]) -> bool:
        return any(
            member.address not in present and (member.address, member.node_id) not in self._gone
            for member in last.ring.members
        )


def _admits(last: LastRing) -> Callable[[Lease], bool]:
    return Recovered(last, last.default_bucket, last.cluster_id).admits


def _members_in(last: LastRing, present: Mapping[str, Lease]) -> int:
    """Return the number of the ring's members that have joined, as nodes of its cluster."""
    admits = _admits(last)
    return sum(member.address in present and admits(present[member.address]) for member in last.ring.members)


def _commonest(texts: Iterable[str]) -> str:
    """Return the most frequent text, ignoring ""; the first of several."""
    ((text, _),) = Counter(filter(None, texts)).most_common(1) or [("", 0)]
    return text
