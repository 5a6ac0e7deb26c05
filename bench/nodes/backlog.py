"""Shell. A journal full of writes that are not in S3 yet, without the time in which a node would have taken them.

    python -m bench.nodes.backlog DIRECTORY NUMBER

Values are 1 KiB, each of a key of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path

from bench.nodes.node_parts import DIRTY_MAX_BYTES
from bench.workload.new_objects import new_objects
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_cache.journal.version_allocator import Versions
from milena_cache.objects.version import UNKNOWN

_BATCH = 10_000


async def fill(directory: Path, number: int) -> None:
    """Puts of `number` new keys."""
    new_object = new_objects(secrets.token_hex(4))
    disk = LmdbDisk(directory, DIRTY_MAX_BYTES)
    versions = Versions(time.time(), {})
    await disk.roll_back()  # begins the first transaction
    for first in range(0, number, _BATCH):
        for _ in range(min(_BATCH, number - first)):
            key, value = new_object()
            version = versions.next(0)
            disk.put_record(version.seq, encode(Record(key, version, value, UNKNOWN, written_at=time.time())))
        await disk.commit()
    await disk.close()


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2])))
