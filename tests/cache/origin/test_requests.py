"""Attempts, backoff, the limit on requests in flight, and the counts of requests."""

from __future__ import annotations

import asyncio
from math import inf

import pytest

from milena_cache.objects.object_store import Absent, Fault, OriginFailure, Ref, Stored
from milena_cache.origin.requests import BACKOFF, RECONNECT_SECONDS, Origin
from milena_common.api.errors import FailedPrecondition
from tests.support.fake_clock import FakeClock
from tests.support.s3.memory_store import MemoryStore, etag_of

REF = Ref("bucket", "k")


# Real time, which waiting for a place takes.
TIMEOUT = 0.05


class Harness:
    def __init__(self, *, retries: int = 3, concurrency: int = 10, hedge_after: float = 5.0) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore("bucket")
        self.fresh = MemoryStore("bucket")
        self.fresh.objects = self.store.objects
        self.origin = Origin(
            self.store,
            self.clock,
            lambda: 1.0,
            retries=retries,
            concurrency=concurrency,
            place_timeout=0.05,
            fresh=self.fresh,
            hedge_after=hedge_after,
        )

    def in_s3(self, value: bytes) -> None:
        self.store.objects[REF] = value

    async def get(self) -> Stored | Absent:
        return await self.origin.get(REF, max_bytes=100)


async def test_an_attempt_that_may_succeed_later_is_repeated_with_growing_pauses() -> None:
    harness = Harness()
    harness.store.objects[REF] = b"v"
    harness.store.fail(Fault.SERVER)
    harness.store.fail(Fault.THROTTLED)
    task = asyncio.create_task(harness.get())
    for pause in (BACKOFF.first, 2 * BACKOFF.first):
        await harness.clock.advance(pause * 0.99)
        assert not task.done()
        await harness.clock.advance(pause * 0.02)
    assert await task == Stored(b"v", etag_of(b"v"))
    assert harness.origin.counts.requests == {("get", "server"): 1, ("get", "throttled"): 1, ("get", "200"): 1}
    assert harness.origin.counts.bytes_read == 1


async def test_after_the_last_attempt_the_failure_is_raised() -> None:
    harness = Harness(retries=2)
    harness.store.down = harness.fresh.down = Fault.CONNECT
    task = asyncio.create_task(harness.get())
    await harness.clock.advance(60)
    with pytest.raises(OriginFailure):
        await task
    assert harness.store.count("get") + harness.fresh.count("get") == 3


@pytest.mark.parametrize("fault", [Fault.DENIED, Fault.NO_BUCKET, Fault.REJECTED])
async def test_what_repeating_cannot_help_is_not_repeated(fault: Fault) -> None:
    harness = Harness()
    harness.store.fail(fault)
    with pytest.raises(OriginFailure):
        await harness.get()
    assert harness.store.count("get") == 1


async def test_writes_are_not_repeated() -> None:
    harness = Harness(retries=3)
    harness.store.fail(Fault.SERVER)
    with pytest.raises(OriginFailure):
        await harness.origin.put(REF, b"v", inf)
    harness.store.fail(Fault.SERVER)
    with pytest.raises(OriginFailure):
        await harness.origin.look(REF, inf)
    assert [operation for operation, _ in harness.store.calls] == ["put", "head"]


async def test_requests_in_flight_are_limited() -> None:
    harness = Harness(concurrency=2)
    harness.store.gate.clear()
    tasks = [asyncio.create_task(harness.get()) for _ in range(5)]
    await harness.store.arrived("get", 2)
    await asyncio.sleep(0)
    assert harness.store.count("get") == 2
    harness.store.gate.set()
    await asyncio.gather(*tasks)


