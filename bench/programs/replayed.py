"""Shell. A node's start on a journal with many writes: how long it takes, and what the writes take in memory.

    python -m bench.programs.replayed JOURNAL NUMBER

Memory is what belongs to the process alone (RssAnon). The journal's file is mapped: of it the system keeps in
memory what it likes, and takes it back when others need it.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

from bench.case import Samples
from bench.child import run_and_print
from bench.nodes.node_parts import DIRTY_MAX_BYTES, bench_config, node_parts
from milena_cache.journal.lmdb_disk import LmdbDisk
from tests.support.s3.memory_store import MemoryStore


async def start(journal: Path, number: int) -> Samples:
    gc.collect()
    before = _resident()
    started = time.perf_counter()
    disk = LmdbDisk(journal, DIRTY_MAX_BYTES)
    parts = node_parts(MemoryStore("bench"), disk, bench_config())
    await parts.replay(str(journal))
    seconds = time.perf_counter() - started
    gc.collect()
    after = _resident()
    assert len(parts.dirty) == number
    anonymous = (after["RssAnon"] - before["RssAnon"]) / number
    key_bytes = sum(map(len, parts.dirty.entries)) / number
    samples = {
        "seconds": seconds,
        "bytes_per_record": anonymous,
        "beyond_key": anonymous - key_bytes,
        "mapped_per_record": (after["RssFile"] - before["RssFile"]) / number,
    }
    await parts.journal.close()
    return samples


def _resident() -> dict[str, int]:
    """Bytes, by the names that the system has for them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith("Rss")]
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in rows}


if __name__ == "__main__":
    run_and_print(start(Path(sys.argv[1]), int(sys.argv[2])))
