"""Interleavings of the write path that a review found wrong. Each says what should hold."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from milena_cache.journal.disk import DiskFailed, DiskFull
from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from milena_cache.objects.version import UNKNOWN, Version, stamp
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_common.api.errors import ConditionFailed, DeadlineExceeded, MilenaError, OriginUnavailable, Unavailable
from tests.cache.node_under_test import BUCKET, LINEAGE, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.memory_disk import Contents, MemoryDisk
from tests.support.s3.memory_store import WithMetadata, etag_of


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", **options})  # type: ignore[arg-type]
    await t.start()
    return t


def damage(t: NodeUnderTest, key: str) -> None:
    """Flip the last byte of the value in the journal."""
    entry = t.dirty.get(key.encode())
    for contents in (t.disk.committed, t.disk.open):
        raw = contents.records[entry.version.seq]
        contents.records[entry.version.seq] = raw[:-1] + bytes([raw[-1] ^ 1])


# An acknowledged write that is lost, or read back older.


async def test_a_write_over_a_value_found_damaged_by_a_read_is_uploaded() -> None:
    """The read kills an entry that is still queued; `queued` passes over to the new write, which is not queued."""
    t = await started(dirty_memory_bytes=0, delay=1.0)
    await t.put("k", b"value")
    damage(t, "k")
    with pytest.raises(MilenaError, match="write the object again"):
        await t.get("k")
    await t.clock.advance(5)
    await t.put("k", b"anew")
    await t.clock.advance(60)
    assert t.s3_has("k") == b"anew"
    assert len(t.dirty) == 0


async def test_an_upload_whose_value_cannot_be_read_for_once_is_tried_again() -> None:
    """Whatever `Disk.read` raises besides Damaged leaves the entry neither queued nor dead: it is never retried."""

    class Disk(MemoryDisk):
        failing = True

        def read_record(self, seq: int) -> bytes | None:
            if self.failing:
                self.failing = False
                raise OSError("MDB_READERS_FULL: Environment maxreaders limit reached")
            return super().read_record(seq)

    t = await started(dirty_memory_bytes=0, disk=Disk())
    await t.put("k", b"v")
    await t.clock.advance(600)
    assert t.s3_has("k") == b"v"


async def test_a_version_given_after_a_restart_is_greater_than_those_in_s3() -> None:
    """`owned_since` raises the epoch, which is recorded only at the start and every half block of numbers."""
    t = await started()
    ahead = int(t.clock.wall() * 1000) + 60_000  # the router's clock is a minute ahead
    await t.put("k", b"old", owned_since=ahead)
    await t.clock.advance(5)
    t = await t.crash()
    assert (await t.put("k", b"new")).durability == "back"  # from a caller of the node itself
    await t.flush()
    assert t.s3_has("k") == b"new"
    assert (await t.get("k")).entry.value == b"new"


async def test_a_version_given_after_a_restart_is_greater_than_those_in_s3_through() -> None:
    t = await started()
    ahead = int(t.clock.wall() * 1000) + 60_000
    await t.put("k", b"old", owned_since=ahead, durability="through")
    t = await t.crash()
    assert (await t.put("k", b"new", durability="through")).durability == "through"
    assert t.s3_has("k") == b"new"


async def test_a_superseded_upload_does_not_let_the_next_overwrite_the_later_version() -> None:
    """`_landed` takes the later version's ETag for the base of an entry that may be older than it, too."""
    t = await started()
    await t.put("k", b"1")
    ref = Ref(BUCKET, "k")
    later = Version(t.journal.versions.epoch + 1_000_000, 1)
    t.store.objects[ref] = WithMetadata(b"later", stamp(later, ref, LINEAGE))
    t.store.gate.clear()
    await t.clock.advance(1)  # the upload of 1 is in flight
    await t.put("k", b"2")
    t.store.gate.set()
    await t.clock.advance(30)
    assert t.s3_has("k") == b"later", "as it is when 1 and 2 do not overlap"


async def test_a_read_is_not_older_than_what_was_acknowledged_before_it_when_a_put_overtakes_its_confirmation() -> (
    None
):
    t = await started(delay=100.0)
    t.in_s3("k", b"0")
    await t.put("k", b"1", owned_since=5)
    t.store.gate.clear()
    reader = asyncio.create_task(t.get("k", owned_since=10))
    await run_ready_tasks()
    await t.put("k", b"2", owned_since=5)
    t.store.gate.set()
    assert (await reader).entry.value in (b"1", b"2")


