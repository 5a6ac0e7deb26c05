"""A delete of ours leaves nothing in S3 that says whose it was: it is not taken for another's change."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.object_store import Fault, Ref
from milena_common.api.durability import DURABILITIES, Durability
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks


async def started() -> NodeUnderTest:
    """A node whose `k` is in S3 as it wrote it; a conflict would keep a later write from S3."""
    t = NodeUnderTest(mode="back", policy="fail")
    await t.start()
    await t.put("k", b"1")
    await t.flush()
    return t


async def is_uploaded(t: NodeUnderTest, value: bytes) -> None:
    await t.clock.advance(30)
    assert t.uploader.conflicts["fail"] == 0
    assert list(t.dirty.dead()) == []
    assert t.s3_has("k") == value


def lose_the_response_to_a_delete(t: NodeUnderTest, *, after_effect: bool = True) -> None:
    def lose(operation: str, ref: Ref) -> Fault | None:
        if operation == "delete":
            t.store.reject = None
            t.store.fail(Fault.INCOMPLETE, after_effect=after_effect)
        return None

    t.store.reject = lose


async def test_a_put_after_a_delete_whose_response_was_lost() -> None:
    t = await started()
    lose_the_response_to_a_delete(t)
    t.store.write_gate.clear()
    await t.delete("k")
    await t.clock.advance(1)
    await t.put("k", b"2")
    t.store.write_gate.set()
    await is_uploaded(t, b"2")


async def test_a_put_while_a_delete_is_in_flight_and_a_crash() -> None:
    t = await started()
    t.store.write_gate.clear()
    await t.delete("k")
    await t.clock.advance(1)
    assert t.s3_has("k") is None
    await t.put("k", b"2")
    t = await t.crash()
    t.store.write_gate.set()
    await is_uploaded(t, b"2")


async def test_a_put_soon_after_a_delete_and_a_crash_when_the_delete_had_succeeded() -> None:
    t = await started()
    t.store.write_gate.clear()
    await t.delete("k")
    await t.clock.advance(1)
    await t.put("k", b"2")
    t.store.write_gate.set()
    await t.clock.advance(0.5)
    t = await t.crash()
    await is_uploaded(t, b"2")


async def test_a_put_that_a_delete_through_was_about_to_replace_and_a_crash() -> None:
    t = await started()
    await t.put("k", b"2")
    t.store.write_gate.clear()
    deleting = asyncio.create_task(t.delete("k", durability="through"))
    await run_ready_tasks()
    assert t.s3_has("k") is None
    crashed = await t.crash()
    deleting.cancel()
    t.store.write_gate.set()
    await is_uploaded(crashed, b"2")


@pytest.mark.parametrize("after_effect", [True, False])
@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_put_that_must_create_over_a_delete_whose_response_was_lost(
    durability: Durability, after_effect: bool
) -> None:
    t = await started()
    lose_the_response_to_a_delete(t, after_effect=after_effect)
    await t.delete("k")
    await t.clock.advance(1)
    assert t.s3_has("k") == (None if after_effect else b"1")
    await t.put("k", b"2", if_none_match="*", durability=durability)
    await is_uploaded(t, b"2")
