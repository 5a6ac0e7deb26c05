"""What a node makes of the journal that it finds, whole or damaged."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest

from milena_cache.journal import identity as journal_identity
from milena_cache.journal.lmdb_disk import RECORDS, LmdbDisk, key_of
from milena_cache.journal.record import Record, encode
from milena_cache.objects.object_store import Fault
from milena_cache.objects.version import ABSENT, UNKNOWN, Version
from milena_common.api.errors import AccessDenied, FailedPrecondition
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.memory_disk import Contents, MemoryDisk
from tests.support.s3.memory_store import etag_of

EPOCH = 1_700_000_000_000
FIRST = 1_700_000_000_000_000
WALL = 1_700_000_000.0


def record(number: int, key: str, value: bytes | None, **fields: Any) -> Record:
    return Record(key.encode(), Version(EPOCH, FIRST + number), value, written_at=WALL, **fields)


def disk_with(*records: Record) -> MemoryDisk:
    return MemoryDisk(Contents({each.version.seq: encode(each) for each in records}))


def flip(disk: MemoryDisk, number: int, place: int) -> None:
    """Flip all bits of a byte of that record."""
    raw = bytearray(disk.committed.records[FIRST + number])
    raw[place] ^= 0xFF
    disk.committed.records[FIRST + number] = bytes(raw)


def numbers(t: NodeUnderTest) -> list[int]:
    """The records that the disk has."""
    return [seq - FIRST for seq in t.disk.committed.records]


async def started(disk: MemoryDisk, **options: Any) -> NodeUnderTest:
    t = NodeUnderTest(mode="back", disk=disk, **options)
    await t.start()
    return t


IN_KEY, IN_VALUE = 60, -1


# ---- whole


async def test_of_several_records_of_a_key_the_newest_counts_and_the_others_go() -> None:
    disk = disk_with(
        record(1, "k", b"1"),
        record(2, "gone", b"x"),
        record(3, "k", b"3"),
        record(4, "back", None),
        record(5, "gone", None),
        record(6, "k", b"6"),
        record(7, "back", b"7"),
    )
    t = NodeUnderTest(mode="back", disk=disk)
    t.in_s3("gone", b"old")
    found = await t.start()
    assert found.records == 7
    assert numbers(t) == [5, 6, 7]
    assert len(t.dirty) == 3
    assert await t.outcome("k") == ("hit", b"6")
    assert await t.outcome("back") == ("hit", b"7")
    assert await t.outcome("gone") == ("negative_hit", None)
    await t.clock.advance(5)
    assert [t.s3_has(key) for key in ("k", "back", "gone")] == [b"6", b"7", None]
    assert numbers(t) == []
    assert t.store.count("put") == 2, "older values are not uploaded"


async def test_what_a_record_says_is_what_the_entry_knows() -> None:
    base = etag_of(b"old")
    t = await started(
        disk_with(
            record(1, "known", b"v", base=base, conditional=True),
            record(2, "absent", b"v", base=ABSENT),
            record(3, "unknown", None),
        ),
        delay=1000.0,
    )
    known, absent, unknown = (t.dirty.get(key) for key in (b"known", b"absent", b"unknown"))
    assert (known.belief.base, known.belief.conditional, known.size) == (base, True, 1)
    assert (absent.belief.base, absent.belief.conditional, absent.deleted) == (ABSENT, False, False)
    assert (unknown.belief.base, unknown.deleted, unknown.size) == (UNKNOWN, True, 0)
    assert t.dirty.memory_bytes == 0, "values stay in the journal"


async def test_a_conditional_write_is_still_one_after_a_restart() -> None:
    disk = disk_with(record(1, "k", b"mine", base=etag_of(b"1"), conditional=True))
    t = NodeUnderTest(mode="back", disk=disk)
    t.in_s3("k", b"2")
    await t.start()
    await t.clock.advance(5)
    assert t.s3_has("k") == b"2"
    assert t.dirty.dead_letters == 1


async def test_a_write_is_as_old_as_when_it_was_acknowledged() -> None:
    clock = FakeClock(wall=WALL + 250)
    t = await started(disk_with(record(1, "k", b"v"), record(2, "j", b"v")), clock=clock, delay=1000.0)
    assert t.clock.now() - t.dirty.oldest_since(t.clock.now()) == 250
    ahead = await started(disk_with(record(1, "k", b"v")), clock=FakeClock(wall=WALL - 250), delay=1000.0)
    assert ahead.clock.now() - ahead.dirty.oldest_since(ahead.clock.now()) == 0


async def test_new_writes_are_later_than_all_that_was_found() -> None:
    t = await started(disk_with(record(10**9, "k", b"v")), clock=FakeClock(wall=1.0), delay=1000.0)
    await t.put("k", b"new")
    assert t.dirty.get(b"k").version > Version(EPOCH, FIRST + 10**9)
    t = await t.crash()
    assert await t.outcome("k") == ("hit", b"new")


async def test_more_than_the_limit_is_taken_and_what_comes_then_goes_through() -> None:
    disk = disk_with(*(record(number, f"k{number}", bytes(100)) for number in range(10)))
    t = await started(disk, dirty_max_bytes=1000, delay=1000.0)
    assert len(t.dirty) == 10
    assert t.dirty.bytes > 1000
    assert (await t.put("more", b"v")).durability == "through"


async def test_an_empty_journal_is_replayed_to_nothing() -> None:
    t = NodeUnderTest(mode="back")
    found = await t.start()
    assert (found.records, len(t.dirty), t.journal.quarantined) == (0, 0, 0)


async def test_pages_of_records_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milena_cache.journal.records.STEP", 3)
    t = await started(disk_with(*(record(number, f"k{number}", b"v") for number in range(10))), delay=1000.0)
    assert len(t.dirty) == 10


# ---- damaged


async def check_withheld(t: NodeUnderTest, key: str) -> None:
    """Neither value nor ETag is returned, and S3 gets it by no operation."""
    for owned_since in (0, 7):
        with pytest.raises(FailedPrecondition, match=r"damaged in the journal.*milena writeback drop"):
            await t.get(key, owned_since)
    with pytest.raises(FailedPrecondition, match="damaged in the journal"):
        await t.put(key, b"x", if_match=etag_of(b"value"))
    assert await t.parts.dead_letters.retry(None) == 0, "there is nothing to try again with"
    await t.clock.advance(600)
    assert ("put", key) not in t.store.calls


async def test_a_damaged_value_is_a_dead_letter_that_rejects_reads(caplog: pytest.LogCaptureFixture) -> None:
    disk = disk_with(record(1, "a", b"1"), record(2, "k", b"value"), record(3, "z", b"3"))
    flip(disk, 2, IN_VALUE)
    t = NodeUnderTest(mode="back", disk=disk)
    t.in_s3("k", b"older")
    await t.start()
    assert [(entry.key, entry.dead and entry.dead.reason) for entry in t.dirty.dead()] == [
        (b"k", "damaged: the journal record: its value of 5 bytes is damaged")
    ]
    assert (t.dirty.damaged, t.journal.quarantined) == (1, 0)
    assert f"journal record {FIRST + 2}: its value of 5 bytes is damaged" in caplog.text
    await check_withheld(t, "k")
    assert t.s3_has("k") == b"older"
    assert (t.s3_has("a"), t.s3_has("z")) == (b"1", b"3"), "others are not kept from going"
    t = await t.crash()
    await check_withheld(t, "k")
    assert numbers(t) == [2]


async def test_a_damaged_value_can_be_dropped() -> None:
    disk = disk_with(record(1, "k", b"value"))
    flip(disk, 1, IN_VALUE)
    t = NodeUnderTest(mode="back", disk=disk)
    t.in_s3("k", b"older")
    await t.start()
    assert await t.parts.dead_letters.drop([b"k"]) == 1
    assert t.dirty.damaged == 0
    assert (await t.get("k")).entry.value == b"older"
    t = await t.crash()
    assert (await t.get("k")).entry.value == b"older"
    assert len(t.dirty) == 0


@pytest.mark.parametrize("durability", ["back", "through", "memory"])
async def test_a_damaged_value_can_be_written_anew(durability: Any) -> None:
    disk = disk_with(record(1, "k", b"value"))
    flip(disk, 1, IN_VALUE)
    t = await started(disk)
    await t.put("k", b"anew", durability=durability)
    assert (await t.get("k")).entry.value == b"anew"
    assert t.dirty.damaged == 0
    await t.clock.advance(60)
    assert t.s3_has("k") == b"anew"
    assert numbers(t) == []


async def test_a_damaged_value_can_be_deleted() -> None:
    disk = disk_with(record(1, "k", b"value"))
    flip(disk, 1, IN_VALUE)
    t = await started(disk)
    t.in_s3("k", b"older")
    await t.delete("k")
    await t.clock.advance(60)
    assert t.s3_has("k") is None
    assert numbers(t) == []


async def test_an_older_value_does_not_stand_in_for_a_damaged_one() -> None:
    disk = disk_with(record(1, "k", b"older"), record(2, "k", b"value"))
    flip(disk, 2, IN_VALUE)
    t = await started(disk)
    await check_withheld(t, "k")
    t = await t.crash()
    await check_withheld(t, "k")


async def test_a_damaged_value_that_was_overtaken_does_no_harm() -> None:
    disk = disk_with(record(1, "k", b"older"), record(2, "k", b"value"), record(3, "j", None))
    flip(disk, 1, IN_VALUE)
    t = await started(disk)
    assert (t.dirty.dead_letters, t.dirty.damaged) == (0, 0)
    assert (await t.get("k")).entry.value == b"value"
    await t.clock.advance(5)
    assert t.s3_has("k") == b"value"
    assert numbers(t) == []


async def test_a_value_that_is_damaged_after_the_start_is_found_when_it_is_read() -> None:
    t = NodeUnderTest(mode="back", disk=disk_with(record(1, "k", b"value")))
    t.in_s3("k", b"older")
    await t.start()
    flip(t.disk, 1, IN_VALUE)
    await check_withheld(t, "k")
    assert t.dirty.damaged == 1


async def test_a_record_without_a_key_is_quarantined_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    disk = disk_with(*(record(number, f"k{number}", b"%d" % number) for number in range(1, 5)))
    flip(disk, 2, IN_KEY)
    disk.committed.records[FIRST + 3] = disk.committed.records[FIRST + 3][:30]
    with caplog.at_level(logging.INFO):
        t = await started(disk)
    assert t.journal.quarantined == 2
    assert f"journal record {FIRST + 2}: its head or key is damaged" in caplog.text
    assert f"journal record {FIRST + 3}: has 30 bytes, less than its head" in caplog.text
    assert "2 writes to upload, 0 dead letters, 2 damaged records" in caplog.text
    assert sorted(t.dirty) == [b"k1", b"k4"]
    assert sorted(t.disk.committed.quarantined) == [FIRST + 2, FIRST + 3]
    await t.clock.advance(5)
    assert {ref.key: value for ref, value in t.store.objects.items()} == {"k1": b"1", "k4": b"4"}
    t = await t.crash()
    assert t.journal.quarantined == 2, "until an operator decides"
    await t.parts.dead_letters.drop(None)
    t = await t.crash()
    assert t.journal.quarantined == 0


async def test_a_disk_that_is_full_at_the_start_keeps_nothing_from_being_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = disk_with(record(1, "k", b"1"), record(2, "k", b"2"), record(3, "x", b"3"))
    flip(disk, 3, IN_KEY)
    disk.capacity = 0
    t = await started(disk, delay=10.0)
    assert t.journal.full
    assert (await t.get("k")).entry.value == b"2"
    assert (await t.put("j", b"v")).durability == "through"
    t.disk.capacity = None
    await t.clock.advance(2)
    assert not t.journal.full
    assert numbers(t) == [2]
    assert sorted(t.disk.committed.quarantined) == [FIRST + 3]


# ---- rejected


async def test_rejections_survive_and_serve_reads() -> None:
    t = await started(MemoryDisk())
    t.store.reject = lambda operation, ref: Fault.DENIED if (operation, ref.key) == ("put", "k") else None
    await t.put("k", b"refused")
    await t.put("j", b"taken")
    await t.clock.advance(5)
    dead = [(entry.key, entry.dead) for entry in t.dirty.dead()]
    assert [key for key, *_ in dead] == [b"k"]
    for _ in range(2):
        t = await t.crash()
        assert [(entry.key, entry.dead) for entry in t.dirty.dead()] == dead
        assert (await t.get("k")).entry.value == b"refused"
        await t.clock.advance(600)
        assert t.s3_has("k") is None
        assert t.store.calls.count(("put", "k")) == 1, "not tried again by itself"
    with pytest.raises(AccessDenied):
        await t.put("k", b"through", durability="through")
    t.store.reject = None
    assert await t.parts.dead_letters.retry(None) == 1
    t = await t.crash()
    assert t.dirty.dead_letters == 0, "taken back for good"
    await t.clock.advance(5)
    assert t.s3_has("k") == b"refused"


# ---- the whole path: a real file, another writer's bytes in it, and a node that starts on it

RECORDS_WRITTEN = 30
CHANGED = 13


def value_of(number: int) -> bytes:
    return b"value %d of thirty" % number


async def write_journal(directory: Path) -> list[int]:
    """Thirty acknowledged writes that S3 does not have; the numbers of their records."""
    t = NodeUnderTest(mode="back", disk=LmdbDisk(directory, 10**6), delay=1000.0)  # type: ignore[arg-type]
    await t.start()
    for number in range(RECORDS_WRITTEN):
        await t.put(f"key{number}", value_of(number))
    seqs = [entry.version.seq for entry in t.dirty.values()]
    await t.stop()
    return seqs


def stored(directory: Path, seq: int, change: bytes | None = None) -> bytes:
    """The bytes of a record as LMDB has them; afterwards it has `change`."""
    with lmdb.open(str(directory), max_dbs=4) as env:
        records = env.open_db(RECORDS, create=False)
        with env.begin(db=records, write=True) as txn:
            raw = bytes(txn.get(key_of(seq)) or b"")
            if change is not None:
                txn.put(key_of(seq), change)
    return raw


async def check_start(directory: Path, damage: str) -> str:
    """Start on it, read and upload everything; what became of the changed record: "dead", "aside" or "whole"."""
    t = NodeUnderTest(mode="back", disk=LmdbDisk(directory, 10**6))  # type: ignore[arg-type]
    t.in_s3(f"key{CHANGED}", b"older")
    await t.start()
    became = "dead" if t.dirty.dead_letters else "aside" if t.journal.quarantined else "whole"
    assert t.dirty.damaged + t.journal.quarantined == (became != "whole"), damage
    for number in range(RECORDS_WRITTEN):
        if number == CHANGED and became == "dead":
            with pytest.raises(FailedPrecondition):
                await t.get(f"key{number}")
        elif number == CHANGED and became == "aside":
            assert (await t.get(f"key{number}")).entry.value == b"older", damage
        else:
            assert (await t.get(f"key{number}")).entry.value == value_of(number), damage
    await t.clock.advance(60)
    await run_ready_tasks()
    expected = {f"key{number}": value_of(number) for number in range(RECORDS_WRITTEN)}
    if became != "whole":
        expected[f"key{CHANGED}"] = b"older"
    assert {ref.key: bytes(value) for ref, value in t.store.objects.items()} == expected, damage
    await t.stop()
    return became


async def test_no_damage_to_a_stored_record_is_served_or_uploaded(tmp_path: Path) -> None:
    seqs = await write_journal(tmp_path / "journal")
    raw = stored(tmp_path / "journal", seqs[CHANGED])
    key_expires = len(raw) - len(value_of(CHANGED))
    damages = {"nothing": (raw, "whole")}
    for length in range(0, len(raw), 3):
        damages[f"cut at {length}"] = raw[:length], "dead" if length >= key_expires else "aside"
    for place in range(len(raw)):
        wrong = bytearray(raw)
        wrong[place] ^= 1 << place % 8
        known = place >= key_expires or place in range(56, 60)
        damages[f"flipped at {place}"] = bytes(wrong), "dead" if known else "aside"
    damages["another's record"] = stored(tmp_path / "journal", seqs[CHANGED - 1]), "aside"
    damages["zeros"] = bytes(len(raw)), "aside"
    for number, (damage, (change, expected)) in enumerate(damages.items()):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "journal", directory)
        journal_identity.adopt(directory)
        stored(directory, seqs[CHANGED], change)
        assert await check_start(directory, damage) == expected, damage
        shutil.rmtree(directory)
