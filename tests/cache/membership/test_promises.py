"""Promises: given durably, kept over a restart, asked of all others; and a newer ring is learnt by asking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.membership.coordinator import Lease
from milena_cache.membership.node_fence import RETRY_SECONDS, NodeFence
from milena_cache.membership.ownership import Ownership
from milena_cache.membership.promises import (
    NAME,
    PromiseRequests,
    PromisesGiven,
    RingOffers,
    from_text,
    to_text,
)
from milena_common.api.errors import NodeLost, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from tests.support.fake_clock import FakeClock, run_ready_tasks

LEASE = 6.0
A, B, C = (MapNode(f"{name}:1", f"{name}:6379", name) for name in "abc")


def ring(epoch: int, *nodes: MapNode, released: int | None = None) -> SlotMap:
    """A ring in which the first of `nodes` owns everything."""
    ranges = (MapRange(0, SLOTS - 1, nodes[0], 1),)
    return SlotMap(epoch, "bucket", nodes, ranges, "c1", released_epoch=epoch if released is None else released)


class Giver:
    """A node that gives promises; its journal keeps `stored`, if `journal_works`."""

    def __init__(self, slot_map: SlotMap, me: MapNode = B, recorded: str = "") -> None:
        self.clock = FakeClock()
        self.ownership = Ownership(me.address, me.node_id)
        self.ownership.update(slot_map)
        self.stored: dict[str, str] = {}
        self.stores = 0
        self.journal_works = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.given = PromisesGiven(self.ownership, self.clock, self.store, recorded)

    def adopt(self, slot_map: SlotMap) -> None:
        self.ownership.update(slot_map)

    async def store(self, name: str, text: str) -> bool:
        self.stores += 1
        await self.gate.wait()
        if self.journal_works:
            self.stored[name] = text
        return self.journal_works


async def test_a_promise_holds_back_the_acknowledgement_of_a_newer_ring_until_it_ends() -> None:
    giver = Giver(ring(7, A, B, C))
    assert giver.given.acknowledged_epoch == 7
    assert await giver.given.promise(7, LEASE) == 1
    giver.ownership.update(ring(9, B, C))
    assert giver.given.acknowledged_epoch == 7
    giver.clock.tick(LEASE - 0.01)
    assert giver.given.acknowledged_epoch == 7
    giver.clock.tick(0.02)
    assert giver.given.acknowledged_epoch == 9


async def test_a_node_that_knows_a_newer_ring_replies_with_it() -> None:
    giver = Giver(ring(9, B, C))
    reply = await giver.given.promise(7, LEASE)
    assert isinstance(reply, bytes)
    assert SlotMap.from_update(pb.RingUpdate.FromString(reply)).epoch == 9
    assert giver.given.acknowledged_epoch == 9
    assert giver.stores == 0


@pytest.mark.parametrize(
    ("slot_map", "epoch"),
    [
        (ring(7, A, B), 8),  # a ring that it does not know
        (ring(7, A, C), 7),  # of which it is no member
        (ring(7, A, B._replace(node_id="before")), 7),  # as the process before this one was
        (ring(7, A, B, released=0), 7),  # whose nodes do not fence
        (SlotMap.empty(), 7),
    ],
)
async def test_no_promise_is_given_by_what_is_no_member_of_that_ring(slot_map: SlotMap, epoch: int) -> None:
    giver = Giver(slot_map)
    with pytest.raises(Unavailable, match="no member"):
        await giver.given.promise(epoch, LEASE)
    assert giver.given.acknowledged_epoch == slot_map.epoch


async def test_a_promise_is_durable_before_it_is_given_and_in_force_before_it_is_durable() -> None:
    giver = Giver(ring(7, A, B, C))
    giver.gate.clear()
    giving = asyncio.create_task(giver.given.promise(7, LEASE))
    await run_ready_tasks()
    assert not giving.done()
    giver.ownership.update(ring(9, B, C))
    assert giver.given.acknowledged_epoch == 7, "a renewal that is sent now must not acknowledge ring 9"
    giver.gate.set()
    assert isinstance(await giving, bytes), "the ring that arrived meanwhile"
    assert from_text(giver.stored[NAME]) == {7: LEASE}


async def test_a_promise_that_cannot_be_recorded_is_not_given() -> None:
    giver = Giver(ring(7, A, B))
    giver.journal_works = False
    for _ in range(2):
        with pytest.raises(Unavailable, match="could not record"):
            await giver.given.promise(7, LEASE)
    giver.journal_works = True
    assert await giver.given.promise(7, LEASE) == 1
    assert giver.stores == 3


async def test_a_recorded_promise_is_repeated_without_another_sync_and_a_longer_one_is_not() -> None:
    giver = Giver(ring(7, A, B))
    for _ in range(3):
        await giver.given.promise(7, LEASE)
        giver.clock.tick(3.0)
    assert giver.stores == 1
    await giver.given.promise(7, 2 * LEASE)
    assert from_text(giver.stored[NAME]) == {7: 2 * LEASE}


async def test_a_restarted_node_holds_its_promises_for_their_whole_length_again() -> None:
    giver = Giver(ring(9, B, C), recorded=to_text({7: LEASE, 8: 2.0}))
    assert giver.given.acknowledged_epoch == 7
    giver.clock.tick(LEASE)
    assert giver.given.acknowledged_epoch == 9


# ---- the early end


class Offering:
    """Node b with promises for a and c, which reply with `epochs` to a ring, by address; errors are raised."""

    def __init__(self) -> None:
        self.giver = Giver(ring(7, A, B, C))
        self.epochs: dict[str, int | Exception] = {}
        self.offered: list[tuple[str, int]] = []
        self.ends = 0
        given, ownership, clock = self.giver.given, self.giver.ownership, self.giver.clock
        self.offers = RingOffers(given, ownership, self, clock, self.finished)
        self.task = asyncio.create_task(self.offers.run())

    def finished(self) -> None:
        self.ends += 1

    async def promise(self, address: str, epoch: int, seconds: float, receiver: str, timeout: float) -> bool:
        raise NodeLost("not used here")

    async def offer_ring(self, address: str, ring: SlotMap, timeout: float) -> int:
        self.offered.append((address, ring.epoch))
        reply = self.epochs[address]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def update(self, slot_map: SlotMap) -> None:
        self.giver.ownership.update(slot_map)
        self.offers.ring_changed()
        await run_ready_tasks()

    async def over(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_promise_ends_when_all_that_have_it_know_a_newer_ring() -> None:
    node = Offering()
    given, clock = node.giver.given, node.giver.clock
    for receiver in (A, C):
        assert await given.promise(7, LEASE, receiver.resp_address) == 1
    node.epochs = {A.resp_address: 9, C.resp_address: NodeLost("it does not respond")}
    await node.update(ring(9, B))
    assert given.acknowledged_epoch == 7, "c may still serve by the promise"
    assert node.offered == [(A.resp_address, 9), (C.resp_address, 9)]
    node.epochs[C.resp_address] = 7
    await clock.advance(RETRY_SECONDS)
    assert given.acknowledged_epoch == 7, "c has not adopted the ring"
    node.epochs[C.resp_address] = 10
    await clock.advance(RETRY_SECONDS)
    assert given.acknowledged_epoch == 9
    assert node.ends == 1
    assert node.offered.count((A.resp_address, 9)) == 1, "what has replied gets it once"
    await node.over()


async def test_no_ring_is_offered_before_there_is_a_newer_one_or_after_the_promise() -> None:
    node = Offering()
    await node.giver.given.promise(7, LEASE, A.resp_address)
    await node.update(ring(7, A, B, C))
    assert node.offered == []
    node.epochs = {A.resp_address: NodeLost("it does not respond")}
    await node.update(ring(9, B, C))
    await node.giver.clock.advance(LEASE + 1)
    number = len(node.offered)
    assert number <= LEASE / RETRY_SECONDS + 1
    await node.giver.clock.advance(LEASE)
    assert len(node.offered) == number
    await node.over()


async def test_promises_of_a_restarted_node_and_for_unknown_nodes_last_their_whole_time() -> None:
    restarted = Giver(ring(9, B, C), recorded=to_text({7: LEASE}))
    assert restarted.given.outdated == []
    restarted.given.receiver_adopted(A.resp_address, 9)
    assert restarted.given.acknowledged_epoch == 7
    older = Giver(ring(7, A, B, C))
    await older.given.promise(7, LEASE)  # of a node whose version does not name its address
    await older.given.promise(7, LEASE, A.resp_address)
    older.ownership.update(ring(9, B, C))
    assert older.given.outdated == []
    older.given.receiver_adopted(A.resp_address, 9)
    assert older.given.acknowledged_epoch == 7


def test_a_ring_that_another_node_sends_is_adopted_if_it_is_newer_and_of_this_cluster() -> None:
    giver = Giver(ring(7, A, B, C))
    giver.given.adopt = giver.adopt
    foreign = SlotMap(9, "bucket", (B,), (MapRange(0, SLOTS - 1, B, 1),), "c2")
    for sent, epoch in ((foreign, 7), (ring(6, A), 7), (ring(9, B), 9), (ring(8, A), 9)):
        assert giver.given.take_ring(sent.to_update().SerializeToString()) == epoch
    assert giver.given.take_ring(b"\xff\xff") == 9


async def test_writes_in_flight_are_not_acknowledged_once_a_ring_without_this_node_is_known() -> None:
    asker = Asker(ring(7, A, B, C))
    assert asker.fence.unacknowledged() == ""
    asker.adopt(ring(9, B, C))
    assert not asker.fence.closed, "requests are redirected"
    assert "outcome is unknown" in asker.fence.unacknowledged()
    asker.adopt(ring(10, A, B, C))
    asker.lease()
    assert asker.fence.unacknowledged() == ""
    await asker.over()


# ---- asking


class Asker:
    """Node a, which has had one lease; `replies` are those of the other nodes, by address: errors are raised."""

    def __init__(self, slot_map: SlotMap) -> None:
        self.clock = FakeClock()
        self.ownership = Ownership(A.address, A.node_id)
        self.fence = NodeFence(self.ownership, self.clock)
        self.replies: dict[str, Any] = {node.resp_address: True for node in slot_map.nodes}
        self.requested: list[tuple[float, str, int]] = []
        self.reply_seconds = 0.0
        self.requests = PromiseRequests(self.fence, self.ownership, self, self.clock, self.adopt)
        self.adopt(slot_map)
        self.lease()
        self.task = asyncio.create_task(self.requests.run())

    def adopt(self, slot_map: SlotMap) -> None:
        self.ownership.update(slot_map)
        self.fence.adopt_ring()
        self.requests.ring_changed()

    def lease(self) -> None:
        now = self.clock.now()
        self.fence.granted("r:1", Lease(LEASE, now, self.ownership.epoch, 3, "c1"), self.fence.ahead())

    async def promise(self, address: str, epoch: int, seconds: float, receiver: str, timeout: float) -> Any:
        assert (seconds, receiver) == (LEASE, A.resp_address)
        self.requested.append((self.clock.now(), address, epoch))
        if self.reply_seconds:
            await self.clock.sleep(self.reply_seconds)
        reply = self.replies[address]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def offer_ring(self, address: str, ring: SlotMap, timeout: float) -> int:
        raise NodeLost("not used here")

    async def over(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_no_node_is_requested_while_a_router_renews() -> None:
    asker = Asker(ring(7, A, B, C))
    for _ in range(10):
        await asker.clock.advance(LEASE / 3)
        asker.lease()
    assert asker.requested == []
    await asker.over()


async def test_without_a_router_a_ring_that_agrees_serves_on() -> None:
    asker = Asker(ring(7, A, B, C))
    start = asker.clock.now()
    for _ in range(300):
        await asker.clock.advance(0.2)
        assert not asker.fence.closed
    assert asker.fence.closures == 0
    assert {address for _, address, _ in asker.requested} == {B.resp_address, C.resp_address}
    first = asker.requested[0][0] - start
    assert LEASE / 3 < first < LEASE / 2, "when less than half of the lease is left"
    assert len(asker.requested) < 2 * 60 / 2, "a round each time that half of the promises is over"
    assert asker.fence.degraded() != []
    await asker.over()


@pytest.mark.parametrize("reply", [NodeLost("it does not respond"), Unavailable("it is no member")])
async def test_one_that_does_not_promise_closes_the_fence_until_it_does(reply: Exception) -> None:
    asker = Asker(ring(7, A, B, C))
    asker.replies[C.resp_address] = reply
    await asker.clock.advance(LEASE - 0.7)
    assert not asker.fence.closed
    await asker.clock.advance(0.2)
    assert asker.ownership.slots == 0
    assert asker.fence.not_ready() != []
    asker.replies[C.resp_address] = True
    await asker.clock.advance(0.5)
    assert asker.ownership.single
    await asker.over()


async def test_a_member_without_resp_cannot_promise() -> None:
    asker = Asker(ring(7, A, B, C._replace(resp_address="")))
    await asker.clock.advance(LEASE)
    assert asker.fence.closed
    await asker.over()


async def test_promises_count_from_when_they_were_requested_for() -> None:
    asker = Asker(ring(7, A, B))
    asker.reply_seconds = 2.0
    await asker.clock.advance(5.0)
    requested = asker.requested[0][0]
    asker.replies[B.resp_address] = NodeLost("gone")
    await asker.clock.advance(requested + LEASE - 0.6 - asker.clock.now() - 0.1)
    assert not asker.fence.closed
    await asker.clock.advance(0.2)
    assert asker.fence.closed
    await asker.over()


async def test_a_newer_ring_that_another_node_knows_is_adopted() -> None:
    asker = Asker(ring(7, A, B, C))
    asker.replies[C.resp_address] = ring(9, B, C).to_update().SerializeToString()
    await asker.clock.advance(LEASE / 2)
    assert asker.ownership.epoch == 9
    assert not asker.fence.fence.active, "it is no member any more, and redirects"
    await asker.over()


async def test_with_another_ring_it_sends_requests_again_at_once() -> None:
    """The promises for the ring before are over: the members know that this node has a newer one."""
    asker = Asker(ring(7, A, B, C))
    await asker.clock.advance(LEASE)
    assert not asker.fence.closed
    asker.requested.clear()
    asker.adopt(ring(8, A, B))
    assert asker.fence.closed
    await asker.clock.advance(0)
    assert not asker.fence.closed
    assert [request[1:] for request in asker.requested] == [(B.resp_address, 8)]
    await asker.over()


async def test_a_ring_of_another_cluster_or_no_ring_at_all_is_not_adopted() -> None:
    asker = Asker(ring(7, A, B, C))
    foreign = SlotMap(9, "bucket", (B,), (MapRange(0, SLOTS - 1, B, 1),), "c2")
    for reply in (foreign.to_update().SerializeToString(), b"\xff\xff"):
        asker.replies[B.resp_address] = reply
        assert not await asker.requests.request_promises()
    assert asker.ownership.epoch == 7
    await asker.over()


async def test_a_process_that_was_stopped_for_longer_than_its_lease_notices_before_it_serves() -> None:
    asker = Asker(ring(7, A, B, C))
    await asker.clock.advance(1.0)
    asker.clock.tick(2 * LEASE)  # no timer has run, no message arrived
    now = asker.clock.now()
    assert now >= asker.fence.check_at, "so the first batch of requests checks"
    assert not asker.fence.may_serve(now)
    assert asker.ownership.slots == 0
    await asker.over()
