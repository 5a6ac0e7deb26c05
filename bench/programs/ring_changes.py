"""Shell. Measures the ring: time to compute it, evenness, ranges, and sizes on the wire, after long histories too.

    python -m bench.programs.ring_changes [CHANGES]

CHANGES: joins and leaves for each of the histories (200 if not given). It exits with 1 if a bound is exceeded. The
histories are random and the same in each run; each holds the bounds after every change.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from bench.nodes.node_parts import BUCKETS, bench_config, node_parts
from milena_cache.app import build_servers, node_identity
from milena_cache.membership.ownership import Ownership
from milena_cache.servers.resp.state.ring_view import RingView
from milena_client.core.routing import Routes
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS
from milena_common.cluster.slot_assignment import Member, PlanChange, Ring
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.process.run import GC_THRESHOLD
from milena_router.ring.watch_streams import Published, ring_update, short_update
from tests.support.memory_disk import MemoryDisk
from tests.support.s3.memory_store import MemoryStore

ROUNDS = 15
NODES = 300
# Bounds: nothing may be larger.
BUILD_SECONDS = 0.5
JOIN_SECONDS = 0.05
RANGES = 128
CLUSTER_SLOTS_BYTES = 48 * 1024
CHANGE_BYTES = 64 * 1024
# Least and most nodes of a history, and the weights of its nodes.
HISTORIES: tuple[tuple[int, int, Sequence[float]], ...] = (
    (3, 4, (1.0,)),
    (3, 12, (1.0, 2.0, 0.5)),
    (3, 40, (1.0,)),
    (3, 127, (1.0,)),
    (3, 127, (1.0, 2.0, 4.0, 0.5)),
    (250, 300, (1.0,)),
)


def member(number: int, weight: float = 1.0, copies: int = 0) -> Member:
    host = f"cache-{number}.cache.prod.svc.cluster.local"
    addresses = {"resp": f"{host}:6379"}
    zone = f"zone-{number % 3}"
    return Member(f"{host}:50051", f"{number:032x}", weight, addresses, f"{number * 7:032x}", copies, zone)


class Results:
    """Prints results, and records whether one exceeded its bound."""

    def __init__(self) -> None:
        self.failed = False

    def show(self, what: str, value: float, unit: str, bound: float | None = None) -> None:
        over = bound is not None and value > bound
        self.failed |= over
        limit = "" if bound is None else f"   at most {bound:g}{'   EXCEEDED' if over else ''}"
        print(f"{what:66} {value:10.4g} {unit}{limit}", flush=True)


def median_of(work: Callable[[], object]) -> float:
    """Return the median of the seconds that a call of `work` takes."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def history(results: Results, low: int, high: int, weights: Sequence[float], changes: int, seed: int) -> Ring:
    """Print the worst results of random joins and leaves between `low` and `high` nodes; return the last ring.

    The number of nodes goes up to a limit, down to another, and so on, one or several nodes at a time.
    """
    rng = random.Random(seed)
    members = [member(number) for number in range(low)]
    ring = Ring.empty().with_members(members, 1)
    limit, made = high, low
    max_ranges, farthest, max_excess, largest = 0, 0.0, 0.0, 0
    for epoch in range(2, changes + 2):
        number = rng.choice((1, 1, 1, 4))
        before = ring.slots_by_node()
        if limit > len(members):
            number = min(number, limit - len(members))
            new = [member(made + n, rng.choice(weights)) for n in range(number)]
            made += number
            members += new
        else:
            gone = rng.sample(members, min(number, len(members) - limit))
            members = [each for each in members if each not in gone]
            new = []
        old, ring = ring, ring.with_members(members, epoch)
        after = ring.slots_by_node()
        if len(members) == limit:
            limit = rng.choice((low, (low + high) // 2)) if limit == high else high
        total = sum(each.weight for each in members)
        for each in members:
            farthest = max(farthest, abs(after[each.address] - SLOTS * each.weight / total))
        moved = sum(ring.owner(slot) != old.owner(slot) for slot in range(SLOTS))
        needed = sum(after[each.address] for each in new) or sum(
            slots for address, slots in before.items() if address not in after
        )
        max_excess = max(max_excess, moved / needed - 1)
        owners = [address for address, _ in groupby(ring.owner(slot) for slot in range(SLOTS))]
        max_ranges = max(max_ranges, max(Counter(owners).values()))
        if len(members) == 3:
            largest = max(largest, cluster_slots_bytes(ring))
    name = f"{changes} changes, {low} to {high} nodes, weights {'/'.join(f'{each:g}' for each in weights)}"
    results.show(f"{name}: most ranges of a node", max_ranges, "", RANGES)
    results.show(f"{name}: slots from the exact share", farthest, "", 1)
    results.show(f"{name}: moved beyond what was necessary", max_excess * 100, "%", 2)
    if largest:
        results.show(f"{name}: CLUSTER SLOTS of three nodes", largest / 1024, "KiB", CLUSTER_SLOTS_BYTES / 1024)
    return ring


def at_rest(ring: Ring) -> Ring:
    """Return the ring after its moves are done, its holders filled, and both again until nothing is to change."""
    while True:
        for address in {run.address for run in ring.pending}:
            taken = [run for run in ring.pending if run.address == address]
            ring = ring.with_taken(address, taken, ring.epoch + 1) or ring
        filling: dict[str, list[tuple[int, int, str]]] = {}
        for first, last, held, _ in ring.copies.runs:
            filling.setdefault(held.owner, []).extend(
                (first, last, each.address) for each in held.holders if each.since
            )
        for address, completed in filling.items():
            if completed:
                report = ring.with_reports(address, completed, (), ring.epoch, ring.epoch + 1, PlanChange())
                ring = report or ring
        if not any(filling.values()) and not ring.pending:
            if ring.is_balanced():
                return ring
            ring = ring.with_members(ring.members, ring.epoch + 1, moving=True)


def losses(results: Results, low: int, high: int, changes: int, seed: int) -> None:
    """Print the worst results of random joins and losses, in a ring with copies that comes to rest between."""
    rng = random.Random(seed)
    members = [member(number, copies=2) for number in range(low)]
    ring = at_rest(Ring.empty().with_members(members, 1, moving=True))
    limit, made, max_ranges, max_load = high, low, 0, 0.0
    for _ in range(changes):
        if limit > len(members):
            members.append(member(made, copies=2))
            made += 1
        else:
            members.remove(rng.choice(members))
        if len(members) == limit:
            limit = low if limit == high else high
        ring = at_rest(ring.with_members(members, ring.epoch + 1, moving=True))
        owners = [address for address, _ in groupby(ring.owner(slot) for slot in range(SLOTS))]
        max_ranges = max(max_ranges, max(Counter(owners).values()))
        held: Counter[str] = Counter()
        for first, last, copies, _ in ring.copies.runs:
            held.update({each.address: last + 1 - first for each in copies.holders})
        max_load = max(max_load, max(held.values()) * len(members) / SLOTS) if len(members) > 8 else max_load
    name = f"{changes} joins and losses with copies, {low} to {high} nodes"
    results.show(f"{name}: most ranges of a node", max_ranges, "", RANGES)
    results.show(f"{name}: most copies of a node, of the mean (9 nodes or more)", max_load, "")


def with_copies(results: Results, name: str, ring: Ring) -> None:
    """Print times and sizes of a ring whose slots have holders, made from `ring`."""
    members = [replace(each, copies=2) for each in ring.members]
    ring = at_rest(ring.with_members(members, ring.epoch + 1, moving=True))
    epoch = ring.epoch + 1
    new = member(10**6, copies=2)

    def join() -> Ring:
        return ring.with_members([*members, new], epoch, moving=True)

    joined, lost = join(), ring.with_members(members[1:], epoch, moving=True)
    taken = [run for run in joined.pending if run.address == new.address]
    results.show(f"{name}, copies: runs of copies", len(ring.copies.runs), "")
    results.show(f"{name}, copies: a join", 1000 * median_of(join), "ms", 1000 * JOIN_SECONDS)
    results.show(
        f"{name}, copies: a loss",
        1000 * median_of(lambda: ring.with_members(members[1:], epoch, moving=True)),
        "ms",
        1000 * JOIN_SECONDS,
    )
    results.show(
        f"{name}, copies: slots taken over",
        1000 * median_of(lambda: joined.with_taken(new.address, taken, epoch + 1)),
        "ms",
        1000 * JOIN_SECONDS,
    )
    features = RUNS | MOVES | COPIES
    whole, base = short_update(published(ring), None, features), published(ring)
    for what, changed in (("a join", joined), ("a loss", lost)):
        size = short_update(published(changed), base, features).ByteSize()
        results.show(f"{name}, copies: {what}, to a watcher", size / 1024, "KiB", CHANGE_BYTES / 1024)
    results.show(f"{name}, copies: the whole ring, to a watcher", whole.ByteSize() / 1024, "KiB")
    known = SlotMap.from_update(whole)
    change = short_update(published(joined), base, features)
    results.show(
        f"{name}, copies: node reads a join", 1000 * median_of(lambda: SlotMap.from_update(change, known)), "ms"
    )


def ownership_of_a_node(address: str) -> Ownership:
    config = bench_config(max_entries=1, max_bytes=2**20, max_in_flight_bytes=2**20)
    parts = node_parts(MemoryStore(BUCKETS.default), MemoryDisk(), config)
    return build_servers(config, parts, address, node_identity(config, parts, "bench"), lambda: False).ownership


def cluster_slots_bytes(ring: Ring) -> int:
    ownership = ownership_of_a_node(ring.members[0].address)
    ownership.update(SlotMap.from_update(ring_update(ring, "bucket", "cluster")))
    return len(RingView().slots(ownership))


def published(ring: Ring) -> Published:
    return Published(ring, "bucket", "0" * 32, 2**26, ())


def followers(results: Results, name: str, ring: Ring) -> None:
    """Print the sizes of updates about `ring` and a join, and the time that a follower spends on them."""
    joined = ring.with_members([*ring.members, member(10**6)], ring.epoch + 1)
    old, whole, change = (
        ring_update(*published(joined)[:5]),
        short_update(published(joined)),
        short_update(published(joined), published(ring)),
    )
    results.show(f"{name}: ranges of the ring", len(joined.ranges()), "")
    results.show(f"{name}: a join, to a watcher", change.ByteSize() / 1024, "KiB", CHANGE_BYTES / 1024)
    results.show(f"{name}: the whole ring, to a watcher", whole.ByteSize() / 1024, "KiB")
    results.show(f"{name}: the whole ring, to a watcher of the version before", old.ByteSize() / 1024, "KiB")
    results.show(
        f"{name}: router, a join: ring and message",
        1000
        * median_of(
            lambda: short_update(
                published(ring.with_members(joined.members, joined.epoch)), published(ring)
            ).SerializeToString()
        ),
        "ms",
    )
    base = SlotMap.from_update(short_update(published(ring)))

    nodes = [ownership_of_a_node(joined.members[0].address) for _ in range(2 * ROUNDS)]

    def follow(update: bytes, known: SlotMap | None) -> None:
        nodes.pop().update(SlotMap.from_update(type(change).FromString(update), known))

    routes = Routes("", "", lambda address, _: address)
    by_change, by_whole = change.SerializeToString(), whole.SerializeToString()
    results.show(f"{name}: node, a join", 1000 * median_of(lambda: follow(by_change, base)), "ms")
    results.show(f"{name}: node, a whole ring", 1000 * median_of(lambda: follow(by_whole, None)), "ms")
    results.show(
        f"{name}: client, a join",
        1000 * median_of(lambda: routes.update(SlotMap.from_update(change, base))),
        "ms",
    )


def main() -> int:
    gc.set_threshold(*GC_THRESHOLD)  # as in a router's process
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    results = Results()
    members = [member(number) for number in range(NODES + 1)]
    ring = Ring.empty().with_members(members[:NODES], 1)
    joined = ring.with_members(members, 2)
    results.show(
        f"{NODES} nodes from nothing",
        1000 * median_of(lambda: Ring.empty().with_members(members[:NODES], 1)),
        "ms",
        1000 * BUILD_SECONDS,
    )
    results.show(
        f"{NODES} nodes, a join", 1000 * median_of(lambda: ring.with_members(members, 2)), "ms", 1000 * JOIN_SECONDS
    )
    results.show(
        f"{NODES} nodes, a join that hands slots over",
        1000 * median_of(lambda: ring.with_members(members, 2, moving=True)),
        "ms",
        1000 * JOIN_SECONDS,
    )
    results.show(
        f"{NODES} nodes, a leave",
        1000 * median_of(lambda: joined.with_members(members[1:], 3)),
        "ms",
        1000 * JOIN_SECONDS,
    )
    keys = [b"reports/%d.csv" % number for number in range(1000)]
    results.show("finding the owner of a key", 1000 * median_of(lambda: [ring.find(key) for key in keys]), "us")
    followers(results, f"{NODES} nodes, made from nothing", ring)
    keeping = [member(number, copies=2) for number in range(NODES)]
    results.show(
        f"{NODES} nodes from nothing, with copies",
        1000 * median_of(lambda: Ring.empty().with_members(keeping, 1, moving=True)),
        "ms",
        1000 * BUILD_SECONDS,
    )
    with_copies(results, f"{NODES} nodes", ring)
    for seed, (low, high) in enumerate(((3, 4), (3, 12), (3, 40))):
        losses(results, low, high, changes // 5, seed)
    for seed, (low, high, weights) in enumerate(HISTORIES):
        last = history(results, low, high, weights, changes, seed)
    last = last.with_members(last.members[:NODES], last.epoch + 1)
    results.show(
        f"{len(last.members)} nodes after that, a join",
        1000 * median_of(lambda: last.with_members([*last.members, member(10**6)], last.epoch + 1)),
        "ms",
    )
    results.show(
        f"{len(last.members)} nodes after that, a join that hands slots over",
        1000 * median_of(lambda: last.with_members([*last.members, member(10**6)], last.epoch + 1, moving=True)),
        "ms",
        1000 * JOIN_SECONDS,
    )
    followers(results, f"{len(last.members)} nodes after that", last)
    with_copies(results, f"{len(last.members)} nodes after that", last)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
