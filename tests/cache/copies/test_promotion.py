"""What becomes of copies when the ring changes: the new owner serves them, without S3, and others drop theirs."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.membership.ownership import ELSEWHERE
from milena_cache.objects.object_store import Fault, Ref
from milena_common.api.errors import MilenaError, NoNodes, TryAgain
from milena_common.cluster.slots import SLOTS
from tests.cache.copies.holders_under_test import HolderCluster, Owner
from tests.cache.node_under_test import BUCKET
from tests.support.fake_clock import run_ready_tasks


async def started(names: str = "x", holders: str = "x", **options: int) -> tuple[HolderCluster, Owner]:
    cluster = HolderCluster(*names, holders=holders, delay=1.0, **options)
    await cluster.start()
    return cluster, Owner(cluster)


async def read(cluster: HolderCluster, name: str, key: str) -> bytes | None:
    member = cluster[name]
    since = member.ownership.owned_since(key.encode())
    return (await member.t.outcome(key, since))[1]


async def test_a_new_owner_serves_the_lost_owner_s_writes_while_s3_is_away_and_uploads_them() -> None:
    cluster, owner = await started()
    cluster.store.objects[Ref(BUCKET, "gone")] = b"old"
    await owner.send("x", owner.record("k", b"v"), owner.record("gone", None))
    cluster.store.down = Fault.CONNECT
    await cluster.change("x", "", lost="o")
    assert await read(cluster, "x", "k") == b"v"
    assert await read(cluster, "x", "gone") is None
    cluster.store.down = None
    await cluster.clock.advance(120)
    assert cluster["x"].t.s3_has("k") == b"v"
    assert cluster["x"].t.s3_has("gone") is None
    assert not len(cluster["x"].t.dirty)
    assert cluster.copies("x") == {}
    await cluster.stop()


@pytest.mark.parametrize("after_reads", [False, True])
async def test_a_restart_after_a_promotion_finds_each_write_once(after_reads: bool) -> None:
    cluster, owner = await started()
    await owner.send("x", owner.record("k", b"1"), owner.record("j", b"1"))
    await cluster.change("x", "", lost="o")
    if after_reads:
        await cluster["x"].t.put("k", b"2", cluster.ring.epoch)
        await run_ready_tasks()
    await cluster.crash("x")
    await cluster.publish()
    # The ring has no holder, so that what is written after the promotion goes through S3.
    assert len(cluster["x"].t.dirty) + len(cluster.copies("x")) == 2 - after_reads
    assert await read(cluster, "x", "k") == (b"2" if after_reads else b"1")
    await cluster.clock.advance(10)
    assert cluster["x"].t.s3_has("k") == (b"2" if after_reads else b"1")
    assert cluster["x"].t.s3_has("j") == b"1"
    await cluster.stop()


async def test_a_holder_that_restarts_is_promoted_like_one_that_does_not() -> None:
    cluster, owner = await started()
    await owner.send("x", owner.record("k", b"1"))
    await cluster.publish()
    await cluster.clock.advance(1)
    await cluster.crash("x")
    cluster.store.down = Fault.CONNECT
    await cluster.change("x", "", lost="o")
    assert await read(cluster, "x", "k") == b"1"
    await cluster.stop()


async def test_a_restarted_holder_takes_no_router_s_word_for_what_it_owns_before_it_has_a_ring() -> None:
    """The router has the lost owner's slots as this node's; what it acknowledged is not collected yet."""
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    await cluster.clock.advance(1)
    await cluster.crash("x")
    with pytest.raises(NoNodes, match="no ring is known"):
        cluster["x"].servers.requests.place("", b"k", cluster.ring.epoch + 1)
    await cluster.change("x", "y", lost="o")
    await cluster.clock.advance(1)
    cluster.store.down = Fault.CONNECT
    assert await read(cluster, "x", "k") == b"1"
    await cluster.stop()


async def test_a_new_owner_collects_from_all_living_holders_before_it_serves() -> None:
    cluster, owner = await started("xyz", "xyz")
    old, new = owner.version(), owner.version()
    for name in "xyz":
        await owner.send(name, owner.record("k", b"1", old), owner.record(f"of-{name}", name.encode()))
        owner.serial = 0
    owner.serial = 1
    await owner.send("y", owner.record("k", b"2", new))
    cluster.cut = {"z"}
    await cluster.change("x", "yz", lost="o")
    await cluster.clock.advance(1)
    assert cluster["x"].ownership.since[0] == ELSEWHERE
    with pytest.raises(TryAgain, match="copies"):
        cluster["x"].ownership.owned_since(b"k")
    assert "not served until other nodes" in "".join(cluster["x"].servers.copies.degraded())
    cluster.cut.clear()
    await cluster.clock.advance(2)
    cluster.store.down = Fault.CONNECT
    assert await read(cluster, "x", "k") == b"2"
    for name in "xyz":
        assert await read(cluster, "x", f"of-{name}") == name.encode()
    await cluster.stop()


async def test_a_new_owner_whose_journal_is_full_collects_when_it_has_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster, owner = await started("xy", "xy")
    await owner.send("y", owner.record("k", bytes(1000)))
    contents = cluster["x"].t.disk.committed
    used = [*contents.records.values(), *contents.metadata.values()]
    cluster["x"].t.disk.capacity = sum(map(len, used)) + 500
    await cluster.change("x", "y", lost="o")
    assert cluster["x"].ownership.since[0] == ELSEWHERE
    await cluster.clock.advance(3)
    assert "the journal has no room for copies" in caplog.text
    assert cluster["x"].ownership.since[0] != ELSEWHERE, "its ballast has made room"
    cluster.store.down = Fault.CONNECT
    assert await read(cluster, "x", "k") == bytes(1000)
    await cluster.stop()


async def test_an_owner_that_the_ring_lists_as_collecting_reports_when_it_has_collected() -> None:
    cluster, owner = await started("xy", "xy")
    await owner.send("y", owner.record("k", b"1"))
    cluster.cut = {"y"}
    await cluster.change("x", "yX", lost="o")
    await cluster.clock.advance(1)
    replication = cluster["x"].servers.copies.replication
    assert "x:1" not in [holder for _, _, holder in replication.completed()]
    cluster.cut.clear()
    await cluster.clock.advance(2)
    assert (0, SLOTS - 1, "x:1") in replication.completed()
    await cluster.change("x", "y", same_since=True)
    assert "x:1" not in [holder for _, _, holder in replication.completed()], "the ring knows"
    assert await read(cluster, "x", "k") == b"1"
    await cluster.stop()


@pytest.mark.parametrize("copied", [True, False])
async def test_a_node_that_has_yet_to_collect_the_writes_of_its_slots_has_writes_that_s3_does_not_have(
    copied: bool,
) -> None:
    """Otherwise: (1) it leaves, without dirty entries; (2) the next owner drops what copies there are."""
    cluster, owner = await started("xy", "xy")
    if copied:
        await owner.send("x", owner.record("k", b"1"), owner.record("j", b"1"))
    cluster.cut = {"y"}
    x = cluster["x"]
    assert not x.servers.status.for_routers().has_writes
    await cluster.change("x", "y", lost="o")
    await cluster.clock.advance(0.1)
    assert not len(x.t.dirty)
    assert x.servers.status.for_routers().dirty_entries == (2 if copied else 1)
    assert x.servers.handover.has_slots, "it hands them over when it has collected them"
    cluster.store.down = Fault.CONNECT
    cluster.cut.clear()
    await cluster.clock.advance(2)
    assert x.servers.status.for_routers().dirty_entries == (2 if copied else 0)
    await cluster.stop()


async def test_an_owner_of_slots_of_which_s3_has_everything_drops_its_copies() -> None:
    """Interleaving: (1) it is cut off, and fails as a holder; (2) the key is deleted; (3) the owner leaves."""
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.change("x", "x", lost="o")
    await cluster.clock.advance(1)
    assert cluster.copies("x") == {}
    assert await read(cluster, "x", "k") is None
    assert (0, SLOTS - 1, "x:1") in cluster["x"].servers.copies.replication.completed()
    await cluster.stop()


async def test_an_owner_of_slots_of_which_s3_has_everything_withholds_its_own_earlier_writes() -> None:
    """Interleaving: (1) it is away with a put; (2) the owner deletes the key, and leaves; (3) it gets the slot."""
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    cluster.store.down = Fault.CONNECT
    await cluster.change("x", "", lost="o")
    assert await read(cluster, "x", "k") == b"1"
    cluster.cut = {"y"}
    await cluster.change("y", "")
    await cluster.clock.advance(1)
    await cluster.change("x", "x", lost="y")
    cluster.store.down = None
    await cluster.clock.advance(60)
    assert await read(cluster, "x", "k") is None
    assert cluster["x"].t.s3_has("k") is None
    assert b"k" in cluster["x"].t.dirty.withheld, "an operator may retry it"
    await cluster.stop()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_node_that_was_away_while_another_one_had_its_slots_withholds_its_earlier_writes(
    restarted: bool,
) -> None:
    """Interleaving: (1) it owns the slot, with a put, and is away; (2) y deletes the key, and leaves last."""
    cluster, _ = await started("xy", "xy")
    cluster.store.down = Fault.CONNECT
    cluster.ring.target_copies = 1
    await cluster.change("x", "", lost="o")
    await cluster["x"].t.put("k", b"1", cluster.ring.epoch)
    if restarted:
        await cluster.crash("x")
    cluster.ring.change("y", "")
    await cluster.publish("y")
    await cluster.change("x", "x", lost="y")
    cluster.store.down = None
    await cluster.clock.advance(60)
    assert await read(cluster, "x", "k") is None
    assert cluster["x"].t.s3_has("k") is None
    assert b"k" in cluster["x"].t.dirty.withheld, "an operator may retry it"
    await cluster.stop()


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_a_node_has_acknowledged_since_it_got_slots_of_which_s3_has_everything_stays(
    restarted: bool,
) -> None:
    """Interleaving: (1) it serves the slots, with a put; (2) before a router knows that, there is another ring."""
    cluster, _ = await started("x", "x")
    cluster.ring.target_copies = 1
    await cluster.change("x", "x", lost="o")
    await cluster.clock.advance(1)
    cluster.store.down = Fault.CONNECT
    await cluster["x"].t.put("k", b"1", cluster.ring.epoch)
    if restarted:
        await cluster.crash("x")
    await cluster.change("x", "x")
    cluster.store.down = None
    await cluster.clock.advance(60)
    assert await read(cluster, "x", "k") == b"1"
    assert cluster["x"].t.s3_has("k") == b"1"
    await cluster.stop()


async def test_an_owner_of_slots_of_which_s3_has_everything_takes_no_earlier_write_that_is_handed_in() -> None:
    cluster, owner = await started("xy", "xy")
    await owner.send("y", owner.record("k", b"1"), owner.record("j", b"1"))
    cluster.store.down = Fault.CONNECT
    await cluster.change("y", "", lost="o")
    assert await read(cluster, "y", "k") == b"1"
    await cluster.change("x", "x")
    await cluster.clock.advance(1)
    assert set(cluster["y"].t.dirty.withheld) == {b"k", b"j"}
    cluster.store.down = None
    await cluster["x"].t.put("j", b"2", cluster.ring.epoch)
    await cluster.clock.advance(60)
    assert await read(cluster, "x", "k") is None
    assert await read(cluster, "x", "j") == b"2"
    assert set(cluster["y"].t.dirty.withheld) == {b"k"}, "S3 has a later write of the other one"
    assert cluster["y"].t.parts.withheld.dropped == 1
    await cluster.stop()


@pytest.mark.parametrize("uploading", [False, True])
async def test_a_holder_gives_up_its_own_earlier_write_of_a_key_that_the_owner_deletes(uploading: bool) -> None:
    """Interleaving: (1) it has a put, and loses the slot; (2) S3 has the owner's delete; (3) the owner is lost."""
    cluster, _ = await started("x", "")
    cluster.store.down = Fault.CONNECT
    cluster.ring.target_copies = 1
    await cluster.change("x", "")
    await cluster["x"].t.put("k", b"1", cluster.ring.epoch)
    cluster.cut = {"o"}
    cluster.ring.target_copies = 2
    await cluster.change("o", "x")
    entry = cluster["x"].t.dirty.get(b"k")
    assert entry is not None
    entry.upload.uploading = uploading
    owner = Owner(cluster)
    await owner.send("x", owner.release("k", owner.version(), deleted_at=cluster.clock.wall()))
    assert (b"k" in cluster["x"].t.dirty) is uploading
    entry.upload.uploading = False
    await cluster.change("x", "", lost="o")
    cluster.store.down = None
    await cluster.clock.advance(60)
    assert await read(cluster, "x", "k") is None
    assert cluster["x"].t.s3_has("k") is None
    assert not len(cluster["x"].t.dirty)
    await cluster.stop()


