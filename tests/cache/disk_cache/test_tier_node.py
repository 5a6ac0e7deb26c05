"""A node with a disk cache: what it returns is what a node with more memory would, also over restarts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from milena_cache.jobs.sweep import INVALIDATE, PURGE, Plan, Sweep
from milena_cache.objects.entry import ENTRY_OVERHEAD
from milena_cache.objects.object_store import Fault
from milena_common.api.errors import MilenaError
from tests.behaviour.test_read_state_machine import KEYS, VALUES, NodeMachine
from tests.behaviour.test_write_state_machine import WriteMachine
from tests.cache.disk_cache.memory_files import MemoryFiles
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


class ReadMachine(NodeMachine):
    """The read machine over a node whose memory has room for two, with a disk cache, and restarts."""

    async def made(self) -> NodeUnderTest:
        t = NodeUnderTest(max_entries=2, max_bytes=2 * (ENTRY_OVERHEAD + 100), files=MemoryFiles())
        await t.start_disk_cache()
        return t

    @rule(keys=st.lists(KEYS, min_size=3, max_size=8))
    def read_many(self, keys: list[str]) -> None:
        for key in keys:
            self.read(key)
        self.run(run_ready_tasks())

    @rule()
    def the_node_is_killed_and_started(self) -> None:
        async def again() -> NodeUnderTest:
            before = self.t
            assert before.files is not None
            await before.stop()
            files = before.files.after_crash()
            # With its journal: without, a later write would have the version of one of the process before.
            options = {
                "store": before.store,
                "clock": before.clock,
                "files": files,
                "disk": before.disk.after_crash(),
            }
            after = NodeUnderTest(max_entries=2, max_bytes=2 * (ENTRY_OVERHEAD + 100), **options)  # type: ignore[arg-type]
            await after.start_disk_cache()
            return after

        self.t = self.run(again())
        self.reads = 0
        self.failed_before.clear()

    @rule(key=KEYS, value=st.none() | VALUES)
    def changed_by_others_and_refreshed(self, key: str, value: bytes | None) -> None:
        self.foreign_change(key, value)
        self.run(self.t.node.refresher.matching(lambda cache_key: cache_key == self.t.object(key).cache_key))
        self.floor[key] = len(self.history[key]) - 1

    @rule(key=KEYS, value=st.none() | VALUES)
    def changed_by_others_and_invalidated(self, key: str, value: bytes | None) -> None:
        self.foreign_change(key, value)
        self.t.node.invalidate_entry(self.t.object(key))
        self.floor[key] = len(self.history[key]) - 1


TestReads = ReadMachine.TestCase
TestReads.settings = settings(
    max_examples=15, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


class WriteBackMachine(WriteMachine):
    """The write machine, whose restarts are there, over a node with a disk cache."""

    def node(self) -> NodeUnderTest:
        return NodeUnderTest(
            mode="back",
            dirty_max_bytes=2200,
            dirty_memory_bytes=100,
            max_entries=1,
            concurrency=2,
            delay=0.5,
            files=MemoryFiles(),
        )


TestWrites = WriteBackMachine.TestCase
TestWrites.settings = settings(
    max_examples=6, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
async def t() -> AsyncIterator[NodeUnderTest]:
    t = NodeUnderTest(mode="back", max_entries=2, files=MemoryFiles())
    await t.start()
    yield t
    await t.stop()


async def on_disk(t: NodeUnderTest, key: str) -> None:
    """Have the key's entry on disk only."""
    assert t.parts.disk_cache is not None
    for _ in range(2):
        await t.get(key)
        for other in ("x", "y", "z", "w"):
            await t.get(other)
    await run_ready_tasks()
    cache_key = t.object(key).cache_key
    assert cache_key in t.parts.disk_cache
    assert cache_key not in t.memory


