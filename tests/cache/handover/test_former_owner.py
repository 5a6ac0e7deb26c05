"""Dirty writes of slots that another node got without a hand-over are merged there, and uploaded by it alone."""

from __future__ import annotations

from milena_cache.handover.former_owner import ACKNOWLEDGE_SECONDS
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


async def test_a_node_that_returns_while_all_with_tombstones_are_gone_brings_back_what_was_deleted() -> None:
    """The one case that tombstones do not cover, as the documents say."""
    c = await lost_slot(delay=1000.0)
    c.cut.add("b")
    await c.publish("a")
    await c["a"].t.put("k", b"2", SINCE)
    await c["a"].t.delete("k", SINCE, durability="through")
    c.cut.add("a")
    c.cut.discard("b")
    c.ring.lose("a")
    c.ring.owners[K] = ("b", c.ring.epoch)
    await c.publish("b")
    assert (await c["b"].t.outcome("k", c.ring.epoch))[1] == b"1"
    await c.stop()


async def taken_back() -> Cluster:
    """b has taken the slot of `k` over from a, which restarts before a router knows that, and keeps the slot.

    a has no lease yet in which it could serve, as long as b has not acknowledged the ring.
    """
    c = Cluster("a", "b", delay=1000.0)
    await c.start()
    await c["a"].t.put("k", b"1", FIRST_EPOCH)
    c.ring.plan([K], "b")
    await c.publish()
    await c.until(lambda: c.server_of("k") == ["b"])
    return c


async def restart_owner(c: Cluster) -> None:
    c.cut.add("a")
    c["a"].t = await c["a"].t.crash(paused=True)
    c.restarted("a")
    c.ring.abort()
    c.ring.owners[K] = ("a", c.ring.epoch)
    await c.publish()


async def test_a_destination_acknowledges_a_ring_that_takes_slots_back_when_it_has_handed_its_writes_in() -> None:
    c = await taken_back()
    before = c.ring.epoch
    await c["b"].t.put("k", b"2", before)
    await restart_owner(c)
    former_owner = c["b"].handover.former_owner
    await c.clock.advance(2)
    assert former_owner.held_epoch == before
    done: list[bool] = []
    former_owner.on_done = lambda: done.append(True)
    c.cut.clear()
    await c.until(lambda: bool(done))
    assert former_owner.held_epoch is None
    assert (await c["a"].t.outcome("k", c.ring.epoch))[1] == b"2"
    assert len(c["b"].t.dirty) == 0
    await c.stop()


async def test_a_delete_that_the_destination_has_uploaded_is_not_undone_by_the_restarted_owner() -> None:
    c = await taken_back()
    await c["b"].t.delete("k", c.ring.epoch, durability="through")
    await restart_owner(c)
    assert len(c["a"].t.dirty) == 1, "its record of the put is in its journal still"
    c.cut.clear()
    await c.until(lambda: c["b"].handover.former_owner.held_epoch is None)
    assert (await c["a"].t.outcome("k", c.ring.epoch))[1] is None
    assert c["a"].t.s3_has("k") is None
    await c.stop()


async def test_an_owner_that_cannot_be_reached_delays_the_acknowledgement_for_a_bounded_time() -> None:
    c = await taken_back()
    await c["b"].t.put("k", b"2", c.ring.epoch)
    await restart_owner(c)
    await c.clock.advance(ACKNOWLEDGE_SECONDS)
    assert c["b"].handover.former_owner.held_epoch is None
    assert c["b"].handover.former_owner.has_foreign_writes
    await c.stop()


async def test_writes_of_a_slot_that_is_to_move_again_are_handed_in_first() -> None:
    c = await taken_back()
    await c["b"].t.put("k", b"2", c.ring.epoch)
    await restart_owner(c)
    c.ring.plan([K], "b")
    c.ring.release_all()
    await c.publish()
    c.cut.clear()
    await c.finish_moves()
    assert (await c["b"].t.outcome("k", c.ring.owners[K][1]))[1] == b"2"
    await c.stop()
