"""Streams of the ring, over a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import pytest
from prometheus_client import generate_latest

from milena_common.api.errors import FailedPrecondition
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import MOVES, RUNS
from milena_common.cluster.slot_assignment import Member
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of
from milena_common.rpc.status import from_grpc
from milena_router.metrics import router_registry
from milena_router.ring.membership import Membership
from milena_router.ring.watch_streams import MAX_BASES, RingWatchers
from tests.router.ring.moving_ring import LEASE, node, ring_of
from tests.router.ring.moving_ring import Router as MovingRouter
from tests.router.router_under_test import SOON, Router, running_router
from tests.support.fake_clock import run_ready_tasks
from tests.support.processes import Metrics

A, B = "node-a:50051", "node-b:50051"
Call = grpc.aio.UnaryStreamCall[pb.WatchRingRequest, pb.RingUpdate]


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    async with running_router() as router:
        yield router


def watch(router: Router, node_id: str = "") -> Call:
    call: Call = router.stub.WatchRing(pb.WatchRingRequest(node_id=node_id))
    return call


async def following(call: Call) -> pb.RingUpdate:
    """The next update of a stream that goes on."""
    update = await asyncio.wait_for(call.read(), SOON)
    assert isinstance(update, pb.RingUpdate)
    return update


async def join(router: Router, address: str, node_id: str = "", **doors: str) -> None:
    request = pb.JoinRequest(address=address, node_id=node_id, addresses=doors, default_bucket="photos")
    await router.stub.Join(request, timeout=SOON)


async def leave(router: Router, address: str) -> None:
    await router.stub.Leave(pb.LeaveRequest(address=address), timeout=SOON)


async def no_watcher_is_left(router: Router) -> None:
    for _ in range(1000):
        if not router.watchers.open:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(f"{router.watchers.open} watch")


async def test_the_ring_comes_at_once_also_when_it_is_empty(router: Router) -> None:
    assert (await following(watch(router))).epoch == 0
    await join(router, A, "1", resp="a:6379", ops="a:9091")
    await join(router, B)
    update = await following(watch(router))
    ring = router.leases.ring
    assert (update.epoch, update.default_bucket) == (ring.epoch, "photos")
    assert list(update.nodes) == [
        pb.RingNode(address=A, resp_address="a:6379", node_id="1", weight=1),
        pb.RingNode(address=B, weight=1),
    ]
    slot_map = SlotMap.from_update(update)
    for key in (b"1", b"2", b"3", b"4"):
        target = slot_map.target(slot_of(key))
        assert (target.slot, target.address, target.owned_since) == ring.find(key)


async def test_then_comes_every_change(router: Router) -> None:
    call = watch(router)
    epochs = [(await following(call)).epoch]
    for change in (
        join(router, A, "1"),
        join(router, B, "1"),
        join(router, A, "2"),
        leave(router, B),
    ):
        await change
        update = await following(call)
        assert update.epoch == router.leases.ring.epoch
        epochs.append(update.epoch)
    assert epochs == sorted(set(epochs))
    assert [node.node_id for node in update.nodes] == ["2"]


async def test_a_lease_that_ended_is_a_change(router: Router) -> None:
    await join(router, A)
    call = watch(router)
    await following(call)
    running = asyncio.create_task(router.leases.run())
    await router.clock.advance(60)
    assert list((await following(call)).nodes) == []
    running.cancel()


async def test_a_renewed_lease_is_no_change(router: Router) -> None:
    await join(router, A)
    call = watch(router)
    first = await following(call)
    for _ in range(3):
        await join(router, A)
    await join(router, B)
    assert [node.address for node in (await following(call)).nodes] == [A, B]
    assert first.epoch < router.leases.ring.epoch


async def test_a_node_that_opens_another_server_is_a_change(router: Router) -> None:
    await join(router, A, "1", ops="a:9091")
    call = watch(router)
    before = await following(call)
    await join(router, A, "1", ops="a:9091", resp="a:6379")
    after = await following(call)
    assert [node.resp_address for node in after.nodes] == ["a:6379"]
    assert after.epoch > before.epoch
    assert list(after.slots) == list(before.slots), "the slots are owned since when they were"


async def test_a_slow_reader_gets_the_newest_ring_only() -> None:
    membership = Membership(5.0, 0.0)
    watching = RingWatchers(membership, direct_access=True)
    updates = watching.watch(pb.WatchRingRequest(), None)
    await anext(updates)
    for number in range(5):
        membership.ring = membership.ring.with_members([Member(f"n{number}:1")], membership.ring.epoch + 1)
        watching.wake_watchers()
    assert pb.RingUpdate.FromString(await anext(updates)).epoch == 5
    waiting = asyncio.ensure_future(anext(updates, None))
    await run_ready_tasks()
    assert not waiting.done()
    watching.end_streams()
    assert await waiting is None


async def test_a_watcher_that_takes_runs_gets_a_whole_ring_and_then_changes() -> None:
    membership = Membership(5.0, 0.0)
    watching = RingWatchers(membership, direct_access=True)
    changes, whole = (watching.watch(pb.WatchRingRequest(features=features), None) for features in (RUNS, 0))
    slot_map: SlotMap | None = None
    bases = []
    for number in range(1, 6):
        members = [Member(f"n{each}:1") for each in range(number)]
        membership.ring = membership.ring.with_members(members, membership.ring.epoch + 1)
        watching.wake_watchers()
        update, old = [pb.RingUpdate.FromString(await anext(each)) for each in (changes, whole)]
        assert not update.slots
        assert not old.base_epoch, "a watcher of the version before gets whole rings"
        assert not old.HasField("runs")
        slot_map = SlotMap.from_update(update, slot_map)
        assert slot_map.ranges == SlotMap.from_update(old).ranges
        bases.append(update.base_epoch)
    assert bases == [0, 1, 2, 3, 4]


async def test_a_watcher_that_missed_many_rings_gets_the_whole_one() -> None:
    membership = Membership(5.0, 0.0)
    membership.ring = membership.ring.with_members([Member("a:1")], 1)
    watching = RingWatchers(membership, direct_access=True)
    slow, quick = (watching.watch(pb.WatchRingRequest(features=RUNS), None) for _ in range(2))
    await anext(slow)
    for number in range(MAX_BASES + 1):
        await anext(quick)
        membership.ring = membership.ring.with_members([Member("a:1"), Member(f"n{number}:1")], number + 2)
        watching.wake_watchers()
    change, whole = [pb.RingUpdate.FromString(await anext(each)) for each in (quick, slow)]
    assert (change.base_epoch, whole.base_epoch) == (MAX_BASES + 1, 0)
    assert SlotMap.from_update(whole).epoch == MAX_BASES + 2


async def test_a_watcher_that_missed_few_rings_gets_what_differs_from_its_own() -> None:
    membership = Membership(5.0, 0.0)
    membership.ring = membership.ring.with_members([Member("a:1")], 1)
    watching = RingWatchers(membership, direct_access=True)
    slow, quick = (watching.watch(pb.WatchRingRequest(features=RUNS), None) for _ in range(2))
    known = SlotMap.from_update(pb.RingUpdate.FromString(await anext(slow)))
    for number in range(2, 5):
        await anext(quick)
        members = [Member("a:1"), Member(f"n{number}:1")]
        membership.ring = membership.ring.with_members(members, number)
        watching.wake_watchers()
    update = pb.RingUpdate.FromString(await anext(slow))
    assert update.base_epoch == 1
    slot_map = SlotMap.from_update(update, known)
    for slot in range(0, 16384, 99):
        assert slot_map.target(slot).address == membership.ring.owner(slot)


# ---- moves and released epochs


def moving_watch(router: MovingRouter, features: int) -> tuple[RingWatchers, AsyncGenerator[bytes, None]]:
    watching = RingWatchers(router.membership, direct_access=True)
    return watching, watching.watch(pb.WatchRingRequest(features=features), None)


async def received(updates: AsyncGenerator[bytes, None]) -> pb.RingUpdate:
    return pb.RingUpdate.FromString(await anext(updates))


async def test_a_watcher_that_knows_moves_gets_those_in_progress_with_each_ring() -> None:
    a, b, c = node("a"), node("b"), node("c")
    router = ring_of(a, b)
    watching, updates = moving_watch(router, RUNS | MOVES)
    slot_map = SlotMap.from_update(await received(updates))
    assert slot_map.pending == ()
    assert slot_map.released_epoch == router.membership.ring.epoch
    router.join(c)
    watching.wake_watchers()
    update = await received(updates)
    assert update.base_epoch
    slot_map = SlotMap.from_update(update, slot_map)
    pending = router.membership.ring.pending
    assert [(part.first, part.last, part.node.address, part.owned_since) for part in slot_map.pending] == [*pending]
    c.taken = pending
    router.join(c)
    watching.wake_watchers()
    slot_map = SlotMap.from_update(await received(updates), slot_map)
    assert slot_map.pending == ()
    assert slot_map.target(pending[0].first).address == c.address


async def test_a_released_epoch_is_sent_alone_when_the_ring_has_not_changed() -> None:
    a, b, c = node("a"), node("b"), node("c")
    router = ring_of(a, b, c)
    a.acknowledged = router.membership.ring.epoch
    router.after(LEASE + 1, a, b)
    watching, updates = moving_watch(router, RUNS | MOVES)
    slot_map = SlotMap.from_update(await received(updates))
    assert slot_map.released_epoch == slot_map.epoch - 1
    waiting = asyncio.ensure_future(received(updates))
    watching.wake_watchers()
    await run_ready_tasks()
    assert not waiting.done()
    a.acknowledged = None
    router.join(a)
    watching.wake_watchers()
    update = await waiting
    epoch = router.membership.ring.epoch
    assert update == pb.RingUpdate(epoch=epoch, base_epoch=epoch, released_epoch=epoch)
    assert SlotMap.from_update(update, slot_map).released_epoch == epoch


@pytest.mark.parametrize("features", [0, RUNS, MOVES])
async def test_watchers_that_do_not_know_moves_get_none(features: int) -> None:
    a, b, c = node("a"), node("b"), node("c")
    router = ring_of(a, b)
    router.join(c)
    watching, updates = moving_watch(router, features)
    update = await received(updates)
    assert not update.HasField("pending")
    assert not update.released_epoch
    router.membership.remove_member(c.address, "", router.now, router.wall)
    watching.wake_watchers()
    update = await received(updates)
    router.after(LEASE, a, b)
    assert router.is_released
    watching.wake_watchers()
    waiting = asyncio.ensure_future(received(updates))
    await run_ready_tasks()
    assert not waiting.done()
    waiting.cancel()


async def test_a_release_wakes_watchers_of_a_running_router() -> None:
    async with running_router() as router:
        request = pb.JoinRequest(address=A, node_id="1", features=MOVES, default_bucket="photos")
        for address in (A, B):
            request.address = address
            reply = await router.stub.Join(request, timeout=SOON)
        epoch = router.leases.ring.epoch
        assert reply.released_epoch == epoch
        call = router.stub.WatchRing(pb.WatchRingRequest(features=RUNS | MOVES))
        assert (await following(call)).released_epoch == epoch
        request.node_id = "2"
        reply = await router.stub.Join(request, timeout=SOON)
        assert reply.released_epoch == epoch
        update = await following(call)
        assert (update.epoch, update.released_epoch) == (reply.epoch, epoch)
        request.address, request.node_id, request.acknowledged_epoch = A, "1", reply.epoch
        await router.stub.Join(request, timeout=SOON)
        running = asyncio.create_task(router.leases.run())
        await router.clock.advance(router.config.lease_seconds / 2)
        await router.stub.Join(request, timeout=SOON)
        request.address, request.node_id = B, "2"
        await router.stub.Join(request, timeout=SOON)
        await router.clock.advance(router.config.lease_seconds / 2 + 1)
        moves = await following(call)
        assert (moves.base_epoch, moves.released_epoch) == (reply.epoch, epoch), "A hands slots over to B again"
        update = await following(call)
        assert update == pb.RingUpdate(epoch=moves.epoch, base_epoch=moves.epoch, released_epoch=moves.epoch)
        running.cancel()


async def test_the_message_is_made_once_for_all_watchers() -> None:
    membership = Membership(5.0, 0.0)
    membership.ring = membership.ring.with_members([Member("a:1"), Member("b:1")], 1)
    watching = RingWatchers(membership, direct_access=True)
    first, second = (watching.watch(pb.WatchRingRequest(), None) for _ in range(2))
    assert await anext(first) is await anext(second)


async def test_watchers_that_go_are_forgotten(router: Router) -> None:
    calls = [watch(router) for _ in range(5)]
    for call in calls:
        await following(call)
    assert router.watchers.open == 5
    metrics = Metrics(
        generate_latest(
            router_registry(router.calls, router.leases, router.limiter, router.watchers, router.budget)
        ).decode()
    )
    assert metrics.value("milena_router_ring_watchers") == 5
    assert metrics.value("milena_router_requests_total", operation="watch_ring") == 5
    for call in calls:
        call.cancel()
    await no_watcher_is_left(router)
    assert router.calls["watch_ring"].errors == {}


async def test_streams_end_when_the_router_stops(router: Router) -> None:
    call = watch(router)
    await following(call)
    router.watchers.end_streams()
    assert await call.read() == grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert router.watchers.open == 0
    assert await watch(router).read() == grpc.aio.EOF


async def test_without_direct_access_only_members_of_the_ring_may_watch() -> None:
    async with running_router(direct_access=False) as router:
        await join(router, A, "id-a")
        await join(router, B)
        for node_id in ("", "id-b"):
            call = watch(router, node_id)
            with pytest.raises(grpc.aio.AioRpcError) as rejected:
                await following(call)
            error = rejected.value
            ours = from_grpc(error.code(), error.details(), error.trailing_metadata())
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert type(ours) is FailedPrecondition
            assert "DIRECT_ACCESS=false" in str(ours)
        member = watch(router, "id-a")
        assert len((await following(member)).nodes) == 2
        assert router.watchers.open == 1
        assert router.calls["watch_ring"].errors == {"failed_precondition": 2}
        await join(router, B, "id-b")
        assert len((await following(watch(router, "id-b"))).nodes) == 2


async def test_without_direct_access_clients_get_the_own_port_and_nodes_never_do() -> None:
    async with running_router(direct_access=False) as router:
        router.watchers.own_port = Member(
            "router:6379", addresses={"resp": "router:6379", "resp-tls": "router:6380"}
        )
        await join(router, A, "id-a", resp="node-a:6379")
        call = watch(router)
        ring = SlotMap.from_update(await following(call))
        assert [(node.resp_address, node.resp_tls_address, node.node_id) for node in ring.nodes] == [
            ("router:6379", "router:6380", "")
        ]
        assert [(run.first, run.last, run.node.resp_address) for run in ring.ranges] == [(0, 16383, "router:6379")]
        assert (ring.epoch, ring.default_bucket) == (router.leases.ring.epoch, "photos")
        # A node that is not in the ring would take the router for the owner of its slots.
        with pytest.raises(grpc.aio.AioRpcError, match="DIRECT_ACCESS=false"):
            await following(watch(router, "id-b"))
        assert [node.address for node in (await following(watch(router, "id-a"))).nodes] == [A]
        router.watchers.end_streams()
        assert await call.read() == grpc.aio.EOF
