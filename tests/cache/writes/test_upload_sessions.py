"""Objects that are written step by step, with a node and an S3 in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from milena_cache.objects.names import Object
from milena_cache.objects.object_store import Fault, Ref
from milena_cache.writes.multipart import MAX_OBJECT_BYTES, PART_BYTES, Multipart
from milena_cache.writes.upload_sessions import IDLE_SECONDS, Received, Step
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import (
    ConditionFailed,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    MilenaError,
    OriginUnavailable,
    Overloaded,
    Unavailable,
)
from milena_common.api.uploads import MAX_STEP_BYTES
from tests.cache.node_under_test import BUCKET, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

NAME, OTHER = "0" * 32, "f" * 32
VALUE = bytes(range(256)) * (3 * MAX_STEP_BYTES // 256) + b"end"  # over the MAX_VALUE_BYTES of the node
SOON = 5.0


@pytest.fixture(name="node")
async def _node() -> AsyncIterator[NodeUnderTest]:
    made = NodeUnderTest(
        mode="back", dirty_max_bytes=10**8, dirty_memory_bytes=10**8, max_bytes=10**7, block_bytes=2**18
    )
    await made.start()
    yield made
    await made.parts.uploads.close()
    await made.stop()


async def step(node: NodeUnderTest, step: Step, owned_since: int = 0, timeout: float = SOON) -> Received:
    return await node.parts.uploads.step(node.object("k"), owned_since, step, timeout)


async def send(node: NodeUnderTest, value: bytes, name: str = NAME) -> None:
    """Send all of `value`, in full steps."""
    for offset in range(0, len(value), MAX_STEP_BYTES):
        part = value[offset : offset + MAX_STEP_BYTES]
        assert (await step(node, Step(name, offset, part))).size == offset + len(part)


async def complete(node: NodeUnderTest, value: bytes, name: str = NAME, if_none_match: str = "") -> Received:
    """Send all of `value`, and store it."""
    await send(node, value[:-1], name)
    return await step(
        node, Step(name, len(value) - 1, value[-1:], complete=True, durability="back", if_none_match=if_none_match)
    )


async def read(node: NodeUnderTest) -> bytes | None:
    """What a reader of the node gets; an object that is too large in ranges."""
    part = node.parts.part_reads.read_part(node.object("k"), lambda size: ByteRange(0, min(size, 10**6)), SOON)
    found = part if not asyncio.iscoroutine(part) else await part
    return found.value if found.reply.entry.value is not None else None


async def test_a_small_object_is_a_put_of_the_class_that_was_requested(node: NodeUnderTest) -> None:
    ack = (await complete(node, b"value")).ack
    assert ack is not None
    assert ack.durability == "back"
    assert node.dirty.get(node.object("k").cache_key) is not None
    assert node.store.count("multipart") == 0


async def test_a_large_object_is_in_s3_when_it_is_acknowledged(node: NodeUnderTest) -> None:
    value = VALUE * 6  # two whole parts and a rest
    assert len(value) > 2 * PART_BYTES
    await send(node, value)
    await run_ready_tasks()
    assert node.s3_has("k") is None
    assert await node.outcome("k") == ("miss", None)
    received = await step(node, Step(NAME, len(value), b"", complete=True))
    assert received.ack is not None
    assert received.ack.durability == "through"
    assert node.s3_has("k") == value
    assert node.store.count("part") == 3
    assert node.store.uploads == {}
    assert node.budget.used == 0
    info = await node.store.head(Ref(BUCKET, "k"))
    assert info is not None
    assert received.ack.etag == info.etag


async def test_what_memory_has_of_the_object_before_is_not_served_any_more(node: NodeUnderTest) -> None:
    node.store.objects[Ref(BUCKET, "k")] = b"old"
    assert await node.outcome("k") == ("miss", b"old")
    await complete(node, VALUE)
    assert await read(node) == VALUE[: 10**6]


async def test_after_a_failed_condition_has_shown_an_object_nothing_older_is_served(node: NodeUnderTest) -> None:
    node.in_s3("k", b"old")
    assert await node.outcome("k") == ("miss", b"old")
    node.clock.tick(120)
    node.in_s3("k", b"new")
    with pytest.raises(ConditionFailed, match="the object's ETag is"):
        await complete(node, VALUE, if_none_match="*")
    node.store.down = Fault.CONNECT
    with pytest.raises(OriginUnavailable):
        await node.outcome("k")


async def test_no_more_than_two_parts_are_in_memory(node: NodeUnderTest) -> None:
    node.store.gate.clear()
    sent = 0
    with pytest.raises(DeadlineExceeded):  # noqa: PT012 one of the steps is the first that finds no room
        while True:
            sent = (await step(node, Step(NAME, sent, bytes(MAX_STEP_BYTES)), timeout=0.2)).size
    assert sent == 2 * PART_BYTES
    node.store.gate.set()
    # What the failed step had taken before it failed is not taken again.
    again = await step(node, Step(NAME, sent, bytes(MAX_STEP_BYTES)))
    assert again.size == sent + MAX_STEP_BYTES


async def test_a_step_can_be_repeated(node: NodeUnderTest) -> None:
    first, rest = VALUE[:MAX_STEP_BYTES], VALUE[MAX_STEP_BYTES : 2 * MAX_STEP_BYTES]
    await step(node, Step(NAME, 0, first))
    await step(node, Step(NAME, 0, first))
    last = Step(NAME, MAX_STEP_BYTES, rest, complete=True)
    assert await step(node, last) == await step(node, last)
    assert node.s3_has("k") == first + rest
    assert node.store.count("complete") == 1


async def test_a_step_that_leaves_bytes_out_is_rejected_and_nothing_is_stored(node: NodeUnderTest) -> None:
    await step(node, Step(NAME, 0, b"one"))
    with pytest.raises(InvalidRequest, match="offset: got 4; 3 bytes"):
        await step(node, Step(NAME, 4, b"two", complete=True))
    with pytest.raises(FailedPrecondition, match="not known here"):
        await step(node, Step(NAME, 3, b"two", complete=True))
    assert node.s3_has("k") is None


@pytest.mark.parametrize("name", ["", "0" * 31, "G" * 32])
async def test_names_are_32_hexadecimal_digits(node: NodeUnderTest, name: str) -> None:
    with pytest.raises(InvalidRequest, match="upload: got"):
        await step(node, Step(name, 0, b""))


async def test_a_step_is_no_larger_than_its_limit(node: NodeUnderTest) -> None:
    with pytest.raises(InvalidRequest, match="value: has"):
        await step(node, Step(NAME, 0, bytes(MAX_STEP_BYTES + 1)))


async def test_an_object_is_no_larger_than_s3_takes_in_parts(node: NodeUnderTest) -> None:
    parts = node.parts.uploads._make(node.object("k"), 0)
    parts.size = MAX_OBJECT_BYTES - 1
    with pytest.raises(FailedPrecondition, match="has more than"):
        await parts.add(memoryview(b"12"), node.clock.now() + SOON)


async def test_an_aborted_object_leaves_nothing(node: NodeUnderTest) -> None:
    await send(node, bytes(PART_BYTES + MAX_STEP_BYTES))
    await run_ready_tasks()
    assert node.store.uploads
    await step(node, Step(NAME, 0, b"", abort=True))
    await run_ready_tasks()
    assert (node.store.uploads, node.store.objects, node.budget.used) == ({}, {}, 0)


async def test_a_session_that_is_not_continued_is_dropped(node: NodeUnderTest) -> None:
    await send(node, bytes(PART_BYTES + MAX_STEP_BYTES))
    for _ in range(6):
        await node.clock.advance(IDLE_SECONDS / 4)
    assert (len(node.parts.uploads), node.store.uploads, node.budget.used) == (0, {}, 0)
    with pytest.raises(FailedPrecondition, match="not known here"):
        await step(node, Step(NAME, PART_BYTES + MAX_STEP_BYTES, b"", complete=True))


async def test_there_are_not_more_sessions_than_fit(node: NodeUnderTest) -> None:
    assert node.parts.uploads.max_sessions == 1
    await step(node, Step(NAME, 0, b"one"))
    with pytest.raises(Overloaded):
        await step(node, Step(OTHER, 0, b"two"))
    await step(node, Step(NAME, 0, b"", abort=True))
    await run_ready_tasks()
    await step(node, Step(OTHER, 0, b"two"))


async def test_a_session_ends_with_the_ownership_of_its_key(node: NodeUnderTest) -> None:
    await step(node, Step(NAME, 0, b"one"), owned_since=3)
    with pytest.raises(FailedPrecondition, match="another owner"):
        await step(node, Step(NAME, 3, b"two", complete=True), owned_since=5)
    assert node.s3_has("k") is None


@pytest.mark.parametrize("where", ["multipart", "part", "complete"])
async def test_nothing_is_stored_if_s3_rejects_it(node: NodeUnderTest, where: str) -> None:
    node.store.reject = lambda operation, ref: Fault.DENIED if operation == where else None
    with pytest.raises(MilenaError, match="DENIED"):
        await complete(node, VALUE)
    node.store.reject = None
    await run_ready_tasks()
    assert (node.store.uploads, node.store.objects, node.budget.used) == ({}, {}, 0)


@pytest.mark.parametrize(("after_effect", "retries"), [(False, 1), (True, 1), (True, 0)])
@pytest.mark.parametrize("fault", [Fault.TIMEOUT, Fault.SERVER, Fault.INCOMPLETE])
async def test_a_lost_reply_to_the_last_request_is_resolved(
    node: NodeUnderTest, fault: Fault, after_effect: bool, retries: int
) -> None:
    make = node.parts.uploads._make

    def make_with_retries(target: Object, owned_since: int) -> Multipart:
        parts = make(target, owned_since)
        parts._assembly._retries = retries
        return parts

    node.parts.uploads._make = make_with_retries
    await send(node, VALUE[:-1])
    last = asyncio.ensure_future(step(node, Step(NAME, len(VALUE) - 1, VALUE[-1:], complete=True)))
    node.store.gate.clear()
    await node.store.arrived("multipart")
    node.store.gate.set()
    await node.store.arrived("part")
    node.store.fail(fault, after_effect=after_effect)
    while not last.done():
        await node.clock.advance(0.1)
    received = await last
    assert received.ack is not None
    assert node.s3_has("k") == VALUE
    assert node.store.uploads == {}


async def test_an_object_that_s3_never_completes_is_certainly_not_stored(node: NodeUnderTest) -> None:
    node.store.reject = lambda operation, ref: Fault.TIMEOUT if operation == "complete" else None
    writing = asyncio.ensure_future(complete(node, VALUE))
    while not writing.done():
        await node.clock.advance(0.5)
    with pytest.raises((OriginUnavailable, DeadlineExceeded)):
        await writing
    node.store.reject = None
    for _ in range(40):
        await node.clock.advance(1)
    assert (node.store.uploads, node.store.objects) == ({}, {})


async def test_an_object_of_which_s3_has_lost_bytes_is_not_acknowledged(node: NodeUnderTest) -> None:
    await send(node, VALUE)
    made = node.store.complete_multipart

    async def shorter(ref: Ref, upload: str, etags: list[str], **conditions: object) -> str:
        begun, parts = node.store.uploads[ref, upload]
        etag = await made(ref, upload, etags)
        node.store.objects[ref] = type(begun)(parts[1][:-1], begun.metadata)
        return etag

    node.store.complete_multipart = shorter  # type: ignore[assignment]
    with pytest.raises(Unavailable, match=f"{len(VALUE) - 1} bytes of the {len(VALUE)}"):
        await step(node, Step(NAME, len(VALUE), b"", complete=True))


async def test_an_object_that_is_to_be_new_spares_that_of_another_writer(node: NodeUnderTest) -> None:
    await send(node, VALUE)
    node.store.objects[Ref(BUCKET, "k")] = b"theirs"
    with pytest.raises(ConditionFailed):
        await step(node, Step(NAME, len(VALUE), b"", complete=True, if_none_match="*"))
    await run_ready_tasks()
    assert node.s3_has("k") == b"theirs"
    assert node.store.uploads == {}


async def test_s3_itself_checks_that_the_object_is_new(node: NodeUnderTest) -> None:
    await send(node, VALUE)
    made = node.store.complete_multipart

    async def late(*args: object, **conditions: object) -> str:
        node.store.objects[Ref(BUCKET, "k")] = b"theirs"  # behind our look
        return await made(*args, **conditions)  # type: ignore[arg-type]

    node.store.complete_multipart = late  # type: ignore[method-assign]
    with pytest.raises(ConditionFailed):
        await step(node, Step(NAME, len(VALUE), b"", complete=True, if_none_match="*"))
    assert node.s3_has("k") == b"theirs"


async def test_a_dirty_object_counts_where_one_is_to_be_new(node: NodeUnderTest) -> None:
    await node.put("k", b"dirty")
    with pytest.raises(ConditionFailed):
        await complete(node, VALUE, if_none_match="*")
    await node.delete("k")
    await complete(node, VALUE, if_none_match="*")
    assert node.s3_has("k") == VALUE


@pytest.mark.parametrize("crash", [False, True])
async def test_writes_of_the_key_before_and_after_stay_in_order(node: NodeUnderTest, crash: bool) -> None:
    await send(node, VALUE * 3)  # the first part, and with it the version, is there before the next write
    await run_ready_tasks()
    await node.put("k", b"between")
    await step(node, Step(NAME, len(VALUE * 3), b"", complete=True))
    if crash:
        after = await node.crash()
        await after.flush()
        assert after.s3_has("k") == VALUE * 3
        await after.stop()
        return
    assert await read(node) == VALUE[: 10**6]
    await node.flush()
    assert node.s3_has("k") == VALUE * 3
    await node.put("k", b"after")
    assert await node.outcome("k") == ("hit", b"after")
    await node.flush()
    assert node.s3_has("k") == b"after"