async def test_an_owner_that_was_a_complete_holder_in_the_last_ring_it_got_looks_at_s3_if_this_one_doubts_it() -> (
    None
):
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    cluster.store.down = Fault.CONNECT
    await cluster.change("x", "X", lost="o")
    await cluster.clock.advance(1)
    with pytest.raises(MilenaError):
        await read(cluster, "x", "k")
    await cluster.stop()


async def test_a_holder_that_is_lost_too_is_not_waited_for() -> None:
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    cluster.cut = {"y"}
    await cluster.change("x", "y", lost="o")
    await cluster.clock.advance(1)
    assert cluster["x"].ownership.since[0] == ELSEWHERE
    await cluster.change("x", "", lost="y", same_since=True)
    await cluster.clock.advance(1)
    assert await read(cluster, "x", "k") == b"1"
    await cluster.stop()


async def test_what_a_filling_holder_has_is_compared_with_s3_before_it_is_served() -> None:
    cluster, owner = await started("xy", "X")
    await owner.send("x", owner.record("k", b"stale"))
    await cluster.change("y", "X", lost="o")
    await cluster.clock.advance(0.1)
    await cluster["y"].t.put("k", b"new", cluster.ring.epoch, durability="through")
    await cluster.change("x", "", lost="y")
    assert await read(cluster, "x", "k") == b"new"
    await cluster.stop()


