"""Pure. The writes that S3 does not take, for people: dead letters, stuck keys, what a stop leaves behind."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.loop import WriteBack

# So many keys are named in the log when a node stops; the journal has all of them.
MAX_NAMED = 20


class FailedWrite(NamedTuple):
    """A dirty entry, why it is not in S3, and since when, in seconds since 1970."""

    entry: DirtyEntry
    reason: str
    failed_at: float


def failed_writes(writeback: WriteBack, dirty: Dirty, now: float) -> list[FailedWrite]:
    """Return the dead letters, then the entries that are stuck; each by time of failing. `now` is monotonic."""
    failed = [
        FailedWrite(entry, entry.dead.reason, entry.dead.at)
        for entry in writeback.dead_letters.among(None)
        if entry.dead is not None
    ]
    for key, failure in writeback.failing.stuck(now):
        entry = dirty.get(key)
        if entry is not None:
            reason = f"stuck, and tried again: {failure.tries} attempts failed, the last one with: {failure.reason}"
            failed.append(FailedWrite(entry, reason, failure.since_wall))
    return failed


def unfinished(dirty: Dirty, writeback: WriteBack) -> list[str]:
    """Return a line for each of the first `MAX_NAMED` keys that are not in S3, with reasons; failed ones first."""
    entries = sorted(
        islice(dirty.entries.values(), 10_000),
        key=lambda entry: not (entry.dead or writeback.failing.get(entry.key) is not None),
    )
    lines = [f"{writeback.ref_of(entry)}: {_reason(entry, writeback)}" for entry in entries[:MAX_NAMED]]
    return [*lines, f"and {len(dirty.entries) - MAX_NAMED} more"] if len(dirty.entries) > MAX_NAMED else lines


def _reason(entry: DirtyEntry, writeback: WriteBack) -> str:
    failure = writeback.failing.get(entry.key)
    if entry.dead is not None:
        return entry.dead.reason
    if failure is None:
        return "not tried yet"
    return f"{failure.tries} attempts failed, the last one with: {failure.reason}"