async def test_a_place_is_not_awaited_for_ever() -> None:
    harness = Harness(concurrency=1)
    harness.store.gate.clear()
    hanging = asyncio.create_task(harness.get())
    await harness.store.arrived("get")
    with pytest.raises(OriginFailure, match="S3_CONCURRENCY") as caught:
        await harness.get()
    assert caught.value.fault is Fault.THROTTLED
    harness.store.gate.set()
    assert await hanging is Absent.MISSING
    assert await harness.get() is Absent.MISSING, "its place is free again"


async def test_reads_that_hang_do_not_keep_a_write_waiting() -> None:
    harness = Harness(concurrency=1)
    harness.store.read_gate.clear()
    hanging = asyncio.create_task(harness.get())
    await harness.store.arrived("get")
    await harness.origin.put(REF, b"v", inf)
    harness.store.read_gate.set()
    await hanging


async def test_a_write_is_not_begun_after_its_caller_gave_up() -> None:
    harness = Harness()
    with pytest.raises(OriginFailure, match="its caller gave up") as caught:
        await harness.origin.put(REF, b"v", deadline=harness.clock.now())
    assert not caught.value.ambiguous
    assert harness.store.calls == []


async def test_a_pause_between_attempts_holds_no_place() -> None:
    harness = Harness(concurrency=1)
    harness.store.fail(Fault.SERVER)
    waiting = asyncio.create_task(harness.get())
    await harness.store.arrived("get")
    await asyncio.sleep(0)
    assert await asyncio.wait_for(harness.get(), 5) is Absent.MISSING
    await harness.clock.advance(60)
    assert await waiting is Absent.MISSING


async def test_every_response_is_counted_by_its_code() -> None:
    harness = Harness()
    await harness.get()
    await harness.origin.put(REF, b"v", inf)
    await harness.origin.get(REF, if_none_match=etag_of(b"v"), max_bytes=100)
    await harness.origin.head(REF)
    await harness.origin.delete(REF, inf)
    await harness.origin.head(REF)
    await harness.origin.put(REF, b"x" * 101, inf)
    with pytest.raises(FailedPrecondition):
        await harness.get()
    assert harness.origin.counts.requests == {
        ("get", "404"): 1,
        ("put", "200"): 2,
        ("get", "304"): 1,
        ("head", "200"): 1,
        ("delete", "200"): 1,
        ("head", "404"): 1,
        ("get", "200"): 1,
    }
    assert harness.origin.counts.total("get", "head") == 5
    assert harness.origin.counts.bytes_written == 102


# Hedging. The pooled connections of `store` are dead; those of `fresh` are not.


@pytest.mark.parametrize("operation", ["get", "head", "look", "list", "bucket"])
async def test_a_read_without_a_response_is_sent_once_more_on_a_fresh_connection(operation: str) -> None:
    harness = Harness(hedge_after=0.001)
    harness.in_s3(b"v")
    harness.store.gate.clear()
    calls = {
        "get": lambda: harness.get(),
        "head": lambda: harness.origin.head(REF),
        "look": lambda: harness.origin.look(REF, inf),
        "list": lambda: harness.origin.list("bucket", "", "", 10),
        "bucket": lambda: harness.origin.check_bucket("bucket"),
    }
    await asyncio.wait_for(calls[operation](), 5)
    assert len(harness.store.calls) == len(harness.fresh.calls) == 1
    assert harness.store.reconnects == 1, "the other idle connections may be as dead"
    name = "head" if operation == "look" else operation
    await asyncio.sleep(0)
    assert harness.origin.counts.requests == {(name, "cancelled"): 1, (name, "200"): 1}


async def test_a_write_is_never_sent_twice() -> None:
    harness = Harness(hedge_after=0.0)
    await harness.origin.put(REF, b"v", inf)
    await harness.origin.delete(REF, inf)
    assert [name for name, _ in harness.store.calls] == ["put", "delete"]
    assert harness.fresh.calls == []


