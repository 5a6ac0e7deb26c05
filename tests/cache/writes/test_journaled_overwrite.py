"""The short way of writes in the class `memory`: when a value may simply take the place of another."""

from __future__ import annotations

import asyncio
import random

import pytest

from milena_cache.objects.object_store import Fault
from milena_cache.objects.write_request import Ack, Change
from milena_common.api.durability import Durability
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def started(mode: Durability = "memory", **options: object) -> NodeUnderTest:
    t = NodeUnderTest(mode=mode, **options)  # type: ignore[arg-type]
    await t.start()
    return t


def overwritten(t: NodeUnderTest, value: bytes, owned_since: int = 0) -> bool:
    return t.writes.overwrite_many([b"k"], [value], [owned_since]) == 1


def budgets_are_exact(t: NodeUnderTest) -> None:
    entries = t.dirty.values()
    assert t.dirty.bytes == sum(entry.cost for entry in entries)
    assert t.dirty.memory_bytes == sum(len(entry.value or b"") for entry in entries)
    assert t.dirty.pending_before(10**9) == len(t.dirty)


async def test_what_waits_for_its_upload_in_memory_takes_another_value() -> None:
    t = await started()
    assert not overwritten(t, b"none is there")
    await t.put("k", b"1")
    entry = t.dirty.get(b"k")
    assert overwritten(t, b"longer")
    assert overwritten(t, b"2")
    assert t.dirty.get(b"k") is entry
    assert (await t.get("k")).entry.value == b"2"
    assert t.writes.acknowledged["memory"] == 3
    budgets_are_exact(t)
    assert (await t.flush("k")).flushed == 1
    assert t.s3_has("k") == b"2"
    assert t.store.count("put") == 1
    assert not overwritten(t, b"there is none any more")
    await t.stop()


async def test_an_overwrite_with_a_stronger_class_is_durable() -> None:
    t = await started("back")
    await t.put("k", b"1", durability="memory")
    assert not overwritten(t, b"2")
    await t.put("k", b"2")
    assert (await (await t.crash()).get("k")).entry.value == b"2"


@pytest.mark.parametrize("between", [False, True])
async def test_what_the_journal_has_stays_there(between: bool) -> None:
    t = await started()
    await t.put("k", b"1", durability="back")
    for value in (b"2", b"3") if between else (b"2",):
        assert not overwritten(t, value)
        await t.put("k", value)
    assert (await t.get("k")).entry.value == (b"3" if between else b"2")
    await t.journal.sync_barrier()
    after = await t.crash()
    assert (await after.get("k")).entry.value == b"1"
    await after.stop()


async def test_what_is_being_uploaded_stays_as_it_is() -> None:
    t = await started()
    await t.put("k", b"1")
    t.store.gate.clear()
    await t.clock.advance(2)
    await t.store.arrived("put")
    assert not overwritten(t, b"2")
    await t.put("k", b"2")
    t.store.gate.set()
    await run_ready_tasks()
    assert t.s3_has("k") == b"1"
    assert (await t.get("k")).entry.value == b"2"
    await t.clock.advance(2)
    assert t.s3_has("k") == b"2"
    await t.stop()


async def test_an_end_does_not_pass_to_another_value() -> None:
    t = await started()
    await t.put("k", b"1", expires_at=t.clock.wall() + 0.5)
    assert not overwritten(t, b"2")
    await t.put("k", b"2")
    await t.clock.advance(3)
    assert (await t.get("k")).entry.value == b"2"
    await t.stop()


async def test_a_delete_and_a_write_on_a_condition_are_decided_the_long_way() -> None:
    t = await started()
    await t.delete("k")
    assert not overwritten(t, b"1")
    await t.put("l", b"1", if_none_match="*")
    assert not t.writes.overwrite_many([b"l"], [b"2"], [0])
    await t.stop()


async def test_a_dead_letter_is_requeued_by_the_full_path() -> None:
    t = await started()
    t.store.reject = lambda operation, ref: Fault.DENIED if operation == "put" else None
    await t.put("k", b"1")
    await t.clock.advance(2)
    assert t.dirty.dead_letters == 1
    t.store.reject = None
    assert not overwritten(t, b"2")
    await t.put("k", b"2")
    await t.clock.advance(2)
    assert t.s3_has("k") == b"2"
    assert t.dirty.dead_letters == 0
    await t.stop()


