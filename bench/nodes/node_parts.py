"""Shell. A cache node's parts, wired together in this process without its doors: what a case measures alone."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from milena_cache.journal.disk import Disk
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.memory.entries import Entries
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import ObjectStore
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.origin.clients.boto3_session import make_session
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.origin.s3.credentials import Credentials
from milena_cache.origin.s3.settings import S3Settings
from milena_cache.origin.s3_store import S3
from milena_cache.reads.reader import FetchResult, Node
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.recovery import replay
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Uploader
from milena_cache.writes.write_through import WriteThrough
from milena_cache.writes.writer import Writes
from milena_common.api.durability import BACK
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.memory_limit import memory_limit
from milena_common.process.run import GC_THRESHOLD
from milena_common.runtime.clock import SystemClock
from milena_common.runtime.key_locks import KeyLocks
from tests.support.conditions import made_conditions

BUCKETS = Buckets("bench")
MAX_ENTRIES = 10_000
# More than any case leaves dirty, so that no write has to go through S3.
DIRTY_MAX_BYTES = 2**32
FLUSH_DELAY = 0.1
CONCURRENCY = 64
RETRIES = 3
MAX_VALUE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class NodeParts:
    """One node."""

    origin: Origin
    memory: Memory
    journal: Journal[DirtyEntry]
    dirty: Dirty
    writeback: WriteBack
    writes: Writes
    node: Node

    async def replay(self) -> None:
        """What comes before everything else."""
        await replay(self.journal, self.dirty, self.writeback, SystemClock(), "of the benchmark")


def node_parts(store: ObjectStore, disk: Disk, memory: Memory, flush_delay: float = FLUSH_DELAY) -> NodeParts:
    """A node in front of `store` with a node's defaults, except that nothing grows old and the bounds are far."""
    clock, rng = CorrectedClock(SystemClock(), S3Clock()), random.random
    freshness = Freshness(ttl=1e9, jitter=0.1, grace=0, keep=0, stale_if_error=0, negative_ttl=0)
    origin = Origin(
        store,
        clock,
        rng,
        retries=RETRIES,
        concurrency=2 * CONCURRENCY,
        place_timeout=5,
        fresh=store,
        hedge_after=5.0,
    )
    fetches: SingleFlight[FetchResult] = SingleFlight(late_after=5.0)
    entries = Entries(memory, fetches, freshness, clock)
    dirty = Dirty(DIRTY_MAX_BYTES, memory_limit() // 8)
    journal: Journal[DirtyEntry] = Journal(disk, clock)
    uploader = Uploader(origin, made_conditions(), journal.lineages)
    reads = ReadCounts()
    writeback = WriteBack(
        dirty,
        journal,
        uploader,
        entries,
        KeyLocks(),
        BUCKETS,
        reads,
        clock,
        rng,
        ByteBudget(memory_limit() // 4),
        throttle=UploadThrottle(CONCURRENCY, rng),
        delay=flush_delay,
        policy="overwrite",
    )
    writes = Writes(
        origin=origin,
        write_through=WriteThrough(uploader, journal, dirty, writeback, entries, clock, rng, RETRIES),
        journal=journal,
        dirty=dirty,
        writeback=writeback,
        entries=entries,
        clock=clock,
        mode=BACK,
        max_value_bytes=MAX_VALUE_BYTES,
    )
    node = Node(
        store=origin,
        memory=memory,
        fetches=fetches,
        entries=entries,
        dirty=dirty,
        writes=writes,
        reads=reads,
        freshness=freshness,
        buckets=BUCKETS,
        clock=clock,
        max_value_bytes=MAX_VALUE_BYTES,
        revalidate_timeout=1,
    )
    return NodeParts(origin, memory, journal, dirty, writeback, writes, node)


def s3(endpoint_url: str) -> S3:
    """The node's own S3, with credentials from the environment."""
    settings = S3Settings("us-east-1", endpoint_url, timeout=10, connect_timeout=2)
    return S3(Credentials(settings, lambda: make_session(settings)), settings, SystemClock(), negative_ttl=0)


@asynccontextmanager
async def running_node(
    journal: Path, endpoint_url: str, flush_delay: float = FLUSH_DELAY
) -> AsyncIterator[NodeParts]:
    """A node that has replayed its `journal`, and writes back to the S3 at `endpoint_url`."""
    gc.set_threshold(*GC_THRESHOLD)  # as in a node's process
    disk = LmdbDisk(journal, DIRTY_MAX_BYTES)
    parts = node_parts(s3(endpoint_url), disk, Memory(MAX_ENTRIES, memory_limit() // 2), flush_delay)
    await parts.replay()
    writing_back = asyncio.create_task(parts.writeback.run())
    try:
        yield parts
    finally:
        writing_back.cancel()
        await parts.writeback.stop()
        await parts.node.finish()
        await parts.origin.close()
        await parts.journal.close()
