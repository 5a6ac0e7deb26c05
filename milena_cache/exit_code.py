"""Coordination. With which code a node ends, and what its last lines of the log say about writes."""

from __future__ import annotations

import logging

from milena_cache.journal.group_commit import Journal
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.unfinished import FailedWrites

log = logging.getLogger(__name__)

EXIT_JOURNAL_FAILED = 1
EXIT_WRITES_REMAIN = 3


def exit_code(journal: Journal[DirtyEntry], dirty: Dirty, failed_writes: FailedWrites, directory: str) -> int:
    """Return the code for a node that has stopped, and log what is left undone; `directory` is the journal's."""
    if journal.failure:
        return EXIT_JOURNAL_FAILED
    lost = sum(not entry.journaled for entry in dirty.entries.values())
    if lost:
        log.error("%d writes of durability memory did not reach S3 and are lost", lost)
    kept = len(dirty.entries) - lost
    if kept:
        log.error(
            "%d writes are not in S3, %d of them refused by it: they remain in the journal %s, and are uploaded "
            "when a node starts on it",
            kept,
            dirty.dead_letters,
            directory,
        )
        for line in failed_writes.unfinished():
            log.error("not in S3: %s (`milena journal inspect %s` lists all)", line, directory)
    return EXIT_WRITES_REMAIN if kept or lost else 0