async def test_copies_of_a_slot_of_another_node_that_does_not_list_this_one_are_dropped() -> None:
    cluster, owner = await started("xy", "xy")
    await owner.send("x", owner.record("k", b"1"))
    await cluster.change("o", "y", same_since=True)
    await cluster.clock.advance(1)
    assert cluster.copies("x") == {}
    await cluster.crash("x")
    assert cluster.copies("x") == {}
    await cluster.stop()


async def test_copies_of_slots_without_an_owner_stay_and_requests_say_why() -> None:
    cluster, owner = await started("xy", "x")
    await owner.send("x", owner.record("k", b"1"))
    cluster.ring.change("", "ox", lost="ox")
    cluster["y"].ring_changed(cluster.ring.map())
    with pytest.raises(TryAgain, match="o:1, x:1"):
        cluster["y"].ownership.owned_since(b"k")
    assert "all nodes that have their writes are lost" in "".join(cluster["y"].servers.copies.degraded())
    await cluster.crash("x")
    cluster.ring.nodes["x"] = cluster.ring.all["x"]
    await cluster.change("x", "")
    assert await read(cluster, "x", "k") == b"1"
    await cluster.stop()


async def test_writes_of_slots_that_were_handed_over_become_copies_and_come_back_with_the_slots() -> None:
    cluster = HolderCluster("a", "b", delay=1000.0)
    await cluster.start()
    await cluster.change("a", "b", lost="o")
    ring, a, b = cluster.ring, cluster["a"], cluster["b"]
    await cluster.until(lambda: a.ownership.slots == 16384)
    await a.t.put("k", b"1", ring.epoch)
    await a.t.put("j", b"1", ring.epoch)
    move = ring.plan(range(16384), "b")
    await cluster.publish()
    await cluster.until(lambda: b.ownership.since[0] == move)
    await cluster.until(lambda: b.ownership.slots == 16384)
    await cluster.clock.advance(0.2)
    assert cluster.copies("a") == {"k": b"1", "j": b"1"}
    assert not len(a.t.dirty)
    # The new owner counts on the old one, before the ring has it.
    await b.t.put("k", b"2", move)
    assert cluster.copies("a") == {"k": b"2", "j": b"1"}
    await cluster.crash("a")
    assert cluster.copies("a") == {"k": b"2", "j": b"1"}
    cluster.store.down = Fault.CONNECT
    await cluster.change("a", "", lost="b")
    assert await read(cluster, "a", "k") == b"2"
    await cluster.stop()


