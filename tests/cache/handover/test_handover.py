"""Slots move between nodes: what was acknowledged is served by the new owner, and S3 is not asked for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.handover.frames import MAX_WRITES
from milena_cache.handover.old_owner import FETCH_SECONDS
from milena_cache.handover.source import PAUSE_BUCKETS, PROGRESS_SECONDS, SHORT_SECONDS, SHORT_TIMEOUT_SECONDS
from milena_cache.objects.object_store import Fault
from milena_cache.objects.version import Version
from milena_common.api.durability import Durability
from milena_common.api.errors import FailedPrecondition, MilenaError, Moved, TryAgain, Unavailable
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.encoding import command
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster
from tests.support.fake_clock import run_ready_tasks

ALL = range(SLOTS)
K = slot_of(b"k")


async def cluster(*names: str, **options: Any) -> Cluster:
    return await Cluster(*(names or ("a", "b")), **{"delay": 1000.0, **options}).start()


def since(c: Cluster, name: str, key: str) -> int:
    return c[name].ownership.owned_since(key.encode())


async def get(c: Cluster, key: str) -> tuple[str, bytes | None]:
    """Read the key where it is served."""
    (name,) = c.server_of(key)
    return await c[name].t.outcome(key, since(c, name, key))


async def put(c: Cluster, key: str, value: bytes, **how: Any) -> None:
    (name,) = c.server_of(key)
    await c[name].t.put(key, value, since(c, name, key), **how)


async def delete(c: Cluster, key: str, **how: Any) -> None:
    (name,) = c.server_of(key)
    await c[name].t.delete(key, since(c, name, key), **how)


async def move(c: Cluster, to: str = "b", slots: Any = ALL) -> None:
    c.ring.plan(slots, to)
    await c.publish()
    await c.finish_moves()


async def test_dirty_writes_move_with_their_slots_and_s3_gets_no_request() -> None:
    c = await cluster()
    for number in range(300):
        await put(c, f"key{number}", b"%d" % number)
    await move(c)
    requests = len(c.store.calls)
    for number in range(300):
        assert await get(c, f"key{number}") == ("hit", b"%d" % number)
        assert c.server_of(f"key{number}") == ["b"]
    assert len(c.store.calls) == requests
    assert len(c["a"].t.dirty) == 0
    assert len(c["b"].t.dirty) == 300
    await c.stop()


async def test_writes_of_every_class_move() -> None:
    c = await cluster()
    await put(c, "back", b"1")
    await put(c, "memory", b"2", durability="memory")
    await put(c, "through", b"3", durability="through")
    c["a"].t.in_s3("deleted", b"4")
    await delete(c, "deleted")
    await put(c, "expires", b"5", expires_at=c.clock.wall() + 50)
    await move(c)
    assert [(await get(c, key))[1] for key in ("back", "memory", "through", "deleted", "expires")] == [
        b"1",
        b"2",
        b"3",
        None,
        b"5",
    ]
    await c.clock.advance(60)
    assert (await get(c, "expires"))[1] is None
    await c.stop()


async def test_what_was_handed_over_survives_a_crash_of_the_new_owner_with_its_version() -> None:
    c = await cluster()
    await put(c, "k", b"old", durability="through")
    await put(c, "k", b"new")
    version = c["a"].t.dirty.values().__iter__().__next__().version
    await move(c)
    t = await c["b"].t.crash()
    entry = t.dirty.get(b"k")
    assert entry is not None
    assert entry.version == version
    assert await t.outcome("k", FIRST_EPOCH + 5) == ("hit", b"new")
    await t.stop()


async def test_a_write_that_is_over_is_given_up_at_the_destination_beside_an_older_delete_of_its_key() -> None:
    """(1) a delete is in S3; (2) a later put is sent; (3) another one goes through S3; (4) the slot is released."""
    c = await cluster(delay=0.0)
    c["a"].handover.tombstones.add(b"k", Version(1, 1), c.clock.wall())
    c.store.gate.clear()
    await put(c, "k", b"old")
    await c.clock.advance(0.01)
    await c.until(lambda: c["a"].t.writeback.uploads == 1)
    c.held = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.until(lambda: b"k" in c["b"].t.dirty)
    writing = asyncio.create_task(put(c, "k", b"new", durability="through"))
    await run_ready_tasks()
    c.store.gate.set()
    await c.until(writing.done)
    await writing
    await c.released()
    c.store.gate.clear()  # what the destination uploads would be found to be superseded
    c.held.set()
    await c.until(lambda: c.server_of("k") == ["b"])
    assert b"k" not in c["b"].t.dirty
    c.store.gate.set()
    await c.finish_moves()
    assert (await get(c, "k"))[1] == b"new"
    await c.stop()


async def test_a_node_that_has_left_serves_nothing_to_a_router_with_an_older_ring() -> None:
    """The ring of a router that has lost etcd has the node still."""
    c = await cluster()
    await put(c, "k", b"1")
    owned_since = since(c, "a", "k")
    await move(c)
    c.ring.lose("a")
    c["a"].ring_changed(c.ring.map())
    with pytest.raises(Moved):
        c["a"].servers.requests.place("", b"k", owned_since)
    await c.stop()


async def test_a_delete_that_reaches_s3_during_the_rounds_does_not_hide_the_write_after_it() -> None:
    """(1) a delete is sent while it is uploaded; (2) a put goes through after it; (3) the slot is released."""
    c = await cluster(delay=0.0)
    await put(c, "k", b"1", durability="through")
    c.store.gate.clear()
    await delete(c, "k")
    await c.clock.advance(0.01)
    await c.until(lambda: c["a"].t.writeback.uploads == 1)
    c.held = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.until(lambda: b"k" in c["b"].t.dirty)
    assert c.server_of("k") == ["a"]
    writing = asyncio.create_task(put(c, "k", b"2", durability="through"))
    await run_ready_tasks()
    c.store.gate.set()
    await c.until(writing.done)
    await writing
    await c.released()
    c.store.gate.clear()  # what the destination uploads would be found to be superseded
    c.held.set()
    await c.until(lambda: c.server_of("k") == ["b"])
    assert b"k" not in c["b"].t.dirty
    c.store.gate.set()
    await c.finish_moves()
    assert (await get(c, "k"))[1] == b"2"
    await c.stop()


async def test_later_writes_at_the_new_owner_have_greater_versions() -> None:
    c = await cluster()
    a, b = c["a"].t, c["b"].t
    a.journal.versions.seq = b.journal.versions.seq + 10**9
    await put(c, "k", b"1")
    await put(c, "through", b"1", durability="through")
    newest = a.journal.versions.seq
    await move(c)
    await put(c, "k", b"2")
    entry = b.dirty.get(b"k")
    assert entry is not None
    assert entry.version.seq > newest
    t = await b.crash()
    assert t.journal.versions.seq > newest
    await t.stop()


async def test_a_write_that_went_through_to_s3_during_the_rounds_is_not_undone() -> None:
    """(1) a write was sent; (2) a delete goes through to S3, which keeps no version; (3) the slot is released."""
    c = await cluster()
    await put(c, "k", b"1")
    c.held = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    assert b"k" in c["b"].t.dirty
    # As if the release had been rejected: the owner serves on, and the destination has the write.
    c.rejected = 1
    c.held.set()
    c.held = asyncio.Event()
    await c.until(lambda: c.server_of("k") == ["a"])
    await delete(c, "k", durability="through")
    c.held.set()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert (await get(c, "k"))[1] is None
    await c.stop()


@pytest.mark.parametrize("how", ["before", "after"])
async def test_after_a_release_without_a_reply_no_node_serves_until_the_destination_replies(how: str) -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", how)]
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    assert len(c.server_of("k")) <= 1
    with pytest.raises((TryAgain, Moved)):
        since(c, "a", "k")
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert (await get(c, "k"))[1] == b"1"
    await c.stop()


async def test_a_broken_link_before_the_release_leaves_the_owner_serving() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.cut.add("b")
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(3)
    await put(c, "k", b"2")
    assert await get(c, "k") == ("hit", b"2")
    assert c.server_of("k") == ["a"]
    c.cut.clear()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert await get(c, "k") == ("hit", b"2")
    await c.stop()


async def test_an_aborted_move_leaves_nothing_at_the_destination_and_can_be_repeated() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", "before")] * 1
    c["b"].t.disk.gate.clear()
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(0.2)
    c["b"].t.disk.gate.set()
    c.ring.abort()
    await c.publish()
    await c.clock.advance(0.5)
    assert c.server_of("k") == ["a"]
    assert len(c["b"].t.dirty) == 0
    await put(c, "k", b"2")
    await move(c)
    assert await get(c, "k") == ("hit", b"2")
    await c.stop()


async def test_the_destination_keeps_what_it_received_if_the_owner_is_lost() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", "before")] * 100
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    c.ring.lose("a")
    await c.publish("b")
    assert c["b"].ownership.owned_since(b"k") == c.ring.epoch
    assert (await c["b"].t.outcome("k", c.ring.epoch))[1] == b"1"
    await c.stop()


async def test_the_destination_drops_what_it_received_if_the_owner_leaves_with_everything_in_s3() -> None:
    """Interleaving: (1) the owner sends a put; (2) it aborts, deletes the key, uploads that, and leaves."""
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"ANNOUNCE", "before")] * 100
    c.ring.plan([K], "b")
    await c.publish()
    await c.clock.advance(0.2)
    assert b"k" in c["b"].t.dirty
    await delete(c, "k")
    c.ring.abort()
    await c.publish("a")
    assert await c["a"].t.flush("k") == (0, 0, 1)
    c.ring.lose("a", clean=True)
    await c.publish("b")
    await c.clock.advance(60)
    assert (await c["b"].t.outcome("k", c.ring.epoch))[1] is None
    assert c["b"].t.s3_has("k") is None
    await c.stop()


async def test_a_delete_by_a_destination_that_no_ring_ever_showed_does_not_come_back() -> None:
    """Without copies the old owner gives its writes up as soon as the destination has them, and not by a ring.

    Otherwise: the destination deletes a key, uploads that, and leaves while the only router is away. The slot comes
    back to the old owner, which would serve and upload its write again.
    """
    c = await cluster()
    await put(c, "k", b"1")
    c.ring.plan(ALL, "b")
    await c.publish()
    for _ in range(100):
        await c.clock.advance(0.02)
    assert c.server_of("k") == ["b"]
    await delete(c, "k")
    assert await c["b"].t.flush("k") == (0, 0, 1)
    c.ring.lose("b")
    await c.publish("a")
    assert (await c["a"].t.outcome("k", c.ring.epoch))[1] is None
    assert await c["a"].t.flush("k") == (0, 0, 0)
    await c["a"].t.put("k", b"2", c.ring.epoch)
    assert await c["a"].t.flush("k") == (0, 0, 1)
    await c.stop()


async def test_a_destination_with_a_newer_ring_takes_nothing() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.ring.plan(ALL, "b")
    older = c.ring.map()
    c.ring.abort()
    await c.publish("b")
    c["a"].ring_changed(older)
    await c.clock.advance(2)
    assert c.server_of("k") == ["a"]
    assert len(c["b"].t.dirty) == 0
    await c.stop()


async def test_a_destination_with_an_older_ring_takes_the_slots_when_it_has_the_new_one() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.ring.plan(ALL, "b")
    await c.publish("a")
    await c.clock.advance(1)
    assert c.server_of("k") == ["a"]
    await c.publish("b")
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    await c.stop()


async def test_a_write_in_the_journals_queue_goes_with_the_slot() -> None:
    c = await cluster()
    c["a"].t.disk.gate.clear()
    writing = asyncio.create_task(c["a"].t.put("k", b"1", FIRST_EPOCH))
    await run_ready_tasks()
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(0.5)
    # The owner does not wait for it for long, and serves on.
    assert c.server_of("k") in (["a"], [])
    c["a"].t.disk.gate.set()
    await writing
    await c.finish_moves()
    assert await get(c, "k") == ("hit", b"1")
    await c.stop()


async def test_an_upload_in_flight_ends_before_the_release_and_no_other_begins() -> None:
    c = await cluster(delay=0.1)
    await put(c, "k", b"1")
    c.store.gate.clear()
    await c.clock.advance(0.2)
    assert c["a"].t.writeback.uploads == 1
    await put(c, "other", b"1")
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(2)
    assert c.server_of("k") == ["a"]
    assert c["a"].t.writeback.uploads == 1
    await put(c, "k", b"2")
    c.store.gate.set()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert await get(c, "k") == ("hit", b"2")
    await c.clock.advance(3)
    assert c["b"].t.s3_has("k") == b"2"
    assert c["b"].t.s3_has("other") == b"1"
    await c.stop()


async def test_a_dead_letter_moves_as_one() -> None:
    c = await cluster(delay=0.1)
    c.store.fail(Fault.DENIED)
    await put(c, "k", b"1")
    await c.clock.advance(1)
    assert c["a"].t.dirty.dead_letters == 1
    await move(c)
    assert c["b"].t.dirty.dead_letters == 1
    assert await get(c, "k") == ("hit", b"1")
    t = await c["b"].t.crash()
    assert t.dirty.dead_letters == 1
    await t.stop()


async def test_a_command_for_a_stopped_slot_waits_and_is_redirected() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    client = c["a"].client()
    c.broken = [(b"RELEASE", "before")]
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    assert c.server_of("k") == []
    client.send(b"CLUSTER NODES\r\n")  # it is a client for Redis Cluster: nothing of it is forwarded
    assert client.take()
    client.send(b"GET k\r\n")
    await run_ready_tasks()
    assert client.take() == b""
    await c.finish_moves()
    assert client.take() == b"-MOVED %d b:2\r\n" % K
    await c.stop()


async def test_a_command_for_a_stopped_slot_gets_tryagain_after_a_tenth_of_a_second() -> None:
    c = await cluster()
    client = c["a"].client()
    c["a"].ownership.stop_slots([(0, SLOTS - 1)])
    client.send(b"SET k 1\r\n")
    await c.clock.advance(0.09)
    assert client.take() == b""
    await c.clock.advance(0.02)
    assert client.take().startswith(b"-TRYAGAIN retry-after-ms=100 ")
    await c.stop()


async def test_a_command_for_a_stopped_slot_is_carried_out_if_the_slot_is_served_again() -> None:
    c = await cluster()
    client = c["a"].client()
    c["a"].ownership.stop_slots([(0, SLOTS - 1)])
    client.send(b"SET k 1\r\nGET k\r\n")
    await c.clock.advance(0.05)
    c["a"].ownership.resume_slots([(0, SLOTS - 1)])
    assert await client.replies(2) == b"+OK\r\n$1\r\n1\r\n"
    await c.stop()


async def test_a_write_that_waited_while_its_slot_was_stopped_does_nothing() -> None:
    c = await cluster()
    t = c["a"].t
    lock = t.writes.lock(b"k", 1)
    await lock.__aenter__()
    writing = asyncio.create_task(t.put("k", b"1", FIRST_EPOCH, if_none_match="*"))
    await run_ready_tasks()
    c["a"].ownership.stop_slots([(0, SLOTS - 1)])
    await lock.__aexit__(None, None, None)
    with pytest.raises(TryAgain):
        await writing
    assert b"k" not in t.dirty
    await c.stop()


async def test_a_write_with_a_condition_that_waited_while_its_slot_was_away_does_nothing() -> None:
    """Its condition would be met by what this node had in its memory when the slot was its own before."""
    c = await cluster()
    t = c["a"].t
    etag = (await t.put("k", b"1", FIRST_EPOCH)).etag
    lock = t.writes.lock(b"k", 100)
    await lock.__aenter__()
    writing = asyncio.create_task(t.put("k", b"2", FIRST_EPOCH, 100.0, if_match=etag))
    await run_ready_tasks()
    for owner in ("b", "a"):  # as after losses: moves wait for the write
        c.ring.epoch += 1
        c.ring.owners = [(owner, c.ring.epoch)] * SLOTS
        c.ring.release_all()
        await c.publish()
    await lock.__aexit__(None, None, None)
    with pytest.raises(TryAgain):
        await writing
    entry = t.dirty.get(b"k")
    assert entry is not None
    assert entry.etag == etag
    await c.stop()


@pytest.mark.parametrize("durability", ["back", "through"])
async def test_a_write_that_ends_when_another_node_owns_its_slot_is_not_acknowledged(
    durability: Durability,
) -> None:
    """Although the node is in the ring, with a lease: it was taken for lost, and has joined again.

    Its new owner may serve what was before the write.
    """
    c = await cluster(delay=0.0)
    t = c["a"].t
    t.disk.gate.clear()
    c.store.gate.clear()
    writing = asyncio.create_task(t.put("k", b"1", FIRST_EPOCH, durability=durability))
    await run_ready_tasks()
    c.ring.epoch += 1
    c.ring.owners = [("b", c.ring.epoch)] * SLOTS
    c.ring.release_all()
    await c.publish()
    t.disk.gate.set()
    c.store.gate.set()
    with pytest.raises(Unavailable, match="another node owns") as rejected:
        await writing
    assert "unknown" in str(rejected.value)
    await c.stop()


async def test_a_miss_is_read_from_the_old_owner_before_s3() -> None:
    c = await cluster()
    c["a"].t.in_s3("k", b"1")
    assert await get(c, "k") == ("miss", b"1")
    await move(c)
    c["b"].t.memory.remove(b"k")
    requests = len(c.store.calls)
    assert await get(c, "k") == ("hit", b"1")
    assert len(c.store.calls) == requests
    await c.stop()


async def test_the_old_owner_gets_no_request_for_what_was_written_since() -> None:
    c = await cluster(delay=0.1, max_entries=1)
    c["a"].t.in_s3("k", b"1")
    await get(c, "k")
    await move(c)
    await put(c, "k", b"2")
    await c.clock.advance(1)
    await put(c, "evicts", b"k")
    await c.clock.advance(1)
    assert b"k" not in c["b"].t.memory
    c.requests.clear()
    assert await get(c, "k") == ("miss", b"2")
    assert b"MILENA.PEEK" not in c.requests
    await c.stop()


async def test_the_old_owner_gets_requests_for_a_bounded_time() -> None:
    c = await cluster()
    for key in ("k", "l"):
        c["a"].t.in_s3(key, b"1")
        await get(c, key)
    await move(c)
    c.requests.clear()
    await c.clock.advance(61)
    c["b"].t.memory.remove(b"k")
    assert (await get(c, "k"))[0] == "miss"
    assert b"MILENA.PEEK" not in c.requests
    await c.stop()


async def test_what_cannot_be_handed_over_is_uploaded_when_the_owner_aborts() -> None:
    c = await cluster(delay=0.1)
    c.cut.add("b")
    c.ring.plan(ALL, "b")
    await c.publish()
    await put(c, "k", b"1")
    await c.clock.advance(3)
    assert c["a"].t.s3_has("k") is None
    c["a"].handover.source.abort_all()
    await c.clock.advance(3)
    assert c["a"].t.s3_has("k") == b"1"
    assert c.server_of("k") == ["a"]
    await c.stop()


async def test_slots_that_were_released_stay_stopped_when_the_owner_aborts() -> None:
    """The destination may serve them."""
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", "after")]
    c.ring.plan([K], "b")
    await c.publish("a")
    c["b"].ring_changed(c.ring.map())
    await c.released()
    assert c.server_of("k") == ["b"]
    c["a"].handover.source.abort_all()
    await c.clock.advance(1)
    assert c.server_of("k") == ["b"]
    await c.stop()


async def test_clean_entries_follow_and_later_writes_stay() -> None:
    c = await cluster()
    for key in ("k", "l", "m"):
        c["a"].t.in_s3(key, b"1")
        await get(c, key)
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.until(lambda: c.server_of("k") == ["b"])
    await put(c, "k", b"2", durability="through")
    await c.finish_moves()
    await c.clock.advance(5)
    assert c["a"].handover.hot_entries.sent >= 3
    assert {key for key in (b"k", b"l", b"m") if key in c["b"].t.memory} == {b"k", b"l", b"m"}
    c["b"].t.in_s3("l", None)
    assert await get(c, "l") == ("hit", b"1")
    assert await get(c, "k") == ("hit", b"2")
    await c.stop()


async def test_three_nodes_share_the_slots_of_one() -> None:
    c = await cluster("a", "b", "c")
    for number in range(100):
        await put(c, f"key{number}", b"%d" % number)
    c.ring.plan(range(5000), "b")
    c.ring.plan(range(5000, 11000), "c")
    await c.publish()
    await c.finish_moves()
    for number in range(100):
        assert await get(c, f"key{number}") == ("hit", b"%d" % number)
    assert {name for number in range(100) for name in c.server_of(f"key{number}")} == {"a", "b", "c"}
    await c.stop()


async def test_another_node_hands_in_what_this_one_owns() -> None:
    c = await cluster()
    from milena_cache.handover.frames import HandedOver, encode_write
    from milena_cache.journal.record import Record
    from milena_cache.objects.version import Version
    from milena_common.resp.encoding import command

    await put(c, "known", b"newer")
    writes = [HandedOver(Record(key, Version(1, 7), b"old")) for key in (b"known", b"k")]
    sent = command(b"MILENA.MERGE", *map(encode_write, writes))
    assert await c.request("a:2", sent, 1) == [], "all are taken"
    assert await get(c, "known") == ("hit", b"newer")
    assert (await get(c, "k"))[1] == b"old"
    with pytest.raises(MilenaError):
        await c.request("b:2", sent, 1)
    client = c["a"].client()
    assert (await client.request(b"MILENA.MERGE", b"x")).startswith(b"-NOPERM")
    await c.stop()


async def test_slots_that_are_not_released_are_handed_over_later_with_the_writes_until_then() -> None:
    """They are of a lost node, which may still serve them. Stopping what is not served has no effect."""
    c = await cluster()
    c.ring.released = FIRST_EPOCH - 1
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(1.0)
    assert c.server_of("k") == []
    assert b"RELEASE" not in c.requests
    c.ring.release_all()
    await c.publish()
    await put(c, "k", b"v")
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert await get(c, "k") == ("hit", b"v")
    await c.stop()


async def test_a_write_that_was_sent_without_a_reply_is_taken_back_when_s3_has_a_later_one() -> None:
    """The destination has it, and serves and uploads it unless it learns that the write is gone."""
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"WRITES", "after")]
    c.ring.plan([K], "b")
    await c.publish()
    await c.until(lambda: b"k" in c["b"].t.dirty)
    await put(c, "k", b"2", durability="through")
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert (await get(c, "k"))[1] == b"2"
    await c.stop()


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_move_without_a_reply_to_its_release_is_abandoned_and_one_node_serves(how: str) -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", how)]
    epoch = c.ring.plan(ALL, "b")
    await c.publish()
    await c.released()
    c.cut = {"b"}
    await c.clock.advance(1)
    taken = c["b"].servers.requests.abandon_moves([(0, SLOTS - 1)], epoch)
    c.cut = set()
    await c.clock.advance(3)
    assert c["b"].ownership.has_abandoned(K, K, epoch) is (K not in taken)
    c.ring.publish([(slot, slot, epoch) for slot in taken])
    c.ring.abort()
    await c.publish()
    await run_ready_tasks()
    assert c.server_of("k") == (["b"] if K in taken else ["a"])
    assert (await get(c, "k"))[1] == b"1"
    await put(c, "k", b"2")
    await move(c, "b")
    assert c.server_of("k") == ["b"], "an abandoned move does not hold up a later one"
    assert (await get(c, "k"))[1] == b"2"
    await c.stop()


async def test_a_join_invalidates_the_tracked_keys_of_the_slots_that_move_and_no_others() -> None:
    c = await cluster()
    client = c["a"].client()
    client.send(command(b"HELLO", b"3") + command(b"CLIENT", b"TRACKING", b"ON"))
    keys = [b"key%d" % number for number in range(90)]
    for key in keys:
        c["a"].t.in_s3(key.decode(), b"value")
        client.send(command(b"GET", key))
        await run_ready_tasks()
    tracking = c["a"].servers.resp.context.tracking
    assert tracking.keys == len(keys)
    moving = range(SLOTS // 4)
    await move(c, slots=moving)
    gone = [key for key in keys if slot_of(key) in moving]
    assert tracking.invalidations == len(gone)
    assert sorted(key for key in keys if key not in tracking) == sorted(gone)
    await c.stop()


async def test_pauses_are_observed_once_for_each_slot() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    await move(c, slots=range(1000))
    pauses = c["a"].handover.source.pauses
    assert sum(pauses.counts) == 1000
    assert sum(pauses.counts[: PAUSE_BUCKETS.index(0.05) + 1]) == 1000
    await c.stop()


async def test_slots_with_an_upload_in_flight_move_last_and_the_others_do_not_wait_for_it() -> None:
    c = await cluster(delay=0.0)
    c.store.gate.clear()
    await put(c, "k", b"1")
    await c.clock.advance(0.01)
    await c.store.arrived("put")
    c.ring.plan(range(max(0, K - 10), K + 10), "b")
    await c.publish()
    await c.until(lambda: c.server_of("k") == ["a"] and c["b"].handover.destination.taken >= 19)
    assert c["b"].handover.destination.taken == 19
    c.store.gate.set()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    await c.stop()


async def test_idle_slots_move_first_and_wait_for_no_write_and_no_sync() -> None:
    c = await cluster()
    a, b = c["a"], c["b"]
    await put(c, "other", b"1")
    a.t.disk.gate.clear()
    writing = asyncio.create_task(a.t.put("k", b"1", FIRST_EPOCH))
    await run_ready_tasks()
    c.ring.plan(range(K - 500, K + 500), "b")
    await c.publish()
    await c.clock.advance(0.1)
    assert b.handover.destination.taken == 999
    assert c.server_of("k") in (["a"], [])
    a.t.disk.gate.set()
    await writing
    await c.finish_moves()
    # The destination's disk hangs: nothing is asked of it for slots of which it has everything.
    b.t.disk.gate.clear()
    c.ring.plan(range(K + 500, K + 1000), "b")
    await c.publish()
    await c.clock.advance(0.1)
    assert b.handover.destination.taken == 1500
    assert a.handover.source.pauses.counts[PAUSE_BUCKETS.index(0.001)] >= 1000
    b.t.disk.gate.set()
    await c.finish_moves()
    assert await get(c, "k") == ("hit", b"1")
    await c.stop()


async def test_slots_are_stopped_when_a_round_trip_is_short_or_has_been_long_for_a_while() -> None:
    c = await cluster()
    pings = 0
    slow = True
    request = c.request

    async def delayed(address: str, sent: bytes, timeout: float, *, at_once: bool = False) -> Any:
        nonlocal pings
        if b"ANNOUNCE" in sent:
            pings += 1
            await c.clock.sleep(5 * SHORT_SECONDS if slow else 0)
        return await request(address, sent, timeout, at_once=at_once)

    c.request = delayed  # type: ignore[method-assign]
    c.ring.plan([K], "b")
    await c.publish()
    await c.clock.advance(0.5 * SHORT_TIMEOUT_SECONDS)
    assert pings > 1
    assert c.server_of("k") == ["a"]
    slow = False
    await c.clock.advance(5 * SHORT_SECONDS)
    assert c.server_of("k") == ["b"]
    await c.publish_taken()
    slow = True
    c.ring.plan([K + 1], "b")
    await c.publish()
    await c.clock.advance(2 * SHORT_TIMEOUT_SECONDS)
    assert c["b"].handover.destination.taken == 2, "it waits for a while only"
    await c.stop()


async def test_a_large_backlog_is_no_reason_for_a_move_without_progress() -> None:
    """The router abandons such a move. Slots of which everything has been sent are handed over in between."""
    c = await cluster()
    for number in range(3 * MAX_WRITES):
        await put(c, f"key{number}", b"1")
    request = c.request

    async def delayed(address: str, sent: bytes, timeout: float, *, at_once: bool = False) -> Any:
        if b"WRITES" in sent[:60]:
            await c.clock.sleep(0.6 * PROGRESS_SECONDS)
        return await request(address, sent, timeout, at_once=at_once)

    c.request = delayed  # type: ignore[method-assign]
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.clock.advance(1.5 * PROGRESS_SECONDS)
    assert 0 < c["b"].handover.destination.taken < SLOTS
    assert len(c["b"].t.dirty) < 3 * MAX_WRITES
    await c.finish_moves(20.0)
    assert len(c["b"].t.dirty) == 3 * MAX_WRITES
    assert c["b"].handover.destination.taken == SLOTS
    await c.stop()


async def test_slots_are_not_served_before_a_restart_would_begin_after_the_owners_versions() -> None:
    c = await cluster()
    a, b = c["a"].t, c["b"].t
    await put(c, "through", b"1", durability="through")
    await c.clock.advance(0.1)
    a.journal.versions.seq = newest = b.journal.versions.seq + 10**9
    b.disk.gate.clear()
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    await c.clock.advance(0.1)
    assert c.server_of("k") == []
    b.disk.gate.set()
    await c.until(lambda: c.server_of("k") == ["b"])
    t = await b.crash()
    assert t.journal.versions.seq > newest
    await t.stop()


async def test_a_release_of_idle_slots_is_confirmed_in_the_step_that_reads_it() -> None:
    """Each further iteration of the destination's event loop, busy with requests, would be part of the pause."""
    c = await cluster()
    b = c["b"]
    c.broken = [(b"RELEASE", "before")] * 1000
    c.ring.plan([K], "b")
    await c.publish()
    await c.clock.advance(0.1)
    moving = next(iter(b.handover.destination._moves))
    newest = c["a"].t.journal.versions
    arguments = (moving.owner, moving.epoch, b.ownership.epoch, 10**6, Version(newest.epoch, newest.seq), [(K, K)])
    assert b.handover.destination.take_slots(*arguments) == [1, int(1000 * c.clock.now())]
    assert b.ownership.since[K] == moving.epoch
    c.broken = []
    await c.finish_moves()
    await c.stop()


