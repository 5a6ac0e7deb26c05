"""The n-th call to the disk fails, for every n of a run: nothing is acknowledged that is not kept.

Once with a node over fakes, where every call of the journal to its disk fails in turn; once with the real journal,
in a process whose system calls fail.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from milena_cache.journal.disk import DiskFailed, DiskFull
from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import decode
from milena_cache.objects.object_store import Fault
from milena_common.api.durability import Durability
from milena_common.api.errors import AccessDenied, MilenaError
from tests.cache.node_under_test import NodeUnderTest
from tests.faults.harness import journal_writer, strace
from tests.faults.harness.history import History
from tests.faults.harness.journal_writer import FIRST, MAX_BYTES
from tests.support.fake_clock import FakeClock
from tests.support.memory_disk import MemoryDisk

# ---- a node over fakes


class FailingDisk(MemoryDisk):
    """The call number `fails_at` of those that change something raises `error`; with `for_good` those after it too.

    With `too_late`, a commit that fails has happened all the same.
    """

    def __init__(self, fails_at: int, error: Exception, *, for_good: bool = False, too_late: bool = False) -> None:
        super().__init__()
        self._fails_at = fails_at
        self._error = error
        self._for_good = for_good
        self._too_late = too_late

    @property
    def reached(self) -> bool:
        return self.calls >= self._fails_at

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self._fails_at or (self._for_good and self.reached):
            raise self._error

    async def _commit(self) -> None:
        try:
            await super()._commit()
        except DiskFailed:
            if self._too_late:
                self.committed = self._copy(self.open)
            raise


class Script:
    """A run of every kind of write, until its end or the journal's."""

    KEYS = ("a", "b", "c", "d", "refused", "large")

    def __init__(self, disk: FailingDisk) -> None:
        self.disk = disk
        self.node = NodeUnderTest(mode="back", disk=disk, delay=0.2, dirty_memory_bytes=200)
        self.node.store.reject = self._rejection
        self.history = History(self.KEYS, large_bytes=3000)
        self.refusing = True
        self.reached: list[str] = []
        self.errors: list[MilenaError] = []

    def _rejection(self, operation: str, ref: object) -> Fault | None:
        key = getattr(ref, "key", "")
        return Fault.DENIED if self.refusing and (operation, key) == ("put", "refused") else None

    async def write(self, key: str, durability: Durability = "back", *, delete: bool = False) -> None:
        write = self.history.begin(key, delete=delete)
        try:
            if write.value is None:
                ack = await self.node.delete(key, durability=durability)
            else:
                ack = await self.node.put(key, write.value, durability=durability)
        except MilenaError as error:
            self.errors.append(error)
            return
        self.history.acknowledge(write)
        self.reached.append(ack.durability)

    async def read(self, key: str) -> None:
        mark = self.history.mark(key)
        try:
            value = (await self.node.get(key)).entry.value
        except MilenaError:
            return
        self.history.observed(key, value, mark)

    async def run(self) -> None:
        """Until the end, or until the node would stop."""
        await self.node.start()
        for step in self._steps():
            if self.node.journal.failed.is_set():
                return
            running = asyncio.ensure_future(step())
            for _ in range(40):  # a step may wait for the disk, which may wait for the clock
                if running.done():
                    break
                await self.node.clock.advance(0.05)
            await running

    def _steps(self) -> list[Callable[[], Awaitable[object]]]:
        def together(*work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[object]]:
            return lambda: asyncio.gather(*(each() for each in work))

        def put(key: str, durability: Durability = "back") -> Callable[[], Awaitable[None]]:
            return lambda: self.write(key, durability)

        def delete(key: str, durability: Durability = "back") -> Callable[[], Awaitable[None]]:
            return lambda: self.write(key, durability, delete=True)

        def read(key: str) -> Callable[[], Awaitable[None]]:
            return lambda: self.read(key)

        def sleep(seconds: float) -> Callable[[], Awaitable[None]]:
            return lambda: self.node.clock.advance(seconds)

        return [
            put("a"),
            together(put("b"), put("c"), put("refused")),
            together(put("a"), put("a"), read("b")),
            sleep(0.5),
            together(delete("b"), put("large"), put("d"), read("a")),
            read("refused"),
            sleep(0.5),
            put("c", "through"),
            together(put("refused"), delete("a"), put("b")),
            sleep(0.1),
            together(put("a"), read("a"), read("large")),
            sleep(1.2),
            delete("d", "through"),
            together(put("d"), put("large"), put("large")),
            read("refused"),
            delete("large"),
            together(*(put(key) for key in self.KEYS)),
            together(*(read(key) for key in self.KEYS)),
        ]

    async def crash(self) -> None:
        """Kill the node, start the next one, and write down what it returns, and what S3 has in the end."""
        self.node = await self.node.crash()
        self.node.store.reject = None
        for key in self.KEYS:
            mark = self.history.mark(key)
            self.history.observed(key, (await self.node.get(key)).entry.value, mark, "a read after the crash")
        await self.node.parts.dead_letters.retry(None)
        await self.node.clock.advance(60)
        assert len(self.node.dirty) == 0
        for key in self.KEYS:
            self.history.observed(key, self.node.s3_has(key), self.history.mark(key), "S3")


