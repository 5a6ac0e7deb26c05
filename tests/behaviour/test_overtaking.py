"""Of two writes of one key, the one that was begun later is the one that stays, whichever way each of them goes."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.write_request import Ack, Change
from milena_common.api.durability import Durability
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(mode="back", **options)  # type: ignore[arg-type]
    await t.start()
    return t


def begin(t: NodeUnderTest, value: bytes, durability: Durability | None = None) -> Ack | asyncio.Future[Ack]:
    return t.writes.begin(Change(t.object("k"), value), durability, SOON)


async def the_second_stays(t: NodeUnderTest, *begun: Ack | asyncio.Future[Ack]) -> None:
    for each in begun:
        if not isinstance(each, Ack):
            await each
    assert (await t.get("k")).entry.value == b"2"
    await t.flush()
    assert t.s3_has("k") == b"2"
    await run_ready_tasks()
    assert isinstance(begin(t, b"3", "memory"), Ack)  # nothing waits any more
    await t.stop()


@pytest.mark.parametrize("first", ["through", "back", "memory"])
@pytest.mark.parametrize("second", ["through", "back", "memory"])
async def test_in_whatever_classes_they_are(first: Durability, second: Durability) -> None:
    t = await started()
    await the_second_stays(t, begin(t, b"1", first), begin(t, b"2", second))


async def test_for_the_first_there_was_no_room() -> None:
    t = await started(dirty_max_bytes=5000)
    await the_second_stays(t, begin(t, b"1" * 6000), begin(t, b"2"))


async def test_the_first_has_just_taken_the_place_of_another_in_memory() -> None:
    t = await started()
    for value in (b"x", b"y"):
        assert isinstance(begin(t, value, "memory"), Ack)
    await the_second_stays(t, begin(t, b"1", "through"), begin(t, b"2", "memory"))


@pytest.mark.parametrize("durability", ["back", "memory"])
async def test_what_is_written_while_one_that_has_expired_goes_stays(durability: Durability) -> None:
    t = await started()
    assert (await t.get("k")).entry.value is None  # so S3 need not be asked to delete it
    for seconds in (10, 0.5):
        await t.put("k", b"1", expires_at=t.clock.wall() + seconds)
        await run_ready_tasks()
    t.disk.gate.clear()  # so the first one's record stays, and the upload waits for its going
    await t.clock.advance(3)
    assert len(t.dirty) == 1
    second = begin(t, b"2", durability)
    t.disk.gate.set()
    await t.journal.sync_barrier()
    await run_ready_tasks()
    assert t.dirty.bytes == sum(entry.cost for entry in t.dirty.values())
    await the_second_stays(t, second)
