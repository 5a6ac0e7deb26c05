"""The owner's side of copies: when writes are acknowledged, what holders have, and what happens if they fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from milena_cache.copies import copy_policy
from milena_cache.copies.replication import Replication
from milena_cache.membership.ownership import ELSEWHERE
from milena_cache.objects.object_store import Fault
from milena_common.api.errors import Unavailable
from milena_common.cluster.slots import SLOTS, slot_of
from tests.cache.copies.holders_under_test import HolderCluster
from tests.cache.handover.nodes_under_test import Member
from tests.support.fake_clock import run_ready_tasks


async def owned_by_a(names: str = "ab", holders: str = "b", **options: Any) -> HolderCluster:
    """Nodes of which `a` owns all slots, and has `holders`."""
    cluster = HolderCluster(*names, **{"delay": 1000.0, **options})
    await cluster.start()
    await cluster.change("a", holders, lost="o")
    await live(cluster)
    return cluster


async def live(cluster: HolderCluster, seconds: float = 0.3) -> None:
    """Live through the fill of holders, with its pauses."""
    for _ in range(int(seconds / 0.01)):
        await cluster.clock.advance(0.01)


def begin(member: Member, key: str, value: bytes, **options: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(member.t.put(key, value, member.cluster.ring.epoch, **options))


def replication(member: Member) -> Replication:
    return member.servers.copies.replication


async def read(member: Member, key: str) -> bytes | None:
    since = member.ownership.owned_since(key.encode())
    return (await member.t.outcome(key, since))[1]


@pytest.mark.parametrize("waits_for", ["a", "b"])
async def test_a_write_is_neither_acknowledged_nor_served_before_all_journals_have_it(waits_for: str) -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    cluster[waits_for].t.disk.gate.clear()
    writing = begin(a, "k", b"1")
    await run_ready_tasks()
    await cluster.clock.advance(0.1)
    assert not writing.done()
    assert a.t.dirty.get(b"k") is None
    cluster[waits_for].t.disk.gate.set()
    await live(cluster, 0.05)
    assert (await writing).durability == "back"
    assert cluster.copies("b") == {"k": b"1"}
    assert await read(a, "k") == b"1"
    await cluster.stop()


async def test_one_frame_takes_all_writes_of_a_commit() -> None:
    cluster = await owned_by_a()
    before = cluster.requests.count(b"MILENA.COPY")
    await asyncio.gather(*(begin(cluster["a"], f"k{number}", b"1") for number in range(20)))
    assert cluster.requests.count(b"MILENA.COPY") - before == 1
    assert len(cluster.copies("b")) == 20
    await cluster.stop()


async def test_what_s3_has_is_released_at_the_holder_within_50_ms() -> None:
    cluster = await owned_by_a(delay=0.5)
    await begin(cluster["a"], "k", b"1")
    assert cluster.copies("b") == {"k": b"1"}
    await cluster.clock.advance(0.5)
    await run_ready_tasks()
    assert cluster["a"].t.s3_has("k") == b"1"
    await live(cluster, 0.05)
    assert cluster.copies("b") == {}
    await cluster.stop()


async def test_a_write_whose_holder_does_not_confirm_goes_through_s3() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    cluster["b"].t.disk.gate.clear()
    writing = begin(a, "k", b"1")
    await run_ready_tasks()
    await live(cluster, 1.2)
    assert a.t.s3_has("k") == b"1"
    assert replication(a).failed == 1
    # The holder may have the record, and it is listed: what it has not given up would be served by it.
    assert not writing.done()
    await cluster.change("a", "", lost="b", same_since=True)
    assert (await writing).durability == "through"
    cluster["b"].t.disk.gate.set()
    await cluster.stop()


async def test_the_outcome_of_a_write_is_unknown_if_neither_the_holder_nor_s3_takes_it() -> None:
    cluster = await owned_by_a()
    cluster.cut = {"b"}
    cluster.store.down = Fault.CONNECT
    writing = begin(cluster["a"], "k", b"1")
    await run_ready_tasks()
    await live(cluster, 1.5)
    with pytest.raises(Unavailable, match="unknown"):
        await writing
    assert cluster["a"].t.dirty.get(b"k") is None
    await cluster.stop()


async def test_a_policy_that_requires_copies_rejects_what_cannot_have_them() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    a.t.parts.durable._policy = replication(a)._policy = copy_policy.REQUIRE
    cluster.cut = {"b"}
    writing = begin(a, "k", b"1")
    await run_ready_tasks()
    await live(cluster, 1.2)
    with pytest.raises(Unavailable, match="COPIES_POLICY=require"):
        await writing
    with pytest.raises(Unavailable, match="COPIES_POLICY=require"):
        await begin(a, "k", b"2")
    assert a.t.s3_has("k") is None
    await cluster.stop()


async def test_a_write_in_a_ring_that_lost_its_holder_goes_through_s3() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    cluster["b"].t.disk.gate.clear()
    waiting = begin(a, "k", b"1")
    await run_ready_tasks()
    await cluster.change("a", "", lost="b", same_since=True)
    assert (await waiting).durability == "through"
    assert (await begin(a, "j", b"1")).durability == "through"
    assert replication(a).slots_with_missing_copies == SLOTS
    assert any("fewer complete copies" in each for each in a.servers.copies.degraded())
    cluster["b"].t.disk.gate.set()
    await cluster.stop()


async def test_a_ring_that_wants_no_copies_acknowledges_with_one_journal() -> None:
    cluster = await owned_by_a("ab", "")
    cluster.ring.target_copies = 0
    await cluster.change("a", "", same_since=True)
    assert (await begin(cluster["a"], "k", b"1")).durability == "back"
    assert replication(cluster["a"]).slots_with_missing_copies == 0
    await cluster.stop()


async def test_a_new_holder_gets_everything_and_is_reported_when_it_has() -> None:
    cluster = await owned_by_a("abc", "b", dirty_memory_bytes=10)
    a = cluster["a"]
    written = {f"k{number}": b"%d" % number * 1000 for number in range(50)}
    for key, value in written.items():
        await begin(a, key, value)
    await cluster.change("a", "bC", same_since=True)
    cluster.ring.holders = tuple(cluster.ring.holders)
    while_filled = begin(a, "new", b"1")
    await live(cluster)
    await while_filled
    assert cluster.copies("c") == {**written, "new": b"1"}
    # Listed as filling since 0 in this ring by hand: a router says since when, see the ring's tests.
    assert replication(a).failed_holders() == ()
    await cluster.stop()


async def test_a_holder_that_fails_is_reported_and_comes_back_when_it_follows_again() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    cluster.cut = {"b"}
    writing = begin(a, "k", b"1")
    await run_ready_tasks()
    await live(cluster, 1.2)
    assert replication(a).failed_holders() == ((0, SLOTS - 1, "b:1"),)
    assert any("b:1 does not follow" in each for each in a.servers.copies.degraded())
    cluster.cut = set()
    await live(cluster, 2.5)
    assert replication(a).failed_holders() == ()
    await writing
    assert (await begin(a, "j", b"1")).durability == "back"
    assert cluster.copies("b")["j"] == b"1"
    await cluster.stop()


async def test_a_write_that_failed_is_taken_back_at_the_holders_that_have_it() -> None:
    cluster = await owned_by_a("abc", "bc")
    a = cluster["a"]
    await begin(a, "k", b"1")
    cluster.store.down = Fault.CONNECT
    cluster.cut = {"c"}
    failing = [begin(a, "k", b"2"), begin(a, "other", b"2")]
    await run_ready_tasks()
    await live(cluster, 0.1)
    assert cluster.copies("b") == {"k": b"2", "other": b"2"}
    await live(cluster, 1.5)
    for each in failing:
        with pytest.raises(Unavailable):
            await each
    assert cluster.copies("b") == {"k": b"1"}
    assert await read(a, "k") == b"1"
    await cluster.stop()


async def test_a_restart_serves_a_write_only_when_the_holder_has_it() -> None:
    cluster = await owned_by_a()
    cluster.broken.append((b"MILENA.COPY", "before"))
    writing = begin(cluster["a"], "k", b"1")
    await run_ready_tasks()
    writing.cancel()
    assert cluster.copies("b") == {}
    cluster.cut = {"b"}
    await cluster.crash("a")
    a = cluster["a"]
    await cluster.publish("a")
    assert a.ownership.since[7629] == ELSEWHERE
    assert a.handover.holds_back(b"k")
    cluster.cut = set()
    await live(cluster, 1.0)
    assert cluster.copies("b") == {"k": b"1"}
    assert await read(a, "k") == b"1"
    await cluster.stop()


async def test_a_connection_that_breaks_loses_and_repeats_nothing() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    for how in ("before", "after"):
        cluster.broken.append((b"MILENA.COPY", how))
        writing = begin(a, how, b"1")
        await run_ready_tasks()
        await live(cluster, 0.3)
        assert (await writing).durability == "back"
    assert cluster.copies("b") == {"before": b"1", "after": b"1"}
    await cluster.stop()


async def test_a_write_through_s3_waits_until_the_holder_has_given_up_what_is_older() -> None:
    cluster = await owned_by_a()
    a = cluster["a"]
    await begin(a, "k", b"old")
    cluster.cut = {"b"}
    writing = begin(a, "k", b"new", durability="through")
    await run_ready_tasks()
    await live(cluster, 0.2)
    assert (a.t.s3_has("k"), writing.done()) == (b"new", False)
    cluster.cut = set()
    await live(cluster, 1.0)
    await writing
    assert cluster.copies("b") == {}
    await cluster.stop()


async def test_a_holder_without_room_makes_writes_go_through_s3() -> None:
    cluster = await owned_by_a()
    cluster["b"].servers.copies.store.max_bytes = 100
    assert (await begin(cluster["a"], "k", b"1")).durability == "through"
    assert cluster.copies("b") == {}
    await cluster.stop()


async def test_a_ring_that_never_had_as_many_nodes_as_copies_is_reported() -> None:
    cluster = await owned_by_a()
    copies = cluster["a"].servers.copies
    assert replace(copies, configured=2).remarks() == []
    few = replace(copies, configured=3)
    assert "in 2 of 3 journals (COPIES)" in few.remarks()[0]
    assert few.degraded() == [], "it is as it must be"
    await cluster.stop()


def test_a_ring_without_copies_is_as_configured_if_one_journal_is_enough() -> None:
    assert copy_policy.fewer_than_configured(1, 0, 3) == ""
    assert "in 1 of 2 journals" in copy_policy.fewer_than_configured(2, 0, 3)
    assert copy_policy.fewer_than_configured(2, 0, 0) == "", "no ring is known yet"


async def test_the_holders_of_the_owner_before_have_the_writes_of_slots_that_were_just_taken_over() -> None:
    cluster = await owned_by_a("abc", "b")
    await begin(cluster["a"], "k", b"1")
    c = await taken_by_c(cluster)
    await c.t.put("k", b"2", c.ownership.since[0])
    assert cluster.copies("a")["k"] == cluster.copies("b")["k"] == b"2"
    # Both are lost before a router knows that the slots were taken over: they go to the holder that it lists.
    cluster.store.down = Fault.CONNECT
    await cluster.change("b", "", lost="ac")
    assert await read(cluster["b"], "k") == b"2"
    await cluster.stop()


async def taken_by_c(cluster: HolderCluster) -> Member:
    """Have `c` take all slots over from `a`, before the ring says so."""
    cluster.ring.plan(range(SLOTS), "c")
    await cluster.publish()
    await cluster.until(lambda: cluster["c"].ownership.slots == SLOTS)
    return cluster["c"]


async def test_slots_that_were_taken_over_with_too_few_holders_have_their_writes_in_s3() -> None:
    cluster = await owned_by_a("abc", "b")
    cluster.ring.target_copies = 4
    c = await taken_by_c(cluster)
    assert (await c.t.put("k", b"1", c.ownership.since[0])).durability == "through"
    await cluster.stop()


async def test_an_owner_that_has_handed_slots_over_does_not_begin_them_at_its_holders_any_more() -> None:
    cluster = await owned_by_a("abc", "b")
    a = cluster["a"]
    await begin(a, "k", b"1")
    c = await taken_by_c(cluster)
    cluster.broken.append((b"MILENA.COPY", "before"))
    link = replication(a)._links["b:1"]
    link.send_item(replication(c).item_of(b"k") or b"")  # any frame, which fails: a new session begins
    await live(cluster, 0.5)
    await c.t.put("j", b"1", c.ownership.since[0])
    assert cluster.copies("b") == {"k": b"1", "j": b"1"}
    await cluster.stop()


async def test_slots_whose_move_was_given_up_are_begun_at_the_holders_again() -> None:
    cluster = await owned_by_a("ab", "b")
    a = cluster["a"]
    await begin(a, "k", b"1")
    a.ownership.stop_slots([(0, SLOTS - 1)])
    cluster.broken.append((b"MILENA.COPY", "before"))
    replication(a)._links["b:1"].send_item(replication(a).item_of(b"k") or b"")
    cluster["b"].servers.copies.holder.drop_copy(b"k")  # so that it is seen to be sent again
    await live(cluster, 0.5)
    assert cluster.copies("b") == {}
    a.ownership.resume_slots([(0, SLOTS - 1)])
    await live(cluster, 0.5)
    assert cluster.copies("b") == {"k": b"1"}
    await cluster.stop()


def damage(member: Member, key: str) -> None:
    """Damage the value of the record of a dirty write."""
    entry = member.t.dirty.get(key.encode())
    assert entry is not None
    records = member.t.disk.open.records
    raw = records[entry.number]
    records[entry.number] = raw[:-1] + bytes([raw[-1] ^ 1])


async def test_a_holder_that_is_listed_again_keeps_the_sound_copy_of_a_damaged_record_and_is_completed() -> None:
    cluster = await owned_by_a("ab", "b", dirty_memory_bytes=10)
    a = cluster["a"]
    for key in ("k", "j"):
        await begin(a, key, b"1" * 1000)
    damage(a, "k")
    await cluster.change("a", "B", same_since=True)
    link = replication(a)._links["b:1"]
    link.synced = bytearray(SLOTS)
    link._fail_session(Unavailable("the test breaks the connection"))
    await live(cluster, 0.5)
    assert cluster.copies("b") == {"k": b"1" * 1000, "j": b"1" * 1000}
    assert link.is_synced(slot_of(b"k"))
    await cluster.stop()


async def test_a_new_holder_gets_the_sound_copy_of_a_damaged_record_from_another_one() -> None:
    cluster = await owned_by_a("abc", "b", dirty_memory_bytes=10)
    a = cluster["a"]
    await begin(a, "k", b"1" * 1000)
    damage(a, "k")
    cluster.broken.append((b"MILENA.COLLECT", "before"))  # and is asked again
    await cluster.change("a", "bC", same_since=True)
    await live(cluster, 0.5)
    assert cluster.copies("c") == {"k": b"1" * 1000}
    assert replication(a)._links["c:1"].is_synced(slot_of(b"k"))
    await cluster.stop()


async def test_a_write_that_fails_before_an_earlier_one_of_its_key_is_complete_leaves_that_one() -> None:
    """(1) one of two holders has a write; (2) it fails, and so does the next write; (3) the other one confirms."""
    cluster = await owned_by_a("abc", "bc")
    a = cluster["a"]
    cluster["c"].t.disk.gate.clear()
    first = begin(a, "k", b"1")
    await live(cluster, 0.05)
    cluster["b"].t.disk.gate.clear()
    second = begin(a, "k", b"2")
    await live(cluster, 0.05)
    replication(a)._links["b:1"]._fail("it is said to fail by the test")
    await live(cluster, 0.05)
    assert b"k" in set(a.t.parts.writes.busy()), "the first one is in flight still"
    cluster["b"].t.disk.gate.set()
    cluster["c"].t.disk.gate.set()
    await live(cluster, 0.5)
    assert (await first).durability == "back"
    assert (await second).durability == "through"
    assert await read(a, "k") == b"2"
    assert a.t.s3_has("k") == b"2"
    await cluster.stop()
