"""Deletes are not undone by nodes that return with older puts: the owners have tombstones of them."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.handover import tombstones as module
from milena_cache.objects.version import Version
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slots import slot_of
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster

K = slot_of(b"k")
WEEK = 7 * 86_400.0
ROUTER = "router:1"


async def lost_node(**options: object) -> Cluster:
    """The node b is lost with a dirty put of k, whose slot is a's then; c is a further node."""
    c = Cluster("a", "b", "c", **{"delay": 0.1, **options})
    c.ring.owners[K] = ("b", FIRST_EPOCH)
    await c.start()
    await c["b"].t.put("k", b"1", FIRST_EPOCH)
    c["b"].t.writeback.paused = lambda: True  # its fence is closed
    c.ring.lose("b")
    c.ring.missing = (MissingNode("b:1", "id-b", "journal-b", 1, 0, 0.0, "lost"),)
    await c.publish("a", "c")
    renewed(c, absent=True)
    return c


def since(c: Cluster) -> int:
    return c.ring.owners[K][1]


def renewed(c: Cluster, *names: str, absent: bool) -> None:
    for name in names or ("a", "c"):
        c[name].handover.tombstones.renewed(ROUTER, absent, 5.0)


async def delete_in_s3(c: Cluster, name: str = "a") -> None:
    """The owner acknowledges a delete of k and uploads it."""
    await c[name].t.delete("k", since(c))
    await c.until(lambda: not len(c[name].t.dirty))
    assert c[name].t.s3_has("k") is None


async def restart(c: Cluster, name: str) -> None:
    """The process is killed, and another one starts on its journal; other nodes go on."""
    c[name].t = await c[name].t.crash(paused=True)
    c.restarted(name)
    for other, member in c.members.items():
        if other != name:
            member.t._running.append(asyncio.create_task(member.t.writeback.run()))


async def return_node(c: Cluster) -> None:
    """b is back, as another process on its journal, and hands in what it has."""
    c.ring.epoch += 1
    c.ring.nodes["b"] = c.ring.nodes["a"]._replace(address="b:1", resp_address="b:2", node_id="id-b")
    c.ring.released = c.ring.epoch
    c.ring.missing = ()
    await restart(c, "b")
    await c.publish()
    await c.until(lambda: b"MILENA.MERGE" in c.requests and not list(c["b"].t.dirty))
    await c.clock.advance(2)


async def test_a_put_of_a_lost_node_does_not_come_back_after_the_delete_was_uploaded() -> None:
    c = await lost_node()
    await delete_in_s3(c)
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    assert (await c["a"].t.outcome("k", since(c)))[1] is None
    assert not len(c["b"].t.dirty)
    await c.stop()


async def test_a_delete_through_to_s3_leaves_a_durable_tombstone_before_it_is_acknowledged() -> None:
    c = await lost_node()
    await c["a"].t.delete("k", since(c), durability="through")
    assert len(c["a"].t.disk.committed.tombstones) == 1
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    await c.stop()


async def begin_delete(c: Cluster, how: str) -> asyncio.Task[object] | None:
    """S3 has a later put of k than b has, and carries out its delete, to which there is no reply."""
    a = c["a"].t
    await a.put(
        "k", b"2", since(c), durability="through", expires_at=c.clock.wall() + 5 if how == "expiry" else 0.0
    )
    c.store.write_gate.clear()
    deleting = None
    if how == "through":
        deleting = asyncio.create_task(a.delete("k", since(c), durability="through"))
    elif how == "memory":
        await a.delete("k", since(c), durability="memory")
    else:
        await c.clock.advance(10)
        assert (await a.outcome("k", since(c)))[1] is None
    await c.until(lambda: c.store.count("delete") == 1)
    assert a.s3_has("k") is None
    return deleting


@pytest.mark.parametrize("how", ["through", "memory", "expiry"])
async def test_a_put_of_a_lost_node_does_not_come_back_if_the_owner_is_killed_while_s3_deletes(how: str) -> None:
    c = await lost_node()
    deleting = await begin_delete(c, how)
    await restart(c, "a")
    c.store.write_gate.set()
    if deleting is not None:
        deleting.cancel()
    await c.publish("a")
    await return_node(c)
    assert (await c["a"].t.outcome("k", since(c)))[1] is None
    assert c["a"].t.s3_has("k") is None
    await c.stop()


@pytest.mark.parametrize("how", ["through", "memory", "expiry"])
async def test_without_an_absent_node_a_delete_waits_for_no_tombstone(how: str) -> None:
    c = await lost_node()
    c.ring.missing = ()
    c.ring.epoch += 1
    await c.publish("a", "c")
    renewed(c, absent=False)
    deleting = await begin_delete(c, how)
    assert not c["a"].t.disk.committed.tombstones
    c.store.write_gate.set()
    if deleting is not None:
        await deleting
    await c.stop()


