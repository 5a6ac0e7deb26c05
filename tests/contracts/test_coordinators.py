"""What a `Coordinator` must do: a router's methods without their network, and the fake that tests of a node use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import pytest
from google.protobuf.message import Message

from milena_cache.membership.coordinator import Coordinator, Lease, NodeDescription, Renewal
from milena_cache.membership.router_coordinator import RouterCoordinator
from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from tests.router.router_under_test import Router
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.fake_coordinator import FakeCoordinator, FakeRing

CLEAN = NodeStatus(0)


class Holder(Protocol):
    """What holds the ring, on a clock that a test advances. `reply_seconds` delays each reply to a renewal."""

    clock: FakeClock
    reply_seconds: float

    def coordinator(self, node: NodeDescription) -> Coordinator:
        """Return a connection for `node`."""

    async def advance(self, seconds: float) -> None:
        """Let time pass, and leases expire."""


class Routers:
    """One router; its methods are called without a network, through the messages of its API."""

    def __init__(self) -> None:
        self.router = Router(0.0)
        self.clock = self.router.clock
        self.reply_seconds = 0.0

    def coordinator(self, node: NodeDescription) -> Coordinator:
        return RouterCoordinator("r:50050", LocalTransport(self), node.node_id, self.clock, lambda: 1.0)

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class LocalTransport:
    """Calls a router's methods with the bytes of requests, and parses those of responses."""

    def __init__(self, routers: Routers) -> None:
        self._routers = routers
        self._closed = False

    async def call(self, method: str, request: Message, timeout: float) -> Any:
        if self._closed:
            raise FailedPrecondition("it is closed")
        _, kind, called = self._routers.router.service.methods()[method]
        sent: Any = kind.FromString(request.SerializeToString())
        response: Any = await called(sent, timeout)
        return {"Join": pb.JoinResponse, "Leave": pb.LeaveResponse}[method].FromString(response)

    async def exchange(self, method: str, request: Message, timeout: float) -> Any:
        assert method == "KeepLease"
        response = await self.call("Join", request, timeout)
        if self._routers.reply_seconds:
            await self._routers.clock.sleep(self._routers.reply_seconds)
        return response

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        assert isinstance(request, pb.WatchRingRequest)
        async for update in self._routers.router.watchers.watch(request, None):
            yield pb.RingUpdate.FromString(update)

    async def close(self) -> None:
        self._closed = True


