"""Shell. A node's start on a journal with many writes: its duration, and the memory of the writes.

    python -m bench.programs.replayed JOURNAL NUMBER

Memory is the anonymous memory of the process (RssAnon). The journal's file is mapped: the system caches its pages,
and reclaims them under memory pressure.
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
from milena_common.process.run import GC_THRESHOLD, no_cycle_search
from tests.support.s3.memory_store import MemoryStore


async def start(journal: Path, number: int) -> Samples:
    gc.collect()
    before = _resident()
    started = time.perf_counter()
    disk = LmdbDisk(journal, DIRTY_MAX_BYTES)
    parts = node_parts(MemoryStore("bench"), disk, bench_config())
    with no_cycle_search():  # as in a node's process
        await parts.replay(str(journal))
    seconds = time.perf_counter() - started
    gc.collect()
    after = _resident()
    assert len(parts.dirty) == number
    anonymous = (after["RssAnon"] - before["RssAnon"]) / number
    key_bytes = sum(map(len, parts.dirty)) / number
    samples = {
        "seconds": seconds,
        "bytes_per_record": anonymous,
        "beyond_key": anonymous - key_bytes,
        "mapped_per_record": (after["RssFile"] - before["RssFile"]) / number,
    }
    await parts.journal.close()
    return samples


def _resident() -> dict[str, int]:
    """Return the memory in bytes, by the system's names."""
    lines = Path("/proc/self/status").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith("Rss")]
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in rows}


if __name__ == "__main__":
    gc.set_threshold(*GC_THRESHOLD)  # as in a node's process
    run_and_print(start(Path(sys.argv[1]), int(sys.argv[2])))
