"""Pure. Which slots must move so that each node has its share, from the present assignment and the weights.

The result is a list of moves. They are independent of each other: applied all at once or one by one, in any order,
they lead from the present assignment to the same target, and each of them takes a node nearer to its share. A
caller that gives the slots of a lost node to another one at once, and spreads the rest over time, passes that
assignment as the present one.

**Shares.** A node's share is its weight's part of the 16384 slots, rounded down or up. Of the two, a node keeps
what it has if it can, so that no slot moves because of rounding alone.

**What moves.** A slot without an owner (its node left) goes to a node that lacks slots; a node gives away only what
it has above its share. So a join moves only the slots that the new node gets, and a leave only those of the node
that left, as few as there can be.

**Which slots.** Every piece that is given away can split a range of adjacent slots of one node. Many ranges make
the ring large on the wire and in `CLUSTER SLOTS`, so pieces are chosen that join the receiver's ranges, then whole
ranges, and only then a part of one, cut off at an end. `bench/programs/ring_changes.py` measures the result.

**A node that returns gets its slots back.** The slots of a node that left have the epoch of that change at their
new owners. If the slots of one epoch nearly fill what a new node must get, the new node gets those: it is mostly
the node that left, whose journal has writes of those slots, and for another one they are as good as any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace
from math import ceil, floor
from typing import NamedTuple

from milena_common.cluster.slot_runs import Run, owner_by_slot
from milena_common.cluster.slots import SLOTS

# The slots of one epoch are moved first if they are at least this part of what must move.
RETURNED_PART = 0.9


class Move(NamedTuple):
    """Slots `first` to `last`, both included, which go from their owner, if they have one, to `destination`."""

    first: int
    last: int
    destination: str


def moves(present: Iterable[Run], weights: Mapping[str, float]) -> list[Move]:
    """Return the moves after which the nodes of `weights` have their shares of all slots.

    `present` has every slot once, in ascending order. Owners that `weights` does not have are gone. Weights are
    positive; without nodes there are no moves. The moves have no order, and do not overlap.
    """
    return _Rebalancing(list(present), weights).moves if weights else []


def shares(weights: Mapping[str, float], owned: Mapping[str, int]) -> dict[str, int]:
    """Return how many slots each node is to have, given how many it has: its ideal share, rounded down or up."""
    total = sum(weights.values())
    ideal = {address: SLOTS * weight / total for address, weight in weights.items()}
    share = {
        address: min(max(owned.get(address, 0), floor(exact)), ceil(exact)) for address, exact in ideal.items()
    }
    rest = SLOTS - sum(share.values())
    step = 1 if rest > 0 else -1
    # The largest fractions are rounded up first, and the smallest down.
    order = sorted(ideal, key=lambda address: (step * (floor(ideal[address]) - ideal[address]), address))
    for address in order:
        if rest and floor(ideal[address]) <= share[address] + step <= ceil(ideal[address]):
            share[address] += step
            rest -= step
    return share


class _Rebalancing:
    """One computation. `owners` is the present assignment with all moves applied that have been found so far.

    `lacks` and `exceeds` have, by address, how many slots a node lacks, or has above its share.
    """

    def __init__(self, present: list[Run], weights: Mapping[str, float]) -> None:
        self.moves: list[Move] = []
        self.owners = owner_by_slot(present)
        owned = Counter(self.owners)
        share = shares(weights, owned)
        self.lacks = {each: share[each] - owned[each] for each in sorted(weights) if share[each] > owned[each]}
        self.exceeds = {each: owned[each] - share[each] for each in sorted(weights) if share[each] < owned[each]}
        ownerless = [run for run in present if run.address not in weights]
        if ownerless:
            for first, last, _, _ in ownerless:
                self.owners[first : last + 1] = [""] * (last + 1 - first)
            self._assign(ownerless)
        if self.exceeds:
            self._give(present)

    def _take(self, first: int, end: int, destination: str) -> None:
        """Move the slots from `first` to before `end`."""
        self.moves.append(Move(first, end - 1, destination))
        self.owners[first:end] = [destination] * (end - first)
        self.lacks[destination] -= end - first

    def _before(self, first: int) -> str:
        """Return the owner of the slot before `first`; "" if there is none."""
        return self.owners[first - 1] if first else ""

    def _after(self, end: int) -> str:
        """Return the owner of the slot `end`, which follows a piece; "" if there is none."""
        return self.owners[end] if end < SLOTS else ""

    # ---- slots without an owner

    def _assign(self, ownerless: list[Run]) -> None:
        """Assign all slots without an owner to nodes that lack slots."""
        lacks = self.lacks
        gaps = sorted(_joined(ownerless), key=lambda gap: (gap[1] - gap[0], gap))
        # A gap between two ranges of one node joins them; any other that its neighbours fill takes away one range.
        open_gaps = []
        for first, end in gaps:
            before = self._before(first)
            if before == self._after(end) and lacks.get(before, 0) >= end - first:
                self._take(first, end, before)
            else:
                open_gaps.append((first, end))
        gaps, open_gaps = open_gaps, []
        for first, end in gaps:
            before, after = self._before(first), self._after(end)
            left, right = lacks.get(before, 0), lacks.get(after, 0) if after != before else 0
            if left + right < end - first:
                open_gaps.append((first, end))
                continue
            split = first + min(left, end - first) if left >= right else end - min(right, end - first)
            if first < split:
                self._take(first, split, before)
            if split < end:
                self._take(split, end, after)
        # Of the others, neighbours take what they can: it adds no range, and fewer nodes still lack slots.
        gaps, open_gaps = open_gaps, []
        for first, end in reversed(gaps):
            split = first + min(lacks.get(self._before(first), 0), end - first)
            if first < split:
                self._take(first, split, self._before(first))
            rest = end - min(lacks.get(self._after(end), 0), end - split)
            if rest < end:
                self._take(rest, end, self._after(end))
            if split < rest:
                open_gaps.append((split, rest))
        # The largest gaps go to the nodes that lack most, so that few of them are divided.
        heap = [(-lack, address) for address, lack in lacks.items() if lack]
        heapify(heap)
        for first, end in sorted(open_gaps, key=lambda gap: (gap[0] - gap[1], gap)):
            while first < end:
                address = heap[0][1]
                part = min(lacks[address], end - first)
                self._take(first, first + part, address)
                heapreplace(heap, (-lacks[address], address))
                first += part

    # ---- slots above a node's share

    def _give(self, present: list[Run]) -> None:
        """Move what nodes have above their shares to those that lack slots."""
        self.lacks = {address: count for address, count in self.lacks.items() if count}
        epoch = self._returned_epoch(present)
        if epoch is not None:
            self._give_of(run for run in present if run.owned_since == epoch)
        self._give_of(present)

    def _returned_epoch(self, present: list[Run]) -> int | None:
        """Return the epoch whose slots nearly fill what must move; None if there is none."""
        owned: dict[tuple[str, int], int] = {}
        for first, last, address, owned_since in present:
            if address in self.exceeds:
                key = (address, owned_since)
                owned[key] = owned.get(key, 0) + last + 1 - first
        usable: Counter[int] = Counter()
        for (address, owned_since), count in owned.items():
            usable[owned_since] += min(count, self.exceeds[address])
        epoch = max(usable, key=lambda each: (usable[each], each))
        return epoch if usable[epoch] >= RETURNED_PART * sum(self.exceeds.values()) else None

    def _give_of(self, runs: Iterable[Run]) -> None:
        """Move as many slots of `runs` as their owners have above their shares."""
        ranges: dict[str, list[tuple[int, int]]] = {}
        for first, last, address, _ in runs:
            if self.exceeds.get(address):
                for start, end in self._still_owned(first, last + 1, address):
                    pieces = ranges.setdefault(address, [])
                    if pieces and pieces[-1][1] == start:
                        start = pieces.pop()[0]
                    pieces.append((start, end))
        for address, pieces in ranges.items():
            while self.exceeds[address] and pieces:
                destination = max(self.lacks, key=lambda each: self.lacks[each])
                pieces = self._give_to(destination, address, pieces)
                if not self.lacks[destination]:
                    del self.lacks[destination]

    def _still_owned(self, first: int, end: int, address: str) -> Iterable[tuple[int, int]]:
        """Yield the parts of a range that `address` has not given away yet."""
        start = first
        for slot in range(first, end):
            if self.owners[slot] != address:
                if start < slot:
                    yield start, slot
                start = slot + 1
        if start < end:
            yield start, end

    def _give_to(self, destination: str, source: str, pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Move slots of `pieces`, ranges of `source`, until it has no more to give or the other lacks none.

        Returns the rest of `pieces`.
        """
        kept: list[tuple[int, int]] = []

        def take(first: int, end: int) -> None:
            self._take(first, end, destination)
            self.exceeds[source] -= end - first

        def room() -> int:
            """Return how many more slots may move from `source` to `destination`."""
            return min(self.exceeds[source], self.lacks[destination])

        def touching(piece: tuple[int, int]) -> int:
            """Return how many ranges of the destination `piece` is beside: 0, 1 or 2."""
            return (self._before(piece[0]) == destination) + (self._after(piece[1]) == destination)

        # First what joins ranges of the destination: whole pieces, then a part of one. Then other whole pieces, the
        # largest first, since the small ones fill the rest exactly. The order is stable: the lowest slot first.
        pieces = sorted(pieces, key=lambda piece: (-touching(piece), piece[0] - piece[1]))
        for first, end in pieces:
            beside = touching((first, end))
            # A piece that touches and is too large is kept for its part, below. Taking pieces apart from the
            # destination's ranges before it would use up the room, and add a range for each.
            if end - first <= room() and (beside or not kept or not touching(kept[0])):
                take(first, end)
            else:
                kept.append((first, end))
        # A part of a piece, cut off at an end: beside the destination if it can be, else beside a node that is
        # still to give, whose part then joins this one.
        if room() and kept:
            kept.sort(key=lambda piece: (-touching(piece), -self._gives_beside(piece, source), piece[0] - piece[1]))
            first, end = kept[0]
            part = room()
            if part >= end - first:
                take(first, end)
                return kept[1:]
            before, after = self._before(first), self._after(end)
            at_end = after == destination or (
                before != destination and bool(self.exceeds.get(after)) and after != source
            )
            if at_end:
                take(end - part, end)
                kept[0] = (first, end - part)
            else:
                take(first, first + part)
                kept[0] = (first + part, end)
        return kept

    def _gives_beside(self, piece: tuple[int, int], source: str) -> bool:
        """True if a neighbour of `piece`, other than `source`, still has slots above its share."""
        beside = (self._before(piece[0]), self._after(piece[1]))
        return any(address != source and self.exceeds.get(address) for address in beside)


def _joined(runs: list[Run]) -> list[tuple[int, int]]:
    """Return the runs as (first, end), the adjacent ones joined."""
    joined: list[tuple[int, int]] = []
    for first, last, _, _ in runs:
        start = joined.pop()[0] if joined and joined[-1][1] == first else first
        joined.append((start, last + 1))
    return joined
