"""Shell. Hits by a node's policy, without a server, while write-back has a backlog to upload, or has none.

    python -m bench.programs.policy_reads S3_URL CALLERS SECONDS BACKLOG

Each caller yields to the event loop after each call, as a request from a server would; otherwise nothing else would
run.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import cycle
from pathlib import Path

from bench.case import Samples
from bench.child import run_and_print
from bench.nodes.backlog import fill
from bench.nodes.node_parts import BUCKETS, running_node
from bench.workload.load import with_callers
from bench.workload.new_objects import VALUE_BYTES
from milena_cache.objects.entry import Entry
from milena_common.api.durability import THROUGH
from milena_common.runtime.clock import SystemClock

_HOT_KEYS = 100


async def read(endpoint_url: str, callers: int, seconds: float, backlog: int) -> Samples:
    journal = Path("journal")
    await fill(journal, backlog)
    async with running_node(journal, endpoint_url) as parts:
        targets = [BUCKETS.resolve("", b"hot/%d" % number) for number in range(_HOT_KEYS)]
        for each in targets:
            parts.memory.store(each.cache_key, Entry(bytes(VALUE_BYTES), f'"{0:032x}"', SystemClock.now(), 0))
        objects, lookup = cycle(targets), parts.node.lookup

        async def call() -> None:
            assert lookup(next(objects)) is not None
            await asyncio.sleep(0)

        # The first request to S3 looks up the credentials, which takes a while.
        await parts.writes.put(BUCKETS.resolve("", b"first"), b"", 5, durability=THROUGH)
        results = parts.writeback.results
        started, uploaded = time.perf_counter(), sum(results.values())
        samples = await with_callers(call, callers, seconds)
        uploads = (sum(results.values()) - uploaded) / (time.perf_counter() - started)
        assert (len(parts.dirty) > 0) is bool(backlog), "the backlog did not last"
        del samples["calls"]
        return {**samples, "uploads_per_s": uploads}


if __name__ == "__main__":
    run_and_print(read(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