async def test_a_dead_letter_serves_reads_after_a_restart() -> None:
    """What makes it a dead letter, a 403 for the key, also makes the look fail that a read waits for."""
    t = await started()
    t.store.reject = lambda operation, ref: Fault.DENIED if ref.key == "k" else None
    await t.put("k", b"v")
    await t.flush()
    assert t.dirty.dead_letters == 1
    assert (await t.get("k")).entry.value == b"v"
    await t.clock.advance(1)
    t = await t.crash()
    assert t.dirty.dead_letters == 1
    assert (await t.get("k")).entry.value == b"v"


async def test_a_delete_through_is_not_acknowledged_while_its_record_is_in_a_probe_in_progress() -> None:
    """While the disk is full `caught_up` looks at `_chores` only, and a probe has them in its hands."""
    t = await started()
    await t.put("j", b"v")
    t.disk.capacity = 0
    await t.put("fills", b"v")  # through
    assert t.journal.full
    await t.flush("j")  # in S3; its record cannot be taken out
    assert len(t.dirty) == 0
    assert t.disk.committed.records
    t.disk.gate.clear()
    await t.clock.advance(1)  # the probe is in flight
    deleting = asyncio.create_task(t.delete("j", durability="through"))
    await run_ready_tasks()
    acknowledged = deleting.done() and deleting.exception() is None
    t = await t.crash()
    await t.clock.advance(5)
    assert not (acknowledged and t.s3_has("j") is not None), "acknowledged, and back after a crash"


# What waits for nothing, or for ever.


async def test_flush_returns_when_a_write_through_took_the_place_of_the_entry() -> None:
    t = await started(delay=100.0)
    await t.put("k", b"1")
    t.store.gate.clear()
    writer = asyncio.create_task(t.put("k", b"2", durability="through"))
    await run_ready_tasks()
    one = asyncio.create_task(t.flush("k", timeout=1.0))
    every = asyncio.create_task(t.flush(timeout=1.0))
    await run_ready_tasks()
    t.store.gate.set()
    await writer
    await run_ready_tasks()
    assert len(t.dirty) == 0
    assert every.done(), "everything is in S3"
    assert one.done()
    assert (await one).remaining == 0


async def test_flush_of_a_key_reports_what_is_so_after_a_write_through_of_it() -> None:
    t = await started(delay=100.0)
    await t.put("k", b"1")
    t.store.gate.clear()
    writer = asyncio.create_task(t.put("k", b"2", durability="through"))
    await run_ready_tasks()
    one = asyncio.create_task(t.flush("k", timeout=0.1))
    await run_ready_tasks()
    t.store.gate.set()
    await writer
    assert (await one).remaining == 0


async def test_flush_returns_when_a_look_found_a_later_version() -> None:
    t = await started(delay=100.0)
    await t.put("k", b"1")
    ref = Ref(BUCKET, "k")
    later = Version(t.journal.versions.epoch + 1_000_000, 1)
    t.store.objects[ref] = WithMetadata(b"later", stamp(later, ref, LINEAGE))
    t.store.gate.clear()
    reader = asyncio.create_task(t.get("k", owned_since=10))
    await run_ready_tasks()
    flushing = asyncio.create_task(t.flush("k", timeout=0.1))
    await run_ready_tasks()
    t.store.gate.set()
    await reader
    assert (await flushing).remaining == 0


async def test_a_write_that_waits_for_one_whose_caller_gave_up_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    t = await started()
    t.disk.gate.clear()
    writer = asyncio.create_task(t.put("k", b"1"))
    await run_ready_tasks()
    writer.cancel()
    await run_ready_tasks()
    waits = 0
    real = asyncio.wait

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal waits
        waits += 1
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncio, "wait", counted)
    through = asyncio.create_task(t.put("k", b"2", durability="through"))
    for _ in range(20):
        await run_ready_tasks()
    t.disk.gate.set()
    await through
    assert waits < 10, waits


async def test_put_returns_in_time_when_the_disk_does_not_respond() -> None:
    t = await started()
    t.disk.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(t.put("k", b"v", timeout=0.05), 0.5)


async def test_put_after_the_journal_failed_raises_its_error() -> None:
    t = await started()
    t.disk.failure = DiskFailed("Input/output error")
    with pytest.raises(Unavailable):
        await t.put("k", b"v")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(t.put("j", b"v"), 0.5)


