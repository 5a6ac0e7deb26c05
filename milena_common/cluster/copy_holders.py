"""Pure. Which nodes hold copies of which slots' writes, from the present holders and the nodes.

A write is in the journals of the slot's owner and of its holders before it is acknowledged. Each slot has an
ordered list of holders, each *complete* (it has every acknowledged write of the slot that S3 does not have) or
*filling*. The first complete one gets the slot if the owner is lost. An owner that has not everything of its slot
is listed too, until it has (`milena_common.cluster.slot_assignment`).

**Sticky.** Holders change only if they must: there are too few, one leaves, one is in the owner's zone although
another zone has a node for it, or the copies are far from balanced. A holder that is to be replaced stays, and
stays complete, until the new ones are: the last `number` of a list are the wanted ones, and those before them are
removed when the wanted ones are complete. So the list alone says what is in progress, and a router that has
just started plans no other holders than the one before it.

**Zones** outrank balance: a holder is in another zone than the owner if there is one, and several holders of a slot
are in different zones.

**Few ranges.** Holders are the owners of the slots beside, if they can be: a slot that such a node gets when its
owner is lost joins the node's range. What the neighbours cannot hold goes to few other nodes, in parts of adjacent
slots.

**Balance** is by the number of slots that a node holds copies of, relative to its weight. It is restored only
when a node is far below or above the mean, and only as far as necessary, because each new holder must be filled.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import ceil
from typing import NamedTuple

from milena_common.cluster.copies_message import MAX_HOLDERS
from milena_common.cluster.slot_runs import Run, overlaps, rejoined, replaced
from milena_common.cluster.slots import SLOTS

# Into so many parts the copies of one owner are divided.
PARTS = 4
# Parts of the mean: a node below or above these is brought back to the second number of its pair.
LOW, LOW_FILLED = 0.6, 0.8
HIGH, HIGH_EMPTIED = 1.4, 1.2
# A node that is not above HIGH gives copies away down to this part of the mean.
KEPT = 0.85
# So many nodes are brought back to the mean in one plan, by so many others each: it bounds the time that one takes.
MAX_UNEVEN, MAX_OTHERS = 8, 64


class Listed(NamedTuple):
    """A holder in a list: its address, and since which epoch it is filling; 0 if it is complete."""

    address: str
    since: int = 0


class Held(NamedTuple):
    """Who has the writes of a slot: its owner ("": none), and the holders of copies."""

    owner: str
    holders: tuple[Listed, ...]


class CopyRun(NamedTuple):
    """Slots `first` to `last`, both included, with the same owner and the same holders; `epoch` is always 0."""

    first: int
    last: int
    held: Held
    epoch: int = 0


class Candidate(NamedTuple):
    """A node as a possible holder: its weight, its zone ("" is one too), and whether it is about to leave."""

    weight: float
    zone: str = ""
    leaving: bool = False


class Rules(NamedTuple):
    """What a plan must obey.

    number: how many holders each slot should have
    candidates: the members of the ring by address
    avoided: pairs of an owner and a node that is not to become its holder now
    moving: slots whose owner is about to change, as first and last slot, in ascending order
    """

    number: int
    candidates: Mapping[str, Candidate]
    avoided: Collection[tuple[str, str]] = ()
    moving: Sequence[tuple[int, int]] = ()


def held_runs(runs: Iterable[Run]) -> list[CopyRun]:
    """Return the slots of `runs` without holders."""
    pieces = [CopyRun(run.first, run.last, Held(run.address, ())) for run in runs]
    return rejoined(pieces)


def with_owners(copies: Sequence[CopyRun], changed: Sequence[Run], clean: Collection[str] = ()) -> list[CopyRun]:
    """Return `copies` with the owners of `changed`, who hold no copies of their own slots any more.

    One that was no complete holder of a slot is listed as filling: it has to collect the slot's writes from those
    that are, and what it has itself may be superseded. If the owner before is one of `clean`, S3 has everything:
    the new one is listed as complete, and what it has itself is superseded. Slots without an owner have no holders.
    """
    changes = []
    for first, last, run, copy in overlaps(changed, copies):
        if copy.held.owner != run.address:
            listed = copy.held.holders if run.address else ()
            holders = tuple(each for each in listed if each.address != run.address)
            if run.address and Listed(run.address) not in listed:
                holders = (*holders, Listed(run.address, 0 if copy.held.owner in clean else run.owned_since))
            changes.append(CopyRun(first, last, Held(run.address, holders)))
    return replaced(copies, changes) if changes else list(copies)


def mapped(copies: Sequence[CopyRun], changes: Mapping[Held, Held]) -> list[CopyRun]:
    """Return `copies` with other holders instead of those that `changes` has."""
    if not changes:
        return list(copies)
    made: list[CopyRun] = []
    for run in copies:
        held = changes.get(run.held)
        if held is not None:
            run = run._replace(held=held)
        if made and made[-1].held == run.held:
            run = run._replace(first=made.pop().first)
        made.append(run)
    return made


def without_holders(copies: Sequence[CopyRun], gone: Collection[str]) -> list[CopyRun]:
    """Return `copies` with no holder of `gone`, addresses."""
    if not gone:
        return list(copies)
    changes = []
    # There may be 10,000 runs, each with other holders than the one before: no function is called for each.
    for run in copies:
        for address, _ in run[2][1]:
            if address in gone:
                held = run.held
                left = tuple(each for each in held.holders if each.address not in gone)
                changes.append(run._replace(held=held._replace(holders=left)))
                break
    return replaced(copies, changes) if changes else list(copies)


def lists_owner(held: Held) -> bool:
    """True if the owner is listed among the holders of its own slots."""
    return held.owner in [address for address, _ in held.holders]


def is_collecting(held: Held) -> bool:
    """True if the owner has yet to collect the slot's writes: it is listed among the holders, as filling."""
    return any(since for address, since in held.holders if address == held.owner)


