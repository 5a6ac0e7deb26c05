"""Shell. Prints the contents of a journal: the subcommands `inspect` and `verify` of `milena journal`.

Text is for people, JSON lines are for programs. Both work while a node writes the journal.
"""

from __future__ import annotations

import json
import sys
import time
from typing import NamedTuple

from milena_cache.journal import directory as journal_directory
from milena_cache.journal import file as journal_file
from milena_cache.journal.lmdb_disk import LmdbReader
from milena_cache.journal.record import FORMAT
from milena_cache.journal.tools.found import COLUMNS, count, damage, line, look, row, timestamp

PROGRESS_SECONDS = 0.2
# Problems of the structure that are printed: one damaged page may cause thousands.
MAX_PROBLEMS = 20


class Opened(NamedTuple):
    """An open journal, and the node's ORIGIN as its metadata has it ("" if it has none)."""

    reader: LmdbReader
    origin: str

    @property
    def bucket(self) -> str:
        return self.origin.removeprefix("s3://").partition("/")[0]


# ---- inspect


def inspect(journal: Opened, *, records: bool, as_json: bool) -> None:
    """Print a summary, and with `records` a line for each; `as_json`: only those, as JSON. Raises Unreadable."""
    if not as_json:
        _summary(journal)
        if not records:
            return
        print(f"\n{COLUMNS}")
    for found in journal.reader.records(look):
        fields = row(found, journal.bucket, journal.reader.rejections, time.time())
        print(json.dumps(fields) if as_json else line(found, fields))


def _summary(journal: Opened) -> None:
    reader = journal.reader
    keys: set[bytes] = set()
    records = puts = deletes = size = wrong = rejected = 0
    oldest, newest = float("inf"), 0.0
    for found in reader.records(look):
        records += 1
        rejected += found.number in reader.rejections
        wrong += bool(found.damage)
        if found.record is not None:
            keys.add(found.record.cache_key)
            puts += found.record.value is not None
            deletes += found.record.value is None
            size += found.size or 0
            oldest = min(oldest, found.record.written_at)
            newest = max(newest, found.record.written_at)
    quarantined = sum(1 for _ in reader.quarantined(look))
    written = f"{timestamp(oldest)} to {timestamp(newest)}" if keys else "-"
    fields = {
        "journal": str(reader.directory.resolve()),
        "held by": journal_directory.holder(reader.directory),
        "for": journal.origin or "no bucket recorded",
        "format": str(FORMAT),
        "records": f"{count(records)} of {count(len(keys))} keys: {count(puts)} puts, {count(deletes)} deletes",
        "bytes": f"{count(size)} of values, {count(reader.bytes_on_disk)} on disk",
        "written": written,
        "refused": f"{count(rejected)} by S3 permanently",
        "damaged": f"{count(wrong)}, and {count(quarantined)} quarantined",
    }
    for name, text in fields.items():
        print(f"{name:<8} {text}")


# ---- verify


def verify(journal: Opened) -> bool:
    """Check the file's structure and every record, and print the damage; return True if there is none.

    The structure is checked only while no node has the journal, because a file that is being changed has no
    consistent structure. Raises Unreadable, and CannotOpen if the structure cannot be read.
    """
    problems: list[str] = []
    if journal_directory.holder(journal.reader.directory) == journal_directory.NO_HOLDER:
        problems = journal_file.audit(journal.reader.directory)
    else:
        print("the structure of the file is not checked while a node has it")
    for problem in problems[:MAX_PROBLEMS]:
        print(f"structure: {problem}", flush=True)
    if len(problems) > MAX_PROBLEMS:
        print(f"structure: and {count(len(problems) - MAX_PROBLEMS)} problems more")
    progress = Progress(journal.reader.entries, "verified")
    records = size = wrong = 0
    for found in journal.reader.records(look):
        progress.one_more()
        records += 1
        size += found.size or 0
        if found.damage:
            wrong += 1
            progress.clear()
            print(f"record {found.number}: {damage(found)}", flush=True)
    progress.clear()
    quarantined = 0
    for found in journal.reader.quarantined(look):
        quarantined += 1
        print(f"record {found.number} (quarantined): {damage(found)}")
    print(
        f"{count(records)} records with {count(size)} bytes of values: "
        f"{count(wrong)} damaged, and {count(quarantined)} quarantined before"
    )
    return not (wrong or quarantined or problems)


class Progress:
    """A counter on standard error, if that is a terminal. `total`: the number of records at the start."""

    def __init__(self, total: int, verb: str) -> None:
        self._total = total
        self._verb = verb
        self._done = 0
        self._shown = False
        self._due = time.monotonic() + PROGRESS_SECONDS if sys.stderr.isatty() else float("inf")

    def one_more(self) -> None:
        self._done += 1
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_SECONDS
            self._shown = True
            text = f"{count(self._done)} of {count(max(self._done, self._total))} records {self._verb}"
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Erase the line, so that another can be written."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
