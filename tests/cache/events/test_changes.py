"""What becomes of entries, HEAD results and blocks when S3 reports changes of their objects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.events.changes import ForeignChanges, ReportedChange, state_of
from milena_cache.membership.ownership import Ownership
from milena_cache.memory import entries as entries_module
from milena_cache.objects.object_store import Ref
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import Moved, Overloaded
from tests.cache.node_under_test import BUCKET, SOON, NodeUnderTest
from tests.cache.servers.resp.server_under_test import ME, ring
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import etag_of

OTHER = "127.0.0.1:50061"
A, B, C = b"a", b"b", b"c"


def etag(value: bytes) -> str:
    """As events spell it."""
    return etag_of(value).strip('"')


class Harness:
    def __init__(self, **options: Any) -> None:
        self.t = NodeUnderTest(**options)
        self.ownership = Ownership(ME)
        self.ownership.update(ring(ME))
        parts = self.t.parts
        self.changes = ForeignChanges(parts.entries, parts.s3_locks, parts.blocks.memory, self.ownership)

    def event(self, value: bytes | None, key: str = "k") -> None:
        """Another program's change is reported."""
        state = state_of("" if value is None else etag(value))
        self.changes.apply([ReportedChange(key.encode(), state)])

    async def cached(self, value: bytes | None) -> None:
        """S3 has the value, and so has the memory."""
        self.t.in_s3("k", value)
        await self.t.get("k")

    async def read(self) -> tuple[str, bytes | None]:
        return await self.t.outcome("k")


@pytest.fixture
async def h() -> Harness:
    return Harness()


async def test_a_change_by_another_program_drops_the_entry(h: Harness) -> None:
    await h.cached(A)
    h.t.in_s3("k", B)
    assert await h.read() == ("hit", A)
    h.event(B)
    assert await h.read() == ("miss", B)
    assert h.changes.results == {"dropped": 1, "same": 0, "not_cached": 0}


async def test_the_event_of_what_the_entry_is_drops_nothing(h: Harness) -> None:
    await h.cached(A)
    h.event(A)
    assert await h.read() == ("hit", A)
    h.event(C, "never read")
    assert h.changes.results == {"dropped": 0, "same": 1, "not_cached": 1}


async def test_a_delete_drops_the_entry_and_a_put_the_absence(h: Harness) -> None:
    await h.cached(A)
    h.t.in_s3("k", None)
    h.event(None)
    assert await h.read() == ("miss", None)
    h.event(None)
    assert await h.read() == ("negative_hit", None)
    h.t.in_s3("k", B)
    h.event(B)
    assert await h.read() == ("miss", B)


async def test_a_read_that_began_before_the_change_is_not_kept(h: Harness) -> None:
    h.t.in_s3("k", A)
    h.t.store.read_gate.clear()
    reading = asyncio.create_task(h.t.get("k"))
    await run_ready_tasks()
    h.t.in_s3("k", B)
    h.event(B)
    h.t.store.read_gate.set()
    assert (await reading).entry.value == A
    assert await h.read() == ("miss", B)


async def test_a_read_in_flight_is_not_kept_either_if_the_event_is_that_of_the_entry(h: Harness) -> None:
    await h.cached(A)
    h.t.clock.tick(115.0)  # past its grace: a read asks S3
    h.t.in_s3("k", B)
    h.t.store.read_gate.clear()
    reading = asyncio.create_task(h.t.get("k", timeout=600.0))
    await run_ready_tasks()
    h.t.in_s3("k", A)
    h.event(A)  # the second one, which arrives first
    h.t.store.read_gate.set()
    await reading
    h.event(B)
    assert (await h.t.get("k")).entry.value == A


async def test_the_size_of_a_head_is_dropped(h: Harness) -> None:
    h.t.in_s3("k", A)
    assert (await h.t.node.exists(h.t.object("k"), SOON))[1] == 1
    h.t.in_s3("k", B * 7)
    h.event(B * 7)
    assert (await h.t.node.exists(h.t.object("k"), SOON))[1] == 7


@pytest.mark.parametrize("order", [(B,), (A, B), (B, A)])
async def test_an_event_that_comes_while_this_node_writes_is_not_forgotten(
    h: Harness, order: tuple[bytes, ...]
) -> None:
    h.t.parts.write_through._put_timeout = 600.0
    h.t.store.write_gate.clear()
    writing = asyncio.create_task(h.t.put("k", A))
    await run_ready_tasks()
    h.t.in_s3("k", B)
    for value in order:
        h.event(value)
    h.t.store.write_gate.set()
    await writing
    if order == (B,):
        h.event(A)
    assert await h.read() == ("miss", B)


async def test_the_event_of_a_write_in_flight_drops_nothing(h: Harness) -> None:
    h.t.parts.write_through._put_timeout = 600.0
    h.t.store.write_gate.clear()
    writing = asyncio.create_task(h.t.put("k", A))
    await run_ready_tasks()
    h.event(A)
    h.t.store.write_gate.set()
    await writing
    assert await h.read() == ("hit", A)


async def test_an_upload_in_flight_is_a_write(h: Harness) -> None:
    await h.t.start()
    await h.t.put("k", A, durability="back")
    h.t.store.write_gate.clear()
    await h.t.clock.advance(2.0)
    assert h.t.s3_has("k") == A
    h.t.in_s3("k", B)
    h.event(B)
    h.t.store.write_gate.set()
    await h.t.clock.advance(2.0)
    assert await h.read() == ("miss", B)
    await h.t.stop()


async def test_a_dirty_write_is_served_and_uploaded_all_the_same(h: Harness) -> None:
    await h.t.start()
    await h.t.put("k", A, durability="back")
    h.event(B)
    assert await h.read() == ("hit", A)
    await h.t.clock.advance(2.0)
    assert h.t.s3_has("k") == A
    await h.t.stop()


async def test_more_keys_being_written_than_are_remembered_are_reported_again(
    h: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries_module, "MAX_OVERTAKEN", 1)
    async with h.t.parts.s3_locks.hold(b"k", None), h.t.parts.s3_locks.hold(b"other", None):
        h.event(A)
        h.event(B)
        with pytest.raises(Overloaded):
            h.event(A, "other")


async def test_a_node_that_does_not_own_the_key_drops_the_entry_and_says_so(h: Harness) -> None:
    await h.cached(A)
    h.ownership.update(ring(OTHER, epoch=2))
    with pytest.raises(Moved):
        h.changes.apply([ReportedChange(b"k", state_of(etag(B))), ReportedChange(b"l", state_of(etag(B)))])
    assert h.t.memory.peek(b"k") is None
    assert h.changes.results["not_cached"] == 1  # the second was looked at all the same


async def test_blocks_of_other_versions_are_dropped() -> None:
    h = Harness(block_threshold=16, block_bytes=16)
    h.t.in_s3("k", A * 64)
    part = await h.t.parts.part_reads.read_part(h.t.object("k"), ByteRange(0, 32).within, SOON)
    assert part.value == A * 32
    blocks = h.t.parts.blocks.memory
    assert len(blocks) == 2
    h.event(A * 64)
    assert len(blocks) == 2
    h.event(B * 64)
    assert len(blocks) == 0
    assert blocks.bytes == 0
    assert h.t.memory.bytes == 0
    h.t.store.objects[Ref(BUCKET, "k")] = B * 64
    part = await h.t.parts.part_reads.read_part(h.t.object("k"), ByteRange(0, 32).within, SOON)
    assert part.value == B * 32
