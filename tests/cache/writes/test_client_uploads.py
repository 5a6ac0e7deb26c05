"""Multipart uploads that callers make, with a node and an S3 in memory: their order among the writes of the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault
from milena_cache.objects.write_request import Ack, Change
from milena_common.api.errors import ConditionFailed, FailedPrecondition, MilenaError, OriginUnavailable
from milena_common.api.properties import Properties
from milena_common.api.uploads import UploadedPart
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of

SOON = 5.0


@pytest.fixture(name="node")
async def _node() -> AsyncIterator[NodeUnderTest]:
    made = NodeUnderTest(mode="back", dirty_max_bytes=10**8, dirty_memory_bytes=10**8, max_bytes=10**7)
    await made.start()
    yield made
    await made.stop()


class Caller:
    """An upload of the key "k" with one part."""

    def __init__(self, node: NodeUnderTest, value: bytes = b"completed") -> None:
        self.node = node
        self.value = value
        self.uploads = node.parts.client_uploads
        self.target: Object = node.object("k")
        self.upload = ""
        self.parts: list[UploadedPart] = []

    async def send(self) -> Caller:
        self.upload = await self.uploads.create(self.target, SOON, Properties(0.0, {}, {"a": "1"}))
        self.parts = [UploadedPart(7, await self.uploads.add_part(self.target, self.upload, 7, self.value, SOON))]
        return self

    async def complete(self, if_none_match: str = "") -> Ack:
        change = Change(self.target, b"", "", 0, "", if_none_match)
        return await self.uploads.complete(change, self.upload, self.parts, SOON)


async def test_a_dirty_write_before_it_never_replaces_it(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    await node.put("k", b"dirty")
    assert await node.outcome("k") == ("hit", b"dirty")
    ack = await caller.complete()
    assert (ack.durability, len(node.dirty)) == ("through", 0)
    assert (await node.outcome("k"))[1] == b"completed"
    await node.flush()
    assert node.s3_has("k") == b"completed"


async def test_a_write_after_it_replaces_it(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    await caller.complete()
    await node.put("k", b"later")
    assert await node.outcome("k") == ("hit", b"later")
    await node.flush()
    assert node.s3_has("k") == b"later"


async def test_no_record_of_an_earlier_write_comes_back_after_a_crash(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    await node.put("k", b"dirty")
    await caller.complete()
    after = await node.crash()
    await after.flush()
    assert after.s3_has("k") == b"completed"
    assert (await after.outcome("k"))[1] == b"completed"
    await after.stop()


async def test_an_upload_in_flight_ends_first(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    await node.put("k", b"dirty")
    node.store.write_gate.clear()
    flushing = asyncio.ensure_future(node.flush())
    await node.store.arrived("put")
    completing = asyncio.ensure_future(caller.complete())
    await run_ready_tasks()
    assert node.store.count("complete") == 0
    node.store.write_gate.set()
    await completing
    await flushing
    assert node.s3_has("k") == b"completed"


async def test_a_repeated_request_has_the_same_reply_and_no_other_effect(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    first = await caller.complete()
    await node.put("k", b"later")
    assert await caller.complete() == first
    assert await node.outcome("k") == ("hit", b"later")
    await node.flush()
    assert node.s3_has("k") == b"later"


async def test_a_rejected_one_changes_nothing(node: NodeUnderTest) -> None:
    caller = await Caller(node).send()
    await node.put("k", b"dirty")
    caller.parts = [UploadedPart(7, etag_of(b"another"))]
    with pytest.raises(FailedPrecondition, match="InvalidPart"):
        await caller.complete()
    caller.parts = [UploadedPart(7, etag_of(caller.value))]
    with pytest.raises(ConditionFailed):
        await caller.complete(if_none_match="*")
    assert await node.outcome("k") == ("hit", b"dirty")
    await node.flush()
    assert node.s3_has("k") == b"dirty"
    assert node.store.uploads, "it can still be completed"


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_lost_reply_of_s3_is_resolved(node: NodeUnderTest, after_effect: bool) -> None:
    caller = await Caller(node).send()
    await node.put("k", b"dirty")

    def reject(operation: str, _: object) -> Fault | None:
        return Fault.TIMEOUT if operation == "complete" and not after_effect else None

    node.store.reject = reject  # type: ignore[assignment]
    if after_effect:
        node.store.fail(Fault.TIMEOUT, after_effect=True)
    completing = asyncio.ensure_future(caller.complete())
    while not completing.done():
        await node.clock.advance(0.5)
    node.store.reject = None
    if after_effect:
        assert (await completing).etag
        assert node.s3_has("k") == b"completed"
        assert (await node.outcome("k"))[1] == b"completed"
        return
    with pytest.raises((OriginUnavailable, MilenaError)):
        await completing
    await run_ready_tasks()
    assert not node.store.uploads, "no late request can succeed"
    await node.flush()
    assert node.s3_has("k") == b"dirty"
