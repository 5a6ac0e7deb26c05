"""Coordination. Determines the exit code of a node, and logs the writes that are not in S3.

Orchestrators and operators decide by the code if the journal's disk may be removed.
"""

from __future__ import annotations

import logging

from milena_cache.journal.group_commit import Journal
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.unfinished import FailedWrites

log = logging.getLogger(__name__)

EXIT_JOURNAL_FAILED = 1
EXIT_WRITES_REMAIN = 3


def exit_code(journal: Journal[DirtyEntry], dirty: Dirty, failed_writes: FailedWrites, directory: str) -> int:
    """Return the exit code of a stopped node, and log the unfinished writes; `directory` is the journal's."""
    if journal.failure:
        return EXIT_JOURNAL_FAILED
    lost = sum(not entry.journaled for entry in dirty.values())
    if lost:
        log.error("%d writes of durability memory did not reach S3 and are lost", lost)
    kept = len(dirty) - lost
    if kept:
        log.error(
            "%d writes are not in S3, %d of them rejected by it: they remain in the journal %s, and are uploaded "
            "when a node starts on it",
            kept,
            dirty.dead_letters,
            directory,
        )
        for line in failed_writes.unfinished():
            log.error("not in S3: %s (`milena journal inspect %s` lists all)", line, directory)
    return EXIT_WRITES_REMAIN if kept or lost else 0
