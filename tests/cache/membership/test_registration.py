"""Joining, renewing, being turned away, leaving; and the watch on the bucket."""

from __future__ import annotations

import asyncio
import logging

import pytest
from google.protobuf.message import Message

from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.registration import LOG_AGAIN_SECONDS, Identity, Registration
from milena_cache.objects.object_store import Fault
from milena_cache.origin.bucket_check import BucketCheck
from milena_common.api.errors import FailedPrecondition, MilenaError, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from tests.support.fake_clock import FakeClock, settle
from tests.support.s3.memory_store import MemoryStore

LEASE = 6.0


class FakeRouter:
    """A router, behind an `AsyncTransport`, that answers as it is told."""

    def __init__(self, clock: FakeClock) -> None:
        self.joins: list[tuple[float, pb.JoinRequest]] = []
        self.left: list[str] = []
        self.problem: MilenaError | None = None
        self.epoch = 7
        self.cluster_id = "c1"
        self.asks = False
        self._clock = clock

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        if isinstance(request, pb.JoinRequest):
            copied = pb.JoinRequest()
            copied.CopyFrom(request)
            self.joins.append((self._clock.now(), copied))
        if self.problem:
            raise self.problem
        if isinstance(request, pb.LeaveRequest):
            self.left.append(request.address)
            return pb.LeaveResponse(successful=True)
        return pb.JoinResponse(
            successful=True,
            lease_seconds=LEASE,
            epoch=self.epoch,
            ring_size=3,
            cluster_id=self.cluster_id,
            send_ring=self.asks and not (isinstance(request, pb.JoinRequest) and request.HasField("last_ring")),
        )

    async def exchange(self, method: str, request: Message, timeout: float) -> Message:
        return await self.call(method, request, timeout)

    async def close(self) -> None:
        pass


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.router = FakeRouter(self.clock)
        identity = Identity("n1:50051", "id", 2.0, {"ops": "n1:9091"}, "bucket", "journal-1")
        self.ring = SlotMap.empty()
        self.kept: list[str] = []
        self.report = NodeStatus(3, 1, ("journal: its disk is full",))
        self.cluster = NodeIdentity("bucket", "id", keep=self.kept.append)
        self.registration = Registration(
            "r:50050",
            self.router,
            identity,
            self.clock,
            lambda: 1.0,
            lambda: 7,
            lambda: self.ring,
            self.cluster,
            lambda: self.report,
        )
        self.task = asyncio.create_task(self.registration.run())


async def test_a_node_joins_with_all_it_is_and_renews_every_third_of_the_lease() -> None:
    rig = Rig()
    await settle()
    assert rig.registration.joined
    request = rig.router.joins[0][1]
    assert (request.address, request.node_id, request.weight) == ("n1:50051", "id", 2.0)
    assert (dict(request.addresses), request.default_bucket) == ({"ops": "n1:9091"}, "bucket")
    await rig.clock.advance(LEASE)
    at = [when - rig.router.joins[0][0] for when, _ in rig.router.joins]
    assert at == [0, LEASE / 3, 2 * LEASE / 3, LEASE]
    assert rig.router.joins[-1][1].epoch == 7, "it tells the newest epoch that it has seen"
    rig.task.cancel()


async def test_an_absent_router_is_tried_for_ever_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    rig = Rig()
    rig.router.problem = Unavailable("connection refused")
    await rig.clock.advance(LOG_AGAIN_SECONDS - 5)
    lines = [record.getMessage() for record in caplog.records if "Failed to join router" in record.getMessage()]
    assert len(lines) == 1
    assert "r:50050" in lines[0]
    assert "connection refused" in lines[0]
    assert len(rig.router.joins) > 20
    assert not rig.registration.joined
    rig.router.problem = None
    await rig.clock.advance(3)
    assert rig.registration.joined
    assert "answers again" in caplog.text
    rig.task.cancel()


async def test_a_router_that_asks_gets_the_ring_once_and_at_once() -> None:
    rig = Rig()
    await settle()
    node = MapNode("n1:50051", "n1:6379", "id")
    rig.ring = SlotMap(9, "bucket", (node,), (MapRange(0, 16383, node, 4),), "c1")
    rig.cluster.ring_changed("c1")
    rig.router.asks = True
    rig.registration.hurry()
    await settle()
    assert rig.clock.now() == rig.router.joins[0][0], "it does not wait for the renewal"
    first, second = (request for _, request in rig.router.joins[1:])
    assert (first.cluster_id, first.ring_epoch, first.HasField("last_ring")) == ("c1", 9, False)
    assert SlotMap.from_update(second.last_ring.ring).ranges == rig.ring.ranges
    assert second.last_ring.lease_seconds == LEASE
    rig.router.asks = False
    await rig.clock.advance(LEASE / 3)
    assert not rig.router.joins[-1][1].HasField("last_ring"), "renewals stay small"
    rig.task.cancel()


async def test_a_node_that_knows_no_ring_says_so() -> None:
    rig = Rig()
    rig.router.epoch = 0
    await settle()
    assert (rig.router.joins[0][1].ring_epoch, rig.router.joins[0][1].cluster_id) == (0, "")
    assert rig.kept == ["c1"], "the journal keeps the cluster's id"
    rig.task.cancel()


async def test_a_lease_that_is_not_renewed_ends_on_the_nodes_own_clock() -> None:
    rig = Rig()
    await settle()
    rig.router.problem = FailedPrecondition("default_bucket: another one")
    await rig.clock.advance(LEASE - 0.1)
    assert rig.registration.joined
    await rig.clock.advance(0.2)
    assert not rig.registration.joined
    rig.task.cancel()


async def test_leaving_tells_the_router_and_a_deaf_router_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    await settle()
    rig.task.cancel()
    await rig.registration.leave_ring(1.0)
    assert rig.router.left == ["n1:50051"]
    assert not rig.registration.joined
    await rig.registration.leave_ring(1.0)
    assert rig.router.left == ["n1:50051"], "one leave is enough"
    again = Rig()
    await settle()
    again.task.cancel()
    again.router.problem = Unavailable("gone")
    await again.registration.leave_ring(1.0)
    assert "could not leave router" in caplog.text


async def test_a_bucket_that_cannot_be_used_is_told_once_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
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
