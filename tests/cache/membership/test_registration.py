"""Joining, renewing, being turned away, leaving; and the watch on the bucket."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.membership.coordinator import NodeDescription, Renewal
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.registration import LOG_AGAIN_SECONDS, Registration
from milena_cache.objects.object_store import Fault
from milena_cache.origin.bucket_check import BucketCheck
from milena_common.api.errors import FailedPrecondition, Unavailable
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import SlotMap
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.fake_coordinator import FakeCoordinator, FakeRing
from tests.support.s3.memory_store import MemoryStore

LEASE = 6.0
NODE = NodeDescription("n1:50051", "id", 2.0, {"ops": "n1:9091"}, "bucket", "journal-1")


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.coordinator = FakeCoordinator(FakeRing(self.clock, LEASE))
        self.ring = SlotMap.empty()
        self.followed: list[SlotMap] = []
        self.kept: list[str] = []
        self.report = NodeStatus(3, 1, ("journal: its disk is full",))
        self.cluster = NodeIdentity("bucket", "id", keep=self.kept.append)
        self.registration = Registration(
            self.coordinator,
            NODE,
            self.clock,
            lambda: 1.0,
            lambda: 7,
            lambda: self.ring,
            self.followed.append,
            self.cluster,
            lambda: self.report,
        )
        self.task = asyncio.create_task(self.registration.run())

    @property
    def renewals(self) -> list[tuple[float, Renewal]]:
        return self.coordinator.renewals


async def test_a_node_joins_with_all_it_is_and_renews_every_third_of_the_lease() -> None:
    harness = Harness()
    await run_ready_tasks()
    assert harness.registration.joined
    first = harness.renewals[0][1]
    assert (first.node, first.status, first.seen_epoch) == (NODE, harness.report, 7)
    await harness.clock.advance(LEASE)
    at = [when - harness.renewals[0][0] for when, _ in harness.renewals]
    assert at == [0, LEASE / 3, 2 * LEASE / 3, LEASE]
    assert harness.renewals[-1][1].seen_epoch == 8, (
        "it reports the newest epoch that it has seen, which is the ring's"
    )
    harness.task.cancel()


async def test_an_absent_router_is_tried_for_ever_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    harness = Harness()
    harness.coordinator.problem = Unavailable("connection refused")
    await harness.clock.advance(LOG_AGAIN_SECONDS - 5)
    lines = [record.getMessage() for record in caplog.records if "Failed to join router" in record.getMessage()]
    assert len(lines) == 1
    assert "r:50050" in lines[0]
    assert "connection refused" in lines[0]
    assert len(harness.renewals) > 20
    assert not harness.registration.joined
    harness.coordinator.problem = None
    await harness.clock.advance(3)
    assert harness.registration.joined
    assert "responds again" in caplog.text
    harness.task.cancel()


async def test_a_lost_coordinator_gets_a_renewal_at_once_with_the_newest_ring() -> None:
    harness = Harness()
    following = asyncio.create_task(harness.registration.follow_ring())
    await run_ready_tasks()
    assert [ring.epoch for ring in harness.followed] == [8]
    harness.ring = harness.followed[-1]
    harness.cluster.ring_changed(harness.ring.cluster_id)
    harness.coordinator.on_disconnected()
    await run_ready_tasks()
    at, again = harness.renewals[-1]
    assert len(harness.renewals) == 2
    assert at == harness.renewals[0][0], "it does not wait until the renewal is due"
    assert (again.ring, again.ring_epoch, again.cluster_id) == (harness.ring, 8, "c1")
    assert again.longest_lease == LEASE
    following.cancel()
    harness.task.cancel()


async def test_a_node_that_knows_no_ring_reports_that() -> None:
    harness = Harness()
    await run_ready_tasks()
    first = harness.renewals[0][1]
    assert (first.ring_epoch, first.ring.epoch, first.cluster_id, first.longest_lease) == (0, 0, "", 0.0)
    assert harness.kept == ["c1"], "the journal keeps the cluster's id"
    harness.task.cancel()


async def test_a_lease_is_counted_from_its_request_however_late_the_reply_comes() -> None:
    harness = Harness()
    harness.coordinator.reply_seconds = LEASE - 1
    await run_ready_tasks()
    await harness.clock.advance(LEASE - 1)
    assert harness.registration.joined
    harness.coordinator.problem = Unavailable("gone")
    await harness.clock.advance(1)
    assert not harness.registration.joined
    harness.task.cancel()


async def test_a_lease_that_is_not_renewed_ends_on_the_nodes_own_clock() -> None:
    harness = Harness()
    await run_ready_tasks()
    harness.coordinator.problem = FailedPrecondition("default_bucket: another one")
    await harness.clock.advance(LEASE - 0.1)
    assert harness.registration.joined
    await harness.clock.advance(0.2)
    assert not harness.registration.joined
    harness.task.cancel()


async def test_leaving_notifies_the_router_and_an_unresponsive_router_is_no_obstacle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    await run_ready_tasks()
    harness.task.cancel()
    await harness.registration.leave_ring(1.0)
    assert harness.coordinator.left == [NODE]
    assert not harness.registration.joined
    await harness.registration.leave_ring(1.0)
    assert harness.coordinator.left == [NODE], "one leave is enough"
    again = Harness()
    await run_ready_tasks()
    again.task.cancel()
    again.coordinator.problem = Unavailable("gone")
    await again.registration.leave_ring(1.0)
    assert "could not leave router" in caplog.text


async def test_a_bucket_that_cannot_be_used_is_logged_once_for_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock, store = FakeClock(), MemoryStore()
    watch = BucketCheck(store, "bucket", clock, lambda: 1.0)
    task = asyncio.create_task(watch.run())
    assert watch.problem, "not ready before S3 has answered"
    await clock.advance(30)
    assert "create the bucket" in watch.problem
    store.down = Fault.DENIED
    await clock.advance(30)
    assert "s3:ListBucket" in watch.problem
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    store.down = None
    store.buckets.add("bucket")
    await clock.advance(30)
    assert watch.problem == ""
    await task
