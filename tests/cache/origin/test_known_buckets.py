"""Writes in buckets of which it is not known yet that they exist."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.objects.write_request import Ack, Change
from milena_cache.origin.known_buckets import CHECK_SECONDS
from milena_common.api.durability import Durability
from milena_common.api.errors import FailedPrecondition
from tests.cache.node_under_test import BUCKET, SOON, NodeUnderTest

THERE, ABSENT = "other-bucket", "no-such-bucket"


async def put(t: NodeUnderTest, bucket: str, key: bytes = b"k", value: bytes = b"v", timeout: float = SOON) -> Ack:
    return await t.writes.put(t.buckets.resolve(bucket, key), value, timeout)


async def node(mode: Durability = "back") -> NodeUnderTest:
    t = NodeUnderTest(mode=mode, buckets=Buckets(BUCKET, others=["*"]))
    await t.start()
    return t


@pytest.mark.parametrize("mode", ["back", "memory"])
async def test_a_write_in_a_bucket_that_does_not_exist_is_not_acknowledged(mode: Durability) -> None:
    t = await node(mode)
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match="NO_BUCKET"):
            await put(t, ABSENT)
        with pytest.raises(FailedPrecondition, match="NO_BUCKET"):
            await t.writes.delete(t.buckets.resolve(ABSENT, b"k"), SOON)
    assert len(t.dirty) == 0
    t.store.buckets.add("no-such-bucket")
    assert (await put(t, ABSENT)).durability == mode, "it exists now"
    await t.stop()


async def test_s3_gets_a_request_about_a_bucket_once_and_never_about_the_default_one() -> None:
    t = await node()
    await t.put("k", b"v")
    assert t.store.count("bucket") == 0
    for _ in range(3):
        assert (await put(t, THERE)).durability == "back"
    assert t.store.count("bucket") == 1
    assert (await t.parts.flush_waiters.wait_flushed(None, SOON)).remaining == 0
    assert t.store.objects[Ref("other-bucket", "k")] == b"v"
    await t.stop()


async def test_writes_that_come_together_share_the_question_and_one_that_is_cancelled_does_not_end_it() -> None:
    t = await node()
    t.store.gate.clear()
    writes = [asyncio.create_task(put(t, THERE, b"k%d" % number)) for number in range(3)]
    await t.store.arrived("bucket")
    writes[0].cancel()
    await asyncio.sleep(0)
    t.store.gate.set()
    done = await asyncio.gather(*writes[1:])
    assert [ack.durability for ack in done] == ["back", "back"]
    assert t.store.count("bucket") == 1
    await t.stop()


async def test_while_s3_is_out_of_order_a_write_is_taken_and_s3_gets_another_request_later() -> None:
    t = await node()
    t.store.down = Fault.CONNECT
    assert (await put(t, THERE, value=b"1")).durability == "back"
    requested = t.store.count("bucket")
    assert requested
    assert (await put(t, THERE, value=b"2")).durability == "back"
    assert t.store.count("bucket") == requested
    t.store.recover()
    await t.clock.advance(CHECK_SECONDS + 1)
    await put(t, THERE, value=b"3")
    await put(t, THERE, value=b"4")
    assert t.store.count("bucket") == requested + 1
    await t.stop()


async def test_several_writes_together_are_none_if_a_bucket_does_not_exist() -> None:
    t = await node()
    targets = [t.buckets.resolve("", b"k"), t.buckets.resolve(ABSENT, b"k")]
    changes = [Change(target, b"v", "") for target in targets]
    assert t.writes.begin_together(changes, None, SOON) is None, "S3 has not said that the bucket exists"
    with pytest.raises(FailedPrecondition, match="NO_BUCKET"):
        await t.writes.write_all_locked(changes, None, t.clock.now() + SOON)
    assert len(t.dirty) == 0
    t.store.buckets.add(ABSENT)
    assert [ack.durability for ack in await t.writes.write_all_locked(changes, None, t.clock.now() + SOON)] == [
        "back",
        "back",
    ]
    begun = t.writes.begin_together(changes, None, SOON)
    assert begun is not None
    assert not isinstance(begun, list)
    assert len(await begun) == 2
    await t.stop()