async def test_a_later_put_that_expired_leaves_a_tombstone_too() -> None:
    c = await lost_node(delay=1.0)
    await c["a"].t.put("k", b"2", since(c), expires_at=c.clock.wall() + 0.5)
    await c.until(lambda: not len(c["a"].t.dirty))
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    await c.stop()


async def test_a_later_put_that_expired_in_s3_and_was_removed_there_leaves_a_tombstone() -> None:
    c = await lost_node()
    await c["a"].t.put("k", b"2", since(c), expires_at=c.clock.wall() + 5)
    await c.until(lambda: not len(c["a"].t.dirty))
    await c.clock.advance(10)
    assert (await c["a"].t.outcome("k", since(c)))[1] is None
    await c.until(lambda: c["a"].t.s3_has("k") is None)
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    await c.stop()


async def test_a_write_after_the_delete_is_not_affected() -> None:
    c = await lost_node()
    await delete_in_s3(c)
    await c["a"].t.put("k", b"3", since(c))
    await return_node(c)
    assert c["a"].t.s3_has("k") == b"3"
    await c.stop()


async def test_tombstones_survive_a_restart_of_the_owner() -> None:
    c = await lost_node()
    await delete_in_s3(c)
    await c.clock.advance(0.2)
    await restart(c, "a")
    await c.publish("a")
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    await c.stop()


async def test_the_tombstone_is_in_the_journal_no_later_than_the_record_is_out_of_it() -> None:
    c = await lost_node()
    disk = c["a"].t.disk
    await c["a"].t.delete("k", since(c))
    assert disk.committed.records
    await c.until(lambda: not disk.committed.records)
    assert disk.committed.tombstones
    await c.stop()


async def test_tombstones_move_with_their_slots() -> None:
    c = await lost_node()
    await delete_in_s3(c)
    c.ring.plan([K], "c")
    await c.publish("a", "c")
    await c.finish_moves()
    assert c["c"].ownership.since[K] == since(c)
    assert (len(c["a"].handover.tombstones), len(c["c"].handover.tombstones)) == (0, 1)
    await return_node(c)
    assert c["c"].t.s3_has("k") is None
    assert (await c["c"].t.outcome("k", since(c)))[1] is None
    await c.stop()


async def test_a_delete_through_during_a_move_is_known_at_the_destination() -> None:
    c = await lost_node()
    await c["a"].t.put("k", b"2", since(c))
    c.held = asyncio.Event()
    c.ring.plan([K], "c")
    await c.publish("a", "c")
    await c.until(lambda: b"WRITES" in c.requests)
    c.held.set()
    await c.finish_moves()
    await c["c"].t.delete("k", since(c), durability="through")
    # The owner before has given up its record, and even a copy of it would not come back.
    assert c["c"].handover.tombstones.superseded(b"k", Version(since(c), 1))
    await return_node(c)
    assert c["c"].t.s3_has("k") is None
    await c.stop()


async def test_after_tombstone_seconds_what_a_node_returns_with_is_a_dead_letter_that_is_not_served() -> None:
    c = await lost_node()
    await delete_in_s3(c)
    await c.clock.advance(0.2)
    c.clock.tick(WEEK + 1)
    renewed(c, absent=True)
    assert len(c["a"].handover.tombstones) == 0
    await return_node(c)
    assert c["a"].t.s3_has("k") is None
    assert (await c["a"].t.outcome("k", since(c)))[1] is None
    b = c["b"].t
    assert (b.dirty.dead_letters, len(b.dirty), b.dirty.waiting) == (1, 1, 0)
    [letter] = b.parts.dead_letters.among(None)
    assert letter.key == b"k"
    assert "too late" in letter.dead.reason
    await c.stop()


async def late_letter() -> Cluster:
    c = await lost_node()
    await delete_in_s3(c)
    await c.clock.advance(0.2)
    c.clock.tick(WEEK + 1)
    renewed(c, absent=True)
    await return_node(c)
    return c


async def test_such_a_dead_letter_is_one_after_a_restart_and_when_its_slot_comes_back() -> None:
    c = await late_letter()
    await restart(c, "b")
    assert c["b"].t.dirty.dead_letters == 1
    await c.publish("b")
    c.ring.plan([K], "b")
    await c.publish()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert (await c["b"].t.outcome("k", since(c)))[1] is None
    assert c["b"].t.dirty.dead_letters == 1
    await c.stop()


async def test_an_operator_can_have_such_a_dead_letter_uploaded_after_all() -> None:
    c = await late_letter()
    assert await c["b"].t.parts.dead_letters.retry(None) == 1
    await c.until(lambda: not len(c["b"].t.dirty))
    await c.clock.advance(2)
    assert c["a"].t.s3_has("k") == b"1"
    assert (await c["a"].t.outcome("k", since(c)))[1] == b"1"
    await c.stop()