async def test_a_miss_in_memory_is_served_from_disk_without_s3(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    requests = t.store.count("get") + t.store.count("head")
    assert await t.outcome("k") == ("hit", b"value")
    assert await t.outcome("k") == ("hit", b"value")
    assert t.store.count("get") + t.store.count("head") == requests
    assert t.node.reads.hit_bytes >= 10


async def test_a_copy_past_its_ttl_is_revalidated_and_then_fresh(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.clock.tick(105)
    assert await t.outcome("k") == ("revalidated", b"value")
    for other in ("x", "y", "z", "w"):
        await t.get(other)
    assert t.object("k").cache_key not in t.memory
    assert await t.outcome("k") == ("hit", b"value")


async def test_what_s3_has_meanwhile_is_seen_when_the_ttl_is_over(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.in_s3("k", b"other")
    t.clock.tick(105)
    assert await t.outcome("k") == ("changed", b"other")


@pytest.mark.parametrize("durability", ["back", "through", "memory"])
@pytest.mark.parametrize("value", [b"new", None])
async def test_after_a_write_of_any_class_the_old_copy_is_not_seen_also_over_a_crash(
    t: NodeUnderTest, durability: str, value: bytes | None
) -> None:
    t.in_s3("k", b"old")
    await on_disk(t, "k")
    if value is None:
        await t.delete("k", durability=durability)  # type: ignore[arg-type]
    else:
        await t.put("k", value, durability=durability)  # type: ignore[arg-type]
    assert (await t.get("k")).entry.value == value
    await t.flush()
    for other in ("x", "y", "z", "w"):
        await t.get(other)
    assert (await t.get("k")).entry.value == value
    after = await t.crash()
    try:
        assert (await after.get("k")).entry.value == value
    finally:
        await after.stop()


async def test_after_a_restart_each_value_is_confirmed_by_s3_and_not_transferred(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    after = await t.crash()
    try:
        gets = after.store.count("get")
        assert await after.outcome("k") == ("revalidated", b"value")
        assert await after.outcome("k") == ("hit", b"value")
        assert after.store.count("get") == gets
        after.in_s3("x", b"changed")
        assert await after.outcome("x") == ("miss", b"changed") or after.store.count("get") > gets
    finally:
        await after.stop()


async def test_after_a_restart_nothing_is_served_that_s3_does_not_confirm(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    after = await t.crash()
    try:
        after.store.down = Fault.SERVER
        with pytest.raises(MilenaError):
            await after.get("k")
    finally:
        await after.stop()


async def test_a_copy_of_an_earlier_ownership_is_confirmed_by_s3(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.in_s3("k", b"of another owner")
    assert await t.outcome("k", owned_since=2) == ("changed", b"of another owner")


async def test_a_head_that_shows_another_version_drops_the_copy(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.in_s3("k", b"longer value")
    _, size = await t.node.exists(t.object("k"), SOON)
    assert size == len(b"longer value")
    assert await t.outcome("k") == ("miss", b"longer value")


async def test_a_version_that_s3_has_replaced_does_not_become_fresh_again(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.clock.tick(105)
    # Too large to take the place of the copy when it is evicted.
    t.in_s3("k", b"other" * 200)
    assert await t.outcome("k") == ("changed", b"other" * 200)
    for other in ("x", "y", "z", "w"):
        await t.get(other)
    t.parts.freshness.vouched = 10_000.0  # events of S3 make entries fresh for longer from now on
    assert (await t.get("k")).entry.value == b"other" * 200


@pytest.mark.parametrize("action", ["refresh", PURGE, INVALIDATE])
async def test_what_is_dropped_below_a_prefix_is_confirmed_by_s3_also_on_disk(
    t: NodeUnderTest, action: str
) -> None:
    t.in_s3("k", b"value")
    t.in_s3("same", b"same")
    await on_disk(t, "same")
    await on_disk(t, "k")
    t.in_s3("k", b"other")
    if action == "refresh":
        await t.node.refresher.matching(lambda _: True)
    else:
        for dry_run in (True, False):
            sweep = Sweep(
                Plan(action, "", b"", dry_run),
                lambda _: True,
                t.memory,
                t.parts.entries,
                t.parts.blocks.memory,
                t.dirty,
            )
            while sweep.step():
                pass
    t.clock.tick(1)
    assert await t.outcome("k") == ("changed", b"other")
    assert await t.outcome("same") == ("revalidated", b"same")
    assert await t.outcome("same") == ("hit", b"same")


async def test_a_write_while_the_disk_is_read_is_what_is_returned(t: NodeUnderTest) -> None:
    t.in_s3("k", b"old")
    await on_disk(t, "k")
    t.threads.held = []
    reading = asyncio.create_task(t.get("k"))
    await run_ready_tasks()
    writing = asyncio.create_task(t.put("k", b"new", durability="through"))
    await run_ready_tasks()
    t.threads.go()
    await writing
    await reading
    assert (await t.get("k")).entry.value == b"new"
    assert t.parts.disk_cache is not None
    assert t.object("k").cache_key not in t.parts.disk_cache


async def test_dirty_values_are_not_written_to_it(t: NodeUnderTest) -> None:
    t.store.write_gate.clear()
    t.in_s3("k", b"old")
    await t.get("k")
    await t.put("k", b"acknowledged, and only in the journal")
    for other in ("x", "y", "z", "w") * 2:
        await t.get(other)
        await t.get("k")
    await run_ready_tasks()
    assert t.files is not None
    assert b"acknowledged" not in b"".join(bytes(raw) for raw in t.files.contents.values())
    t.store.write_gate.set()


async def test_a_disk_that_fails_costs_nothing_but_its_hits(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    assert t.files is not None
    t.files.fail_at, t.files.forever = t.files.calls + 1, True
    assert await t.outcome("k") == ("miss", b"value")
    await t.put("k", b"new")
    assert (await t.get("k")).entry.value == b"new"
    assert t.parts.disk_cache is not None
    assert t.parts.disk_cache.degraded() == ["disk cache: switched off until the next start: Input/output error"]


async def test_a_large_object_that_s3_has_by_then_drops_the_copy(t: NodeUnderTest) -> None:
    t.in_s3("k", b"value")
    await on_disk(t, "k")
    t.in_s3("k", b"x" * 2_000_000)
    t.clock.tick(105)
    with pytest.raises(MilenaError):
        await t.get("k")
    assert t.parts.disk_cache is not None
    assert t.object("k").cache_key not in t.parts.disk_cache