async def test_requests_for_released_slots_are_redirected_and_wait_at_the_destination() -> None:
    c = await cluster()
    a, b = c["a"].ownership, c["b"].ownership
    c.held = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    assert c.server_of("k") == []
    assert isinstance(a.elsewhere(K), Moved)
    assert isinstance(b.elsewhere(K), TryAgain), "it does not send them back"
    # The release has not arrived after a while: requests wait at the owner, and the destination knows of none.
    a.end_redirect([(K, K)])
    c["b"].handover.destination._expected_until = 0.0
    c["b"].handover.destination._expire()
    assert isinstance(a.elsewhere(K), TryAgain)
    assert isinstance(b.elsewhere(K), Moved)
    c.held.set()
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    assert not a._redirected
    await c.stop()


async def test_slots_of_a_rejected_release_are_served_by_their_owner_again() -> None:
    c = await cluster()
    c.rejected = 1
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    await run_ready_tasks()
    assert c.server_of("k") == ["a"]
    assert not c["a"].ownership._redirected
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    await c.stop()


async def test_a_destination_expects_slots_of_a_move_that_its_ring_has_only() -> None:
    c = await cluster()
    b = c["b"]
    c.cut = {"b"}
    c.ring.plan([K, K + 1], "b")
    await c.publish()
    move = next(iter(b.handover.destination._moves))
    epochs = (move.epoch, b.ownership.epoch)
    assert b.handover.destination.announce(move.owner, *epochs, [(K, K + 1)]) == int(1000 * c.clock.now())
    b.handover.destination.announce(move.owner, *epochs, [(K, K)])
    assert isinstance(b.ownership.elsewhere(K), TryAgain)
    assert isinstance(b.ownership.elsewhere(K + 1), Moved), "what was announced before was replaced"
    with pytest.raises(FailedPrecondition):
        b.handover.destination.announce(move.owner, *epochs, [(K, K + 2)])
    c.ring.abort()
    await c.publish()
    assert isinstance(b.ownership.elsewhere(K), Moved)
    await c.stop()


