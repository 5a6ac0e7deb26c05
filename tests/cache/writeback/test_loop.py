"""When dirty entries are uploaded, and what an upload takes beside its entry."""

from __future__ import annotations

from milena_cache.objects.object_store import Fault
from tests.cache.node_under_test import NodeUnderTest

SIZE = 900


async def test_a_value_that_is_read_back_from_the_journal_is_in_flight_while_it_is_uploaded() -> None:
    t = NodeUnderTest(mode="back", concurrency=8, delay=0.1, dirty_memory_bytes=SIZE, dirty_max_bytes=10**6)
    await t.start()
    t.store.reject = lambda operation, ref: Fault.DENIED if ref.key == "in memory" else None
    await t.put("in memory", b"v" * SIZE)
    await t.clock.advance(1)
    assert [entry.key for entry in t.dirty.dead()] == [b"in memory"]
    assert t.budget.used == 0
    await t.put("in the journal", b"v" * SIZE)
    assert t.dirty.memory_bytes == SIZE
    t.store.gate.clear()
    await t.clock.advance(1)
    assert t.budget.used == SIZE
    t.store.gate.set()
    await t.clock.advance(5)
    assert t.s3_has("in the journal") == b"v" * SIZE
    assert t.budget.used == 0
    await t.stop()


async def test_a_flush_without_time_uploads_nothing_early() -> None:
    t = NodeUnderTest(mode="back", delay=60)
    await t.start()
    await t.put("k", b"v")
    assert (await t.flush(timeout=0)).remaining == 1
    await t.clock.advance(1)
    assert t.s3_has("k") is None
    assert (await t.flush()).flushed == 1
    await t.stop()


async def test_a_write_that_is_not_due_when_the_last_slot_gets_free_is_uploaded_when_it_is() -> None:
    t = NodeUnderTest(mode="back", concurrency=1, delay=1)
    await t.start()
    t.store.gate.clear()
    await t.put("in flight", b"v")
    await t.put("waits for the slot", b"v")
    await t.clock.advance(1.5)
    assert t.writeback.uploads == 1
    await t.put("not due", b"v")
    t.store.gate.set()
    await t.clock.advance(0.5)
    assert [*t.dirty] == [b"not due"]
    await t.clock.advance(1)
    assert t.s3_has("not due") == b"v"
    await t.stop()


async def test_an_upload_changes_nothing_in_s3_once_another_node_may_own_the_key() -> None:
    """It looks at S3, the process is paused for longer than its lease, and the new owner deletes the key."""
    t = NodeUnderTest(mode="back", delay=0.1)
    await t.start()
    t.uploader.conditions.trusts = lambda condition: False  # so that it looks first
    await t.put("k", b"v")
    t.store.gate.clear()
    await t.clock.advance(1)
    await t.store.arrived("head")
    elsewhere = {b"k"}
    t.writeback.holds_back = elsewhere.__contains__
    t.store.gate.set()
    await t.clock.advance(5)
    assert t.s3_has("k") is None
    assert list(t.dirty) == [b"k"]
    elsewhere.clear()
    t.writeback.requeue_held_back()
    await t.clock.advance(5)
    assert t.s3_has("k") == b"v"
    await t.stop()
