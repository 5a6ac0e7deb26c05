"""A node over fakes, as the tests of its policy need it."""

from __future__ import annotations

import asyncio

from milena_cache.journal.group_commit import Journal
from milena_cache.memory.entries import Entries
from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.expiry import NEVER, expires_metadata, expiry_of, is_expired
from milena_cache.objects.names import Buckets, Object
from milena_cache.objects.object_store import Ref
from milena_cache.objects.read_outcomes import ReadCounts
from milena_cache.objects.version import Version, stamp
from milena_cache.objects.write_request import Ack
from milena_cache.origin.conditions import Conditions
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_cache.reads.read_modify_write import Decide, Modified
from milena_cache.reads.reader import FetchResult, Node, Reply
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.flush import Flushed
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.recovery import Replay, replay
from milena_cache.writeback.uploads.throttle import UploadThrottle
from milena_cache.writeback.uploads.upload import Policy, Uploader
from milena_cache.writes.write_through import WriteThrough
from milena_cache.writes.writer import Writes
from milena_common.api.durability import Durability
from milena_common.limits.byte_budget import ByteBudget
from milena_common.runtime.key_locks import KeyLocks
from tests.support.conditions import made_conditions
from tests.support.fake_clock import FakeClock, settle
from tests.support.memory_disk import MemoryDisk
from tests.support.s3.memory_store import MemoryStore, WithMetadata, metadata_of

BUCKET = "bucket"
LINEAGE = "0123456789abcdef"
OTHER_LINEAGE = "fedcba9876543210"
# Windows one after the other: fresh to 100 s, grace to 110 s, keep to 160 s.
FRESHNESS = Freshness(ttl=100, jitter=0, grace=10, keep=50, stale_if_error=1000, negative_ttl=5)
SOON = 5.0
# From this age of a read of S3, who joins it has another one sent.
LATE = 3.0


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
    ) -> None:
        self._options = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.clock = clock or FakeClock()
        self.store = store or _store(self.clock)
        self.s3_clock = S3Clock()
        if (date := self.store.date()) is not None:
            self.s3_clock.observed(date - 0.5, self.clock.now(), self.clock.now())
        corrected = self.corrected = CorrectedClock(self.clock, self.s3_clock)
        self.disk = disk or MemoryDisk()
        self.budget = ByteBudget(10**6)
        self.buckets = buckets or Buckets(BUCKET)
        self.memory = Memory(max_entries, max_bytes)
        origin = Origin(
            self.store,
            corrected,
            lambda: 0.5,
            retries=0,
            concurrency=100,
            place_timeout=SOON,
            fresh=self.store,
            hedge_after=5.0,
        )
        fetches: SingleFlight[FetchResult] = SingleFlight(late_after=LATE)
        entries = Entries(self.memory, fetches, freshness, corrected)
        self.dirty = Dirty(dirty_max_bytes, dirty_memory_bytes)
        self.journal: Journal[DirtyEntry] = Journal(self.disk, self.clock, lineage)
        self.uploader = Uploader(origin, conditions or made_conditions(), self.journal.lineages)
        origin.observed = self.journal.learn
        reads = ReadCounts()
        self.writeback = WriteBack(
            self.dirty,
            self.journal,
            self.uploader,
            entries,
            KeyLocks(),
            self.buckets,
            reads,
            corrected,
            lambda: 0.5,
            self.budget,
            throttle=UploadThrottle(concurrency, lambda: 0.5),
            delay=delay,
            policy=policy,
            stuck_after=stuck_after,
        )
        self.writes = Writes(
            origin=origin,
            write_through=WriteThrough(
                self.uploader,
                self.journal,
                self.dirty,
                self.writeback,
                entries,
                corrected,
                lambda: 0.5,
                retries=0,
                put_timeout=0.002,
            ),
            journal=self.journal,
            dirty=self.dirty,
            writeback=self.writeback,
            entries=entries,
            clock=corrected,
            mode=mode,
            max_value_bytes=max_value_bytes,
        )
        self.node = Node(
            store=origin,
            memory=self.memory,
            fetches=fetches,
            entries=entries,
            dirty=self.dirty,
            writes=self.writes,
            reads=reads,
            freshness=freshness,
            buckets=self.buckets,
            clock=corrected,
            max_value_bytes=max_value_bytes,
            revalidate_timeout=revalidate_timeout,
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> Replay:
        """Replay the journal, and begin to write back."""
        found = await replay(self.journal, self.dirty, self.writeback, self.corrected, "memory")
        self._running = asyncio.create_task(self.writeback.run())
        await settle()
        return found

    async def crash(self) -> NodeUnderTest:
        """The process is killed, whatever it is at; the next one on the same disk, started."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        options = {**self._options, "disk": self.disk.after_crash(), "store": self.store, "clock": self.clock}
        after = NodeUnderTest(**options)
        await after.start()
        return after

    async def stop(self) -> None:
        """Break everything off."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.writeback.stop()
        await self.node.finish()
        await self.journal.close()

    async def flush(self, *keys: str, timeout: float = SOON) -> Flushed:
        filed = [self.object(key).cache_key for key in keys] if keys else None
        return await self.writeback.flush_waiters.wait_flushed(filed, timeout)

    def s3_has(self, key: str) -> bytes | None:
        return self.store.objects.get(Ref(BUCKET, key))

    def s3_tells(self, key: str) -> bytes | None:
        """What S3 has, unless that has come to its end."""
        found = self.s3_has(key)
        if found is None:
            return None
        ended = is_expired(expiry_of(metadata_of(found), Ref(BUCKET, key)), self.corrected.wall())
        return None if ended else found

    def ends(self, key: str) -> float:
        """When the object in S3 ends."""
        return expiry_of(metadata_of(self.store.objects[Ref(BUCKET, key)]), Ref(BUCKET, key))

    def another(self, lineage: str = LINEAGE) -> NodeUnderTest:
        """Another node in front of the same S3, memory and journal empty; by default of the same cluster."""
        options = {**self._options, "disk": None, "store": self.store, "clock": self.clock, "lineage": lineage}
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
