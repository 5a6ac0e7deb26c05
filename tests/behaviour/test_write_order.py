"""What must not be lost or overtaken on the way from the journal to S3, step by step."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.write_request import ENTRY_OVERHEAD
from milena_common.api.errors import FailedPrecondition
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


async def test_a_key_has_one_upload_at_a_time() -> None:
    t = await started()
    t.store.gate.clear()
    await t.put("k", b"1")
    await t.clock.advance(2)
    await t.put("k", b"2")
    await t.clock.advance(2)
    through = asyncio.create_task(t.put("k", b"3", durability="through"))
    await run_ready_tasks()
    await t.clock.advance(2)
    assert t.store.calls == [("put", "k")], "the others wait for the first"
    t.store.gate.set()
    assert (await through).durability == "through"
    await t.clock.advance(5)
    assert t.s3_has("k") == b"3"
    assert len(t.dirty) == 0


async def test_an_upload_that_ends_late_does_not_take_a_newer_write_with_it() -> None:
    t = await started()
    t.store.write_gate.clear()
    await t.put("k", b"1")
    await t.clock.advance(2)
    await t.put("k", b"2")
    t.store.write_gate.set()
    await t.clock.advance(0.1)
    assert await t.outcome("k") == ("hit", b"2")
    t = await t.crash()
    await t.clock.advance(5)
    assert t.s3_has("k") == b"2"


async def test_a_record_stays_until_s3_has_its_write() -> None:
    t = await started()
    t.store.gate.clear()
    await t.put("k", b"v")
    await t.clock.advance(2)
    assert t.store.calls == [("put", "k")]
    t = await t.crash()
    t.store.gate.set()
    assert t.s3_has("k") is None
    await t.clock.advance(5)
    assert t.s3_has("k") == b"v"


async def test_of_two_records_of_a_key_the_later_one_counts() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"1")
    await t.put("gone", b"1")
    older = dict(t.disk.committed.records)
    await t.put("k", b"2")
    await t.delete("gone")
    t.disk.committed.records |= older  # a crash came before they were taken out
    t = await t.crash()
    t.store.down = None
    assert await t.outcome("k") == ("hit", b"2")
    assert await t.outcome("gone") == ("negative_hit", None)
    await t.clock.advance(30)
    assert t.s3_has("k") == b"2"
    assert t.s3_has("gone") is None


@pytest.mark.parametrize("fault", [Fault.INCOMPLETE, Fault.TIMEOUT])
@pytest.mark.parametrize("known", [False, True])
async def test_a_lost_response_is_no_conflict(known: bool, fault: Fault) -> None:
    t = await started(policy="fail")
    if known:
        await t.put("k", b"1")
        await t.flush()
    await t.put("k", b"2")
    t.store.fail(fault, after_effect=True)
    await t.clock.advance(30)
    assert t.s3_has("k") == b"2"
    assert t.uploader.conflicts["fail"] == 0
    assert len(t.dirty) == 0
    assert t.writeback.results["already"] == 1


async def test_a_change_by_another_writer_is_noticed() -> None:
    t = await started(policy="fail")
    await t.put("k", b"1")
    await t.flush()
    await t.put("k", b"2")
    t.in_s3("k", b"theirs")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"theirs"
    assert t.uploader.conflicts["fail"] == 1
    assert await t.outcome("k") == ("hit", b"2")


async def test_a_write_that_s3_rejects_for_good_is_kept_and_read_until_it_is_retried() -> None:
    def denied(operation: str, ref: Ref) -> Fault | None:
        return Fault.DENIED if operation == "put" and ref.key == "bad" else None

    t = await started()
    t.store.reject = denied
    await t.put("bad", b"v")
    await t.put("good", b"v")
    await t.clock.advance(30)
    assert t.s3_has("good") == b"v"
    assert [entry.key for entry in t.dirty.dead()] == [b"bad"]
    t = await t.crash()
    assert await t.outcome("bad") == ("hit", b"v")
    await t.clock.advance(30)
    assert t.s3_has("bad") is None
    t.store.reject = None
    assert await t.parts.dead_letters.retry(None) == 1
    await t.clock.advance(30)
    assert t.s3_has("bad") == b"v"
    assert len(t.dirty) == 0


async def test_a_value_that_the_disk_has_changed_is_neither_returned_nor_uploaded() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"acknowledged")
    records = t.disk.committed.records
    for seq, raw in records.items():
        records[seq] = raw.replace(b"acknowledged", b"acknowledgeD")
    t = await t.crash()
    t.store.down = None
    with pytest.raises(FailedPrecondition, match="damaged"):
        await t.get("k")
    await t.clock.advance(30)
    assert t.s3_has("k") is None


async def test_a_write_after_a_restart_is_later_than_all_before_it_whatever_the_time_of_day() -> None:
    t = await started()
    await t.put("k", b"before", durability="through")
    t.clock.set_wall(1_000_000_000)
    t = await t.crash()
    await t.put("k", b"after")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"after"
    assert await t.outcome("k") == ("hit", b"after")


async def test_a_flush_returns_when_s3_has_what_was_dirty() -> None:
    t = await started()
    await t.put("k", b"v")
    t.store.gate.clear()
    flushing = asyncio.create_task(t.flush())
    await run_ready_tasks()
    assert not flushing.done()
    t.store.gate.set()
    assert (await flushing).remaining == 0
    assert t.s3_has("k") == b"v"


async def test_no_more_is_dirty_than_the_budget_allows() -> None:
    limit = 3 * (ENTRY_OVERHEAD + 520)
    t = await started(dirty_max_bytes=limit, delay=100.0)
    acks = [await t.put(f"k{n}", b"x" * 500) for n in range(5)]
    assert [ack.durability for ack in acks] == ["back", "back", "back", "through", "through"]
    assert t.dirty.bytes <= limit


async def test_a_write_in_the_class_memory_does_not_take_out_the_record_below_it() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"kept")
    await t.put("k", b"lossy", durability="memory")
    await t.clock.advance(1)
    t = await t.crash()
    t.store.down = None
    await t.clock.advance(30)
    assert t.s3_has("k") == b"kept"