async def run_without_failure() -> Script:
    script = Script(FailingDisk(10**9, DiskFull()))
    await script.run()
    return script


async def test_the_script_has_every_kind_of_write_and_nothing_wrong_in_it() -> None:
    script = await run_without_failure()
    assert script.node.writeback.results["refused"] == 2
    assert set(script.reached) == {"back", "through"}
    assert script.history.acknowledged == script.history.attempted
    assert script.node.writeback.results["uploaded"] > 5
    assert script.node.writeback.results["deleted"] > 0
    assert len(script.node.dirty) > 3, "there is something to lose"
    await script.crash()
    assert script.history.wrong == []


async def every_call() -> range:
    return range(1, (await run_without_failure()).disk.calls + 1)


async def test_a_disk_that_is_full_once_at_any_call_costs_no_acknowledged_write() -> None:
    full = 0
    for n in await every_call():
        script = Script(FailingDisk(n, DiskFull("No space left on device")))
        await script.run()
        assert script.disk.reached
        assert not script.node.journal.failed.is_set(), n
        assert {type(error) for error in script.errors} <= {AccessDenied}, f"{n}: what S3 takes is acknowledged"
        full += script.node.writes.forced["journal_full"]
        await script.node.clock.advance(2)
        assert not script.node.journal.full, n
        assert (await script.node.put("a-new-one", b"v")).durability == "back"
        await script.node.delete("a-new-one", durability="through")
        await script.crash()
        assert script.history.wrong == [], n
    assert full > 100


async def test_a_disk_that_stays_full_from_any_call_on_costs_no_acknowledged_write() -> None:
    for n in await every_call():
        script = Script(FailingDisk(n, DiskFull("No space left on device"), for_good=True))
        await script.run()
        assert not script.node.journal.failed.is_set(), n
        # A call for each of the last writes, and a second try where one waits for room.
        assert script.reached[-6:] == ["through"] * 6 or n > script.disk.calls - 8, n
        await script.crash()
        assert script.history.wrong == [], n


@pytest.mark.parametrize("too_late", [False, True], ids=["nothing of it happened", "it happened"])
async def test_a_disk_that_fails_at_any_call_stops_the_node_and_costs_no_acknowledged_write(too_late: bool) -> None:
    for n in await every_call():
        script = Script(FailingDisk(n, DiskFailed("Input/output error"), too_late=too_late))
        await script.run()
        assert script.node.journal.failed.is_set(), n
        acknowledged = script.history.acknowledged
        for key in script.KEYS:
            await script.write(key)
        assert script.history.acknowledged == acknowledged, f"{n}: acknowledged after the disk failed"
        await script.crash()
        assert script.history.wrong == [], n


# ---- the real journal, in a process whose system calls fail


class Case(NamedTuple):
    """What is done to which call of a run, and how runs may end besides well: what they say of it."""

    inject: str
    says: frozenset[str]


def case(inject: str, *says: str) -> Case:
    return Case(inject, frozenset(says))


