"""The node's policy for reads, outcome by outcome, with a fake S3 and a fake clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import pytest

from milena_cache.memory.freshness import Freshness
from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Fault
from milena_cache.reads.origin_health import PROBE_SECONDS
from milena_cache.reads.reader import Reply
from milena_common.api.errors import AccessDenied, FailedPrecondition, InvalidRequest, OriginUnavailable
from tests.cache.node_under_test import BUCKET, FRESHNESS, LATE, SOON, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def some_rounds() -> None:
    """Let the event loop run: what S3 replies passes through some tasks."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_miss_reads_s3_once_and_then_hits() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    assert await t.outcome("k") == ("miss", b"v")
    assert await t.outcome("k") == ("hit", b"v")
    assert t.store.count("get") == 1


async def test_an_empty_value_is_a_value() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"")
    assert await t.outcome("k") == ("miss", b"")
    assert await t.outcome("k") == ("hit", b"")


async def test_a_missing_key_is_remembered_for_the_negative_ttl() -> None:
    t = NodeUnderTest()
    assert await t.outcome("k") == ("miss", None)
    t.clock.tick(4.9)
    assert await t.outcome("k") == ("negative_hit", None)
    t.clock.tick(0.2)
    t.in_s3("k", b"v")
    assert await t.outcome("k") == ("miss", b"v")


async def test_without_a_negative_ttl_nothing_is_remembered_of_a_missing_key() -> None:
    t = NodeUnderTest(freshness=Freshness(100, 0, 10, 50, 1000, negative_ttl=0))
    await t.get("k")
    assert len(t.memory) == 0


async def test_a_put_clears_the_memory_of_a_missing_key() -> None:
    t = NodeUnderTest()
    await t.get("k")
    await t.put("k", b"v")
    assert await t.outcome("k") == ("hit", b"v")


async def test_in_grace_the_entry_is_served_while_s3_is_queried_once() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.in_s3("k", b"new")
    t.clock.tick(105)
    assert await t.outcome("k") == ("stale", b"old")
    assert await t.outcome("k") == ("stale", b"old")
    await t.store.arrived("get", 2)
    await some_rounds()
    assert t.store.count("get") == 2
    assert await t.outcome("k") == ("hit", b"new")


async def test_in_keep_an_unchanged_copy_is_confirmed_without_its_body() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.clock.tick(120)
    assert await t.outcome("k") == ("revalidated", b"v")
    t.clock.tick(99)
    assert await t.outcome("k") == ("hit", b"v")


async def test_in_keep_a_changed_object_replaces_the_copy_and_a_removed_one_drops_it() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.in_s3("k", b"new")
    t.clock.tick(120)
    assert await t.outcome("k") == ("changed", b"new")
    t.in_s3("k", None)
    t.clock.tick(120)
    assert await t.outcome("k") == ("changed", None)
    assert await t.outcome("k") == ("negative_hit", None)


async def test_after_keep_the_copy_is_as_if_it_were_not_there() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.clock.tick(161)
    assert await t.outcome("k") == ("miss", b"v")


async def test_readers_of_one_cold_key_share_one_read_of_s3() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    readers = [asyncio.create_task(t.outcome("k")) for _ in range(500)]
    await t.store.arrived("get")
    t.store.gate.set()
    outcomes = await asyncio.gather(*readers)
    assert t.store.count("get") == 1
    assert sorted(set(outcomes)) == [("coalesced", b"v"), ("miss", b"v")]
    assert t.node.reads.outcomes["miss"] == 1
    assert t.node.reads.misses == 500


async def test_a_reader_that_gives_up_cancels_nothing_for_the_others() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    leader = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    other = asyncio.create_task(t.outcome("k"))
    await some_rounds()
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
    t.store.gate.set()
    assert await other == ("coalesced", b"v")
    assert await t.outcome("k") == ("hit", b"v")


async def test_an_error_reaches_all_waiters_and_no_later_caller() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    t.store.fail(Fault.SERVER)
    readers = [asyncio.create_task(t.get("k")) for _ in range(3)]
    await t.store.arrived("get")
    t.store.gate.set()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, OriginUnavailable) for result in results)
    assert await t.outcome("k") == ("miss", b"v")


