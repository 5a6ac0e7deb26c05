"""What a node sends to a router: the fields of its renewals, and its ring when the router requests that."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from milena_cache.membership.coordinator import NodeDescription, Renewal, RingStatus
from milena_cache.membership.router_coordinator import UNLIMITED_LEASE_SECONDS, RouterCoordinator
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import NodeStatus
from milena_common.cluster.runs_message import COPIES, MOVES
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from tests.support.fake_clock import FakeClock

LEASE = 6.0
NODE = NodeDescription("n1:50051", "id", 2.0, {"ops": "n1:9091"}, "bucket", "journal-1")
STATUS = NodeStatus(3, 1, ("journal: its disk is full",))
MEMBER = MapNode("n1:50051", "n1:6379", "id")
RING = SlotMap(9, "bucket", (MEMBER,), (MapRange(0, 16383, MEMBER, 4),), "c1")


class FakeRouter:
    """A transport; each reply takes `seconds`. `sent` are the requests, by method."""

    def __init__(self, clock: FakeClock) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.lease_seconds = LEASE
        self.wants_ring = False
        self.seconds = 0.0
        self._clock = clock

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        self.sent.append((method, request))
        return pb.LeaveResponse(successful=True)

    async def exchange(self, method: str, request: Message, timeout: float) -> Message:
        sent = pb.JoinRequest()
        sent.CopyFrom(request)
        self.sent.append((method, sent))
        self._clock.tick(self.seconds)
        return pb.JoinResponse(
            successful=True,
            lease_seconds=self.lease_seconds,
            epoch=7,
            ring_size=3,
            cluster_id="c1",
            send_ring=self.wants_ring and not sent.HasField("last_ring"),
        )

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        self.sent.append((method, request))
        yield RING.to_update()

    async def close(self) -> None:
        pass


def connected() -> tuple[FakeClock, FakeRouter, RouterCoordinator]:
    clock = FakeClock()
    router = FakeRouter(clock)
    return clock, router, RouterCoordinator("r:50050", router, "id", clock, lambda: 1.0)


def renewal(ring: SlotMap) -> Renewal:
    return Renewal(NODE, "c1", 8, ring.epoch, ring, LEASE, STATUS)


async def test_a_renewal_has_all_that_the_node_is() -> None:
    _, router, coordinator = connected()
    lease = await coordinator.renew(renewal(RING))
    ((method, sent),) = router.sent
    assert method == "KeepLease"
    assert sent == pb.JoinRequest(
        address="n1:50051",
        features=MOVES,
        node_id="id",
        weight=2.0,
        addresses={"ops": "n1:9091"},
        default_bucket="bucket",
        epoch=8,
        cluster_id="c1",
        ring_epoch=9,
        dirty_entries=3,
        dead_letters=1,
        degraded=["journal: its disk is full"],
        journal_id="journal-1",
    ), "and no ring: renewals stay small"
    assert (lease.seconds, lease.epoch, lease.ring_size, lease.cluster_id) == (LEASE, 7, 3, "c1")
    assert coordinator.address == "r:50050"


async def test_a_renewal_of_a_node_that_keeps_copies_has_its_zone_and_what_it_found_of_its_holders() -> None:
    _, router, coordinator = connected()
    found = RingStatus(
        9,
        completed=((0, 9, "b:1"), (20, 29, "c:1"), (50, 59, "b:1")),
        failed_holders=((0, 9, "d:1"),),
        copies_epoch=9,
    )
    node = replace(NODE, copies=2, zone="north")
    await coordinator.renew(replace(renewal(RING), node=node, ring_status=found))
    ((_, sent),) = router.sent
    assert (sent.features, sent.copies, sent.zone, sent.copies_epoch) == (MOVES | COPIES, 2, "north", 9)
    assert list(sent.completed) == [
        pb.HolderStatus(holder="b:1", first=[0, 50], last=[9, 59]),
        pb.HolderStatus(holder="c:1", first=[20], last=[29]),
    ]
    assert list(sent.failed_holders) == [pb.HolderStatus(holder="d:1", first=[0], last=[9])]


async def test_a_router_that_requests_the_ring_gets_it_once_and_at_once() -> None:
    clock, router, coordinator = connected()
    router.wants_ring, router.seconds = True, 1.0
    started = clock.now()
    lease = await coordinator.renew(renewal(RING))
    (_, first), (_, second) = router.sent
    assert not first.HasField("last_ring")
    assert SlotMap.from_update(second.last_ring.ring).ranges == RING.ranges
    assert (second.cluster_id, second.last_ring.lease_seconds) == ("c1", LEASE)
    assert lease.sent_at == started + 1.0, "the second request is the one that the lease was granted for"


async def test_a_router_that_requests_a_ring_that_is_not_known_gets_none() -> None:
    _, router, coordinator = connected()
    router.wants_ring = True
    await coordinator.renew(renewal(SlotMap.empty()))
    assert len(router.sent) == 1


async def test_a_router_without_leases_is_renewed_as_often_as_others() -> None:
    _, router, coordinator = connected()
    router.lease_seconds = 0.0
    assert (await coordinator.renew(renewal(RING))).seconds == UNLIMITED_LEASE_SECONDS


async def test_leaving_reports_the_writes_that_the_node_takes_along() -> None:
    _, router, coordinator = connected()
    await coordinator.leave_ring(NODE, STATUS, 1.0)
    assert router.sent == [
        ("Leave", pb.LeaveRequest(address="n1:50051", node_id="id", dirty_entries=3, dead_letters=1))
    ]
