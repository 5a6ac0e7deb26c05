"""Shell. The command `milena journal`: reads the journal of a node, stopped or running.

Only `adopt` changes anything: it makes a copy of a journal the journal itself.

    0    done; for verify and export: and nothing is damaged
    1    verify, export: a record is damaged; or the journal cannot be read to its end, or the export not written
    2    wrong usage, or the directory has no journal that can be opened
    130  interrupted; 141 the reader of the output closed it

The work is done in a child process. LMDB maps its file into memory, so a truncated file, or a disk that cannot read
a page of it, ends a process by a signal; the parent process then prints the error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from milena_cache.journal import origin as journal_origin
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.identity import adopt
from milena_cache.journal.lmdb_disk import LmdbReader, Unreadable
from milena_cache.journal.tools.export import MANIFEST, CannotExport, export
from milena_cache.journal.tools.found import count
from milena_cache.journal.tools.inspect import Opened, Progress, inspect, verify

PROGRAM = "milena journal"
DAMAGED, USAGE, BROKEN_PIPE = 1, 2, 141
STOPS = (signal.SIGINT, signal.SIGTERM)
# Signals that end a process that reads an unreadable page of a mapped file, and that LMDB's assertions raise.
UNREADABLE = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)


def _inspect(journal: Opened, options: argparse.Namespace) -> int:
    inspect(journal, records=options.records, as_json=options.json)
    return 0


def _verify(journal: Opened, _: argparse.Namespace) -> int:
    return 0 if verify(journal) else DAMAGED


def _export(journal: Opened, options: argparse.Namespace) -> int:
    progress = Progress(journal.reader.entries, "read")
    done = export(journal.reader, journal.bucket, options.to, progress.one_more)
    progress.clear()
    print(
        f"{count(done.values)} values and {count(done.deletes)} deletes of {count(done.keys)} keys are in "
        f"{options.to / MANIFEST}, the values in files beside it"
    )
    if done.damaged:
        print(f"{count(done.damaged)} keys have no file: their newest value is damaged", file=sys.stderr)
    if done.nameless:
        print(
            f"the keys of {count(done.nameless)} damaged records are unknown: an exported value may not be "
            "its key's newest",
            file=sys.stderr,
        )
    return DAMAGED if done.damaged or done.nameless else 0


def _adopt(directory: Path) -> int:
    try:
        identity = adopt(directory)
    except CannotOpen as error:
        _complain(str(error))
        return USAGE
    except OSError as error:
        _complain(f"{error.filename or directory}: {error.strerror}")
        return DAMAGED
    print(f"{directory} is journal {identity.journal} now; never start a node on the original again")
    return 0


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; ends the process on a usage error or after --help."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Read the journal of a node, stopped or running. Only adopt changes anything.",
        epilog="DIR is the node's JOURNAL_DIR.",
    )
    commands = parser.add_subparsers(required=True, metavar="inspect|verify|export|adopt")
    looking = commands.add_parser(
        "inspect", help="show the contents", description="Show the contents of a journal."
    )
    looking.add_argument("--records", action="store_true", help="also print a line for each record")
    looking.add_argument("--json", action="store_true", help="print only the records, each as a line of JSON")
    looking.set_defaults(work=_inspect)
    checking = commands.add_parser(
        "verify",
        help="check every record",
        description="Check every record's checksums. Exit code 1 if one is damaged, 2 if DIR has no journal.",
    )
    checking.set_defaults(work=_verify)
    exporting = commands.add_parser(
        "export",
        help="write the values to files",
        description="Write the newest acknowledged value of each key to a file, and manifest.jsonl, which "
        "lists the key of each file, and the deletes and damaged records.",
    )
    exporting.add_argument(
        "--to", required=True, type=Path, metavar="DIRECTORY", help="the target: an empty or new directory"
    )
    exporting.set_defaults(work=_export)
    adopting = commands.add_parser(
        "adopt",
        help="let a node start on a copy",
        description="Make a copy of a journal take the place of the original, which must never be used again: two "
        "nodes on two copies of one journal overwrite newer objects with older ones.",
    )
    adopting.set_defaults(work=None)
    for each in (looking, checking, exporting, adopting):
        each.add_argument("directory", type=Path, metavar="DIR", help="the node's JOURNAL_DIR")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand, and return the exit code."""
    if options.work is None:
        return _adopt(options.directory)
    try:
        with closing(LmdbReader(options.directory)) as reader:
            journal = Opened(reader, journal_origin.from_text(reader.metadata.get(journal_origin.NAME, "")))
            work: Callable[[Opened, argparse.Namespace], int] = options.work
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
    except OSError as error:
        _complain(f"{error.filename or 'output'}: {error.strerror}")
        return DAMAGED


def _cannot_be_read(what: str) -> str:
    return f"{what}; it is truncated or damaged: check its disk, or use a better copy of it"


def _complain(text: str) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The program."""
    options = arguments(sys.argv[1:])
    os.umask(0o077)  # exported values are as secret as the journal
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    child = os.fork()
    heed = _stop if not child else partial(_pass_on, child)
    for number in STOPS:
        signal.signal(number, heed)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    if not child:
        _work(options)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if -code in UNREADABLE:
        _complain(_cannot_be_read(f"{options.directory}: its file cannot be read"))
        code = DAMAGED
    sys.exit(code if code >= 0 else 128 - code)


def _work(options: argparse.Namespace) -> NoReturn:
    code = 1
    try:
        code = run(options)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _stop(number: int, _: FrameType | None) -> None:
    """Exit once. A terminal signals both processes, and the parent passes its signal on: the second is ignored."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _pass_on(child: int, number: int, _: FrameType | None) -> None:
    with suppress(ProcessLookupError):  # the terminal has signalled both, and the child has exited already
        os.kill(child, number)


if __name__ == "__main__":
    main()
