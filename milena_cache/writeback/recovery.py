"""Coordination. After a start: what the journal holds becomes the dirty entries that it was.

Values stay in the journal and are read when they are needed, so memory holds only what `dirty` counts for an entry.
Whether S3 has some of them already, or something later that was written through, shows when they are uploaded; a
read that comes before has S3 asked.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from milena_cache.journal.group_commit import Journal
from milena_cache.objects.expiry import NEVER, is_expired
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
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
    journal: Journal[DirtyEntry], dirty: Dirty, writeback: WriteBack, clock: Clock, directory: str
) -> Replay:
    """Fill `dirty` from `journal`, and have `writeback` upload it; to be awaited before anything is served."""
    started = logged_at = clock.now()
    wall = clock.wall()
    records = 0
    async for found in journal.replay():
        record = found.record
        entry = DirtyEntry(
            record.cache_key,
            record.version,
            None,
            found.size,
            S3Belief.recovered(
                record.base,
                conditional=record.conditional,
                keeps=record.base if record.keeps and isinstance(record.base, str) else "",
            ),
            deleted=record.value is None,
            journaled=True,
            acknowledged_at=started - max(0.0, wall - record.written_at),
            expires_at=record.expires_at or NEVER,
        )
        records += 1
        old = dirty.replace(entry)
        for seq in old.records() if old is not None else ():
            journal.remove(seq, entry.key)
        if found.damage:
            dirty.kill(entry, f"damaged: the journal record: {found.damage}", wall, damaged=True)
        elif found.rejection:
            reason, at = found.rejection
            if reason:
                dirty.kill(entry, reason, at)
            else:  # refused once, and told to try again over whatever is there
                entry.belief = entry.belief.forced(expired=is_expired(entry.expires_at, wall))
        if clock.now() - logged_at >= PROGRESS_SECONDS:
            logged_at = clock.now()
            log.info("replaying the journal: %d records so far", records)
    for entry in dirty.entries.values():
        writeback.acknowledged(entry)
    result = Replay(records, clock.now() - started)
    log.info(
        "journal %s replayed in %.3g s: %d writes to upload, %d refused by S3 before, %d damaged records",
        directory,
        result.seconds,
        len(dirty),
        dirty.dead_letters,
        journal.quarantined + dirty.damaged,
    )
    return result
