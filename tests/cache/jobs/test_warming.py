"""Objects that are read into memory before anything requests them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from milena_cache.jobs.warming import BEGIN_SECONDS, FULL_SHARE, Warming, WarmTarget
from milena_cache.objects.entry import ENTRY_OVERHEAD, Entry
from milena_cache.objects.object_store import Fault
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

SIZES = ("memory_bytes", "room_bytes", "room_entries")


def targets(t: NodeUnderTest, *keys: str, sizes: Sequence[int] = ()) -> list[WarmTarget]:
    listed = sizes or [0] * len(keys)
    return [WarmTarget(key.encode(), t.object(key), 0, size) for key, size in zip(keys, listed, strict=True)]


def counts(done: object) -> dict[str, object]:
    """What is not 0, but for the sizes in memory."""
    return {name: value for name, value in vars(done).items() if value and name not in SIZES}


def in_s3(number: int, size: int = 10, **options: object) -> tuple[NodeUnderTest, list[str]]:
    t = NodeUnderTest(**options)  # type: ignore[arg-type]
    keys = [f"k{each}" for each in range(number)]
    for key in keys:
        t.in_s3(key, b"v" * size)
    return t, keys


async def test_objects_come_into_memory_and_count_as_no_reads() -> None:
    t, keys = in_s3(3)
    done = await t.parts.warming.warm(targets(t, *keys), 5.0, dry_run=False)
    assert counts(done) == {"warmed": 3, "value_bytes": 30}
    assert not any(t.node.reads.outcomes.values())
    assert {entry.uses for entry in t.memory.entries.values()} == {0}
    for key in keys:
        assert await t.outcome(key) == ("hit", b"v" * 10)
    assert t.store.count("get") == 3


async def test_what_is_there_is_not_read_again() -> None:
    t = NodeUnderTest(mode="back", block_threshold=100)
    await t.start()
    t.in_s3("cached", b"v")
    await t.get("cached")
    await t.put("dirty", b"v")
    t.in_s3("in flight", b"v")
    t.store.read_gate.clear()
    reading = asyncio.create_task(t.get("in flight"))
    await run_ready_tasks()
    done = await t.parts.warming.warm(targets(t, "cached", "dirty", "in flight"), 5.0, dry_run=False)
    assert counts(done) == {"present": 3}
    t.store.read_gate.set()
    await reading
    assert t.store.count("get") == 2
    await t.stop()


async def test_an_entry_past_its_grace_is_confirmed() -> None:
    t, _ = in_s3(1)
    await t.get("k0")
    t.clock.tick(120)
    assert counts(await t.parts.warming.warm(targets(t, "k0"), 5.0, dry_run=False))["warmed"] == 1
    assert await t.outcome("k0") == ("hit", b"v" * 10)


async def test_an_entry_of_an_earlier_ownership_is_read_anew() -> None:
    t, _ = in_s3(1)
    await t.get("k0", owned_since=1)
    done = await t.parts.warming.warm([WarmTarget(b"k0", t.object("k0"), 2, 0)], 5.0, dry_run=False)
    assert done.warmed == 1
    assert await t.outcome("k0", owned_since=2) == ("hit", b"v" * 10)


async def test_it_stops_where_memory_is_full_and_evicts_nothing() -> None:
    t, keys = in_s3(20, 1000, max_bytes=10_000)
    t.memory.store(b"unused", Entry(b"v", '"e"', t.clock.now(), 0))
    done = await t.parts.warming.warm(targets(t, *keys, sizes=[1000] * 20), 5.0, dry_run=False)
    room = int((FULL_SHARE * 10_000 - (len(b"unused") + 1 + ENTRY_OVERHEAD)) // (1002 + ENTRY_OVERHEAD))
    assert counts(done) == {"warmed": room, "value_bytes": 1000 * room, "no_room": 20 - room}
    assert t.memory.evictions == {"entries": 0, "bytes": 0}
    assert b"unused" in t.memory
    assert t.store.count("get") == room, "nothing is read that would not be kept"
    again = await t.parts.warming.warm(targets(t, *keys, sizes=[1000] * 20), 5.0, dry_run=False)
    assert counts(again) == {"present": room, "no_room": 20 - room}
    assert done.memory_bytes == room * (len("k0") + 1000 + ENTRY_OVERHEAD)
    assert done.room_bytes - done.memory_bytes == again.room_bytes
    assert (done.room_entries, again.room_entries) == (89, 89 - room)


async def test_the_number_of_entries_is_a_limit_too() -> None:
    t, keys = in_s3(20, max_entries=10)
    done = await t.parts.warming.warm(targets(t, *keys), 5.0, dry_run=False)
    assert counts(done) == {"warmed": 9, "value_bytes": 90, "no_room": 11}


async def test_what_others_fill_meanwhile_is_not_evicted_by_it() -> None:
    t, _ = in_s3(1, 1000, max_bytes=10_000)
    t.store.read_gate.clear()
    warming = asyncio.create_task(t.parts.warming.warm(targets(t, "k0", sizes=[1000]), 5.0, dry_run=False))
    await run_ready_tasks()
    t.memory.store(b"used", Entry(b"v" * 9600, '"e"', t.clock.now(), 0))
    t.store.read_gate.set()
    assert counts(await warming) == {"no_room": 1}
    assert list(t.memory) == [b"used"]


async def test_a_reader_that_joins_has_it_kept() -> None:
    t, _ = in_s3(1, 1000, max_bytes=10_000)
    t.store.read_gate.clear()
    warming = asyncio.create_task(t.parts.warming.warm(targets(t, "k0", sizes=[1000]), 5.0, dry_run=False))
    await run_ready_tasks()
    reading = asyncio.create_task(t.get("k0"))
    await run_ready_tasks()
    t.memory.store(b"older", Entry(b"v" * 9600, '"e"', t.clock.now(), 0))
    t.store.read_gate.set()
    await warming
    assert (await reading).outcome == "coalesced"
    assert list(t.memory) == [b"k0"], "as for any read"


async def test_a_write_meanwhile_is_not_overwritten() -> None:
    t, _ = in_s3(1)
    t.store.read_gate.clear()
    warming = asyncio.create_task(t.parts.warming.warm(targets(t, "k0"), 5.0, dry_run=False))
    await run_ready_tasks()
    await t.put("k0", b"newer")
    t.store.read_gate.set()
    await warming
    assert (await t.get("k0")).entry.value == b"newer"


async def test_objects_that_are_not_kept_whole_are_not_read() -> None:
    t, _ = in_s3(2, 200, block_threshold=100)
    done = await t.parts.warming.warm(targets(t, "k0", "k1", sizes=[200, 0]), 5.0, dry_run=False)
    assert counts(done) == {"too_large": 2}
    assert t.store.calls == [("get", "k1")], "S3 is asked about that whose size is not known, and sends no body"
    assert not t.memory.bytes


async def test_what_is_absent_and_what_fails() -> None:
    t, _ = in_s3(1)
    t.store.reject = lambda _, ref: Fault.DENIED if ref.key == "k0" else None
    done = await t.parts.warming.warm(targets(t, "k0", "gone"), 5.0, dry_run=False)
    assert counts(done) == {"failed": 1, "absent": 1, "error": done.error}
    assert "k0" in done.error


async def test_a_dry_run_says_what_would_be_read() -> None:
    t, keys = in_s3(20, 1000, max_bytes=10_000)
    listed = targets(t, *keys, sizes=[1000] * 20)
    would = await t.parts.warming.warm(listed, 5.0, dry_run=True)
    assert not t.store.calls
    assert not t.memory.bytes
    assert vars(await t.parts.warming.warm(listed, 5.0, dry_run=False)) == vars(would)


async def test_reads_are_few_at_a_time_also_those_of_calls_that_have_ended() -> None:
    t, keys = in_s3(20)
    warming = Warming(t.node, 8)
    assert warming.max_reads == 2
    t.store.gate.clear()
    done = await warming.warm(targets(t, *keys), 0.04, dry_run=False)
    assert t.store.count("get") == 2
    assert done.left == [key.encode() for key in (*keys[2:], *keys[:2])]
    again = await warming.warm(targets(t, *keys[2:]), 0.04, dry_run=False)
    assert len(again.left) == 18
    assert t.store.count("get") == 2, "the first two still have their places"
    t.store.gate.set()
    await run_ready_tasks()
    assert (await warming.warm(targets(t, *keys), 5.0, dry_run=False)).present == 2


async def test_no_read_begins_when_its_time_is_over() -> None:
    t, keys = in_s3(3)
    t.clock.reading_takes = BEGIN_SECONDS
    done = await t.parts.warming.warm(targets(t, *keys), 60.0, dry_run=False)
    assert done.left == [key.encode() for key in keys]
    assert not t.store.calls


async def test_others_run_while_many_are_found_in_memory() -> None:
    t, keys = in_s3(1000, max_entries=2000)
    for key in keys:
        t.memory.store(key.encode(), Entry(b"v", '"e"', t.clock.now(), 0))
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert (await t.parts.warming.warm(targets(t, *keys), 5.0, dry_run=False)).present == 1000
    task.cancel()
    assert rounds >= 3
