"""Attempts, backoff, the limit on requests in hand, and the counts of what was asked."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from milena_cache.origin import BACKOFF, Origin
from milena_cache.store import Absent, Fault, OriginFailure, Ref, Stored
from milena_common.errors import FailedPrecondition
from tests.support.fake_clock import FakeClock
from tests.support.memory_store import MemoryStore, etag_of

REF = Ref("bucket", "k")


# Real time, which waiting for a place takes.
PATIENCE = 0.05


class Rig:
    def __init__(self, *, retries: int = 3, concurrency: int = 10) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore("bucket")
        self.origin = Origin(
            self.store, self.clock, lambda: 1.0, retries=retries, concurrency=concurrency, place_timeout=0.05
        )

    async def get(self) -> Stored | Absent:
        return await self.origin.get(REF, max_bytes=100)


async def test_an_attempt_that_may_succeed_later_is_repeated_with_growing_pauses() -> None:
    rig = Rig()
    rig.store.objects[REF] = b"v"
    rig.store.fail(Fault.SERVER)
    rig.store.fail(Fault.THROTTLED)
    task = asyncio.create_task(rig.get())
    for pause in (BACKOFF.first, 2 * BACKOFF.first):
        await rig.clock.advance(pause * 0.99)
        assert not task.done()
        await rig.clock.advance(pause * 0.02)
    assert await task == Stored(b"v", etag_of(b"v"))
    assert rig.origin.counts.requests == {("get", "server"): 1, ("get", "throttled"): 1, ("get", "200"): 1}
    assert rig.origin.counts.bytes_read == 1


async def test_after_the_last_attempt_the_failure_is_told() -> None:
    rig = Rig(retries=2)
    rig.store.down = Fault.CONNECT
    task = asyncio.create_task(rig.get())
    await rig.clock.advance(60)
    with pytest.raises(OriginFailure):
        await task
    assert rig.store.count("get") == 3


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.NO_BUCKET, Fault.REFUSED])
async def test_what_repeating_cannot_help_is_not_repeated(fault: Fault) -> None:
    rig = Rig()
    rig.store.fail(fault)
    with pytest.raises(OriginFailure):
        await rig.get()
    assert rig.store.count("get") == 1


async def test_writes_are_not_repeated() -> None:
    rig = Rig(retries=3)
    rig.store.fail(Fault.SERVER)
    with pytest.raises(OriginFailure):
        await rig.origin.put(REF, b"v", inf)
    rig.store.fail(Fault.SERVER)
    with pytest.raises(OriginFailure):
        await rig.origin.look(REF, inf)
    assert [operation for operation, _ in rig.store.calls] == ["put", "head"]


async def test_requests_in_hand_are_limited() -> None:
    rig = Rig(concurrency=2)
    rig.store.gate.clear()
    tasks = [asyncio.create_task(rig.get()) for _ in range(5)]
    await rig.store.arrived("get", 2)
    await asyncio.sleep(0)
    assert rig.store.count("get") == 2
    rig.store.gate.set()
    await asyncio.gather(*tasks)


async def test_a_place_is_not_awaited_for_ever() -> None:
    rig = Rig(concurrency=1)
    rig.store.gate.clear()
    hanging = asyncio.create_task(rig.get())
    await rig.store.arrived("get")
    with pytest.raises(OriginFailure, match="S3_CONCURRENCY") as caught:
        await rig.get()
    assert caught.value.fault is Fault.THROTTLED
    rig.store.gate.set()
    assert await hanging is Absent.MISSING
    assert await rig.get() is Absent.MISSING, "its place is free again"


async def test_reads_that_hang_do_not_keep_a_write_waiting() -> None:
    rig = Rig(concurrency=1)
    rig.store.read_gate.clear()
    hanging = asyncio.create_task(rig.get())
    await rig.store.arrived("get")
    await rig.origin.put(REF, b"v", inf)
    rig.store.read_gate.set()
    await hanging


async def test_a_write_is_not_begun_after_its_caller_gave_up() -> None:
    rig = Rig()
    with pytest.raises(OriginFailure, match="its caller gave up") as caught:
        await rig.origin.put(REF, b"v", give_up_at=rig.clock.now())
    assert not caught.value.ambiguous
    assert rig.store.calls == []


async def test_a_pause_between_attempts_holds_no_place() -> None:
    rig = Rig(concurrency=1)
    rig.store.fail(Fault.SERVER)
    waiting = asyncio.create_task(rig.get())
    await rig.store.arrived("get")
    await asyncio.sleep(0)
    assert await asyncio.wait_for(rig.get(), 5) is Absent.MISSING
    await rig.clock.advance(60)
    assert await waiting is Absent.MISSING


async def test_every_answer_is_counted_by_its_code() -> None:
    rig = Rig()
    await rig.get()
    await rig.origin.put(REF, b"v", inf)
    await rig.origin.get(REF, if_none_match=etag_of(b"v"), max_bytes=100)
    await rig.origin.head(REF)
    await rig.origin.delete(REF, inf)
    await rig.origin.head(REF)
    await rig.origin.put(REF, b"x" * 101, inf)
    with pytest.raises(FailedPrecondition):
        await rig.get()
    assert rig.origin.counts.requests == {
        ("get", "404"): 1,
        ("put", "200"): 2,
        ("get", "304"): 1,
        ("head", "200"): 1,
        ("delete", "200"): 1,
        ("head", "404"): 1,
        ("get", "200"): 1,
    }
    assert rig.origin.counts.total("get", "head") == 5
    assert rig.origin.counts.bytes_written == 102
