"""What S3 keeps with an object survives every command that changes nothing but when it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.objects.object_store import Ref
from milena_cache.origin.conditions import State
from milena_cache.reads.read_modify_write import NewValue
from milena_common.api.durability import DURABILITIES, Durability
from milena_common.api.errors import ConditionFailed, FailedPrecondition
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.conditions import made_conditions
from tests.support.s3.memory_store import MemoryStore, WithMetadata

REF = Ref(BUCKET, "k")
ATTRIBUTES = {"ContentType": "text/html", "CacheControl": "max-age=60"}
FAR = 2e9


async def started(**options: Any) -> NodeUnderTest:
    t = NodeUnderTest(**options)
    await t.start()
    t.store.objects[REF] = WithMetadata(b"theirs", {"owner": "me"}, ATTRIBUTES)
    return t


def kept(t: NodeUnderTest) -> bool:
    found = t.store.objects[REF]
    return (
        isinstance(found, WithMetadata) and found.attributes == ATTRIBUTES and found.metadata.get("owner") == "me"
    )


async def expire(t: NodeUnderTest, at: float) -> bool:
    return await t.node.expire(t.object("k"), at, 5)


@pytest.mark.parametrize("mode", DURABILITIES)
async def test_an_end_is_given_and_taken_without_touching_the_rest(mode: Durability) -> None:
    t = await started(mode=mode)
    assert await expire(t, FAR)
    await t.clock.advance(5)
    assert (t.expires_at("k"), kept(t)) == (FAR, True)
    assert await expire(t, 0)
    await t.clock.advance(5)
    assert (t.expires_at("k"), kept(t)) == (0, True)
    assert t.s3_has("k") == b"theirs"
    await t.stop()


async def test_several_changes_of_the_end_before_the_upload_keep_it_too() -> None:
    t = await started(mode="back")
    assert await expire(t, FAR)
    assert await expire(t, FAR + 1)
    await t.clock.advance(5)
    assert (t.expires_at("k"), kept(t)) == (FAR + 1, True)
    await t.stop()


async def test_it_is_kept_over_a_crash() -> None:
    t = await started(mode="back", delay=10.0)
    assert await expire(t, FAR)
    t = await t.crash()
    await t.clock.advance(30)
    assert (t.expires_at("k"), kept(t)) == (FAR, True)
    await t.stop()


async def test_a_change_of_the_end_during_its_predecessors_upload_keeps_it() -> None:
    t = await started(mode="back")
    t.store.write_gate.clear()
    assert await expire(t, FAR)
    await t.clock.advance(2)
    assert t.store.count("copy") == 1
    assert await expire(t, FAR + 1)
    t.store.write_gate.set()
    await t.clock.advance(5)
    assert (t.expires_at("k"), kept(t)) == (FAR + 1, True)
    await t.stop()


@pytest.mark.parametrize("mode", DURABILITIES)
@pytest.mark.parametrize("crash", [False, True])
async def test_a_put_is_a_new_object_also_with_an_end_given_later(mode: Durability, crash: bool) -> None:
    t = await started(mode=mode, delay=1.0)
    await t.put("k", b"theirs")  # the same bytes
    assert await expire(t, FAR)
    if crash and mode == "back":
        t = await t.crash()
    await t.clock.advance(30)
    assert t.expires_at("k") == FAR
    found = t.store.objects[REF]
    assert isinstance(found, WithMetadata)
    # Once it is in S3 there is nothing to keep but Milena's own.
    assert (dict(found.attributes), "owner" in found.metadata) == ({}, False)
    await t.stop()


async def test_a_put_over_a_change_of_the_end_replaces_all() -> None:
    t = await started(mode="back")
    assert await expire(t, FAR)
    await t.put("k", b"new")
    await t.clock.advance(5)
    found = t.store.objects[REF]
    assert isinstance(found, WithMetadata)
    assert (bytes(found), dict(found.attributes), "owner" in found.metadata) == (b"new", {}, False)
    await t.stop()


async def test_a_retried_dead_letter_in_memory_is_not_mistaken_for_a_copy() -> None:
    t = await started(mode="memory")
    assert await expire(t, FAR)
    t.in_s3("k", b"foreign")
    await t.clock.advance(5)
    assert t.dirty.dead_letters == 1
    await t.parts.dead_letters.retry(None)
    await t.put("k", b"new")
    await t.clock.advance(5)
    assert t.s3_has("k") == b"new"
    await t.stop()


# ---- conditions of clients, where the store ignores them


def ignoring(**options: Any) -> NodeUnderTest:
    store = MemoryStore(BUCKET)
    store.ignoring = {"create", "replace", "delete", "copy"}
    return NodeUnderTest(store=store, conditions=made_conditions(State.IGNORED, **options))


@pytest.mark.parametrize("durability", ["through", "back"])
async def test_of_eight_that_want_to_create_one_object_one_does(durability: Durability) -> None:
    t = ignoring()
    await t.start()
    calls = (t.put("lock", str(n).encode(), durability=durability, if_none_match="*") for n in range(8))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, ConditionFailed) for each in results) == 7
    winner = next(n for n, each in enumerate(results) if not isinstance(each, BaseException))
    await t.clock.advance(5)
    assert t.s3_has("lock") == str(winner).encode()
    await t.stop()


async def test_of_eight_that_change_one_version_one_does() -> None:
    t = ignoring()
    await t.start()
    ack = await t.put("k", b"first")
    calls = (t.put("k", str(n).encode(), if_match=ack.etag) for n in range(8))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, ConditionFailed) for each in results) == 7
    await t.stop()


async def test_require_rejects_conditional_writes_and_reads_that_write_and_nothing_else() -> None:
    t = ignoring(mode="require")
    await t.start()
    ack = await t.put("k", b"v")
    for call in (
        t.put("k", b"w", if_match=ack.etag),
        t.put("new", b"w", if_none_match="*", durability="back"),
        t.delete("k", if_match=ack.etag),
        t.modify("k", lambda entry: NewValue(b"w")),
    ):
        with pytest.raises(FailedPrecondition, match="S3_CONDITIONS=require"):
            await call
    assert (await t.get("k")).entry.value == b"v"
    await t.delete("k")
    await t.stop()
