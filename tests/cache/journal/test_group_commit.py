"""Group commit: which writes share a sync, the order of acknowledgements, and failures of the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from milena_cache.journal import group_commit as journal_module
from milena_cache.journal import lmdb_disk as journal_lmdb
from milena_cache.journal.commit import JournalFailed, JournalFull, NotAcknowledged, QueuedWrite
from milena_cache.journal.commit_counts import CommitCounts
from milena_cache.journal.disk import DiskFailed, DiskFull
from milena_cache.journal.group_commit import DEFER_SECONDS, PROBE_SECONDS, Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Damaged, Record, encode
from milena_cache.objects.version import Version
from milena_common.api.errors import DeadlineExceeded
from milena_common.runtime.clock import SystemClock
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.memory_disk import MemoryDisk


class LoggingDisk(MemoryDisk):
    """Records its calls, in order. `roll_back_failure` is raised by every roll back."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.roll_back_failure: Exception | None = None

    def put_record(self, seq: int, raw: bytes) -> None:
        self.log.append(f"put {seq}")
        super().put_record(seq, raw)

    def remove_record(self, seq: int) -> None:
        self.log.append(f"remove {seq}")
        super().remove_record(seq)

    def commit(self) -> Awaitable[None]:
        self.log.append("commit")
        return super().commit()

    async def roll_back(self) -> None:
        if self.roll_back_failure is not None:
            raise self.roll_back_failure
        await super().roll_back()


