"""A node over fakes, as the tests of its policy need it."""

from __future__ import annotations

from milena_cache.buckets import Buckets, Object
from milena_cache.freshness import Freshness
from milena_cache.memory import Memory
from milena_cache.node import Node, Reply
from milena_cache.origin import Origin
from milena_cache.store import Ref
from tests.support.fake_clock import FakeClock
from tests.support.memory_store import MemoryStore

BUCKET = "bucket"
# Windows one after the other: fresh to 100 s, grace to 110 s, keep to 160 s.
FRESHNESS = Freshness(ttl=100, jitter=0, grace=10, keep=50, stale_if_error=1000, negative_ttl=5)
SOON = 5.0


class NodeUnderTest:
    """The parts, and shorthands that take keys as text."""

    def __init__(
        self,
        *,
        freshness: Freshness = FRESHNESS,
        max_entries: int = 100,
        max_bytes: int = 10**6,
        max_value_bytes: int = 10**6,
        revalidate_timeout: float = 0.02,
        buckets: Buckets | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(BUCKET, "other-bucket")
        self.buckets = buckets or Buckets(BUCKET)
        self.memory = Memory(max_entries, max_bytes)
        self.node = Node(
            store=self.store,
            writer=Origin(self.store, self.clock, lambda: 0.5, retries=0, concurrency=100, place_timeout=SOON),
            memory=self.memory,
            freshness=freshness,
            buckets=self.buckets,
            clock=self.clock,
            max_value_bytes=max_value_bytes,
            revalidate_timeout=revalidate_timeout,
        )

    def object(self, key: str) -> Object:
        return self.buckets.resolve("", key.encode())

    async def get(self, key: str, owned_since: int = 0, timeout: float = SOON) -> Reply:
        return await self.node.get(self.object(key), timeout, owned_since)

    async def outcome(self, key: str, owned_since: int = 0) -> tuple[str, bytes | None]:
        reply = await self.get(key, owned_since)
        return reply.outcome, reply.entry.value

    async def put(self, key: str, value: bytes, owned_since: int = 0, timeout: float = SOON) -> str:
        return await self.node.put(self.object(key), value, timeout, owned_since)

    async def delete(self, key: str, owned_since: int = 0) -> None:
        await self.node.delete(self.object(key), SOON, owned_since)

    def in_s3(self, key: str, value: bytes | None) -> None:
        """Change the object behind the node's back."""
        if value is None:
            self.store.objects.pop(Ref(BUCKET, key), None)
        else:
            self.store.objects[Ref(BUCKET, key)] = value
