"""Pure. The ring: the assignment of the 16384 slots to nodes, as an immutable value with an epoch.

**The assignment is state.** The next ring is computed from this one and the nodes that it is to have
(`milena_common.cluster.slot_moves`): a change moves as few slots as it can, and leaves a node's slots in few
ranges. So two rings of the same nodes may differ, and a router that starts must learn the ring that there is
(`milena_router.ring.recovery`) before it makes another.

**Why not a function of the nodes' addresses**, such as rendezvous hashing: slots that lie side by side have
different owners then, so a ring of three nodes has 11,000 ranges and a reply to `CLUSTER SLOTS` a megabyte, and its
shares are as even as chance makes them.

**The successor** of a slot is the node that gets it if its owner is lost, and no other node is.

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
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from milena_common.cluster.slot_moves import Move, moves
from milena_common.cluster.slot_runs import (
    Run,
    differences,
    overlaps,
    owner_by_slot,
    replaced,
    since_by_slot,
    whole,
    without,
)
from milena_common.cluster.slots import SLOTS, slot_of


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the ring.

    - `address`: its gRPC host:port, its identity in the ring.
    - `node_id`: the id of its process, "" where unknown.
    - `weight`: its share of the slots relative to other members.
    - `addresses`: host:port of its other servers, by name.
    - `journal_id`: the id of its journal, "" where unknown.
    """

    address: str
    node_id: str = ""
    weight: float = 1.0
    addresses: Mapping[str, str] = field(default_factory=dict)
    journal_id: str = ""


class Owner(NamedTuple):
    """The owner of a key: its slot, the slot's node, and the epoch since which the node owns the slot."""

    slot: int
    address: str
    owned_since: int


class Ring:
    """Slot → node, immutable. Create one with `Ring.empty()` and derive the next with `with_members`.

    `epoch`: grows with each change. `members`: the nodes, in order of their addresses. `pending`: the moves in
    progress, in ascending order: destination, and the epoch since which it will own the slots. `_successors` is a
    cache: by the address of an owner, the moves that its loss would cause, in order of their slots.
    """

    __slots__ = ("_owners", "_runs", "_since", "_successors", "epoch", "members", "pending")

    def __init__(
        self, epoch: int, members: tuple[Member, ...], runs: tuple[Run, ...], pending: tuple[Run, ...] = ()
    ) -> None:
        """Create a ring from `runs`, which have every slot once, in ascending order."""
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
    ) -> Self:
        """Return the ring that another process published, with exactly its `ranges` and its moves in progress.

        Raises ValueError if `ranges` or `pending` do not ascend, overlap, name an address that is no member's, or
        have an `owned_since` above `epoch`; and if a pending slot has no other owner, or one since a later epoch.
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
        return cls(epoch, ordered, tuple(runs), tuple(moves_of))

    def with_members(
        self,
        members: Iterable[Member],
        epoch: int,
        *,
        renewed: Collection[str] = (),
        restarted: Collection[str] = (),
        moving: bool = False,
        leaving: Collection[str] = (),
    ) -> Ring:
        """Return the ring of exactly `members`, at `epoch`, which must be greater than this ring's.

        `renewed` are addresses of members whose process was replaced: they own their slots since this epoch.
        `restarted` are those of them that have the journal of the process before.
        `moving`: the members hand slots over, so slots of members become pending, and only those of lost nodes
        change their owner at once; `leaving` are then the addresses of members that get no slots and give away
        theirs. Otherwise all slots change at once, those that were pending too.

        Raises ValueError for an epoch that does not grow or a weight that is not positive.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        ordered = tuple(sorted(members, key=lambda member: member.address))
        if any(not member.weight > 0 for member in ordered):
            raise ValueError("weights must be positive")
        if not ordered:
            left = [Run(first, last, "", epoch) for first, last, address, _ in self._runs if address]
            return Ring(epoch, (), tuple(replaced(self._runs, left)))
        present = {member.address for member in ordered}
        runs, pending = self._after_losses(present, set(renewed), epoch, moving, set(restarted))
        staying = _weights(member for member in ordered if not moving or member.address not in leaving)
        found = moves(replaced(runs, pending) if pending else runs, staying or _weights(ordered))
        if not moving:
            return Ring(epoch, ordered, tuple(replaced(runs, [Run(*move, epoch) for move in found])))
        at_once, planned = [], []
        for first, last, move, owned in overlaps([Run(*move, epoch) for move in sorted(found)], runs):
            if owned.address not in present:
                at_once.append(move._replace(first=first, last=last))
            elif owned.owned_since < epoch:  # others move later: a planned epoch is greater than the owner's
                planned.append(move._replace(first=first, last=last))
        planned = without(planned, [run[:2] for run in pending])
        ahead = _joined(sorted([*pending, *planned]))
        return Ring(epoch, ordered, tuple(replaced(runs, at_once)), ahead)

    def with_taken(self, address: str, taken: Sequence[Run], epoch: int) -> Ring | None:
        """Return the ring in which the node at `address` owns the pending slots that it reports as `taken`.

        Of `taken`, which ascend, those count that are pending to this node since the same epoch; None if none do.
        Raises ValueError for an epoch that does not grow.
        """
        if epoch <= self.epoch:
            raise ValueError(f"the epoch must grow: {epoch} after {self.epoch}")
        done = [
            Run(first, last, address, move.owned_since)
            for first, last, report, move in overlaps(taken, self.pending)
            if move.address == address and move.owned_since == report.owned_since
        ]
        if not done:
            return None
        pending = without(self.pending, [run[:2] for run in done])
        return Ring(epoch, self.members, tuple(replaced(self._runs, done)), tuple(pending))

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
        return Ring(epoch, self.members, self._runs, tuple(without(self.pending, found)))

    def is_balanced(self, leaving: Collection[str] = ()) -> bool:
        """True if no move is in progress or needed; `leaving` as in `with_members`."""
        staying = _weights(member for member in self.members if member.address not in leaving)
        return not self.pending and not moves(self._runs, staying or _weights(self.members))

    def _after_losses(
        self, present: set[str], renewed: set[str], epoch: int, moving: bool, restarted: Collection[str] = ()
    ) -> tuple[list[Run], list[Run]]:
        """Return the runs and the moves in progress after the loss of all processes but those of `present`.

        Those of `renewed` are lost and replaced. If one side of a move is lost, the other gets the slot. An owner
        that was `restarted` is not lost: its journal has the writes, so it keeps the slot, and the move is planned
        anew.
        Runs of addresses that are not `present` have no new owner yet.
        """
        runs = [run if run.address not in renewed else run._replace(owned_since=epoch) for run in self._runs]
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

        The first call for a node's slots computes its loss, as `with_members` would.
        """
        owner = self._owners[slot]
        rest = [member for member in self.members if member.address != owner]
        if not owner or not rest:
            return ""
        for first, last, destination, _ in self.pending:
            if first <= slot <= last:
                return destination
        found = self._successors.get(owner)
        if found is None:
            weights = _weights(rest)
            runs, pending = self._after_losses(set(weights), set(), self.epoch + 1, True)
            found = self._successors[owner] = sorted(moves(replaced(runs, pending), weights))
        return found[bisect_right(found, slot, key=lambda move: move.first) - 1].destination

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
