"""A ring with copies through joins, losses, restarts, moves and reports: what it says can always be read."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from milena_common.cluster.copies_message import MAX_HOLDERS
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS
from milena_common.cluster.slot_assignment import Member, PlanChange, Ring
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from milena_router.ring.known_ring import copies_of
from milena_router.ring.watch_streams import Published, short_update

NAMES = st.sampled_from("abcde")
SOME = st.sets(NAMES, min_size=1, max_size=3)
NO_CHANGE = PlanChange()


class RingsWithCopies(RuleBasedStateMachine):
    """`ring` is that of up to five nodes with COPIES=2; `lost` has the processes that may return, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring.empty()
        self.epoch = 10
        self.started = 0
        self.lost: dict[str, Member] = {}

    # ---- the nodes

    def present(self) -> dict[str, Member]:
        return {each.address[0]: each for each in self.ring.members}

    def process(self, name: str, journal: str = "") -> Member:
        self.started += 1
        number = f"{name}-{self.started}"
        return Member(f"{name}:1", number, journal_id=journal or f"journal-{number}", copies=2)

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def become(self, members: dict[str, Member], change: PlanChange = NO_CHANGE, **more: list[str]) -> None:
        epoch = self.next_epoch()
        self.ring = self.ring.with_members(members.values(), epoch, moving=True, change=change, **more)

    @rule(names=SOME, with_journal=st.booleans())
    def join(self, names: set[str], with_journal: bool) -> None:
        members = self.present()
        for name in sorted(names - members.keys()):
            before = self.lost.pop(name, None)
            members[name] = self.process(name, before.journal_id if before and with_journal else "")
        self.become(members)

    @rule(names=SOME, clean=SOME)
    def lose(self, names: set[str], clean: set[str]) -> None:
        members = self.present()
        gone = {name: members.pop(name) for name in sorted(names & members.keys())}
        in_order = [gone[name].address for name in sorted(clean & gone.keys())]
        self.lost |= {name: each for name, each in gone.items() if each.address not in in_order}
        self.become(members, PlanChange(clean=in_order, departed=len(in_order)))

    @rule(name=NAMES, with_journal=st.booleans())
    def restart(self, name: str, with_journal: bool) -> None:
        members = self.present()
        if (before := members.get(name)) is None:
            return
        members[name] = self.process(name, before.journal_id if with_journal else "")
        restarted = [before.address] if with_journal else []
        self.become(members, renewed=[before.address], restarted=restarted)

    @rule(names=SOME)
    def write_off(self, names: set[str]) -> None:
        gone = [self.lost.pop(name).address for name in sorted(names & self.lost.keys())]
        self.become(self.present(), PlanChange(forgotten=gone))

    @precondition(lambda self: self.ring.copies.waiting)
    @rule()
    def end_waiting(self) -> None:
        self.become(self.present(), PlanChange(given_up=self.epoch))

    @rule(name=NAMES)
    def begin_to_leave(self, name: str) -> None:
        self.become(self.present(), PlanChange(leaving=[f"{name}:1"]))

    # ---- what they report

    @precondition(lambda self: self.ring.pending)
    @rule(name=NAMES, part=st.integers(1, 4))
    def take(self, name: str, part: int) -> None:
        address = f"{name}:1"
        mine = [move for move in self.ring.pending if move.address == address]
        cut = [move._replace(last=move.first + (move.last - move.first) // part) for move in mine]
        self.ring = self.ring.with_taken(address, cut, self.next_epoch()) or self.ring

    @precondition(lambda self: self.ring.copies.runs)
    @rule(name=NAMES, failing=st.sets(NAMES, max_size=2), own=st.booleans())
    def report(self, name: str, failing: set[str], own: bool) -> None:
        """The owner reports its holders as complete, those of `failing` as failed; `own`: that it has collected."""
        owner = f"{name}:1"
        failed, completed = [], []
        for first, last, held, _ in self.ring.copies.runs:
            for address, _ in held.holders if held.owner == owner else ():
                if address == owner and not own:
                    continue
                (failed if address[0] in failing else completed).append((first, last, address))
        before = self.ring.epoch
        ring = self.ring.with_reports(owner, completed, failed, before, self.next_epoch(), NO_CHANGE)
        self.ring = ring or self.ring

    @rule(avoided=st.sets(st.tuples(NAMES, NAMES), max_size=2))
    def plan(self, avoided: set[tuple[str, str]]) -> None:
        pairs = [(f"{owner}:1", f"{holder}:1") for owner, holder in sorted(avoided)]
        self.ring = self.ring.with_copies(self.next_epoch(), PlanChange(avoided=pairs)) or self.ring

    # ---- what holds

    @invariant()
    def no_slot_has_a_holder_twice_or_one_that_is_no_member(self) -> None:
        present = {each.address for each in self.ring.members}
        for _, _, held, _ in self.ring.copies.runs:
            addresses = [address for address, _ in held.holders]
            assert len(set(addresses)) == len(addresses) <= MAX_HOLDERS
            assert set(addresses) <= present

    @invariant()
    def a_slot_waits_without_an_owner_and_for_each_process_once(self) -> None:
        for part in self.ring.copies.waiting:
            assert self.ring.owner(part.first) == self.ring.owner(part.last) == ""
            ids = [each.node_id for each in part.processes]
            assert len(set(ids)) == len(ids) > 0

    @invariant()
    def each_slot_has_an_owner_or_waits(self) -> None:
        waiting = sum(part.last + 1 - part.first for part in self.ring.copies.waiting)
        owned = sum(last + 1 - first for first, last, *_ in self.ring.ranges())
        assert not self.ring.members or owned + waiting == SLOTS

    @invariant()
    def what_is_published_is_read_as_it_was_meant(self) -> None:
        if not self.ring.members:
            return
        published = Published(self.ring, "photos", "cluster", 0, ())
        copies = copies_of(SlotMap.from_update(short_update(published, None, RUNS | MOVES | COPIES)))
        ring = Ring.restored(self.ring.epoch, self.ring.members, self.ring.ranges(), self.ring.pending, copies)
        assert ring.copies.runs == self.ring.copies.runs
        parts = [part._replace(epoch=0) for part in ring.copies.waiting]
        assert parts == [part._replace(epoch=0) for part in self.ring.copies.waiting]
        assert replace(ring.copies, waiting=()) == replace(self.ring.copies, waiting=())


RingsWithCopies.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestRingsWithCopies = RingsWithCopies.TestCase
