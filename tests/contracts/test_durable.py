"""One contract for what makes writes durable before they are acknowledged: `milena_cache.writes.durable`.

Today that is the journal, over LMDB and over the disk in memory that other tests use. `TwoJournals` is here to hold
the Protocol, and its callers, to what is to come: it is done with a write when two journals have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from milena_cache.journal.commit import JournalFull
from milena_cache.journal.disk import Disk, DiskFailed, DiskFull
from milena_cache.journal.group_commit import PROBE_SECONDS, Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import NotDurable, Receipt
from milena_cache.writes.durable import Durable
from milena_common.api.errors import DeadlineExceeded, Unavailable
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.memory_disk import MemoryDisk

Token = str
OnDone = Callable[[Token, bool], None]


class GatedDisk(LmdbDisk):
    """LMDB whose commits wait while `gate` is clear, and fail as `failure` says."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 2**20)
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def _gated(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        await super().commit()

    def commit(self) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._gated())


class TwoJournals:
    """A write is durable when both journals have it; reported in the order of the appends."""

    def __init__(self, own: Journal[int], other: Journal[int]) -> None:
        self._own, self._other = own, other
        self._waiting: dict[int, tuple[Token, OnDone, list[bool], asyncio.Future[None]]] = {}
        self._watchers: list[asyncio.Future[None]] = []

    def rejection(self, key: bytes) -> str:
        return self._own.rejection(key) or self._other.rejection(key)

    def next_version(self, owned_since: int) -> Version:
        return self._own.next_version(owned_since)

    def next_versions(self, owned_since: int, number: int) -> Version:
        return self._own.next_versions(owned_since, number)

    def append(self, record: Record, token: Token, on_done: OnDone, timeout: float) -> asyncio.Future[None]:
        seq = record.version.seq
        both = asyncio.gather(
            *(each.append(record, seq, self._one_done, timeout) for each in (self._other, self._own)),
            return_exceptions=True,
        )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = (token, on_done, [], future)

        def failed(done: asyncio.Future[list[BaseException | None]]) -> None:
            errors = [error for error in done.result() if error is not None]
            if errors and not future.done():
                future.set_exception(errors[0])
                future.exception()

        both.add_done_callback(failed)
        return future

    def append_for(self, receipt: Receipt, record: Record, token: Token, on_done: OnDone, timeout: float) -> None:
        def pass_on(future: asyncio.Future[None]) -> None:
            error = future.exception()
            if not receipt.done():
                if error is None:
                    receipt.set_result(None)
                else:
                    assert isinstance(error, Exception)
                    receipt.set_exception(error)

        self.append(record, token, on_done, timeout).add_done_callback(pass_on)

    def _one_done(self, seq: int, durable: bool) -> None:
        self._waiting[seq][2].append(durable)
        while self._waiting:
            seq, (token, on_done, done, future) = next(iter(self._waiting.items()))
            if len(done) < 2:
                return
            del self._waiting[seq]
            if any(done) and not all(done):
                self.release(seq, b"k")
            on_done(token, all(done))
            if all(done) and not future.done():
                future.set_result(None)
            for watcher in self._watchers:
                if not watcher.done():
                    watcher.set_result(None)
            self._watchers.clear()

    async def wait_commit(self) -> None:
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await watcher

    def release(self, seq: int, key: bytes) -> None:
        for each in (self._own, self._other):
            each.release(seq, key)

    def retired(self, key: bytes, version: Version) -> None:
        """The records are all that there is."""

    async def copies_released(self, key: bytes) -> bool:
        return True

    async def has_released(self, key: bytes) -> bool:
        return all([await each.has_released(key) for each in (self._own, self._other)])


class UnderContract:
    """An implementation, and what it reports. `disks` are those that a write has to be on."""

    def __init__(self, durable: Durable[Token], disks: list[Any], clock: FakeClock) -> None:
        self.durable, self.disks, self.clock = durable, disks, clock
        self.done: list[tuple[Token, bool]] = []
        self.seq = 0  # of the last append

    def append(self, name: str, timeout: float = 60.0) -> asyncio.Future[None]:
        record = Record(b"k", self.durable.next_version(0), name.encode())
        self.seq = record.version.seq
        return self.durable.append(record, name, lambda *done: self.done.append(done), timeout)

    def hold(self, number: int = -1) -> None:
        """Have commits wait, of the last disk by default."""
        self.disks[number].gate.clear()

    def go_on(self) -> None:
        for disk in self.disks:
            disk.gate.set()


