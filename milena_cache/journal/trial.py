"""Shell. Reads a journal from its first page to its last in a child process, before the node opens it.

    python -m milena_cache.journal.trial DIR

LMDB does not check its pages. An overwritten page makes it read past the end of its map, or abort, and the node
would end by a signal without a message. With the trial only the child process ends, and the node reports the
damage. The pages are then in the page cache for the replay that follows.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from milena_cache.journal import file as journal_file
from milena_cache.journal import identity as journal_identity
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.file import REPAIR
from milena_cache.journal.lmdb_disk import LmdbReader, Unreadable

# Enough for the largest journal that the defaults allow, on a disk that reads 1 MB/s.
TRIAL_SECONDS = 3600.0
# Bytes between those that are read: no page is smaller, so every page is touched.
_STEP = 512


def trial(directory: Path) -> None:
    """Raise CannotOpen if the journal in `directory` cannot be read to its end. A new journal passes."""
    if journal_identity.is_unborn(directory):
        return
    journal_file.check(directory)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "milena_cache.journal.trial", str(directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotOpen(f"{directory}: could not be read within {TRIAL_SECONDS:g} s; check its disk") from None
    if ran.returncode < 0:
        signal_name = signal.Signals(-ran.returncode).name
        raise CannotOpen(
            f"{directory}: its pages are damaged: reading them ends a process by {signal_name}. {REPAIR}"
        )
    if ran.returncode:
        said = ran.stderr.strip().splitlines()
        raise CannotOpen(f"{directory}: its pages are damaged: {said[-1] if said else 'no reason given'}. {REPAIR}")


def _read_all(directory: Path) -> None:
    def touch(_: int, raw: memoryview) -> int:
        return sum(raw[::_STEP])

    with closing(LmdbReader(directory)) as reader:
        for part in (reader.records, reader.quarantined):
            for _ in part(touch):
                pass


def main() -> int:
    """Return 0 if the journal could be read, 1 with the reason on standard error otherwise."""
    try:
        _read_all(Path(sys.argv[1]))
    except (CannotOpen, Unreadable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
