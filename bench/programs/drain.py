"""Shell. How fast a backlog goes to S3, and what that costs the event loop.

python -m bench.programs.drain milena S3_URL NUMBER   a node's write-back of a journal in the working directory
python -m bench.programs.drain obstore S3_URL NUMBER  the same requests, as many at once, and nothing else
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path

from bench.case import Samples
from bench.child import run_and_print
from bench.nodes.backlog import fill
from bench.nodes.node_parts import BUCKETS, CONCURRENCY, running_node, s3
from bench.workload.new_objects import new_objects
from milena_cache.objects.version import Version, stamp


async def milena(endpoint_url: str, number: int) -> Samples:
    journal = Path("journal")
    await fill(journal, number)
    # With this delay nothing begins before the flush says so.
    async with running_node(journal, endpoint_url, flush_delay=3600) as parts:
        started, cpu = time.perf_counter(), time.thread_time()
        done = await parts.flush_waiters.wait_flushed(None, 3600)
        samples = _samples(number, time.perf_counter() - started, time.thread_time() - cpu)
        assert (done.flushed, parts.writeback.results["uploaded"]) == (number, number)
        return samples


async def obstore(endpoint_url: str, number: int) -> Samples:
    store = s3(endpoint_url)
    new_object = new_objects(secrets.token_hex(4))
    numbers = iter(range(number))

    async def upload() -> None:
        for each in numbers:
            key, value = new_object()
            ref = BUCKETS.object_at(key).ref
            await store.put(ref, value, if_absent=True, metadata=stamp(Version(1, each), ref))

    started, cpu = time.perf_counter(), time.thread_time()
    await asyncio.gather(*(upload() for _ in range(CONCURRENCY)))
    samples = _samples(number, time.perf_counter() - started, time.thread_time() - cpu)
    await store.close()
    return samples


def _samples(number: int, seconds: float, cpu: float) -> Samples:
    return {"per_s": number / seconds, "loop_us": cpu / number * 1e6}


if __name__ == "__main__":
    work = milena if sys.argv[1] == "milena" else obstore
    run_and_print(work(sys.argv[2], int(sys.argv[3])))
