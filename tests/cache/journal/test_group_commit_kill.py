"""Writes that were appended together: after a kill at any time the journal has all of them or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from milena_cache.journal.lmdb_disk import LmdbReader
from milena_cache.journal.record import decode

ROOT = Path(__file__).parents[3]
KEYS = 5
# Writes transactions until it is killed, several at a time, and says which ones were acknowledged. A commit takes
# less than two of them, so that they would be cut if they could be.
CHILD = f"""
import asyncio, sys
from pathlib import Path
from milena_cache.journal import group_commit
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record
from milena_common.runtime.clock import SystemClock

group_commit.MAX_BATCH_BYTES = 700

async def main():
    journal = group_commit.Journal(LmdbDisk(Path(sys.argv[1]), 2**28), SystemClock())
    async for _ in journal.replay():
        pass

    async def write(number):
        versions = [journal.next_version(0) for _ in range({KEYS})]
        records = [Record(b"%d.%d" % (number, each), version, b"x" * 100) for each, version in enumerate(versions)]
        for future in journal.append_all(records, records, lambda *_: None, 60.0):
            await future
        print(number, flush=True)

    for first in range(0, 100_000, 4):
        await asyncio.gather(*(write(first + each) for each in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 6, 11])
def test_a_kill_leaves_all_of_a_transaction_or_nothing(tmp_path: Path, acknowledged: int) -> None:
    directory = tmp_path / "journal"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    seen += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    child.wait()
    reader = LmdbReader(directory)
    keys = list(reader.records(lambda number, raw: decode(number, raw)[0].cache_key))
    reader.close()
    found = Counter(int(key.partition(b".")[0]) for key in keys)
    assert set(found.values()) == {KEYS}
    assert set(seen) <= set(found)
