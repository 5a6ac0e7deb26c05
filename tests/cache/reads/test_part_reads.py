"""Parts of objects: cut from what memory has, or from blocks of large ones; never of two versions."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.objects.object_store import Fault, TooLarge
from milena_cache.objects.read_outcomes import HITS, MISSES
from milena_cache.reads.part_reads import MAX_CHANGES, Part
from milena_common.api.byte_range import MAX_PART_BYTES, ByteRange
from milena_common.api.errors import (
    ConditionFailed,
    FailedPrecondition,
    OriginUnavailable,
    RangeNotSatisfiable,
)
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import WithMetadata, etag_of

SMALL, LARGE = b"0123456789", bytes(range(200))


def node(**options: object) -> NodeUnderTest:
    return NodeUnderTest(**{"max_value_bytes": 50, **options})  # type: ignore[arg-type]


async def part(
    t: NodeUnderTest, offset: int, length: int = 0, *, key: str = "k", if_match: str = "", owned_since: int = 0
) -> Part:
    cut = ByteRange(offset, length).within
    found = t.parts.part_reads.read_part(t.object(key), cut, SOON, owned_since, if_match)
    return found if isinstance(found, Part) else await found


def gets(t: NodeUnderTest) -> int:
    return t.store.count("get")


async def test_a_part_of_a_small_object_is_cut_from_the_whole_one_which_is_kept() -> None:
    t = node()
    t.in_s3("k", SMALL)
    first = await part(t, 2, 3)
    assert (first.value, first.size, first.reply.outcome) == (b"234", 10, "miss")
    assert await t.outcome("k") == ("hit", SMALL)
    second = await part(t, -4)
    assert (second.value, second.reply.outcome, second.reply.entry.etag) == (b"6789", "hit", etag_of(SMALL))
    assert gets(t) == 1
    reads = t.node.reads
    assert (reads.hits, reads.misses, reads.hit_bytes, reads.miss_bytes) == (2, 1, 14, 10)


async def test_a_part_in_memory_does_not_await() -> None:
    t = node()
    t.in_s3("k", SMALL)
    await t.get("k")
    assert isinstance(t.parts.part_reads.read_part(t.object("k"), ByteRange(0, 1).within, SOON), Part)


async def test_a_part_of_a_dirty_value_is_cut_from_it() -> None:
    t = node(mode="back")
    await t.start()
    t.in_s3("k", LARGE)
    await part(t, 0, 5)
    await t.put("k", SMALL)
    assert (await part(t, 2, 3)).value == b"234"
    assert (await part(t, 2, 3)).reply.dirty
    await t.delete("k")
    assert (await part(t, 2, 3)).reply.entry.value is None
    await t.stop()


async def test_a_large_part_of_a_large_object_is_rejected_whatever_memory_has() -> None:
    size = MAX_PART_BYTES + 2
    t = node(mode="back", max_value_bytes=10**8, max_bytes=10**8, block_threshold=1000, block_bytes=2**20)
    await t.start()
    t.in_s3("k", bytes(size))
    message = f"{size - 1} bytes of the large object s3://bucket/k; .* {MAX_PART_BYTES} in one reply"
    for read in (None, t.get, t.outcome):
        if read is not None:
            await read("k")  # all of it is in memory then
        with pytest.raises(TooLarge, match=message):
            await part(t, 1)
        assert len((await part(t, 1, MAX_PART_BYTES)).value) == MAX_PART_BYTES
    await t.put("k", bytes(size))
    with pytest.raises(TooLarge, match=message):
        await part(t, 1)
    t.in_s3("small", bytes(1000))
    assert len((await part(t, 1, key="small")).value) == 999
    await t.stop()


async def test_of_a_large_object_the_blocks_that_a_part_touches_are_read_and_kept() -> None:
    t = node()
    t.in_s3("k", LARGE)
    with pytest.raises(FailedPrecondition, match="200 bytes"):
        await t.get("k")
    for offset, length, expected in ((0, 5, LARGE[:5]), (190, 50, LARGE[190:]), (-60, 3, LARGE[140:143])):
        before = gets(t)
        found = await part(t, offset, length)
        assert (found.value, found.size, found.reply.outcome) == (expected, 200, "miss")
        assert gets(t) == before + 1, "its size is known by now"
        t.clock.tick(1)
        again = t.parts.part_reads.read_part(t.object("k"), ByteRange(offset, length).within, SOON)
        assert isinstance(again, Part), "it does not await"
        assert (again.value, again.size, again.reply.outcome) == (expected, 200, "hit")
        assert again.reply.entry.etag == etag_of(LARGE)
        assert again.reply.age > 0
    assert len(t.memory) == 0
    reads = t.node.reads
    assert (reads.outcomes["hit"], reads.outcomes["miss"], reads.hit_bytes, reads.miss_bytes) == (3, 3, 18, 18)


async def test_a_large_object_takes_one_request_more_at_first_and_when_that_is_too_old() -> None:
    t = node()
    t.in_s3("k", LARGE)
    assert (await part(t, 3, 4)).value == LARGE[3:7]
    assert gets(t) == 2
    t.clock.tick(200)
    assert (await part(t, 3, 4)).value == LARGE[3:7]
    assert gets(t) == 3, "its version is confirmed, and its blocks are those of that"


async def test_an_object_over_the_threshold_is_read_in_blocks_and_whole_by_a_get() -> None:
    t = node(max_value_bytes=10**6, block_threshold=100)
    t.in_s3("k", LARGE)
    assert (await part(t, 3, 4)).reply.outcome == "miss"
    assert (len(t.memory), len(t.parts.blocks.memory)) == (0, 1)
    assert await t.outcome("k") == ("miss", LARGE)
    assert (await part(t, 100, 50)).reply.outcome == "hit", "the whole object is in memory now"
    assert len(t.parts.blocks.memory) == 1


async def test_a_get_that_joins_the_read_of_a_part_gets_the_whole_object() -> None:
    t = node(max_value_bytes=10**6, block_threshold=100)
    t.in_s3("k", LARGE)
    t.store.gate.clear()
    reading = asyncio.create_task(part(t, 3, 4))
    await t.store.arrived("get")
    whole = asyncio.create_task(t.outcome("k"))
    await run_ready_tasks()
    t.store.gate.set()
    assert (await whole)[1] == LARGE
    assert (await reading).value == LARGE[3:7]


async def test_an_entry_whose_object_has_become_large_gives_way_to_blocks() -> None:
    t = node()
    t.in_s3("k", SMALL)
    await part(t, 0, 5)
    t.in_s3("k", LARGE)
    t.clock.tick(120)
    before = gets(t)
    assert (await part(t, 0, 5)).value == LARGE[:5]
    assert (await part(t, 7, 5)).value == LARGE[7:12]
    assert gets(t) == before + 2


async def test_of_an_object_that_does_not_fit_into_memory_only_blocks_are_read() -> None:
    t = node(max_value_bytes=10**6, max_bytes=100)
    t.in_s3("k", LARGE)
    assert (await part(t, 3, 4)).value == LARGE[3:7]
    t.store.calls.clear()
    assert (await part(t, 5, 4)).value == LARGE[5:9]
    reads = t.node.reads
    assert (gets(t), reads.outcomes["miss"], reads.miss_bytes, t.parts.origin.counts.bytes_read) == (1, 2, 8, 32)


async def test_a_large_object_that_is_replaced_is_read_as_the_new_one() -> None:
    t = node()
    t.in_s3("k", LARGE)
    await part(t, -5)
    newer = bytes(reversed(range(150)))
    t.in_s3("k", newer)
    t.clock.tick(120)
    found = await part(t, -5)
    assert (found.value, found.size, found.reply.entry.etag) == (newer[-5:], 150, etag_of(newer))
    t.in_s3("k", SMALL)
    t.clock.tick(120)
    assert (await part(t, -5)).value == SMALL[-5:]
    assert await t.outcome("k") == ("hit", SMALL)
    del t.store.objects[t.object("k").ref]
    t.node.invalidate_entry(t.object("k"))
    assert (await part(t, -5)).reply.entry.value is None


async def test_a_large_object_that_is_gone_does_not_exist() -> None:
    t = node()
    t.in_s3("k", LARGE)
    await part(t, 0, 5)
    del t.store.objects[t.object("k").ref]
    assert (await part(t, 100, 5)).reply.entry.value is None
    assert (await part(t, 0, 5)).reply.entry.value is None
    t.in_s3("k", SMALL)
    t.clock.tick(120)
    assert (await part(t, 0, 5)).value == SMALL[:5]


async def test_two_parts_of_two_versions_are_rejected_by_their_etag() -> None:
    t = node()
    for value in (SMALL, LARGE):
        t.in_s3("k", value)
        t.node.invalidate_entry(t.object("k"))
        etag = (await part(t, 0, 5)).reply.entry.etag
        assert (await part(t, 5, 5, if_match=etag)).value == value[5:10]
        t.in_s3("k", value[::-1])
        t.node.invalidate_entry(t.object("k"))
        with pytest.raises(ConditionFailed, match="if_match"):
            await part(t, 5, 5, if_match=etag)
        assert (await part(t, 5, 5, if_match=etag_of(value[::-1]))).value == value[::-1][5:10]
    assert t.node.reads.outcomes["error"] == 0


async def test_a_condition_on_a_newer_version_than_is_remembered_is_looked_up() -> None:
    t = node()
    t.in_s3("k", LARGE)
    await part(t, 0, 5)
    t.in_s3("k", LARGE[::-1])
    assert (await part(t, 0, 5, if_match=etag_of(LARGE[::-1]))).value == LARGE[::-1][:5]
    assert (await part(t, 0, 5)).value == LARGE[::-1][:5]


@pytest.mark.parametrize("value", [SMALL, LARGE, b""])
async def test_a_range_behind_the_end_is_rejected_with_the_size(value: bytes) -> None:
    t = node()
    t.in_s3("k", value)
    for _ in range(2):
        with pytest.raises(RangeNotSatisfiable, match=f"{len(value)} bytes"):
            await part(t, len(value), 5)
    assert t.node.reads.hits + t.node.reads.misses == 2
    assert t.node.reads.outcomes["error"] == 0


async def test_more_than_may_be_in_one_reply_is_rejected_by_its_length() -> None:
    t = node()
    t.in_s3("k", LARGE)
    assert len((await part(t, 0, 50)).value) == 50
    with pytest.raises(FailedPrecondition, match=r"length: the range has 51 bytes.*at most 50 \(MAX_VALUE_BYTES\)"):
        await part(t, 0, 51)
    with pytest.raises(FailedPrecondition, match="length"):
        await part(t, 5)


async def test_an_object_that_changes_all_the_time_ends_in_an_error() -> None:
    t = node()
    t.in_s3("k", LARGE)
    t.store.reject = lambda operation, ref: t.in_s3("k", bytes([len(t.store.calls)]) + LARGE)  # type: ignore[func-returns-value]
    with pytest.raises(OriginUnavailable, match=f"replaced {MAX_CHANGES} times"):
        await part(t, 0, 5)
    assert t.node.reads.outcomes["error"] == 1


async def test_a_failure_of_s3_is_one_error_and_an_entry_is_served_stale() -> None:
    t = node()
    t.in_s3("k", SMALL)
    await part(t, 0, 5)
    t.clock.tick(120)
    t.store.down = Fault.SERVER
    stale = await part(t, 0, 5)
    assert (stale.value, stale.reply.outcome) == (SMALL[:5], "stale_error")
    with pytest.raises(OriginUnavailable):
        await part(t, 0, 5, key="other")
    assert t.node.reads.outcomes["error"] == 1


async def test_a_write_ends_what_is_remembered_of_a_large_object() -> None:
    t = node(mode="through")
    await t.start()
    t.in_s3("k", LARGE)
    await part(t, 0, 5)
    await t.put("k", SMALL)
    found = await part(t, -5)
    assert (found.value, found.size) == (SMALL[-5:], 10)
    await t.stop()


async def test_what_was_remembered_under_another_ownership_is_not_used() -> None:
    t = node()
    t.in_s3("k", LARGE)
    await part(t, 0, 5, owned_since=1)
    before = gets(t)
    await part(t, 0, 5, owned_since=2)
    assert gets(t) == before + 1


async def test_a_large_object_that_has_expired_does_not_exist() -> None:
    t = node()
    other = NodeUnderTest(store=t.store, clock=t.clock)
    await other.put("k", LARGE, expires_at=t.clock.wall() + 10)
    assert isinstance(t.store.objects[t.object("k").ref], WithMetadata)
    assert (await part(t, 0, 5)).value == LARGE[:5]
    t.clock.tick(11)
    assert (await part(t, 0, 5)).reply.entry.value is None


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["read", "replace", "remove", "tick"]), st.integers(-220, 220), st.integers(0, 60)
        ),
        max_size=25,
    )
)
def test_a_part_is_always_of_one_version_and_each_read_has_one_outcome(course: list[tuple[str, int, int]]) -> None:
    """Versions are written by others, so a copy may be served for its time; but never bytes of two versions."""

    async def test() -> None:
        t = node()
        versions: dict[str, bytes] = {}
        reads = 0
        for number, (what, offset, length) in enumerate(course):
            if what == "replace":
                value = bytes((number * 7 + at) % 251 for at in range(abs(offset)))
                versions[etag_of(value)] = value
                t.in_s3("k", value)
            elif what == "remove":
                t.store.objects.pop(t.object("k").ref, None)
            elif what == "tick":
                t.clock.tick(length * 4)
            else:
                reads += 1
                try:
                    found = await part(t, offset, length)
                except (RangeNotSatisfiable, FailedPrecondition):
                    continue
                if found.reply.entry.value is not None:
                    whole = versions[found.reply.entry.etag]
                    assert found.size == len(whole)
                    assert found.value == ByteRange(offset, length).of(whole)
        await t.node.finish()
        counted = t.node.reads
        assert sum(counted.outcomes[outcome] for outcome in (*HITS, *MISSES)) == reads

    asyncio.run(test())