async def test_a_cold_read_without_a_response_of_s3_ends_within_its_timeout() -> None:
    t = NodeUnderTest()
    t.store.gate.clear()
    with pytest.raises(OriginUnavailable, match=f"s3://{BUCKET}/k.*no response within 0.01 s"):
        await t.get("k", timeout=0.01)
    assert t.node.reads.outcomes["error"] == 1
    t.store.gate.set()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.CONNECT, OriginUnavailable),
        (Fault.TIMEOUT, OriginUnavailable),
        (Fault.INCOMPLETE, OriginUnavailable),
        (Fault.SERVER, OriginUnavailable),
        (Fault.THROTTLED, OriginUnavailable),
        (Fault.ACCOUNT, FailedPrecondition),
        (Fault.UNEXPECTED, OriginUnavailable),
        (Fault.DENIED, AccessDenied),
        (Fault.NO_BUCKET, FailedPrecondition),
        (Fault.REJECTED, FailedPrecondition),
    ],
)
async def test_each_fault_of_s3_has_its_error_and_is_not_cached(fault: Fault, error: type[Exception]) -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.fail(fault, times=2)
    with pytest.raises(error, match=fault.name):
        await t.get("k")
    with pytest.raises(error, match=fault.name):
        await t.put("k", b"w")
    assert len(t.memory) == 0
    assert await t.outcome("k") == ("miss", b"v")


async def test_one_lost_response_does_not_make_a_key_unreadable_for_later_callers() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    t.store.gate.clear()
    first = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    t.clock.tick(LATE)
    t.store.lose_waiting()
    assert await t.outcome("k") == ("coalesced", b"v")
    assert await first == ("miss", b"v"), "a read that comes later is for those who wait already"
    assert await t.outcome("k") == ("hit", b"v")


async def test_of_two_reads_of_a_late_fetch_only_the_first_to_return_is_kept() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    t.store.read_gate.clear()
    first = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get")
    await run_ready_tasks()
    t.in_s3("k", b"new")
    t.clock.tick(LATE)
    second = asyncio.create_task(t.outcome("k"))
    await t.store.arrived("get", 2)
    await run_ready_tasks()
    t.store.read_gate.set()
    returned = {(await first)[1], (await second)[1]}
    assert len(returned) == 1
    assert await t.outcome("k") == ("hit", returned.pop())


async def test_when_s3_fails_a_copy_in_its_keep_is_served_and_heals_by_itself() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.store.down = Fault.CONNECT
    t.clock.tick(120)
    assert await t.outcome("k") == ("stale_error", b"v")
    # From now on no caller waits, and S3 is queried once in a while.
    requested = t.store.count("get")
    for _ in range(50):
        assert await t.outcome("k") == ("stale_error", b"v")
    await some_rounds()
    assert t.store.count("get") == requested
    t.store.down = None
    t.clock.tick(PROBE_SECONDS)
    assert await t.outcome("k") == ("stale_error", b"v")
    await t.store.arrived("get", requested + 1)
    await some_rounds()
    assert await t.outcome("k") == ("hit", b"v")


async def test_when_s3_is_too_slow_a_copy_in_its_keep_is_served() -> None:
    t = NodeUnderTest(revalidate_timeout=0.01)
    t.in_s3("k", b"v")
    await t.get("k")
    t.clock.tick(120)
    t.store.gate.clear()
    assert await t.outcome("k") == ("stale_error", b"v")
    t.store.gate.set()


async def test_a_copy_is_served_on_errors_no_longer_than_allowed() -> None:
    t = NodeUnderTest(freshness=Freshness(100, 0, 0, 1000, stale_if_error=20, negative_ttl=5))
    t.in_s3("k", b"v")
    await t.get("k")
    t.store.down = Fault.SERVER
    t.clock.tick(119)
    assert await t.outcome("k") == ("stale_error", b"v")
    t.clock.tick(2)
    with pytest.raises(OriginUnavailable):
        await t.get("k")


async def test_a_rejection_by_s3_is_raised_and_not_hidden_by_an_entry() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.clock.tick(120)
    t.store.fail(Fault.DENIED)
    with pytest.raises(AccessDenied):
        await t.get("k")


async def test_after_an_outage_a_rejection_by_s3_is_raised_too() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    await t.get("k")
    t.clock.tick(120)
    t.store.down = Fault.CONNECT
    assert await t.outcome("k") == ("stale_error", b"v")
    t.store.down = Fault.DENIED
    t.clock.tick(PROBE_SECONDS)
    assert await t.outcome("k") == ("stale_error", b"v")  # sends the probe that finds out
    await run_ready_tasks()
    with pytest.raises(AccessDenied):
        await t.get("k")


