"""Blocks that clients read from the nodes that keep them, and never of two versions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.blocks.layout import GROUP_BLOCKS
from milena_cache.memory.freshness import Freshness
from milena_common.api.byte_range import MAX_PART_BYTES, WHOLE, ByteRange
from milena_common.api.errors import ConditionFailed, FailedPrecondition, MilenaError, Moved
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.cluster.slots import SLOTS, group_slot, slot_of
from milena_common.resp.errors import from_resp
from milena_router.service import omitted_bytes
from tests.cache.handover.nodes_under_test import FIRST_EPOCH, Cluster
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of

NAMES = ("a", "b", "c")
BLOCK = 16
GROUP = BLOCK * GROUP_BLOCKS
VALUE = bytes(number % 251 for number in range(12 * GROUP - 5))
# In a slot of the first node.
KEY = next(key for key in map(str, range(100)) if slot_of(key.encode()) < SLOTS // 3)


def share_of(slot: int) -> str:
    return NAMES[slot * len(NAMES) // SLOTS]


def keeper(group: int, value: bytes = VALUE) -> str:
    """The node that keeps a group."""
    return share_of(group_slot(KEY.encode(), etag_of(value), group))


async def cluster(**options: Any) -> Cluster:
    """Three nodes with a third of the slots each, and one large object."""
    made = Cluster(*NAMES, **{"block_threshold": 300, "block_bytes": BLOCK, "max_bytes": 10**6, **options})
    made.ring.owners = [(share_of(slot), FIRST_EPOCH) for slot in range(SLOTS)]
    await made.start()
    made["a"].t.in_s3(KEY, VALUE)
    return made


class Opened(NamedTuple):
    """What a client knows of the version that it has opened."""

    etag: str
    size: int
    group_bytes: int


async def call(c: Cluster, node: str, request: pb.GetRequest) -> pb.GetResponse:
    """Send a Get to one node. Raises MilenaError."""
    reply = await c[node].client().value(b"MILENA.CALL", b"Get", b"5000", request.SerializeToString())
    if isinstance(reply, Exception):
        raise from_resp(str(reply))
    return pb.GetResponse.FromString(reply)


async def opened(c: Cluster) -> Opened:
    found = await call(c, "a", pb.GetRequest(key=KEY.encode(), metadata_only=True))
    return Opened(found.etag, found.size, found.group_bytes)


def block_get(it: Opened, part: ByteRange, ahead: ByteRange = WHOLE) -> pb.GetRequest:
    return pb.GetRequest(
        key=KEY.encode(),
        offset=part.offset,
        length=part.length,
        if_match=it.etag,
        blocks=pb.BlockRead(
            size=it.size, group_bytes=it.group_bytes, ahead_offset=ahead.offset, ahead_length=ahead.length
        ),
    )


async def read(c: Cluster, it: Opened, part: ByteRange, node: str) -> bytes:
    """Read as a client does, which is redirected once. Raises MilenaError."""
    request = block_get(it, part)
    try:
        return (await call(c, node, request)).value
    except Moved as moved:
        return (await call(c, moved.address.partition(":")[0], request)).value


def direct(c: Cluster) -> dict[str, int]:
    return {name: member.t.parts.part_reads.direct for name, member in c.members.items()}


def in_groups(size: int) -> Iterator[tuple[int, ByteRange]]:
    for offset in range(0, size, GROUP):
        yield offset // GROUP, ByteRange(offset, min(GROUP, size - offset))


async def test_each_node_returns_the_groups_that_it_keeps_without_another_node() -> None:
    c = await cluster()
    it = await opened(c)
    assert it == (etag_of(VALUE), len(VALUE), GROUP)
    for outcome in ("miss", "hit"):
        for group, part in in_groups(len(VALUE)):
            found = await call(c, keeper(group), block_get(it, part))
            assert (found.value, found.outcome, found.size) == (part.of(VALUE), outcome, len(VALUE))
            assert (found.etag, found.group_bytes) == (it.etag, GROUP)
    assert b"MILENA.BLOCK" not in c.requests
    shares = {name: sum(keeper(group) == name for group, _ in in_groups(len(VALUE))) for name in NAMES}
    assert all(shares.values())
    assert direct(c) == {name: 2 * share for name, share in shares.items()}
    assert sum(member.t.parts.blocks.requests for member in c.members.values()) == sum(shares.values())
    await c.stop()


async def test_a_node_that_does_not_keep_the_group_names_the_owner_of_the_key_unless_it_has_the_bytes() -> None:
    c = await cluster()
    it = await opened(c)
    part = next(part for group, part in in_groups(len(VALUE)) if keeper(group) == "b")
    with pytest.raises(Moved) as moved:
        await call(c, "c", block_get(it, part))
    assert moved.value.address == "a:2"
    assert await read(c, it, part, "c") == part.of(VALUE)
    # By an older ring: what is in memory is the same.
    c.ring.owners = [("c", FIRST_EPOCH)] * SLOTS
    c.ring.epoch += 1
    await c.publish("b")
    assert (await call(c, "b", block_get(it, part))).outcome == "hit"
    await c.stop()


async def test_only_objects_that_are_kept_in_blocks_have_groups() -> None:
    c = await cluster()
    c["a"].t.in_s3(KEY, VALUE[:200])
    small = await call(c, "a", pb.GetRequest(key=KEY.encode(), metadata_only=True))
    assert (small.size, small.block_bytes, small.group_bytes) == (200, 0, 0)
    await c["a"].t.put(KEY, VALUE, c["a"].ownership.owned_since(KEY.encode()))
    dirty = await call(c, "a", pb.GetRequest(key=KEY.encode(), metadata_only=True))
    assert (dirty.size, dirty.dirty, dirty.group_bytes) == (len(VALUE), True, 0)
    await c.stop()


async def test_with_a_ttl_of_0_the_owner_of_the_key_serves_all_reads() -> None:
    c = await cluster(freshness=Freshness(0, 0, 0, 0, 0, negative_ttl=0))
    it = await opened(c)
    assert (it.etag, it.group_bytes) == (etag_of(VALUE), 0)
    it = it._replace(group_bytes=GROUP)
    for group, part in in_groups(len(VALUE)):
        assert await read(c, it, part, keeper(group)) == part.of(VALUE)
    assert sum(direct(c).values()) == 0
    c["a"].t.in_s3(KEY, VALUE[::-1])
    with pytest.raises(ConditionFailed):
        await read(c, it, ByteRange(0, 10), keeper(0))
    await c.stop()


async def test_a_router_sees_that_a_part_was_omitted() -> None:
    c = await cluster()
    for _ in range(2):
        found = await call(c, "a", pb.GetRequest(key=KEY.encode(), length=100, max_bytes=50))
        assert omitted_bytes(found.SerializeToString()) == len(VALUE)
    await c.stop()


async def test_the_owner_of_the_key_rejects_a_version_that_was_replaced() -> None:
    c = await cluster()
    it = await opened(c)
    part = next(part for group, part in in_groups(len(VALUE)) if keeper(group) == "a")
    assert await read(c, it, part, "a") == part.of(VALUE)
    await c["a"].t.put(KEY, VALUE[::-1], c["a"].ownership.owned_since(KEY.encode()))
    with pytest.raises(ConditionFailed):
        await read(c, it, part, "a")
    await c.stop()


async def test_a_version_that_s3_does_not_have_any_more_is_rejected_by_the_owner_of_the_key() -> None:
    c = await cluster()
    it = await opened(c)
    kept, other = [part for group, part in in_groups(len(VALUE)) if keeper(group) == "b"][:2]
    assert await read(c, it, kept, "b") == kept.of(VALUE)
    c["a"].t.in_s3(KEY, VALUE[::-1])
    assert await read(c, it, kept, "b") == kept.of(VALUE), "an open version is read as long as it is there"
    with pytest.raises(ConditionFailed):
        await read(c, it, other, "b")
    await c.stop()


async def test_what_comes_next_is_read_ahead_at_the_nodes_that_keep_it() -> None:
    c = await cluster()
    it = await opened(c)
    found = await call(c, keeper(0), block_get(it, ByteRange(0, 2 * BLOCK), ByteRange(2 * BLOCK, 1000 * BLOCK)))
    assert found.value == VALUE[: 2 * BLOCK]
    await run_ready_tasks()
    await run_ready_tasks()
    # At most 16 blocks.
    fetched = {name: member.t.parts.blocks.fetched for name, member in c.members.items()}
    assert sum(fetched.values()) == 18
    requests = c.store.count("get")
    for group, part in in_groups(2 * GROUP):
        assert (await call(c, keeper(group), block_get(it, part))).value == part.of(VALUE)
    assert c.store.count("get") == requests
    await c.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"if_match": ""},
        {"offset": GROUP - 1, "length": 2},
        {"length": 0},
        {"offset": -GROUP},
        {"offset": len(VALUE) - 5, "length": 6},
        {"blocks": pb.BlockRead(size=len(VALUE), group_bytes=2 * GROUP)},
        {"blocks": pb.BlockRead(size=len(VALUE) - 1, group_bytes=GROUP)},
    ],
)
async def test_what_is_no_read_of_one_group_is_any_other_get(change: dict[str, Any]) -> None:
    c = await cluster()
    it = await opened(c)
    request = block_get(it, ByteRange(0, 10))
    if "blocks" in change:
        request.blocks.CopyFrom(change.pop("blocks"))
    for name, value in change.items():
        setattr(request, name, value)
    plain = pb.GetRequest()
    plain.CopyFrom(request)
    plain.ClearField("blocks")
    assert (await call(c, "a", request)).value == (await call(c, "a", plain)).value
    assert direct(c)["a"] == 0
    for name in "bc":
        with pytest.raises(Moved):
            await call(c, name, request)
    await c.stop()


async def test_more_than_one_reply_may_have_is_no_read_of_blocks() -> None:
    block = MAX_PART_BYTES // 4
    value = bytes(9 * block)
    c = await cluster(block_threshold=block, block_bytes=block, max_bytes=10**8, max_value_bytes=10**8)
    c["a"].t.in_s3(KEY, value)
    it = await opened(c)
    node = keeper(0, value)
    assert len((await call(c, node, block_get(it, ByteRange(0, MAX_PART_BYTES)))).value) == MAX_PART_BYTES
    before = direct(c)
    with pytest.raises(FailedPrecondition, match="4194304 in one reply"):
        await read(c, it, ByteRange(0, MAX_PART_BYTES + 1), node)
    assert direct(c) == before
    await c.stop()


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([5_000, 10**6]))
def test_a_reader_never_gets_bytes_of_another_version(rng: random.Random, max_bytes: int) -> None:
    """Readers with any ring beside writers, here and of S3, moves of slots and links that fail."""

    async def test() -> None:
        values = [bytes([number]) * (4 * GROUP + number // 2) for number in range(6)]
        c = await cluster(max_bytes=max_bytes)
        c["a"].t.in_s3(KEY, values[0])
        outcomes = {"read": 0, "failed": 0}

        async def reader() -> None:
            it, value = None, b""
            for _ in range(12):
                try:
                    if it is None or rng.random() < 0.2:
                        it = await opened(c)
                        value = next(each for each in values if etag_of(each) == it.etag)
                    if not it.group_bytes:
                        it = it._replace(group_bytes=GROUP)  # as if another node had described it
                    offset = rng.randrange(it.size)
                    stop = min(it.size, (offset // GROUP + 1) * GROUP)
                    part = ByteRange(offset, rng.randint(1, stop - offset))
                    found = await read(c, it, part, rng.choice((keeper(offset // GROUP, value), *NAMES)))
                except MilenaError:
                    outcomes["failed"] += 1
                    continue
                assert found == part.of(value)
                outcomes["read"] += 1

        async def writer() -> None:
            for _ in range(20):
                for _ in range(rng.randint(0, 9)):
                    await asyncio.sleep(0)
                chosen = rng.random()
                since = c["a"].ownership.owned_since(KEY.encode())
                if chosen < 0.4:
                    c["a"].t.in_s3(KEY, rng.choice(values))
                elif chosen < 0.6:
                    await c["a"].t.put(KEY, rng.choice(values), since)
                elif chosen < 0.8:
                    c.cut = set(rng.sample("bc", rng.randint(0, 2)))
                else:
                    c.clock.tick(rng.choice((1, 200)))

        await asyncio.gather(writer(), *(reader() for _ in range(3)))
        assert sum(outcomes.values()) == 36
        assert outcomes["read"]
        await c.stop()

    asyncio.run(test())
