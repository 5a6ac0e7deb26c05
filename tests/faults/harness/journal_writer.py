"""Shell. Writes a journal until it is done or the disk fails: ``python -m tests.faults.harness.journal_writer
DIR``.

It says each thing on standard output once it is so, and before it goes on:

    ack N      record N is durable
    remove N   record N may go
    full       a write failed because there is no room
    failed     the disk has failed; nothing comes after it
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from milena_cache.journal.commit import JournalFailed, JournalFull
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_cache.objects.version import Version
from milena_common.runtime.clock import SystemClock

ROUNDS = 7
AT_ONCE = 6
FIRST = 2_000_000_000_000_000
MAX_BYTES = 2**24
TIMEOUT = 30.0


def record(number: int) -> Record:
    """What is written under that number: mostly small, at times of many pages."""
    rng = random.Random(number)
    size = rng.choice((0, 100, 1000, 3000, 3000, 20_000, 200_000))
    return Record(b"key%d" % number, Version(1, FIRST + number), rng.randbytes(size))


def notify(what: str) -> None:
    print(what, flush=True)


async def write(journal: Journal[int], number: int) -> None:
    seq = FIRST + number
    try:
        await journal.write(seq, encode(record(number)), number, lambda _, durable: None, TIMEOUT)
    except JournalFull:
        notify("full")
    else:
        notify(f"ack {number}")


async def main(directory: Path) -> int:
    journal: Journal[int] = Journal(LmdbDisk(directory, MAX_BYTES), SystemClock())
    async for _ in journal.replay():
        pass
    try:
        for first in range(0, ROUNDS * AT_ONCE, AT_ONCE):
            done = await asyncio.gather(
                *(write(journal, number) for number in range(first, first + AT_ONCE)), return_exceptions=True
            )
            for error in filter(None, done):
                raise error
            if first:
                notify(f"remove {first - 2}")
                journal.release(FIRST + first - 2, b"key")
    except JournalFailed:
        pass
    await journal.close()
    if journal.failure:
        notify("failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]))))
