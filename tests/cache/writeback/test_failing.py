"""Keys that S3 never takes keep no other key waiting, and are named."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.object_store import Fault, Ref
from milena_cache.writeback.failing import STUCK_RETRY_SECONDS, STUCK_TRIES, Failing
from milena_cache.writeback.unfinished import MAX_NAMED
from milena_cache.writeback.uploads.throttle import PROBE_SECONDS
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

STUCK_AFTER = 600.0
POISON = [1, 2, 3, 10, 30]


def poisoned(operation: str, ref: Ref) -> Fault | None:
    return Fault.SERVER if operation == "put" and ref.key.startswith("bad") else None


async def started(**options: object) -> NodeUnderTest:
    t = NodeUnderTest(**{"mode": "back", "concurrency": 8, "delay": 0.1, **options})  # type: ignore[arg-type]
    await t.start()
    t.store.reject = poisoned
    return t


def good_in_s3(t: NodeUnderTest) -> int:
    return sum(t.s3_has(f"good{number}") is not None for number in range(50))


@pytest.mark.parametrize("idle", [0.0, 6.0, 100.0])
@pytest.mark.parametrize("keys", POISON)
async def test_keys_that_always_get_500_do_not_delay_others(keys: int, idle: float) -> None:
    t = await started()
    for number in range(keys):
        await t.put(f"bad{number}", b"v")
    await t.clock.advance(idle)
    for number in range(50):
        await t.put(f"good{number}", b"v")
    await t.clock.advance(1.5)
    assert good_in_s3(t) == 50
    assert len(t.dirty) == keys, "what was acknowledged stays"
    await t.stop()


@pytest.mark.parametrize("keys", POISON)
async def test_nor_in_a_drain(keys: int) -> None:
    t = await started()
    for number in range(keys):
        await t.put(f"bad{number}", b"v")
    await t.clock.advance(100)
    for number in range(50):
        await t.put(f"good{number}", b"v")
    t.writes.draining = True
    flushed = await t.flush(timeout=0.2)
    assert flushed.remaining == keys
    assert good_in_s3(t) == 50
    await t.stop()


class Hanging:
    """Puts of `bad…` wait for a reply that comes after `seconds`, and is none."""

    def __init__(self, t: NodeUnderTest, seconds: float) -> None:
        self._t, self._put, self._seconds = t, t.store.put, seconds
        t.store.reject = None
        t.store.put = self.put  # type: ignore[method-assign]

    async def put(self, ref: Ref, value: bytes, **how: object) -> str:
        if ref.key.startswith("bad"):
            await self._t.clock.sleep(self._seconds)
            self._t.store.fail(Fault.TIMEOUT)
        return await self._put(ref, value, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("keys", [1, 2, 10, 30])
async def test_keys_that_get_no_response_do_not_delay_others(keys: int, concurrency: int) -> None:
    t = await started(concurrency=concurrency)
    Hanging(t, 10.0)
    for number in range(keys):
        await t.put(f"bad{number}", b"v")
    await t.clock.advance(10 * keys + 50)  # each has been tried once, and all are retries now
    for number in range(50):
        await t.put(f"good{number}", b"v")
    await t.clock.advance(1.5)
    assert good_in_s3(t) == 50
    await t.stop()


async def test_large_values_that_fail_do_not_take_the_memory_of_others() -> None:
    t = await started(dirty_memory_bytes=1000, dirty_max_bytes=10**6)
    Hanging(t, 10.0)
    for number in range(4):
        await t.put(f"bad{number}", b"v" * 990)
    await t.clock.advance(100)
    for number in range(50):
        await t.put(f"good{number}", b"v" * 100)
    await t.clock.advance(1.5)
    assert good_in_s3(t) == 50
    await t.stop()


async def test_when_s3_takes_nothing_it_is_tried_rarely() -> None:
    t = await started(concurrency=64)
    t.store.reject = None
    t.store.down = Fault.SERVER
    for number in range(500):
        await t.put(f"k{number}", b"v")
    await t.clock.advance(10)
    assert t.parts.throttle.down
    t.store.calls.clear()
    await t.clock.advance(60)
    assert len(t.store.calls) <= 60 / PROBE_SECONDS + 60
    t.store.down = None
    await t.clock.advance(30)
    assert len(t.dirty) == 0
    await t.stop()


async def test_a_key_that_fails_while_others_succeed_is_stuck_and_stays_queued() -> None:
    t = await started(stuck_after=STUCK_AFTER)
    await t.put("bad", b"v")
    await t.clock.advance(STUCK_AFTER + 60)
    failing = t.parts.failing
    assert failing.number_stuck(t.clock.now()) == 0, "nothing else has reached S3 meanwhile: it may be S3"
    await t.put("good", b"v")
    await t.clock.advance(2)
    assert failing.number_stuck(t.clock.now()) == 1
    (write,) = t.parts.failed_writes.listed(t.clock.now())
    assert write.entry.key == b"bad"
    assert "stuck" in write.reason
    assert "put of s3://bucket/bad" in write.reason
    assert "milena writeback failed" in failing.degraded(t.clock.now())[0]
    assert (await t.outcome("bad")) == ("hit", b"v")
    await t.clock.advance(10)
    t.store.calls.clear()
    await t.clock.advance(10 * STUCK_RETRY_SECONDS)
    assert 9 <= t.store.count("put") <= 11, "tried again, though rarely"
    t.store.reject = None
    await t.clock.advance(STUCK_RETRY_SECONDS + 1)
    assert t.s3_has("bad") == b"v"
    assert t.parts.failed_writes.listed(t.clock.now()) == []
    assert failing.degraded(t.clock.now()) == []
    await t.stop()


async def stuck(t: NodeUnderTest, *keys: str) -> None:
    """Return when writes of these keys are stuck."""
    for key in keys:
        await t.put(key, b"v")
    await t.clock.advance(STUCK_AFTER + 60)
    await t.put("good", b"v")
    await t.clock.advance(70)
    assert t.parts.failing.number_stuck(t.clock.now()) == len(keys)
    t.store.calls.clear()


@pytest.mark.parametrize("keys", [None, [b"bad"]])
async def test_a_retry_tries_a_stuck_key_at_once_and_leaves_it_stuck_if_that_fails(
    keys: list[bytes] | None,
) -> None:
    t = await started(stuck_after=STUCK_AFTER)
    await stuck(t, "bad")
    for _ in range(3):
        assert t.parts.stuck.retry(keys) == 1
        await t.clock.advance(0.5)
    assert t.store.count("put") == 3
    await t.clock.advance(10 * STUCK_RETRY_SECONDS)
    assert 12 <= t.store.count("put") <= 14, "a retry by hand adds no retries for later"
    assert t.parts.failing.number_stuck(t.clock.now()) == 1
    t.store.reject = None
    assert t.parts.stuck.retry(keys) == 1
    await t.clock.advance(0.5)
    assert t.s3_has("bad") == b"v"
    assert t.parts.stuck.retry(keys) == 0
    await t.stop()


async def test_a_drop_gives_a_stuck_write_up_and_what_s3_has_is_read() -> None:
    t = await started(stuck_after=STUCK_AFTER)
    t.in_s3("bad1", b"older")
    await stuck(t, "bad1", "bad2", "bad3")
    assert await t.parts.stuck.drop([b"bad1", b"good", b"none"]) == 1
    assert await t.outcome("bad1") == ("miss", b"older")
    assert await t.outcome("bad2") == ("hit", b"v")
    assert await t.parts.stuck.drop(None) == 2
    assert len(t.dirty) == 0
    assert t.parts.failed_writes.listed(t.clock.now()) == []
    await t.clock.advance(STUCK_RETRY_SECONDS + 1)
    assert t.store.count("put") == 0
    t = await t.crash()
    assert len(t.dirty) == 0, "nor does the journal have it"
    await t.stop()


async def test_a_drop_waits_for_the_attempt_in_flight_and_drops_nothing_that_s3_took() -> None:
    t = await started(stuck_after=STUCK_AFTER)
    await stuck(t, "bad")
    t.store.reject = None
    t.store.gate.clear()
    t.parts.stuck.retry(None)
    await run_ready_tasks()
    dropping = asyncio.create_task(t.parts.stuck.drop(None))
    await run_ready_tasks()
    assert not dropping.done()
    t.store.gate.set()
    assert await dropping == 0
    assert t.s3_has("bad") == b"v"
    assert await t.outcome("bad") == ("hit", b"v")
    await t.stop()


async def test_a_drop_keeps_a_write_that_has_taken_the_place_of_the_stuck_one() -> None:
    t = await started(stuck_after=STUCK_AFTER)
    await stuck(t, "bad")
    async with t.parts.s3_locks.hold(b"bad", None):
        dropping = asyncio.create_task(t.parts.stuck.drop(None))
        await run_ready_tasks()
        await t.put("bad", b"newer")
    assert await dropping == 0
    assert await t.outcome("bad") == ("hit", b"newer")
    await t.stop()


async def test_a_later_write_of_a_stuck_key_is_still_stuck_and_a_drop_ends_it() -> None:
    t = await started(stuck_after=STUCK_AFTER)
    await t.put("bad", b"v")
    await t.put("good", b"v")
    await t.clock.advance(1)
    for _ in range(20):
        await t.put("bad", b"w")
        await t.put("good", b"w")
        await t.clock.advance(STUCK_AFTER / 10)
    assert t.parts.failing.number_stuck(t.clock.now()) == 1
    assert (await t.outcome("bad")) == ("hit", b"w")
    assert await t.parts.stuck.drop([b"bad"]) == 1
    assert (await t.outcome("bad"))[1] is None
    await t.stop()


async def test_what_a_stop_leaves_behind_is_named_with_its_reason_and_not_without_end() -> None:
    t = await started()
    t.store.reject = lambda operation, ref: Fault.DENIED if ref.key == "denied" else poisoned(operation, ref)
    await t.put("denied", b"v")
    await t.put("bad", b"v")
    await t.clock.advance(3)
    await t.put("new", b"v")
    lines = t.parts.failed_writes.unfinished()
    assert [line.partition(": ")[0] for line in lines] == [
        "s3://bucket/denied",
        "s3://bucket/bad",
        "s3://bucket/new",
    ]
    assert "attempts failed, the last one with: S3 put of s3://bucket/bad" in lines[1]
    assert lines[2].endswith("not tried yet")
    for number in range(2 * MAX_NAMED):
        await t.put(f"more{number}", b"v")
    lines = t.parts.failed_writes.unfinished()
    assert len(lines) == MAX_NAMED + 1
    assert lines[-1] == f"and {3 + MAX_NAMED} more"
    await run_ready_tasks()
    await t.stop()


async def test_an_upload_that_a_stop_breaks_off_keeps_the_reason_of_the_attempt_before() -> None:
    t = await started()
    await t.put("bad", b"v")
    await t.clock.advance(3)
    t.store.gate.clear()
    await t.put("new", b"v")
    await t.clock.advance(30)
    assert len(t.dirty) == 2
    await t.writeback.stop()
    bad, new = t.parts.failed_writes.unfinished()
    assert "the last one with: S3 put of s3://bucket/bad" in bad
    assert new.endswith("1 attempts failed, the last one with: broken off when the node stopped")
    t.store.gate.set()
    await t.stop()


def test_a_key_is_stuck_after_tries_and_time_and_others_success() -> None:
    failing = Failing(STUCK_AFTER)
    for tries in range(1, STUCK_TRIES):
        failure = failing.failed(b"k", "why", 0.0, 0.0)
        failing.succeeded(b"other", 1.0)
        assert failure.tries == tries
        assert not failing.is_stuck(failure, STUCK_AFTER)
    failure = failing.failed(b"k", "why", 0.0, 0.0)
    assert not failing.is_stuck(failure, STUCK_AFTER - 1)
    assert failing.is_stuck(failure, STUCK_AFTER)
    assert [key for key, _ in failing.stuck(STUCK_AFTER)] == [b"k"]
    failing.succeeded(b"k", 2.0)
    assert list(failing.stuck(10 * STUCK_AFTER)) == []
