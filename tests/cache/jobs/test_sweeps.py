"""Jobs on all entries below a prefix: what they change, what they leave, and how they go on and end."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.blocks.layout import Block
from milena_cache.jobs.sweep import INVALIDATE, PIN, PURGE, UNPIN, Plan, Swept
from milena_cache.jobs.sweeps import IDLE_SECONDS, MAX_CHANGED, MAX_JOBS
from milena_cache.objects.entry import Entry, cost_of
from milena_common.api.errors import AccessDenied, FailedPrecondition, InvalidRequest, Overloaded
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

NAME = "0" * 31 + "1"


def plan(action: str = PURGE, prefix: bytes = b"a/", *, dry_run: bool = False) -> Plan:
    return Plan(action, "", prefix, dry_run)


async def sweep(t: NodeUnderTest, planned: Plan, name: str = NAME) -> Swept:
    """Do a whole job."""
    while not (done := await t.parts.sweeps.advance(name, planned, 0)).done:
        pass
    t.parts.sweeps.forget(name)
    return done


async def warmed(*keys: str, **options: object) -> NodeUnderTest:
    t = NodeUnderTest(**options)  # type: ignore[arg-type]
    for key in keys:
        t.in_s3(key, b"old")
        await t.get(key)
    return t


async def test_a_purge_drops_what_is_below_the_prefix_and_nothing_else() -> None:
    t = await warmed("a/1", "a/2", "b")
    cost = sum(cost_of(key, t.memory.entries[key]) for key in (b"a/1", b"a/2"))
    notified: list[bytes] = []
    t.node.change_feed.on_change = notified.append
    assert await sweep(t, plan()) == Swept(True, 3, 3, 2, cost, 0)
    assert list(t.memory) == [b"b"]
    assert sorted(notified) == [b"a/1", b"a/2"]
    assert t.store.count("get") == 3, "no request goes to S3"
    t.in_s3("a/1", b"new")
    assert await t.outcome("a/1") == ("miss", b"new")


async def test_what_is_invalidated_stays_and_is_confirmed_by_s3_before_it_is_served() -> None:
    t = await warmed("a/1", "a/2", "b")
    t.in_s3("a/2", b"new")
    notified: list[bytes] = []
    t.node.change_feed.on_change = notified.append
    assert (await sweep(t, plan(INVALIDATE))).changed == 2
    assert len(t.memory) == 3
    assert sorted(notified) == [b"a/1", b"a/2"]
    assert await t.outcome("a/1") == ("revalidated", b"old")
    assert await t.outcome("a/1") == ("hit", b"old")
    assert await t.outcome("a/2") == ("changed", b"new")
    assert await t.outcome("b") == ("hit", b"old")


async def test_what_is_invalidated_is_served_if_s3_fails() -> None:
    t = await warmed("a/1")
    await sweep(t, plan(INVALIDATE))
    t.store.gate.clear()
    assert await t.outcome("a/1") == ("stale_error", b"old")


async def test_an_absence_that_is_invalidated_is_requested_anew() -> None:
    t = NodeUnderTest()
    await t.get("a/1")
    t.in_s3("a/1", b"new")
    assert (await sweep(t, plan(INVALIDATE))).changed == 1
    assert await t.outcome("a/1") == ("miss", b"new")


async def test_entries_that_are_invalidated_share_their_stamps() -> None:
    t = await warmed(*(f"a/{number}" for number in range(50)))
    await sweep(t, plan(INVALIDATE))
    assert len({id(t.memory.entries[key].stamp) for key in t.memory}) == 1
    assert (await sweep(t, plan(INVALIDATE))).changed == 0, "they are old already"


@pytest.mark.parametrize("action", [PURGE, INVALIDATE])
async def test_a_dry_run_counts_and_changes_nothing(action: str) -> None:
    t = await warmed("a/1", "a/2", "b")
    t.store.read_gate.clear()
    reading = asyncio.create_task(t.get("a/3"))
    await run_ready_tasks()
    would = await sweep(t, plan(action, dry_run=True))
    assert would.changed == 2
    t.store.read_gate.set()
    await reading
    for key in ("a/1", "a/2", "b"):
        assert await t.outcome(key) == ("hit", b"old")
    assert (await t.outcome("a/3"))[0] == "negative_hit", "the read in flight was kept"
    t.memory.remove(b"a/3")
    assert (await sweep(t, plan(action))).changed == would.changed


@pytest.mark.parametrize("action", [PURGE, INVALIDATE])
async def test_what_is_dirty_is_left_as_it_is(action: str) -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    await t.put("a/1", b"acknowledged")
    done = await sweep(t, plan(action))
    assert (done.changed, done.dirty) == (0, 1)
    assert await t.outcome("a/1") == ("hit", b"acknowledged")
    await t.flush()
    assert t.s3_has("a/1") == b"acknowledged"
    await t.stop()


@pytest.mark.parametrize("action", [PURGE, INVALIDATE])
async def test_a_read_that_began_before_is_not_kept(action: str) -> None:
    t = NodeUnderTest()
    t.in_s3("a/1", b"old")
    t.store.read_gate.clear()
    reading = asyncio.create_task(t.get("a/1"))
    await run_ready_tasks()
    await sweep(t, plan(action))
    t.store.read_gate.set()
    assert (await reading).entry.value == b"old"
    t.in_s3("a/1", b"new")
    assert await t.outcome("a/1") == ("miss", b"new")


async def test_a_purge_drops_blocks_of_large_objects_too() -> None:
    t = NodeUnderTest(block_threshold=10)
    blocks = t.parts.blocks.memory
    for key in (b"a/1", b"b"):
        for number in range(2):
            blocks.store(Block(key, '"e"', 32, number), b"v" * 16)
    before = blocks.bytes
    assert (await sweep(t, plan(dry_run=True))).changed == 2
    assert len(blocks) == 4
    done = await sweep(t, plan())
    assert (done.changed, done.bytes) == (2, before - blocks.bytes)
    assert blocks.object_keys() == [b"b"]


async def test_what_is_pinned_is_not_evicted_until_it_is_unpinned() -> None:
    t = await warmed("a/1", "a/2", "b", max_entries=12)
    await t.get("a/absent")
    cost = sum(cost_of(key, t.memory.entries[key]) for key in (b"a/1", b"a/2"))
    assert (await sweep(t, plan(PIN, dry_run=True))).changed == 2
    assert not t.memory.pinned
    done = await sweep(t, plan(PIN))
    assert (done.changed, done.bytes) == (2, cost), "an absence is not pinned"
    assert t.memory.unordered == {b"a/1", b"a/2"}
    assert (await sweep(t, plan(PIN))).changed == 0
    for number in range(50):
        await t.get(f"other {number}")
    assert await t.outcome("a/1") == ("hit", b"old")
    assert b"b" not in t.memory
    assert (await sweep(t, plan(UNPIN, dry_run=True))).changed == 2
    assert len(t.memory.pinned) == 2
    done = await sweep(t, plan(UNPIN))
    assert (done.changed, done.bytes) == (2, cost)
    for number in range(100):
        await t.get(f"other {number}")
    assert b"a/1" not in t.memory


@pytest.mark.parametrize("dry_run", [False, True])
async def test_no_more_is_pinned_than_there_is_room_for(dry_run: bool) -> None:
    t = await warmed(*(f"a/{number}" for number in range(10)), max_entries=20)
    with pytest.raises(FailedPrecondition, match="25% of LRU_SIZE"):
        await t.parts.sweeps.advance(NAME, plan(PIN, dry_run=dry_run), 0)
    assert len(t.memory.pinned) == (0 if dry_run else 5), "what was pinned before stays so"
    assert len(t.parts.sweeps) == 0, "a call of this name does not find it at its end"


async def test_a_purge_drops_what_is_pinned() -> None:
    t = await warmed("a/1", "a/2")
    await sweep(t, plan(PIN))
    assert (await sweep(t, plan(PURGE))).changed == 2
    assert (t.memory.pinned_bytes, len(t.memory)) == (0, 0)


async def test_a_part_ends_at_its_limit_and_the_next_one_goes_on() -> None:
    t = await warmed(max_entries=1000)
    for number in range(300):
        t.memory.store(b"a/%d" % number, Entry(b"v", '"e"', t.clock.now(), 0))
    first = await t.parts.sweeps.advance(NAME, plan(), 100)
    assert not first.done
    assert 100 <= first.changed < 200
    assert len(t.memory) == 300 - first.changed
    for _ in range(5):
        await run_ready_tasks()
    assert len(t.memory) == 300 - first.changed, "nothing goes on without a caller"
    rest = await t.parts.sweeps.advance(NAME, plan(), 1000)
    assert (rest.done, rest.changed, rest.examined, rest.entries) == (True, 300, 300, 300)
    again = await t.parts.sweeps.advance(NAME, plan(), 1000)
    assert again == rest, "a call that is repeated does nothing more, and says the same"


async def test_other_tasks_run_during_a_part() -> None:
    t = await warmed(max_entries=10_000, max_bytes=10**8)
    for number in range(3000):
        t.memory.store(b"a/%d" % number, Entry(b"v", '"e"', t.clock.now(), 0))
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert (await sweep(t, plan())).changed == 3000
    task.cancel()
    assert rounds >= 3000 // 64


async def test_a_job_that_nothing_continues_is_dropped() -> None:
    t = await warmed("a/1")
    sweeps = t.parts.sweeps
    await sweeps.advance(NAME, plan(), 0)
    await run_ready_tasks()
    await t.clock.advance(IDLE_SECONDS / 2)
    assert len(sweeps) == 1
    await t.clock.advance(IDLE_SECONDS)
    assert len(sweeps) == 0
    await run_ready_tasks()
    assert t.clock.sleeping == 0, "and nothing is left that wakes"


async def test_there_are_a_few_jobs_at_a_time() -> None:
    t = await warmed("a/1")
    sweeps = t.parts.sweeps
    for number in range(MAX_JOBS):
        await sweeps.advance(f"{number:032x}", plan(), 0)
    with pytest.raises(Overloaded, match="8 jobs are in progress"):
        await sweeps.advance("f" * 32, plan(), 0)
    await sweeps.advance("0" * 32, plan(), 0)
    sweeps.forget("0" * 32)
    await sweeps.advance("f" * 32, plan(), 0)
    sweeps.close()
    assert len(sweeps) == 0


async def test_what_is_no_job() -> None:
    t = await warmed("a/1")
    sweeps = t.parts.sweeps
    await sweeps.advance(NAME, plan(), 0)
    for name, planned, limit, what in (
        ("x", plan(), 0, "job: got 'x'"),
        ("A" * 32, plan(), 0, "32 hexadecimal digits"),
        (NAME, plan(prefix=b"b"), 0, "another action, bucket or prefix"),
        ("2" * 32, plan("drop"), 0, "action: got 'drop'; allowed: purge, invalidate, pin, unpin"),
        ("2" * 32, plan(), MAX_CHANGED + 1, "limit"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            await sweeps.advance(name, planned, limit)
    with pytest.raises(AccessDenied):
        await sweeps.advance("2" * 32, Plan(PURGE, "not-served", b"", False), 0)
    assert len(sweeps) == 1
    sweeps.close()
