"""Shell. A cache node's parts, wired in this process without servers, for measuring them alone.

They come from `milena_cache.app`, with limits so high that a measurement does not reach them.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from milena_cache.app import NodeParts, build
from milena_cache.configuration.config import Config, load
from milena_cache.journal.disk import Disk
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import ObjectStore
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import S3
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.memory_limit import memory_limit
from milena_common.process.env import Environment
from milena_common.process.run import GC_THRESHOLD
from milena_common.runtime.clock import SystemClock
from tests.support.conditions import made_conditions

BUCKETS = Buckets("bench")
MAX_ENTRIES = 10_000
# More than any case leaves dirty, so that no write is forced through S3.
DIRTY_MAX_BYTES = 2**32
FLUSH_DELAY = 0.1
CONCURRENCY = 64
MAX_VALUE_BYTES = 2**20
_VARIABLES = {"ROUTER_ADDR": "http://127.0.0.1:50050", "S3_BUCKET": BUCKETS.default, "AWS_REGION": "us-east-1"}


def bench_config(**fields: Any) -> Config:
    """Return a node's defaults, but without expiry of entries and with high limits; `fields` override both."""
    return replace(
        load(Environment(_VARIABLES), memory_limit()),
        **{
            "freshness": Freshness(ttl=1e9, jitter=0.1, grace=0, keep=0, stale_if_error=0, negative_ttl=0),
            "max_entries": MAX_ENTRIES,
            "max_bytes": memory_limit() // 2,
            "max_value_bytes": MAX_VALUE_BYTES,
            "max_in_flight_bytes": memory_limit() // 4,
            "dirty_max_bytes": DIRTY_MAX_BYTES,
            "dirty_memory_bytes": memory_limit() // 8,
            "flush_delay": FLUSH_DELAY,
            "flush_concurrency": CONCURRENCY,
            "s3_concurrency": 2 * CONCURRENCY,
            **fields,
        },
    )


def node_parts(store: ObjectStore, disk: Disk, config: Config) -> NodeParts:
    """Return a node in front of `store`, with all capabilities of the store known to work."""
    clock, budget = CorrectedClock(SystemClock(), S3Clock()), ByteBudget(config.max_in_flight_bytes)
    return build(config, store, disk, clock, random.random, budget=budget, conditions=made_conditions())


def s3(endpoint_url: str) -> S3:
    """Return the node's own S3 client, with credentials from the environment."""
    settings = S3Settings("us-east-1", endpoint_url, timeout=10, connect_timeout=2)
    return S3(Credentials(settings, lambda: make_session(settings)), settings, SystemClock(), negative_ttl=0)


@asynccontextmanager
async def running_node(
    journal: Path, endpoint_url: str, flush_delay: float = FLUSH_DELAY
) -> AsyncIterator[NodeParts]:
    """Yield a node that has replayed its `journal`, and writes back to the S3 at `endpoint_url`."""
    gc.set_threshold(*GC_THRESHOLD)  # as in a node's process
    disk = LmdbDisk(journal, DIRTY_MAX_BYTES)
    parts = node_parts(s3(endpoint_url), disk, bench_config(flush_delay=flush_delay))
    await parts.replay(str(journal))
    writing_back = asyncio.create_task(parts.writeback.run())
    try:
        yield parts
    finally:
        writing_back.cancel()
        await parts.writeback.stop()
        await parts.node.finish()
        await parts.uploads.close()
        await parts.blocks.cancel_all()
        await parts.origin.close()
        await parts.journal.close()
