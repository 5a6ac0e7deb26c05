"""Shell. Writes by a node's policy, journal and write-back, without a server.

    python -m bench.programs.policy_writes S3_URL CALLERS SECONDS FLUSH_DELAY

The journal is in the working directory. With a delay shorter than the run, uploads run all the time: the first one,
which looks up the credentials, ends before. `loop_us` is the event loop's processor time for each write, including
that of write-back.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path

from bench.case import Samples
from bench.child import run_and_print
from bench.nodes.node_parts import BUCKETS, running_node
from bench.workload.load import with_callers
from bench.workload.new_objects import new_objects


async def write(endpoint_url: str, callers: int, seconds: float, flush_delay: float) -> Samples:
    new_object = new_objects(secrets.token_hex(4))
    async with running_node(Path("journal"), endpoint_url, flush_delay) as parts:
        put, resolve = parts.writes.put, BUCKETS.resolve

        async def call() -> None:
            key, value = new_object()
            await put(resolve("", key), value, 5)

        await call()
        await parts.flush_waiters.wait_flushed(None, 60)
        commits, uploaded = parts.commits.commits, sum(parts.writeback.results.values())
        started, cpu = time.perf_counter(), time.thread_time()
        samples = await with_callers(call, callers, seconds)
        took, worked = time.perf_counter() - started, time.thread_time() - cpu
        calls = samples.pop("calls")
        return {
            **samples,
            "loop_us": worked / calls * 1e6,
            "per_commit": calls / (parts.commits.commits - commits),
            "uploads_per_s": (sum(parts.writeback.results.values()) - uploaded) / took,
        }


if __name__ == "__main__":
    run_and_print(write(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
