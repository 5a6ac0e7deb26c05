"""Coordination. What a simulated machine has beside its network: clocks and a disk for the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.simulation.loop import VirtualLoop
from tests.support.memory_disk import Contents

# Seconds since 1970 at the beginning of every simulation.
WALL = 1_700_000_000.0
# Virtual seconds of a commit with its fsync, between these.
MIN_SYNC, MAX_SYNC = 0.0002, 0.004


class MachineClock:
    """Implements `milena_common.runtime.clock.Clock`: `ahead` is by how much the time of day is wrong, in seconds.

    `booted` is what the monotonic clock showed when the simulation began.
    """

    def __init__(self, loop: VirtualLoop, booted: float, ahead: float) -> None:
        self._loop = loop
        self._booted = booted
        self.ahead = ahead

    def now(self) -> float:
        return self._booted + self._loop.time()

    def wall(self) -> float:
        return WALL + self.ahead + self._loop.time()

    def cpu(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SimulatedDisk:
    """Implements `milena_cache.journal.disk.Disk` for one process; `contents` outlives it.

    A commit takes time. If the process is killed meanwhile, it happened as a whole or not at all.
    """

    def __init__(self, contents: Contents, rng: Random, slow: Callable[[], float]) -> None:
        """`slow` returns the virtual seconds that a commit takes longer now."""
        self.contents = contents
        self._rng = rng
        self._slow = slow
        self._transaction: list[Callable[[Contents], object]] = []
        self._committing: list[Callable[[Contents], object]] = []

    def put_record(self, seq: int, raw: bytes) -> None:
        self._transaction.append(lambda to: to.records.__setitem__(seq, raw))

    def remove_record(self, seq: int) -> None:
        self._transaction += (
            lambda to: to.records.pop(seq, None),
            lambda to: to.rejected.pop(seq, None),
            lambda to: to.quarantined.pop(seq, None),
        )

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        self._transaction.append(lambda to: to.rejected.__setitem__(seq, (reason, at)))

    def clear_rejection(self, seq: int) -> None:
        self.reject_record(seq, "", 0.0)

    def quarantine(self, seq: int) -> None:
        self._transaction.append(lambda to: to.quarantined.__setitem__(seq, to.records.pop(seq)))

    def drop_quarantined(self) -> None:
        self._transaction.append(lambda to: to.quarantined.clear())

    def put_tombstone(self, number: int, raw: bytes) -> None:
        self._transaction.append(lambda to: to.tombstones.__setitem__(number, raw))

    def remove_tombstone(self, number: int) -> None:
        self._transaction.append(lambda to: to.tombstones.pop(number, None))

    def set_metadata(self, name: str, text: str) -> None:
        self._transaction.append(lambda to: to.metadata.__setitem__(name, text))

    def read_record(self, seq: int) -> bytes | None:
        return self.contents.records.get(seq)

    def read_records(self, seqs: Sequence[int]) -> dict[int, bytes]:
        return {seq: raw for seq in seqs if (raw := self.read_record(seq)) is not None}

    async def commit(self) -> None:
        self._committing, self._transaction = self._transaction, []
        await asyncio.sleep(self._rng.uniform(MIN_SYNC, MAX_SYNC) + self._slow())
        self._apply()

    def _apply(self) -> None:
        for change in self._committing:
            change(self.contents)
        self._committing = []

    def killed(self) -> None:
        """End the process: its open transaction is lost, one that was being committed may be on the disk."""
        if self._rng.random() < 0.5:
            self._apply()

    async def roll_back(self) -> None:
        self._transaction = []

    def metadata(self) -> dict[str, str]:
        return dict(self.contents.metadata)

    def records(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        return sorted(each for each in self.contents.records.items() if each[0] > after)[:limit]

    def rejections(self) -> dict[int, tuple[str, float]]:
        return dict(self.contents.rejected)

    def tombstones(self) -> Sequence[tuple[int, bytes]]:
        return sorted(self.contents.tombstones.items())

    def damaged(self) -> int:
        return len(self.contents.quarantined)

    @property
    def used_bytes(self) -> int:
        return sum(map(len, self.contents.records.values()))

    async def close(self) -> None:
        self._transaction = []

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the simulated disk has no {name}: add what `Disk` has got since")