async def test_an_operator_can_drop_such_a_dead_letter() -> None:
    c = await late_letter()
    assert await c["b"].t.parts.dead_letters.drop([b"k"]) == 1
    assert (len(c["b"].t.dirty), c["b"].t.dirty.bytes, c["b"].t.disk.committed.records) == (0, 0, {})
    await c.stop()


async def test_a_write_is_handed_in_after_any_time_if_no_delete_can_concern_it() -> None:
    c = await lost_node()
    c.clock.tick(10 * WEEK)
    renewed(c, absent=True)
    await return_node(c)
    assert c["a"].t.s3_has("k") == b"1"
    await c.stop()


async def test_tombstones_are_bounded_and_the_oldest_are_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    c = await lost_node()
    tombstones = c["a"].handover.tombstones
    monkeypatch.setattr(module, "MAX_TOMBSTONES", 10)
    for number in range(1, 31):
        tombstones.deleted(b"k%d" % number, Version(FIRST_EPOCH + 9, number))
    assert list(tombstones) == [b"k%d" % number for number in range(21, 31)]
    assert tombstones.dropped == 20
    # Of what was dropped it is not known any more.
    assert tombstones.is_undecided(b"k1", Version(FIRST_EPOCH, 1))
    assert not tombstones.is_undecided(b"k1", Version(FIRST_EPOCH + 9, 21))
    assert tombstones.superseded(b"k30", Version(FIRST_EPOCH, 1))
    monkeypatch.setattr(module, "MAX_BYTES", 5 * (module.OVERHEAD + 3))
    tombstones.deleted(b"k99", Version(FIRST_EPOCH + 9, 99))
    assert len(tombstones) == 5
    await c.clock.advance(0.2)
    assert len(c["a"].t.disk.committed.tombstones) == 5
    await restart(c, "a")
    again = c["a"].handover.tombstones
    assert list(again) == [*(b"k%d" % number for number in range(27, 31)), b"k99"]
    assert again.floor == tombstones.floor
    await c.stop()


async def test_without_an_absent_node_tombstones_are_kept_for_a_while_and_then_dropped() -> None:
    c = await lost_node()
    c.ring.missing = ()
    c.ring.epoch += 1
    c.ring.released = c.ring.epoch
    await c.publish("a", "c")
    await delete_in_s3(c)
    tombstones = c["a"].handover.tombstones
    renewed(c, absent=False)
    await c.clock.advance(module.KEEP_SECONDS - 1)
    renewed(c, absent=False)
    assert len(tombstones) == 1, "a node may be lost already, and no router know it"
    await c.clock.advance(2)
    renewed(c, absent=False)
    assert len(tombstones) == 0
    assert tombstones.floor is None
    await c.clock.advance(0.2)
    assert not c["a"].t.disk.committed.tombstones
    await c.stop()


async def test_a_node_that_is_back_uploads_nothing_before_it_has_a_ring() -> None:
    c = await lost_node()
    await c.clock.advance(1)
    await restart(c, "b")
    c["b"].t.writeback.requeue_held_back()
    await c.clock.advance(5)
    assert c["b"].t.s3_has("k") is None
    await c.stop()


async def test_a_node_that_is_back_is_absent_until_it_has_handed_everything_in() -> None:
    c = await lost_node()
    await restart(c, "b")
    former_owner = c["b"].handover.former_owner
    assert former_owner.has_foreign_writes, "it has no ring yet"
    c.cut.add("a")
    c.ring.epoch += 1
    c.ring.nodes["b"] = c.ring.nodes["a"]._replace(address="b:1", resp_address="b:2", node_id="id-b")
    c.ring.released = c.ring.epoch
    await c.publish()
    await c.clock.advance(3)
    assert former_owner.has_foreign_writes
    c.cut.clear()
    await c.until(lambda: not former_owner.has_foreign_writes)
    assert not len(c["b"].t.dirty)
    await c.stop()


async def test_a_former_owner_hands_in_its_tombstones_and_an_older_put_becomes_a_delete() -> None:
    c = await lost_node(delay=1000.0)
    # c had the slot meanwhile, and has deleted k; a gets it without a hand-over, and has b's put of k.
    await return_node(c)
    assert (await c["a"].t.outcome("k", since(c)))[1] == b"1"
    c["c"].handover.tombstones.deleted(b"k", Version(since(c) + 1, 1))
    await c.publish()
    c.ring.epoch += 1
    c.ring.released = c.ring.epoch
    await c.publish()
    await c.until(lambda: not len(c["c"].handover.tombstones))
    assert (await c["a"].t.outcome("k", since(c)))[1] is None
    await c.stop()
