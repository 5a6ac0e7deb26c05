"""A fixture: a router's membership that time passes for, with three nodes to join it."""

from __future__ import annotations

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_assignment import Member
from milena_router.ring.known_ring import knowledge
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Knowledge, Recovery
from milena_router.ring.watch_streams import ring_update

LEASE = 5.0
WALL = 1_700_000_000.0
A, B, C = (
    Member(f"{name}:1", f"id-{name}", addresses={"resp": f"{name}:6379"}, journal_id=f"journal-{name}")
    for name in "abc"
)
NOTHING = NodeStatus(0)
WRITES = NodeStatus(9, 2, ("write-back: 9 acknowledged writes are not in S3",))
CLUSTER = "cluster-1"


class Router:
    """A membership that time passes for; `started` anew it first recovers the last ring."""

    def __init__(self, *, started: bool = False) -> None:
        self.now = 100.0
        recovery = Recovery(LEASE, LEASE) if started else None
        self.membership = Membership(LEASE, self.now, recovery, CLUSTER)

    def join(self, member: Member, said: NodeStatus | None = NOTHING, known: Knowledge | None = None) -> None:
        self.membership.join(member, "photos", 0, self.now, WALL + self.now, known or Knowledge(), said)
        self.membership.recover(self.now, WALL + self.now)

    def after(self, seconds: float, *renewing: Member) -> list[Change]:
        changes: list[Change] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LEASE / 10)
            for member in renewing:
                self.join(member)
            changes += self.membership.expire(self.now, WALL + self.now)
            changes += self.membership.recover(self.now, WALL + self.now)
        return changes

    @property
    def missing(self) -> list[tuple[str, int | None, int, str]]:
        return [
            (node.address, node.dirty_entries, node.dead_letters, node.reason)
            for node in self.membership.missing.all()
        ]

    def last_ring(self) -> pb.LastRing:
        """What a node of this router's ring sends to the next router."""
        membership = self.membership
        update = ring_update(
            membership.ring,
            membership.default_bucket,
            membership.cluster_id,
            missing=membership.missing.all(),
        )
        return pb.LastRing(ring=update, lease_seconds=LEASE)

    def known(self) -> Knowledge:
        ring = self.last_ring()
        request = pb.JoinRequest(cluster_id=CLUSTER, ring_epoch=ring.ring.epoch, last_ring=ring)
        return knowledge(request, WALL + self.now)
