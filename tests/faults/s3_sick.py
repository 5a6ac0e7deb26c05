"""Shell. S3 fails in 30 % of the requests, in every way: ``python -m tests.faults.s3_sick --writes 20000``.

The same writes, deletes and reads are made twice: in front of an S3 that is well, and of one that is sick. Its
faults: slow; 500; 503 SlowDown; 409; cut short; and replies that never come after the request took effect. Nothing
may be lost or mixed up, nothing taken for another writer's change. Each request that fails is repeated, so the sick
S3 gets more of them; those for an upload that do not fail may be few more than those to the S3 that is well. How
many uploads there are says nothing of S3: the faster clients write, the more writes of a key share one. But no
write may be uploaded twice.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness.history import History
from tests.faults.harness.load import Load, Mix, read_all
from tests.faults.harness.system import SystemUnderTest, print_samples, scratch
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import (
    CONDITIONAL_CONFLICT,
    INTERNAL_ERROR,
    SLOW_DOWN,
    Delay,
    Fault,
    LoseRequest,
    LoseResponse,
    Request,
    Rule,
    TruncatedBody,
)

KEYS = 400
CLIENTS = 16
LARGE_BYTES = 20_000
NODE = {"S3_TIMEOUT_SECONDS": "2"}
SICK_SHARE = 0.3
# Lookups after a reply that was lost. All requests together are no measure: 28 % of them fail outright, which alone
# makes 1.39 times as many.
MAX_USEFUL_RATIO = 1.15
CLEAN_SECONDS = 60.0

# An upload ends in S3 in one of these ways.
UPLOADED = ("uploaded", "deleted", "already", "superseded")
READ = "GET"

SLOW = "slow"
# A reply to a put has no body that could be cut short; its request has.
FAULTS: dict[str, tuple[Fault, ...]] = {
    SLOW: (Delay(0.3),),
    "500": (INTERNAL_ERROR,),
    "503 SlowDown": (SLOW_DOWN,),
    "409": (CONDITIONAL_CONFLICT,),
    "cut short": (TruncatedBody(), LoseRequest()),
    "answer lost": (LoseResponse(),),
}


@dataclass(slots=True)
class Run:
    """One of the two runs. `requests` to S3 by method; `faults` by name; `seconds` until all was in S3.

    `failed`: requests for uploads, so no reads, that S3 did not carry out or whose reply was lost; `uploads` that
    ended in S3. `conflicts` are false: there is no other writer.
    """

    history: History
    load: Load
    requests: Counter[str]
    faults: dict[str, int]
    failed: int
    uploads: int
    conflicts: int
    defects: list[str]
    seconds: float

    @property
    def right(self) -> bool:
        return not (self.history.wrong or self.conflicts or self.defects or self.repeated)

    @property
    def repeated(self) -> int:
        """Uploads beyond one for each acknowledged write."""
        return max(0, self.uploads - self.history.acknowledged)

    @property
    def useful_per_upload(self) -> float:
        """Requests for uploads that S3 did not fail, per upload."""
        requests = self.requests.total() - self.requests[READ] - self.failed
        return requests / self.uploads


@dataclass(slots=True)
class Outcome:
    well: Run
    sick: Run

    @property
    def ratio(self) -> float:
        """Requests to the sick S3 per request to the one that is well."""
        return self.sick.requests.total() / self.well.requests.total()

    @property
    def useful_ratio(self) -> float:
        """Requests per upload that the sick S3 did not fail, by those to the one that is well."""
        return self.sick.useful_per_upload / self.well.useful_per_upload

    @property
    def right(self) -> bool:
        return self.well.right and self.sick.right and self.useful_ratio <= MAX_USEFUL_RATIO

    def samples(self) -> dict[str, object]:
        samples: dict[str, object] = {}
        for name, run in (("well", self.well), ("sick", self.sick)):
            requests = ", ".join(f"{method} {number}" for method, number in sorted(run.requests.items()))
            samples |= {
                f"{name}: requests to S3": f"{run.requests.total()}: {requests}",
                f"{name}: uploads": f"{run.uploads}; requests for each, if not failed: {run.useful_per_upload:.2f}",
                f"{name}: seconds until all was in S3": run.seconds,
                f"{name}: calls that failed": dict(run.load.errors),
                f"{name}: verdict": run.history.verdict(),
                f"{name}: false conflicts, tracebacks": f"{run.conflicts}, {len(run.defects)}",
            }
        share = sum(self.sick.faults.values()) / self.sick.requests.total()
        faults = ", ".join(f"{name} {number}" for name, number in self.sick.faults.items())
        return {
            **samples,
            "faults": f"{share:.1%} of the requests: {faults}",
            "requests, sick to well": f"{self.ratio:.2f}; per upload, without failed ones: {self.useful_ratio:.2f}",
        }


def run(directory: Path, writes: int, seed: int) -> Outcome:
    """Blocks until it is done."""
    runs = []
    for name in ("well", "sick"):
        with SystemUnderTest(directory / name, NODE, seed) as system:
            runs.append(asyncio.run(_run(system, writes, seed, sick=name == "sick")))
    return Outcome(*runs)


async def _run(system: SystemUnderTest, writes: int, seed: int, *, sick: bool) -> Run:
    history = History((f"sick/{number}" for number in range(KEYS)), LARGE_BYTES)
    load = Load(system.address, history, CLIENTS, seed, Mix(reads=0.1))
    system.proxy.clear_requests()
    rules = _make_sick(system.proxy) if sick else {}
    started = time.monotonic()
    await load.write(writes)
    await asyncio.to_thread(system.wait_until_clean, CLEAN_SECONDS)
    seconds = time.monotonic() - started
    requests = Counter(request.method for request in system.proxy.requests())
    faults = {name: sum(rule.applied for rule in made) for name, made in rules.items()}
    failed = sum(
        rule.applied for name, made in rules.items() for rule in made if name != SLOW and rule.method != READ
    )
    uploads = sum(int(system.metric("milena_writeback_flushes_total", result=result)) for result in UPLOADED)
    conflicts = int(system.metric("milena_writeback_conflicts_total"))
    system.proxy.heal()
    await read_all(system.address, history, "a read at the end")
    await asyncio.to_thread(system.compare_with_s3, history)
    return Run(history, load, requests, faults, failed, uploads, conflicts, system.defects(), seconds)


def _make_sick(proxy: FaultProxy) -> dict[str, list[Rule]]:
    """Each fault to its part of `SICK_SHARE` of the requests."""
    each = SICK_SHARE / len(FAULTS)
    left = 1.0
    rules: dict[str, list[Rule]] = {}
    for name, faults in FAULTS.items():
        rules[name] = []
        for fault in faults:
            # Rules are asked one after another, so a later one sees only what the earlier ones left.
            part = each / len(faults)
            rules[name].append(proxy.inject(fault, method=READ, probability=part / left))
            rules[name].append(proxy.inject(fault, where=_is_for_upload, probability=part / left))
            left -= part
    return rules


def _is_for_upload(request: Request) -> bool:
    return request.method != READ


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.s3_sick", description=__doc__)
    parser.add_argument("--writes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with scratch() as directory:
        outcome = run(directory, options.writes, options.seed)
    print_samples(f"S3 sick, {options.writes} writes, seed {options.seed}", outcome.samples())
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