class Fakes:
    """The fake's ring."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ring = FakeRing(self.clock, 6.0)
        self.connections: list[FakeCoordinator] = []

    @property
    def reply_seconds(self) -> float:
        return self.connections[0].reply_seconds

    @reply_seconds.setter
    def reply_seconds(self, seconds: float) -> None:
        for each in self.connections:
            each.reply_seconds = seconds

    def coordinator(self, node: NodeDescription) -> Coordinator:
        self.connections.append(FakeCoordinator(self.ring))
        return self.connections[-1]

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        self.ring.expire()
        await run_ready_tasks()


@pytest.fixture(params=["router", "fake"])
async def holder(request: pytest.FixtureRequest) -> AsyncIterator[Holder]:
    if request.param == "fake":
        yield Fakes()
        return
    routers = Routers()
    expiry = asyncio.create_task(routers.router.leases.run())
    yield routers
    expiry.cancel()


def described(name: str, process: str = "1") -> NodeDescription:
    return NodeDescription(f"{name}:50051", f"{name}-{process}", 1.0, {"resp": f"{name}:6379"}, "photos", name)


def renewal(node: NodeDescription, seen_epoch: int = 0, cluster_id: str = "") -> Renewal:
    return Renewal(node, cluster_id, seen_epoch, 0, SlotMap.empty(), 0.0, CLEAN)


@asynccontextmanager
async def following(coordinator: Coordinator) -> AsyncIterator[list[SlotMap]]:
    """Yield the list of rings as they come."""
    rings: list[SlotMap] = []
    task = asyncio.create_task(coordinator.follow_ring(rings.append, lambda: None))
    await run_ready_tasks()
    yield rings
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def members(ring: SlotMap) -> list[tuple[str, str, str]]:
    return sorted((node.address, node.resp_address, node.node_id) for node in ring.nodes)


def members_of(*nodes: NodeDescription) -> list[tuple[str, str, str]]:
    return [(node.address, node.addresses["resp"], node.node_id) for node in nodes]


A, B = described("a"), described("b")


async def test_a_node_that_renews_is_in_the_ring_that_it_follows(holder: Holder) -> None:
    coordinator = holder.coordinator(A)
    lease = await coordinator.renew(renewal(A))
    async with following(coordinator) as rings:
        assert members(rings[-1]) == members_of(A)
        assert (rings[-1].epoch, len(rings[-1].nodes)) == (lease.epoch, lease.ring_size)
        assert rings[-1].default_bucket == "photos"
        assert {rings[-1].target(slot).address for slot in range(SLOTS)} == {A.address}


async def test_every_member_sees_each_change_in_order(holder: Holder) -> None:
    first, second = holder.coordinator(A), holder.coordinator(B)
    await first.renew(renewal(A))
    async with following(first) as rings:
        lease = await second.renew(renewal(B))
        await run_ready_tasks()
        assert members(rings[-1]) == members_of(A, B)
        assert lease.ring_size == 2
        await second.leave_ring(B, CLEAN, 1.0)
        await run_ready_tasks()
        assert members(rings[-1]) == members_of(A)
        epochs = [ring.epoch for ring in rings]
        assert epochs == sorted(set(epochs))


async def test_a_lease_counts_from_when_its_request_was_sent(holder: Holder) -> None:
    coordinator = holder.coordinator(A)
    holder.reply_seconds = 1.5
    sent_at = holder.clock.now()
    renewing: asyncio.Task[Lease] = asyncio.create_task(coordinator.renew(renewal(A)))
    await run_ready_tasks()
    await holder.clock.advance(1.5)
    lease = await renewing
    assert lease.sent_at == sent_at
    assert lease.expires_at == sent_at + lease.seconds
    assert lease.seconds > 1.5


async def test_a_lease_that_is_not_renewed_takes_the_node_out_and_not_before_it_expires(holder: Holder) -> None:
    coordinator, other = holder.coordinator(A), holder.coordinator(B)
    lease = await coordinator.renew(renewal(A))
    async with following(other) as rings:
        await holder.advance(lease.seconds - 0.1)
        await other.renew(renewal(B))
        await run_ready_tasks()
        assert members(rings[-1]) == members_of(A, B)
        await holder.advance(1.0)
        assert members(rings[-1]) == members_of(B)


async def test_renewals_change_nothing_but_the_lease(holder: Holder) -> None:
    coordinator = holder.coordinator(A)
    lease = await coordinator.renew(renewal(A))
    async with following(coordinator) as rings:
        for _ in range(5):
            await holder.advance(lease.seconds / 2)
            again = await coordinator.renew(renewal(A, lease.epoch, lease.cluster_id))
            assert (again.epoch, again.cluster_id, again.ring_size) == (lease.epoch, lease.cluster_id, 1)
        assert len(rings) == 1


async def test_a_new_ring_has_a_greater_epoch_than_any_that_a_node_has_seen(holder: Holder) -> None:
    first = await holder.coordinator(A).renew(renewal(A))
    seen = first.epoch + 1000
    assert (await holder.coordinator(B).renew(renewal(B, seen))).epoch > seen


async def test_leaving_gives_back_only_the_own_lease(holder: Holder) -> None:
    """A process that stops late must not remove the one that has taken its address meanwhile."""
    restarted = described("a", process="2")
    old, new = holder.coordinator(A), holder.coordinator(restarted)
    await old.renew(renewal(A))
    await new.renew(renewal(restarted))
    async with following(new) as rings:
        await old.leave_ring(A, CLEAN, 1.0)
        await run_ready_tasks()
        assert members(rings[-1]) == members_of(restarted)
        await new.leave_ring(restarted, CLEAN, 1.0)
        await new.leave_ring(restarted, CLEAN, 1.0)


async def test_a_node_of_another_bucket_or_cluster_gets_no_lease(holder: Holder) -> None:
    coordinator, other = holder.coordinator(A), holder.coordinator(B)
    lease = await coordinator.renew(renewal(A))
    with pytest.raises(FailedPrecondition, match="bucket"):
        await other.renew(renewal(replace(B, default_bucket="videos")))
    if lease.cluster_id:
        with pytest.raises(FailedPrecondition, match="cluster"):
            await other.renew(renewal(B, cluster_id="another"))
    async with following(coordinator) as rings:
        assert members(rings[-1]) == members_of(A)


async def test_a_closed_connection_renews_nothing(holder: Holder) -> None:
    coordinator = holder.coordinator(A)
    await coordinator.renew(renewal(A))
    await coordinator.close()
    with pytest.raises(MilenaError):
        await coordinator.renew(renewal(A))