def without_own(copies: Sequence[CopyRun]) -> list[CopyRun]:
    """Return `copies` without the owners that are listed among the holders of their own slots."""
    changes = {
        held: held._replace(holders=tuple(each for each in held.holders if each.address != held.owner))
        for held in {run.held for run in copies if lists_owner(run.held)}
    }
    return mapped(copies, changes)


def first_complete(holders: Iterable[Listed]) -> str:
    """Return the address of the holder that gets the slot if its owner is lost; "" if none is complete."""
    return next((each.address for each in holders if not each.since), "")


def planned(copies: Sequence[CopyRun], rules: Rules, epoch: int) -> list[CopyRun]:
    """Return `copies`, which have every slot, with the holders that `rules` want; new ones fill since `epoch`."""
    return _Planning(copies, rules, epoch).plan()


class _Planning:
    """One computation. `loads` has by address of how many slots a node is a wanted holder."""

    def __init__(self, copies: Sequence[CopyRun], rules: Rules, epoch: int) -> None:
        self.copies = list(copies)
        self.rules = rules
        self.epoch = epoch
        self.staying = {address: each for address, each in sorted(rules.candidates.items()) if not each.leaving}
        self.in_zone = Counter(each.zone for each in self.staying.values())
        self.loads = dict.fromkeys(self.staying, 0)
        # There may be 10,000 runs, each with other holders than the one before: no function is called for each, and
        # no hash is computed of its holders.
        loads, number = self.loads, rules.number
        for first, last, (_, holders), _ in copies if number else ():
            for address, _ in holders[-number:]:
                if address in loads:
                    loads[address] += last + 1 - first
        self.heaps: dict[str, list[tuple[float, str]]] = {}

    def plan(self) -> list[CopyRun]:
        changes: dict[Held, Held] = {}
        # The places of the runs that lack holders, and what each of their lists keeps.
        places: list[int] = []
        short: dict[Held, tuple[Listed, ...]] = {}
        for place in self.unusual():
            held = self.copies[place].held
            if held in short:
                places.append(place)
                continue
            kept = self.kept(held)
            if len(kept) < min(self.rules.number, self.eligible(held, kept) + len(kept)):
                # One place is the owner's, which may be listed too.
                if len(held.holders) + self.rules.number < MAX_HOLDERS:
                    short[held] = kept
                    places.append(place)
            elif len(held.holders) > self.rules.number and all(not each.since for each in self.target(held)):
                changes[held] = held._replace(holders=self.target(held))
        if short:
            self.copies = self.filled(places, short)
        self.copies = mapped(self.copies, changes)
        return self.balanced()

    def unusual(self) -> list[int]:
        """Return the places of the owned runs that have too few or too many holders, or one that should not be."""
        number, staying = self.rules.number, self.staying
        zones = {address: each.zone for address, each in self.rules.candidates.items()}
        only_zone = len(self.in_zone) < 2
        found = []
        for place, (_, _, (owner, holders), _) in enumerate(self.copies):
            if len(holders) == number:
                zone = zones.get(owner)
                for address, _ in holders:
                    if address not in staying or (not only_zone and zones[address] == zone):
                        break
                else:
                    continue  # as most are
            if owner:
                found.append(place)
        return found

    def target(self, held: Held) -> tuple[Listed, ...]:
        """Return the wanted ones of a slot's holders."""
        return held.holders[-self.rules.number :] if self.rules.number else ()

    def zone(self, address: str) -> str:
        known = self.rules.candidates.get(address)
        return known.zone if known is not None else ""

    def kept(self, held: Held) -> tuple[Listed, ...]:
        """Return the wanted holders that need no replacement, if there is one."""
        kept = [each for each in self.target(held) if each.address in self.staying]
        zone = self.zone(held.owner)
        same = [each for each in kept if self.zone(each.address) == zone]
        if same:
            # As many as can be are in other zones.
            elsewhere = len(kept) - len(same)
            possible = elsewhere + self.eligible(held, kept, other_zone=True)
            excess = len(kept) - max(self.rules.number - possible, 0) - elsewhere
            for each in sorted(same, key=lambda each: -each.since)[: max(excess, 0)]:
                kept.remove(each)
        return tuple(kept)

    def eligible(self, held: Held, kept: Sequence[Listed], *, other_zone: bool = False) -> int:
        """Return how many nodes can become further holders, beside those `kept`."""
        zone = self.zone(held.owner)
        number = len(self.staying) - (self.in_zone[zone] if other_zone else 0)
        out = {held.owner, *(each.address for each in kept)}
        out |= {node for owner, node in self.rules.avoided if owner == held.owner}
        number -= sum(
            1 for address in out if address in self.staying and not (other_zone and self.zone(address) == zone)
        )
        return number

    # ---- new holders

    def filled(self, places: Sequence[int], short: Mapping[Held, tuple[Listed, ...]]) -> list[CopyRun]:
        """Return the copies with new holders for the runs at `places`; `short` has what each of them keeps."""
        by_owner: dict[str, list[int]] = defaultdict(list)
        for place in places:
            first, last, held, _ = self.copies[place]
            by_owner[held.owner].append(place)
            for each in self.target(held):
                if each not in short[held] and each.address in self.loads:
                    self.loads[each.address] -= last + 1 - first
        for address, node in self.staying.items():
            self.heaps.setdefault(node.zone, []).append((self.loads[address] / node.weight, address))
        for heap in self.heaps.values():
            heapify(heap)
        total = sum(each.weight for each in self.rules.candidates.values())
        mean = SLOTS * self.rules.number / sum(each.weight for each in self.staying.values())
        changes: list[CopyRun] = []
        for owner, owned in sorted(by_owner.items()):
            parts = max(1, min(PARTS, len(self.staying) - 1))
            size = ceil(SLOTS * self.rules.candidates[owner].weight / total / parts)
            chosen: dict[tuple[Listed, ...], tuple[int, list[str]]] = {}  # slots left of a part, by what is kept
            for place in owned:
                run = self.copies[place]
                kept = short[run.held]
                for first, end, beside in self.owners_beside(place, kept, size, mean * HIGH_EMPTIED):
                    while first < end:
                        left, new = chosen.get(kept, (0, [])) if not beside else (0, [])
                        if not left:
                            left, new = size, self.choose(owner, kept, beside)
                        last = min(end, first + left) - 1
                        for address in new:
                            self.add(address, last + 1 - first)
                        if not beside:
                            chosen[kept] = left - (last + 1 - first), new
                        changes.append(CopyRun(first, last, self.extended(run.held, kept, new)))
                        first = last + 1
        return replaced(self.copies, changes)

    def owners_beside(
        self, place: int, kept: Sequence[Listed], size: int, limit: float
    ) -> list[tuple[int, int, list[str]]]:
        """Return the parts of the run at `place`, as first slot and the one after the last, and neighbours that can
        hold them.

        Neighbours are the owners of the slots beside, with loads below `limit`. A run of more than `size` slots
        is divided between two.
        """
        run = self.copies[place]
        before = self.copies[place - 1].held.owner if place else ""
        after = self.copies[place + 1].held.owner if place + 1 < len(self.copies) else ""
        owner, first, end = run.held.owner, run.first, run.last + 1
        other_zone = self.eligible(run.held, kept, other_zone=True) > 0
        out = {owner, *(each.address for each in kept)}
        found: list[str] = []
        for address in (before, after):
            node = self.staying.get(address)
            if (
                node is not None
                and address not in out
                and address not in found
                and (owner, address) not in self.rules.avoided
                and not (other_zone and node.zone == self.zone(owner))
                and (self.loads[address] + min(size, end - first)) / node.weight <= limit
            ):
                found.append(address)
        if len(found) == 2 and end - first > size:
            middle = (first + end) // 2
            return [(first, middle, found), (middle, end, found[::-1])]
        found.sort(key=lambda address: self.loads[address] / self.staying[address].weight)
        return [(first, end, found)]

    def extended(self, held: Held, kept: tuple[Listed, ...], new: Iterable[str]) -> Held:
        """Return the holders with new ones: those to be replaced first, and the wanted ones last."""
        known = {each.address: each for each in held.holders}
        added = [known.get(address, Listed(address, self.epoch)) for address in new]
        last = [*kept, *added]
        before = [each for each in held.holders if each not in last]
        return held._replace(holders=tuple([*before, *last]))

    def add(self, address: str, slots: int) -> None:
        self.loads[address] += slots
        candidate = self.staying[address]
        heappush(self.heaps[candidate.zone], (self.loads[address] / candidate.weight, address))

    def choose(self, owner: str, kept: Sequence[Listed], preferred: Sequence[str]) -> list[str]:
        """Return new holders: of those preferred, and then in the best zones those with the least load."""
        found = list(preferred[: self.rules.number - len(kept)])
        used = [self.zone(address) for address in (*(each.address for each in kept), *found)]
        out = {owner, *found, *(each.address for each in kept)}
        out |= {node for each, node in self.rules.avoided if each == owner}
        while len(used) < self.rules.number:
            best: tuple[bool, int, float, str] | None = None
            for zone in self.heaps:
                top = self.lightest(zone, out)
                if top is not None:
                    rank = (zone == self.zone(owner), used.count(zone), *top)
                    best = rank if best is None or rank < best else best
            if best is None:
                break
            address = best[3]
            found.append(address)
            used.append(self.zone(address))
            out.add(address)
        return found

    def lightest(self, zone: str, out: Collection[str]) -> tuple[float, str] | None:
        """Return load and address of the node of `zone` with the least load that is not in `out`; None without."""
        heap = self.heaps[zone]
        passed = []
        found = None
        while heap:
            load, address = heap[0]
            if load != self.loads[address] / self.staying[address].weight:
                heappop(heap)  # from before the node got more
            elif address in out:
                passed.append(heappop(heap))
            else:
                found = heap[0]
                break
        for each in passed:
            heappush(heap, each)
        return found

    # ---- balance

    def balanced(self) -> list[CopyRun]:
        """Return the copies with other holders for some of those of nodes that have too many."""
        weights = {address: each.weight for address, each in self.staying.items()}
        total = sum(self.loads.values())
        if len(weights) < 3 or not total:
            return self.copies
        mean = total / sum(weights.values())
        low, low_filled, high, high_emptied, kept = (
            part * mean for part in (LOW, LOW_FILLED, HIGH, HIGH_EMPTIED, KEPT)
        )
        load = {address: self.loads[address] / weights[address] for address in weights}
        takers = sorted((load[each], each) for each in weights if load[each] < low)[:MAX_UNEVEN]
        givers = sorted((-load[each], each) for each in weights if load[each] > high)[:MAX_UNEVEN]
        if not takers and not givers:
            return self.copies
        needed = sorted(weights, key=lambda each: (-load[each], each))[: MAX_OTHERS if takers else 0]
        runs = self.runs_by_holder({*needed, *(address for _, address in givers)})
        changes: list[CopyRun] = []
        given = bytearray(SLOTS)  # a slot has several holders, of which one is replaced at a time

        def give(source: str, destination: str, floor: float, ceiling: float) -> None:
            """Give copies away until the source has `floor` or the destination `ceiling`, relative to weights."""
            amount = int(
                min((load[source] - floor) * weights[source], (ceiling - load[destination]) * weights[destination])
            )
            left = []
            if source not in runs:
                runs.update(self.runs_by_holder(self.staying.keys() - runs.keys()))
            for run in runs[source]:
                number = min(amount, run.last + 1 - run.first)
                busy = given.find(1, run.first, run.last + 1) >= 0
                if number <= 0 or busy or not self.may_replace(run.held, source, destination):
                    left.append(run)
                    continue
                amount -= number
                end = run.first + number
                given[run.first : end] = b"\1" * number
                changes.append(CopyRun(run.first, end - 1, self.given(run.held, source, destination)))
                load[source] -= number / weights[source]
                load[destination] += number / weights[destination]
                if end <= run.last:
                    left.append(run._replace(first=end))
            runs[source] = left

        for _, address in takers:
            for other in sorted(weights, key=lambda each: (-load[each], each))[:MAX_OTHERS]:
                give(other, address, kept, low_filled)
        for _, address in givers:
            for other in sorted(weights, key=lambda each: (load[each], each))[:MAX_OTHERS]:
                give(address, other, high_emptied, mean)
        return replaced(self.copies, changes) if changes else self.copies

    def runs_by_holder(self, addresses: Collection[str]) -> dict[str, list[CopyRun]]:
        """Return for each of `addresses` the runs of which it is a wanted holder, and nothing is in progress."""
        found: dict[str, list[CopyRun]] = {address: [] for address in addresses}
        number = self.rules.number
        moving = bytearray(SLOTS)
        for first, last in self.rules.moving:
            moving[first : last + 1] = b"\1" * (last + 1 - first)
        for run in self.copies:
            first, last, (_, holders), _ = run
            if len(holders) <= number:
                for address, _ in holders:
                    if address in found and moving.find(1, first, last + 1) < 0:
                        found[address].append(run)
        return found

    def may_replace(self, held: Held, source: str, destination: str) -> bool:
        others = [held.owner, *(each.address for each in held.holders if each.address != source)]
        if destination in others or destination == source or (held.owner, destination) in self.rules.avoided:
            return False
        if self.zone(destination) == self.zone(held.owner) != self.zone(source):
            return False  # the next plan would take that back: see `kept`
        used = [self.zone(address) for address in others]
        return self.zone(destination) not in used or self.zone(source) in used

    def given(self, held: Held, source: str, destination: str) -> Held:
        before = [each for each in held.holders if each.address == source and each.since != self.epoch]
        kept = [each for each in held.holders if each.address != source]
        return held._replace(holders=(*before, *kept, Listed(destination, self.epoch)))
