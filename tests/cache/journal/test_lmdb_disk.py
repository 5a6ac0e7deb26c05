"""One contract for every `Disk`, the real one and the one in memory; then what only the real one has to keep."""

from __future__ import annotations

import asyncio
import os
import random
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from milena_cache.journal import lmdb_disk as journal_lmdb
from milena_cache.journal.disk import CannotOpen, Disk, DiskFailed, DiskFull
from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.lmdb_disk import LARGE_BYTES, LmdbDisk
from tests.support.memory_disk import MemoryDisk
from tests.support.processes import ROOT, Process

MIB = 2**20
MAX_BYTES = 100 * MIB
# A process that has a journal open until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from milena_cache.journal.lmdb_disk import LmdbDisk
disk = LmdbDisk(Path(sys.argv[1]), 2**20)
print("open", flush=True)
time.sleep(1000)
"""
# One that reads a journal, and is killed while it does.
STUCK_READER = """
import sys, time
from pathlib import Path
from milena_cache.journal.lmdb_disk import LmdbReader
def look(number, raw):
    print("reads", flush=True)
    time.sleep(1000)
list(LmdbReader(Path(sys.argv[1])).records(look))
"""


class Opener:
    """A disk, and the same one as the next process finds it."""

    def __init__(self, open_first: Callable[[], Disk], open_next: Callable[[Disk], Disk]) -> None:
        self.disk = open_first()
        self._open_next = open_next

    async def begin(self) -> Disk:
        await self.disk.roll_back()
        return self.disk

    async def reopen(self) -> Disk:
        await self.disk.close()
        self.disk = self._open_next(self.disk)
        return self.disk


def next_in_memory(disk: Disk) -> Disk:
    assert isinstance(disk, MemoryDisk)
    return disk.after_crash()


@pytest.fixture(params=["lmdb", "memory"])
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    def on_disk(_: Disk | None = None) -> Disk:
        return LmdbDisk(tmp_path / "journal", MAX_BYTES)

    made = Opener(on_disk, on_disk) if request.param == "lmdb" else Opener(MemoryDisk, next_in_memory)
    yield made
    await made.disk.close()


def numbers(disk: Disk, after: int = -1, limit: int = 1000) -> list[int]:
    return [seq for seq, _ in disk.records(after, limit)]


# ---- the contract


async def test_a_new_disk_is_empty(opener: Opener) -> None:
    disk = opener.disk
    assert disk.metadata() == {}
    assert list(disk.records(-1, 10)) == []
    assert disk.rejections() == {}
    assert disk.damaged() == 0
    await disk.roll_back()
    assert disk.read_record(1) is None


async def test_what_was_committed_is_there_for_the_next_process(opener: Opener) -> None:
    disk = await opener.begin()
    disk.put_record(1, b"one")
    disk.set_metadata("epoch", "7")
    disk.reject_record(1, "AccessDenied: né", 1.5)
    await disk.commit()
    disk.put_record(2, b"two")
    disk.set_metadata("epoch", "8")
    await disk.commit()
    disk = await opener.reopen()
    assert [(seq, bytes(raw)) for seq, raw in disk.records(-1, 10)] == [(1, b"one"), (2, b"two")]
    assert disk.metadata() == {"epoch": "8"}
    assert disk.rejections() == {1: ("AccessDenied: né", 1.5)}
    await disk.roll_back()
    assert disk.read_record(1) == b"one"
    disk.put_record(3, b"three")
    await disk.commit()
    assert disk.read_record(3) == b"three"


async def test_what_was_not_committed_is_neither_read_nor_there_afterwards(opener: Opener) -> None:
    disk = await opener.begin()
    disk.put_record(1, b"one")
    await disk.commit()
    disk.put_record(2, b"two")
    disk.remove_record(1)
    assert (disk.read_record(1), disk.read_record(2)) == (b"one", None)
    assert numbers(await opener.reopen()) == [1]


async def test_a_roll_back_forgets_the_transaction_and_begins_the_next(opener: Opener) -> None:
    disk = await opener.begin()
    disk.put_record(1, b"one")
    disk.put_record(2, b"two")
    disk.set_metadata("epoch", "1")
    await disk.commit()
    disk.put_record(3, b"three")
    disk.put_record(4, bytes(LARGE_BYTES))
    disk.remove_record(1)
    disk.reject_record(2, "no", 1.0)
    disk.quarantine(2)
    disk.set_metadata("epoch", "2")
    await disk.roll_back()
    disk.put_record(5, b"five")
    await disk.commit()
    assert [disk.read_record(seq) for seq in range(1, 6)] == [b"one", b"two", None, None, b"five"]
    disk = await opener.reopen()
    assert (disk.metadata(), disk.rejections(), disk.damaged()) == ({"epoch": "1"}, {}, 0)


async def test_an_empty_transaction_commits(opener: Opener) -> None:
    disk = await opener.begin()
    await disk.commit()
    await disk.commit()
    assert numbers(await opener.reopen()) == []


async def test_records_come_in_the_order_of_their_numbers_a_page_at_a_time(opener: Opener) -> None:
    disk = await opener.begin()
    seqs = [1, 2, 255, 256, 65_535, 65_536, 1_700_000_000_000_000, 2**63]
    for seq in seqs:
        disk.put_record(seq, b"%d" % seq)
        await disk.commit()
    disk = await opener.reopen()
    assert numbers(disk) == seqs
    paged: list[int] = []
    while page := numbers(disk, paged[-1] if paged else -1, 3):
        assert len(page) <= 3
        paged += page
    assert paged == seqs


async def test_removing_takes_out_everything_that_has_the_number(opener: Opener) -> None:
    disk = await opener.begin()
    for seq in (1, 2, 3):
        disk.put_record(seq, b"v")
    disk.reject_record(1, "no", 1.0)
    disk.quarantine(2)
    await disk.commit()
    for seq in (1, 2, 99):
        disk.remove_record(seq)
    await disk.commit()
    disk = await opener.reopen()
    assert (numbers(disk), disk.rejections(), disk.damaged()) == ([3], {}, 0)


async def test_a_process_takes_out_what_an_earlier_one_has_rejected_and_quarantined(opener: Opener) -> None:
    disk = await opener.begin()
    for seq in (1, 2, 3):
        disk.put_record(seq, b"v")
    disk.reject_record(1, "no", 1.0)
    disk.quarantine(2)
    await disk.commit()
    disk = await opener.reopen()
    await disk.roll_back()
    for seq in (1, 2):
        disk.remove_record(seq)
    await disk.commit()
    disk = await opener.reopen()
    assert (numbers(disk), disk.rejections(), disk.damaged()) == ([3], {}, 0)


async def test_several_records_are_read_at_once(opener: Opener) -> None:
    disk = await opener.begin()
    for seq in (1, 2, 300):
        disk.put_record(seq, b"v%d" % seq)
    await disk.commit()
    disk.put_record(301, b"not committed")
    assert disk.read_records([300, 1, 7, 301]) == {300: b"v300", 1: b"v1"}


async def test_a_rejection_can_be_recorded_anew_and_cleared(opener: Opener) -> None:
    disk = await opener.begin()
    for seq in (1, 2):
        disk.put_record(seq, b"v")
        disk.reject_record(seq, "no", 1.0)
    await disk.commit()
    disk.reject_record(1, "still no", 2.0)
    disk.clear_rejection(2)
    await disk.commit()
    disk = await opener.reopen()
    assert (numbers(disk), disk.rejections()) == ([1, 2], {1: ("still no", 2.0), 2: ("", 0.0)})


async def test_a_quarantined_record_is_kept_and_no_record_any_more(opener: Opener) -> None:
    disk = await opener.begin()
    for seq in (1, 2, 3):
        disk.put_record(seq, b"v")
    await disk.commit()
    disk.quarantine(1)
    disk.quarantine(3)
    await disk.commit()
    assert disk.read_record(1) is None
    disk = await opener.reopen()
    assert (numbers(disk), disk.damaged()) == ([2], 2)
    await disk.roll_back()
    disk.drop_quarantined()
    await disk.commit()
    disk = await opener.reopen()
    assert (numbers(disk), disk.damaged()) == ([2], 0)


async def test_records_of_every_size_come_back_and_keep_their_order(opener: Opener) -> None:
    disk = await opener.begin()
    sizes = [0, 1, 4096, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 100, 5 * MIB, 0, 7]
    values = [random.Random(seq).randbytes(size) for seq, size in enumerate(sizes)]
    for seq, value in enumerate(values):
        disk.put_record(seq, value)
    await disk.commit()
    assert [disk.read_record(seq) for seq in range(len(sizes))] == values
    disk = await opener.reopen()
    assert [bytes(raw) for _, raw in disk.records(-1, 100)] == values


async def test_a_record_of_64_mib_comes_back(opener: Opener) -> None:
    disk = await opener.begin()
    value = random.Random(64).randbytes(64 * MIB)
    disk.put_record(1, value)
    disk.put_record(2, b"after")
    await disk.commit()
    assert disk.read_record(1) == value
    assert disk.used_bytes >= len(value)
    disk = await opener.reopen()
    assert numbers(disk) == [1, 2]


async def test_committed_records_are_read_while_a_commit_runs(opener: Opener) -> None:
    disk = await opener.begin()
    disk.put_record(1, b"one")
    await disk.commit()
    disk.put_record(2, bytes(MIB))
    committing = asyncio.ensure_future(disk.commit())
    while not committing.done():
        assert disk.read_record(1) == b"one"
        assert disk.read_record(2) in (None, bytes(MIB))
        await asyncio.sleep(0)
    assert disk.read_record(2) == bytes(MIB)


# ---- the directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "some" / "journal"


def written(directory: Path, values: dict[int, bytes]) -> None:
    async def write() -> None:
        disk = LmdbDisk(directory, MAX_BYTES)
        await disk.roll_back()
        for seq, value in values.items():
            disk.put_record(seq, value)
        await disk.commit()
        await disk.close()

    asyncio.run(write())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_is_made_for_its_user_alone(directory: Path) -> None:
    written(directory, {1: b"v"})
    assert mode_of(directory) == 0o700
    assert mode_of(directory / DATA_FILE) == 0o600
    directory.chmod(0o755)
    written(directory, {2: b"v"})
    assert mode_of(directory) == 0o700, "one that was made by hand, or came with a volume"


async def test_two_in_one_process_cannot_have_it(directory: Path) -> None:
    disk = LmdbDisk(directory, MAX_BYTES)
    for _ in range(2):
        with pytest.raises(CannotOpen, match=rf"{directory}: another process has it \(pid {os.getpid()}\)"):
            LmdbDisk(directory, MAX_BYTES)
    await disk.roll_back()
    disk.put_record(1, b"not disturbed")
    await disk.commit()
    await disk.close()
    await LmdbDisk(directory, MAX_BYTES).close()


async def test_another_process_that_has_it_is_named_and_its_lock_ends_with_it(
    directory: Path, tmp_path: Path
) -> None:
    with Process("holder", ["-c", HOLDER, str(directory)], {"PYTHONPATH": str(ROOT)}, tmp_path) as holder:
        holder.wait_for_log("open")
        with pytest.raises(CannotOpen, match=rf"another process has it \(pid {holder.pid}\); each node needs"):
            LmdbDisk(directory, MAX_BYTES)
        holder.kill()
        disk = LmdbDisk(directory, MAX_BYTES)
        with pytest.raises(CannotOpen, match=f"pid {os.getpid()}"):
            LmdbDisk(directory, MAX_BYTES)
        await disk.close()


def test_a_directory_that_cannot_be_made_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(CannotOpen, match=f"^{file}: File exists$"):
        LmdbDisk(file, MAX_BYTES)
    with pytest.raises(CannotOpen, match=f"^{file}/journal: Not a directory$"):
        LmdbDisk(file / "journal", MAX_BYTES)


def test_a_file_that_is_no_journal_is_said_to_be_none_and_not_held(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / DATA_FILE).write_bytes(b"\x55" * 9000)
    for _ in range(2):
        with pytest.raises(CannotOpen, match=f"^{directory}: data.mdb does not begin as a journal does"):
            LmdbDisk(directory, MAX_BYTES)
    assert (directory / DATA_FILE).read_bytes() == b"\x55" * 9000


# ---- the file


async def test_numbers_that_do_not_grow_are_a_failure(directory: Path) -> None:
    disk = LmdbDisk(directory, MAX_BYTES)
    await disk.roll_back()
    disk.put_record(5, b"v")
    with pytest.raises(DiskFailed, match="record 4 is not above the last one"):
        disk.put_record(4, b"v")
    await disk.roll_back()
    disk.put_record(5, bytes(LARGE_BYTES))
    disk.put_record(4, b"v")
    with pytest.raises(DiskFailed, match="record 4"):
        await disk.commit()
    await disk.close()


def fill(disk: LmdbDisk) -> None:
    for seq in range(2, 40):
        disk.put_record(seq, bytes(60_000))


async def test_a_file_that_may_not_grow_is_full_and_has_room_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_lmdb, "MIN_MAP", 2**20)
    disk = LmdbDisk(directory, 0)
    await disk.roll_back()
    disk.put_record(1, b"kept")
    await disk.commit()
    for _ in range(2):
        with pytest.raises(DiskFull):
            fill(disk)
        await disk.roll_back()
    disk.put_record(2, bytes(2 * MIB))
    with pytest.raises(DiskFull):
        await disk.commit()
    await disk.roll_back()
    disk.put_record(3, b"small")
    await disk.commit()
    assert [disk.read_record(seq) for seq in (1, 2, 3)] == [b"kept", None, b"small"]
    await disk.close()


async def rewrite(disk: LmdbDisk, rounds: int, first: int = 1) -> None:
    """Put a record and take it out again, over and over."""
    for seq in range(first, first + rounds):
        disk.put_record(seq, bytes(200_000))
        await disk.commit()
        disk.remove_record(seq)
        await disk.commit()


async def test_room_is_used_again(directory: Path) -> None:
    disk = LmdbDisk(directory, MAX_BYTES)
    await disk.roll_back()
    await rewrite(disk, 40)
    assert disk.used_bytes < 2 * MIB
    await disk.close()


async def test_a_reader_that_was_killed_does_not_keep_room_for_ever(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_lmdb, "COMMITS_PER_CHECK", 10)
    disk = LmdbDisk(directory, MAX_BYTES)
    await disk.roll_back()
    disk.put_record(1, b"v")
    await disk.commit()
    with Process("reader", ["-c", STUCK_READER, str(directory)], {"PYTHONPATH": str(ROOT)}, tmp_path) as reader:
        reader.wait_for_log("reads")
        reader.kill()
    await rewrite(disk, 100, first=2)
    assert disk.used_bytes < 10 * MIB
    await disk.close()