class Under:
    """A started journal over a `LoggingDisk`, and what it reports."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.disk = LoggingDisk()
        self.counts = CommitCounts()
        self.seen: list[list[int]] = []
        self.journal: Journal[int] = Journal(self.disk, self.clock, observers=(self.counts, self))
        self.completed: list[tuple[int, bool]] = []
        self.first = 0
        self.observing_fails: Exception | None = None

    async def start(self) -> Under:
        async for found in self.journal.replay():
            raise AssertionError(found)
        self.first = self.journal.versions.seq
        self.disk.log.clear()
        self.disk.commits = self.counts.commits = 0
        self.seen.clear()
        return self

    def write(self, number: int, size: int = 10, timeout: float = 60.0) -> asyncio.Future[None]:
        """A write whose record has the number, counted from the start."""
        raw = bytes(size)
        return self.journal.write(
            self.first + number, raw, number, lambda *notified: self.completed.append(notified), timeout
        )

    def release(self, number: int) -> None:
        self.journal.release(self.first + number, b"key")

    def log(self) -> list[str]:
        """The calls that the disk got since the last time."""
        columns = [entry.split() for entry in self.disk.log]
        self.disk.log.clear()
        return [
            " ".join([verb, *(str(int(number) - self.first) for number in numbers)]) for verb, *numbers in columns
        ]

    def committed(self, batch: Sequence[QueuedWrite[Any]], seconds: float) -> None:
        """As an observer of the commits; raises as `observing_fails` says."""
        del seconds
        numbers = [write.token for write in batch]
        assert not set(numbers) & {number for number, _ in self.completed}, "seen before they are acknowledged"
        assert set(numbers) <= set(self.kept()), "and when they are durable"
        self.seen.append(numbers)
        if self.observing_fails is not None:
            raise self.observing_fails

    def leave_room(self, size: int) -> None:
        """From now on the disk has room for so many bytes more than there are."""
        there = self.disk.committed
        used = sum(map(len, there.records.values())) + sum(map(len, there.metadata.values()))
        self.disk.capacity = used + size

    def kept(self) -> list[int]:
        """The numbers of what is durable."""
        return [seq - self.first for seq in self.disk.committed.records]


@pytest.fixture
async def under() -> Under:
    return await Under().start()


# ---- together, in order, and not before


async def test_an_observer_sees_every_commit_once_in_order_and_before_its_writes_are_acknowledged(
    under: Under,
) -> None:
    under.disk.gate.clear()
    under.write(1)
    await run_ready_tasks()
    futures = [under.write(2), under.write(3)]
    assert under.seen == []
    under.disk.gate.set()
    await asyncio.gather(*futures)
    under.release(1)
    await under.journal.sync_barrier()
    assert under.seen == [[1], [2, 3], []]
    assert (under.counts.commits, under.counts.writes.total) == (3, 3)


async def test_an_observer_sees_no_commit_that_was_not_made(under: Under) -> None:
    under.leave_room(0)
    with pytest.raises(JournalFull):
        await under.write(1)
    assert (under.seen, under.counts.commits) == ([], 0)


async def test_an_observer_that_fails_keeps_no_write_from_its_acknowledgement(
    under: Under, caplog: pytest.LogCaptureFixture
) -> None:
    under.observing_fails = RuntimeError("no room in the archive")
    await under.write(1)
    await under.write(2)
    assert under.completed == [(1, True), (2, True)]
    assert "no room in the archive" in caplog.text


async def test_a_write_is_acknowledged_after_its_commit_and_no_timer_delays_it(under: Under) -> None:
    under.disk.gate.clear()
    future = under.write(1)
    await run_ready_tasks()
    assert (future.done(), under.completed, under.kept()) == (False, [], [])
    under.disk.gate.set()
    await future
    assert (under.completed, under.kept()) == ([(1, True)], [1])
    assert under.clock.sleeping == 0


async def test_writes_of_one_round_of_the_loop_share_a_commit(under: Under) -> None:
    await asyncio.gather(*(under.write(number) for number in range(1, 21)))
    assert under.log() == [*(f"put {number}" for number in range(1, 21)), "commit"]
    assert under.completed == [(number, True) for number in range(1, 21)]
    assert under.counts.commits == 1


async def test_all_writes_that_wait_when_a_commit_ends_share_the_next(under: Under) -> None:
    notified: list[int] = []
    under.disk.gate.clear()
    futures = [under.write(1)]
    await run_ready_tasks()
    for number in range(2, 12):
        futures.append(under.write(number))
        await run_ready_tasks()
    for number, future in enumerate(futures, 1):
        future.add_done_callback(lambda _, number=number: notified.append(number))  # type: ignore[misc]
    under.disk.gate.set()
    await asyncio.gather(*futures)
    await run_ready_tasks()
    assert under.log() == ["put 1", "commit", *(f"put {number}" for number in range(2, 12)), "commit"]
    assert under.completed == [(number, True) for number in range(1, 12)]
    assert notified == list(range(1, 12))


async def test_a_commit_has_no_more_than_so_many_bytes(under: Under, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH_BYTES", 250)
    futures = [under.write(number, 100) for number in range(1, 5)]
    futures.append(under.write(5, 1000))
    futures.append(under.write(6, 10))
    await asyncio.gather(*futures)
    assert " ".join(under.log()) == "put 1 put 2 commit put 3 put 4 commit put 5 commit put 6 commit"
    assert under.completed == [(number, True) for number in range(1, 7)]


async def test_a_caller_that_is_cancelled_does_not_cancel_the_write(under: Under) -> None:
    under.disk.gate.clear()
    futures = [under.write(1), under.write(2)]
    await run_ready_tasks()
    futures[0].cancel()
    under.disk.gate.set()
    await futures[1]
    assert (under.completed, under.kept()) == ([(1, True), (2, True)], [1, 2])


async def test_writes_that_arrive_in_a_stream_are_acknowledged_in_order(under: Under) -> None:
    """As with many callers, each of which writes again when it is notified."""
    numbers = iter(range(1, 2001))

    async def caller() -> None:
        for number in numbers:
            await under.write(number)

    await asyncio.gather(*(caller() for _ in range(64)))
    assert under.completed == [(number, True) for number in range(1, 2001)]
    assert under.kept() == list(range(1, 2001))
    assert under.counts.commits < 200


# ---- chores


async def test_deferred_operations_alone_wait_and_are_then_committed_together(under: Under) -> None:
    await asyncio.gather(under.write(1), under.write(2), under.write(3))
    under.log()
    for number in (3, 1, 2):
        under.release(number)
        await under.clock.advance(DEFER_SECONDS / 4)
    assert under.log() == []
    await under.clock.advance(DEFER_SECONDS)
    assert under.log() == ["remove 3", "remove 1", "remove 2", "commit"]
    under.release(4)
    await under.clock.advance(DEFER_SECONDS)
    assert under.log() == ["remove 4", "commit"]


async def test_deferred_operations_are_committed_with_a_write(under: Under) -> None:
    await under.write(1)
    under.log()
    under.release(1)
    future = under.write(2)
    under.release(99)
    await future
    assert under.log() == ["remove 1", "remove 99", "put 2", "commit"]
    await under.clock.advance(10)
    assert under.log() == []


async def test_deferred_operations_that_arrive_during_a_commit_go_with_the_next(under: Under) -> None:
    under.disk.gate.clear()
    first = under.write(1)
    await run_ready_tasks()
    under.release(1)
    second = under.write(2)
    await run_ready_tasks()
    under.disk.gate.set()
    await asyncio.gather(first, second)
    assert under.log() == ["put 1", "commit", "remove 1", "put 2", "commit"]


async def test_a_key_is_let_go_when_its_records_are_out_of_the_file(under: Under) -> None:
    assert await under.journal.has_released(b"key")
    await under.write(1)
    under.release(1)
    assert await under.journal.has_released(b"key")
    assert under.kept() == []
    under.disk.gate.clear()
    under.release(2)
    under.release(3)
    requesting = asyncio.create_task(under.journal.has_released(b"key"))
    await run_ready_tasks()
    assert not requesting.done()
    assert await under.journal.has_released(b"another")
    under.disk.gate.set()
    assert await requesting


async def test_a_key_is_not_let_go_when_the_disk_is_full_or_failed(under: Under) -> None:
    await under.write(1)
    under.disk.capacity = 0
    under.release(1)
    assert not await under.journal.has_released(b"key")
    requesting = asyncio.create_task(under.journal.has_released(b"key"))
    await under.clock.advance(PROBE_SECONDS)
    assert not await requesting
    under.disk.capacity = None
    await under.clock.advance(PROBE_SECONDS)
    assert await under.journal.has_released(b"key")
    under.release(2)
    under.disk.failure = DiskFailed("Input/output error")
    assert not await under.journal.has_released(b"key")
    assert not await under.journal.has_released(b"key"), "also not when it is asked afterwards"


async def test_the_sync_barrier_leaves_nothing_waiting(under: Under) -> None:
    under.write(1)
    under.release(7)
    await under.journal.sync_barrier()
    assert under.kept() == [1]
    under.release(1)
    await under.journal.sync_barrier()
    assert under.kept() == []
    await under.journal.sync_barrier()


# ---- a full disk


async def test_what_does_not_fit_was_not_made_and_says_so(under: Under) -> None:
    await under.write(1)
    under.leave_room(2000)
    futures = [under.write(2), under.write(3, 5000)]
    for future in futures:
        with pytest.raises(JournalFull, match="No space left on device"):
            await future
    assert under.completed == [(1, True), (2, False), (3, False)]
    assert under.kept() == [1]
    assert under.journal.full
    assert not under.journal.failed.is_set()


async def test_a_full_disk_is_tried_every_second_until_there_is_room(under: Under) -> None:
    under.leave_room(1000)
    with pytest.raises(JournalFull):
        await under.write(1, 5000)
    await under.clock.advance(PROBE_SECONDS)
    for _ in range(5):
        assert under.journal.full, "there is room for what was thrown off, and no more"
        under.log()
        await under.clock.advance(PROBE_SECONDS)
        assert under.log() == ["commit"]
    assert under.disk.capacity is not None
    under.disk.capacity += 100_000
    await under.clock.advance(PROBE_SECONDS)
    assert not under.journal.full
    await under.write(2, 5000)
    await under.clock.advance(10)
    assert under.kept() == [2]


async def test_a_disk_that_has_been_full_has_something_to_throw_off_again(under: Under) -> None:
    before = under.disk.committed.metadata
    for _ in range(3):
        under.leave_room(0)
        with pytest.raises(JournalFull):
            await under.write(1)
        await under.clock.advance(PROBE_SECONDS)
        assert len(under.disk.committed.metadata["ballast"]) == 0
        under.disk.capacity = None
        await under.clock.advance(PROBE_SECONDS)
        kept_metadata = under.disk.committed.metadata
        assert kept_metadata["ballast"] == before["ballast"]
        assert sum(map(len, kept_metadata.values())) == sum(map(len, before.values())), "and nothing else"


async def test_the_real_disk_is_full_until_records_are_taken_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_lmdb, "MIN_MAP", 4 * 2**20)
    monkeypatch.setattr(journal_module, "PROBE_SECONDS", 0.001)
    journal: Journal[int] = Journal(LmdbDisk(tmp_path, 0), SystemClock())
    async for _ in journal.replay():
        pass
    written: list[int] = []

    async def write() -> None:
        seq = journal.next_version(0).seq
        await journal.write(seq, bytes(20_000), 0, lambda *_: None, 60.0)
        written.append(seq)

    async def fill() -> None:
        while True:
            await write()

    for _ in range(3):
        with pytest.raises(JournalFull):
            await fill()
        for _ in range(8):
            await journal.wait_commit()
            assert journal.full
        for seq in written:
            journal.release(seq, b"key")
        while journal.full:
            await journal.wait_commit()
        await journal.sync_barrier()
        assert list(journal.disk.records(-1, 1)) == []
        assert len(written) > 100
        written.clear()
    await write()
    await journal.close()


async def test_a_value_that_never_fits_does_not_make_the_disk_full_for_others(under: Under) -> None:
    under.leave_room(100_000)
    for number in (1, 3):
        with pytest.raises(JournalFull):
            await under.write(number, 10**7)
        await under.clock.advance(PROBE_SECONDS)
        await under.write(number + 1)
    assert under.kept() == [2, 4]


async def test_deferred_operations_of_a_commit_that_did_not_fit_are_done_later_in_their_order(under: Under) -> None:
    await asyncio.gather(under.write(1), under.write(2))
    under.disk.capacity = 0
    under.release(1)
    with pytest.raises(JournalFull):
        await under.write(3)
    under.release(2)
    await under.clock.advance(PROBE_SECONDS * 2)
    assert under.kept() == [1, 2]
    under.log()
    under.disk.capacity = None
    await under.clock.advance(PROBE_SECONDS)
    assert [entry for entry in under.log() if entry != "commit"] == ["remove 1", "remove 2"]
    assert under.kept() == []


async def test_a_put_that_finds_no_room_is_like_a_commit_that_does(under: Under) -> None:
    await under.write(1)
    under.disk.failure, under.disk.fail_at = DiskFull("MDB_MAP_FULL"), under.disk.calls + 2
    futures = [under.write(2), under.write(3), under.write(4)]
    for future in futures:
        with pytest.raises(JournalFull):
            await future
    assert under.kept() == [1]
    await under.clock.advance(PROBE_SECONDS)
    await under.write(5)
    assert under.kept() == [1, 5]


async def test_those_that_came_during_a_commit_that_did_not_fit_are_tried(under: Under) -> None:
    under.leave_room(1000)
    under.disk.gate.clear()
    large = under.write(1, 5000)
    await run_ready_tasks()
    small = under.write(2)
    under.disk.gate.set()
    with pytest.raises(JournalFull):
        await large
    await small
    assert under.kept() == [2]
    assert not under.journal.full


async def test_the_sync_barrier_and_close_do_not_wait_until_there_is_room(under: Under) -> None:
    under.disk.capacity = 0
    with pytest.raises(JournalFull):
        await under.write(1)
    under.release(1)
    for requested in (under.journal.sync_barrier(), under.journal.close()):
        requesting = asyncio.create_task(requested)
        await under.clock.advance(PROBE_SECONDS)
        assert requesting.done(), "one more attempt, and no second one"
    assert under.disk.closed


# ---- a disk that failed


async def check_failed(under: Under, futures: list[asyncio.Future[None]], error: str) -> None:
    """Nothing is acknowledged any more, and every waiter gets the error."""
    for future in futures:
        with pytest.raises(JournalFailed, match=f"{error}.*the write may still take effect"):
            await future
    assert under.journal.failed.is_set()
    assert error in under.journal.failure
    assert [notified for notified in under.completed if notified[1]] == []
    under.disk.failure = under.disk.roll_back_failure = None
    under.log()
    with pytest.raises(JournalFailed):
        await under.write(99)
    under.release(1)
    await under.journal.sync_barrier()
    await under.clock.advance(PROBE_SECONDS * 3)
    assert under.log() == [], "what is on the disk cannot be known"
    await under.journal.close()
    assert under.disk.closed


async def test_a_failed_commit_ends_it_for_all_that_wait(under: Under) -> None:
    under.disk.gate.clear()
    under.disk.failure, under.disk.fail_at = DiskFailed("Input/output error"), under.disk.calls + 2
    futures = [under.write(1)]
    await run_ready_tasks()
    futures.append(under.write(2))
    under.disk.gate.set()
    await check_failed(under, futures, "Input/output error")


async def test_a_failed_put_ends_it(under: Under) -> None:
    under.disk.failure = DiskFailed("record 7 is not above the last one")
    await check_failed(under, [under.write(1), under.write(2)], "not above")


async def test_an_unexpected_error_ends_it(under: Under) -> None:
    def defect(_: object) -> None:
        raise ZeroDivisionError("a chore")

    under.journal.defer(defect)
    await check_failed(under, [under.write(1)], "ZeroDivisionError")


async def test_a_roll_back_that_fails_ends_it(under: Under) -> None:
    under.disk.failure = DiskFull("No space left on device")
    under.disk.roll_back_failure = DiskFailed("MDB_PANIC")
    futures = [under.write(1), under.write(2)]
    await run_ready_tasks()
    await check_failed(under, futures, "MDB_PANIC")


async def test_a_probe_that_fails_ends_it(under: Under) -> None:
    under.disk.failure = DiskFull("No space left on device")
    with pytest.raises(JournalFull):
        await under.write(1)
    under.disk.failure = DiskFailed("Input/output error")
    await under.clock.advance(PROBE_SECONDS)
    await check_failed(under, [], "Input/output error")


async def test_a_disk_that_does_not_respond_is_reported_in_time_and_may_still_do_it(
    under: Under, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "STUCK_SECONDS", 0.01)
    under.disk.gate.clear()
    futures = [under.write(1, timeout=0)]
    patient = under.write(2)
    await run_ready_tasks()
    futures.append(under.write(3, timeout=0.03))
    for future in futures:
        with pytest.raises(DeadlineExceeded, match="did not respond in time; the write may still take effect"):
            await future
    assert under.completed == []
    assert not patient.done()
    under.disk.gate.set()
    await patient
    await under.journal.sync_barrier()
    assert under.completed == [(1, True), (2, True), (3, True)]
    await under.write(4)


# ---- the rest


async def test_close_commits_what_waits(under: Under) -> None:
    under.disk.gate.clear()
    future = under.write(1)
    await run_ready_tasks()
    under.write(2)
    under.release(1)
    closing = asyncio.create_task(under.journal.close())
    await run_ready_tasks()
    assert not closing.done()
    under.disk.gate.set()
    await closing
    assert future.done()
    assert under.kept() == [2]
    assert under.disk.closed


async def test_a_value_is_read_back_and_never_a_damaged_one(under: Under) -> None:
    version = under.journal.next_version(0)
    raw = encode(Record(b"k", version, b"value"))
    await under.journal.write(version.seq, raw, 0, lambda *_: None, 60.0)
    assert under.journal.read(version.seq) == b"value"
    under.disk.committed.records[version.seq] = raw[:-1] + b"x"
    with pytest.raises(Damaged):
        under.journal.read(version.seq)
    with pytest.raises(Damaged, match="is gone"):
        under.journal.read(version.seq + 1)


async def test_versions_grow_over_restarts_whatever_the_clock_says(under: Under) -> None:
    given = [under.journal.next_version(0) for _ in range(3)]
    given.append(under.journal.next_version(10**16))
    under.clock.set_wall(1000.0)
    after: Journal[int] = Journal(under.disk.after_crash(), under.clock)
    async for _ in after.replay():
        pass
    assert given == sorted(given)
    newer = after.next_version(0)
    assert newer.seq > max(version.seq for version in given)


async def test_numbers_are_reserved_before_they_are_given(under: Under, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of writes that the journal never sees, of which a restart knows nothing else."""
    monkeypatch.setattr("milena_cache.journal.version_allocator.BLOCK", 100)
    last = Version(0, 0)
    for _ in range(1000):
        version = under.journal.next_version(0)
        assert version > last
        last = version
        if under.journal.versions.due:
            await under.clock.advance(DEFER_SECONDS)
        after: Journal[int] = Journal(under.disk.after_crash(), FakeClock(wall=1000.0))
        assert after.next_version(0).seq > last.seq


