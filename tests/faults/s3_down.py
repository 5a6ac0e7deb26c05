"""Shell. S3 is gone for minutes while writes go on: ``python -m tests.faults.s3_down --seconds 180``.

Writes are acknowledged as long as write-back has room, DIRTY_MAX_BYTES; beyond it they are rejected, as only S3
could take them. When S3 is back the clients rest, everything must be uploaded within a minute, and S3 must have the
last acknowledged write of every key. With `--hang`, connections are not refused: they stay open, and there are no
replies.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness.history import History
from tests.faults.harness.load import Load, Mix, read_all
from tests.faults.harness.system import SystemUnderTest, print_samples, scratch
from tests.support.s3.faults import Hang

CLIENTS = 16
LARGE_BYTES = 20_000
NODE = {"FLUSH_DELAY_MS": "100", "S3_TIMEOUT_SECONDS": "1", "S3_CONNECT_TIMEOUT_SECONDS": "1"}
CLEAN_SECONDS = 60.0
# Writes before S3 goes away: some keys are then based on objects that S3 has.
BEFORE = 500


@dataclass(slots=True)
class Outcome:
    """`acknowledged` while S3 was away. `dirty_entries` and `dirty_bytes` were dirty in the end, of `limit` bytes;
    `forced`: writes that found no room; `drained`: seconds until all was in S3, None if not in time.
    """

    history: History
    load: Load
    acknowledged: int
    dirty_entries: int
    dirty_bytes: int
    limit: int
    forced: int
    drained: float | None
    conflicts: int
    defects: list[str]

    @property
    def right(self) -> bool:
        return not (self.history.wrong or self.conflicts or self.defects or self.drained is None)

    def samples(self) -> dict[str, object]:
        drained = f"not within {CLEAN_SECONDS:g}" if self.drained is None else f"{self.drained:.1f}"
        return {
            "acknowledged while S3 was away": self.acknowledged,
            "writes that had no room": self.forced,
            "calls that failed": dict(self.load.errors),
            "backlog": f"{self.dirty_entries} keys, {self.dirty_bytes:,} bytes of {self.limit:,}",
            "seconds until all was in S3": drained,
            "verdict": self.history.verdict(),
            "false conflicts": self.conflicts,
            "tracebacks": len(self.defects),
        }


def run(
    directory: Path, seconds: float, keys: int, seed: int, dirty_max: str = "1GiB", hang: bool = False
) -> Outcome:
    """Blocks until it is done."""
    with SystemUnderTest(directory, {**NODE, "DIRTY_MAX_BYTES": dirty_max}, seed) as system:
        return asyncio.run(_run(system, seconds, keys, seed, hang))


async def _run(system: SystemUnderTest, seconds: float, keys: int, seed: int, hang: bool) -> Outcome:
    history = History((f"down/{number}" for number in range(keys)), large_bytes=LARGE_BYTES)
    load = Load(system.address, history, CLIENTS, seed, Mix(reads=0.0))
    await load.write(BEFORE)
    await asyncio.to_thread(system.wait_until_clean, CLEAN_SECONDS)
    before = history.acknowledged
    if hang:
        system.proxy.inject(Hang())
    else:
        system.proxy.reject()
    async with load.running():
        await asyncio.sleep(seconds)
    acknowledged = history.acknowledged - before
    metrics = system.node.metrics()
    system.proxy.heal()
    try:
        drained = await asyncio.to_thread(system.wait_until_clean, CLEAN_SECONDS)
    except TimeoutError:
        drained = None
    await read_all(system.address, history, "a read after S3 came back")
    await asyncio.to_thread(system.compare_with_s3, history)
    return Outcome(
        history,
        load,
        acknowledged,
        int(metrics.value("milena_writeback_dirty_entries")),
        int(metrics.value("milena_writeback_dirty_bytes")),
        int(metrics.value("milena_writeback_limit_bytes")),
        int(metrics.value("milena_writeback_forced_through_total")),
        drained,
        int(system.metric("milena_writeback_conflicts_total")),
        system.defects(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.s3_down", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--dirty-max", default="1GiB", help="DIRTY_MAX_BYTES")
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with scratch() as directory:
        outcome = run(directory, options.seconds, options.keys, options.seed, options.dirty_max, hang=options.hang)
    how = "answered nothing" if options.hang else "refused connections"
    print_samples(f"S3 {how} for {options.seconds:g} s, DIRTY_MAX_BYTES={options.dirty_max}", outcome.samples())
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
