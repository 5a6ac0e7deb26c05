"""Any sequence of joins, losses, restarts, moves and router restarts: no slot is ever served by two processes.

The nodes are modelled as they may be at worst: a lease lasts its whole length from its renewal, rings arrive late,
and silent nodes promise each other as long as they may. A node of the model follows the contract: a lease counts
when the node has the ring that came with it; promises are given for the present ring only, and all members must
give one; slots owned since a later epoch than the released one are served only if they were handed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import overlaps
from milena_common.cluster.slots import SLOTS
from tests.router.ring.moving_ring import LEASE, Node, Router, node

# Slots move in ranges; these are watched.
SAMPLES = range(0, SLOTS, 512)
NAMES = st.sampled_from("abcd")


@dataclass
class Process:
    """A running process. Leases and promises are (end, epoch): what the ring must be for the lease to count."""

    node: Node
    lease_until: float = 0.0
    granted: list[tuple[float, int]] = field(default_factory=list)
    promises: list[tuple[float, int]] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)
    handed_over: dict[int, int] = field(default_factory=dict)

    @property
    def ring(self) -> SlotMap:
        return self.node.ring or SlotMap.empty()

    def adopt(self, ring: SlotMap) -> None:
        if (ring.epoch, ring.released_epoch) < (self.ring.epoch, self.ring.released_epoch):
            return
        self.node.ring = ring
        self.count_leases()
        moves = {
            slot: (part.node.address, part.owned_since)
            for part in ring.pending
            for slot in SAMPLES
            if part.first <= slot <= part.last
        }
        me = self.node.address
        self.taken = {
            slot: since
            for slot, since in self.taken.items()
            if moves.get(slot) == (me, since)
            or (ring.target(slot).address, ring.target(slot).owned_since) == (me, since)
        }
        self.handed_over = {
            slot: since for slot, since in self.handed_over.items() if moves.get(slot, ("", 0))[1] == since
        }

    def count_leases(self) -> None:
        for until, epoch in self.granted:
            if epoch <= self.ring.epoch:
                self.lease_until = max(self.lease_until, until)
        self.granted = [each for each in self.granted if each[1] > self.ring.epoch]

    def acknowledged(self, now: float) -> int:
        return min([self.ring.epoch, *(epoch for until, epoch in self.promises if until > now)])

    def serves(self, slot: int, now: float) -> bool:
        if self.lease_until <= now or slot in self.handed_over:
            return False
        if slot in self.taken:
            return True
        owner = self.ring.target(slot)
        return owner.address == self.node.address and 0 < owner.owned_since <= self.ring.released_epoch


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.processes: dict[str, Process] = {}
        self.started = 0
        self.epoch = self.released = 0

    # ---- nodes and the router

    @rule(name=NAMES, same_journal=st.booleans())
    def start(self, name: str, same_journal: bool) -> None:
        """Start a process, or kill the one that runs and start another at once."""
        self.started += 1
        before = self.processes.get(name)
        made = node(name, self.started, None if same_journal else f"journal-{self.started}")
        if before is not None and same_journal and before.promises:
            # The journal has the promises; they hold for their whole length again.
            promises = [(self.router.now + LEASE, epoch) for until, epoch in before.promises]
            self.processes[name] = Process(made, promises=promises)
        else:
            self.processes[name] = Process(made)
        self.renew(name)

    @rule(name=NAMES)
    def kill(self, name: str) -> None:
        self.processes.pop(name, None)

    @rule(name=NAMES, moves=st.booleans())
    def renew(self, name: str, moves: bool = True) -> None:
        process = self.processes.get(name)
        if process is None:
            return
        each, membership = process.node, self.router.membership
        each.acknowledged = process.acknowledged(self.router.now)
        # A move is reported when all watched slots of it are taken.
        each.taken = tuple(
            move
            for move in membership.ring.pending
            if moves
            and move.address == each.address
            and all(
                process.taken.get(slot) == move.owned_since for slot in SAMPLES if move.first <= slot <= move.last
            )
        )
        self.router.join(each, receives=False)
        if not membership.recovering:
            process.granted.append((self.router.now + LEASE, membership.ring.epoch))
            process.count_leases()

    @rule(name=NAMES)
    def receive(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and not self.router.membership.recovering:
            process.adopt(self.router.slot_map())

    @rule(names=st.lists(NAMES, min_size=4, max_size=4))
    def all_is_well(self, names: list[str]) -> None:
        for name in [*names, *self.processes]:
            self.renew(name)
            self.receive(name)

    @rule(name=NAMES)
    def begin_to_leave(self, name: str) -> None:
        if name in self.processes:
            self.processes[name].node.leaving = True
            self.renew(name)

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        process = self.processes.pop(name, None)
        membership = self.router.membership
        if process is not None and not membership.recovering:
            where = process.node.address, process.node.member.node_id
            membership.remove_member(*where, self.router.now, self.router.wall)

    @rule(name=NAMES)
    def a_person_writes_off_a_dead_node(self, name: str) -> None:
        if name not in self.processes and not self.router.membership.recovering:
            self.router.membership.write_off(f"{name}:1", self.router.wall)

    @rule(name=NAMES)
    def a_person_removes_a_member(self, name: str) -> None:
        if not self.router.membership.recovering and (len(self.processes) != 1 or name not in self.processes):
            self.router.membership.remove_member(f"{name}:1", "", self.router.now, self.router.wall)

    @rule(name=NAMES)
    def a_process_is_known_to_be_gone(self, name: str) -> None:
        lease = self.router.membership.leases.get(f"{name}:1")
        process = self.processes.get(name)
        if lease and (process is None or process.node.member.node_id != lease.member.node_id):
            self.router.membership.process_exited(
                f"{name}:1", lease.member.node_id, self.router.now, self.router.wall
            )

    # ---- nodes among themselves

    @rule(name=NAMES)
    def request_promises(self, name: str) -> None:
        process, now = self.processes.get(name), self.router.now
        if process is None or process.lease_until <= now:
            return
        others = [self.processes.get(each.address[0]) for each in process.ring.nodes]
        if process.ring.released_epoch == 0 or any(other is None for other in others):
            return
        agreed = [other for other in others if other is not None]
        newer = [other.ring for other in agreed if other.ring.epoch > process.ring.epoch]
        if newer:
            process.adopt(newer[0])
        elif all(other.ring.epoch == process.ring.epoch for other in agreed):
            for other in agreed:
                if other is not process:
                    other.promises = [each for each in other.promises if each[0] > now]
                    other.promises.append((now + LEASE, process.ring.epoch))
            process.lease_until = max(process.lease_until, now + LEASE)

    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        now = self.router.now
        moves = [
            (slot, part.owned_since, owner, destination)
            for owner in self.processes.values()
            for part in owner.ring.pending
            if (destination := self.processes.get(part.node.address[0])) is not None
            and part in destination.ring.pending
            for slot in SAMPLES
            if part.first <= slot <= part.last
            and owner.serves(slot, now)
            and destination.lease_until > now
            and slot not in destination.taken
        ]
        if moves:
            first = data.draw(st.integers(0, len(moves) - 1))
            for slot, since, owner, destination in moves[first:]:
                owner.taken.pop(slot, None)
                owner.handed_over[slot] = since
                destination.taken[slot] = since

    # ---- time and the router

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.router.look(seconds)

    @rule(names=st.sets(NAMES), asking=st.sets(NAMES), steps=st.integers(1, 10))
    def some_are_heard_for_a_while(self, names: set[str], asking: set[str], steps: int) -> None:
        """Some nodes renew their leases and get each ring; others only ask for promises."""
        for _ in range(steps):
            for name in sorted(names):
                self.renew(name)
                self.receive(name)
            for name in sorted(asking):
                self.request_promises(name)
            self.no_slot_is_served_by_two_processes()
            self.router.look(LEASE / 3)

    @precondition(lambda self: not self.router.membership.recovering)
    @rule()
    def restart_the_router(self) -> None:
        """Only while nodes know of each other: what a silent one may have besides that, no new router can know."""
        members = {member.address for member in self.router.membership.ring.members}
        lives = [each for each in self.processes.values() if each.lease_until > self.router.now]
        if all({each.address for each in process.ring.nodes} == members for process in lives):
            self.router = Router(started=True, now=self.router.now)
            self.epoch = self.released = 0

    # ---- what always holds

    @invariant()
    def no_slot_is_served_by_two_processes(self) -> None:
        now = self.router.now
        for slot in SAMPLES:
            serving = [name for name, process in self.processes.items() if process.serves(slot, now)]
            assert len(serving) <= 1, (slot, serving)

    @invariant()
    def the_ring_is_whole(self) -> None:
        membership = self.router.membership
        ring = membership.ring
        if membership.recovering:
            return
        members = {member.address for member in ring.members}
        assert members == membership.leases.keys()
        assert sum(ring.slots_by_node().values()) == (SLOTS if members else 0)
        for _, _, move, owned in overlaps(ring.pending, ring.ranges()):
            assert move.address in members
            assert move.address != owned.address
            assert owned.owned_since < move.owned_since <= ring.epoch

    @invariant()
    def epochs_only_grow(self) -> None:
        membership = self.router.membership
        epoch, released = membership.ring.epoch, membership.released_epoch
        assert epoch >= self.epoch
        assert released >= self.released or not released
        assert released <= epoch
        self.epoch, self.released = epoch, max(self.released, released)

    @rule()
    def everything_is_right_when_all_is_well(self) -> None:
        """Missing nodes are written off, the others are heard: all slots are served, and moves end."""
        for name in "abcd":
            if name not in self.processes:
                self.a_person_removes_a_member(name)
        for _ in range(14):
            for name in self.processes:
                self.renew(name)
                self.receive(name)
            self.router.look(LEASE / 3)
        for name in "abcd":
            # Of those that run, every process has acknowledged its own loss: what is left are others before them.
            self.router.membership.write_off(f"{name}:1", self.router.wall)
        for _ in range(8):
            for name in self.processes:
                self.receive(name)
            self.hand_over_everything()
            for name in self.processes:
                self.renew(name)
            self.router.look(0.1)
        for name in self.processes:
            self.receive(name)
            self.no_slot_is_served_by_two_processes()
        if self.processes:
            assert self.router.membership.released_epoch == self.router.membership.ring.epoch
            assert not self.router.membership.ring.pending
            for slot in SAMPLES:
                assert any(process.serves(slot, self.router.now) for process in self.processes.values())

    def hand_over_everything(self) -> None:
        now = self.router.now
        for owner in self.processes.values():
            for part in owner.ring.pending:
                destination = self.processes[part.node.address[0]]
                for slot in SAMPLES:
                    if part.first <= slot <= part.last and owner.serves(slot, now):
                        owner.taken.pop(slot, None)
                        owner.handed_over[slot] = destination.taken[slot] = part.owned_since


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestMovingRing = Model.TestCase