async def test_a_transfer_that_has_begun_is_left_alone_however_long_it_takes() -> None:
    harness = Harness(hedge_after=0.0)
    harness.in_s3(b"v")
    harness.store.read_gate.clear()
    reading = asyncio.create_task(harness.get())
    await harness.store.arrived("get")
    for _ in range(10):
        await asyncio.sleep(0)
    harness.store.read_gate.set()
    assert await reading == Stored(b"v", etag_of(b"v"))
    assert harness.fresh.calls == []


async def test_the_first_of_two_responses_counts_and_the_connections_are_kept_if_it_is_the_first_request() -> None:
    harness = Harness(hedge_after=0.001)
    harness.in_s3(b"v")
    harness.store.gate.clear()
    harness.fresh.gate.clear()
    reading = asyncio.create_task(harness.get())
    await harness.fresh.arrived("get")
    harness.store.gate.set()
    assert await reading == Stored(b"v", etag_of(b"v"))
    assert harness.store.reconnects == 0


async def test_a_hedge_that_fails_leaves_the_first_request_its_time() -> None:
    harness = Harness(hedge_after=0.001, retries=0)
    harness.in_s3(b"v")
    harness.store.gate.clear()
    harness.fresh.fail(Fault.CONNECT)
    reading = asyncio.create_task(harness.get())
    await harness.fresh.arrived("get")
    await asyncio.sleep(0)
    harness.store.gate.set()
    assert await reading == Stored(b"v", etag_of(b"v"))


async def test_two_requests_that_both_fail_are_one_attempt_that_failed() -> None:
    harness = Harness(hedge_after=0.001, retries=0)
    harness.store.gate.clear()
    harness.store.fail(Fault.TIMEOUT)
    harness.fresh.fail(Fault.SERVER)
    reading = asyncio.create_task(harness.get())
    await harness.fresh.arrived("get")
    harness.store.gate.set()
    with pytest.raises(OriginFailure):
        await reading


async def test_a_rejection_is_a_response_and_ends_both_requests() -> None:
    harness = Harness(hedge_after=0.001)
    harness.store.gate.clear()
    harness.fresh.fail(Fault.DENIED)
    with pytest.raises(OriginFailure) as caught:
        await asyncio.wait_for(harness.get(), 5)
    assert caught.value.fault is Fault.DENIED


async def test_a_hedge_waits_for_no_place() -> None:
    harness = Harness(hedge_after=0.001, concurrency=1)
    harness.store.gate.clear()
    reading = asyncio.create_task(harness.get())
    await harness.store.arrived("get")
    with pytest.raises(OriginFailure, match="S3_CONCURRENCY"):
        await harness.get()
    assert harness.fresh.calls == []
    harness.store.gate.set()
    assert await reading is Absent.MISSING


@pytest.mark.parametrize("fault", [Fault.CONNECT, Fault.TIMEOUT, Fault.INCOMPLETE])
async def test_what_failed_for_its_connection_is_repeated_on_a_fresh_one(fault: Fault) -> None:
    harness = Harness()
    harness.in_s3(b"v")
    harness.store.fail(fault)
    reading = asyncio.create_task(harness.get())
    await harness.clock.advance(1)
    assert await reading == Stored(b"v", etag_of(b"v"))
    assert harness.fresh.count("get") == 1


async def test_what_s3_itself_failed_to_do_is_repeated_on_the_connections_that_work() -> None:
    harness = Harness()
    harness.store.fail(Fault.SERVER)
    reading = asyncio.create_task(harness.get())
    await harness.clock.advance(1)
    assert await reading is Absent.MISSING
    assert (harness.store.count("get"), harness.fresh.count("get")) == (2, 0)


async def test_idle_connections_are_given_up_at_most_once_in_a_while() -> None:
    harness = Harness(hedge_after=0.001)
    harness.store.gate.clear()
    for _ in range(3):
        await harness.get()
    assert harness.store.reconnects == 1
    harness.clock.tick(RECONNECT_SECONDS)
    await harness.get()
    assert harness.store.reconnects == 2
