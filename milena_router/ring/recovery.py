"""Pure. How a router that has just started learns the ring of the router before it.

Publishing a ring of the nodes that happen to join first would make temporary owners: they read S3 while the real
owner still holds dirty writes, so reads go back and conditional updates are lost. A starting router therefore
publishes nothing, and collects what joining nodes know: each reports the epoch of the newest ring that it holds,
and sends that ring when it is asked. Recovery is over when

- every member of the newest ring has joined again (or left): the same ring is published, with the same
  `owned_since`, and with the same epoch if no member differs; or
- the leases of the missing members are certainly over. The old router cannot have granted a lease after this one
  started, and the wait is counted from the first Join that arrives here, which is later still: a router that
  starts before its network works does not take that time for the nodes' silence; or
- no node knows a ring, and the wait for a new cluster is over.

Interleavings that are avoided:

- A node that has just been added joins first: it knows no ring, so it waits with the others.
- A node answers that it holds a newer ring, and its ring is still on the way while the last missing member joins:
  recovery is not over while a ring that was asked for is outstanding.
- The old router answered a Join with an epoch whose ring it could not send any more: that epoch was published, the
  ring is not known, so all slots are taken as owned since the new epoch.
- A node of another cluster joins first: rings are kept by cluster, and the cluster of which most members are here
  wins; the others are refused when they renew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from milena_common.cluster.missing_node import MissingNode, NodeStatus
from milena_common.cluster.slot_assignment import Member, Ring

# Nodes that cannot reach a router try again within this time: 2 s of pause, 2 s of a call or of gRPC's own pause.
NODE_RETRY_SECONDS = 5.0
# Rings of different clusters that are kept; more than one is a mistake in somebody's configuration already.
MAX_CLUSTERS = 8


@dataclass(frozen=True, slots=True)
class LastRing:
    """The newest ring that a node holds. `lease_seconds`: the longest lease that its routers granted.

    `missing`: the nodes that had left it without handing over.
    """

    ring: Ring
    default_bucket: str
    cluster_id: str
    lease_seconds: float
    missing: tuple[MissingNode, ...] = ()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a joining node knows.

    `cluster_id` is that of its ring, or of the dirty writes in its journal, "" if it has neither. `ring_epoch` is
    the greatest epoch that a router gave this process, 0 if none. `last` is its ring if it was asked for it.
    """

    cluster_id: str = ""
    ring_epoch: int = 0
    last: LastRing | None = None


@dataclass(slots=True)
class Lease:
    """A member, when it came and when its lease ends (seconds on the router's monotonic clock).

    `replaced_id` is that of the process that was at this address before. `node_status` is the member's last one,
    None from a node that makes none.
    """

    member: Member
    since: float
    until: float
    replaced_id: str = ""
    default_bucket: str = ""
    cluster_id: str = ""
    node_status: NodeStatus | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """How recovery ended. `last` is the ring to go on from, None for a new cluster.

    `superseded`: a newer ring than `last` was published, and nobody has it.
    """

    last: LastRing | None
    default_bucket: str
    cluster_id: str
    superseded: bool = False

    def admits(self, lease: Lease) -> bool:
        """Whether a node that joined during recovery belongs to what was recovered."""
        return lease.default_bucket in ("", self.default_bucket) and lease.cluster_id in ("", self.cluster_id)


class Recovery:
    """What was learnt since the start. `lease_seconds` is this router's own.

    `new_cluster_seconds`: how long to wait when no node knows a ring.
    """

    def __init__(self, lease_seconds: float, new_cluster_seconds: float) -> None:
        self.seen_epoch = 0
        self._new_cluster_seconds = new_cluster_seconds
        self._lease_seconds = max(lease_seconds, new_cluster_seconds)
        self._rings: dict[str, LastRing] = {}
        self._newest: dict[str, int] = {}  # by cluster, the greatest epoch that a node reported
        self._outstanding: set[str] = set()  # addresses of nodes that were asked for their ring
        self._gone: set[tuple[str, str]] = set()  # address and process of those that left
        self._first_join: float | None = None

    def joined(self, member: Member, known: Knowledge, seen_epoch: int, now: float) -> None:
        """A node joined, or renewed."""
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
        """Whether the node is to send its ring: it may be newer than what is known here."""
        held = self._rings.get(known.cluster_id)
        return known.last is None and known.ring_epoch > (held.ring.epoch if held else 0)

    def withdraw(self, address: str, node_id: str) -> bool:
        """A node leaves by itself, and is not waited for; whether a known ring has it.

        `node_id` "": whichever process it is.
        """
        self._outstanding.discard(address)
        found = False
        for member in self._members():
            if member.address == address and node_id in ("", member.node_id):
                self._gone.add((member.address, member.node_id))
                found = True
        return found

    def member(self, address: str, node_id: str) -> Member:
        """The process at `address`, with all that a known ring says of it."""
        known = (each for each in self._members() if (each.address, each.node_id) == (address, node_id))
        return next(known, Member(address, node_id))

    def has_withdrawn(self, member: Member) -> bool:
        """True if `member` of a known ring left by itself after this router's start."""
        return (member.address, member.node_id) in self._gone

    def delayed(self, seconds: float) -> None:
        """This process did not run for so long: nodes could not join meanwhile."""
        if self._first_join is not None:
            self._first_join += seconds

    def emptied(self) -> None:
        """All nodes that had joined are gone again: the wait begins anew with the next one."""
        self._first_join = None
        self._outstanding.clear()

    def awaited(self, present: Iterable[str]) -> set[str]:
        """Addresses of known rings' members that have neither joined nor left."""
        gone = {address for address, _ in self._gone}
        return {member.address for member in self._members()} - set(present) - gone

    def _members(self) -> list[Member]:
        return [member for last in self._rings.values() for member in last.ring.members]

    def seconds_left(self, now: float) -> float:
        """At most so many seconds until recovery ends, if a node has joined."""
        if self._first_join is None:
            return self._new_cluster_seconds
        knows = bool(self._rings or self._newest)
        wait = self._lease_seconds if knows else self._new_cluster_seconds
        return max(0.0, self._first_join + wait - now)

    def outcome(self, present: Mapping[str, Lease], now: float) -> Recovered | None:
        """How recovery ends now; None: it goes on. `present`: by address, the nodes that have joined."""
        if not present:
            return None
        rings = [last for last in self._rings.values() if any(map(_admits(last), present.values()))]
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

    def _missing(self, last: LastRing, present: Mapping[str, Lease]) -> bool:
        return any(
            member.address not in present and (member.address, member.node_id) not in self._gone
            for member in last.ring.members
        )


def _admits(last: LastRing) -> Callable[[Lease], bool]:
    return Recovered(last, last.default_bucket, last.cluster_id).admits


def _members_in(last: LastRing, present: Mapping[str, Lease]) -> int:
    """How many members of the ring have joined, as nodes of its cluster."""
    admits = _admits(last)
    return sum(member.address in present and admits(present[member.address]) for member in last.ring.members)


def _commonest(texts: Iterable[str]) -> str:
    """The text that occurs most often, "" left out; of several the first."""
    ((text, _),) = Counter(filter(None, texts)).most_common(1) or [("", 0)]
    return text
