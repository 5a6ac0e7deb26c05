"""Coordination. Recovery after a start: turns the journal's records into dirty entries again.

Values stay in the journal and are read when they are needed, so memory holds only the overhead of an entry. S3 may
have some of the writes already, or a later write that went through: the upload finds out. A read before that upload
revalidates the entry with S3, because its belief is unconfirmed.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from milena_cache.journal.group_commit import Journal
from milena_cache.objects.expiry import NEVER, is_expired
from milena_cache.objects.version import UNKNOWN, Base
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import TOO_LATE, DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


class Replay(NamedTuple):
    """How many records were found, and how many seconds it took."""

    records: int
    seconds: float


async def replay(
    journal: Journal[DirtyEntry],
    dirty: Dirty,
    dirty_writes: DirtyWrites,
    writeback: WriteBack,
    clock: Clock,
    directory: str,
) -> Replay:
    """Fill `dirty` from `journal` and queue its entries in `writeback`; to be awaited before requests are served.

    A request before the end of the replay could miss an acknowledged write, or get a version that is too low.
    """
    started = logged_at = clock.now()
    wall = clock.wall()
    records = 0
    # Most records have the belief of the one before: shared, it saves time and 100 bytes for each.
    belief = S3Belief.recovered(UNKNOWN, conditional=False, keeps="")
    belief_of: tuple[Base, bool, bool] = UNKNOWN, False, False
    copies = journal.copies
    async for step in journal.replay():
        if clock.now() - logged_at >= PROGRESS_SECONDS:
            logged_at = clock.now()
            log.info("replaying the journal: %d records so far", records)
        records += len(step)
        for record, size, rejection, damage in step:
            if copies is not None and copies.recover(record, size, damage):
                continue
            key, version, value, base, conditional, _, written_at, expires_at, keeps, number, *_ = record
            if (base, conditional, keeps) != belief_of:
                belief = S3Belief.recovered(
                    base, conditional=conditional, keeps=base if keeps and isinstance(base, str) else ""
                )
                belief_of = base, conditional, keeps
            entry = DirtyEntry(
                key,
                version,
                None,
                size,
                belief,
                deleted=value is None,
                journaled=True,
                acknowledged_at=started - max(0.0, wall - written_at),
                expires_at=expires_at or NEVER,
                number=number,
            )
            dirty_writes.replace(entry)
            if damage:
                dirty.kill(entry, f"damaged: the journal record: {damage}", wall, damaged=True)
            elif rejection:
                _recover_rejected(dirty, entry, *rejection, wall)
    if journal.copies is not None:
        journal.copies.recovered()
    for entry in dirty.values():
        writeback.acknowledged(entry)
    result = Replay(records, clock.now() - started)
    log.info(
        "journal %s replayed in %.3g s: %d writes to upload, %d dead letters, %d damaged records",
        directory,
        result.seconds,
        dirty.waiting,
        dirty.dead_letters,
        journal.quarantined + dirty.damaged,
    )
    return result


def _recover_rejected(dirty: Dirty, entry: DirtyEntry, reason: str, at: float, wall: float) -> None:
    if reason == TOO_LATE:
        dirty.withhold(entry, reason, at)
    elif reason:
        dirty.kill(entry, reason, at)
    else:  # S3 rejected it, and an operator requeued it: it overwrites the object that S3 holds
        entry.belief = entry.belief.forced(expired=is_expired(entry.expires_at, wall))
        entry.forced = True