async def test_what_is_from_an_earlier_ownership_or_in_doubt_is_not_taken_over() -> None:
    t = await started()
    await t.put("k", b"1", owned_since=3)
    assert not overwritten(t, b"2", owned_since=5)
    assert overwritten(t, b"2", owned_since=3)
    t.node.invalidate_entry(t.object("k"))
    assert not overwritten(t, b"3", owned_since=3)
    await t.stop()


async def test_an_overwrite_does_not_overtake_an_earlier_write() -> None:
    t = await started()
    await t.put("k", b"1")
    async with t.writes.lock(b"k", SOON):
        assert not overwritten(t, b"2")
    begun = t.writes.begin(Change(t.object("k"), b"2"), "through", SOON)
    assert not isinstance(begun, Ack)
    assert not overwritten(t, b"3")
    await begun
    await t.stop()


async def test_at_a_limit_or_at_the_end_it_is_decided_the_long_way() -> None:
    t = await started(max_value_bytes=4000, dirty_memory_bytes=3000, dirty_max_bytes=5000)
    await t.put("k", b"1" * 2000)
    await t.put("other", b"1" * 900)
    assert not overwritten(t, b"2" * 2500)
    assert overwritten(t, b"2" * 2100)
    assert not overwritten(t, b"2" * 4001)
    assert overwritten(t, b"")
    budgets_are_exact(t)
    t.writes.draining = True
    assert not overwritten(t, b"3")
    await t.stop()


async def test_the_budgets_stay_exact() -> None:
    rng = random.Random(1)
    t = await started(dirty_memory_bytes=3000, dirty_max_bytes=6000)
    for _ in range(400):
        size = rng.choice((0, 1, 500, 1500, 3000))
        if not overwritten(t, bytes(size)):
            durability: Durability = rng.choice(("memory", "back"))
            await t.put("k", bytes(size), durability=durability)
        if rng.random() < 0.1:
            await t.clock.advance(2)
        budgets_are_exact(t)
    await t.flush()
    assert (t.dirty.bytes, t.dirty.memory_bytes) == (0, 0)
    await t.stop()


async def test_a_run_of_overwrites_has_the_effects_of_each() -> None:
    t = await started(dirty_memory_bytes=4000)
    changed: list[bytes] = []
    t.memory.change_feed.on_change = changed.append
    keys = [b"k", b"l", b"k", b"m", b"none", b"k"]
    for key in ("k", "l", "m"):
        await t.put(key, b"1")
    before = t.dirty.get(b"m").version  # type: ignore[union-attr]
    changed.clear()
    assert t.writes.overwrite_many(keys, [b"a", b"bb", b"ccc", b"d", b"e", b"f"], [0] * 6) == 4
    assert changed == keys[:4]
    values = {entry.key: entry.value for entry in t.dirty.values()}
    assert values == {b"k": b"ccc", b"l": b"bb", b"m": b"d"}
    versions = [t.dirty.get(key).version for key in (b"l", b"k", b"m")]  # type: ignore[union-attr]
    assert before < versions[0] < versions[1] < versions[2]
    assert t.writes.acknowledged["memory"] == 3 + 4
    budgets_are_exact(t)
    # Not all of them fit, and none is written over the limit.
    assert t.writes.overwrite_many([b"k", b"l"], [bytes(3000), bytes(3000)], [0, 0]) == 0
    assert t.writes.overwrite_many([b"k", b"l"], [b"1", bytes(10**6 + 1)], [0, 0]) == 1
    assert t.writes.overwrite_many([b"k", b"l"], [bytes(10**6 + 1), b"1"], [0, 0]) == 0
    assert t.writes.overwrite_many([b"k", b"l"], [bytes(3000), b"23"], [0, 0], 1) == 1
    assert {entry.key: entry.value for entry in t.dirty.values()} == {b"k": b"1", b"l": b"23", b"m": b"d"}
    budgets_are_exact(t)
    await t.stop()


async def test_a_run_of_overwrites_stops_at_a_key_whose_lock_is_taken() -> None:
    t = await started()
    for key in ("k", "l"):
        await t.put(key, b"1")
    t.store.gate.clear()
    through = asyncio.create_task(t.put("l", b"2", durability="through"))
    await run_ready_tasks()
    assert t.writes.overwrite_many([b"k", b"l"], [b"3", b"3"], [0, 0]) == 1
    t.store.gate.set()
    await through
    assert t.s3_has("l") == b"2"
    await t.stop()
