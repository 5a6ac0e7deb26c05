"""Writes without a coroutine, as the RESP server makes them."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.journal.commit import JournalFailed
from milena_cache.journal.disk import DiskFailed
from milena_cache.objects.write_request import Ack, Change
from milena_common.api.durability import Durability
from milena_common.api.errors import ConditionFailed, DeadlineExceeded, InvalidRequest, MilenaError
from tests.cache.node_under_test import SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of


async def started() -> NodeUnderTest:
    t = NodeUnderTest(mode="back", max_value_bytes=100)
    await t.start()
    return t


def begin(
    t: NodeUnderTest,
    value: bytes | None,
    durability: Durability | None = None,
    timeout: float = SOON,
    **condition: str,
) -> Ack | asyncio.Future[Ack]:
    return t.writes.begin(Change(t.object("k"), value, **condition), durability, timeout)  # type: ignore[arg-type]


async def waited_for(begun: Ack | asyncio.Future[Ack]) -> Ack:
    assert not isinstance(begun, Ack)
    assert not begun.done()
    return await begun


async def test_in_the_class_memory_it_is_acknowledged_at_once() -> None:
    t = await started()
    ack = begin(t, b"v", "memory")
    assert isinstance(ack, Ack)
    assert (ack.durability, ack.etag) == ("memory", etag_of(b"v"))
    assert t.node.lookup(t.object("k")) is not None
    ack = begin(t, None, "memory")
    assert isinstance(ack, Ack)
    assert ack.etag == ""
    await t.stop()


async def test_otherwise_when_it_is_as_durable_as_requested() -> None:
    t = await started()
    t.disk.gate.clear()
    begun = begin(t, b"v")
    await run_ready_tasks()
    assert isinstance(begun, asyncio.Future)
    assert not begun.done()
    t.disk.gate.set()
    assert (await begun).durability == "back"
    assert (await waited_for(begin(t, b"w", "through"))).durability == "through"
    assert t.s3_has("k") == b"w"
    assert (await waited_for(begin(t, b"x", if_match=etag_of(b"w")))).durability == "back"
    with pytest.raises(ConditionFailed):
        await waited_for(begin(t, b"y", if_match=etag_of(b"w")))
    await t.stop()


async def test_behind_a_write_of_its_key_that_waits_it_waits_in_any_class() -> None:
    t = await started()
    t.disk.gate.clear()
    first = begin(t, b"first")
    second = begin(t, b"second", "memory")
    await run_ready_tasks()
    assert isinstance(second, asyncio.Future)
    assert not second.done()
    t.disk.gate.set()
    await waited_for(first)
    assert (await second).durability == "memory"
    assert (await t.get("k")).entry.value == b"second"
    await t.stop()


async def test_where_the_journal_has_no_room_it_goes_through() -> None:
    t = await started()
    t.disk.capacity = 0
    assert (await waited_for(begin(t, b"v"))).durability == "through"
    assert t.s3_has("k") == b"v"
    t.disk.capacity = None
    await t.stop()


async def test_a_value_that_is_too_large_is_rejected_at_once() -> None:
    t = await started()
    with pytest.raises(InvalidRequest):
        begin(t, bytes(101))
    await t.stop()


async def test_a_disk_that_does_not_respond_is_reported() -> None:
    t = await started()
    t.disk.gate.clear()
    with pytest.raises(DeadlineExceeded):
        await waited_for(begin(t, b"v", timeout=0.01))
    t.disk.gate.set()
    await run_ready_tasks()
    assert (await t.get("k")).entry.value == b"v"
    await t.stop()


async def test_a_cancelled_caller_cancels_no_write() -> None:
    t = await started()
    for value, durability in ((b"v", "back"), (b"w", "through")):
        begun = begin(t, value, durability)  # type: ignore[arg-type]
        assert isinstance(begun, asyncio.Future)
        await asyncio.sleep(0)
        begun.cancel()
        await t.writes.finish(SOON)
        await t.journal.sync_barrier()
        await run_ready_tasks()
        assert (await t.get("k")).entry.value == value
    await t.stop()


async def test_the_failure_of_a_write_that_is_not_awaited_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    t = await started()
    begin(t, b"v", if_match=etag_of(b"another"))
    await t.writes.finish(SOON)
    t.disk.failure = DiskFailed("Input/output error")
    begin(t, b"w")
    await asyncio.wait_for(t.journal.failed.wait(), SOON)
    await run_ready_tasks()
    with pytest.raises(JournalFailed):
        begin(t, b"x")
    assert "exception was never retrieved" not in caplog.text
    assert issubclass(JournalFailed, MilenaError)
