"""Shell. SIGKILL at random moments, again and again: ``python -m tests.faults.kill_loop --kills 100``.

Clients write, delete and read the same keys all the time, also while the node is away; some writes are conditional
on what was read. The history of each key must be linearizable. Each round sets S3's mood (well, slow, not there,
or failing in a fifth of the requests), lets the clients work for a while, kills the node, and starts it again on
the same journal; at times it is killed once more while it starts, and some of these kills are aimed at the replay.
Then S3 is well, the clients rest, and every key is read. At the end everything is flushed, and S3 is compared with
what the clients got.

So that a replay takes a while, the journal holds a number of dead letters from the beginning. They are read and
retried at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from milena_client import AsyncMilena
from milena_client.admin import Admin
from tests.faults.harness.history import History
from tests.faults.harness.load import Load, Mix, read_all
from tests.faults.harness.system import SystemUnderTest, print_samples, scratch
from tests.support.s3.faults import ACCESS_DENIED, INTERNAL_ERROR, SLOW_DOWN, Delay, LoseResponse
from tests.support.waiting import wait_until

KEYS = 300
CLIENTS = 8
# Clients write the same keys, and half of the time few of them, so that calls for one key overlap.
MIX = Mix(through=0.03, conditions=0.3, shared=True, hot=8)
MOODS = ("well", "slow", "away", "failing")
# Small enough for some values to be in the journal only, and slow enough for every kill to find dirty ones.
NODE = {"FLUSH_DELAY_MS": "200", "DIRTY_MEMORY_BYTES": "64KiB", "S3_TIMEOUT_SECONDS": "1"}
CLEAN_SECONDS = 60.0


@dataclass(slots=True)
class Outcome:
    """`replayed`: records found at the starts, without the `letters`, which are dead letters; `conflicts`: false
    ones, since there is no other writer; `defects`: tracebacks in the logs.
    """

    history: History
    letters: History
    load: Load
    kills: Counter[str] = field(default_factory=Counter)
    moods: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    conflicts: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        return not (self.history.wrong or self.letters.wrong or self.conflicts or self.defects)

    def samples(self) -> dict[str, object]:
        return {
            "kills": f"{self.kills.total()}: " + ", ".join(f"{n} {when}" for when, n in self.kills.items()),
            "S3 was": ", ".join(f"{mood} {number}×" for mood, number in self.moods.items()),
            "records replayed": self.replayed,
            "acknowledged": dict(self.load.reached),
            "calls that failed": dict(self.load.errors),
            "verdict": self.history.verdict(),
            "dead letters": self.letters.verdict(),
            "false conflicts": "\n    ".join([str(len(self.conflicts)), *self.conflicts[:10]]),
            "tracebacks": len(self.defects),
            "seconds": self.seconds,
        }


def run(directory: Path, kills: int, seed: int, letters: int) -> Outcome:
    """Blocks until it is done."""
    with SystemUnderTest(directory, NODE, seed) as system:
        return asyncio.run(_Loop(system, seed, letters).run(kills))


class _Loop:
    def __init__(self, system: SystemUnderTest, seed: int, letters: int) -> None:
        self._system = system
        self._random = Random(seed)
        history = History(f"kill/{number}" for number in range(KEYS))
        self._load = Load(system.address, history, CLIENTS, seed, MIX)
        self._outcome = Outcome(history, History(f"letter/{number}" for number in range(letters)), self._load)
        self._start_seconds = 1.0
        self._replay_seconds = 0.01

    async def run(self, kills: int) -> Outcome:
        system, outcome = self._system, self._outcome
        started = time.monotonic()
        self._set_mood("well")
        await self._write_letters()
        async with self._load.running():
            while outcome.kills.total() < kills:
                mood = self._random.choice(MOODS)
                outcome.moods[mood] += 1
                self._set_mood(mood)
                await asyncio.sleep(self._random.uniform(0.1, 1.0))
                await asyncio.to_thread(self._kill_and_start, kills)
                self._set_mood("well")
                async with self._load.paused():
                    where = f"a read after kill {outcome.kills.total()}"
                    await read_all(system.address, outcome.history, where)
        await read_all(system.address, outcome.letters, "a read of a dead letter")
        system.proxy.heal()
        with Admin(system.address, timeout=60) as admin:
            assert await asyncio.to_thread(admin.retry, all=True) == len(outcome.letters.keys)
        await asyncio.to_thread(system.wait_until_clean, CLEAN_SECONDS)
        await read_all(system.address, outcome.history, "a read at the end")
        await asyncio.to_thread(system.compare_with_s3, outcome.history, outcome.letters)
        outcome.conflicts = system.node.lines("conflict: ")
        outcome.defects = system.defects()
        outcome.seconds = time.monotonic() - started
        return outcome

    async def _write_letters(self) -> None:
        letters = self._outcome.letters
        writes = {key: letters.begin(key, delete=False) for key in letters.keys}
        async with AsyncMilena(self._system.address, timeout=60) as m:
            await m.set_many({key: write.value or b"" for key, write in writes.items()})
        for write in writes.values():
            letters.acknowledge(write)

        def all_rejected() -> bool:
            return self._system.metric("milena_writeback_dead_letters") == len(letters.keys)

        await asyncio.to_thread(wait_until, "S3 refused the dead letters", all_rejected, CLEAN_SECONDS)

    def _set_mood(self, mood: str) -> None:
        proxy = self._system.proxy
        proxy.heal()
        proxy.clear_requests()
        proxy.inject(ACCESS_DENIED, method="PUT", where=lambda request: request.key.startswith("letter/"))
        if mood == "away":
            proxy.reject()
        elif mood == "slow":
            proxy.inject(Delay(0.3))
        elif mood == "failing":
            for fault in (INTERNAL_ERROR, SLOW_DOWN, LoseResponse(), Delay(0.5)):
                proxy.inject(fault, probability=0.05)

    # ---- killing

    def _kill_and_start(self, maximum: int) -> None:
        """Kill the node, at times while it starts too, and start it; at most `most` kills in all."""
        system, kills, random = self._system, self._outcome.kills, self._random
        system.node.kill()
        kills["at work"] += 1
        while kills.total() < maximum and random.random() < 0.3:
            starts = len(system.node.lines("replayed in"))
            system.node.restart()
            if random.random() < 0.5:
                time.sleep(random.uniform(0.3, 1.0) * self._start_seconds)
            else:
                wait_until("the journal is open", self._has_journal, 30, pause=0.001)
                time.sleep(random.uniform(0.0, 1.0) * self._replay_seconds)
            has_journal = self._has_journal()
            system.node.kill()
            replayed = len(system.node.lines("replayed in")) > starts
            kills["after the replay" if replayed else "in the replay" if has_journal else "before the replay"] += 1
        began = time.monotonic()
        system.restart()
        self._start_seconds = time.monotonic() - began
        self._replay_seconds = system.metric("milena_journal_replay_seconds")
        found = int(system.metric("milena_journal_replayed_records"))
        self._outcome.replayed += found - len(self._outcome.letters.keys)

    def _has_journal(self) -> bool:
        """Whether the node that starts has its journal to itself: the replay comes next."""
        return (self._system.journal / "lock").read_text().strip() == f"pid {self._system.node.pid}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_loop", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--letters", type=int, default=5000, help="dead letters in the journal")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--history", type=Path, help="save what clients did, for tests.faults.linearizability")
    options = parser.parse_args()
    with scratch() as directory:
        outcome = run(directory, options.kills, options.seed, options.letters)
    if options.history:
        outcome.history.save(options.history)
    print_samples(f"kill loop, seed {options.seed}", outcome.samples())
    return int(not outcome.right)


if __name__ == "__main__":
    sys.exit(main())