# ---- what must not be acknowledged, and metadata that is needed now


async def test_writes_that_must_not_be_acknowledged_are_durable_and_requested_about_once_a_commit() -> None:
    disk = MemoryDisk()
    journal: Journal[int] = Journal(disk, FakeClock())
    async for _ in journal.replay():
        pass
    requested: list[str] = []

    def unacknowledged() -> str:
        requested.append("the lease ended")
        return requested[-1]

    journal.unacknowledged = unacknowledged
    done: list[tuple[int, bool]] = []
    futures = [
        journal.write(seq, b"raw", seq, lambda token, durable: done.append((token, durable)), 5.0) for seq in (1, 2)
    ]
    for future in futures:
        with pytest.raises(NotAcknowledged, match="the lease ended"):
            await future
    assert done == [(1, True), (2, True)]
    assert set(disk.committed.records) == {1, 2}
    assert len(requested) == 1
    await journal.close()


async def test_metadata_that_is_needed_now_is_durable_when_that_is_reported() -> None:
    disk = MemoryDisk()
    journal: Journal[int] = Journal(disk, clock := FakeClock())
    async for _ in journal.replay():
        pass
    assert await journal.store_metadata("promises", "7:6")
    assert disk.committed.metadata["promises"] == "7:6"
    disk.failure = DiskFull("No space left on device")
    assert not await journal.store_metadata("promises", "8:6")
    assert disk.committed.metadata["promises"] == "7:6"
    assert not await journal.store_metadata("promises", "9:6"), "while it is full nothing waits for room"
    disk.failure = None
    await clock.advance(2 * PROBE_SECONDS)
    assert disk.committed.metadata["promises"] == "8:6", "tried again, as all deferred operations are"
    await journal.close()


async def test_writes_that_are_appended_together_are_in_one_commit_whatever_their_size(
    under: Under, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_BATCH_BYTES", 100)
    versions = [under.journal.next_version(0) for _ in range(3)]
    records = [Record(b"%d" % number, version, bytes(80)) for number, version in enumerate(versions)]
    await asyncio.gather(*under.journal.append_all(records, [1, 2, 3], lambda *_: None, 60.0))
    assert [entry.split()[0] for entry in under.disk.log] == ["put", "put", "put", "commit"]
