"""Dirty writes of slots that another node got without a hand-over are merged there, and uploaded by it alone."""

from __future__ import annotations

from milena_common.cluster.slots import slot_of
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster

K = slot_of(b"k")
SINCE = FIRST_EPOCH + 1


async def lost_slot(**options: object) -> Cluster:
    """The slot of `k` was b's, which has a dirty write of it, and is a's now."""
    c = Cluster("a", "b", **{"delay": 0.1, **options})
    c.ring.owners[K] = ("b", FIRST_EPOCH)
    await c.start()
    await c["b"].t.put("k", b"1", FIRST_EPOCH)
    c.ring.epoch += 1
    c.ring.released = c.ring.epoch
    c.ring.owners[K] = ("a", c.ring.epoch)
    return c


async def test_the_owner_gets_the_write_and_uploads_it() -> None:
    c = await lost_slot()
    await c.publish()
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert (await c["a"].t.outcome("k", SINCE))[1] == b"1"
    await c.clock.advance(2)
    assert c["a"].t.s3_has("k") == b"1"
    assert sum(c["b"].t.writeback.results.values()) == 0
    await c.stop()


async def test_an_owner_that_waits_for_the_release_takes_the_write_and_uploads_it_only_after_that() -> None:
    c = await lost_slot()
    c.ring.released = FIRST_EPOCH
    await c.publish()
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert c.server_of("k") == []
    await c.clock.advance(2)
    assert c["a"].t.s3_has("k") is None, "the node that was lost may upload a later one still"
    c.ring.epoch += 1
    c.ring.released = c.ring.epoch
    await c.publish()
    assert (await c["a"].t.outcome("k", SINCE))[1] == b"1"
    await c.clock.advance(2)
    assert c["a"].t.s3_has("k") == b"1"
    await c.stop()


async def test_a_write_that_the_owner_has_a_later_one_of_is_dropped() -> None:
    c = await lost_slot(delay=1000.0)
    await c.publish("a")
    await c["a"].t.put("k", b"2", SINCE)
    await c.publish("b")
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert await c["a"].t.outcome("k", SINCE) == ("hit", b"2")
    await c.stop()


async def test_a_write_that_s3_has_a_later_one_of_is_not_served() -> None:
    c = await lost_slot()
    await c.publish("a")
    await c["a"].t.put("k", b"2", SINCE, durability="through")
    await c.publish("b")
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert (await c["a"].t.outcome("k", SINCE))[1] == b"2"
    await c.clock.advance(2)
    assert c["a"].t.s3_has("k") == b"2"
    await c.stop()


async def test_a_write_that_has_been_merged_already_is_dropped_for_the_tombstone_or_later_write() -> None:
    c = await lost_slot()
    c["a"].handover.merging.superseded = lambda key, version: True
    await c.publish()
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert len(c["a"].t.dirty) == 0
    await c.stop()


async def test_nothing_is_lost_while_the_owner_cannot_be_reached() -> None:
    c = await lost_slot()
    c.cut.add("a")
    await c.publish()
    await c.clock.advance(5)
    assert len(c["b"].t.dirty) == 1
    assert c["b"].t.s3_has("k") is None
    c.cut.clear()
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert (await c["a"].t.outcome("k", SINCE))[1] == b"1"
    await c.stop()


async def test_a_node_that_returns_with_its_journal_hands_in_what_is_there() -> None:
    c = await lost_slot(delay=1000.0)
    c["b"].t = await c["b"].t.crash()
    c.restarted("b")
    await c.publish()
    await c.until(lambda: len(c["b"].t.dirty) == 0)
    assert (await c["a"].t.outcome("k", SINCE))[1] == b"1"
    await c.stop()
