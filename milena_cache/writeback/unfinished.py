"""Coordination. Writes that S3 does not accept, for operators: dead letters, stuck writes, and the rest at a stop.

`FailedWrites` is the one interface for the gRPC methods, the metrics and the log of a stop; it combines dead
letters and stuck writes, which `dead_letters` and `stuck_writes` handle.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from milena_cache.writeback.dead_letters import DeadLetters
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.failing import Failing
from milena_cache.writeback.stuck_writes import StuckWrites

# Keys that the log names when a node stops with dirty entries; the journal has all of them.
MAX_NAMED = 20


class FailedWrite(NamedTuple):
    """A dirty entry, why it is not in S3, and when it failed first or became a dead letter (seconds since 1970)."""

    entry: DirtyEntry
    reason: str
    failed_at: float


class FailedWrites:
    """The dead letters and the stuck writes of one node."""

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        dead_letters: DeadLetters,
        stuck: StuckWrites,
        failing: Failing,
    ) -> None:
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._dead_letters = dead_letters
        self._stuck = stuck
        self._failing = failing

    def listed(self, now: float) -> list[FailedWrite]:
        """Return the dead letters, then the stuck writes, each by time of failure; `now`: monotonic seconds."""
        failed = [
            FailedWrite(entry, entry.dead.reason, entry.dead.at)
            for entry in self._dead_letters.among(None)
            if entry.dead is not None
        ]
        for key, failure in self._failing.stuck(now):
            entry = self._dirty.get(key)
            if entry is not None:
                reason = f"stuck, and retried: {failure.tries} attempts failed, the last one with: {failure.reason}"
                failed.append(FailedWrite(entry, reason, failure.since_wall))
        return failed

    async def retry(self, keys: Iterable[bytes] | None) -> int:
        """Retry the failed writes among the cache keys `keys`, all if None, at once; return how many."""
        return self._stuck.retry(keys) + await self._dead_letters.retry(keys)

    async def drop(self, keys: Iterable[bytes] | None) -> int:
        """Delete the failed writes among `keys`, all if None, permanently; return how many."""
        return await self._stuck.drop(keys) + await self._dead_letters.drop(keys)

    def unfinished(self) -> list[str]:
        """Return a line, with the reason, for each of the first `MAX_NAMED` keys not in S3; failed ones first."""
        dirty = self._dirty
        entries = sorted(
            islice(dirty.values(), 10_000),
            key=lambda entry: not (entry.dead or self._failing.get(entry.key) is not None),
        )
        lines = [f"{self._dirty_writes.ref(entry)}: {self._reason(entry)}" for entry in entries[:MAX_NAMED]]
        return [*lines, f"and {len(dirty) - MAX_NAMED} more"] if len(dirty) > MAX_NAMED else lines

    def _reason(self, entry: DirtyEntry) -> str:
        failure = self._failing.get(entry.key)
        if entry.dead is not None:
            return entry.dead.reason
        if failure is None:
            return "not tried yet"
        return f"{failure.tries} attempts failed, the last one with: {failure.reason}"