async def test_while_the_credentials_fail_a_copy_in_its_keep_is_served() -> None:
    t = NodeUnderTest()
    for key in "ab":
        t.in_s3(key, b"v")
        await t.get(key)
    t.clock.tick(120)
    t.store.down = Fault.ACCOUNT
    assert await t.outcome("a") == ("stale_error", b"v")
    reply, _ = await t.node.exists(t.object("b"), 1)
    assert reply.outcome == "stale_error"
    with pytest.raises(FailedPrecondition, match="ACCOUNT"):
        await t.get("cold")
    t.store.down = None
    t.clock.tick(PROBE_SECONDS)
    await t.get("a")
    await run_ready_tasks()
    assert await t.outcome("a") == ("hit", b"v")


async def test_an_object_over_the_byte_budget_is_served_and_not_kept() -> None:
    t = NodeUnderTest(max_bytes=2000)
    t.in_s3("k", b"x" * 3000)
    assert await t.outcome("k") == ("bypass", b"x" * 3000)
    assert await t.outcome("k") == ("bypass", b"x" * 3000)
    await t.put("k", b"y" * 3000)
    assert len(t.memory) == 0
    assert (await t.get("k")).entry.value == b"y" * 3000


async def test_an_object_over_the_value_limit_is_rejected_with_both_sizes() -> None:
    t = NodeUnderTest(max_value_bytes=10)
    t.in_s3("k", b"x" * 11)
    with pytest.raises(FailedPrecondition, match=r"11 bytes.*10"):
        await t.get("k")
    with pytest.raises(InvalidRequest, match=r"11 bytes.*10"):
        await t.put("k", b"x" * 11)
    assert t.store.count("put") == 0
    await t.put("k", b"x" * 10)


# What else a request can ask.


async def test_existence_is_checked_without_reading_the_value() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"value")
    for key, found, size in (("k", b"", 5), ("absent", None, 0)):
        reply, got = await t.node.exists(t.object(key), 1)
        assert (reply.outcome, reply.entry.value, got) == ("miss", found, size)
    assert t.store.count("get") == 0
    await t.get("k")
    reply, got = await t.node.exists(t.object("k"), 1)
    assert (reply.outcome, got) == ("hit", 5)


async def test_existence_too_is_served_from_an_entry_when_s3_fails() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"value")
    await t.get("k")
    t.clock.tick(120)
    t.store.down = Fault.CONNECT
    for _ in range(2):
        reply, size = await t.node.exists(t.object("k"), 1)
        assert (reply.outcome, size) == ("stale_error", 5)


@pytest.mark.parametrize("after", [b"longer", None], ids=["changed", "gone"])
@pytest.mark.parametrize("reading", [False, True], ids=["alone", "beside a read"])
async def test_what_a_head_has_shown_is_not_followed_by_an_older_value(after: bytes | None, reading: bool) -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.clock.tick(120)
    t.in_s3("k", after)
    t.store.reject = lambda operation, _: Fault.CONNECT if operation == "get" else None
    if reading:
        t.store.gate.clear()
        reader = asyncio.create_task(t.outcome("k"))
        await t.store.arrived("get")
        head = asyncio.create_task(t.node.exists(t.object("k"), 1))
        await t.store.arrived("head")
        t.store.gate.set()
        reply, size = await head
        await asyncio.gather(reader, return_exceptions=True)
    else:
        reply, size = await t.node.exists(t.object("k"), 1)
    assert (reply.outcome, size) == ("miss", len(after or b""))
    if after is None:
        assert await t.outcome("k") == ("negative_hit", None)
    else:
        with pytest.raises(OriginUnavailable):
            await t.get("k")


async def test_a_head_that_finds_the_entrys_object_leaves_it_for_an_outage() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"value")
    await t.get("k")
    t.clock.tick(120)
    t.store.spell = lambda etag: f"W/{etag}"
    assert (await t.node.exists(t.object("k"), 1))[0].outcome == "miss"
    t.store.down = Fault.CONNECT
    assert await t.outcome("k") == ("stale_error", b"value")


async def test_an_outage_of_s3_is_a_line_when_it_begins_and_one_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    t = NodeUnderTest()
    t.store.down = Fault.CONNECT
    for key in "abc":
        with pytest.raises(OriginUnavailable):
            await t.get(key)
    t.store.down = None
    for key in "abc":
        await t.get(key)
    assert [record.getMessage()[:15] for record in caplog.records] == ["S3 fails for se", "S3 responds aga"]


