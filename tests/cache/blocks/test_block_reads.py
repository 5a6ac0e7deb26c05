"""Reads of blocks: each is fetched once, and no read has bytes of two versions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.blocks.block_memory import BlockMemory
from milena_cache.blocks.block_reads import MAX_RUNS, BlockReads, Piece, Replaced
from milena_cache.blocks.layout import GROUP_BLOCKS, Version, blocks_of
from milena_cache.memory.lru import Memory
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, Ref, Stored
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import MilenaError, OriginUnavailable
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.s3.memory_store import MemoryStore, etag_of

BLOCK = 10
REF = Ref("bucket", "k")
VALUE = bytes(number % 251 for number in range(1005))


class Reads:
    """A node's blocks over an S3 that the test changes."""

    def __init__(self, value: bytes = VALUE, max_bytes: int = 10**6) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore("bucket")
        self.store.objects[REF] = value
        self.blocks = BlockReads(self.store, BlockMemory(Memory(10, max_bytes), self.clock), BLOCK, self.clock)

    async def read(self, offset: int, length: int, value: bytes = VALUE) -> Piece:
        return await self.blocks.read_range(version(value), ByteRange(offset, length), 5.0)

    @property
    def gets(self) -> int:
        return self.store.count("get")


def version(value: bytes = VALUE) -> Version:
    return Version(Object(b"k", REF), etag_of(value), len(value))


async def test_blocks_in_a_row_are_one_request_and_are_kept() -> None:
    t = Reads()
    assert await t.read(15, 30) == Piece(VALUE[15:45], 4, True)
    assert t.gets == 1
    assert t.blocks.find_range(version(), ByteRange(10, 40)) == VALUE[10:50]
    assert t.blocks.find_range(version(), ByteRange(10, 41)) is None
    assert await t.read(10, 40) == Piece(VALUE[10:50], 0, False)
    assert (t.blocks.fetched, t.blocks.requests, t.blocks.hits, t.blocks.joined) == (4, 1, 8, 0)
    # The gaps on both sides of what is there, and the short block at the end of the object.
    assert await t.read(0, 60) == Piece(VALUE[:60], 2, True)
    assert t.gets == 3
    assert await t.read(1001, 4) == Piece(VALUE[1001:], 1, True)