class CannotRollBack(MemoryDisk):
    """As LMDB after an error while it wrote its meta page: MDB_PANIC from there on."""

    broken = False

    async def roll_back(self) -> None:
        if self.broken:
            raise DiskFailed("MDB_PANIC: Update of meta page failed or environment had fatal error")
        await super().roll_back()


async def test_a_failure_to_roll_back_stops_the_node_and_fails_the_callers() -> None:
    disk = CannotRollBack(Contents())
    t = await started(disk=disk)
    disk.broken = True
    disk.failure = DiskFull("No space left on device")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(t.put("k", b"v"), 0.5)
    assert t.journal.failed.is_set()


async def test_the_drain_does_not_wait_for_the_whole_backlog_to_be_taken_out_of_the_journal() -> None:
    """`sync_barrier` waits until there is nothing to do at all; uploads and writes keep making work for it."""
    t = await started()
    going = True

    async def writer() -> None:
        n = 0
        while going:
            n += 1
            await t.put(f"k{n % 5}", b"%d" % n)

    writers = [asyncio.create_task(writer()) for _ in range(3)]
    await run_ready_tasks()
    synced = asyncio.create_task(t.parts.dead_letters.retry(None))
    for _ in range(40):
        await run_ready_tasks()
    done = synced.done()
    going = False
    await asyncio.gather(*writers)
    await synced
    assert done, "the commits since then hold everything that was asked for"


# Wrong results and errors.


async def test_a_condition_is_not_rejected_for_an_entry_that_s3_has_changed_since() -> None:
    t = await started()
    t.in_s3("k", b"1")
    await t.get("k")
    t.in_s3("k", b"2")  # by another writer, whose ETag is known
    ack = await t.put("k", b"3", if_match=etag_of(b"2"))
    assert ack.durability == "back"


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_read_takes_back_nothing_that_a_rejected_condition_has_reported(*, deleted: bool) -> None:
    t = await started()
    t.in_s3("k", b"1")
    await t.get("k")
    if deleted:
        t.in_s3("k", None)
    else:
        t.in_s3("k", b"2")
    with pytest.raises(ConditionFailed, match="it does not exist" if deleted else "its ETag is"):
        await t.put("k", b"3", if_match=etag_of(b"other"))
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.get("k")
    t.store.down = None
    assert (await t.get("k")).entry.value == (None if deleted else b"2")


async def test_the_oldest_write_is_found_behind_one_that_took_the_place_of_a_dead_letter() -> None:
    dirty = Dirty(10**6, 10**6)

    def entry(key: bytes, seq: int, since: float) -> DirtyEntry:
        return DirtyEntry(
            key,
            Version(1, seq),
            b"v",
            1,
            S3Belief(UNKNOWN),
            deleted=False,
            journaled=True,
            acknowledged_at=since,
        )

    dead = entry(b"dead", 1, 10.0)
    dirty.replace(dead)
    dirty.replace(entry(b"old", 2, 20.0))
    dirty.kill(dead, "403", 0.0)
    dirty.replace(entry(b"dead", 3, 500.0))
    assert dirty.oldest_since(600.0) == 20.0


async def test_the_oldest_write_is_found_after_a_dead_letter_was_requeued() -> None:
    t = await started(delay=0.0)
    t.store.reject = lambda operation, ref: Fault.DENIED if ref.key == "a" else Fault.CONNECT
    await t.put("a", b"v")
    await t.clock.advance(100)
    assert t.dirty.dead_letters == 1
    await t.put("b", b"v")
    t.store.down = Fault.CONNECT
    born = t.clock.now() - 100
    await t.parts.dead_letters.retry(None)
    assert t.dirty.oldest_since(t.clock.now()) == pytest.approx(born, abs=1)


async def test_a_retried_dead_letter_stays_one_that_may_overwrite_after_a_crash() -> None:
    """`retry` says "as they are over whatever S3 holds"; the record still has the condition and the base."""
    t = await started()
    t.in_s3("k", b"1")
    await t.get("k")
    await t.put("k", b"2", if_match=etag_of(b"1"))
    t.in_s3("k", b"foreign")
    await t.flush()
    assert t.dirty.dead_letters == 1
    t.store.down = Fault.CONNECT
    assert await t.parts.dead_letters.retry(None) == 1
    t = await t.crash()
    t.store.down = None
    await t.clock.advance(60)
    assert t.dirty.dead_letters == 0
    assert t.s3_has("k") == b"2"


