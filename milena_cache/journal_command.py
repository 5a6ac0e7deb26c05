"""Shell. The command `milena journal`: looks into the journal of a node, stopped or running, and changes nothing.

    0    done; of verify and export: and nothing is damaged
    1    verify, export: a record is damaged; or the journal cannot be read to its end, or the export not written
    2    wrong usage, or the directory has no journal that can be opened
    130  interrupted, 141 the reader of the output went away

The work is done in a process of its own. LMDB maps its file into memory, so a file that was cut short, or a disk
that cannot read a page of it, ends a process by a signal; here somebody is left to say so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from milena_cache import journal_directory
from milena_cache.journal_disk import CannotOpen
from milena_cache.journal_export import CannotExport, export
from milena_cache.journal_found import Found, look, row
from milena_cache.journal_lmdb import LmdbReader, Unreadable
from milena_cache.journal_text import COLUMNS, count, line, moment, names
from milena_cache.record import FORMAT

PROGRAM = "milena journal"
DAMAGED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
# How a file that cannot be read by way of memory ends the process.
UNREADABLE = (signal.SIGBUS, signal.SIGSEGV)
PROGRESS_SECONDS = 0.2


class Journal(NamedTuple):
    """An open journal, with its default bucket by name if the node noted it."""

    reader: LmdbReader
    origin: str

    @property
    def bucket(self) -> str:
        return self.origin.removeprefix("s3://").partition("/")[0]


# ---- inspect


def inspect(journal: Journal, options: argparse.Namespace) -> int:
    """Print what there is: a summary, and each record if that is asked for."""
    if not options.json:
        _summary(journal)
        if not options.records:
            return 0
        print(f"\n{COLUMNS}")
    for found in journal.reader.records(look):
        told = row(found, journal.bucket, journal.reader.refusals, time.time())
        print(json.dumps(told) if options.json else line(told))
    return 0


def _summary(journal: Journal) -> None:
    reader = journal.reader
    keys: set[bytes] = set()
    records = puts = size = damaged = refused = 0
    oldest, newest = float("inf"), 0.0
    for found in reader.records(look):
        records += 1
        refused += found.number in reader.refusals
        damaged += bool(found.damage)
        if found.record is not None:
            keys.add(found.record.cache_key)
            puts += found.record.value is not None
            size += found.size or 0
            oldest = min(oldest, found.record.written_at)
            newest = max(newest, found.record.written_at)
    aside = sum(1 for _ in reader.set_aside(look))
    written = f"{moment(oldest)} to {moment(newest)}" if keys else "-"
    told = {
        "journal": str(reader.directory.resolve()),
        "held by": journal_directory.holder(reader.directory),
        "for": journal.origin or "no bucket noted",
        "format": str(FORMAT),
        "records": f"{count(records)} of {count(len(keys))} keys: {count(puts)} puts, "
        f"{count(records - puts)} deletes",
        "bytes": f"{count(size)} of values, {count(reader.bytes_on_disk)} on disk",
        "written": written,
        "refused": f"{count(refused)} by S3 for good",
        "damaged": f"{count(damaged)}, and {count(aside)} set aside",
    }
    for name, text in told.items():
        print(f"{name:<8} {text}")


# ---- verify


def verify(journal: Journal, options: argparse.Namespace) -> int:
    """Check every record, and print those that are damaged; 1 if there are any."""
    progress = Progress(journal.reader.entries, "verified")
    records = size = damaged = 0
    for found in journal.reader.records(look):
        progress.one_more()
        records += 1
        size += found.size or 0
        if found.damage:
            damaged += 1
            progress.clear()
            print(_damage(journal, found))
    progress.clear()
    aside = 0
    for found in journal.reader.set_aside(look):
        aside += 1
        print(_damage(journal, found, " (set aside)"))
    print(
        f"{count(records)} records with {count(size)} bytes of values: "
        f"{count(damaged)} damaged, and {count(aside)} set aside before"
    )
    return DAMAGED if damaged or aside else 0


def _damage(journal: Journal, found: Found, where: str = "") -> str:
    told = row(found, journal.bucket, journal.reader.refusals, time.time())
    known = f": {names(told)}" if found.record is not None else ""
    return f"record {found.number}{where}: {found.damage or 'is as it was written'}{known}"


# ---- export


def write_export(journal: Journal, options: argparse.Namespace) -> int:
    """Write the newest value of each key to a file; 1 if anything is damaged."""
    progress = Progress(journal.reader.entries, "read")
    done = export(journal.reader, journal.bucket, options.to, progress.one_more)
    progress.clear()
    print(
        f"{count(done.values)} values and {count(done.deletes)} deletes of {count(done.keys)} keys are in "
        f"{options.to / done.manifest}, the values in files beside it"
    )
    if done.damaged:
        print(f"{count(done.damaged)} keys have no file: their newest value is damaged", file=sys.stderr)
    if done.nameless:
        print(
            f"{count(done.nameless)} damaged records do not tell their key: an exported value may not be its key's "
            "newest",
            file=sys.stderr,
        )
    return DAMAGED if done.damaged or done.nameless else 0


class Progress:
    """A line on standard error that counts up, if somebody sits there. `total`: how many there were at first."""

    def __init__(self, total: int, verb: str) -> None:
        self._total = total
        self._verb = verb
        self._done = 0
        self._shown = False
        self._due = time.monotonic() + PROGRESS_SECONDS if sys.stderr.isatty() else float("inf")

    def one_more(self) -> None:
        self._done += 1
        if self._done % 64 == 0 and time.monotonic() >= self._due:
            self._due = time.monotonic() + PROGRESS_SECONDS
            self._shown = True
            text = f"{count(self._done)} of {count(max(self._done, self._total))} records {self._verb}"
            print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away, so that another can be written."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---- the program


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """What the command line says; ends the process if that is nothing, or help is asked for."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look into the journal of a node, stopped or running. Nothing in it is changed.",
        epilog="DIR is the node's JOURNAL_DIR.",
    )
    commands = parser.add_subparsers(required=True, metavar="inspect|verify|export")
    looking = commands.add_parser(
        "inspect", help="what the journal holds", description="Show what a journal holds."
    )
    looking.add_argument("--records", action="store_true", help="then a line for each record")
    looking.add_argument("--json", action="store_true", help="instead: each record as a line of JSON")
    looking.set_defaults(work=inspect)
    checking = commands.add_parser(
        "verify",
        help="check every record",
        description="Check every record's checksums. Exit code 1 if one is damaged, 2 if DIR has no journal.",
    )
    checking.set_defaults(work=verify)
    exporting = commands.add_parser(
        "export",
        help="write the values to files",
        description="Write the newest acknowledged value of each key to a file, and manifest.jsonl, which says of "
        "which key each file is, and what was deleted or is damaged.",
    )
    exporting.add_argument(
        "--to", required=True, type=Path, metavar="DIRECTORY", help="where to: empty, or not there yet"
    )
    exporting.set_defaults(work=write_export)
    for each in (looking, checking, exporting):
        each.add_argument("directory", type=Path, metavar="DIR", help="the node's JOURNAL_DIR")
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> int:
    """Do what is asked, and give the exit code."""
    try:
        with closing(LmdbReader(options.directory)) as reader:
            journal = Journal(reader, reader.notes.get("origin", ""))
            work: Callable[[Journal, argparse.Namespace], int] = options.work
            code = work(journal, options)
            sys.stdout.flush()
            return code
    except CannotOpen as error:
        _complain(f"{error}; give the JOURNAL_DIR of a node, as a user who may read it")
        return USAGE
    except CannotExport as error:
        _complain(str(error))
        return error.code
    except Unreadable as error:
        _complain(_cannot_be_read(str(error)))
        return DAMAGED
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _complain(f"{error.filename or 'output'}: {error.strerror}")
        return DAMAGED


def _cannot_be_read(what: str) -> str:
    return f"{what}; it is cut short or damaged: look at its disk, or take a better copy of it"


def _complain(text: str) -> None:
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


def _interrupted(number: int, _: FrameType | None) -> None:
    """Once is enough: the one who interrupts reaches this process more than once, through the one that waits."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """The program."""
    options = arguments(sys.argv[1:])
    os.umask(0o077)  # what is written is as secret as the journal
    child = os.fork()
    if not child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupted)
        code = 1
        try:
            code = run(options)
        finally:
            os._exit(code)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, partial(_pass_on, child))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if -code in UNREADABLE:
        _complain(_cannot_be_read(f"{options.directory}: its file cannot be read"))
        code = DAMAGED
    sys.exit(code if code >= 0 else 128 - code)


def _pass_on(child: int, number: int, _: FrameType | None) -> None:
    os.kill(child, number)


if __name__ == "__main__":
    main()
