"""A follower of a key is notified before a reader gets another value: a client's own cache is never wrong.

The model has clients as a Redis server's client-side caching has them. One follows a key from the moment its read
begins, once: when the key has changed it forgets the value, and one whose key has changed before its reply came
does not keep that. So whatever a client still keeps must be what a read returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.objects.entry import ENTRY_OVERHEAD
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.object_store import Fault
from milena_cache.reads.reader import Node
from milena_common.api.errors import MilenaError
from tests.cache.node_under_test import FRESHNESS, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

T = TypeVar("T")

LARGE_VALUE = bytes(4 * ENTRY_OVERHEAD)
HELD_BACK = st.sampled_from(["gate", "read_gate", "write_gate"])
THERE = b"some value or other"  # as much as `exists` returns
FOREIGN = st.sampled_from([None, b"1", b"foreign", LARGE_VALUE])
KEYS = st.sampled_from(["a", "b", "c"])
CLASSES = st.sampled_from(["back", "through", "memory"])
LIFETIMES = st.none() | st.sampled_from([0.2, 1.0, 4.0, 100.0])


def followed(t: NodeUnderTest) -> list[bytes]:
    """The keys whose change is notified, from now on."""
    notified: list[bytes] = []
    t.node.change_feed.on_change = notified.append
    return notified


async def test_reads_of_the_same_and_an_upload_are_no_changes() -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    t.in_s3("k", b"v")
    notified = followed(t)
    for outcome in ("miss", "hit"):
        assert await t.outcome("k") == (outcome, b"v")
    t.clock.tick(120)
    assert await t.outcome("k") == ("revalidated", b"v")
    assert notified == []
    await t.put("k", b"w")
    assert set(notified) == {b"k"}
    notified.clear()
    assert (await t.flush()).flushed == 1
    assert await t.outcome("k") == ("hit", b"w")
    assert notified == []
    await t.stop()


async def test_every_way_to_another_value_is_notified() -> None:
    t = NodeUnderTest(max_entries=2)
    notified = followed(t)

    def returns() -> bool:
        keys = set(notified)
        notified.clear()
        return b"k" in keys

    t.in_s3("k", b"one")
    await t.get("k")
    assert not returns()
    t.in_s3("k", b"two")
    t.clock.tick(120)
    assert await t.outcome("k") == ("changed", b"two")
    assert returns(), "another ETag"
    t.in_s3("k", None)
    t.clock.tick(120)
    assert await t.outcome("k") == ("changed", None)
    assert returns(), "gone"
    await t.put("k", b"three", expires_at=t.clock.wall() + 50)
    assert returns(), "written"
    t.clock.tick(50)
    assert await t.outcome("k") == ("negative_hit", None)
    assert returns(), "its end"
    await run_ready_tasks()
    await t.put("k", b"four")
    returns()
    t.node.invalidate_entry(t.object("k"))
    assert returns(), "forgotten"
    await t.get("k")
    for other in ("a", "b", "c"):
        await t.get(other)
    assert returns(), "evicted"
    await t.delete("k")
    assert returns(), "deleted"


async def test_a_read_that_meets_the_end_of_a_fetch_is_notified_of_the_next_change() -> None:
    for iterations in range(15):
        t = NodeUnderTest(max_bytes=3 * (ENTRY_OVERHEAD + 60))
        t.in_s3("k", b"one")
        await t.get("k")
        t.in_s3("k", bytes(1400))  # too large for memory
        t.clock.tick(105)
        assert await t.outcome("k") == ("stale", b"one")
        for _ in range(iterations):
            await asyncio.sleep(0)
        notified = followed(t)
        await t.get("k")
        t.in_s3("k", None)
        await run_ready_tasks()
        await t.get("k")
        assert b"k" in notified, iterations
        await t.stop()


async def test_a_drop_by_an_operator_and_a_conflict_are_notified() -> None:
    t = NodeUnderTest(mode="back", policy="keep-both")
    await t.start()
    t.in_s3("k", b"theirs")
    await t.get("k")
    await t.put("k", b"ours")
    t.in_s3("k", b"theirs, later")
    notified = followed(t)
    await t.flush()
    assert await t.outcome("k") == ("miss", b"theirs, later")
    assert notified == [b"k"]
    notified.clear()
    t.store.reject = lambda operation, _: Fault.REJECTED if operation == "put" else None
    await t.put("k", b"refused")
    await t.flush()
    notified.clear()
    assert await t.parts.dead_letters.drop(None) == 1
    assert notified == [b"k"]
    await t.stop()


def test_expiries_are_notified_when_they_are_due_and_the_number_kept_is_bounded() -> None:
    feed = ChangeFeed(max_expiries=2)
    notified: list[bytes] = []
    feed.on_change = notified.append
    assert feed.expect_expiry(b"late", 30.0)
    assert feed.expect_expiry(b"early", 10.0)
    assert not feed.expect_expiry(b"one too many", 20.0)
    assert feed.due(9.9) == 0
    assert feed.due(10.0) == 1
    assert notified == [b"early"]
    assert feed.expect_expiry(b"middle", 20.0)
    assert feed.due(100.0) == 2
    assert notified == [b"early", b"middle", b"late"]
    assert feed.due(100.0) == 0


def test_without_followers_nothing_is_kept() -> None:
    feed = ChangeFeed()
    feed.notify(b"k")
    assert feed.due(100.0) == 0


class ChangesMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.number = 0
        self.epoch = 1
        self.reads = 0
        self.following: dict[int, bytes] = {}
        self.kept: dict[int, tuple[bytes, bytes | None]] = {}

        async def make() -> NodeUnderTest:
            t = NodeUnderTest(
                mode="back",
                dirty_max_bytes=2200,
                dirty_memory_bytes=100,
                max_entries=2,
                max_bytes=3 * (ENTRY_OVERHEAD + 60),
                concurrency=2,
                delay=0.5,
                policy="fail",
            )
            await t.start()
            return t

        self.t = self.run(make())
        self.follow(self.t.node)

    def follow(self, node: Node) -> None:
        """What was known of before belongs to a node that is no more, or to slots that were another's."""
        self.following.clear()
        self.kept.clear()
        node.change_feed.on_change = self.changed

    def changed(self, key: bytes) -> None:
        self.following = {client: about for client, about in self.following.items() if about != key}
        self.kept = {client: about for client, about in self.kept.items() if about[0] != key}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.t.stop())
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def value(self) -> bytes:
        self.number += 1
        return b"%d" % (self.number % 4)  # the same bytes come again

    async def read(self, key: str) -> bytes | None:
        """One client's read; what it returned."""
        self.reads += 1
        client, cache_key = self.reads, self.t.object(key).cache_key
        self.following[client] = cache_key
        try:
            value = (await self.t.get(key, self.epoch)).entry.value
        except MilenaError:
            self.following.pop(client, None)
            raise
        if self.following.pop(client, None) is not None:
            self.kept[client] = (cache_key, value)
        return value

    def check(self, key: str, value: bytes | None) -> None:
        for about, kept in self.kept.values():
            if about == self.t.object(key).cache_key:
                agree = (kept is None) == (value is None) if THERE in (kept, value) else kept == value
                assert agree, (key, kept, value)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        async def read_and_check() -> None:
            with suppress(MilenaError):
                self.check(key, await self.read(key))  # before anything else of the node runs

        self.run(read_and_check())

    @rule(key=KEYS)
    def exists(self, key: str) -> None:
        self.reads += 1
        client, cache_key = self.reads, self.t.object(key).cache_key
        self.following[client] = cache_key

        async def look_and_check() -> None:
            with suppress(MilenaError):
                reply, _ = await self.t.node.exists(self.t.object(key), 5, self.epoch)
                there = THERE if reply.entry.value is not None else None
                self.check(key, there)
                if self.following.pop(client, None) is not None:
                    self.kept[client] = (cache_key, there)

        self.run(look_and_check())

    async def write(self, key: str, value: bytes | None, durability: Any, seconds: float | None) -> None:
        expires_at = NEVER if seconds is None else self.t.clock.wall() + seconds
        with suppress(MilenaError):
            if value is None:
                await self.t.delete(key, self.epoch, durability)
            else:
                await self.t.put(key, value, self.epoch, durability=durability, expires_at=expires_at)

    @rule(key=KEYS, durability=CLASSES, seconds=LIFETIMES)
    def put(self, key: str, durability: str, seconds: float | None) -> None:
        self.run(self.write(key, self.value(), durability, seconds))

    @rule(key=KEYS, durability=CLASSES)
    def put_large(self, key: str, durability: str) -> None:
        self.run(self.write(key, self.value() + LARGE_VALUE, durability, None))

    @rule(key=KEYS, durability=CLASSES)
    def delete(self, key: str, durability: str) -> None:
        self.run(self.write(key, None, durability, None))

    @rule(key=KEYS, seconds=LIFETIMES)
    def expire(self, key: str, seconds: float | None) -> None:
        expires_at = NEVER if seconds is None else self.t.clock.wall() + seconds
        with suppress(MilenaError):
            self.run(self.t.node.expire(self.t.object(key), expires_at, 5, self.epoch))

    @rule(
        key=KEYS,
        durability=CLASSES,
        delete=st.booleans(),
        hold=HELD_BACK,
    )
    def reads_and_writes_at_once(self, key: str, durability: str, delete: bool, hold: str) -> None:
        async def overlap() -> None:
            getattr(self.t.store, hold).clear()
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self.read(key))]
            await run_ready_tasks()
            tasks.append(asyncio.create_task(self.write(key, None if delete else self.value(), durability, None)))
            tasks.append(asyncio.create_task(self.read(key)))
            await run_ready_tasks()
            tasks.append(asyncio.create_task(self.read(key)))
            getattr(self.t.store, hold).set()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(overlap())

    @rule(key=KEYS, value=FOREIGN)
    def foreign_change(self, key: str, value: bytes | None) -> None:
        self.t.in_s3(key, value)

    @rule(key=KEYS, value=FOREIGN, seconds=st.sampled_from([0.0, 6.0, 105.0, 130.0, 170.0]), push_out=st.booleans())
    def changed_behind_the_node(self, key: str, value: bytes | None, seconds: float, push_out: bool) -> None:
        """Between two reads of it; others may come in between, for which there is no room."""
        self.get(key)
        self.t.in_s3(key, value)
        for other in "abc" if push_out else "":
            if other != key:
                self.get(other)
        self.t.clock.tick(seconds)
        self.get(key)

    @rule(key=KEYS, durability=CLASSES, seconds=st.sampled_from([0.3, 1.0]), flush=st.booleans())
    def comes_to_its_end(self, key: str, durability: str, seconds: float, flush: bool) -> None:
        self.run(self.write(key, self.value(), durability, seconds))
        self.get(key)
        if flush:
            self.run(self.t.clock.advance(0.7))
            self.get(key)
        self.t.clock.tick(seconds)
        self.get(key)

    @rule(key=KEYS)
    def invalidate(self, key: str) -> None:
        self.t.node.invalidate_entry(self.t.object(key))

    @rule(seconds=st.sampled_from([0.3, 1.0, 6.0, 105.0, 130.0, 170.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.t.clock.advance(seconds))

    @rule(seconds=st.sampled_from([0.3, 6.0, FRESHNESS.ttl]))
    def time_passes_and_nothing_else(self, seconds: float) -> None:
        self.t.clock.tick(seconds)

    @rule(fault=st.sampled_from([Fault.CONNECT, Fault.TIMEOUT, Fault.REJECTED]), times=st.integers(1, 3))
    def s3_fails_some_requests(self, fault: Fault, times: int) -> None:
        self.t.store.fail(fault, times=times, after_effect=fault.ambiguous)

    @rule()
    def s3_goes(self) -> None:
        self.t.store.down = Fault.CONNECT

    @rule()
    def s3_comes(self) -> None:
        self.t.store.recover()

    @rule(retry=st.booleans())
    def dead_letters_are_resolved(self, retry: bool) -> None:
        dead_letters = self.t.parts.dead_letters
        self.run(dead_letters.retry(None) if retry else dead_letters.drop(None))

    @rule()
    def the_slots_go_away_and_come_back(self) -> None:
        self.epoch += 2
        self.follow(self.t.node)

    @rule()
    def crash(self) -> None:
        self.t = self.run(self.t.crash())
        self.follow(self.t.node)


TestChanges = pytest.mark.timeout(300)(ChangesMachine.TestCase)
TestChanges.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
