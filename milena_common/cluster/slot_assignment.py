"""Pure. The ring: the assignment of the 16384 slots to nodes, as an immutable value with an epoch.

**The assignment is state.** The next ring is computed from this one and the nodes that it is to have
(`milena_common.cluster.slot_moves`): a change moves as few slots as it can, and leaves a node's slots in few
ranges. So two rings of the same nodes may differ, and a router that starts must learn the ring that there is
(`milena_router.ring.recovery`) before it makes another.

**Why not a function of the nodes' addresses**, such as rendezvous hashing: slots that lie side by side have
different owners then, so a ring of three nodes has 11,000 ranges and a reply to `CLUSTER SLOTS` a megabyte, and its
shares are as even as chance makes them.

**The successor** of a slot is the node that gets it if its owner is lost, and no other node is.

**Copies.** Where all members keep copies of each other's writes, the ring has the holders of each slot
(`milena_common.cluster.copy_holders`). A lost owner's slots go to holders, and wait without an owner if none of
them has everything (`milena_common.cluster.copy_losses`); balance returns by moves. A change of holders is a new
ring, in which all slots have their owners since the same epochs.

**Epochs and `owned_since`.** Every change makes a new ring with a greater epoch. For each slot the ring also
holds the epoch at which its owner got it. A node stamps its entries with that number, and an entry with an
older stamp than the request's is stale: another node may have owned, and written, the key in between. So a
node that lost its slots and got them back does not serve the entries that it had before.

**Moves in progress.** Where the nodes hand slots over, a slot does not change its owner at once. It becomes
pending: the ring has its destination, and the epoch at which the move was planned, which is greater than the
owner's `owned_since`. The owner serves the slot until it has handed it over; then the destination owns it since
that epoch, which is the same before and after the ring says so. The interleavings that the rules of `with_members`
avoid:

1. The destination is lost, and the owner goes on with its old `owned_since`. The destination may have had the slot
   already, and acknowledged writes; entries of the owner from before would count as fresh. So the owner owns it
   since the new epoch.
2. A slot that is pending gets another destination. The first one may have it already, and two nodes would serve it.
   So it keeps its destination until that has it, and moves on later.
3. A slot was taken over. Its owner before has every write of it, and is its one complete holder; the holders of
   that one get the writes only until their new owner has this ring, and are listed no more.
4. A slot was taken over, and both its nodes are lost before the router knows. The holders that are listed get it:
   until a ring says that the slot was taken over, the destination has its writes copied to the old owner *and* to
   the complete holders of that one. So no holder becomes complete while a slot is pending: the destination may not
   know of it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from milena_common.cluster.copy_holders import (
    Candidate,
    CopyRun,
    Held,
    Listed,
    Rules,
    first_complete,
    held_runs,
    is_collecting,
    lists_owner,
    mapped,
    planned,
    with_owners,
    without_holders,
    without_own,
)
from milena_common.cluster.copy_losses import Losses, WaitingRun, promoted
from milena_common.cluster.member import Member
from milena_common.cluster.slot_moves import Move, moves
from milena_common.cluster.slot_runs import (
    Run,
    differences,
    overlaps,
    owner_by_slot,
    rejoined,
    replaced,
    since_by_slot,
    whole,
    without,
)
from milena_common.cluster.slots import SLOTS, slot_of

__all__ = ["Copies", "Member", "Owner", "PlanChange", "Ring"]

# The owner of waiting slots while moves are planned: its share is what it has, so they stay.
_WAITING = "\0waiting"


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies of a ring.

    target: how many journals an acknowledged write must be in; 0 if not all members keep copies
    greatest_members: how many members the ring has had, less those that left for good
    runs: the holders of all slots, in ascending order; none if there are no copies
    waiting: slots without an owner, until a process that has their writes returns
    """

    target: int = 0
    greatest_members: int = 0
    runs: tuple[CopyRun, ...] = ()
    waiting: tuple[WaitingRun, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What a change of the ring must regard besides its members.

    leaving: addresses of members that get no slots and no copies, and give away theirs
    avoided: pairs of addresses of an owner and a node that is not to become its holder now
    departed: how many nodes left for good: with all their writes in S3, or because a person said so
    clean: addresses of nodes that left with all their writes in S3
    forgotten: addresses of lost nodes that a person wrote off
    given_up: slots without an owner since this epoch or before are given to other nodes
    doubtful: True if a newer ring was lost, which may have had other holders
    """

    leaving: Collection[str] = ()
    avoided: Collection[tuple[str, str]] = ()
    departed: int = 0
    clean: Collection[str] = ()
    forgotten: Collection[str] = ()
    given_up: int = 0
    doubtful: bool = False


class Owner(NamedTuple):
    """The owner of a key: its slot, the slot's node, and the epoch since which the node owns the slot."""

    slot: int
    address: str
    owned_since: int


class Ring:
    """Slot → node, immutable. Create one with `Ring.empty()` and derive the next with `with_members`.

    `epoch`: grows with each change. `members`: the nodes, in order of their addresses. `pending`: the moves in
    progress, in ascending order: destination, and the epoch since which it will own the slots. `copies`: the
    holders of the slots. `_successors` is a cache: by the address of an owner, the moves that its loss would cause,
    in order of their slots.
    """

    __slots__ = ("_owners", "_runs", "_since", "_successors", "copies", "epoch", "members", "pending")

    def __init__(
        self,
        epoch: int,
        members: tuple[Member, ...],
        runs: tuple[Run, ...],
        pending: tuple[Run, ...] = (),
        copies: Copies = Copies(),
    ) -> None:
        """Create a ring from `runs`, which have every slot once, in ascending order."""
        self.copies = copies
        self.epoch = epoch
        self.members = members
        self.pending = pending
        self._runs = runs
        self._owners = owner_by_slot(runs)
        self._since = since_by_slot(runs)
        self._successors: dict[str, list[Move]] = {}

    @classmethod
    def empty(cls, epoch: int = 0) -> Self:
        return cls(epoch, (), (Run(0, SLOTS - 1, "", epoch),))

    @classmethod
    def restored(
        cls,
        epoch: int,
        members: Iterable[Member],
        ranges: Iterable[tuple[int, int, str, int]],
        pending: Iterable[Run] = (),
        copies: Copies = Copies(),
    ) -> Self:
        """Return the ring that another process published, with exactly its `ranges`, moves in progress and copies.

        The owners in `copies.runs` are not regarded.

        Raises ValueError if `ranges` or `pending` do not ascend, overlap, name an address that is no member's, or
        have an `owned_since` above `epoch`; if a pending slot has no other owner, or one since a later epoch; and
        if a holder is no member, or a waiting slot has an owner.
        """
        ordered = tuple(sorted(members, key=lambda member: member.address))
        addresses = {member.address for member in ordered}
        if len(addresses) < len(ordered) or any(not member.weight > 0 for member in ordered):
            raise ValueError("two members have one address, or a weight is not positive")
        runs = whole(ranges, epoch)
        for first, last, address, owned_since in runs:
            if (address and address not in addresses) or not 0 <= owned_since <= epoch:
                raise ValueError(f"slots {first} to {last} of {address!r} since {owned_since}, epoch {epoch}")
        moves_of = [run for run in whole(pending, 0) if run.address]
        for first, last, move, owned in overlaps(moves_of, runs):
            known = owned.address and move.address in addresses and move.address != owned.address
            if not known or not owned.owned_since < move.owned_since <= epoch:
                raise ValueError(f"slots {first} to {last} move from {owned} to {move}, epoch {epoch}")
        return cls(epoch, ordered, tuple(runs), tuple(moves_of), _restored_copies(copies, runs, addresses, epoch))

    def with_members(
        self,
        members: Iterable[Member],
        epoch: int,
        *,
        renewed: Collection[str] = (),
        restarted: Collection[str] = (),
        moving: bool = False,
        change: PlanChange = PlanChange(),
    ) -> Ring:
        """Return the ring of exactly `members`, at `epoch`, which must be greater than this ring's.

        `renewed` are addresses of members whose process was replaced: they own their slots since this epoch.
        `restarted` are those of them that have the journal of the process before. In a ring with copies a replaced
        process without that journal is lost, and its slots go to holders.
        `moving`: the members hand slots over, so slots of members become pending, and only those of lost nodes
        change their owner at once. Otherwise all slots change at once, those that were pending too.

        Raises ValueError for an epoch that does not grow or a weight that is not positive.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        ordered = tuple(sorted(members, key=lambda member: member.address))
        if any(not member.weight > 0 for member in ordered):
            raise ValueError("weights must be positive")
        present = {member.address for member in ordered}
        copies = self._copies_of(ordered, moving, change)
        lost = {
            each.address: each
            for each in self.members
            if each.address not in present or (each.address in renewed and each.address not in restarted)
        }
        held = _doubted(copies.runs, epoch) if change.doubtful else copies.runs
        waiting: list[WaitingRun] = []
        returned: list[CopyRun] = []
        living = present - lost.keys() if held else present
        if ordered:
            runs, pending = self._after_losses(living, set(renewed), epoch, moving, set(restarted))
        else:
            runs, pending = list(self._runs), []
        if held or copies.waiting:
            losses = Losses(
                lost if held else {},
                change.clean,
                {each.journal_id: each.address for each in ordered if each.journal_id},
                change.forgotten,
                change.given_up,
            )
            uncopied = self._without_any_copy(held, lost, living, change.clean) if moving and ordered else []
            owners, waiting = promoted(replaced(runs, uncopied), held, copies.waiting, losses, epoch)
            runs = replaced(runs, owners)
            returned = [
                CopyRun(first, last, Held(run.address, ()))
                for first, last, run, part in overlaps(sorted(owners), copies.waiting)
                if run.address and part.awaited.complete
            ]
            if pending and waiting:
                # An owner that collects hands nothing over, so no destination has them.
                pending = without(pending, [(part.first, part.last) for part in waiting])
        copies = replace(copies, waiting=tuple(waiting))
        if not ordered:
            left = [Run(first, last, "", epoch) for first, last, address, _ in runs if address]
            return Ring(epoch, (), tuple(replaced(runs, left)), (), replace(copies, runs=()))
        leaving = change.leaving if moving else ()
        staying = _weights(member for member in ordered if member.address not in leaving)
        found = _moves(replaced(runs, pending) if pending else runs, staying or _weights(ordered), waiting)
        at_once, plans = [], []
        if not moving:
            at_once = [Run(*move, epoch) for move in found]
        else:
            for first, last, move, owned in overlaps([Run(*move, epoch) for move in sorted(found)], runs):
                if owned.address not in present:
                    at_once.append(move._replace(first=first, last=last))
                elif owned.owned_since < epoch:  # others move later: a planned epoch is greater than the owner's
                    plans.append(move._replace(first=first, last=last))
        plans = without(plans, [run[:2] for run in pending])
        runs = replaced(runs, at_once)
        ring = Ring(epoch, ordered, tuple(runs), _joined(sorted([*pending, *plans])), copies)
        if copies.target > 1:
            planned_from = held_runs(runs)
            if held or (self.copies.greatest_members and not self.members):
                before = without_holders(held, lost) if held else held_runs(self._runs)
                planned_from = self._with_new_owners(before, runs, returned, change.clean)
            ring._plan(planned_from, change)
        return ring

    def _with_new_owners(
        self, copies: Sequence[CopyRun], runs: Sequence[Run], returned: Sequence[CopyRun], clean: Collection[str]
    ) -> list[CopyRun]:
        """Return `copies`, of this ring, with the owners of `runs`; those of `returned` slots have everything."""
        changed = differences(self._runs, runs)
        # Slots that had no owner have all writes in S3, but for those that have waited and were given up.
        given_up = [
            CopyRun(first, last, Held(_WAITING, ()))
            for first, last, _, run in overlaps(self.copies.waiting, changed)
            if run.address
        ]
        return replaced(with_owners(replaced(copies, given_up), changed, {"", *clean}), returned)

    def _without_any_copy(
        self, copies: Sequence[CopyRun], lost: Collection[str], living: Collection[str], clean: Collection[str]
    ) -> list[Run]:
        """Return the slots of lost owners that were moving, and of which no node that lives has every write.

        Their destination gets what moves only if it has a complete holder to collect from: unless it has taken the
        slots, it has nothing itself. If it has, its report follows (`with_taken`).
        """
        of_lost = [
            Run(first, last, owned.address, owned.owned_since)
            for first, last, move, owned in overlaps(self.pending, self._runs)
            if owned.address in lost and owned.address not in clean and move.address in living
        ]
        return [
            Run(first, last, owned.address, owned.owned_since)
            for first, last, owned, copy in overlaps(of_lost, copies)
            if not first_complete(each for each in copy.held.holders if each.address in living)
        ]

    def with_copies(self, epoch: int, change: PlanChange) -> Ring | None:
        """Return the ring with the holders that are needed now; None if it has them.

        Raises ValueError for an epoch that does not grow.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        return self._with_holders(list(self.copies.runs), epoch, change)

    def with_reports(
        self,
        owner: str,
        completed: Iterable[tuple[int, int, str]],
        failed: Iterable[tuple[int, int, str]],
        copies_epoch: int,
        epoch: int,
        change: PlanChange,
    ) -> Ring | None:
        """Return the ring after the report of `owner` about the holders of its slots; None if that changes nothing.

        `completed` and `failed` are first and last slot and a holder's address, found by the ring of
        `copies_epoch`. What concerns slots that the node owns, or holders that are listed, since a later epoch is
        not regarded: (1) a holder is filled; (2) it fails, and is listed as filling again; (3) the owner's report
        of step 1 arrives late, and the holder would count as complete without the writes since step 2. Nor is what
        is `completed` of pending slots: their destination may have them, and acknowledge writes without a holder
        that was filling when it took them.

        An owner that is listed itself has collected the slots of which it reports itself as completed. Until then
        nothing else counts of them: what it has is not everything, and what it cannot reach may be.

        Raises ValueError for an epoch that does not grow.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        known = [run for run in self._runs if run.address == owner and run.owned_since <= copies_epoch]
        copies = list(self.copies.runs)
        collected = sorted(Run(first, last, holder, 0) for first, last, holder in completed if holder == owner)
        if collected:
            mine = [Run(first, last, owner, 0) for first, last, _, _ in overlaps(collected, known)]
            copies = _reported(copies, owner, mine, copies_epoch, is_complete=True)
        collecting = [run[:2] for run in copies if run.held.owner == owner and is_collecting(run.held)]
        if collecting:
            known = without(known, collecting)
        staying = without(known, [run[:2] for run in self.pending]) if self.pending else known
        for reports, is_complete, counted in ((completed, True, staying), (failed, False, known)):
            by_holder: dict[str, list[Run]] = {}
            for first, last, holder in reports:
                if holder != owner:
                    by_holder.setdefault(holder, []).append(Run(first, last, holder, 0))
            for holder, ranges in by_holder.items():
                mine = [Run(first, last, holder, 0) for first, last, _, _ in overlaps(sorted(ranges), counted)]
                copies = _reported(copies, holder, mine, copies_epoch, is_complete)
        return self._with_holders(copies, epoch, change) if copies != list(self.copies.runs) else None

    def _with_holders(self, copies: list[CopyRun], epoch: int, change: PlanChange) -> Ring | None:
        if not self.copies.runs:
            return None
        ring = Ring(epoch, self.members, self._runs, self.pending, self.copies)
        ring._plan(copies, change)
        return ring if ring.copies.runs != self.copies.runs else None

    def _plan(self, copies: Sequence[CopyRun], change: PlanChange) -> None:
        """Set the holders of a ring that is being made: `copies`, and those that are needed besides."""
        rules = Rules(
            self.copies.target - 1,
            {
                each.address: Candidate(each.weight, each.zone, each.address in change.leaving)
                for each in self.members
            },
            change.avoided,
            [run[:2] for run in self.pending],
        )
        marked = [run for run in copies if lists_owner(run.held)]
        if not marked:
            self.copies = replace(self.copies, runs=tuple(planned(copies, rules, self.epoch)))
            return
        # Owners that collect are no holders of what they own, and no plan regards them.
        plan = planned(without_own(copies), rules, self.epoch)
        again = []
        for first, last, run, copy in overlaps(marked, plan):
            own = next(each for each in run.held.holders if each.address == run.held.owner)
            again.append(CopyRun(first, last, copy.held._replace(holders=(*copy.held.holders, own))))
        self.copies = replace(self.copies, runs=tuple(replaced(plan, again)))

    def _copies_of(self, members: tuple[Member, ...], moving: bool, change: PlanChange) -> Copies:
        """Return this ring's copies with the numbers of a ring of `members`; without any if not all keep copies."""
        before = self.copies
        if not members:
            return before
        greatest = max(len(members), before.greatest_members - change.departed)
        if not moving or not all(each.copies for each in members):
            return Copies(0, greatest)
        target = min(max(each.copies for each in members), greatest)
        known = {each.address: each.copies for each in self.members}
        if not change.departed and all(known.get(each.address, each.copies) == each.copies for each in members):
            target = max(target, before.target)  # not less because of a loss
        return Copies(target, greatest, before.runs if target > 1 else (), before.waiting)

    def with_taken(
        self, address: str, taken: Sequence[Run], epoch: int, change: PlanChange = PlanChange()
    ) -> Ring | None:
        """Return the ring in which the node at `address` owns the pending slots that it reports as `taken`.

        Of `taken`, which ascend, those count that are pending to this node since the same epoch; None if none do.
        The owner before has every write, and is the holder of copies.

        If the owner was lost before the report arrived, slots that wait count too, because the owner had no
        complete holder: the node owns them. Those that the node got by the loss need no other holders: the ones of
        the lost owner have got the writes since the move too.

        Raises ValueError for an epoch that does not grow.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        done = [
            Run(first, last, address, move.owned_since)
            for first, last, report, move in overlaps(taken, self.pending)
            if move.address == address and move.owned_since == report.owned_since
        ]
        claimed = [
            Run(first, last, address, epoch)
            for first, last, report, _ in overlaps(
                taken, [Run(part.first, part.last, "", part.epoch) for part in self.copies.waiting]
            )
            if report.owned_since < self._since[first]
        ]
        if not done and not claimed:
            return None
        pending = without(self.pending, [run[:2] for run in done])
        copies = self.copies
        if claimed:
            copies = replace(copies, waiting=tuple(_without_slots(copies.waiting, claimed)))
        runs = replaced(self._runs, [*done, *claimed])
        ring = Ring(epoch, self.members, tuple(runs), tuple(pending), copies)
        if self.copies.runs:
            handed_over = [
                CopyRun(first, last, Held(address, (Listed(copy.held.owner),)))
                for first, last, _, copy in overlaps(done, self.copies.runs)
            ]
            empty = [CopyRun(run.first, run.last, Held(address, ())) for run in claimed]
            ring._plan(replaced(self.copies.runs, [*handed_over, *empty]), change)
        return ring

    def without_moves(self, abandoned: Sequence[Run], epoch: int) -> Ring | None:
        """Return the ring without the moves in progress of `abandoned`: the slots stay with their owners.

        Of `abandoned`, which ascend, those count that are pending to the same node since the same epoch; None if
        none are. The destination must certainly not have taken them, and never do so. Raises ValueError for an
        epoch that does not grow.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        found = [
            (first, last)
            for first, last, each, move in overlaps(abandoned, self.pending)
            if move.address == each.address and move.owned_since == each.owned_since
        ]
        if not found:
            return None
        return Ring(epoch, self.members, self._runs, tuple(without(self.pending, found)), self.copies)

    def is_balanced(self, leaving: Collection[str] = ()) -> bool:
        """True if no move is in progress or needed; `leaving` as in `with_members`."""
        staying = _weights(member for member in self.members if member.address not in leaving)
        weights = staying or _weights(self.members)
        return not self.pending and not _moves(self._runs, weights, self.copies.waiting)

    def _after_losses(
        self, present: set[str], renewed: set[str], epoch: int, moving: bool, restarted: Collection[str] = ()
    ) -> tuple[list[Run], list[Run]]:
        """Return the runs and the moves in progress after the loss of all processes but those of `present`.

        Those of `renewed` are lost and replaced. If one side of a move is lost, the other gets the slot. An owner
        that was `restarted` is not lost: its journal has the writes, so it keeps the slot, and the move is planned
        anew.
        Runs of addresses that are not `present` have no new owner yet.
        """
        runs = list(self._runs)
        if renewed:
            runs = rejoined(
                run if run.address not in renewed else run._replace(owned_since=epoch) for run in self._runs
            )
        if not self.pending:
            return runs, []
        changes, pending = [], []
        for first, last, move, owned in overlaps(self.pending, self._runs):
            owner, destination = owned.address, move.address
            owner_lives = owner in present and owner not in renewed
            destination_lives = destination in present and destination not in renewed
            if moving and owner_lives and destination_lives:
                pending.append(Run(first, last, destination, move.owned_since))
            elif owner in restarted:
                changes.append(Run(first, last, owner, epoch))
            elif destination_lives:
                changes.append(Run(first, last, destination, epoch))
            elif owner in present:
                changes.append(Run(first, last, owner, epoch))
            elif destination in present:
                changes.append(Run(first, last, destination, epoch))
        return replaced(runs, changes), list(_joined(pending))

    def owner(self, slot: int) -> str:
        """Return the address of the node that owns `slot`; "" in an empty ring."""
        return self._owners[slot]

    def find(self, cache_key: bytes) -> Owner:
        """Return the owner of `cache_key`; its address is "" in an empty ring."""
        slot = slot_of(cache_key)
        return Owner(slot, self._owners[slot], self._since[slot])

    def ranges(self) -> list[Run]:
        """Return the runs of slots with one owner since one epoch, as few as possible, in ascending order.

        Slots without an owner are in none.
        """
        return [run for run in self._runs if run.address]

    def differences(self, base: Ring) -> list[Run]:
        """Return the runs of this ring that are not so in `base`; an empty ring's slots have the owner ""."""
        return differences(base._runs, self._runs)

    def successor(self, slot: int) -> str:
        """Return the address of the node that would own `slot` if its owner were lost; "" if there is none.

        In a ring with copies that is the first complete holder. In another one the first call for a node's slots
        computes its loss, as `with_members` would.
        """
        owner = self._owners[slot]
        rest = [member for member in self.members if member.address != owner]
        if not owner or not rest:
            return ""
        for first, last, destination, _ in self.pending:
            if first <= slot <= last:
                return destination
        if self.copies.runs:
            return first_complete(each for each in self.holders(slot) if each.address != owner)
        found = self._successors.get(owner)
        if found is None:
            weights = _weights(rest)
            runs, pending = self._after_losses(set(weights), set(), self.epoch + 1, True)
            found = self._successors[owner] = sorted(moves(replaced(runs, pending), weights))
        return found[bisect_right(found, slot, key=lambda move: move.first) - 1].destination

    def holders(self, slot: int) -> tuple[Listed, ...]:
        """Return the holders of the copies of `slot`."""
        runs = self.copies.runs
        if not runs:
            return ()
        return runs[bisect_right(runs, slot, key=lambda run: run.first) - 1].held.holders

    def slots_with_missing_copies(self) -> int:
        """Return how many owned slots have fewer complete holders than are wanted."""
        number = self.copies.target - 1
        return sum(
            last + 1 - first
            for first, last, held, _ in self.copies.runs
            if held.owner and sum(not each.since for each in held.holders if each.address != held.owner) < number
        )

    def slots_by_node(self) -> dict[str, int]:
        """Return the number of slots that each member owns."""
        counts = {member.address: 0 for member in self.members}
        for first, last, address, _ in self.ranges():
            counts[address] += last + 1 - first
        return counts


def _weights(members: Iterable[Member]) -> dict[str, float]:
    return {member.address: member.weight for member in members}


def _joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return `runs`, which ascend, with equal adjacent ones joined."""
    joined: list[Run] = []
    for run in runs:
        if joined and joined[-1].last == run.first - 1 and joined[-1][2:] == run[2:]:
            run = run._replace(first=joined.pop().first)
        joined.append(run)
    return tuple(joined)


def _moves(runs: Sequence[Run], weights: Mapping[str, float], waiting: Sequence[WaitingRun]) -> list[Move]:
    """Return the moves that a ring needs, without those of slots that wait for a lost process."""
    if not waiting:
        return moves(runs, weights)
    number = sum(part.last + 1 - part.first for part in waiting)
    if number == SLOTS:
        return []
    part = sum(weights.values()) * number / (SLOTS - number)
    present = replaced(runs, [Run(each.first, each.last, _WAITING, each.epoch) for each in waiting])
    kept = [(each.first, each.last) for each in waiting]
    found = moves(present, {**weights, _WAITING: part})
    # Rounding may have given it a slot more or less.
    rest = without([Run(*move, 0) for move in sorted(found) if move.destination != _WAITING], kept)
    return [Move(first, last, address) for first, last, address, _ in rest]


def _without_slots(waiting: Iterable[WaitingRun], runs: Iterable[Run]) -> list[WaitingRun]:
    """Return `waiting` without the slots of `runs`."""
    removed = [run[:2] for run in runs]
    return [
        part._replace(first=left.first, last=left.last)
        for part in waiting
        for left in without([Run(part.first, part.last, _WAITING, part.epoch)], removed)
    ]


def _doubted(copies: Sequence[CopyRun], epoch: int) -> list[CopyRun]:
    """Return `copies` with no complete holder: all are filling since `epoch`."""
    changes = {
        held: held._replace(holders=tuple(Listed(each.address, epoch) for each in held.holders))
        for held in {run.held for run in copies}
    }
    return mapped(copies, changes)


def _reported(
    copies: list[CopyRun], holder: str, ranges: list[Run], copies_epoch: int, is_complete: bool
) -> list[CopyRun]:
    """Return `copies` with `holder` complete, or without it, in the slots of `ranges`.

    An owner that is complete is listed among the holders of its own slots no more.
    """
    changes = []
    for first, last, _, copy in overlaps(ranges, copies):
        holders = []
        for each in copy.held.holders:
            if each.address != holder or each.since > copies_epoch:
                holders.append(each)
            elif is_complete and holder != copy.held.owner:
                holders.append(Listed(holder))
        if tuple(holders) != copy.held.holders:
            changes.append(CopyRun(first, last, copy.held._replace(holders=tuple(holders))))
    return replaced(copies, changes) if changes else copies


def _restored_copies(copies: Copies, runs: list[Run], addresses: Collection[str], epoch: int) -> Copies:
    """Return `copies` with the owners of `runs`. Raises ValueError if they do not fit."""
    if not 0 <= copies.target <= max(copies.greatest_members, 0):
        raise ValueError(f"{copies.target} journals are wanted of {copies.greatest_members} members")
    for first, last, part, owned in overlaps(copies.waiting, runs):
        if owned.address or not part.processes:
            raise ValueError(f"slots {first} to {last} wait for {part.processes}, and have owner {owned.address!r}")
    if copies.target < 2:
        return replace(copies, runs=())
    found = []
    for first, last, run, copy in overlaps(runs, copies.runs):
        for each in copy.held.holders:
            if each.address not in addresses or not 0 <= each.since <= epoch:
                raise ValueError(f"slots {first} to {last} of {run.address!r} have the holder {each}")
        if run.address:
            found.append(CopyRun(first, last, Held(run.address, copy.held.holders)))
    return replace(copies, runs=tuple(replaced(held_runs(runs), found)))
