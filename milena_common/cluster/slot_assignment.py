"""Pure. The ring: the assignment of the 16384 slots to nodes, as an immutable value with an epoch.

**Method: weighted rendezvous hashing** of slots to nodes (Thaler and Ravishankar, "Using name-based mappings
to increase hit rates", 1998; weights as in Schindelhauer and Schomaker, "Weighted distributed hash tables",
2005). Each node has a number u in (0, 1) for each slot, derived from its address alone; the slot goes to the
node with the smallest -ln(u) / weight. A join moves slots only to the joining node, a leave moves only the
slots of the leaving node, and the same members give the same ring in any order of joining, so a restarted
router computes the ring that it had. The successor of a slot is the node with the second smallest number.

**Why not a circle of virtual nodes:** to keep the fullest of 32 nodes within 1.15 × the mean it needs hundreds
of points a node, and its spread is still more uneven.

**Why u is stratified.** With independent u, a node's slots are binomial: at 32 nodes the mean is 512 and the
standard deviation 22, so the fullest exceeds 1.15 × the mean in one ring of a hundred. Here a node's u are a
random permutation of 16384 equal strata with a random place inside each, which halves the variance (each
node uses every part of (0, 1) equally often): 1.15 is then five standard deviations away.

**Epochs and `owned_since`.** Every change makes a new ring with a greater epoch. For each slot the ring also
holds the epoch at which its owner got it. A node stamps its entries with that number, and an entry with an
older stamp than the request's is stale: another node may have owned, and written, the key in between. So a
node that lost its slots and got them back does not serve the entries that it had before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import shake_128
from itertools import groupby
from math import log
from struct import unpack
from typing import NamedTuple, Self

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


def _scores(address: str, weight: float) -> list[float]:
    """Return the node's -ln(u) / weight for each slot, u stratified. Takes about 15 ms."""
    draws = unpack(f"<{SLOTS}Q", shake_128(address.encode()).digest(8 * SLOTS))
    scores = [0.0] * SLOTS
    for rank, slot in enumerate(sorted(range(SLOTS), key=draws.__getitem__)):
        # The low bits place u inside its stratum; the high bits have already decided the rank.
        inside = ((draws[slot] & 0xFFFFFFFF) + 0.5) / 2**32
        scores[slot] = -log((rank + inside) / SLOTS) / weight
    return scores


class Ring:
    """Slot → node, immutable. Create one with `Ring.empty()` and derive the next with `with_members`.

    `_scores` is a cache, filled when a score is needed; rings derived from each other share its lists.
    """

    __slots__ = ("_owners", "_scores", "_since", "epoch", "members")

    def __init__(
        self,
        epoch: int,
        members: tuple[Member, ...],
        scores: dict[tuple[str, float], list[float]],
        owners: list[str],
        since: list[int],
    ) -> None:
        self.epoch = epoch
        self.members = members
        self._scores = scores
        self._owners = owners
        self._since = since

    @classmethod
    def empty(cls, epoch: int = 0) -> Self:
        return cls(epoch, (), {}, [""] * SLOTS, [epoch] * SLOTS)

    def restored(self, epoch: int, members: Iterable[Member], ranges: Iterable[tuple[int, int, str, int]]) -> Ring:
        """Return the ring that another process published, with exactly its `ranges`, and this ring's cached scores.

        Raises ValueError if `ranges` do not ascend, overlap, name an address that is no member's, or have an
        `owned_since` above `epoch`.
        """
        ordered = tuple(sorted(members, key=lambda member: member.address))
        addresses = {member.address for member in ordered}
        if len(addresses) < len(ordered) or any(not member.weight > 0 for member in ordered):
            raise ValueError("two members have one address, or a weight is not positive")
        owners, since = [""] * SLOTS, [epoch] * SLOTS
        free = 0
        for first, last, address, owned_since in ranges:
            if not free <= first <= last < SLOTS or address not in addresses or not 0 <= owned_since <= epoch:
                raise ValueError(f"slots {first} to {last} of {address!r} since {owned_since}, epoch {epoch}")
            free = last + 1
            owners[first:free] = [address] * (free - first)
            since[first:free] = [owned_since] * (free - first)
        return Ring(epoch, ordered, self._scores, owners, since)

    def compute_scores(self, member: Member) -> None:
        """Compute and keep the scores of `member` (15 ms), so that a later ring with it is computed quickly."""
        self._scores_of(member)

    def _scores_of(self, member: Member) -> list[float]:
        key = (member.address, member.weight)
        scores = self._scores.get(key)
        if scores is None:
            scores = self._scores[key] = _scores(*key)
        return scores

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
        scores = {(member.address, member.weight): self._scores_of(member) for member in ordered}
        addresses = [member.address for member in ordered]
        if ordered:
            rows = zip(*scores.values(), strict=True)
            owners = [addresses[row.index(min(row))] for row in rows]
        else:
            owners = [""] * SLOTS
        since = [
            old_since if old == new and new not in renewed else epoch
            for old, new, old_since in zip(self._owners, owners, self._since, strict=True)
        ]
        return Ring(epoch, ordered, scores, owners, since)

    def owner(self, slot: int) -> str:
        """Return the address of the node that owns `slot`; "" in an empty ring."""
        return self._owners[slot]

    def find(self, cache_key: bytes) -> Owner:
        """Return the owner of `cache_key`; its address is "" in an empty ring."""
        slot = slot_of(cache_key)
        return Owner(slot, self._owners[slot], self._since[slot])

    def ranges(self) -> Iterator[tuple[int, int, str, int]]:
        """Yield (first, last, owner's address, owned since) of each run of equal slots, both ends included.

        Slots without an owner are in none.
        """
        for (address, since), slots in groupby(
            range(SLOTS), key=lambda slot: (self._owners[slot], self._since[slot])
        ):
            if address:
                run = list(slots)
                yield run[0], run[-1], address, since

    def successor(self, slot: int) -> str:
        """Return the address of the node that would own `slot` if its owner left; "" if there is none."""
        owner = self._owners[slot]
        rest = [(self._scores_of(m)[slot], m.address) for m in self.members if m.address != owner]
        return min(rest)[1] if rest else ""

    def slots_by_node(self) -> dict[str, int]:
        """Return the number of slots that each member owns."""
        counts = {member.address: 0 for member in self.members}
        for address in self._owners:
            if address:
                counts[address] += 1
        return counts
