"""Taking frames of copies: what is confirmed is in the journal, in the order of the frames, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.copies.frames import Reply
from milena_cache.journal.disk import DiskFull
from milena_cache.objects.version import Version
from milena_common.api.errors import Unavailable
from milena_common.cluster.slot_map import MapNode
from milena_common.cluster.slots import SLOTS
from tests.cache.copies.holders_under_test import HolderCluster, Owner
from tests.support.fake_clock import run_ready_tasks


async def started(names: str = "x", holders: str = "x", **options: int) -> tuple[HolderCluster, Owner]:
    cluster = HolderCluster(*names, holders=holders, **options)
    await cluster.start()
    return cluster, Owner(cluster)


async def test_a_confirmed_copy_is_on_the_disk_and_neither_served_nor_uploaded() -> None:
    cluster, owner = await started()
    assert await owner.send("x", owner.record("k", b"v"), owner.record("gone", None)) is Reply.TAKEN
    await cluster.crash("x")
    assert cluster.copies("x") == {"k": b"v", "gone": None}
    await cluster.publish()
    await cluster.clock.advance(10)
    assert cluster.copies("x") == {"k": b"v", "gone": None}
    assert not len(cluster["x"].t.dirty)
    assert not cluster.store.objects
    await cluster.stop()


async def test_a_copy_is_confirmed_only_after_the_sync() -> None:
    cluster, owner = await started()
    disk = cluster["x"].t.disk
    disk.gate.clear()
    sending = asyncio.ensure_future(owner.send("x", owner.record("k", b"v")))
    await run_ready_tasks()
    assert not sending.done()
    disk.gate.set()
    assert await sending is Reply.TAKEN
    await cluster.stop()


async def test_the_last_write_of_a_key_is_what_a_restart_finds() -> None:
    cluster, owner = await started()
    older, newer = owner.version(), owner.version()
    await owner.send("x", owner.record("k", b"1", older), owner.record("k", b"2", newer))
    await owner.send("x", owner.record("k", b"1", older))
    assert cluster.copies("x") == {"k": b"2"}
    await owner.send("x", owner.record("k", b"1", older, restored=True))
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.crash("x")
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.stop()


async def test_a_confirmed_release_is_durable_also_of_a_copy_that_was_not_in_the_journal_yet() -> None:
    cluster, owner = await started()
    disk = cluster["x"].t.disk
    disk.gate.clear()
    record = owner.record("k", b"v")
    frames = [
        owner.send("x", record),
        owner.send("x", owner.release("k")),
        owner.send("x", owner.record("j", b"w")),
    ]
    sending = [asyncio.ensure_future(frame) for frame in frames]
    await run_ready_tasks()
    disk.gate.set()
    assert await asyncio.gather(*sending) == [Reply.TAKEN] * 3
    await cluster.crash("x")
    assert cluster.copies("x") == {"j": b"w"}
    await cluster.stop()


async def test_a_release_leaves_later_writes() -> None:
    cluster, owner = await started()
    older, newer = owner.version(), owner.version()
    await owner.send("x", owner.record("k", b"2", newer))
    await owner.send("x", owner.release("k", older))
    assert cluster.copies("x") == {"k": b"2"}
    await cluster.stop()


async def test_a_released_delete_leaves_a_tombstone() -> None:
    cluster, owner = await started()
    version = owner.version()
    await owner.send("x", owner.record("k", None, version))
    await owner.send("x", owner.release("k", version, deleted_at=cluster.clock.wall()))
    await cluster.crash("x")
    assert cluster.copies("x") == {}
    assert cluster["x"].handover.tombstones.superseded(b"k", version)
    await cluster.publish()
    await cluster.clock.advance(2)
    assert cluster["x"].handover.tombstones.superseded(b"k", version), "it is not handed in to the owner"
    await cluster.stop()


@pytest.mark.parametrize("restart", [False, True])
async def test_frames_of_another_session_or_out_of_order_are_rejected(restart: bool) -> None:
    cluster, owner = await started()
    first, second = owner.sender(), owner.sender()
    assert await owner.send("x", owner.record("k", b"2"), sender=second) is Reply.UNKNOWN_SESSION
    assert await owner.send("x", owner.record("k", b"1"), sender=first) is Reply.TAKEN
    if restart:
        await cluster.crash("x")
        await cluster.publish()
    else:
        assert await owner.send("x", owner.record("k", b"3"), sender=first) is Reply.UNKNOWN_SESSION
        owner.reconnect()
        assert await owner.send("x", owner.begin()) is Reply.TAKEN
    assert await owner.send("x", owner.record("k", b"4"), sender=second) is Reply.UNKNOWN_SESSION
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.stop()


async def test_the_end_of_a_session_s_beginning_drops_what_the_owner_has_no_more() -> None:
    cluster, owner = await started()
    kept, newer = owner.version(), owner.version()
    await owner.send("x", owner.record("kept", b"1", kept), owner.record("old", b"1"), owner.record("k", b"1"))
    owner.reconnect()
    await owner.send("x", owner.begin(), owner.record("new", b"1"))
    assert cluster.copies("x").keys() == {"kept", "old", "k", "new"}
    await owner.send("x", owner.record("kept", b"1", kept), owner.record("k", b"0", newer), owner.end())
    assert cluster.copies("x") == {"kept": b"1", "new": b"1", "k": b"0"}
    await cluster.crash("x")
    assert cluster.copies("x") == {"kept": b"1", "new": b"1", "k": b"0"}
    await cluster.stop()


async def test_what_is_in_a_commit_when_a_session_begins_is_dropped_at_its_end() -> None:
    cluster, owner = await started()
    disk = cluster["x"].t.disk
    disk.gate.clear()
    version = owner.version()
    late = asyncio.ensure_future(owner.send("x", owner.record("k", b"1"), owner.record("kept", b"1", version)))
    await run_ready_tasks()
    owner.reconnect()
    again = asyncio.ensure_future(owner.send("x", owner.begin(), owner.record("kept", b"1", version), owner.end()))
    await run_ready_tasks()
    disk.gate.set()
    await asyncio.gather(late, again)
    assert cluster.copies("x") == {"kept": b"1"}
    await cluster.stop()


async def test_a_sender_that_does_not_own_the_slots_any_more_is_rejected() -> None:
    cluster, owner = await started("xy")
    await owner.send("x", owner.record("k", b"1"))
    await cluster.change("y", "x", lost="o")
    assert await owner.send("x", owner.record("k", b"2")) is Reply.STALE
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.stop()


async def test_another_process_at_the_owner_s_address_is_rejected() -> None:
    cluster, owner = await started()
    other = Owner(cluster, process="another")
    assert await other.send("x", owner.record("k", b"2")) is Reply.STALE
    await cluster.stop()


async def test_a_node_takes_no_copies_of_slots_that_it_serves_as_far_as_it_knows() -> None:
    cluster, _ = await started("x", "")
    await cluster.change("x", "", lost="o")
    owner = Owner(cluster)
    owner.epoch += 5
    with pytest.raises(Unavailable):
        await owner.send("x", owner.record("k", b"1"))
    await cluster.stop()


async def test_copies_of_a_newer_ring_stay_until_that_ring_is_here() -> None:
    cluster, owner = await started("xy", "y")
    owner.epoch += 2
    assert await owner.send("x", owner.record("k", b"1")) is Reply.TAKEN
    await cluster.change("o", "y", same_since=True)
    await cluster.clock.advance(1)
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.change("o", "yX", same_since=True)
    await cluster.clock.advance(1)
    assert cluster.copies("x") == {"k": b"1"}
    await cluster.change("o", "y", same_since=True)
    await cluster.clock.advance(1)
    assert cluster.copies("x") == {}
    await cluster.stop()


async def test_without_room_records_are_rejected_and_the_rest_of_the_frame_counts() -> None:
    cluster, owner = await started(dirty_max_bytes=3000)
    assert await owner.send("x", owner.record("a", b"1" * 1000)) is Reply.TAKEN
    frame = (owner.release("a"), owner.record("b", b"2" * 3000))
    assert await owner.send("x", *frame) is Reply.FULL
    assert cluster.copies("x") == {}
    assert await owner.send("x", owner.record("c", b"3")) is Reply.TAKEN
    await cluster.stop()


async def test_a_full_disk_rejects_records_and_confirms_no_release() -> None:
    cluster, owner = await started()
    disk = cluster["x"].t.disk
    await owner.send("x", owner.record("a", b"1"))
    disk.failure, disk.fail_at = DiskFull("no room"), None
    assert await owner.send("x", owner.record("b", b"1")) is Reply.FULL
    with pytest.raises(Unavailable):
        await owner.send("x", owner.release("a", Version(2**50, 0)))
    disk.failure = None
    await cluster.clock.advance(5)
    await cluster.stop()


async def test_versions_of_this_node_are_greater_than_those_of_its_copies() -> None:
    cluster, owner = await started()
    version = Version(owner.epoch, 2**55)
    await owner.send("x", owner.record("k", b"1", version))
    assert cluster["x"].t.journal.next_version(0) > version
    await cluster.stop()


async def test_late_frames_of_the_owner_before_do_not_undo_what_the_new_owner_has_written() -> None:
    cluster, owner = await started("x", "x")
    cluster.ring.nodes["z"] = MapNode("z:1", "z:2", "id-z")
    await owner.send("x", owner.record("k", b"1"), owner.record("j", b"1"))
    move = cluster.ring.plan(range(SLOTS), "z")
    await cluster.publish()
    destination = Owner(cluster, "z")
    await destination.send("x", destination.begin(kept=move), destination.record("k", b"2"))
    late = owner.begin(), owner.record("j", b"1"), owner.release("k", Version(move + 1, 0)), owner.end()
    assert await owner.send("x", *late) is Reply.TAKEN
    assert cluster.copies("x") == {"k": b"2", "j": b"1"}
    # Nor is it known what a later ring says of the slots.
    owner.epoch = cluster.ring.epoch + 1
    with pytest.raises(Unavailable, match="does not have the ring"):
        await owner.send("x", owner.begin(), owner.end())
    # A ring in which the owner before has the slots still, or again, and the next move is planned.
    cluster.ring.abort()
    cluster.ring.plan(range(SLOTS), "z")
    await cluster.publish()
    owner.epoch = cluster.ring.epoch
    owner.reconnect()
    await owner.send("x", owner.begin(), owner.record("k", b"3"), owner.end())
    assert cluster.copies("x") == {"k": b"3"}
    await cluster.stop()
