"""Read, decide, write, with nothing in between."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.entry import Entry
from milena_cache.objects.expiry import NEVER
from milena_cache.objects.object_store import Fault
from milena_cache.reads.read_modify_write import DELETE, KEEP, MAX_ROUNDS, NewValue, Otherwise
from milena_common.api.durability import DURABILITIES, Durability
from milena_common.api.errors import DeadlineExceeded, OriginUnavailable, Unavailable
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

CLASSES = pytest.mark.parametrize("durability", DURABILITIES)


async def started(durability: Durability = "back") -> NodeUnderTest:
    t = NodeUnderTest(mode=durability)
    await t.start()
    return t


def one_more(entry: Entry) -> NewValue:
    return NewValue(b"%d" % (int(entry.value or b"0") + 1), entry.expires_at)


def put_new(entry: Entry) -> NewValue | Otherwise:
    return NewValue(b"new") if entry.value is None else KEEP


@CLASSES
async def test_of_many_at_once_none_is_lost(durability: Durability) -> None:
    t = await started(durability)
    t.in_s3("k", b"7")
    before = await asyncio.gather(*(t.modify("k", one_more) for _ in range(20)))
    assert sorted(int(modified.before.value or b"0") for modified in before) == list(range(7, 27))
    assert {modified.ack.durability for modified in before if modified.ack} == {durability}
    await t.flush()
    assert t.s3_has("k") == b"27"
    await t.stop()


@CLASSES
async def test_of_many_concurrent_creations_one_succeeds(durability: Durability) -> None:
    t = await started(durability)
    before = await asyncio.gather(*(t.modify("k", put_new) for _ in range(20)))
    assert [modified.ack is not None for modified in before].count(True) == 1
    await t.stop()


@CLASSES
async def test_other_writes_come_before_or_after_and_not_in_between(durability: Durability) -> None:
    t = await started(durability)
    t.in_s3("k", b"1")
    t.store.gate.clear()
    modifying = asyncio.create_task(t.modify("k", one_more))
    await t.store.arrived("get")
    put = asyncio.create_task(t.put("k", b"100"))
    await run_ready_tasks()
    assert not put.done()
    t.store.gate.set()
    assert (await modifying).before.value == b"1"
    await put
    assert (await t.get("k")).entry.value == b"100"
    await t.stop()


async def test_a_write_by_another_writer_is_not_overwritten() -> None:
    t = await started("through")
    t.in_s3("k", b"1")
    await t.get("k")
    t.in_s3("k", b"10")
    assert (await t.modify("k", one_more)).before.value == b"10"
    assert t.s3_has("k") == b"11"
    await t.stop()


@CLASSES
async def test_what_is_kept_costs_no_write(durability: Durability) -> None:
    t = await started(durability)
    t.in_s3("k", b"v")
    modified = await t.modify("k", lambda _: KEEP)
    assert (modified.before.value, modified.ack) == (b"v", None)
    assert (await t.modify("gone", lambda _: DELETE)).ack is None
    assert [operation for operation, _ in t.store.calls] == ["get", "get"]
    await t.stop()


@CLASSES
async def test_a_delete(durability: Durability) -> None:
    t = await started(durability)
    t.in_s3("k", b"v")
    modified = await t.modify("k", lambda _: DELETE)
    assert modified.before.value == b"v"
    assert (await t.get("k")).entry.value is None
    await t.flush()
    assert t.s3_has("k") is None
    await t.stop()


@CLASSES
async def test_an_end_is_set_moved_and_taken_away(durability: Durability) -> None:
    t = await started(durability)
    expected = t.object("k")
    assert not await t.node.expire(expected, t.clock.wall() + 10, SOON)
    await t.put("k", b"v")
    for seconds in (10, 20):
        end = t.clock.wall() + seconds
        assert await t.node.expire(expected, end, SOON)
        reply = await t.get("k")
        assert (reply.entry.value, reply.entry.expires_at) == (b"v", end)
        await t.flush()
        assert (t.s3_has("k"), t.expires_at("k")) == (b"v", end)
    assert await t.node.expire(expected, NEVER, SOON)
    await t.flush()
    assert (t.s3_has("k"), t.expires_at("k")) == (b"v", NEVER)
    assert await t.node.expire(expected, t.clock.wall() - 1, SOON)
    assert (await t.get("k")).entry.value is None
    assert not await t.node.expire(expected, NEVER, SOON)
    await t.stop()


async def test_a_caller_that_times_out_gets_an_error_and_the_write_goes_on() -> None:
    t = await started("through")
    await t.put("k", b"1")
    t.store.write_gate.clear()
    with pytest.raises(DeadlineExceeded, match="may still take effect"):
        await t.node.modify(t.object("k"), one_more, 0.02)
    t.store.write_gate.set()
    await run_ready_tasks()
    assert await t.outcome("k") == ("hit", b"2")
    await t.stop()


async def test_what_cannot_be_read_is_not_written() -> None:
    t = await started()
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.modify("k", put_new)
    t.store.down = None
    assert await t.outcome("k") == ("miss", None)
    await t.stop()


async def test_a_conflict_that_no_round_resolves_is_raised_after_a_bounded_number() -> None:
    """A dirty write with a condition, another writer's object in S3, and a change that has to go through S3."""
    t = await started("memory")
    await t.put("k", b"1", durability="through")
    await t.modify("k", one_more)
    t.in_s3("k", b"theirs")
    t.store.calls.clear()
    t.writes.draining = True
    with pytest.raises(Unavailable, match="rounds"):
        await t.modify("k", one_more)
    assert len(t.store.calls) <= 3 * MAX_ROUNDS
    assert t.s3_has("k") == b"theirs"
    await t.stop()
