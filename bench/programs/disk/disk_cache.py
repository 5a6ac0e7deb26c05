"""Shell. Measures the disk cache of a node on the disk of the working directory.

    python -m bench.programs.disk.disk_cache hits VALUES SECONDS
    python -m bench.programs.disk.disk_cache load RECORDS
    python -m bench.programs.disk.disk_cache amplification READS

`hits`: reads of random values of 4 KiB at a fixed rate, each timed from when it was due. `load`: how long a start
takes to find small records that an earlier process has left. `amplification`: the bytes written for each byte that
comes in, while keys of a Zipf distribution are read, and evicted from memory at once; the disk has room for half.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from bench.case import Samples
from bench.child import print_samples
from bench.summary import percentile
from milena_cache.disk_cache.files import DirectoryFiles, FileThreads
from milena_cache.disk_cache.record import Record
from milena_cache.disk_cache.segments import SegmentLog, segment_bytes_of
from milena_cache.disk_cache.tier import DiskCache
from milena_cache.objects.entry import Entry
from milena_common.runtime.clock import SystemClock

VALUE = bytes(range(256)) * 16
RATE = 5_000
# Reads that are begun together.
STEP = 5
DIRECTORY = Path("disk-cache")
_IDENTITY = bytes(16)


async def _with_cache(max_bytes: int, use: Callable[[DiskCache], Awaitable[Samples]]) -> Samples:
    clock = SystemClock()
    log = SegmentLog(DirectoryFiles(DIRECTORY), _IDENTITY, max_bytes, segment_bytes_of(max_bytes))
    cache = DiskCache(log, FileThreads(), set(), clock, 2.0**40)
    running = asyncio.create_task(cache.run())
    try:
        while not cache.loaded:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return await use(cache)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await cache.close()


async def _write(cache: DiskCache, key: bytes) -> None:
    while cache.queue.bytes + 2 * len(VALUE) > cache.queue.max_bytes:  # noqa: ASYNC110
        await asyncio.sleep(0)
    cache.evicted(key, Entry(VALUE, '"1"', SystemClock.now(), 0), True)


async def _written(cache: DiskCache) -> None:
    while len(cache.queue):  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def hits(values: int, seconds: float) -> Samples:
    async def use(cache: DiskCache) -> Samples:
        for number in range(values):
            await _write(cache, b"%d" % number)
        await _written(cache)
        took: list[float] = []

        async def read(due: float) -> None:
            if await cache.read_copy(b"%d" % random.randrange(values)) is not None:
                took.append(time.perf_counter() - due)

        began, cpu = time.perf_counter(), time.process_time()
        reading: set[asyncio.Task[None]] = set()
        for number in range(int(RATE * seconds)):
            due = began + number / RATE
            if number % STEP == 0:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            task = asyncio.create_task(read(due))
            reading.add(task)
            task.add_done_callback(reading.discard)
        while reading:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        passed, worked = time.perf_counter() - began, time.process_time() - cpu
        took.sort()
        return {
            "p50_ms": percentile(took, 0.5) * 1e3,
            "p99_ms": percentile(took, 0.99) * 1e3,
            "per_s": len(took) / passed,
            "cpu_us": worked / len(took) * 1e6,
            # Those that were not misses because too many reads were waiting for a thread.
            "found": len(took) / int(RATE * seconds),
        }

    return asyncio.run(_with_cache(2**30, use))


def load(records: int) -> Samples:
    log = SegmentLog(DirectoryFiles(DIRECTORY), _IDENTITY, 2**30, segment_bytes_of(2**30))
    for first in range(0, records, 1000):
        log.append_records(
            [
                Record(b"key-%d" % number, '"1"', 0.0, b"v" * 64)
                for number in range(first, min(first + 1000, records))
            ]
        )
    log.complete()
    log.close()

    cpu = time.process_time()

    async def use(cache: DiskCache) -> Samples:
        assert len(cache) == records
        return {"seconds": cache.load_seconds, "cpu_s": time.process_time() - cpu}

    return asyncio.run(_with_cache(2**30, use))


def amplification(reads: int) -> Samples:
    max_bytes = 64 * 2**20
    keys = 2 * max_bytes // len(VALUE)
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(keys)))

    async def use(cache: DiskCache) -> Samples:
        came = found = 0
        for number in random.choices(range(keys), cum_weights=weights, k=reads):
            key = b"%d" % number
            if await cache.read_copy(key) is not None:
                found += 1
            else:
                came += len(key) + len(VALUE)
            await _write(cache, key)
        await _written(cache)
        return {"written": cache.written_bytes / came, "hit_ratio": found / reads, "filled": came / max_bytes}

    return asyncio.run(_with_cache(max_bytes, use))


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    if what == "hits":
        print_samples(hits(int(numbers[0]), float(numbers[1])))
    else:
        print_samples({"load": load, "amplification": amplification}[what](int(numbers[0])))
