"""Values that are read back from the journal for several uploads at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from milena_cache.writeback.read_ahead import MAX_BYTES, MAX_VALUES
from tests.cache.node_under_test import NodeUnderTest
from tests.support.memory_disk import MemoryDisk


class Disk(MemoryDisk):
    """Counts the looks into the file, and the records of each."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []

    def read_records(self, seqs: Sequence[int]) -> dict[int, bytes]:
        self.looks.append(len(seqs))
        return super().read_records(seqs)


async def started(disk: MemoryDisk, **options: int) -> NodeUnderTest:
    """Return a node that keeps no value of a dirty entry in memory, and uploads one at a time."""
    t = NodeUnderTest(
        mode="back", concurrency=1, delay=10.0, dirty_memory_bytes=0, dirty_max_bytes=10**8, disk=disk, **options
    )
    await t.start()
    return t


async def test_one_look_reads_the_values_of_many_uploads() -> None:
    disk = Disk()
    t = await started(disk)
    number = 3 * MAX_VALUES
    for each in range(number):
        await t.put(f"k{each}", b"value %d" % each)
    assert (await t.flush()).flushed == number
    assert all(t.s3_has(f"k{each}") == b"value %d" % each for each in range(number))
    assert sum(disk.looks) == number
    assert len(disk.looks) <= 4
    await t.stop()


@pytest.mark.parametrize("size", [MAX_BYTES // 2 + 1, MAX_BYTES + 1])
async def test_large_values_are_read_a_few_at_a_time(size: int) -> None:
    disk = Disk()
    t = await started(disk)
    for each in range(5):
        await t.put(f"k{each}", b"%d" % each * size)
    assert (await t.flush()).flushed == 5
    assert max(disk.looks) <= 1 + MAX_BYTES // size
    assert all(t.s3_has(f"k{each}") == b"%d" % each * size for each in range(5))
    await t.stop()


async def test_a_write_that_came_after_its_predecessor_was_read_is_what_is_uploaded() -> None:
    disk = Disk()
    t = await started(disk)
    for key in ("a", "b"):
        await t.put(key, b"old")
    t.store.gate.clear()
    flushing = asyncio.create_task(t.flush())
    await t.clock.advance(1)
    assert disk.looks == [2], "the upload of a has begun, and the value of b was read with it"
    await t.put("b", b"new")
    t.store.gate.set()
    await flushing
    await t.flush()
    assert (t.s3_has("a"), t.s3_has("b")) == (b"old", b"new")
    await t.stop()


async def test_a_damaged_record_among_them_is_a_dead_letter_and_the_others_are_uploaded() -> None:
    disk = Disk()
    t = await started(disk)
    for key in ("a", "b", "c"):
        await t.put(key, b"value")
    entry = t.dirty.get(b"b")
    assert entry is not None
    for contents in (disk.committed, disk.open):
        raw = contents.records[entry.number]
        contents.records[entry.number] = raw[:-1] + bytes([raw[-1] ^ 1])
    done = await t.flush()
    assert (done.flushed, done.failed) == (3, 1)
    assert [each.key for each in t.dirty.dead()] == [b"b"]
    assert (t.s3_has("a"), t.s3_has("b"), t.s3_has("c")) == (b"value", None, b"value")
    await t.stop()