# LMDB writes pages with writev, or with pwrite64 if there is one; then fdatasync; then the page that makes them
# valid, with pwrite64 to a descriptor that syncs by itself. If that one fails, LMDB does not go on.
CASES = [
    case("fdatasync:error=EIO", "failed"),
    case("fdatasync:error=ENOSPC", "full"),
    case("writev:error=EIO", "failed"),
    case("writev:error=ENOSPC", "full"),
    case("writev:retval=100", "failed"),
    case("pwrite64:error=EIO", "failed"),
    case("pwrite64:error=ENOSPC", "full", "failed"),
    case("fdatasync:signal=SIGKILL"),
    case("writev:signal=SIGKILL"),
    case("pwrite64:signal=SIGKILL"),
]
MAXIMUM = 100
AT_ONCE = 2


class Logged(NamedTuple):
    """What a writer said before it ended."""

    acknowledged: set[int]
    removed: set[int]
    says: frozenset[str]

    @classmethod
    def of(cls, output: str) -> Logged:
        columns = [line.split() for line in output.splitlines()]
        numbers = {verb: {int(rest[0]) for name, *rest in columns if name == verb} for verb in ("ack", "remove")}
        says = frozenset(word[0] for word in columns) - {"ack", "remove"}
        if "failed" in says:
            assert columns[-1] == ["failed"], "something came after the failure"
        return cls(numbers["ack"], numbers["remove"], says)


def make_empty(directory: Path) -> None:
    async def make() -> None:
        disk = LmdbDisk(directory, MAX_BYTES)
        await disk.close()

    asyncio.run(make())


def check_what_is_there(directory: Path, logged: Logged, what: str) -> None:
    """Without faults: every record is whole, the acknowledged ones are there, and it can be written again."""

    async def check() -> set[int]:
        disk = LmdbDisk(directory, MAX_BYTES)
        there = set()
        for seq, raw in disk.records(-1, 1000):
            number = seq - FIRST
            assert decode(seq, raw)[0] == journal_writer.record(number), what
            there.add(number)
        journal: Journal[int] = Journal(disk, FakeClock())
        async for step in journal.replay():
            assert not any(found.damage for found in step)
        await journal_writer.write(journal, 10_000)
        await journal.close()
        return there

    there = asyncio.run(check())
    assert logged.acknowledged - logged.removed <= there, f"{what}: an acknowledged write is lost"


@pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not())
@pytest.mark.parametrize("case", CASES, ids=[case.inject for case in CASES])
def test_a_system_call_that_fails_costs_no_acknowledged_write(case: Case, tmp_path: Path) -> None:
    def attempt(n: int) -> bool:
        """Whether the run had such a call."""
        what = f"{case.inject}:when={n}"
        directory, log = tmp_path / f"journal{n}", tmp_path / f"calls{n}"
        make_empty(directory)
        program = [sys.executable, "-m", "tests.faults.harness.journal_writer", str(directory)]
        ran = strace.run(what, program, log, directory / DATA_FILE)
        logged = Logged.of(ran.stdout)
        check_what_is_there(directory, logged, what)
        done = strace.injected(log) > 0 or ran.returncode == -9
        if not done:
            assert (ran.returncode, logged.says) == (0, frozenset()), ran.stderr
        elif ran.returncode != -9:
            assert logged.says <= case.says, f"{what}: {ran.stderr}"
            assert ran.returncode == ("failed" in logged.says), ran.stderr
        return done

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for first in itertools.count(1, AT_ONCE):
            assert first < MAXIMUM, "there is no end of calls"
            if not all(pool.map(attempt, range(first, first + AT_ONCE))):
                break
    assert first > 5, "the run has few such calls: the test tests little"


@pytest.mark.skipif(bool(strace.why_not()), reason=strace.why_not())
def test_a_disk_that_stays_full_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    for n in (1, 4):
        directory, log = tmp_path / f"journal{n}", tmp_path / f"calls{n}"
        make_empty(directory)
        program = [sys.executable, "-m", "tests.faults.harness.journal_writer", str(directory)]
        ran = strace.run(f"writev:error=ENOSPC:when={n}+", program, log, directory / DATA_FILE)
        logged = Logged.of(ran.stdout)
        assert logged.says == {"full"}
        assert (len(logged.acknowledged) > 0) == (n > 1)
        check_what_is_there(directory, logged, str(n))
