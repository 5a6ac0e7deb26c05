"""Several routers with one ring: any of them grants leases, and what one decides holds for all."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.api.errors import FailedPrecondition, Unavailable
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.member import Member
from milena_router.ring.abandoning import AbandonedMoves
from milena_router.ring.fast_death import FastDeath
from milena_router.ring.membership import EXPIRED
from milena_router.ring.stuck_moves import STUCK_LEASES
from milena_router.shared.ring_store import Record
from tests.router.shared.routers import LEASE, FakeNode, sharing, with_ring
from tests.support.fake_clock import run_ready_tasks


async def test_nodes_that_join_by_different_routers_are_in_one_ring() -> None:
    async with sharing(3) as system:
        a, b = await with_ring(system, "a", "b")
        newcomer = FakeNode("c")
        await newcomer.renew(system.routers[2])
        await run_ready_tasks()
        for router in system.routers:
            assert system.members(router) == {a.address, b.address, newcomer.address}
            assert router.ring.epoch == system.routers[0].ring.epoch
            assert router.ring.ranges() == system.routers[0].ring.ranges()
            assert router.ring.pending == system.routers[0].ring.pending
            assert router.leases.membership.cluster_id == system.routers[0].leases.membership.cluster_id


async def test_a_node_keeps_its_place_with_renewals_at_any_router() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b")
        epoch = system.routers[0].ring.epoch
        for turn in range(8):
            await system.renew_all(nodes, system.routers[turn % 2], LEASE / 3)
        await system.renew_all(nodes, system.routers[1], 3 * LEASE)
        assert [router.ring.epoch for router in system.routers] == [epoch, epoch]


@pytest.mark.parametrize("stored", [True, False], ids=["by_the_store", "by_the_node"])
async def test_a_status_that_comes_late_by_another_router_changes_nothing(stored: bool) -> None:
    """Else a router would believe that no node has older writes of others any more, and tombstones would end."""
    async with sharing(2) as system:
        a, b = await with_ring(system, "a", "b")
        first, second = system.routers
        late = a.request()
        a.foreign_writes = a.leaving = True
        if not stored:
            await a.renew(second)  # itself, besides by the record of the next status
        await a.renew(first)
        await run_ready_tasks()
        epoch = first.ring.epoch
        await second.leases.request_join(late)
        await run_ready_tasks()
        for router in system.routers:
            lease = router.leases.membership.leases[a.address]
            assert (lease.ring_status.foreign_writes, lease.ring_status.leaving) == (True, True)
            assert router.ring.epoch == epoch
        a.foreign_writes = a.leaving = False
        await a.renew(second)
        await run_ready_tasks()
        for router in system.routers:
            assert not router.leases.membership.leases[a.address].ring_status.foreign_writes
        a.process += 1
        a.status_number, a.foreign_writes = 0, True
        await system.renew_all([a, b], first)
        await run_ready_tasks()
        for router in system.routers:
            assert router.leases.membership.leases[a.address].ring_status.foreign_writes, "another process"


async def test_a_silent_node_is_lost_after_a_whole_lease_by_one_decision() -> None:
    async with sharing(3) as system:
        a, b, c = await with_ring(system, "a", "b", "c")
        await c.renew(system.routers[1])
        await system.renew_all([a, b], system.routers[0], LEASE * 0.95)
        assert system.members(system.routers[0]) == {a.address, b.address, c.address}
        await system.renew_all([a, b], system.routers[2], LEASE * 0.3)
        for router in system.routers:
            assert system.members(router) == {a.address, b.address}
        lost = [change for router in system.routers for change in router.changes if change.reason == EXPIRED]
        assert [change.address for change in lost] == [c.address]


async def test_a_renewal_elsewhere_that_is_not_seen_yet_keeps_a_router_from_taking_the_node_out() -> None:
    """Its followers are silent, and the record has another revision than it knows."""
    async with sharing(2) as system:
        a, b = await with_ring(system, "a", "b")
        first, second = system.routers
        await a.renew(second)
        for store in (first.store, second.store):
            store.silent = True
        membership = first.leases.membership
        await b.renew(second)
        membership.leases[b.address].until = system.clock.now()
        await first.leases._request(first.leases._expired)
        assert system.members(first) == {a.address, b.address}
        assert first.leases.counts.conflicts > 0
        assert membership.leases[b.address].until >= system.clock.now() + LEASE


async def test_a_router_whose_follower_is_silent_reads_within_a_third_of_a_lease() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b")
        first, second = system.routers
        second.store.silent = True
        newcomer = FakeNode("c")
        await newcomer.renew(first)
        await run_ready_tasks()
        assert newcomer.address not in system.members(second)
        await system.clock.advance(LEASE / 3)
        assert newcomer.address in system.members(second)
        await system.renew_all([*nodes, newcomer], first, 3 * LEASE)
        assert len(system.members(second)) == 3


async def test_a_router_that_cannot_reach_the_store_grants_no_lease_and_takes_no_node_out() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b", "c")
        first, second = system.routers
        second.store.away = True
        await system.clock.advance(1.0)
        with pytest.raises(Unavailable):
            await nodes[0].renew(second)
        assert not second.leases.counts.reachable
        assert any("renews no lease" in reason for reason in second.leases.degraded())
        epoch = second.ring.epoch
        await system.renew_all(nodes, first, 3 * LEASE)
        assert second.ring.epoch == epoch
        second.store.away = False
        await system.renew_all(nodes, first, LEASE)
        assert second.leases.counts.reachable
        assert not second.leases.degraded()
        await system.renew_all(nodes, second, 2 * LEASE)
        assert first.ring.epoch == second.ring.epoch == epoch


async def test_no_node_is_lost_by_an_outage_of_the_store() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b", "c")
        epoch = system.routers[0].ring.epoch
        for router in system.routers:
            router.store.away = True
        await system.clock.advance(10 * LEASE)
        for router in system.routers:
            router.store.away = False
        await system.clock.advance(LEASE / 2)
        await nodes[0].renew(system.routers[0])
        await system.clock.advance(LEASE / 2)
        await system.renew_all(nodes, system.routers[1], 2 * LEASE)
        assert [router.ring.epoch for router in system.routers] == [epoch, epoch]


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_lost_change_publishes_nothing_before_the_store_is_read(lost: str) -> None:
    async with sharing(2) as system:
        (a,) = await with_ring(system, "a")
        first, second = system.routers
        first.store.silent = True
        rings = len(first.published)
        first.store.loses = lost
        newcomer = FakeNode("b")
        with pytest.raises(Unavailable):
            await newcomer.renew(first)
        assert len(first.published) == rings
        await newcomer.renew(first)
        await run_ready_tasks()
        assert system.members(first) == system.members(second) == {a.address, newcomer.address}
        assert first.ring.epoch == second.ring.epoch


async def test_nothing_is_published_while_a_change_is_on_its_way() -> None:
    async with sharing(1) as system:
        await with_ring(system, "a")
        (router,) = system.routers
        router.store.gate = asyncio.Event()
        before = router.ring
        joining = asyncio.create_task(FakeNode("b").renew(router))
        await run_ready_tasks()
        assert router.ring is before
        router.store.gate.set()
        await joining
        assert len(router.ring.members) == 2


async def test_many_joins_at_once_are_few_changes() -> None:
    async with sharing(2) as system:
        await with_ring(system, "a")
        writes = system.routers[0].store.writes
        nodes = [FakeNode(f"n{number}") for number in range(20)]
        await asyncio.gather(*(node.renew(system.routers[0]) for node in nodes))
        assert len(system.members(system.routers[1])) == 21
        assert system.routers[0].store.writes - writes <= 3


async def test_a_router_that_starts_continues_the_ring_at_once() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b")
        first, second = system.routers
        ring = first.ring
        await second.restart()
        assert not second.leases.recovering
        assert second.ring.epoch == ring.epoch
        assert second.ring.ranges() == ring.ranges()
        await system.renew_all(nodes, second, 3 * LEASE)
        assert first.ring is ring


async def test_all_routers_restart_and_the_ring_goes_on_with_its_losses() -> None:
    async with sharing(2) as system:
        a, b, c = await with_ring(system, "a", "b", "c")
        await system.renew_all([a, b], system.routers[0], 1.3 * LEASE)
        before = system.routers[0].leases.membership.releases.all()
        for router in system.routers:
            await router.restart()
        for router in system.routers:
            assert system.members(router) == {a.address, b.address}
            membership = router.leases.membership
            found = membership.releases.all()
            assert [(loss.address, loss.epoch) for loss in found] == [(loss.address, loss.epoch) for loss in before]
            assert [node.address for node in membership.missing.all()] == [c.address]
        await system.renew_all([a, b], system.routers[1], LEASE)
        await system.renew_all([a, b], system.routers[1])
        for router in system.routers:
            assert router.leases.membership.released_epoch == router.ring.epoch


async def test_a_store_that_lost_everything_gets_the_ring_of_the_nodes() -> None:
    async with sharing(2) as system:
        nodes = await with_ring(system, "a", "b")
        ring = system.routers[0].ring
        system.memory.clear()
        await system.clock.advance(LEASE / 3)
        for router in system.routers:
            assert router.leases.recovering
        await nodes[0].renew(system.routers[0])
        await nodes[1].renew(system.routers[1])
        await system.clock.advance(0.5)
        for router in system.routers:
            assert not router.leases.recovering
            assert router.ring.epoch >= ring.epoch
            assert router.ring.ranges() == ring.ranges()


async def test_a_store_with_an_older_ring_than_a_node_gets_that_of_the_nodes() -> None:
    async with sharing(2) as system:
        a, b = await with_ring(system, "a", "b")
        old = system.memory.state
        c = FakeNode("c")
        await c.renew(system.routers[0])
        await system.renew_all([a, b, c], system.routers[0], LEASE / 3)
        ring = system.routers[0].ring
        memory = system.memory
        memory.revision += 1
        memory.state = Record(old.value, memory.revision)
        await system.clock.advance(LEASE / 3)
        await asyncio.gather(a.renew(system.routers[0]), b.renew(system.routers[1]), c.renew(system.routers[1]))
        await system.clock.advance(0.5)
        for router in system.routers:
            assert not router.leases.recovering
            assert system.members(router) == {a.address, b.address, c.address}
            assert router.ring.epoch >= ring.epoch


async def test_what_a_node_may_not_do_it_may_not_do_at_any_router() -> None:
    async with sharing(2) as system:
        await with_ring(system, "a", "b")
        twin = FakeNode("x")
        twin.journal = "journal-a"
        with pytest.raises(FailedPrecondition, match="journal_id"):
            await twin.renew(system.routers[1])


async def test_a_node_leaves_by_another_router_than_it_joined() -> None:
    async with sharing(2) as system:
        a, b = await with_ring(system, "a", "b")
        assert await system.routers[1].leases.request_leave(b.address, b.node_id, None)
        assert not await system.routers[0].leases.request_leave(b.address, b.node_id, None)
        await run_ready_tasks()
        assert system.members(system.routers[0]) == {a.address}
        assert b.address not in system.memory.records


async def test_a_state_of_a_newer_version_is_not_changed() -> None:
    async with sharing(1) as system:
        (a,) = await with_ring(system, "a")
        memory = system.memory
        memory.revision += 1
        memory.state = Record(b"\x08\x63" + memory.state.value[2:], memory.revision)
        await system.clock.advance(LEASE / 3)
        with pytest.raises(FailedPrecondition, match="newer version"):
            await a.renew(system.routers[0])
        assert memory.state.value.startswith(b"\x08\x63")
        assert any("newer version" in reason for reason in system.routers[0].leases.degraded())


async def test_a_stuck_move_that_cannot_be_abandoned_while_the_store_is_away_is_abandoned_afterwards() -> None:
    async def call(address: str, method: str, request: bytes, timeout: float) -> bytes:
        return cache_pb.AbandonMovesResponse().SerializeToString()

    async with sharing(1) as system:
        (router,) = system.routers
        nodes = [*await with_ring(system, "a", "b"), FakeNode("c")]
        await system.renew_all(nodes, router)
        await system.renew_all(nodes, router)
        assert router.ring.pending
        abandoned = AbandonedMoves(router.leases, call, system.clock)
        await abandoned.abandon_stuck()
        await system.renew_all(nodes, router, (STUCK_LEASES + 1) * LEASE)
        router.store.away = True
        await abandoned.abandon_stuck()
        assert router.ring.pending
        router.store.away = False
        await abandoned.abandon_stuck()
        assert not router.ring.pending


async def test_an_ended_process_that_cannot_be_recorded_while_the_store_is_away_loses_its_lease_later() -> None:
    async def proof(member: Member) -> bool:
        return True

    async with sharing(1) as system:
        (router,) = system.routers
        a, b = await with_ring(system, "a", "b")
        fast_death = FastDeath(router.leases, [proof])
        router.store.away = True
        fast_death.stream_closed(a.address, a.node_id)
        (check,) = fast_death._checks.values()
        await check
        assert system.members(router) == {a.address, b.address}
        router.store.away = False
        await system.renew_all([b], router, 2 * LEASE)
        assert system.members(router) == {b.address}
