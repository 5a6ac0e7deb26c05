"""Pure. The plan of a simulation: which faults and ring changes happen when, all from the seed.

Faults are drawn in clusters, so that many of them overlap: single ones are what other tests have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import combinations, product
from random import Random
from typing import NamedTuple

MIN_FAULTS, MAX_FAULTS = 5, 8
# Virtual seconds in which faults and ring changes begin.
FIRST, LAST = 1.0, 11.0
# A ring change without faults moves its slots within about this time.
MOVE_SECONDS = 0.05
# Two faults are a pair if the second begins within so many seconds after the first was over.
PAIR_SECONDS = 1.0


class Kind(StrEnum):
    """What happens. The name before the first space is what it happens to."""

    NODE_PAUSE = "node pause"
    NODE_CRASH = "node crash"
    NODE_LOST = "node lost with its disk"
    OWNER_AND_SUCCESSOR_CRASH = "owner and successor crash"
    OWNER_AND_SUCCESSOR_LOST = "owner and successor lost with their disks"
    NODE_CLOCK = "node clock jump"
    NODE_DISK_SLOW = "node disk slow"
    ROUTER_PAUSE = "router pause"
    ROUTER_CRASH = "router crash"
    ROUTER_CLOCK = "router clock jump"
    PARTITION_ROUTER_NODE = "partition router-node"
    PARTITION_ROUTER_NODE_ONE_WAY = "partition router-node one way"
    PARTITION_NODES = "partition node-node"
    PARTITION_NODES_ONE_WAY = "partition node-node one way"
    ISOLATE_NODE = "partition node from all but clients"
    PARTITION_CLIENT = "partition client-node"
    PARTITION_S3 = "partition node-s3"
    PARTITION_S3_ONE_WAY = "partition s3-node one way"
    PARTITION_ETCD = "partition router-etcd"
    ETCD_ELECTION = "etcd elects a leader"
    ETCD_WATCHES_END = "etcd ends watches"
    ETCD_WATCHES_SILENT = "etcd watches silent"
    BREAK = "break connections"
    SLOW = "slow link"
    DUPLICATES = "duplicate joins"
    S3_SLOW = "s3 slow"
    S3_FAILING = "s3 failing"
    S3_AWAY = "s3 away from all nodes"
    JOIN = "join"
    LEAVE = "leave"


RING_CHANGES = (Kind.JOIN, Kind.LEAVE)
# Drawn besides where the routers share their ring in etcd.
ETCD = (Kind.PARTITION_ETCD, Kind.ETCD_ELECTION, Kind.ETCD_WATCHES_END, Kind.ETCD_WATCHES_SILENT)
DISKS = (Kind.NODE_LOST, Kind.OWNER_AND_SUCCESSOR_CRASH, Kind.OWNER_AND_SUCCESSOR_LOST)
FAULTS = tuple(kind for kind in Kind if kind not in (*RING_CHANGES, *DISKS, *ETCD, Kind.S3_AWAY))
# These are drawn more often than the others.
FREQUENT = (Kind.NODE_PAUSE, Kind.NODE_CRASH, Kind.ROUTER_CRASH, Kind.PARTITION_ROUTER_NODE, Kind.ISOLATE_NODE)
# Drawn besides where the nodes keep copies of each other's writes.
LOSSES = (Kind.NODE_LOST,) * 4
# A node is away for so many leases. Meanwhile, so many leases after that began, something happens to another one,
# which may have its slots by then; and the writes that these interrupt take long. A share of all plans has this.
AWAY = (
    Kind.ISOLATE_NODE,
    Kind.PARTITION_ROUTER_NODE,
    Kind.PARTITION_ROUTER_NODE_ONE_WAY,
    Kind.PARTITION_ROUTER_NODE_ONE_WAY,
    Kind.NODE_PAUSE,
    Kind.NODE_CRASH,
)
MEANWHILE = (Kind.LEAVE, Kind.LEAVE, Kind.NODE_CRASH, Kind.NODE_PAUSE)
LONG = (Kind.S3_SLOW, Kind.NODE_DISK_SLOW, Kind.PARTITION_NODES_ONE_WAY, Kind.SLOW)
AWAY_LEASES = 1.0, 3.0
MEANWHILE_LEASES = 0.8, 4.0
AWAY_SHARE = 0.5
# What copies must stand, by name: each plan of nodes that keep copies has one of these, at one time.
LOSS_PAIRS: Mapping[str, tuple[tuple[Kind, ...], ...]] = {
    "owner + successor": ((Kind.OWNER_AND_SUCCESSOR_CRASH, Kind.OWNER_AND_SUCCESSOR_LOST),),
    "router + node": ((Kind.ROUTER_CRASH,), (Kind.NODE_LOST, Kind.NODE_CRASH)),
    "join + loss": ((Kind.JOIN,), (Kind.NODE_LOST,)),
    "loss + S3 away": ((Kind.S3_AWAY,), (Kind.NODE_LOST,)),
}


class Fault(NamedTuple):
    """`kind` from `start` until `stop`, virtual seconds; `one` and `two`: numbers of what it happens to.

    `size`: seconds of a jump or of slowness, or a share, by kind.
    """

    kind: Kind
    start: float
    stop: float
    one: int
    two: int
    size: float

    def __str__(self) -> str:
        return f"{self.start:6.2f}-{self.stop:5.2f} {self.kind} ({self.one}, {self.two}, {self.size:.2f})"


def plan(rng: Random, lease: float, *, lost: bool = False, etcd: bool = False) -> list[Fault]:
    """Return at least MIN_FAULTS faults and a ring change; `lease` in seconds.

    lost: nodes are lost with their disks, too, and one of LOSS_PAIRS happens
    etcd: there is an etcd, which has faults, too
    """
    drawn = FAULTS + FREQUENT + (LOSSES if lost else ()) + (ETCD + ETCD if etcd else ())
    kinds = [rng.choice(drawn) for _ in range(rng.randint(MIN_FAULTS, MAX_FAULTS))]
    rng.shuffle(kinds)
    # Ring changes first, so that faults are drawn close to them.
    changes = rng.choice(([Kind.JOIN], [Kind.LEAVE], [Kind.JOIN, Kind.LEAVE]))
    found: list[Fault] = []
    for kind in [*changes, *kinds]:
        chosen = rng.random()
        if kind not in RING_CHANGES and chosen < 0.25:
            start = rng.choice(found[: len(changes)]).start + rng.uniform(0.0, MOVE_SECONDS)
        elif found and chosen < 0.6:
            start = min(LAST, max(FIRST, rng.choice(found).start + rng.uniform(-0.3, 1.0)))
        else:
            start = rng.uniform(FIRST, LAST)
        lasts = rng.choice((rng.uniform(0.05, 0.5), rng.uniform(0.5, 1.0) * lease, rng.uniform(1.0, 2.5) * lease))
        size = rng.choice((-1, 1)) * rng.choice((rng.uniform(0.1, 1.0), rng.uniform(1.0, 30.0)))
        found.append(Fault(kind, start, start + lasts, rng.randrange(100), rng.randrange(100), size))
    if lost:
        start = rng.uniform(FIRST, LAST)
        for choice in LOSS_PAIRS[rng.choice(list(LOSS_PAIRS))]:
            begin = start + rng.uniform(0.0, MOVE_SECONDS)
            lasts = rng.uniform(0.5, 2.5) * lease
            one, two = rng.randrange(100), rng.randrange(100)
            found.append(Fault(rng.choice(choice), begin, begin + lasts, one, two, 1.0))
    if rng.random() < AWAY_SHARE:
        found += _away(rng, lease)
    return sorted(found, key=lambda fault: fault.start)


def _away(rng: Random, lease: float) -> list[Fault]:
    """Return faults by which a node is away, as `AWAY` says."""
    start = rng.uniform(FIRST, LAST - 1.0)
    one, two = rng.randrange(100), rng.randrange(100)
    away = Fault(rng.choice(AWAY), start, start + rng.uniform(*AWAY_LEASES) * lease, one, two, 1.0)
    begin = start + rng.uniform(*MEANWHILE_LEASES) * lease
    lasts = rng.uniform(0.5, 2.0) * lease
    other = Fault(rng.choice(MEANWHILE), begin, begin + lasts, one + rng.randint(1, 3), rng.randrange(100), 1.0)
    begin = max(0.0, rng.choice((start, other.start)) + rng.uniform(-1.5, 0.5))
    which = rng.choice((one, other.one))
    size = rng.uniform(0.5, 1.5)
    return [away, other, Fault(rng.choice(LONG), begin, begin + 2.0 * lease, which, rng.randrange(100), size)]


def loss_pairs(faults: Sequence[Fault]) -> list[str]:
    """Return the names of LOSS_PAIRS of which all faults are among `faults`, at one time or close to each other."""
    return [
        name
        for name, choices in LOSS_PAIRS.items()
        if any(
            max(fault.start for fault in each) <= min(fault.stop for fault in each) + PAIR_SECONDS
            for each in product(*([fault for fault in faults if fault.kind in kinds] for kinds in choices))
        )
    ]


def pairs(faults: Sequence[Fault]) -> Counter[tuple[Kind, Kind]]:
    """Return the pairs of kinds that overlapped, or followed each other within PAIR_SECONDS."""
    found: Counter[tuple[Kind, Kind]] = Counter()
    for one, two in combinations(sorted(faults, key=lambda fault: fault.start), 2):
        if two.start <= one.stop + PAIR_SECONDS:
            first, second = sorted((one.kind, two.kind))
            found[first, second] += 1
    return found


def coverage(found: Counter[tuple[Kind, Kind]]) -> Iterable[str]:
    """Yield lines that say how often each pair of kinds occurred."""
    order = list(Kind)
    possible = [(one, two) for at, one in enumerate(order) for two in order[at:]]
    counts = Counter({tuple(sorted(pair)): number for pair, number in found.items()})
    seen = [pair for pair in possible if counts[tuple(sorted(pair))]]
    yield f"fault pairs: {len(seen)} of {len(possible)} kinds of pairs occurred, {sum(found.values())} in all"
    for at, one in enumerate(order):
        row = " ".join(f"{counts[tuple(sorted((one, two)))]:4}" for two in order[: at + 1])
        yield f"  {one:<32}{row}"
    never = [f"{one} + {two}" for one, two in possible if not counts[tuple(sorted((one, two)))]]
    if never:
        yield f"  never: {', '.join(never[:12])}{' ...' if len(never) > 12 else ''}"