async def test_one_object_that_always_fails_leaves_the_other_keys_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    t = NodeUnderTest()
    for key in ("a", "b", "c", "bad"):
        t.in_s3(key, b"old")
        await t.get(key)
    for key in ("a", "b", "c", "bad"):
        t.in_s3(key, b"new")
    t.store.reject = lambda _, ref: Fault.SERVER if ref.key == "bad" else None
    t.clock.tick(120)
    assert await t.outcome("bad") == ("stale_error", b"old")
    for key in "abc":
        assert await t.outcome(key) == ("changed", b"new")
        assert await t.outcome("bad") == ("stale_error", b"old")
    await run_ready_tasks()
    assert t.store.calls.count(("get", "bad")) == 2, "readers of the bad object do not wait for S3 again"
    t.clock.tick(PROBE_SECONDS)
    t.store.reject = None
    assert await t.outcome("bad") == ("stale_error", b"old")
    await run_ready_tasks()
    assert await t.outcome("bad") == ("hit", b"new")
    assert caplog.records == []


async def test_the_existence_of_one_object_that_always_fails_leaves_the_other_keys_alone() -> None:
    t = NodeUnderTest()
    for key in ("a", "bad"):
        t.in_s3(key, b"old")
        await t.get(key)
    t.store.reject = lambda _, ref: Fault.SERVER if ref.key == "bad" else None
    t.clock.tick(120)
    for _ in range(3):
        reply, _ = await t.node.exists(t.object("bad"), 1)
        assert reply.outcome == "stale_error"
    t.in_s3("a", b"longer")
    reply, size = await t.node.exists(t.object("a"), 1)
    assert (reply.outcome, size) == ("miss", 6)


async def test_listing_hides_the_nodes_prefix_and_pages() -> None:
    t = NodeUnderTest(buckets=Buckets(BUCKET, prefix="team/"))
    for key in ("team/a", "team/b", "team/c", "elsewhere"):
        t.in_s3(key, b"v")
    first = await t.node.list("", b"", "", 2, 1)
    rest = await t.node.list("", b"", first.cursor, 2, 1)
    assert [info.key for info in (*first.objects, *rest.objects)] == ["a", "b", "c"]
    assert rest.cursor == ""


@pytest.mark.parametrize("prefix", [b"x" * 1025, b"a\x00", b"\xff"])
async def test_a_prefix_that_no_key_can_have_is_rejected(prefix: bytes) -> None:
    t = NodeUnderTest()
    with pytest.raises(InvalidRequest, match="prefix"):
        await t.node.list("", prefix, "", 10, 1)
    assert t.store.calls == []


async def test_every_read_has_one_outcome_and_counts_its_bytes() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"12345")
    await t.get("k")
    await t.get("k")
    await t.get("k")
    await t.get("absent")
    t.store.fail(Fault.REJECTED)
    with pytest.raises(FailedPrecondition):
        await t.get("bad")
    reads = t.node.reads
    assert (reads.hits, reads.misses) == (2, 3)
    assert (reads.hit_bytes, reads.miss_bytes) == (10, 5)
    assert FRESHNESS.ttl == 100  # the figures above depend on it


async def test_a_miss_has_begun_when_it_is_returned_and_what_memory_has_is_returned_itself() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    reading = t.node.read(t.object("k"), SOON)
    assert not isinstance(reading, Reply)
    await run_ready_tasks()
    assert [operation for operation, _ in t.store.calls] == ["get"]
    assert (await reading).outcome == "miss"
    again = t.node.read(t.object("k"), SOON)
    assert isinstance(again, Reply)
    assert (again.outcome, again.entry.value) == ("hit", b"v")


async def test_a_miss_that_is_given_up_is_still_kept() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"v")
    reading = t.node.read(t.object("k"), SOON)
    assert isinstance(reading, asyncio.Future)
    reading.cancel()
    await run_ready_tasks()
    assert await t.outcome("k") == ("hit", b"v")


@pytest.mark.parametrize("value", [b"2", None])
@pytest.mark.parametrize("metadata_only", [False, True])
async def test_a_write_between_a_look_and_its_revalidation_is_seen(
    value: bytes | None, *, metadata_only: bool
) -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    await t.put("k", b"0")
    await t.flush()
    await (t.put("k", b"1") if value is None else t.delete("k"))
    t = await t.crash(paused=True)
    # An event loop begins the rest of a read later than the read; what it looked at may have changed by then.
    read = t.node.read_metadata if metadata_only else t.node.read
    reading = read(t.object("k"), SOON, 1)
    assert isinstance(reading, Awaitable), "nothing was to be revalidated: the test tests nothing"
    await (t.delete("k", owned_since=1) if value is None else t.put("k", value, owned_since=1))
    found: Any = await reading
    reply = found[0] if metadata_only else found
    assert (reply.dirty, reply.entry.value) == (True, value)