async def test_the_pause_ends_when_the_destination_serves_and_not_when_its_owner_reads_that() -> None:
    c = await cluster()
    c.unconfirmed = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.until(lambda: c.server_of("k") == ["b"])
    assert isinstance(c["a"].ownership.elsewhere(K), Moved)
    await c.clock.advance(1.0)
    c.unconfirmed.set()
    await c.finish_moves()
    pauses = c["a"].handover.source.pauses
    assert (sum(pauses.counts), pauses.total < 0.01) == (1, True)
    await c.stop()


async def test_a_node_hands_nothing_in_of_slots_that_it_has_taken_before_a_ring_says_so() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.ring.plan(ALL, "b")
    await c.publish()
    await c.until(lambda: c.server_of("k") == ["b"])
    assert not c["b"].handover.former_owner.holds_back(K)
    c["b"].handover.update_moves(c["b"].ownership.slot_map)
    await c.clock.advance(0.1)
    assert b"MILENA.MERGE" not in c.requests
    await c.finish_moves()
    await c.stop()


async def test_a_pause_is_observed_although_the_release_has_no_reply_for_minutes() -> None:
    c = await cluster()
    await put(c, "k", b"1")
    c.broken = [(b"RELEASE", "before")] * 1000
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    await c.clock.advance(5 * FETCH_SECONDS)
    c.ring.epoch += 1
    await c.publish()
    c.broken = []
    await c.finish_moves()
    assert c.server_of("k") == ["b"]
    pauses = c["a"].handover.source.pauses
    assert sum(pauses.counts) == 1
    assert pauses.total > 5 * FETCH_SECONDS
    await c.stop()


async def test_what_was_received_is_known_by_key_until_the_slot_is_taken() -> None:
    """Such a write is not handed back to the owner, which would not send it again before it releases the slot."""
    c = await cluster()
    await put(c, "k", b"1")
    c.held = asyncio.Event()
    c.ring.plan([K], "b")
    await c.publish()
    await c.released()
    destination = c["b"].handover.destination
    assert destination.has_received(b"k")
    assert not destination.has_received(b"other")
    c.held.set()
    await c.finish_moves()
    assert not destination.has_received(b"k")
    await c.stop()
