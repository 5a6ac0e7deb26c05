"""Writes by durability class: what is acknowledged when, what is read meanwhile, and what reaches S3."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.journal.disk import DiskFailed
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.version import VERSION, Version, stamp
from milena_common.api.errors import ConditionFailed, DeadlineExceeded, OriginUnavailable, Unavailable
from tests.cache.node_under_test import BUCKET, LINEAGE, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import WithMetadata, etag_of


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


async def test_a_write_back_is_acknowledged_from_the_journal_and_read_before_s3_has_it() -> None:
    t = await started()
    ack = await t.put("k", b"v")
    assert (ack.etag, ack.durability) == (etag_of(b"v"), "back")
    assert t.store.calls == []
    assert await t.outcome("k") == ("hit", b"v")
    assert (await t.get("k")).dirty
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"
    assert not (await t.get("k")).dirty
    assert await t.outcome("k") == ("hit", b"v")
    assert t.store.count("get") == 0


async def test_nothing_is_acknowledged_or_returned_before_the_commit_finished() -> None:
    t = await started()
    t.disk.gate.clear()
    writer = asyncio.create_task(t.put("k", b"v"))
    await run_ready_tasks()
    assert not writer.done()
    assert await t.outcome("k") == ("miss", None)
    t.disk.gate.set()
    assert (await writer).durability == "back"
    assert await t.outcome("k") == ("hit", b"v")


async def test_all_writes_that_wait_share_the_next_commit() -> None:
    t = await started()
    before = t.disk.commits
    await asyncio.gather(*(t.put(f"k{n}", b"v") for n in range(20)))
    assert t.disk.commits == before + 1
    t.disk.gate.clear()
    first = asyncio.create_task(t.put("a", b"1"))
    await run_ready_tasks()
    rest = [asyncio.create_task(t.put(f"b{n}", b"2")) for n in range(20)]
    await run_ready_tasks()
    t.disk.gate.set()
    await asyncio.gather(first, *rest)
    assert t.disk.commits == before + 3


async def test_writes_of_one_key_coalesce_to_the_last_one() -> None:
    t = await started()
    for n in range(10):
        await t.put("k", b"%d" % n)
    await t.clock.advance(2)
    assert t.s3_has("k") == b"9"
    assert t.store.count("put") == 1
    assert len(t.disk.committed.records) == 0, "their records are gone"


async def test_a_delete_is_a_write_like_any_other() -> None:
    t = await started()
    t.in_s3("k", b"old")
    assert await t.outcome("k") == ("miss", b"old")
    assert (await t.delete("k")).durability == "back"
    assert await t.outcome("k") == ("negative_hit", None)
    assert t.s3_has("k") == b"old"
    t = await t.crash()
    assert await t.outcome("k") == ("negative_hit", None)
    await t.clock.advance(2)
    assert t.s3_has("k") is None


async def test_what_was_acknowledged_survives_a_crash() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    for n in range(50):
        await t.put(f"k{n}", b"%d" % n)
    await t.put("k7", b"again")
    await t.delete("k8")
    t = await t.crash()
    with pytest.raises(OriginUnavailable):
        await t.get("k6")  # the record may have been overtaken by a write through: S3 must be asked
    t.store.down = None
    assert await t.outcome("k6") == ("hit", b"6")
    assert await t.outcome("k7") == ("hit", b"again")
    assert await t.outcome("k8") == ("negative_hit", None)
    await t.clock.advance(60)
    assert [t.s3_has(f"k{n}") for n in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert t.s3_has("k7") == b"again"
    assert t.s3_has("k8") is None
    assert len(t.dirty) == 0


async def test_what_s3_has_already_is_not_uploaded_again_after_a_crash() -> None:
    t = await started()
    await t.put("k", b"v")
    before = t.disk.after_crash()
    await t.clock.advance(1)
    assert t.s3_has("k") == b"v"
    t.disk = before  # as if the crash had come before the record was taken out
    t = await t.crash()
    await t.clock.advance(5)
    assert len(t.dirty) == 0
    assert t.writeback.results["already"] == 1


async def test_an_older_record_never_overwrites_what_was_written_later() -> None:
    t = await started()
    await t.put("k", b"old")
    before = t.disk.after_crash()
    await t.put("k", b"new")
    await t.clock.advance(1)
    assert t.s3_has("k") == b"new"
    t.disk = before
    t = await t.crash()
    await t.clock.advance(5)
    assert t.s3_has("k") == b"new"
    assert t.writeback.results["superseded"] == 1
    assert await t.outcome("k") == ("miss", b"new")


async def test_through_returns_when_s3_has_it() -> None:
    t = await started()
    ack = await t.put("k", b"v", durability="through")
    assert ack.durability == "through"
    assert t.s3_has("k") == b"v"
    assert len(t.dirty) == 0


async def test_through_over_a_dirty_entry_takes_its_place() -> None:
    t = await started()
    await t.put("k", b"back")
    await t.put("k", b"through", durability="through")
    assert t.s3_has("k") == b"through"
    assert len(t.dirty) == 0
    t = await t.crash()
    await t.clock.advance(5)
    assert t.s3_has("k") == b"through"
    assert await t.outcome("k") == ("miss", b"through")


async def test_through_that_fails_leaves_the_acknowledged_write_in_force() -> None:
    t = await started()
    await t.put("k", b"acknowledged")
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"through", durability="through")
    assert await t.outcome("k") == ("hit", b"acknowledged")
    t.store.down = None
    await t.clock.advance(60)
    assert t.s3_has("k") == b"acknowledged"


async def test_through_waits_for_what_enters_the_journal_before_it() -> None:
    t = await started()
    t.disk.gate.clear()
    first = asyncio.create_task(t.put("k", b"1"))
    await run_ready_tasks()
    second = asyncio.create_task(t.put("k", b"2", durability="through"))
    await run_ready_tasks()
    assert t.store.calls == []
    t.disk.gate.set()
    await asyncio.gather(first, second)
    await t.clock.advance(5)
    assert t.s3_has("k") == b"2"
    assert await t.outcome("k") == ("hit", b"2")


async def test_memory_is_acknowledged_at_once_uploaded_and_lost_in_a_crash() -> None:
    t = await started()
    commits = t.disk.commits
    assert (await t.put("k", b"v", durability="memory")).durability == "memory"
    assert t.disk.commits == commits
    assert await t.outcome("k") == ("hit", b"v")
    await t.put("lost", b"v", durability="memory")
    await t.flush("k")
    assert t.s3_has("k") == b"v"
    t = await t.crash()
    await t.clock.advance(5)
    assert await t.outcome("k") == ("miss", b"v")


async def test_memory_over_a_journaled_write_does_not_lose_that_one() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    await t.put("k", b"kept")
    await t.put("k", b"lossy", durability="memory")
    assert await t.outcome("k") == ("hit", b"lossy")
    t = await t.crash()
    t.store.down = None
    assert await t.outcome("k") == ("hit", b"kept")


async def test_at_the_limit_a_put_goes_through_and_is_rejected_when_s3_is_gone() -> None:
    t = await started(dirty_max_bytes=1000, delay=100.0)
    assert (await t.put("a", b"x" * 100)).durability == "back"
    assert (await t.put("b", b"x" * 600)).durability == "through"
    assert t.writes.forced["dirty_limit"] == 1
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable, match="DIRTY_MAX_BYTES"):
        await t.put("c", b"x" * 600)
    assert await t.outcome("a") == ("hit", b"x" * 100)


async def test_values_beyond_the_memory_limit_are_read_back_from_the_journal() -> None:
    t = await started(dirty_memory_bytes=100, delay=100.0)
    await t.put("a", b"x" * 80)
    await t.put("b", b"y" * 80)
    assert t.dirty.memory_bytes == 80
    assert await t.outcome("b") == ("hit", b"y" * 80)
    await t.flush()
    assert t.s3_has("b") == b"y" * 80


async def test_a_full_disk_means_write_through_until_there_is_room() -> None:
    t = await started()
    await t.put("before", b"v")
    t.disk.capacity = 500
    ack = await t.put("k", b"x" * 1000)
    assert ack.durability == "through"
    assert t.s3_has("k") == b"x" * 1000
    assert t.journal.full
    assert (await t.put("k2", b"v")).durability == "through"
    assert await t.outcome("before") == ("hit", b"v")
    t.disk.capacity = None
    await t.clock.advance(2)
    assert not t.journal.full
    assert (await t.put("k3", b"v")).durability == "back"


async def test_a_failed_sync_acknowledges_nothing_and_stops_the_node() -> None:
    t = await started()
    t.disk.failure = DiskFailed("Input/output error")
    with pytest.raises(Unavailable, match="Input/output error"):
        await t.put("k", b"v")
    assert t.journal.failed.is_set()
    assert await t.outcome("k") == ("miss", None)


async def test_a_caller_that_gives_up_cancels_nothing() -> None:
    t = await started()
    t.disk.gate.clear()
    writer = asyncio.create_task(t.put("k", b"v"))
    await run_ready_tasks()
    writer.cancel()
    await run_ready_tasks()
    t.disk.gate.set()
    await t.journal.sync_barrier()
    assert await t.outcome("k") == ("hit", b"v")


async def test_objects_carry_the_version_of_their_write() -> None:
    t = await started()
    await t.put("k", b"v", owned_since=2_000_000_000_000_000)
    await t.flush()
    info = await t.store.head(Ref(BUCKET, "k"))
    assert info is not None
    assert info.metadata[VERSION].startswith("2000000000000000-")


async def test_a_write_through_is_not_undone_by_an_older_record_that_a_crash_brings_back() -> None:
    t = await started()
    await t.put("k", b"back")
    t.disk.capacity = 0
    assert (await t.put("full", b"v")).durability == "through"
    await t.put("k", b"through", durability="through")  # the record of the first write cannot be taken out
    t = await t.crash()
    assert len(t.dirty) == 1
    assert await t.outcome("k") == ("miss", b"through")
    await t.clock.advance(5)
    assert t.s3_has("k") == b"through"


# Conditions.


async def test_if_match_is_decided_against_the_newest_version_dirty_or_not() -> None:
    t = await started()
    t.in_s3("k", b"1")
    with pytest.raises(ConditionFailed):
        await t.put("k", b"x", if_match=etag_of(b"0"))
    assert (await t.put("k", b"2", if_match=etag_of(b"1"))).durability == "back"
    with pytest.raises(ConditionFailed):
        await t.put("k", b"x", if_match=etag_of(b"1"))
    await t.put("k", b"3", if_match=etag_of(b"2"))
    await t.flush()
    assert t.s3_has("k") == b"3"
    await t.delete("k", if_match=etag_of(b"3"))
    with pytest.raises(ConditionFailed):
        await t.put("k", b"x", if_match=etag_of(b"3"))
    await t.put("k", b"4", if_none_match="*")
    with pytest.raises(ConditionFailed):
        await t.put("k", b"5", if_none_match="*")
    await t.flush()
    assert t.s3_has("k") == b"4"


async def test_a_condition_holds_at_s3_too() -> None:
    t = await started()
    t.in_s3("k", b"1")
    await t.get("k")
    await t.put("k", b"2", if_match=etag_of(b"1"))
    t.in_s3("k", b"foreign")
    await t.flush()
    assert t.s3_has("k") == b"foreign"
    assert [entry.dead for entry in t.dirty.dead()] != []
    with pytest.raises(ConditionFailed):
        await t.put("j", b"2", if_match=etag_of(b"1"), durability="through")
    t.in_s3("j", b"1")
    with pytest.raises(ConditionFailed):
        await t.put("j", b"2", if_none_match="*", durability="through")
    assert (await t.put("j", b"2", if_match=etag_of(b"1"), durability="through")).durability == "through"
    assert t.s3_has("j") == b"2"


async def test_a_write_through_that_is_not_done_in_time_says_so() -> None:
    t = await started()
    t.store.gate.clear()
    with pytest.raises(DeadlineExceeded, match="may still take effect"):
        await t.put("k", b"v", durability="through", timeout=0.05)
    t.store.gate.set()


async def test_values_on_their_way_to_s3_are_bounded_in_memory() -> None:
    t = await started(dirty_memory_bytes=1000, concurrency=4, delay=0.0)
    t.store.write_gate.clear()
    for n in range(6):
        await t.put(f"k{n}", b"x" * 400)
    await t.clock.advance(1)
    assert t.store.count("put") == 2
    t.store.write_gate.set()
    await t.clock.advance(1)
    assert len(t.dirty) == 0
    t.store.write_gate.clear()
    await t.put("large", b"x" * 2000)
    await t.clock.advance(1)
    assert t.store.count("put") == 7, "one is always allowed"
    t.store.write_gate.set()


async def test_a_delete_through_is_not_undone_by_a_record_that_a_crash_brings_back() -> None:
    t = await started()
    await t.put("k", b"dirty")
    await t.delete("k", durability="through")
    t = await t.crash()
    await t.put("j", b"clean")
    await t.flush()  # its record has not been taken out yet
    await t.delete("j", durability="through")
    t = await t.crash()
    await t.clock.advance(5)
    assert t.s3_has("k") is None
    assert t.s3_has("j") is None


async def test_a_delete_through_is_not_acknowledged_while_a_record_cannot_be_taken_out() -> None:
    t = await started()
    await t.put("k", b"v")
    t.disk.capacity = 0
    await t.put("full", b"v")
    deleting = asyncio.create_task(t.delete("k", durability="through"))
    await t.clock.advance(2)  # it waits for the next attempt to make room
    with pytest.raises(Unavailable, match="no room"):
        await deleting
    t.disk.capacity = None
    await t.clock.advance(2)
    await t.delete("k", durability="through")


async def test_a_condition_is_not_met_by_a_later_version_of_another_node() -> None:
    t = await started()
    ref = Ref(BUCKET, "k")
    later = Version(t.journal.versions.epoch + 10**6, 1)
    t.store.objects[ref] = WithMetadata(b"later", stamp(later, ref, LINEAGE))
    with pytest.raises(ConditionFailed):
        await t.put("k", b"x", if_match=etag_of(b"never"), durability="through")
    with pytest.raises(ConditionFailed):
        await t.put("k", b"x", if_none_match="*", durability="through")
    assert t.s3_has("k") == b"later"
