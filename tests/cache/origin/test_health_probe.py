"""Whether S3 replies, on a busy and on an idle node."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from milena_cache.origin.health_probe import CHECK_AGAIN_SECONDS, CHECK_SECONDS, S3Watch
from milena_cache.origin.requests import Origin
from tests.support.fake_clock import FakeClock
from tests.support.s3.memory_store import MemoryStore

KEY = Ref("bucket", "k")


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore("bucket")
        self.origin = Origin(
            self.store,
            self.clock,
            lambda: 0.5,
            fresh=self.store,
            retries=0,
            concurrency=9,
            place_timeout=5.0,
            hedge_after=5.0,
        )
        self.watch = S3Watch(self.origin, "bucket", self.clock)
        self.task = asyncio.create_task(self.watch.run())

    @property
    def checks(self) -> int:
        return self.origin.counts.total("bucket")


async def test_an_idle_node_finds_out_that_s3_is_down_and_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    harness = Harness()
    await harness.clock.advance(4 * CHECK_SECONDS)
    assert (harness.watch.degraded(), harness.watch.not_ready()) == ([], [])
    harness.store.down = Fault.CONNECT
    await harness.clock.advance(CHECK_SECONDS + 1)
    (reason,) = harness.watch.degraded()
    assert reason.startswith("S3: no request has succeeded for 31 s: S3 bucket of s3://bucket/")
    await harness.clock.advance(10 * CHECK_AGAIN_SECONDS)
    assert len([line for line in caplog.messages if "does not respond" in line]) == 1, "one line for one outage"
    harness.store.down = None
    await harness.clock.advance(CHECK_AGAIN_SECONDS)
    assert harness.watch.degraded() == []
    assert "responds again" in caplog.text
    harness.task.cancel()


async def test_a_busy_node_sends_no_probe() -> None:
    harness = Harness()
    for _ in range(20):
        await harness.origin.head(KEY)
        await harness.clock.advance(CHECK_SECONDS / 3)
    assert harness.checks == 0
    harness.task.cancel()


async def test_a_request_that_succeeds_ends_it_at_once() -> None:
    harness = Harness()
    harness.store.down = Fault.TIMEOUT
    await harness.clock.advance(CHECK_SECONDS + 1)
    assert harness.watch.degraded()
    harness.store.down = None
    await harness.origin.head(KEY)
    assert harness.watch.degraded() == []
    harness.task.cancel()


async def test_one_object_that_always_fails_is_no_outage() -> None:
    harness = Harness()
    for _ in range(20):
        harness.store.down = Fault.SERVER
        with pytest.raises(OriginFailure):
            await harness.origin.head(KEY)
        harness.store.down = None
        await harness.clock.advance(CHECK_SECONDS / 3)
    assert harness.watch.degraded() == []
    harness.task.cancel()


async def test_a_response_that_rejects_one_object_is_a_response() -> None:
    harness = Harness()
    for _ in range(20):
        harness.store.down = Fault.DENIED
        with pytest.raises(OriginFailure):
            await harness.origin.head(KEY)
        harness.store.down = None
        await harness.clock.advance(CHECK_SECONDS / 3)
    assert harness.checks == 0
    harness.task.cancel()