async def test_keep_both_where_s3_has_no_conditional_writes() -> None:
    t = await started(policy="keep-both")
    put = t.store.put

    async def unsupporting(ref: Ref, value: bytes, **options: Any) -> str:
        if options.get("if_match") or options.get("if_absent"):
            raise OriginFailure(Fault.UNSUPPORTED, "put", ref, "NotImplemented", "501")
        return await put(ref, value, **options)

    t.store.put = unsupporting  # type: ignore[method-assign]
    t.in_s3("k", b"1")
    await t.get("k")
    await t.put("k", b"ours")
    t.in_s3("k", b"theirs")
    await t.clock.advance(30)
    assert t.dirty.dead_letters == 0
    assert t.s3_has("k") == b"theirs"
    assert b"ours" in t.store.objects.values()


async def test_a_delete_of_a_key_without_a_record_is_done_while_the_disk_is_full() -> None:
    t = await started()
    t.in_s3("never written here", b"v")
    await t.put("other", b"v")
    t.disk.capacity = 0
    await t.put("fills", b"v")
    await t.flush("other")
    ack = await t.delete("never written here")
    assert ack.durability == "through"


async def test_a_put_through_does_not_need_the_journals_disk() -> None:
    t = await started()
    await t.put("k", b"back")
    t.disk.gate.clear()  # it hangs
    assert (await t.put("k", b"through", durability="through", timeout=0.3)).durability == "through"


async def test_deferred_operations_alone_start_no_commit() -> None:
    """One caller that overwrites a key pays for two commits each time, the second for the removal alone."""
    t = await started(delay=1000.0)
    await t.put("k", b"0")
    before = t.disk.commits
    for n in range(10):
        await t.put("k", b"%d" % n)
        await run_ready_tasks()  # the reply travels
    assert t.disk.commits - before <= 11


# What S3's rejections mean.


@pytest.mark.parametrize(
    ("status", "code"), [("403", "HTTP 403"), ("400", "ExpiredToken"), ("local", "NoCredentialsError")]
)
async def test_credentials_that_have_run_out_make_no_dead_letter_of_a_write_that_looks_first(
    status: str, code: str
) -> None:
    """Looking may be denied for a reason of its own, and then the write's own reply counts.

    NoCredentialsError is what the boto3 client, which does conditional deletes, calls the other's NoCredentials.
    """
    t = await started()
    await t.put("k", b"v")
    await t.clock.advance(5)
    head, put, delete = t.store.head, t.store.put, t.store.delete
    fault = Fault.DENIED if status == "403" else Fault.ACCOUNT

    async def no_head(ref: Ref) -> Any:
        raise OriginFailure(fault, "head", ref, code, status)

    async def no_write(ref: Ref, *_: Any, **__: Any) -> Any:
        raise OriginFailure(Fault.ACCOUNT, "put", ref, "ExpiredToken", "400")

    t.store.head, t.store.put, t.store.delete = no_head, no_write, no_write  # type: ignore[method-assign]
    await t.delete("k")
    await t.put("j", b"v")
    await t.clock.advance(30)
    t.store.head, t.store.put, t.store.delete = head, put, delete  # type: ignore[method-assign]
    await t.clock.advance(30)
    assert t.s3_has("j") == b"v", "the put waits until the credentials are mended"
    assert t.dirty.dead_letters == 0
    assert t.s3_has("k") is None


@pytest.mark.parametrize("fault", [Fault.ACCOUNT, Fault.NO_BUCKET, Fault.UNEXPECTED])
@pytest.mark.parametrize("deleting", [False, True])
async def test_what_is_no_matter_of_one_object_makes_no_dead_letter(fault: Fault, deleting: bool) -> None:
    t = await started()
    await t.put("k", b"old")
    await t.clock.advance(5)
    t.store.down = fault
    await (t.delete("k") if deleting else t.put("k", b"new"))
    await t.clock.advance(60)
    assert (t.dirty.dead_letters, len(t.dirty)) == (0, 1)
    t.store.down = None
    await t.clock.advance(60)
    assert t.s3_has("k") == (None if deleting else b"new")
    assert len(t.dirty) == 0


