"""Joining, renewing, being turned away, leaving; and the watch on the bucket."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.membership.coordinator import NodeDescription, Renewal, RingStatus
from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.node_fence import NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.registration import LOG_AGAIN_SECONDS, Registration
from milena_cache.objects.object_store import Fault
from milena_cache.origin.bucket_check import BucketCheck
from milena_common.api.errors import FailedPrecondition, Unavailable
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
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


async def test_a_node_that_left_with_writes_leaves_once_more_when_their_owners_have_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    await run_ready_tasks()
    harness.task.cancel()
    await harness.registration.leave_ring(1.0)
    await harness.registration.handed_in(1.0)
    assert harness.coordinator.left == [NODE], "it has writes still"
    harness.report = NodeStatus(0)
    await harness.registration.handed_in(1.0)
    assert harness.coordinator.left == [NODE, NODE]
    harness.coordinator.problem = Unavailable("gone")
    await harness.registration.handed_in(1.0)
    assert "may record this node as missing" in caplog.text


async def test_a_node_that_left_without_writes_leaves_only_once() -> None:
    harness = Harness()
    await run_ready_tasks()
    harness.task.cancel()
    harness.report = NodeStatus(0)
    await harness.registration.leave_ring(1.0)
    await harness.registration.handed_in(1.0)
    assert harness.coordinator.left == [NODE]


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


# ---- fencing


class FencedHarness:
    """A member of a ring of two that fences, with `status` as its part in the changing ring."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.coordinator = FakeCoordinator(FakeRing(self.clock, LEASE))
        self.ownership = Ownership(NODE.address, NODE.node_id)
        me, other = MapNode(NODE.address, "n1:6379", NODE.node_id), MapNode("n2:1", "n2:6379", "id2")
        ranges = (MapRange(0, SLOTS - 1, me, 1),)
        self.ownership.update(SlotMap(7, "bucket", (me, other), ranges, released_epoch=7))
        self.fence = NodeFence(self.ownership, self.clock)
        self.fence.adopt_ring()
        self.status = RingStatus(7)
        self.registration = Registration(
            self.coordinator,
            NODE,
            self.clock,
            lambda: 1.0,
            lambda: 7,
            lambda: self.ownership.slot_map,
            lambda slot_map: None,
            NodeIdentity("bucket", "id"),
            lambda: NodeStatus(0),
            lambda: self.status,
            self.fence,
        )

    async def joined(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.registration.run())
        await run_ready_tasks()
        self.coordinator.ring.current = self.ownership.slot_map
        await self.clock.advance(LEASE / 3)
        return task


async def test_a_lease_opens_the_fence_from_the_time_of_its_request_on() -> None:
    harness = FencedHarness()
    assert harness.ownership.slots == 0
    harness.coordinator.ring.current = harness.ownership.slot_map
    task = await harness.joined()
    assert harness.ownership.single
    harness.coordinator.problem = Unavailable("cut off")
    await harness.clock.advance(LEASE - 0.7)
    assert not harness.fence.closed
    await harness.clock.advance(0.2)
    assert harness.fence.closed
    task.cancel()


async def test_giving_the_lease_back_closes_the_fence_before_the_router_learns_of_it() -> None:
    harness = FencedHarness()
    task = await harness.joined()
    task.cancel()
    open_then: list[bool] = []
    leave = harness.coordinator.leave_ring

    async def leave_ring(node: NodeDescription, status: NodeStatus, timeout: float) -> None:
        open_then.append(not harness.fence.closed)
        await leave(node, status, timeout)

    harness.coordinator.leave_ring = leave_ring  # type: ignore[method-assign]
    await harness.registration.leave_ring(1.0)
    assert open_then == [False]


async def test_a_new_part_in_the_ring_is_reported_at_once_also_if_it_came_during_a_renewal() -> None:
    harness = FencedHarness()
    task = await harness.joined()
    before = len(harness.coordinator.renewals)
    harness.registration.renew_if_changed()
    await run_ready_tasks()
    assert len(harness.coordinator.renewals) == before, "nothing new to report"
    harness.status = RingStatus(9)
    harness.registration.renew_if_changed()
    await run_ready_tasks()
    assert harness.coordinator.renewals[-1][1].ring_status.acknowledged_epoch == 9
    harness.coordinator.reply_seconds = 0.5
    await harness.clock.advance(LEASE / 3)
    harness.status = RingStatus(9, taken=((1, 2, 9),))
    harness.registration.renew_if_changed()
    await harness.clock.advance(0.5)
    assert harness.coordinator.renewals[-1][1].ring_status.taken == ((1, 2, 9),)
    task.cancel()
