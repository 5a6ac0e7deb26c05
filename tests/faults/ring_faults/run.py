"""Coordination. Rounds of load with one fault each, and what came of them.

Each round has keys of its own, so that what a fault breaks is attributed to it. The load runs for a while, the
fault begins and ends, and the load goes on until the ring is whole again and a little longer; then every key is
read.

The verdict on a key is that of the linearizability checker, or of `counters`. A key that fails is no violation if
it belonged to a node that the fault may have lost, and was not written `through`, where the nodes keep no copies
of each other's writes: acknowledged writes of it that were not in S3 are out of sight until that node returns, and
then compete with later ones. These are counted as expected losses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from milena_client import MilenaError
from tests.faults.harness.load import read_all
from tests.faults.ring_faults.faults import FAULTS, NEED_COPIES, SEVERAL
from tests.faults.ring_faults.load import DIRECT, REDIS, REDIS_REGISTERS, ROUTER, RingLoad
from tests.faults.ring_faults.system import COPIES, LEASE_SECONDS, RingSystem

REGISTERS, THROUGH, COUNTERS = 12, 6, 4
BEFORE_SECONDS = AFTER_SECONDS = 1.0
# No key may be without a successful call for longer than a lease and this, in the round of one fault.
UNAVAILABLE_SECONDS = 2.0
WHOLE_SECONDS = 60.0
CLEAN_SECONDS = 30.0
READ_SECONDS = 15.0


@dataclass(slots=True)
class Round:
    """What came of one round.

    key, span: the longest seconds without a successful call for a key, and for the keys of one node
    ways: the same for a key by the way of the calls
    whole: seconds after the end of the fault until the ring was whole
    violations, losses: keys that fail, as a line each; losses are expected ones
    """

    fault: str
    key: float = 0.0
    span: float = 0.0
    ways: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """All rounds, and the tracebacks in the logs."""

    lease_seconds: float = LEASE_SECONDS
    rounds: list[Round] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        return [f"{each.fault}: {line}" for each in self.rounds for line in each.violations]

    @property
    def right(self) -> bool:
        return bool(self.rounds) and not (self.violations or self.defects or self.too_long())

    def too_long(self) -> list[str]:
        """Return a line for each round of a single fault in which a key was unavailable for too long."""
        bound = self.lease_seconds + UNAVAILABLE_SECONDS
        single = (each for each in self.rounds if each.fault not in SEVERAL)
        return [f"{each.fault}: {each.key:.2f} s" for each in single if each.key > bound]

    def table(self) -> str:
        """Return a line for each kind of fault."""
        head = ("fault", "rounds", "ack", "violations", "losses", "key", "range", *_WAYS, "whole")
        rows = [head]
        for fault in dict.fromkeys(each.fault for each in self.rounds):
            found = [each for each in self.rounds if each.fault == fault]
            seconds = [
                max(each.key for each in found),
                max(each.span for each in found),
                *(max(each.ways.get(way, 0.0) for each in found) for way in _WAYS),
                max(each.whole for each in found),
            ]
            counts = [
                len(found),
                sum(each.acknowledged for each in found),
                sum(len(each.violations) for each in found),
                sum(len(each.losses) for each in found),
            ]
            rows.append((fault, *map(str, counts), *(f"{each:.2f}" for each in seconds)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        )


_WAYS = (ROUTER, DIRECT, REDIS)


def run(
    directory: Path,
    seconds: float,
    seed: int,
    faults: Sequence[str] = tuple(FAULTS),
    histories: Path | None = None,
    show: Callable[[str], object] = print,
    lease_seconds: float = LEASE_SECONDS,
    copies: int = COPIES,
) -> Outcome:
    """Run every fault at least once, in random order, and so on for `seconds`. Blocks until it is done.

    `histories`: a directory for the history of each round; `show` is called with a line after each round.
    """
    logging.getLogger("redis").setLevel(logging.CRITICAL)
    if copies < 2:
        faults = [each for each in faults if each not in NEED_COPIES]
    with RingSystem(directory, lease_seconds, copies=copies) as system:
        return asyncio.run(_Run(system, seed, histories, show).run(seconds, faults))


class _Run:
    def __init__(
        self, system: RingSystem, seed: int, histories: Path | None, show: Callable[[str], object]
    ) -> None:
        self._system = system
        self._seed = seed
        self._random = Random(seed)
        self._histories = histories
        self._show = show
        self._outcome = Outcome(system.lease_seconds)

    async def run(self, seconds: float, faults: Sequence[str]) -> Outcome:
        until = time.monotonic() + seconds
        while True:
            for fault in self._random.sample(faults, len(faults)):
                self._outcome.rounds.append(await self._round(fault))
                if time.monotonic() >= until and len(self._outcome.rounds) >= len(faults):
                    self._outcome.defects = self._system.defects()
                    return self._outcome

    async def _round(self, fault: str) -> Round:
        system, number = self._system, len(self._outcome.rounds) + 1
        prefix = f"{self._seed}/{number}"
        load = RingLoad(
            system.address,
            {node.resp: node.own_resp for node in system.running},
            (
                [f"{prefix}/back/{each}" for each in range(REGISTERS)],
                [f"{prefix}/through/{each}" for each in range(THROUGH)],
                [f"{prefix}/counter/{each}" for each in range(COUNTERS)],
            ),
            prefix,
        )
        owners = await asyncio.to_thread(system.owners, load.keys)
        found = Round(fault)
        self._show(f"{number} {fault} ...")
        async with load.running():
            await asyncio.sleep(BEFORE_SECONDS)
            began = time.monotonic()
            victims = await FAULTS[fault](system, self._random)
            try:
                found.whole = await asyncio.to_thread(system.wait_until_whole, WHOLE_SECONDS)
            except TimeoutError as error:
                found.violations.append(f"it does not become whole again: {error}")
            await asyncio.sleep(AFTER_SECONDS)
            finished = time.monotonic()
        try:
            await read_all(system.address, load.history, "a read at the end", READ_SECONDS)
        except MilenaError as error:
            found.violations.append(f"a key cannot be read: {error}")
        try:
            await asyncio.to_thread(system.wait_until_clean, CLEAN_SECONDS)
        except TimeoutError as error:
            found.violations.append(f"not all writes are in S3: {error}")
        in_s3 = await asyncio.to_thread(system.in_s3)
        for key in load.history.keys:
            load.history.observed(key, in_s3.get(key), load.history.mark(key), "S3")
        lossy = victims.names if system.copies < 2 else frozenset()
        self._judge(found, load, {key for key, owner in owners.items() if owner in lossy})
        availability = load.availability
        found.key = availability.longest_of_a_key(load.keys, began, finished)
        found.span = availability.longest_of_a_range(load.keys, owners.__getitem__, began, finished)
        for way in _WAYS:
            keys = load.registers[:REDIS_REGISTERS] if way == REDIS else [*load.registers, *load.through]
            found.ways[way] = availability.longest_of_a_key(keys, began, finished, way)
        found.acknowledged = load.history.acknowledged + load.counters.acknowledged
        if self._histories is not None:
            load.history.save(self._histories / f"{number}.jsonl")
        self._show(
            f"{number} {fault}: {found.acknowledged} writes acknowledged, {len(found.violations)} violations, "
            f"{len(found.losses)} expected losses, a key unavailable for {found.key:.2f} s, whole after "
            f"{found.whole:.1f} s; {dict(load.errors)}"
        )
        return found

    def _judge(self, found: Round, load: RingLoad, lossy: set[str]) -> None:
        failed = {wrong.key: str(wrong) for wrong in load.history.wrong}
        failed |= {key: f"{key}: {text}" for key, text in load.counters.wrong().items()}
        for key, text in failed.items():
            expected = key in lossy and key not in load.through
            (found.losses if expected else found.violations).append(text)