async def journal_on(disk: Disk, clock: FakeClock) -> Journal[Any]:
    journal: Journal[Any] = Journal(disk, clock)
    async for _ in journal.replay():
        pass
    return journal


@pytest.fixture(params=["journal on LMDB", "journal in memory", "two journals"])
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UnderContract]:
    clock = FakeClock()
    disks: list[Any]
    if request.param == "two journals":
        disks = [MemoryDisk(), MemoryDisk()]
        journals = [await journal_on(disk, clock) for disk in disks]
        yield UnderContract(TwoJournals(*journals), disks, clock)
    else:
        disks = [GatedDisk(tmp_path) if request.param == "journal on LMDB" else MemoryDisk()]
        journals = [await journal_on(disks[0], clock)]
        yield UnderContract(journals[0], disks, clock)
    for disk in disks:
        disk.gate.set()  # a test that has failed leaves commits waiting
    for each in journals:
        await each.close()


async def test_a_write_is_done_when_it_is_on_every_disk_and_not_before(made: UnderContract) -> None:
    for number in range(len(made.disks)):
        made.hold(number)
        future = made.append(str(number))
        await run_ready_tasks()
        assert (future.done(), made.done[number:]) == (False, [])
        made.go_on()
        await future
        assert made.done[number:] == [(str(number), True)]


async def test_writes_are_reported_in_their_order_before_their_callers_go_on(made: UnderContract) -> None:
    seen: list[list[tuple[Token, bool]]] = []
    made.hold()
    futures = [made.append(str(number)) for number in range(3)]
    for future in futures:
        future.add_done_callback(lambda _: seen.append(list(made.done)))
    await run_ready_tasks()
    futures.append(made.append("3"))  # of the next commit
    made.go_on()
    await asyncio.gather(*futures)
    assert made.done == [(str(number), True) for number in range(4)]
    assert [(str(number), True) in done for number, done in enumerate(seen)] == [True] * 3


async def test_a_write_is_reported_although_its_caller_has_given_up(made: UnderContract) -> None:
    made.hold()
    made.append("given up").cancel()
    await run_ready_tasks()
    assert made.done == []
    made.go_on()
    await made.durable.wait_commit()
    assert made.done == [("given up", True)]


async def test_a_caller_learns_in_time_that_a_write_is_not_durable_yet_and_it_may_become_so(
    made: UnderContract,
) -> None:
    made.hold()
    with pytest.raises(DeadlineExceeded, match="may still take effect"):
        await made.append("late", timeout=0.0)
    assert made.done == []
    made.go_on()
    await made.append("next")
    assert made.done == [("late", True), ("next", True)]


async def test_a_write_that_finds_no_room_leaves_nothing_and_says_why(made: UnderContract) -> None:
    assert made.durable.rejection(b"k") == ""
    made.disks[-1].failure = DiskFull("No space left on device")
    with pytest.raises(NotDurable) as caught:
        await made.append("too much")
    assert (caught.value.reason, made.done) == (JournalFull.reason, [("too much", False)])
    assert made.durable.rejection(b"k") == JournalFull.reason
    made.disks[-1].failure = None
    releasing = asyncio.create_task(made.durable.has_released(b"k"))
    await made.clock.advance(2 * PROBE_SECONDS)
    assert await releasing
    assert all(disk.read_record(made.seq) is None for disk in made.disks)


async def test_what_has_failed_makes_nothing_durable_any_more(made: UnderContract) -> None:
    made.disks[-1].failure = DiskFailed("Input/output error")
    with pytest.raises(Unavailable, match="may still take effect"):
        await made.append("at the failure")
    assert made.done == [("at the failure", False)]
    with pytest.raises(Unavailable, match="Input/output error"):
        await made.append("after it")


async def test_released_records_are_gone_when_that_is_confirmed(made: UnderContract) -> None:
    await made.append("over")
    assert all(disk.read_record(made.seq) is not None for disk in made.disks)
    made.durable.release(made.seq, b"k")
    assert await made.durable.has_released(b"k")
    assert all(disk.read_record(made.seq) is None for disk in made.disks)


async def test_versions_grow_whatever_becomes_of_the_writes(made: UnderContract) -> None:
    first = made.durable.next_version(0)
    await made.append("between")
    later = made.durable.next_version(first.epoch + 5)
    assert first < later < made.durable.next_version(0)
    assert later.epoch == first.epoch + 5