async def test_a_long_run_is_divided_and_has_few_requests_in_flight() -> None:
    t = Reads()
    t.store.gate.clear()
    reading = asyncio.create_task(t.read(0, len(VALUE)))
    await run_ready_tasks()
    assert t.gets == MAX_RUNS
    t.store.gate.set()
    assert (await reading).value == VALUE
    assert t.gets == -(-101 // GROUP_BLOCKS)


async def test_reads_share_the_blocks_that_are_in_flight() -> None:
    t = Reads()
    t.store.gate.clear()
    readings = [asyncio.create_task(t.read(offset, 35)) for offset in (0, 10, 20, 0)]
    await run_ready_tasks()
    t.store.gate.set()
    assert [(await each).value for each in readings] == [VALUE[at : at + 35] for at in (0, 10, 20, 0)]
    assert t.blocks.fetched == 6
    assert t.gets == 3


async def test_a_reader_that_gives_up_cancels_nothing_for_others() -> None:
    t = Reads()
    t.store.gate.clear()
    first, second = asyncio.create_task(t.read(0, 5)), asyncio.create_task(t.read(3, 5))
    await run_ready_tasks()
    first.cancel()
    await run_ready_tasks()
    t.store.gate.set()
    assert await second == Piece(VALUE[3:8], 0, True)
    assert t.gets == 1


async def test_what_is_read_ahead_is_fetched_once_and_in_memory_when_it_is_read() -> None:
    t = Reads()
    t.store.gate.clear()
    t.blocks.read_ahead(version(), ByteRange(0, 80))
    t.blocks.read_ahead(version(), ByteRange(0, 80))
    joined = asyncio.create_task(t.read(0, 15))
    await run_ready_tasks()
    assert t.gets == 8, "each block has a request of its own, and all are sent at once"
    t.store.gate.set()
    assert await joined == Piece(VALUE[:15], 0, True)
    await run_ready_tasks()
    assert len(t.blocks.memory.ahead) == 6, "those that nothing has read yet"
    assert t.blocks.find_range(version(), ByteRange(0, 80)) == VALUE[:80]
    assert (t.gets, len(t.blocks.memory.ahead)) == (8, 0)
    assert (t.blocks.ahead, t.blocks.ahead_joined, t.blocks.memory.ahead_used) == (8, 2, 6)


async def test_blocks_that_nothing_reads_take_a_share_of_the_memory() -> None:
    t = Reads(max_bytes=800)  # of which blocks have half, and those that are not read yet a quarter of that
    for number in range(5):
        t.blocks.read_ahead(version(), ByteRange(20 * number, 20))
        await run_ready_tasks()
    assert t.gets == 10


async def test_a_read_ahead_that_fails_is_forgotten() -> None:
    t = Reads()
    del t.store.objects[REF]
    t.blocks.read_ahead(version(), ByteRange(0, 20))
    await run_ready_tasks()
    t.store.objects[REF] = VALUE
    assert await t.read(0, 20) == Piece(VALUE[:20], 2, True)


async def test_a_read_whose_time_is_over_ends_and_what_it_requested_is_kept() -> None:
    t = Reads()
    t.store.gate.clear()
    with pytest.raises(OriginUnavailable, match="timeout"):
        await t.blocks.read_range(version(), ByteRange(0, 5), 0.01)
    t.store.gate.set()
    await run_ready_tasks()
    assert t.blocks.find_range(version(), ByteRange(0, 10)) == VALUE[:10]


@pytest.mark.parametrize("newer", [VALUE[::-1], VALUE + b"x", None])
async def test_another_version_or_none_ends_the_read(newer: bytes | None) -> None:
    t = Reads()
    await t.read(0, 10)
    if newer is None:
        del t.store.objects[REF]
    else:
        t.store.objects[REF] = newer
    with pytest.raises(Replaced):
        await t.read(5, 10)
    assert await t.read(0, 10) == Piece(VALUE[:10], 0, False), "a block does not change"


async def test_a_store_that_ignores_conditions_is_found_out() -> None:
    t = Reads()
    get = t.store.get

    async def unconditional(ref: Ref, **options: object) -> object:
        return await get(ref, **{**options, "if_match": ""})  # type: ignore[arg-type]

    t.store.get = unconditional  # type: ignore[method-assign, assignment]
    t.store.objects[REF] = VALUE[::-1]
    with pytest.raises(Replaced):
        await t.read(0, 10)
    t.store.objects[REF] = VALUE + b"x"
    with pytest.raises(Replaced):
        await t.read(0, 10)


def with_buffers(t: Reads, chosen: Callable[[], bool] = lambda: True) -> None:
    """Have S3's client return parts as it has received them, as it does large ones."""
    get = t.store.get

    async def buffered(ref: Ref, **options: object) -> object:
        got = await get(ref, **options)  # type: ignore[arg-type]
        if not isinstance(got, Stored) or not chosen():
            return got
        return Stored(b"", got.etag, size=got.size, buffer=memoryview(got.value))

    t.store.get = buffered  # type: ignore[method-assign, assignment]


async def test_what_s3s_client_has_received_is_copied_when_it_is_read_and_once() -> None:
    t = Reads()
    with_buffers(t)
    t.blocks.read_ahead(version(), ByteRange(0, 20))
    await run_ready_tasks()
    block, other = blocks_of(version(), ByteRange(0, 20), BLOCK)
    assert isinstance(t.blocks.memory.get(block), memoryview)
    assert t.blocks.find_range(version(), ByteRange(3, 4)) == VALUE[3:7]
    assert t.blocks.find_range(version(), ByteRange(5, 10)) == VALUE[5:15]
    first, second = (t.blocks.find_range(version(), ByteRange(0, 10)) for _ in range(2))
    assert type(first) is bytes
    assert first == VALUE[:10]
    assert second is first
    assert isinstance(t.blocks.memory.get(other), memoryview)
    before = t.blocks.memory.bytes
    assert (await t.read(10, 10)) == Piece(VALUE[10:20], 0, False)
    assert t.blocks.memory.bytes == before


async def test_no_block_keeps_the_others_of_its_request_in_memory() -> None:
    t = Reads()
    with_buffers(t)
    assert (await t.read(0, 30)).value == VALUE[:30]
    assert all(
        isinstance(t.blocks.memory.get(block), bytes) for block in blocks_of(version(), ByteRange(0, 30), BLOCK)
    )


async def test_a_response_that_is_too_short_is_not_kept() -> None:
    t = Reads()
    get = t.store.get

    async def short(ref: Ref, **options: object) -> object:
        got = await get(ref, **options)  # type: ignore[arg-type]
        assert isinstance(got, Stored)
        return Stored(got.value[:-1], got.etag, size=got.size)

    t.store.get = short  # type: ignore[method-assign, assignment]
    with pytest.raises(OriginUnavailable, match="9 bytes in place of the 10"):
        await t.read(0, 10)
    assert len(t.blocks.memory) == 0


async def test_a_failure_reaches_all_readers_and_is_not_kept() -> None:
    t = Reads()
    t.store.gate.clear()
    t.store.fail(Fault.SERVER)
    readings = [asyncio.create_task(t.read(0, 5)) for _ in range(2)]
    await run_ready_tasks()
    t.store.gate.set()
    for each in readings:
        with pytest.raises(OriginUnavailable):
            await each
    assert (await t.read(0, 5)).value == VALUE[:5]


async def test_a_part_larger_than_the_memory_is_read() -> None:
    t = Reads(max_bytes=3800)
    assert (await t.read(0, 1005)).value == VALUE
    assert len(t.blocks.memory) == 2


async def test_requests_in_flight_end_with_the_process() -> None:
    t = Reads()
    t.store.gate.clear()
    reading = asyncio.create_task(t.read(0, 5))
    await run_ready_tasks()
    await t.blocks.cancel_all()
    with pytest.raises(asyncio.CancelledError):
        await reading


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1500, 100_000))
def test_a_read_never_mixes_versions(rng: random.Random, max_bytes: int) -> None:
    """Readers, failures and another writer run in any order; each read is of the version that it names."""

    async def test() -> None:
        values = [bytes([number]) * (200 + number // 2) for number in range(6)]  # some of them of the same size
        t = Reads(values[0], max_bytes)
        with_buffers(t, lambda: rng.random() < 0.5)
        outcomes = {"read": 0, "replaced": 0, "failed": 0}

        async def reader() -> None:
            for _ in range(10):
                value = t.store.objects[REF] if rng.random() < 0.7 else rng.choice(values)
                offset = rng.randrange(len(value))
                part = ByteRange(offset, rng.randint(1, len(value) - offset))
                try:
                    found = t.blocks.find_range(version(value), part)
                    if found is None:
                        found = (await t.blocks.read_range(version(value), part, 5.0)).value
                except Replaced:
                    outcomes["replaced"] += 1
                    continue
                except MilenaError:
                    outcomes["failed"] += 1
                    continue
                assert found == part.of(value)
                outcomes["read"] += 1

        async def writer() -> None:
            for _ in range(30):
                for _ in range(rng.randint(0, 6)):
                    await asyncio.sleep(0)
                chosen = rng.random()
                if chosen < 0.5:
                    t.store.objects[REF] = rng.choice(values)
                elif chosen < 0.6:
                    t.store.fail(Fault.SERVER)
                elif chosen < 0.8:
                    t.store.read_gate.clear()
                else:
                    t.store.read_gate.set()
            t.store.read_gate.set()

        await asyncio.gather(writer(), *(reader() for _ in range(4)))
        assert sum(outcomes.values()) == 40
        assert t.blocks.memory.bytes <= t.blocks.memory.max_bytes

    asyncio.run(test())
