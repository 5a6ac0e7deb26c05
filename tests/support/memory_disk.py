"""A journal's disk in memory, which fails when a test says so, and survives the crash of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from milena_cache.journal.disk import DiskFull


@dataclass
class Contents:
    """What is on the disk."""

    records: dict[int, bytes] = field(default_factory=dict)
    rejected: dict[int, tuple[str, float]] = field(default_factory=dict)
    quarantined: dict[int, bytes] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    tombstones: dict[int, bytes] = field(default_factory=dict)


class MemoryDisk:
    """Implements `milena_cache.journal.disk.Disk`.

    `after_crash()` is the same disk for the next process: it has what was committed. While `gate` is clear, commits
    wait. `fail` is raised by the n-th of the calls that change something, or by every one if n is None.
    """

    def __init__(self, contents: Contents | None = None) -> None:
        self.committed = contents or Contents()
        self.open = deepcopy(self.committed)
        self.gate = asyncio.Event()
        self.gate.set()
        self.capacity: int | None = None
        self.commits = 0
        self.calls = 0
        self.fail_at: int | None = None
        self.failure: Exception | None = None
        self.closed = False

    def after_crash(self) -> MemoryDisk:
        return MemoryDisk(deepcopy(self.committed))

    def _call(self) -> None:
        self.calls += 1
        if self.failure is not None and self.fail_at in (None, self.calls):
            raise self.failure

    def put_record(self, seq: int, raw: bytes) -> None:
        self._call()
        assert all(seq > other for other in list(self.open.records)[-1:]), "numbers grow"
        self.open.records[seq] = raw

    def remove_record(self, seq: int) -> None:
        self._call()
        self.open.records.pop(seq, None)
        self.open.rejected.pop(seq, None)
        self.open.quarantined.pop(seq, None)

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        self._call()
        self.open.rejected[seq] = (reason, at)

    def clear_rejection(self, seq: int) -> None:
        self.reject_record(seq, "", 0.0)

    def quarantine(self, seq: int) -> None:
        self._call()
        self.open.quarantined[seq] = self.open.records.pop(seq)

    def drop_quarantined(self) -> None:
        self._call()
        self.open.quarantined.clear()

    def put_tombstone(self, number: int, raw: bytes) -> None:
        self._call()
        self.open.tombstones[number] = raw

    def remove_tombstone(self, number: int) -> None:
        self._call()
        self.open.tombstones.pop(number, None)

    def set_metadata(self, name: str, text: str) -> None:
        self._call()
        self.open.metadata[name] = text

    def read_record(self, seq: int) -> bytes | None:
        return self.committed.records.get(seq)

    def read_records(self, seqs: Sequence[int]) -> dict[int, bytes]:
        return {seq: raw for seq in seqs if (raw := self.read_record(seq)) is not None}

    def commit(self) -> Awaitable[None]:
        return asyncio.ensure_future(self._commit())

    async def _commit(self) -> None:
        await self.gate.wait()
        self._call()
        size = sum(map(len, self.open.records.values())) + sum(map(len, self.open.metadata.values()))
        if self.capacity is not None and size > self.capacity:
            raise DiskFull("No space left on device")
        self.commits += 1
        self.committed = self._copy(self.open)

    async def roll_back(self) -> None:
        self.open = self._copy(self.committed)

    @staticmethod
    def _copy(of: Contents) -> Contents:
        return Contents(
            dict(of.records), dict(of.rejected), dict(of.quarantined), dict(of.metadata), dict(of.tombstones)
        )

    def metadata(self) -> dict[str, str]:
        return dict(self.committed.metadata)

    def records(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        found = sorted((seq, raw) for seq, raw in self.committed.records.items() if seq > after)
        return found[:limit]

    def rejections(self) -> dict[int, tuple[str, float]]:
        return dict(self.committed.rejected)

    def tombstones(self) -> Sequence[tuple[int, bytes]]:
        return sorted(self.committed.tombstones.items())

    def damaged(self) -> int:
        return len(self.committed.quarantined)

    @property
    def used_bytes(self) -> int:
        return sum(map(len, self.committed.records.values()))

    async def close(self) -> None:
        self.closed = True
