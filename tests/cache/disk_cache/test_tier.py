"""The disk cache: what it returns was never replaced, and whatever fails is a miss."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import asynccontextmanager
from math import inf

import pytest

from milena_cache.disk_cache import tier
from milena_cache.disk_cache.record import identity_of
from milena_cache.disk_cache.segments import SegmentLog
from milena_cache.disk_cache.tier import DiskCache
from milena_cache.objects.entry import Entry, ExpiringEntry, entry_of
from tests.cache.disk_cache.memory_files import InlineThreads, MemoryFiles
from tests.support.fake_clock import FakeClock, run_ready_tasks

SEGMENT = 4000
MAX = 10 * SEGMENT
VALUE = b"v" * 200


class CacheUnderTest:
    """A disk cache over fakes."""

    def __init__(
        self, files: MemoryFiles | None = None, *, rate: float = 10**9, clock: FakeClock | None = None
    ) -> None:
        self.files = files or MemoryFiles()
        self.clock = clock or FakeClock()
        self.threads = InlineThreads()
        self.dirty: set[bytes] = set()
        log = SegmentLog(self.files, identity_of("a", "b", "c"), MAX, SEGMENT)
        self.cache = DiskCache(log, self.threads, self.dirty, self.clock, rate)
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> CacheUnderTest:
        self.running = asyncio.create_task(self.cache.run())
        await self.run_all()
        return self

    async def run_all(self) -> None:
        for _ in range(4):
            await run_ready_tasks()

    async def stop(self, *, close: bool = False) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        if close:
            await self.cache.close()

    async def again(self, *, close: bool = False) -> CacheUnderTest:
        """Return the next process on the same disk, after a crash or a stop."""
        await self.stop(close=close)
        return await CacheUnderTest(self.files.after_crash(), clock=self.clock).start()

    def entry(self, value: bytes = VALUE, etag: str = '"1"', owned_since: int = 1, expires_at: float = 0) -> Entry:
        return entry_of(value, etag, self.clock.now(), owned_since, expires_at)

    async def write(self, key: bytes, entry: Entry | None = None) -> None:
        self.clock.tick(1)
        self.cache.evicted(key, entry or self.entry(), True)
        await self.run_all()


@asynccontextmanager
async def running(*args: object, **options: object) -> Iterator[CacheUnderTest]:  # type: ignore[misc]
    """Yield a disk cache that runs."""
    t = await CacheUnderTest(*args, **options).start()  # type: ignore[arg-type]
    try:
        yield t
    finally:
        await t.stop()


async def test_what_was_evicted_is_returned_with_its_stamp() -> None:
    async with running() as t:
        t.clock.tick(1)
        await t.write(b"k", entry := t.entry(expires_at=t.clock.wall() + 1000))
        found = await t.cache.read_copy(b"k")
        assert found is not None
        assert (found.value, found.etag, found.expires_at) == (VALUE, '"1"', entry.expires_at)
        assert found.owned_since == 1
        assert entry.checked_at - 0.1 <= found.checked_at <= entry.checked_at
        assert await t.cache.read_copy(b"other") is None
        assert (t.cache.counts.hits, t.cache.counts.misses) == (1, 1)


async def test_what_is_read_once_is_not_written_and_what_comes_back_is() -> None:
    async with running() as t:
        t.cache.evicted(b"k", t.entry(), False)
        await t.run_all()
        assert b"k" not in t.cache
        t.cache.evicted(b"k", t.entry(), False)
        await t.run_all()
        assert b"k" in t.cache
        assert t.cache.counts.not_admitted == 1


async def test_what_is_on_disk_is_not_written_again_and_gets_the_later_stamp() -> None:
    async with running() as t:
        await t.write(b"k")
        written = t.cache.written_bytes
        await t.write(b"k", later := t.entry())
        assert t.cache.written_bytes == written
        found = await t.cache.read_copy(b"k")
        assert found is not None
        assert found.checked_at > later.checked_at - 0.2


async def test_only_clean_values_that_s3_can_confirm_are_written() -> None:
    async with running() as t:
        t.dirty.add(b"dirty")
        past = t.clock.wall() - 1
        for key, entry in (
            (b"dirty", t.entry()),
            (b"absent", Entry(None, "", t.clock.now(), 1)),
            (b"no etag", t.entry(etag="")),
            (b"expired", t.entry(expires_at=past)),
            (b"doubtful", ExpiringEntry(b"v", '"1"', 0.0, 1, 0.0, indeterminate=True)),
            (b"large", t.entry(b"v" * (SEGMENT // 4))),
            (b"k" * 70_000, t.entry()),
        ):
            await t.write(key, entry)
            assert key not in t.cache
        assert t.cache.written_bytes == 0


async def test_a_copy_is_dropped_with_its_entry_also_while_it_waits_and_while_it_is_written() -> None:
    async with running() as t:
        await t.write(b"on disk")
        t.cache.forget(b"on disk")
        assert await t.cache.read_copy(b"on disk") is None
        t.cache.evicted(b"waits", t.entry(), True)
        t.cache.forget(b"waits")
        t.threads.held = []
        t.cache.evicted(b"being written", t.entry(), True)
        await t.run_all()
        assert len(t.threads.held) == 1
        t.cache.forget(b"being written")
        t.threads.go()
        await t.run_all()
        for key in (b"waits", b"being written"):
            assert await t.cache.read_copy(key) is None
        assert t.cache.queue.bytes == 0


async def test_a_later_version_that_is_evicted_while_an_earlier_one_is_written_is_the_one_that_is_read() -> None:
    async with running() as t:
        t.threads.held = []
        t.cache.evicted(b"k", t.entry(b"earlier"), True)
        await t.run_all()
        t.cache.confirmed(b"k", later := t.entry(b"later", '"2"'))
        t.cache.evicted(b"k", later, True)
        t.threads.go()
        await t.run_all()
        found = await t.cache.read_copy(b"k")
        assert found is not None
        assert found.value == b"later"


async def test_a_copy_that_is_dropped_while_it_is_read_is_not_returned() -> None:
    async with running() as t:
        await t.write(b"k")
        t.threads.held = []
        reading = asyncio.create_task(t.cache.read_copy(b"k"))
        await run_ready_tasks()
        t.cache.forget(b"k")
        t.threads.go()
        assert await reading is None


async def test_what_waits_or_is_being_written_is_read_from_memory() -> None:
    async with running() as t:
        t.threads.held = []
        t.cache.evicted(b"k", t.entry(), True)
        await t.run_all()
        found = await t.cache.read_copy(b"k")
        assert found is not None
        assert found.value == VALUE
        t.threads.go()
        await t.run_all()


async def test_another_version_that_s3_has_drops_the_copy_and_the_same_one_renews_it() -> None:
    async with running() as t:
        for change in ({"etag": '"2"'}, {"expires_at": t.clock.wall() + 5000}, {"etag": ""}, {"value": None}):
            await t.write(b"k")
            t.cache.confirmed(b"k", t.entry(**change))  # type: ignore[arg-type]
            assert await t.cache.read_copy(b"k") is None, change
        await t.write(b"k")
        t.clock.tick(50)
        t.cache.confirmed(b"k", t.entry(owned_since=7))
        found = await t.cache.read_copy(b"k")
        assert found is not None
        assert found.owned_since == 7
        assert found.checked_at > t.clock.now() - 1


async def test_after_a_restart_a_copy_is_older_than_any_until_s3_has_confirmed_it() -> None:
    for close in (False, True):
        first = await CacheUnderTest().start()
        await first.write(b"k")
        second = await first.again(close=close)
        found = await second.cache.read_copy(b"k")
        assert found is not None
        assert (found.value, found.checked_at, found.owned_since) == (VALUE, -inf, -1)
        second.clock.tick(1)
        second.cache.confirmed(b"k", second.entry())
        found = await second.cache.read_copy(b"k")
        assert found is not None
        assert found.owned_since == 1
        await second.stop()


async def test_what_was_dropped_before_a_crash_is_unconfirmed_after_it() -> None:
    first = await CacheUnderTest().start()
    await first.write(b"k", first.entry(b"old"))
    first.cache.forget(b"k")
    second = await first.again()
    found = await second.cache.read_copy(b"k")
    assert found is not None
    assert (found.checked_at, found.owned_since) == (-inf, -1)
    await second.stop()


async def test_what_is_doubted_has_to_be_confirmed_again_also_while_it_waits() -> None:
    async with running() as t:
        await t.write(b"k")
        t.threads.held = []
        t.cache.evicted(b"waits", t.entry(), True)
        await t.run_all()
        t.cache.doubt_all()
        for key in (b"waits", b"k"):
            if key == b"k":
                t.threads.go()
                await t.run_all()
            found = await t.cache.read_copy(key)
            assert found is not None
            assert found.owned_since == -1
        t.clock.tick(1)
        await t.write(b"after it")
        found = await t.cache.read_copy(b"after it")
        assert found is not None
        assert found.owned_since == 1


async def test_a_full_queue_drops_and_counts() -> None:
    async with running() as t:
        t.cache.queue.max_bytes = 1000
        t.threads.held = []
        for number in range(10):
            t.cache.evicted(b"%d" % number, t.entry(), True)
        assert t.cache.queue.bytes <= 1000
        assert t.cache.counts.dropped == 7
        t.threads.go()
        await t.run_all()
        assert t.cache.queue.bytes == 0


async def test_no_more_is_written_than_the_rate_allows() -> None:
    async with running(rate=1000.0) as t:
        for number in range(20):
            t.cache.evicted(b"%d" % number, t.entry(), True)
        for second in range(1, 12):
            await t.clock.advance(1)
            await t.run_all()
            # What is taken at once is one batch, after which the debt is waited for.
            assert t.cache.written_bytes <= 20 * 300
            if second == 2:
                before = t.cache.written_bytes
                t.cache.evicted(b"later", t.entry(), True)
                await t.run_all()
                assert t.cache.written_bytes == before
        assert b"later" in t.cache
        assert t.cache.queue.bytes == 0


async def test_the_oldest_are_dropped_for_room_but_for_those_that_were_read() -> None:
    async with running() as t:
        for number in range(400):
            await t.write(b"%03d" % number)
            assert sum(len(raw) for raw in t.files.contents.values()) <= MAX
            if number % 20 == 0:
                assert await t.cache.read_copy(b"000") is not None
        assert t.cache.counts.reinserted > 0
        assert b"001" not in t.cache
        assert b"399" in t.cache
        assert 100 < len(t.cache) < MAX // len(VALUE)
        assert t.cache.written_bytes < 1.25 * 400 * (len(VALUE) + 60)
        assert len(t.files.open_files) == len(t.files.contents)


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_record_that_is_written_again_for_room_is_dropped_by_what_comes_meanwhile(dropped: bool) -> None:
    async with running() as t:
        for key in (b"k", *(b"%d" % number for number in range(9))):
            await t.write(key)
        assert await t.cache.read_copy(b"k") is not None
        t.threads.held = []
        dropping = asyncio.create_task(t.cache._drop_oldest())
        # The segment is completed, and its table read; then the record waits for being read.
        for _ in range(2):
            await t.run_all()
            t.threads.go()
            t.threads.held = []
        await t.run_all()
        assert len(t.threads.held) == 1
        if dropped:
            t.cache.forget(b"k")
        t.threads.go()
        await dropping
        await t.run_all()
        assert (await t.cache.read_copy(b"k") is None) is dropped
        assert t.cache.counts.reinserted == (not dropped)


async def test_a_damaged_record_is_a_miss_and_counted() -> None:
    async with running() as t:
        await t.write(b"k")
        (raw,) = t.files.contents.values()
        raw[-5] ^= 1
        assert await t.cache.read_copy(b"k") is None
        assert t.cache.counts.damaged == 1
        assert b"k" not in t.cache
        assert t.cache.works


async def test_any_error_of_any_operation_switches_it_off_and_nothing_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def use(files: MemoryFiles) -> CacheUnderTest:
        t = await CacheUnderTest(files).start()
        for number in range(150):
            await t.write(b"%03d" % number)
            found = await t.cache.read_copy(b"%03d" % (number // 2))
            assert found is None or found.value == VALUE
        await t.cache.save((b"saved",), lambda _: t.entry(), t.clock.now() + 10)
        await t.stop(close=True)
        return t

    earlier = await use(MemoryFiles())
    left = earlier.files.after_crash()
    calls = (await use(left.after_crash())).files.calls
    assert calls > 150
    for number in (*range(1, 40), *range(40, calls, 17)):
        files = left.after_crash()
        files.fail_at, files.failure = number, OSError(errno.ENOSPC, "No space left on device")
        caplog.clear()
        t = await use(files)
        assert t.cache.problem in ("No space left on device", "the node stops"), number
        if t.cache.problem != "the node stops":
            assert t.cache.counts.errors == 1
            assert "switched off until the next start: No space left on device" in caplog.text
            assert t.cache.degraded() == ["disk cache: switched off until the next start: No space left on device"]
            assert len(t.cache) == len(t.cache.queue) == 0
        # What is there then is read by the next process, or is noticed.
        again = await t.again()
        for each in range(150):
            found = await again.cache.read_copy(b"%03d" % each)
            assert found is None or found.value == VALUE
        assert again.cache.works
        await again.stop()


async def test_the_hottest_of_memory_are_written_at_the_end_as_far_as_time_allows() -> None:
    async with running(rate=2000.0) as t:
        memory = {b"%d" % number: t.entry() for number in range(60)}
        t.dirty.add(b"1")
        saving = asyncio.create_task(t.cache.save(list(memory), memory.get, t.clock.now() + 2))
        for _ in range(30):
            await t.clock.advance(0.1)
        assert 1 <= await asyncio.wait_for(saving, 5) < 60
        assert b"0" in t.cache
        assert b"1" not in t.cache


async def test_a_key_that_is_written_while_memory_is_saved_is_not_saved_as_it_was() -> None:
    async with running() as t:
        t.cache.queue.max_bytes = 2 * (SEGMENT // 4)
        memory = {b"%d" % number: t.entry() for number in range(20)}
        t.threads.held = []
        saving = asyncio.create_task(t.cache.save(list(memory), memory.get, t.clock.now() + 100))
        await t.run_all()
        del memory[b"19"]
        t.cache.forget(b"19")
        for _ in range(30):
            t.threads.go()
            t.threads.held = []
            await asyncio.sleep(0.001)
            await t.run_all()
        t.threads.go()
        assert await asyncio.wait_for(saving, 20) == 19
        assert b"19" not in t.cache


async def test_more_reads_than_there_may_be_are_misses_and_a_slow_one_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tier, "MAX_READS", 2)
    monkeypatch.setattr(tier, "READ_SECONDS", 0.0)
    async with running() as t:
        await t.write(b"k")
        t.threads.held = []
        reads = [asyncio.create_task(t.cache.read_copy(b"k")) for _ in range(3)]
        assert await asyncio.gather(*reads) == [None] * 3
        assert (t.cache.counts.busy, t.cache.counts.late) == (1, 2)
        t.threads.go()
        await t.run_all()
        assert await t.cache.read_copy(b"k") is not None


async def test_a_segment_that_is_being_read_is_removed_after_that() -> None:
    async with running() as t:
        await t.write(b"k")
        segment = next(iter(t.cache._log.segments.values()))
        reads = t.threads.held = []
        reading = asyncio.create_task(t.cache.read_copy(b"k"))
        await run_ready_tasks()
        t.threads.held = None
        for number in range(200):
            await t.write(b"%03d" % number)
        assert segment.dropped
        assert segment.name in t.files.contents
        reads[0]()
        await t.run_all()
        assert await reading is None
        assert segment.name not in t.files.contents
        assert len(t.files.open_files) == len(t.files.contents)