async def test_a_response_that_is_not_s3s_leaves_the_write_indeterminate() -> None:
    """A gateway said 200 with a page of its own: the object may be there, or not."""
    t = await started()
    t.store.fail(Fault.UNEXPECTED, after_effect=True)
    await t.put("k", b"v")
    await t.clock.advance(30)
    assert t.s3_has("k") == b"v"
    assert [operation for operation, _ in t.store.calls] == ["put", "head"]


async def test_an_outage_that_rejects_everything_does_not_log_a_line_for_every_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    t = await started(delay=0.0)
    t.store.down = Fault.DENIED
    for n in range(200):
        await t.put(f"k{n}", b"v")
    await t.clock.advance(60)
    assert t.dirty.dead_letters == 200
    assert len(caplog.records) < 50


# The real disk, full. A limit on the size of files stands in for a small file system: LMDB meets the same there, on
# a tmpfs of a few MiB just as well.

ON_A_FULL_DISK = """
import asyncio, os, resource, sys, tempfile
from pathlib import Path
import milena_cache.journal.group_commit
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_common.runtime.clock import SystemClock

milena_cache.journal.group_commit.PROBE_SECONDS = 0.05
size, limit = int(sys.argv[1]), int(sys.argv[2])

async def main():
    disk = LmdbDisk(Path(sys.argv[3]), 2**30)
    journal = Journal(disk, SystemClock())
    async for _ in journal.replay():
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    kept = []
    while not (journal.full or journal.failure):
        futures = []
        for n in range(16):
            version = journal.next_version(0)
            raw = encode(Record(b"key%d" % n, version, b"x" * size))
            ended = lambda seq, ok: ok and kept.append(seq)
            futures.append(journal.write(version.seq, raw, version.seq, ended, 5.0))
        await asyncio.gather(*futures, return_exceptions=True)
    for seq in kept:  # write-back has brought everything to S3
        journal.release(seq, b"key")
    for _ in range(600):
        if not journal.full:
            break
        await asyncio.sleep(0.05)
    left = disk._env.begin().stat(disk._records)["entries"]
    print(f"failure={journal.failure!r} full={journal.full} left={left}", flush=True)
    os._exit(0)

asyncio.run(main())
"""


def on_a_full_disk(size: int, limit: int, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(size), str(limit), str(directory)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("size", [1000, 8000, 100_000])
def test_a_full_disk_is_not_taken_for_one_that_failed(size: int, tmp_path: Path) -> None:
    """A write that the last free pages take a part of is a short one, for which LMDB has EIO, not ENOSPC."""
    said = on_a_full_disk(size, 8 * 2**20, tmp_path)
    assert "failure=''" in said, said


def test_the_journal_has_room_again_when_what_filled_it_is_in_s3(tmp_path: Path) -> None:
    """A removal needs new pages before it frees any: all of them at once, and a probe beside them, never fit."""
    said = on_a_full_disk(100, 4 * 2**20, tmp_path)
    assert "failure='' full=False left=0" in said, said


async def test_a_key_that_was_deleted_and_flushed_does_not_come_back() -> None:
    """A delete in the class `memory` leaves no record that would be behind the removal of the put's."""
    t = await started(delay=0.0)
    await t.put("k", b"v")
    await t.flush()  # its record has not been taken out yet
    await t.delete("k", durability="memory")
    assert (await t.flush()).remaining == 0
    assert t.s3_has("k") is None
    t = await t.crash()
    await t.clock.advance(5)
    assert t.s3_has("k") is None


async def test_before_the_drain_nothing_waits_for_the_backlog() -> None:
    """`_drain` awaits `sync_barrier()` before it starts its DRAIN_SECONDS; every upload makes another one."""
    took = 0.015

    class SlowDisk(MemoryDisk):
        clock: Any = None

        async def _commit(self) -> None:
            if self.clock is not None:
                await self.clock.sleep(took)
            await super()._commit()

    disk = SlowDisk()
    t = await started(disk=disk, delay=10.0)
    for n in range(2000):
        await t.put(f"k{n}", b"v")
    put = t.store.put

    async def slow(*arguments: Any, **options: Any) -> str:
        await t.clock.sleep(0.01)
        return await put(*arguments, **options)

    t.store.put = slow  # type: ignore[method-assign]
    disk.clock = t.clock
    await t.clock.advance(11)  # the backlog is being uploaded, 400 a second
    began = len(t.dirty)
    assert began > 1000
    synced = asyncio.create_task(t.journal.sync_barrier())
    await t.clock.advance(1)
    assert synced.done(), f"{began} were dirty, {len(t.dirty)} are"
