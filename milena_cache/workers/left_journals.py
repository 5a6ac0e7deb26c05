"""Shell. Refuses to start beside the journal of a worker that is not started, if it has writes.

Nothing would upload them: each worker reads its own journal only. So a change of WORKERS needs workers that have
stopped with everything in S3, which is what exit code 0 says.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from milena_cache.configuration.config import Config
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.identity import is_unborn
from milena_cache.journal.lmdb_disk import LmdbReader
from milena_cache.workers.plan import JOURNAL_NAME, journal_directory
from milena_common.api.errors import ConfigError


def check_left_journals(config: Config) -> None:
    """Raise ConfigError, with what to do, if a journal of another number of workers has writes."""
    base = Path(config.journal)
    used = (
        {base} if config.workers == 1 else {Path(journal_directory(config, each)) for each in range(config.workers)}
    )
    found = [base, *sorted(base.glob(f"{JOURNAL_NAME}*"), key=_number)]
    left = [each for each in found if each not in used and (each / DATA_FILE).exists() and _has_writes(each)]
    if not left:
        return
    before = max(1, *(_number(each) + 1 for each in left))
    raise ConfigError(
        [
            f"WORKERS: got {config.workers}; {each} has writes, and no worker would upload them: start once with "
            f"WORKERS={1 if each == base else before}, and stop it with exit code 0, which says that S3 has all"
            for each in left
        ]
    )


def _number(directory: Path) -> int:
    """Return the number of the worker whose journal this is; -1 for another directory."""
    number = directory.name.removeprefix(JOURNAL_NAME)
    return int(number) if number.isdecimal() else -1


def _has_writes(directory: Path) -> bool:
    """Return True if there are writes, or if that cannot be known."""
    try:
        if is_unborn(directory):
            return False
        with closing(LmdbReader(directory)) as reader:
            return bool(reader.entries)
    except CannotOpen:
        return True
