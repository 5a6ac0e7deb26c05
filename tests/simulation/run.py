"""Coordination. Run one seed, and judge it.

The verdict is that of the linearizability checker for each key. A key that is not linearizable is no violation if

- a node that was lost held acknowledged writes of it that were not in S3 ("expected loss"): they are out of sight
  until the node returns, and then compete with later ones; or
- the ring makes no promises yet (`fencing` is False) and the key's slot moved ("expected without fencing").
"""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.faults.linearizability.checker import Bounds, Result, check
from tests.faults.linearizability.checker import Verdict as Checked
from tests.faults.linearizability.counterexample import explain
from tests.faults.linearizability.operations import Operation, by_key
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.faults import Fault, loss_pairs
from tests.simulation.loop import VirtualLoop
from tests.simulation.node import BUCKET
from tests.support.s3.memory_store import MemoryStore

BOUNDS = Bounds(work=3_000_000, configurations=50_000)


class Verdict(StrEnum):
    """How a seed ended; the worst of its keys counts."""

    OK = "ok"
    EXPECTED_LOSS = "expected loss"
    EXPECTED_WITHOUT_FENCING = "expected without fencing"
    UNDECIDED = "undecided"
    VIOLATION = "violation"


@dataclass(slots=True)
class SeedResult:
    """What came of one seed.

    keys: the number of keys by verdict
    plan: the faults; loss_pairs: the names of those of `faults.LOSS_PAIRS` that happened
    routers: the number of routers
    copies: COPIES of the nodes; copied_rings: rings that had all copies; given_up: how often slots were given up
    digest: of all that was sent and when; equal for equal runs
    reports: a violation or problem each, in lines
    """

    seed: int
    verdict: Verdict
    keys: Counter[Verdict]
    plan: list[Fault]
    loss_pairs: list[str]
    routers: int
    fencing: bool
    copies: int
    copied_rings: int
    given_up: int
    digest: str
    seconds: float
    outcomes: Counter[str]
    reports: list[str] = field(default_factory=list)
    operations: Sequence[Operation] = ()


def print_line(line: str) -> None:
    """Print the beginning of a line of a run's trace."""
    print(line[:400], flush=True)


def run_seed(
    seed: int,
    routers: int = 0,
    log: Callable[[str], None] | None = None,
    store: Callable[[str], MemoryStore] = MemoryStore,
    copies: int = 0,
) -> SeedResult:
    """Run the simulation of `seed`.

    routers: how many there are, 0 if the seed decides; several have one ring, in an etcd
    log: takes a line for each event
    store: returns the S3 that has the bucket of that name
    copies: COPIES of all nodes, 0 if the seed decides
    """
    # Parts of the product draw the jitter of their pauses from here.
    random.seed(seed)
    logging.disable(logging.CRITICAL if log is None else logging.NOTSET)
    # What is collected would be finalized at a time that depends on what ran before this seed.
    collects = gc.isenabled()
    gc.disable()
    loop = VirtualLoop()
    try:
        cluster = SimulatedCluster(loop, seed, store(BUCKET), routers, log, copies)
        try:
            loop.run_until_complete(cluster.run())
        finally:
            result = _judged(seed, cluster)
            loop.finish()
        return result
    finally:
        logging.disable(logging.NOTSET)
        if collects:
            gc.enable()


def _judged(seed: int, cluster: SimulatedCluster) -> SeedResult:
    fencing = cluster.fencing
    keys: Counter[Verdict] = Counter()
    reports = [f"problem: {each}" for each in (*cluster.problems, *dict.fromkeys(cluster.loop.errors))]
    for key, operations in sorted(by_key(cluster.history.operations).items()):
        found = check(operations, BOUNDS)
        verdict = _verdict(key, found, cluster, fencing)
        keys[verdict] += 1
        if verdict in (Verdict.VIOLATION, Verdict.UNDECIDED):
            reports.append(f"{verdict}: {explain(operations, found) if found.failed else key}")
    worst = max(keys, key=list(Verdict).index, default=Verdict.OK)
    return SeedResult(
        seed=seed,
        verdict=Verdict.VIOLATION if cluster.problems or cluster.loop.errors else worst,
        keys=keys,
        plan=cluster.plan,
        loss_pairs=loss_pairs(cluster.happened),
        routers=len(cluster.routers),
        fencing=fencing,
        copies=cluster.copies,
        copied_rings=cluster.copied_rings,
        given_up=cluster.given_up,
        digest=cluster.network.trace.hexdigest(),
        seconds=cluster.loop.time(),
        outcomes=Counter({outcome.value: number for outcome, number in cluster.history.returned.items()}),
        reports=reports,
        operations=cluster.history.operations,
    )


def _verdict(key: str, found: Result, cluster: SimulatedCluster, fencing: bool) -> Verdict:
    if found.verdict is Checked.LINEARIZABLE:
        return Verdict.OK
    if found.verdict is Checked.UNDECIDED:
        return Verdict.UNDECIDED
    assert found.failed is not None
    assert found.failed.responded is not None
    at = found.failed.responded
    if cluster.lost.get(key, at + 1) <= at:
        return Verdict.EXPECTED_LOSS
    if not fencing and cluster.moved.get(key, at + 1) <= at:
        return Verdict.EXPECTED_WITHOUT_FENCING
    return Verdict.VIOLATION
