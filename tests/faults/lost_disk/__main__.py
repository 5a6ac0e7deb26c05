"""Shell. A node and its disk are lost while S3 is away: ``python -m tests.faults.lost_disk --writes 300``.

Three nodes with COPIES=2. When all copies are complete S3 goes away, and writes are acknowledged from the journals.
Then the node with most of them is killed, and its journal destroyed. Once its slots have other owners every write
must be readable, with S3 still away; when S3 is back it must get all of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from milena_client import Milena
from milena_common.api.errors import MilenaError
from tests.faults.harness.system import SystemUnderTest, journal_of, print_samples, scratch
from tests.support.waiting import wait_until

NODES = 3
NODE = {
    "COPIES": "2",
    "FLUSH_DELAY_MS": "100",
    "S3_TIMEOUT_SECONDS": "1",
    "S3_CONNECT_TIMEOUT_SECONDS": "1",
    "DRAIN_SECONDS": "1",
}
# Until the ring has all copies, all writes can be read, and S3 has them.
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """acknowledged: writes of class `back`; dirty: those that the lost node owned; lost: that could not be read;
    missing: that S3 did not get; seconds: from the loss until all were readable.
    """

    acknowledged: int
    dirty: int
    lost: int
    missing: int
    seconds: float

    @property
    def right(self) -> bool:
        return bool(self.acknowledged and self.dirty) and not self.lost and not self.missing

    def samples(self) -> dict[str, object]:
        return {
            "acknowledged while S3 was away": self.acknowledged,
            "of them on the node that was lost with its disk": self.dirty,
            "lost": self.lost,
            "not in S3 in the end": self.missing,
            "seconds until all were readable": f"{self.seconds:.1f}",
        }


def run(directory: Path, writes: int) -> Outcome:
    """Lose a node and its disk, and return what became of `writes` writes."""
    with SystemUnderTest(directory, NODE, nodes=NODES) as system:
        nodes = system.cluster.nodes

        def copied() -> bool:
            metrics = system.cluster.router.metrics()
            target = metrics.value("milena_router_ring_copies_target")
            return target == 2 and not metrics.value("milena_router_ring_slots_missing_copies")

        wait_until("all copies are complete", copied, SECONDS)
        acknowledged: dict[str, bytes] = {}
        with Milena(system.address, timeout=10) as m:
            system.proxy.reject()
            for number in range(writes):
                key, value = f"key-{number}", b"%d" % number
                if m.set(key, value).durability == "back":
                    acknowledged[key] = value
            dirty = {node: node.metrics().value("milena_writeback_dirty_entries") for node in nodes}
            victim = max(nodes, key=dirty.__getitem__)
            system.cluster.kill_node(victim)
            shutil.rmtree(journal_of(victim))
            lost_at = time.monotonic()
            left = dict(acknowledged)
            while left and time.monotonic() < lost_at + SECONDS:
                left = {key: value for key, value in left.items() if not _has(m, key, value)}
            seconds = time.monotonic() - lost_at
        system.proxy.accept()
        living = [node for node in nodes if node is not victim]
        wait_until(
            "nothing is dirty",
            lambda: not sum(node.metrics().value("milena_writeback_dirty_entries") for node in living),
            SECONDS,
        )
        in_s3 = system.in_s3()
    missing = sum(in_s3.get(key) != value for key, value in acknowledged.items())
    return Outcome(len(acknowledged), int(dirty[victim]), len(left), missing, seconds)


def _has(m: Milena, key: str, value: bytes) -> bool:
    try:
        return m.get(key) == value
    except MilenaError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Run it, print the outcome, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.lost_disk", description=__doc__)
    parser.add_argument("--writes", type=int, default=300)
    options = parser.parse_args(arguments)
    with scratch() as directory:
        outcome = run(directory, options.writes)
    print_samples("a node lost with its disk", outcome.samples())
    return 0 if outcome.right else 1


if __name__ == "__main__":
    sys.exit(main())
