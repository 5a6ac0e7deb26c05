"""A node over fakes, as the tests of its policy need it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from milena_cache.app import build
from milena_cache.configuration.config import load
from milena_cache.disk_cache.settings import DiskCacheSettings
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.expiry import NEVER, expires_metadata, expiry_of, is_expired
from milena_cache.objects.names import Buckets, Object
from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import Version, stamp
from milena_cache.objects.write_request import Ack
from milena_cache.origin.conditions import Conditions
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.reads.read_modify_write import Decide, Modified
from milena_cache.reads.reader import Reply
from milena_cache.writeback.flush import Flushed
from milena_cache.writeback.recovery import Replay
from milena_cache.writeback.uploads.upload import Policy
from milena_common.api.durability import Durability
from milena_common.limits.byte_budget import ByteBudget
from milena_common.process.env import Environment
from tests.cache.disk_cache.memory_files import InlineThreads, MemoryFiles
from tests.support.conditions import made_conditions
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.memory_disk import MemoryDisk
from tests.support.s3.memory_store import MemoryStore, WithMetadata, metadata_of

BUCKET = "bucket"
LINEAGE = "0123456789abcdef"
OTHER_LINEAGE = "fedcba9876543210"
# Windows one after the other: fresh to 100 s, grace to 110 s, keep to 160 s.
FRESHNESS = Freshness(ttl=100, jitter=0, grace=10, keep=50, stale_if_error=1000, negative_ttl=5)
SOON = 5.0
VARIABLES = {"ROUTER_ADDR": "127.0.0.1:50050", "AWS_REGION": "eu-central-1", "S3_BUCKET": BUCKET}
# No reader waits so long that a read is sent to S3 a second time, unless a test says so.
CONFIG = replace(load(Environment(VARIABLES), 2**30), s3_retries=0, s3_concurrency=100, request_timeout=15.0)
# Room for some hundred records, in segments of five or so.
DISK_CACHE_BYTES = 16_000
# From this age of a read of S3, who joins it has another one sent.
LATE = 2 * CONFIG.hedge_after


def _store(clock: FakeClock) -> MemoryStore:
    """An S3 whose own clock is right, whatever is done to the machine's."""
    store = MemoryStore(BUCKET, "other-bucket")
    zero = clock.wall() - clock.now()
    store.date = lambda: zero + clock.now()
    return store


