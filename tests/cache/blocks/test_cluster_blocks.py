"""Blocks of one object on all nodes of a ring: each group is read by the node that keeps it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from milena_cache.blocks.layout import GROUP_BLOCKS, Version
from milena_cache.reads.part_reads import Part
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import ConditionFailed
from milena_common.cluster.slots import SLOTS, group_slot, slot_of
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster
from tests.cache.node_under_test import SOON
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of

NAMES = ("a", "b", "c")
BLOCK = 16
GROUPS = 30
VALUE = bytes(number % 251 for number in range(GROUPS * GROUP_BLOCKS * BLOCK - 5))
# In a slot of the first node.
KEY = next(key for key in map(str, range(100)) if slot_of(key.encode()) < SLOTS // 3)


def share_of(slot: int) -> str:
    return NAMES[slot * len(NAMES) // SLOTS]


def slot_of_group(version: Version, group: int) -> int:
    return group_slot(version.target.cache_key, version.etag, group)


async def cluster() -> Cluster:
    """Three nodes with a third of the slots each, and one large object."""
    made = Cluster(*NAMES, block_threshold=1000, block_bytes=BLOCK, max_bytes=10**6)
    made.ring.owners = [(share_of(slot), FIRST_EPOCH) for slot in range(SLOTS)]
    await made.start()
    made["a"].t.in_s3(KEY, VALUE)
    return made


async def read(c: Cluster, offset: int, length: int, *, if_match: str = "", node: str = "a") -> Part:
    target = c[node].t.object(KEY)
    cut = ByteRange(offset, length).within
    found = c[node].t.parts.part_reads.read_part(target, cut, SOON, FIRST_EPOCH, if_match)
    return found if isinstance(found, Part) else await found


def kept(c: Cluster) -> dict[str, int]:
    return {name: len(member.t.parts.blocks.memory) for name, member in c.members.items()}


async def test_one_object_is_in_the_memory_of_all_nodes_and_each_block_is_fetched_once() -> None:
    c = await cluster()
    whole = await read(c, 0, len(VALUE))
    assert (whole.value, whole.size, whole.reply.outcome) == (VALUE, len(VALUE), "miss")
    version = Version(c["a"].t.object(KEY), etag_of(VALUE), len(VALUE))
    shares = Counter(share_of(slot_of_group(version, group)) for group in range(GROUPS))
    assert kept(c) == {name: shares[name] * GROUP_BLOCKS for name in NAMES}
    assert all(shares[name] for name in NAMES)
    gets = c.store.count("get")
    assert gets == GROUPS + 1
    again = await read(c, 0, len(VALUE))
    assert (again.value, again.reply.outcome) == (VALUE, "hit")
    assert c.store.count("get") == gets
    blocks = c["a"].servers.cluster_blocks
    assert (blocks.from_peers, blocks.peer_failures) == (2 * (GROUPS - shares["a"]), 0)
    await c.stop()


async def test_a_small_part_is_requested_of_one_node_and_only_its_blocks_are_fetched() -> None:
    c = await cluster()
    part = await read(c, 3000, 20)
    assert part.value == VALUE[3000:3020]
    assert sum(kept(c).values()) == 2
    assert c.requests.count(b"MILENA.BLOCK") <= 1
    await c.stop()


async def test_a_sequential_reader_finds_what_was_read_ahead_on_all_nodes() -> None:
    c = await cluster()
    outcomes = []
    for offset in range(0, len(VALUE), 40):
        outcomes.append((await read(c, offset, 40)).reply.outcome)
        await run_ready_tasks()
        await run_ready_tasks()
    assert set(outcomes[4:]) == {"hit"}
    assert c.store.count("get") <= GROUPS * GROUP_BLOCKS + 1, "no block is fetched twice"
    assert all(kept(c).values())
    await c.stop()


async def test_random_reads_have_nothing_read_ahead() -> None:
    c = await cluster()
    touched = set()
    for offset in (2000, 100, 3000, 500, 1700):
        await read(c, offset, 40)
        await run_ready_tasks()
        touched.update(range(offset // BLOCK, (offset + 39) // BLOCK + 1))
    assert sum(kept(c).values()) == len(touched)
    await c.stop()


async def test_a_reply_of_another_node_waits_for_room_in_the_bytes_in_flight() -> None:
    block = 2**15
    value = bytes(8 * GROUP_BLOCKS * block)
    c = Cluster(
        *NAMES,
        block_threshold=1000,
        block_bytes=block,
        max_bytes=10**8,
        max_in_flight_bytes=4 * GROUP_BLOCKS * block,
    )
    c.ring.owners = [(share_of(slot), FIRST_EPOCH) for slot in range(SLOTS)]
    await c.start()
    c["a"].t.in_s3(KEY, value)
    version = Version(c["a"].t.object(KEY), etag_of(value), len(value))
    group = next(group for group in range(8) if share_of(slot_of_group(version, group)) != "a")
    offset = group * GROUP_BLOCKS * block
    await read(c, offset, 1)
    before = c.requests.count(b"MILENA.BLOCK")
    budget = c["a"].t.budget
    budget.add(budget.limit)
    reading = asyncio.ensure_future(read(c, offset, GROUP_BLOCKS * block))
    await run_ready_tasks()
    assert c.requests.count(b"MILENA.BLOCK") == before
    assert budget.queued == 1
    budget.release(budget.limit)
    assert (await reading).value == value[: GROUP_BLOCKS * block]
    assert c["a"].servers.cluster_blocks.from_peers == 2
    await run_ready_tasks()
    assert budget.used == 0
    await c.stop()


async def test_what_another_node_does_not_return_is_read_from_s3() -> None:
    c = await cluster()
    c.cut = {"b"}
    c.broken += [(b"MILENA.BLOCK", "before"), (b"MILENA.BLOCK", "after")]
    assert (await read(c, 0, len(VALUE))).value == VALUE
    assert kept(c)["b"] == 0
    assert c["a"].servers.cluster_blocks.peer_failures > 2
    await c.stop()


async def test_a_part_of_an_object_that_is_replaced_is_of_one_version() -> None:
    c = await cluster()
    await read(c, 0, 1000)
    newer = VALUE[::-1]
    c["a"].t.in_s3(KEY, newer)
    whole = await read(c, 0, len(VALUE))
    assert (whole.value, whole.reply.entry.etag) == (newer, etag_of(newer))
    with pytest.raises(ConditionFailed):
        await read(c, 2000, 1000, if_match=etag_of(VALUE))
    c["a"].t.in_s3(KEY, VALUE)
    c.clock.tick(200)
    assert (await read(c, 0, 1000, if_match=etag_of(VALUE))).reply.outcome in ("hit", "miss")
    await c.stop()


async def test_readers_of_two_parts_share_what_is_in_flight_at_another_node() -> None:
    c = await cluster()
    await read(c, 0, 1)
    c.store.gate.clear()
    before = c.store.count("get")
    readings = [asyncio.create_task(read(c, 2000, 600)) for _ in range(5)]
    await run_ready_tasks()
    c.store.gate.set()
    assert {(await each).value for each in readings} == {VALUE[2000:2600]}
    assert c.store.count("get") - before <= -(-600 // (GROUP_BLOCKS * BLOCK)) + 1
    await c.stop()


async def test_a_write_is_read_at_once_whatever_blocks_there_are() -> None:
    c = await cluster()
    await read(c, 0, len(VALUE))
    newer = VALUE[::-1]
    since = c["a"].ownership.owned_since(KEY.encode())
    await c["a"].t.put(KEY, newer, since)
    part = await read(c, 700, 500)
    assert (part.value, part.reply.dirty) == (newer[700:1200], True)
    await c["a"].t.delete(KEY, since)
    assert (await read(c, 700, 500)).reply.entry.value is None
    await c.stop()
