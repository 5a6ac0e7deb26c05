"""Dropping copies, and what must not be dropped."""

from __future__ import annotations

import asyncio

from milena_cache.objects.names import Buckets
from milena_cache.reads.refresh import COMPARED_AT_ONCE, Refreshed
from milena_common.api.keys import cache_key
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def test_a_key_that_was_refreshed_is_read_from_s3_anew() -> None:
    t = NodeUnderTest()
    t.in_s3("k", b"old")
    await t.get("k")
    t.in_s3("k", b"new")
    assert await t.outcome("k") == ("hit", b"old")
    assert await t.node.refresher.keys([b"k", b"never read"]) == Refreshed(1, 0)
    assert await t.outcome("k") == ("miss", b"new")
    assert t.s3_has("k") == b"new", "S3 is not touched"


async def test_what_is_believed_to_be_absent_is_refreshed_too() -> None:
    t = NodeUnderTest()
    await t.get("k")
    t.in_s3("k", b"new")
    assert await t.node.refresher.keys([b"k"]) == Refreshed(1, 0)
    assert await t.outcome("k") == ("miss", b"new")


async def test_what_is_known_without_a_value_is_refreshed_too() -> None:
    for by_key in (True, False):
        t = NodeUnderTest()
        t.in_s3("k", b"old")
        await t.node.exists(t.object("k"), 5.0)
        t.in_s3("k", b"newer")
        if by_key:
            await t.node.refresher.keys([b"k"])
        else:
            await t.node.refresher.matching(lambda key: key == b"k")
        assert (await t.node.exists(t.object("k"), 5.0))[1] == len(b"newer")


async def test_what_is_dirty_is_never_dropped() -> None:
    t = NodeUnderTest(mode="back")
    await t.start()
    await t.put("k", b"acknowledged")
    await t.put("gone", b"v")
    await t.delete("gone")
    assert await t.node.refresher.keys([b"k", b"gone"]) == Refreshed(0, 2)
    assert await t.node.refresher.matching(lambda _: True) == Refreshed(0, 2)
    assert await t.outcome("k") == ("hit", b"acknowledged")
    assert await t.outcome("gone") == ("negative_hit", None)
    await t.flush()
    assert t.s3_has("k") == b"acknowledged"
    await t.stop()


async def test_a_read_that_began_before_is_not_kept() -> None:
    for refresh in (
        lambda t: t.node.refresher.keys([b"k"]),
        lambda t: t.node.refresher.matching(lambda key: key.startswith(b"k")),
    ):
        t = NodeUnderTest()
        t.in_s3("k", b"old")
        t.store.read_gate.clear()
        reading = asyncio.create_task(t.get("k"))
        await run_ready_tasks()
        await refresh(t)
        t.store.read_gate.set()
        assert (await reading).entry.value == b"old"
        t.in_s3("k", b"new")
        assert await t.outcome("k") == ("miss", b"new")


async def test_followers_of_keys_are_notified() -> None:
    t = NodeUnderTest()
    t.in_s3("a/k", b"v")
    await t.get("a/k")
    notified: list[bytes] = []
    t.node.change_feed.on_change = notified.append
    await t.node.refresher.matching(lambda key: key.startswith(b"a/"))
    assert notified == [b"a/k"]
    await t.node.refresher.keys([b"without a copy"])
    assert notified[1:] == [b"without a copy"], "a reader may have one all the same"


async def test_a_prefix_is_of_one_bucket_and_of_bytes() -> None:
    buckets = Buckets(BUCKET, others=["*"])
    keys = [cache_key(bucket, key) for bucket in ("", "logs") for key in (b"a/1", b"a/\xc3\xa9", b"b", b"s3://a/1")]
    for bucket, prefix, expected in (
        ("", b"a/", [b"a/1", b"a/\xc3\xa9"]),
        (BUCKET, b"a/\xc3", [b"a/\xc3\xa9"]),
        ("", b"s3://a", [b"s3://default/s3://a/1"]),
        ("logs", b"a/", [b"s3://logs/a/1", b"s3://logs/a/\xc3\xa9"]),
        ("logs", b"", keys[4:]),
        ("", b"", keys[:4]),
    ):
        assert list(filter(buckets.files_below(bucket, prefix), keys)) == expected


async def test_other_tasks_run_while_many_keys_are_refreshed() -> None:
    t = NodeUnderTest(max_entries=10**5, max_bytes=10**9)
    for number in range(5 * COMPARED_AT_ONCE):
        await t.get(f"k{number}")
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    done = await t.node.refresher.matching(lambda key: key.endswith(b"7"))
    task.cancel()
    assert done.refreshed == COMPARED_AT_ONCE // 2
    assert rounds >= 8