async def test_copies_of_slots_that_are_taken_over_are_dropped_and_do_not_come_back() -> None:
    cluster = HolderCluster("a", "b", delay=1000.0)
    await cluster.start()
    await cluster.change("a", "b", lost="o")
    ring, a, b = cluster.ring, cluster["a"], cluster["b"]
    await cluster.clock.advance(1)
    assert a.ownership.slots == 16384
    await a.t.put("k", b"1", ring.epoch)
    sender = Owner(cluster, "a")
    old = a.t.dirty.get(b"k")
    assert old is not None
    await sender.send("b", sender.record("k", b"1", old.version), sender.record("j", b"1"))
    move = ring.plan(range(16384), "b")
    await cluster.publish()
    await cluster.until(lambda: b.ownership.slots == 16384)
    assert cluster.copies("b") == {}
    await b.t.put("k", b"2", move)
    await cluster.crash("b")
    assert cluster.copies("b") == {}
    assert [*cluster["b"].t.dirty] == [b"k"]
    await asyncio.sleep(0)
    await cluster.stop()


async def test_nothing_is_uploaded_of_a_slot_that_waits_for_its_lost_owner() -> None:
    """Interleaving: (1) a move gives this node a put; (2) the owner deletes the key in S3, and is lost."""
    cluster, _ = await started("x", "")
    cluster.store.down = Fault.CONNECT
    cluster.ring.target_copies = 1
    await cluster.change("x", "")
    await cluster["x"].t.put("k", b"1", cluster.ring.epoch)
    await cluster.change("", "")
    cluster.store.down = None
    await cluster.clock.advance(60)
    assert cluster["x"].t.s3_has("k") is None
    await cluster.change("x", "")
    await cluster.clock.advance(60)
    assert cluster["x"].t.s3_has("k") == b"1"
    await cluster.stop()
