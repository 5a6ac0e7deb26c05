"""The blocks in memory share LRU_BYTES with the entries."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.blocks.block_memory import BLOCK_OVERHEAD, IDLE_SECONDS, BlockMemory
from milena_cache.blocks.layout import Block
from milena_cache.memory.lru import Memory
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry
from tests.support.fake_clock import FakeClock

LIMIT = 20_000
# What one block of 1000 bytes takes.
ONE = 1000 + 1 + 3 + BLOCK_OVERHEAD


def block(number: int) -> Block:
    return Block(b"k", '"e"', 10**6, number)


def entry(size: int) -> Entry:
    return Entry(bytes(size), "", 0.0, 0)


def test_the_least_recently_used_block_is_evicted_beyond_half_of_the_memory() -> None:
    blocks = BlockMemory(Memory(100, LIMIT), FakeClock())
    fitting = LIMIT // 2 // ONE
    for number in range(fitting):
        assert blocks.store(block(number), bytes(1000))
    assert blocks.get(block(0)) == bytes(1000)
    assert blocks.store(block(fitting), bytes(1000))
    assert (block(0) in blocks, block(1) in blocks, len(blocks), blocks.evictions) == (True, False, fitting, 1)
    assert blocks.get(block(1)) is None


def test_blocks_that_were_read_ahead_are_counted_as_used_or_evicted_unread_once() -> None:
    blocks = BlockMemory(Memory(100, LIMIT), FakeClock())
    fitting = LIMIT // 2 // ONE
    for number in range(fitting):
        blocks.store(block(number), bytes(1000))
        blocks.ahead.add(block(number))
    for _ in range(2):
        blocks.get(block(0))
    assert (blocks.ahead_used, blocks.ahead_unused) == (1, 0)
    for number in range(fitting, 2 * fitting):
        blocks.store(block(number), bytes(1000))
    assert (blocks.ahead_used, blocks.ahead_unused, blocks.ahead) == (1, fitting - 1, set())


def test_a_block_that_is_too_large_is_not_kept() -> None:
    memory = Memory(100, LIMIT)
    blocks = BlockMemory(memory, FakeClock())
    assert not blocks.store(block(0), bytes(LIMIT))
    assert (len(blocks), blocks.bytes, memory.bytes) == (0, 0, 0)


def test_a_block_that_is_stored_again_counts_once() -> None:
    memory = Memory(100, LIMIT)
    blocks = BlockMemory(memory, FakeClock())
    blocks.store(block(0), bytes(1000))
    blocks.store(block(0), bytes(1000))
    assert blocks.bytes == memory.bytes == memory.lent == ONE


def test_blocks_evict_entries_and_unused_blocks_make_room_for_entries() -> None:
    clock = FakeClock()
    memory = Memory(100, LIMIT)
    blocks = BlockMemory(memory, clock)
    cost = 1000 + 2 + ENTRY_OVERHEAD
    for number in range(LIMIT // cost):
        memory.store(b"%02d" % number, entry(1000))
    for number in range(LIMIT // 2 // ONE):
        blocks.store(block(number), bytes(1000))
    assert len(memory) == (LIMIT - blocks.bytes) // cost
    full, entries = len(blocks), len(memory)
    memory.store(b"xx", entry(1000))
    assert (len(blocks), len(memory)) == (full, entries), "another entry was evicted"
    clock.tick(IDLE_SECONDS)
    blocks.get(block(0))
    for number in range(100):
        memory.store(b"%02d" % number, entry(1000))
    assert (len(blocks), block(0) in blocks) == (1, True)
    assert len(memory) == (LIMIT - ONE) // cost


def test_a_large_entry_takes_the_room_of_blocks() -> None:
    memory = Memory(100, LIMIT)
    blocks = BlockMemory(memory, FakeClock())
    for number in range(6):
        blocks.store(block(number), bytes(1000))
    assert memory.store(b"large", entry(LIMIT - 2 * ONE - ENTRY_OVERHEAD - 5))
    assert (len(blocks), len(memory), memory.bytes <= LIMIT) == (2, 1, True)
    assert memory.store(b"large", entry(LIMIT - ENTRY_OVERHEAD - 5))
    assert (len(blocks), len(memory), memory.bytes) == (0, 1, LIMIT)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["block", "entry", "remove", "get", "tick"]), st.integers(0, 9), st.integers(0, 15_000)
        ),
        max_size=60,
    )
)
def test_the_bytes_are_those_of_all_blocks_and_entries_and_within_the_limit(
    course: list[tuple[str, int, int]],
) -> None:
    clock = FakeClock()
    memory = Memory(5, LIMIT)
    blocks = BlockMemory(memory, clock)
    for what, number, size in course:
        if what == "block":
            kept = blocks.store(block(number), bytes(number * 1200))  # a block never changes
            assert kept is (block(number) in blocks)
        elif what == "entry":
            assert memory.store(b"%d" % number, entry(size)) is (b"%d" % number in memory)
        elif what == "remove":
            memory.remove(b"%d" % number)
        elif what == "get":
            blocks.get(block(number))
        else:
            clock.tick(size / 10)
        lent = sum(number * 1200 + 4 + BLOCK_OVERHEAD for number in range(10) if block(number) in blocks)
        entries = sum(1 + ENTRY_OVERHEAD + found.size for key in memory if (found := memory.peek(key)) is not None)
        assert (blocks.bytes, memory.lent, memory.bytes) == (lent, lent, lent + entries)
        assert memory.bytes <= LIMIT
        assert lent <= LIMIT // 2
