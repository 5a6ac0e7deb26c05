"""A fixture: a membership of nodes that hand slots over, with what each node has and reports, on a fake time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS, runs_message
from milena_common.cluster.slot_assignment import Member
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import Run
from milena_router.ring.known_ring import knowledge
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.ring_status import HolderSlots, ring_status
from milena_router.ring.watch_streams import Published, short_update

LEASE = 5.0
WALL = 1_700_000_000.0
CLUSTER = "cluster-1"
BUCKET = "photos"


@dataclass
class Node:
    """A node.

    ring: the newest one that it received
    acknowledged: the epoch that it reports, None: that ring's
    """

    member: Member
    ring: SlotMap | None = None
    acknowledged: int | None = None
    taken: tuple[Run, ...] = ()
    leaving: bool = False
    moves: bool = True
    completed: tuple[HolderSlots, ...] = ()
    failed: tuple[HolderSlots, ...] = ()

    @property
    def address(self) -> str:
        return self.member.address

    def request(self, *, with_ring: bool = False) -> pb.JoinRequest:
        epoch = self.ring.epoch if self.ring else 0
        request = pb.JoinRequest(
            address=self.address,
            node_id=self.member.node_id,
            features=RUNS | MOVES if self.moves else RUNS,
            acknowledged_epoch=epoch if self.acknowledged is None else self.acknowledged,
            leaving=self.leaving,
            cluster_id=CLUSTER if epoch else "",
            ring_epoch=epoch,
            copies_epoch=epoch,
        )
        for messages, found in ((request.completed, self.completed), (request.failed_holders, self.failed)):
            for first, last, holder in found:
                messages.add(holder=holder, first=[first], last=[last])
        if self.taken:
            request.taken.CopyFrom(runs_message(self.taken, {self.address: 0}))
        if with_ring and self.ring:
            request.last_ring.ring.CopyFrom(self.ring.to_update())
            request.last_ring.lease_seconds = LEASE
        return request


def node(name: str, process: int = 1, journal: str | None = None, copies: int = 0, zone: str = "") -> Node:
    journal_id = journal or f"journal-{name}"
    return Node(Member(f"{name}:1", f"{name}-{process}", 1.0, {"resp": f"{name}:2"}, journal_id, copies, zone))


class Router:
    """A router's membership. `join` is a renewal of a node, after which it has the newest ring if `receives`."""

    def __init__(self, *, started: bool = False, now: float = 100.0, recovery_wait: float = 60.0) -> None:
        self.now = now
        recovery = Recovery(LEASE, LEASE) if started else None
        self.membership = Membership(LEASE, now, recovery, CLUSTER, recovery_wait)
        self.changes: list[Change] = []
        self._sent: tuple[Published, SlotMap] | None = None

    @property
    def wall(self) -> float:
        return WALL + self.now

    def slot_map(self) -> SlotMap:
        """The newest ring as nodes receive it."""
        membership = self.membership
        published = Published(
            membership.ring, BUCKET, membership.cluster_id, 0, membership.missing.all(), membership.released_epoch
        )
        if self._sent is None or self._sent[0] != published:
            self._sent = published, SlotMap.from_update(short_update(published, None, RUNS | MOVES | COPIES))
        return self._sent[1]

    def join(self, each: Node, *, receives: bool = True) -> Change | None:
        membership = self.membership
        wants = membership.recovery is not None and each.ring is not None
        request = each.request(with_ring=wants)
        change = membership.join(
            each.member,
            BUCKET,
            0,
            self.now,
            self.wall,
            knowledge(request, self.wall),
            status=ring_status(request, each.address),
        )
        self.changes += [change] if change else []
        self.changes += membership.recover(self.now, self.wall)
        membership.releases.drop_proved(self.now)
        if receives and not membership.recovering:
            each.ring = self.slot_map()
        return change

    def look(self, seconds: float = 0.0) -> list[Change]:
        """Let time pass, and check the leases."""
        self.now += seconds
        changes = self.membership.expire(self.now, self.wall)
        moves = self.membership.balance(self.wall)
        changes += [moves] if moves else []
        changes += self.membership.recover(self.now, self.wall)
        self.membership.releases.drop_proved(self.now)
        self.changes += changes
        return changes

    def after(self, seconds: float, *renewing: Node) -> list[Change]:
        """Let time pass, while some nodes renew their leases, and get each ring."""
        changes = []
        end = self.now + seconds
        while self.now < end:
            changes += self.look(min(LEASE / 10, end - self.now))
            for each in renewing:
                self.join(each)
        return changes

    def finish_moves(self, *nodes: Node) -> None:
        """Let nodes take over all slots that are pending to them, until there are none."""
        for _ in range(20):
            if not self.membership.ring.pending:
                break
            for each in nodes:
                each.taken = tuple(run for run in self.membership.ring.pending if run.address == each.address)
                self.join(each)
                each.taken = ()
        for each in nodes:
            self.join(each)

    @property
    def released(self) -> int:
        return self.membership.released_epoch

    @property
    def is_released(self) -> bool:
        return self.released == self.membership.ring.epoch

    def owned(self) -> dict[str, int]:
        return self.membership.ring.slots_by_node()


def ring_of(*nodes: Node) -> Router:
    """A router with `nodes` as members, whose moves are done and acknowledged."""
    router = Router()
    for each in nodes:
        router.join(each)
        router.finish_moves(*[other for other in nodes if other.address in router.membership.leases])
    assert router.is_released
    assert not router.membership.ring.pending
    return router


def restarted(each: Node, process: int = 2, *, journal: str | None = None) -> Node:
    """The next process at the address of `each`, with the same journal unless another one is given."""
    name = each.address.partition(":")[0]
    member = replace(each.member, node_id=f"{name}-{process}", journal_id=journal or each.member.journal_id)
    return Node(member)
