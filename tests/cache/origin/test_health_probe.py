"""Whether S3 answers, on a busy and on an idle node."""

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


class Rig:
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
    rig = Rig()
    await rig.clock.advance(4 * CHECK_SECONDS)
    assert (rig.watch.degraded(), rig.watch.not_ready()) == ([], [])
    rig.store.down = Fault.CONNECT
    await rig.clock.advance(CHECK_SECONDS + 1)
    (reason,) = rig.watch.degraded()
    assert reason.startswith("S3: no request has succeeded for 31 s: S3 bucket of s3://bucket/")
    await rig.clock.advance(10 * CHECK_AGAIN_SECONDS)
    assert len([line for line in caplog.messages if "does not respond" in line]) == 1, "one line for one outage"
    rig.store.down = None
    await rig.clock.advance(CHECK_AGAIN_SECONDS)
    assert rig.watch.degraded() == []
    assert "responds again" in caplog.text
    rig.task.cancel()


async def test_a_busy_node_asks_for_nothing_more() -> None:
    rig = Rig()
    for _ in range(20):
        await rig.origin.head(KEY)
        await rig.clock.advance(CHECK_SECONDS / 3)
    assert rig.checks == 0
    rig.task.cancel()


async def test_a_request_that_succeeds_ends_it_at_once() -> None:
    rig = Rig()
    rig.store.down = Fault.TIMEOUT
    await rig.clock.advance(CHECK_SECONDS + 1)
    assert rig.watch.degraded()
    rig.store.down = None
    await rig.origin.head(KEY)
    assert rig.watch.degraded() == []
    rig.task.cancel()


async def test_one_object_that_always_fails_is_no_outage() -> None:
    rig = Rig()
    for _ in range(20):
        rig.store.down = Fault.SERVER
        with pytest.raises(OriginFailure):
            await rig.origin.head(KEY)
        rig.store.down = None
        await rig.clock.advance(CHECK_SECONDS / 3)
    assert rig.watch.degraded() == []
    rig.task.cancel()


async def test_an_answer_that_refuses_one_object_is_an_answer() -> None:
    rig = Rig()
    for _ in range(20):
        rig.store.down = Fault.DENIED
        with pytest.raises(OriginFailure):
            await rig.origin.head(KEY)
        rig.store.down = None
        await rig.clock.advance(CHECK_SECONDS / 3)
    assert rig.checks == 0
    rig.task.cancel()