class NodeUnderTest:
    """The parts, and shorthands that take keys as text.

    `mode` is WRITE_MODE. A node that writes back has to be started (`await t.start()`); `await t.crash()` gives the
    next one on the same disk, in front of the same S3.
    """

    def __init__(
        self,
        *,
        freshness: Freshness = FRESHNESS,
        max_entries: int = 100,
        max_bytes: int = 10**6,
        max_value_bytes: int = 10**6,
        revalidate_timeout: float = 0.02,
        buckets: Buckets | None = None,
        mode: Durability = "through",
        dirty_max_bytes: int = 10**6,
        dirty_memory_bytes: int = 10**6,
        delay: float = 1.0,
        concurrency: int = 4,
        policy: Policy = "overwrite",
        stuck_after: float = 600.0,
        lineage: str = LINEAGE,
        disk: MemoryDisk | None = None,
        store: MemoryStore | None = None,
        clock: FakeClock | None = None,
        conditions: Conditions | None = None,
        max_in_flight_bytes: int = 10**6,
        block_threshold: int = 10**6,
        block_bytes: int = 16,
        files: MemoryFiles | None = None,
    ) -> None:
        self._options = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.clock = clock or FakeClock()
        self.store = store or _store(self.clock)
        self.s3_clock = S3Clock()
        if (date := self.store.date()) is not None:
            self.s3_clock.observed(date - 0.5, self.clock.now(), self.clock.now())
        corrected = self.corrected = CorrectedClock(self.clock, self.s3_clock)
        self.disk = disk or MemoryDisk()
        self.budget = ByteBudget(max_in_flight_bytes)
        self.buckets = buckets or Buckets(BUCKET)
        self.config = replace(
            CONFIG,
            freshness=freshness,
            max_entries=max_entries,
            max_bytes=max_bytes,
            max_value_bytes=max_value_bytes,
            block_threshold=block_threshold,
            block_bytes=block_bytes,
            revalidate_timeout=revalidate_timeout,
            buckets=self.buckets,
            write_mode=mode,
            dirty_max_bytes=dirty_max_bytes,
            dirty_copy_bytes=dirty_max_bytes,
            dirty_memory_bytes=dirty_memory_bytes,
            flush_delay=delay,
            flush_concurrency=concurrency,
            write_conflict=policy,
            stuck_after=stuck_after,
            disk_cache=None if files is None else DiskCacheSettings("in memory", DISK_CACHE_BYTES, 10**9),
        )
        self.files = files
        self.threads = InlineThreads()
        self.parts = build(
            self.config,
            self.store,
            self.disk,
            corrected,
            lambda: 0.5,
            budget=self.budget,
            conditions=conditions or made_conditions(),
            lineage=lineage,
            put_timeout=0.002,
            disk_files=files,
            file_threads=self.threads,
        )
        self.memory = self.parts.memory
        self.dirty = self.parts.dirty
        self.journal = self.parts.journal
        self.uploader = self.parts.uploader
        self.writeback = self.parts.writeback
        self.writes = self.parts.writes
        self.node = self.parts.node
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> Replay:
        """Replay the journal, and begin to write back."""
        found = await self.parts.replay("memory")
        self._running.append(asyncio.create_task(self.writeback.run()))
        await self.start_disk_cache()
        return found

    async def start_disk_cache(self) -> None:
        """Begin to write to the disk cache, if there is one."""
        if self.parts.disk_cache is not None:
            self._running.append(asyncio.create_task(self.parts.disk_cache.run()))
        await run_ready_tasks()

    async def crash(self, *, paused: bool = False) -> NodeUnderTest:
        """The process is killed, whatever it is at; the next one on the same disk, started.

        `paused`: it uploads nothing, until `writeback.paused` is set anew, as its fence does.
        """
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        options = {**self._options, "disk": self.disk.after_crash(), "store": self.store, "clock": self.clock}
        options["files"] = None if self.files is None else self.files.after_crash()
        after = NodeUnderTest(**options)
        if paused:
            after.writeback.paused = lambda: True
        await after.start()
        return after

    async def stop(self) -> None:
        """Break everything off."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.writeback.stop()
        await self.node.finish()
        await self.parts.uploads.close()
        self.parts.sweeps.close()
        await self.parts.blocks.cancel_all()
        await self.parts.withheld.cancel_looks()
        await self.journal.close()

    async def flush(self, *keys: str, timeout: float = SOON) -> Flushed:
        cache_key = [self.object(key).cache_key for key in keys] if keys else None
        return await self.parts.flush_waiters.wait_flushed(cache_key, timeout)

    def s3_has(self, key: str) -> bytes | None:
        return self.store.objects.get(Ref(BUCKET, key))

    def s3_reports(self, key: str) -> bytes | None:
        """What S3 has, unless that has come to its end."""
        found = self.s3_has(key)
        if found is None:
            return None
        expired = is_expired(expiry_of(metadata_of(found), Ref(BUCKET, key)), self.corrected.wall())
        return None if expired else found

    def expires_at(self, key: str) -> float:
        """When the object in S3 ends."""
        return expiry_of(metadata_of(self.store.objects[Ref(BUCKET, key)]), Ref(BUCKET, key))

    def another(self, lineage: str = LINEAGE) -> NodeUnderTest:
        """Another node in front of the same S3, memory and journal empty; by default of the same cluster."""
        options = {
            **self._options,
            "disk": None,
            "files": None,
            "store": self.store,
            "clock": self.clock,
            "lineage": lineage,
        }
        return NodeUnderTest(**options)

    def object(self, key: str) -> Object:
        return self.buckets.resolve("", key.encode())

    async def get(self, key: str, owned_since: int = 0, timeout: float = SOON) -> Reply:
        return await self.node.get(self.object(key), timeout, owned_since)

    async def outcome(self, key: str, owned_since: int = 0) -> tuple[str, bytes | None]:
        reply = await self.get(key, owned_since)
        return reply.outcome, reply.entry.value

    async def put(
        self,
        key: str,
        value: bytes,
        owned_since: int = 0,
        timeout: float = SOON,
        durability: Durability | None = None,
        if_match: str = "",
        if_none_match: str = "",
        expires_at: float = NEVER,
    ) -> Ack:
        return await self.writes.put(
            self.object(key),
            value,
            timeout,
            owned_since=owned_since,
            durability=durability,
            if_match=if_match,
            if_none_match=if_none_match,
            expires_at=expires_at,
        )

    async def modify(
        self,
        key: str,
        decide: Decide,
        owned_since: int = 0,
        durability: Durability | None = None,
        timeout: float = SOON,
    ) -> Modified:
        return await self.node.modify(self.object(key), decide, timeout, owned_since, durability)

    async def delete(
        self,
        key: str,
        owned_since: int = 0,
        durability: Durability | None = None,
        if_match: str = "",
        timeout: float = SOON,
    ) -> Ack:
        return await self.writes.delete(
            self.object(key), timeout, owned_since=owned_since, durability=durability, if_match=if_match
        )

    def in_s3(self, key: str, value: bytes | None, expires_at: float = NEVER) -> None:
        """Change the object behind the node's back; with an end, as another node of Milena's does."""
        ref = Ref(BUCKET, key)
        if value is None:
            self.store.objects.pop(ref, None)
        elif expires_at:
            own = {**stamp(Version(1, 1), ref, LINEAGE), **expires_metadata(expires_at)}
            self.store.objects[ref] = WithMetadata(value, own)
        else:
            self.store.objects[ref] = value
