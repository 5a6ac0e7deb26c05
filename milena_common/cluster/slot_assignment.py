"""Pure. The ring: the assignment of the 16384 slots to nodes, as an immutable value with an epoch.

**The assignment is state.** The next ring is computed from this one and the nodes that it is to have
(`milena_common.cluster.slot_moves`): a change moves as few slots as it can, and leaves a node's slots in few
ranges. So two rings of the same nodes may differ, and a router that starts must learn the ring that there is
(`milena_router.ring.recovery`) before it makes another.

**Why not a function of the nodes' addresses**, such as rendezvous hashing: slots that lie side by side have
different owners then, so a ring of three nodes has 11,000 ranges and a reply to `CLUSTER SLOTS` a megabyte, and its
shares are as even as chance makes them.

**The successor** of a slot is the node that gets it if its owner leaves, and no other node does.

**Epochs and `owned_since`.** Every change makes a new ring with a greater epoch. For each slot the ring also
holds the epoch at which its owner got it. A node stamps its entries with that number, and an entry with an
older stamp than the request's is stale: another node may have owned, and written, the key in between. So a
node that lost its slots and got them back does not serve the entries that it had before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from milena_common.cluster.slot_moves import Move, moves
from milena_common.cluster.slot_runs import Run, differences, owner_by_slot, replaced, since_by_slot, whole
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

    `epoch`: grows with each change. `members`: the nodes, in order of their addresses. `_successors` is a cache: by
    the address of an owner, the moves that its leave would cause, in order of their slots.
    """

    __slots__ = ("_owners", "_runs", "_since", "_successors", "epoch", "members")

    def __init__(self, epoch: int, members: tuple[Member, ...], runs: tuple[Run, ...]) -> None:
        """Create a ring from `runs`, which have every slot once, in ascending order."""
        self.epoch = epoch
        self.members = members
        self._runs = runs
        self._owners = owner_by_slot(runs)
        self._since = since_by_slot(runs)
        self._successors: dict[str, list[Move]] = {}

    @classmethod
    def empty(cls, epoch: int = 0) -> Self:
        return cls(epoch, (), (Run(0, SLOTS - 1, "", epoch),))

    @classmethod
    def restored(cls, epoch: int, members: Iterable[Member], ranges: Iterable[tuple[int, int, str, int]]) -> Self:
        """Return the ring that another process published, with exactly its `ranges`.

        Raises ValueError if `ranges` do not ascend, overlap, name an address that is no member's, or have an
        `owned_since` above `epoch`.
        """
        ordered = tuple(sorted(members, key=lambda member: member.address))
        addresses = {member.address for member in ordered}
        if len(addresses) < len(ordered) or any(not member.weight > 0 for member in ordered):
            raise ValueError("two members have one address, or a weight is not positive")
        runs = whole(ranges, epoch)
        for first, last, address, owned_since in runs:
            if (address and address not in addresses) or not 0 <= owned_since <= epoch:
                raise ValueError(f"slots {first} to {last} of {address!r} since {owned_since}, epoch {epoch}")
        return cls(epoch, ordered, tuple(runs))

    def with_members(self, members: Iterable[Member], epoch: int, *, renewed: Collection[str] = ()) -> Ring:
        """Return the ring of exactly `members`, at `epoch`, which must be greater than this ring's.

        `renewed` are addresses of members whose process was replaced: they own their slots since this epoch.
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
        runs = [run if run.address not in renewed else run._replace(owned_since=epoch) for run in self._runs]
        moved = [Run(*move, epoch) for move in moves(self._runs, _weights(ordered))]
        return Ring(epoch, ordered, tuple(replaced(runs, moved)))

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
        """Return the address of the node that would own `slot` if its owner left; "" if there is none.

        The first call for a node's slots computes its leave, as `with_members` would.
        """
        owner = self._owners[slot]
        rest = [member for member in self.members if member.address != owner]
        if not owner or not rest:
            return ""
        found = self._successors.get(owner)
        if found is None:
            found = self._successors[owner] = sorted(moves(self._runs, _weights(rest)))
        return found[bisect_right(found, slot, key=lambda move: move.first) - 1].destination

    def slots_by_node(self) -> dict[str, int]:
        """Return the number of slots that each member owns."""
        counts = {member.address: 0 for member in self.members}
        for first, last, address, _ in self.ranges():
            counts[address] += last + 1 - first
        return counts


def _weights(members: Iterable[Member]) -> dict[str, float]:
    return {member.address: member.weight for member in members}
