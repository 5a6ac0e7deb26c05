"""Conditional writes that wait while an earlier write of their key is uploaded."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.api.errors import DeadlineExceeded, Unavailable
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


@pytest.mark.parametrize("max_bytes", [10**6, 0], ids=["kept in memory", "not kept"])
async def test_a_write_over_a_delete_that_is_uploaded_meanwhile_takes_it_for_no_foreign_one(max_bytes: int) -> None:
    t = NodeUnderTest(mode="back", max_bytes=max_bytes)
    await t.start()
    await t.put("k", b"old", durability="through")
    await t.delete("k")
    t.store.write_gate.clear()
    flushing = asyncio.create_task(t.flush("k"))
    await t.clock.advance(2)
    await t.store.arrived("delete")
    writing = asyncio.create_task(t.put("k", b"new", durability="through", if_none_match="*"))
    await run_ready_tasks()
    t.store.write_gate.set()
    await t.clock.advance(SOON)
    assert (await writing).durability == "through"
    await flushing
    assert t.s3_has("k") == b"new"
    await t.stop()


async def test_a_write_over_a_put_that_is_uploaded_meanwhile_takes_it_for_no_foreign_one() -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    first = await t.put("k", b"first", durability="through")
    second = await t.put("k", b"second", if_match=first.etag)
    t.store.write_gate.clear()
    flushing = asyncio.create_task(t.flush("k"))
    await t.clock.advance(2)
    await t.store.arrived("put", 2)
    writing = asyncio.create_task(t.put("k", b"third", durability="through", if_match=second.etag))
    await run_ready_tasks()
    t.store.write_gate.set()
    await t.clock.advance(SOON)
    assert (await writing).durability == "through"
    await flushing
    assert t.s3_has("k") == b"third"
    await t.stop()


async def full() -> NodeUnderTest:
    """A node whose journal has the record of `k`, and no room, not even to remove it."""
    t = NodeUnderTest(mode="back", delay=1000.0)
    await t.start()
    await t.put("k", b"before")
    t.disk.capacity = 0
    return t


async def test_a_put_that_expires_is_not_acknowledged_while_the_record_before_it_cannot_be_removed() -> None:
    """Otherwise it expires and is deleted, which leaves no version in S3, and a crash brings the record back."""
    t = await full()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await t.put("k", b"expires", expires_at=t.corrected.wall() + 0.2, timeout=0.1)
    assert t.s3_has("k") == b"expires"
    assert (await t.put("k", b"stays", timeout=5.0)).durability == "through"
    t = await t.crash()
    await t.stop()


async def test_a_delete_whose_earlier_record_cannot_be_removed_is_not_seen_and_then_undone_by_a_crash() -> None:
    t = await full()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await t.delete("k", timeout=0.1)
    assert t.s3_has("k") is None
    assert await t.outcome("k") == ("hit", b"before")
    t = await t.crash()
    assert await t.outcome("k") == ("hit", b"before")
    await t.stop()


async def test_a_delete_does_not_begin_while_a_crash_could_bring_back_what_s3_had() -> None:
    """The put is in S3, and its record still in the journal: a read after the delete would find nothing."""
    t = await full()
    await t.clock.advance(1001)
    assert t.s3_has("k") == b"before"
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await t.delete("k", timeout=0.1)
    assert t.s3_has("k") == b"before"
    t = await t.crash()
    assert (await t.outcome("k"))[1] == b"before"
    await t.stop()


async def test_a_delete_that_was_not_carried_out_for_want_of_room_is_when_there_is_room() -> None:
    t = await full()
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await t.delete("k", timeout=0.1)
    t.disk.capacity = None
    await t.clock.advance(2)
    await t.delete("k")
    assert (await t.outcome("k"))[1] is None
    t = await t.crash()
    assert (await t.outcome("k"))[1] is None
    await t.stop()
