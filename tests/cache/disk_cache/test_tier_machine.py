"""The disk cache against a model: whatever is evicted, dropped, doubted, lost or restarted.

The model has, for each key, the version that may be returned without S3, and all versions that ever were: what is
returned to be confirmed by S3 may be any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import inf
from typing import Any, NamedTuple, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.cache.disk_cache.test_tier import MAX, CacheUnderTest

T = TypeVar("T")

KEYS = st.sampled_from([b"%d" % number for number in range(5)])
SIZES = st.sampled_from([0, 5, 200, 700])


class Version(NamedTuple):
    """A version of an object, which S3 has confirmed at a time, in an ownership since an epoch."""

    number: int
    size: int
    confirmed: float
    owned_since: int

    @property
    def value(self) -> bytes:
        return b"%06d" % self.number + b"v" * self.size


class TierMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.current: dict[bytes, Version] = {}
        self.ever: dict[bytes, set[bytes]] = {}
        self.doubted = -inf
        self.t = self.run(self.started())

    async def started(self) -> CacheUnderTest:
        return await CacheUnderTest().start()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.t.stop())
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(
        key=KEYS, size=SIZES, again=st.booleans(), proven=st.booleans(), kept=st.booleans(), epoch=st.integers(1, 3)
    )
    def evicted(self, key: bytes, size: int, again: bool, proven: bool, kept: bool, epoch: int) -> None:
        """Memory gets a version from S3, the one that it had or a new one, and evicts it."""
        now = self.t.clock.now()
        before = self.current.get(key)
        if again and before is not None:
            version = before._replace(confirmed=now, owned_since=epoch)
        else:
            self.number += 1
            version = Version(self.number, size, now, epoch)
        entry = self.t.entry(version.value, f'"{version.number}"', epoch)
        self.t.cache.confirmed(key, entry)
        self.current[key] = version
        self.ever.setdefault(key, set()).add(version.value)
        if not kept:
            self.t.cache.evicted(key, entry, proven)

    @rule(key=KEYS)
    def dropped(self, key: bytes) -> None:
        self.t.cache.forget(key)
        self.current.pop(key, None)

    @rule(key=KEYS)
    def read(self, key: bytes) -> None:
        self.t.threads.go()
        found = self.run(self.t.cache.read_copy(key))
        if found is None:
            return
        assert found.value in self.ever[key]
        if found.owned_since == -1:
            assert found.checked_at == -inf
            return
        version = self.current[key]
        assert found.value == version.value
        assert found.etag == f'"{version.number}"'
        assert found.owned_since <= version.owned_since or found.checked_at <= version.confirmed
        assert self.doubted < found.checked_at + 0.2
        assert found.checked_at <= version.confirmed

    @rule()
    def all_is_written(self) -> None:
        self.run(self.t.run_all())

    @rule(seconds=st.sampled_from([0.05, 1.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.t.clock.tick(seconds)

    @rule()
    def all_is_doubted(self) -> None:
        self.t.cache.doubt_all()
        self.doubted = self.t.clock.now()
        self.t.clock.tick(0.3)

    @rule(close=st.booleans(), bit=st.none() | st.integers(0, 2**20))
    def restarted(self, close: bool, bit: int | None) -> None:
        if close:
            self.t.threads.go()
        self.run(self.t.stop(close=close))
        files = self.t.files.after_crash()
        if bit is not None and files.contents:
            raw = list(files.contents.values())[bit % len(files.contents)]
            if raw:
                raw[bit // 8 % len(raw)] ^= 1 << bit % 8

        async def again() -> CacheUnderTest:
            return await CacheUnderTest(files, clock=self.t.clock).start()

        self.t = self.run(again())

    @rule(held=st.booleans())
    def the_disk_is_slow(self, held: bool) -> None:
        if held and self.t.threads.held is None:
            self.t.threads.held = []
        else:
            self.t.threads.go()

    @rule(key=KEYS, other=KEYS, replaced=st.booleans())
    def dropped_while_it_is_written(self, key: bytes, other: bytes, replaced: bool) -> None:
        self.t.threads.go()
        self.t.threads.held = []
        self.evicted(key, 5, False, True, False, 1)
        self.run(self.t.run_all())
        self.dropped(other)
        if replaced:
            self.evicted(other, 200, False, True, False, 1)
        self.t.threads.go()
        self.run(self.t.run_all())
        self.read(key)
        self.read(other)

    @rule(key=KEYS, replaced=st.booleans())
    def dropped_while_it_is_read(self, key: bytes, replaced: bool) -> None:
        self.t.threads.go()
        self.run(self.t.run_all())

        async def overlap() -> None:
            self.t.threads.held = []
            reading = asyncio.create_task(self.t.cache.read_copy(key))
            await self.t.run_all()
            if reading.done():  # there is none
                self.t.threads.go()
                return
            self.dropped(key)
            if replaced:
                self.evicted(key, 5, False, True, False, 1)
            self.t.threads.go()
            assert await reading is None

        self.run(overlap())

    @rule(count=st.integers(10, 60))
    def many_others(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.t.cache.evicted(b"other %d" % self.number, self.t.entry(), True)
        self.run(self.t.run_all())

    @invariant()
    def it_is_bounded(self) -> None:
        if not hasattr(self, "t"):
            return
        assert self.t.cache.works
        assert sum(len(raw) for raw in self.t.files.contents.values()) <= MAX
        assert 0 <= self.t.cache.queue.bytes <= self.t.cache.queue.max_bytes


TierMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestTier = TierMachine.TestCase
