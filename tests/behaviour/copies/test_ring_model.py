"""Any losses, restarts, moves and reports: no acknowledged write is given up while a process that runs has it.

Of each watched slot the model knows the number of its last acknowledged write, and which number each journal has.
A node acknowledges by the newest ring; only its own reports may be late. What the ring says of owners and complete
holders must be true of their journals, unless everything that had a write was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from milena_common.cluster.slot_assignment import Ring
from milena_common.cluster.slots import SLOTS
from milena_router.ring.ring_status import HolderSlots
from tests.router.ring.moving_ring import LEASE, Node, Router, node

SAMPLES = range(5, SLOTS, 1024)
NAMES = st.sampled_from("abcd")
ZONES = {"a": "1", "b": "1", "c": "2", "d": "2"}
WAIT = 3 * LEASE


@dataclass
class Disk:
    """A journal: by slot, the number of the newest write that it has."""

    writes: dict[int, int] = field(default_factory=dict)


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.router = Router(recovery_wait=WAIT)
        self.processes: dict[str, Node] = {}
        self.disks: dict[str, Disk] = {}
        self.last_journal: dict[str, str] = {}
        self.acknowledged: dict[int, int] = dict.fromkeys(SAMPLES, 0)
        self.in_s3: dict[int, int] = dict.fromkeys(SAMPLES, 0)
        self.started = 0

    @property
    def ring(self) -> Ring:
        return self.router.membership.ring

    def disk(self, address: str) -> Disk | None:
        """Return the journal of the process that runs at `address`, if it is the one that the ring has."""
        process = self.processes.get(address[0])
        known = next((each for each in self.ring.members if each.address == address), None)
        if process is None or known is None or known.node_id != process.member.node_id:
            return None
        return self.disks[process.member.journal_id]

    def sync(self, each: Node) -> None:
        """Renew a lease, and let all that runs have the newest ring."""
        if self.processes.get(each.address[0]) is each:
            self.router.join(each, receives=False)
        if not self.router.membership.recovering:
            for process in self.processes.values():
                process.ring = self.router.slot_map()
            self.drop_what_is_not_listed()

    def drop_what_is_not_listed(self) -> None:
        """A node drops its copies of slots of which it is neither owner nor holder, and that do not wait for it."""
        for process in self.processes.values():
            disk = self.disk(process.address)
            if disk is None:
                continue
            for slot in SAMPLES:
                listed = {holder.address for holder in self.ring.holders(slot)}
                pending = {run.address for run in self.ring.pending if run.first <= slot <= run.last}
                if self.ring.owner(slot) and process.address not in {self.ring.owner(slot), *listed, *pending}:
                    disk.writes.pop(slot, None)

    # ---- nodes

    @rule(name=NAMES, same_journal=st.booleans())
    def start(self, name: str, same_journal: bool) -> None:
        self.started += 1
        journal = self.last_journal.get(name) if same_journal else None
        journal = journal or f"journal-{self.started}"
        self.last_journal[name] = journal
        self.disks.setdefault(journal, Disk())
        made = node(name, self.started, journal, 2, ZONES[name])
        self.processes[name] = made
        self.sync(made)

    @rule(name=NAMES)
    def kill(self, name: str) -> None:
        self.processes.pop(name, None)

    @rule(name=NAMES)
    def destroy(self, name: str) -> None:
        """The node is gone, and its disk with it."""
        process = self.processes.pop(name, None)
        if process is not None:
            self.disks.pop(process.member.journal_id)
            self.last_journal.pop(name)

    @rule(name=NAMES)
    def its_end_is_noticed(self, name: str) -> None:
        lease = self.router.membership.leases.get(f"{name}:1")
        process = self.processes.get(name)
        if lease and (process is None or process.member.node_id != lease.member.node_id):
            where = lease.member.address, lease.member.node_id
            self.router.membership.process_exited(*where, self.router.now, self.router.wall)
            for each in [*self.processes.values()][:1]:
                self.sync(each)

    @rule()
    def all_renew(self) -> None:
        for each in [*self.processes.values()]:
            self.sync(each)

    @rule(seconds=st.sampled_from([1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        for each in [*self.processes.values()]:
            self.sync(each)
        self.router.look(seconds)
        self.all_renew()

    @rule()
    def write(self) -> None:
        """Each slot gets a write, acknowledged when the owner and all listed holders have it."""
        if self.router.membership.recovering:
            return
        for slot in SAMPLES:
            owner = self.disk(self.ring.owner(slot)) if self.ring.owner(slot) else None
            holders = [self.disk(each.address) for each in self.ring.holders(slot)]
            if owner is None or None in holders:
                continue
            number = max(self.acknowledged.values()) + 1
            for disk in (owner, *holders):
                assert disk is not None
                disk.writes[slot] = number
            self.acknowledged[slot] = number
            if len(holders) < self.ring.copies.target - 1 or not holders:
                self.in_s3[slot] = number  # through, or a ring without copies

    @rule()
    def upload(self) -> None:
        for slot in SAMPLES:
            disk = self.disk(self.ring.owner(slot)) if self.ring.owner(slot) else None
            if disk is not None:
                self.in_s3[slot] = max(self.in_s3[slot], disk.writes.get(slot, 0))

    @rule(name=NAMES, fails=st.booleans())
    def an_owner_reports_holders(self, name: str, fails: bool) -> None:
        """What is filled is complete; or a holder fails, and the owner goes on without it."""
        process = self.processes.get(name)
        if process is None or process.ring is None or self.disk(process.address) is None:
            return
        mine = self.disks[process.member.journal_id]
        completed, failed = [], []
        for run in self.ring.copies.runs:
            if run.held.owner != process.address:
                continue
            for each in run.held.holders:
                disk = self.disk(each.address)
                if fails:
                    failed.append(HolderSlots(run.first, run.last, each.address))
                elif disk is not None and each.since:
                    for slot in SAMPLES:
                        if run.first <= slot <= run.last:
                            disk.writes[slot] = mine.writes.get(slot, 0)
                    completed.append(HolderSlots(run.first, run.last, each.address))
        process.completed, process.failed = tuple(completed), tuple(failed)
        self.sync(process)
        process.completed = process.failed = ()

    @rule(name=NAMES)
    def take_over(self, name: str) -> None:
        process = self.processes.get(name)
        if process is None or self.disk(process.address) is None:
            return
        taken = []
        for move in self.ring.pending:
            slots = [slot for slot in SAMPLES if move.first <= slot <= move.last]
            owners = [self.disk(self.ring.owner(slot)) for slot in slots]
            if move.address == process.address and None not in owners:
                for slot, owner in zip(slots, owners, strict=True):
                    assert owner is not None
                    self.disks[process.member.journal_id].writes[slot] = owner.writes.get(slot, 0)
                taken.append(move)
        process.taken = tuple(taken)
        self.sync(process)
        process.taken = ()

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        """A node leaves by itself, with its slots if they are not handed over: all is in S3 then."""
        process = self.processes.get(name)
        if process is None or self.router.membership.recovering or self.disk(process.address) is None:
            return
        process.leaving = True
        self.sync(process)

    @rule(name=NAMES)
    def a_person_writes_off(self, name: str) -> None:
        if name in self.processes or self.router.membership.recovering:
            return
        waited = [slot for slot in SAMPLES if not self.ring.owner(slot)]
        self.router.membership.write_off(f"{name}:1", self.router.wall)
        self.given_up(waited)
        self.all_renew()

    @rule()
    def the_wait_is_over(self) -> None:
        for _ in range(int(WAIT / LEASE * 3) + 3):
            self.all_renew()
            waited = [slot for slot in SAMPLES if not self.ring.owner(slot)]
            self.router.look(LEASE / 2.5)
            self.given_up(waited)
        self.all_renew()

    @rule()
    def restart_the_router(self) -> None:
        if self.processes and not self.router.membership.recovering and self.ring.members:
            members = {each.node_id for each in self.ring.members}
            self.all_renew()
            if members & {each.member.node_id for each in self.processes.values()}:
                self.router = Router(started=True, now=self.router.now, recovery_wait=WAIT)
                for _ in range(12):
                    self.all_renew()
                    if not self.router.membership.recovering:
                        break
                    self.router.look(LEASE / 2)
                self.all_renew()

    def given_up(self, waited: list[int]) -> None:
        """Slots that waited, and have an owner without their writes: what only the lost had is lost."""
        lost = {member.journal_id for part in self.ring.copies.waiting for member in part.processes}
        for slot in waited:
            owner = self.ring.owner(slot)
            disk = self.disk(owner) if owner else None
            if owner and not lost and (disk is None or disk.writes.get(slot, 0) != self.acknowledged[slot]):
                self.acknowledged[slot] = self.in_s3[slot]

    # ---- what always holds

    @invariant()
    def owners_and_complete_holders_have_every_acknowledged_write(self) -> None:
        if self.router.membership.recovering:
            return
        for slot in SAMPLES:
            newest = self.acknowledged[slot]
            if self.in_s3[slot] >= newest:
                continue
            owner = self.ring.owner(slot)
            complete = [each.address for each in self.ring.holders(slot) if not each.since]
            for address in filter(None, [owner, *complete]):
                disk = self.disk(address)
                assert disk is None or disk.writes.get(slot, 0) == newest, (slot, address, newest)

    @invariant()
    def a_slot_without_an_owner_waits_for_those_who_have_its_writes(self) -> None:
        if self.router.membership.recovering:
            return
        for part in self.ring.copies.waiting:
            for slot in SAMPLES:
                if part.first <= slot <= part.last:
                    assert self.ring.owner(slot) == ""
                    living = {process.member.journal_id for process in self.processes.values()}
                    members = {each.journal_id for each in self.ring.members}
                    assert not {each.journal_id for each in part.processes} & living & members


Model.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestCopies = Model.TestCase
