"""The node's policy for writes, for reads in flight beside them, and when its slots come and go."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.journal.commit import NotAcknowledged
from milena_cache.objects.object_store import Fault
from milena_cache.objects.write_request import Change
from milena_common.api.errors import AccessDenied, ConditionFailed, DeadlineExceeded, OriginUnavailable
from tests.cache.node_under_test import SOON, NodeUnderTest


async def test_a_read_begun_before_a_write_never_overwrites_it() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    t.store.read_gate.clear()
    reader = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    await t.put("k", b"new")
    t.store.read_gate.set()
    assert await reader == ("miss", b"old")  # it came before the write was acknowledged
    assert await t.outcome("k") == ("hit", b"new")


async def test_a_read_begun_during_a_write_never_overwrites_it() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    t.store.gate.clear()
    writer = asyncio.create_task(t.put("k", b"new"))
    await t.store.arrived("put")
    reader = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    t.store.read_gate.clear()
    t.in_s3("k", b"old")
    t.store.gate.set()
    await writer
    t.store.read_gate.set()
    await reader
    assert await t.outcome("k") == ("hit", b"new")


async def test_a_reader_that_comes_after_a_write_does_not_join_a_read_from_before_it() -> None:
    t = NodeUnderTest(max_bytes=0)  # nothing is kept, so that readers must ask
    t.in_s3("k", b"old")
    t.store.read_gate.clear()
    early = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    t.store.write_gate.clear()
    writer = asyncio.create_task(t.put("k", b"new"))
    await t.store.arrived("put")
    during = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get", 2)
    t.store.write_gate.set()
    await writer
    late = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get", 3)
    t.store.read_gate.set()
    assert await late == ("bypass", b"new")
    await asyncio.gather(early, during)


async def test_a_delete_leaves_no_value_behind() -> None:
    t = NodeUnderTest()
    await t.put("k", b"v")
    await t.delete("k")
    assert await t.outcome("k") == ("negative_hit", None)
    await t.delete("never-was")


async def test_writes_of_one_key_happen_in_their_order_and_one_at_a_time() -> None:
    t = NodeUnderTest()
    t.store.gate.clear()
    writers = [asyncio.create_task(t.put("k", b"%d" % i)) for i in range(5)]
    other = asyncio.create_task(t.put("another", b"x"))
    await t.store.arrived("put", 2)
    await asyncio.sleep(0)
    assert sorted(t.store.calls) == [("put", "another"), ("put", "k")]
    t.store.gate.set()
    await asyncio.gather(*writers, other)
    assert await t.outcome("k") == ("hit", b"4")


async def test_a_write_that_was_sent_to_s3_goes_on_when_its_caller_is_cancelled() -> None:
    t = NodeUnderTest()
    t.store.gate.clear()
    writer = asyncio.create_task(t.put("k", b"v"))
    await t.store.arrived("put")
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    with pytest.raises(DeadlineExceeded, match="may still take effect"):
        await t.put("slow", b"v", timeout=0.01)
    t.store.gate.set()
    assert await t.writes.finish(1) == 0
    assert await t.outcome("k") == ("hit", b"v")
    assert await t.outcome("slow") == ("hit", b"v")


async def test_a_write_whose_caller_was_cancelled_in_the_queue_never_happens() -> None:
    """Coming late, it could overwrite what another node has acknowledged meanwhile."""
    t = NodeUnderTest()
    t.store.gate.clear()
    first = asyncio.create_task(t.put("k", b"first"))
    await t.store.arrived("put")
    with pytest.raises(DeadlineExceeded):
        await t.put("k", b"second", timeout=0.01)
    t.store.gate.set()
    await first
    await t.writes.finish(1)
    assert t.store.count("put") == 1
    assert await t.outcome("k") == ("hit", b"first")


@pytest.mark.parametrize("after_effect", [True, False])
async def test_after_a_write_of_unknown_outcome_s3_is_queried(after_effect: bool) -> None:
    t = NodeUnderTest()
    await t.put("k", b"old")
    t.store.fail(Fault.TIMEOUT, after_effect=after_effect)
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"new")
    expected = ("changed", b"new") if after_effect else ("revalidated", b"old")
    assert await t.outcome("k") == expected


async def test_after_a_write_of_unknown_outcome_the_copy_still_helps_when_s3_is_gone() -> None:
    t = NodeUnderTest()
    await t.put("k", b"old")
    t.store.down = Fault.TIMEOUT
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"new")
    assert await t.outcome("k") == ("stale_error", b"old")


@pytest.mark.parametrize("after", [b"new", None], ids=["put", "delete"])
async def test_after_a_failed_condition_has_shown_a_write_nothing_older_is_served(after: bytes | None) -> None:
    """The caller of the condition has seen a write of unknown outcome: from then on it has been carried out."""
    t = NodeUnderTest(mode="back")
    old = await t.put("k", b"old", durability="through")
    t.store.fail(Fault.TIMEOUT, after_effect=True)
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"new", durability="through")
    if after is None:
        t.in_s3("k", None)
    with pytest.raises(ConditionFailed, match="it does not exist" if after is None else "its ETag is"):
        await t.put("k", b"other", if_match=old.etag)
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.get("k")


async def test_after_a_failed_condition_an_entry_that_s3_confirms_still_helps_when_s3_is_gone() -> None:
    t = NodeUnderTest(mode="back")
    await t.put("k", b"old", durability="through")
    t.store.fail(Fault.TIMEOUT)
    with pytest.raises(OriginUnavailable):
        await t.put("k", b"new", durability="through")
    with pytest.raises(ConditionFailed):
        await t.put("k", b"other", if_none_match="*")
    t.store.down = Fault.CONNECT
    assert await t.outcome("k") == ("stale_error", b"old")


async def test_after_a_read_beside_a_failed_write_has_shown_a_version_nothing_older_is_served() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.clock.tick(120)
    t.in_s3("k", b"new")
    t.store.read_gate.clear()
    reader = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    t.store.fail(Fault.DENIED)
    with pytest.raises(AccessDenied):
        await t.put("k", b"other")
    t.store.read_gate.set()
    assert await reader == ("changed", b"new")
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.get("k")


async def test_a_write_that_s3_rejected_leaves_the_entry_as_it_was() -> None:
    t = NodeUnderTest()
    await t.put("k", b"old")
    t.store.fail(Fault.DENIED)
    with pytest.raises(AccessDenied):
        await t.put("k", b"new")
    assert await t.outcome("k") == ("hit", b"old")


# The ring changing.


async def test_a_copy_from_an_earlier_ownership_is_confirmed_first() -> None:
    t = NodeUnderTest()
    await t.put("k", b"mine", owned_since=1)
    assert await t.outcome("k", owned_since=1) == ("hit", b"mine")
    t.in_s3("k", b"theirs")  # another node owned the slot meanwhile
    assert await t.outcome("k", owned_since=7) == ("changed", b"theirs")
    assert await t.outcome("k", owned_since=7) == ("hit", b"theirs")
    t.clock.tick(1)
    assert await t.outcome("k", owned_since=9) == ("revalidated", b"theirs")


async def test_a_copy_from_an_earlier_ownership_is_not_served_when_s3_fails() -> None:
    t = NodeUnderTest()
    await t.put("k", b"mine", owned_since=1)
    t.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await t.get("k", owned_since=7)


async def test_a_read_from_an_earlier_ownership_is_not_joined() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"mine")
    t.store.read_gate.clear()
    early = asyncio.create_task(t.outcome("k", owned_since=1))
    await t.store.arrived("get")
    t.in_s3("k", b"theirs")
    late = asyncio.create_task(t.outcome("k", owned_since=7))
    await t.store.arrived("get", 2)
    t.store.read_gate.set()
    assert await late == ("miss", b"theirs")
    assert await early == ("miss", b"mine")
    assert await t.outcome("k", owned_since=7) == ("hit", b"theirs")


async def test_an_invalidated_key_is_fetched_and_a_read_in_flight_is_not_kept() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.in_s3("k", b"new")
    t.node.invalidate_entry(t.object("k"))
    t.store.read_gate.clear()
    reader = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get", 2)
    t.in_s3("k", b"newer")
    t.node.invalidate_entry(t.object("k"))
    t.store.read_gate.set()
    await reader
    assert await t.outcome("k") == ("miss", b"newer")


async def test_only_acknowledged_writes_are_counted() -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    await t.put("k", b"1")
    begun = t.writes.begin(Change(t.object("k"), b"2"), None, SOON)
    assert isinstance(begun, asyncio.Future)
    await begun
    assert t.writes.acknowledged["back"] == 2
    t.journal.unacknowledged = lambda: "the lease is over"
    with pytest.raises(NotAcknowledged):
        await t.put("k", b"3")
    begun = t.writes.begin(Change(t.object("k"), b"4"), None, SOON)
    assert isinstance(begun, asyncio.Future)
    with pytest.raises(NotAcknowledged):
        await begun
    with pytest.raises(NotAcknowledged):
        await t.put("other", b"5", if_none_match="*")
    assert t.writes.acknowledged == {"back": 2, "memory": 0, "through": 0}
    assert len(t.dirty) == 2  # they are kept
    await t.stop()


async def test_a_write_whose_caller_has_given_up_is_not_counted() -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    begun = t.writes.begin(Change(t.object("k"), b"1"), None, SOON)
    assert isinstance(begun, asyncio.Future)
    begun.cancel()
    t.store.write_gate.clear()
    with pytest.raises(DeadlineExceeded):
        await t.put("through", b"2", durability="through", timeout=0.01)
    await t.clock.advance(1.0)
    t.store.write_gate.set()
    await t.writes.finish(SOON)
    assert t.s3_has("through") == b"2"
    assert t.writes.acknowledged == {"back": 0, "memory": 0, "through": 0}
    await t.stop()
