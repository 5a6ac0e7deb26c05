"""Shell. Values that only grow, while nodes end, stop and return: ``python -m tests.faults.ring_faults.storm``.

Each of four nodes is killed, stopped in order, paused for longer than its lease, and started again, by itself, all
the time. Meanwhile each key has one client that writes the numbers 1, 2, 3 …, and one that reads it. A read that
returns less than what was acknowledged before it began has gone backwards; and the last number must be there in the
end, also in S3. Exits with 1 if one is not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from milena_client import AsyncMilena, MilenaError
from tests.faults.harness.load import NO_RETRY
from tests.faults.harness.system import print_samples, scratch
from tests.faults.ring_faults.counters import Counters
from tests.faults.ring_faults.faults import disturb
from tests.faults.ring_faults.system import COPIES, RingSystem

KEYS = 60
TIMEOUT_SECONDS = 0.6
ERROR_SECONDS = 0.1
WHOLE_SECONDS = 90.0


@dataclass(slots=True)
class Outcome:
    """What came of a storm.

    writes, reads: that were acknowledged, and that returned
    disturbed: how often a node was
    backwards: keys with a read that went backwards, or a number that was never written, as a line each
    lost: keys whose last acknowledged number is not there in the end
    """

    writes: int = 0
    reads: int = 0
    disturbed: int = 0
    backwards: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return bool(self.writes and self.reads) and not (self.backwards or self.lost or self.defects)

    def samples(self) -> dict[str, object]:
        return {
            "writes acknowledged": self.writes,
            "reads": self.reads,
            "times that a node was killed, stopped or paused": self.disturbed,
            "keys that went backwards": len(self.backwards),
            "keys that were lost": len(self.lost),
            "errors": dict(self.errors),
            "tracebacks": len(self.defects),
        }


def run(directory: Path, seconds: float, seed: int, copies: int = COPIES, keys: int = KEYS) -> Outcome:
    """Run a storm, and return what came of it. Blocks until it is done."""
    with RingSystem(directory, copies=copies) as system:
        outcome = asyncio.run(_run(system, seconds, seed, keys))
        outcome.defects = system.defects()
    return outcome


async def _run(system: RingSystem, seconds: float, seed: int, number: int) -> Outcome:
    outcome, counters = Outcome(), Counters()
    keys = [f"counter/{each}" for each in range(number)]
    ends = False

    async def write(client: AsyncMilena, key: str) -> None:
        value = 0
        while not ends:
            value += 1
            call = counters.begin(key, time.monotonic())
            try:
                await client.set(key, b"%d" % value)
                counters.returned(call, time.monotonic(), value)
            except (MilenaError, OSError, TimeoutError) as error:
                outcome.errors[type(error).__name__] += 1
                await asyncio.sleep(ERROR_SECONDS)

    async def read(client: AsyncMilena, key: str) -> None:
        while not ends:
            call = counters.begin(key, time.monotonic(), is_read=True)
            try:
                value = await client.get(key)
                counters.returned(call, time.monotonic(), int(value or b"0"))
            except (MilenaError, OSError, TimeoutError) as error:
                outcome.errors[type(error).__name__] += 1
                await asyncio.sleep(ERROR_SECONDS)

    async with AsyncMilena(system.address, timeout=TIMEOUT_SECONDS, retry=NO_RETRY) as client:
        clients = [asyncio.create_task(each(client, key)) for key in keys for each in (write, read)]
        outcome.disturbed = await disturb(system, Random(seed), seconds)
        await asyncio.to_thread(system.wait_until_whole, WHOLE_SECONDS)
        ends = True
        await asyncio.gather(*clients)
        calls = [call for found in counters.calls.values() for call in found]
        outcome.writes = counters.acknowledged
        outcome.reads = sum(call.is_read and call.number is not None for call in calls)
        acknowledged = {
            key: max((call.number or 0 for call in found if not call.is_read), default=0)
            for key, found in counters.calls.items()
        }
    async with AsyncMilena(system.address, timeout=30.0) as client:
        for key in keys:
            found = int(await client.get(key) or b"0")
            if found < acknowledged[key]:
                outcome.lost.append(f"{key}: {found} in the end, and {acknowledged[key]} was acknowledged")
    await asyncio.to_thread(system.wait_until_clean, WHOLE_SECONDS)
    in_s3 = await asyncio.to_thread(system.in_s3)
    for key in keys:
        if (found := int(in_s3.get(key, b"0"))) < acknowledged[key]:
            outcome.lost.append(f"{key}: {found} in S3, and {acknowledged[key]} was acknowledged")
    outcome.backwards = [f"{key}: {text}" for key, text in counters.wrong().items()]
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.ring_faults.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=COPIES, help="COPIES of all nodes")
    options = parser.parse_args()
    show = partial(print, flush=True)
    with scratch() as directory:
        outcome = run(directory, options.seconds, options.seed, options.copies)
    print_samples(f"{options.seconds:g} s of nodes that end, stop and return", outcome.samples(), show)
    for line in [*outcome.backwards, *outcome.lost, *outcome.defects][:20]:
        show(f"  {line}")
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
