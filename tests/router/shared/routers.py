"""Routers that share a ring in a store, and nodes that renew at any of them, on one fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS
from milena_common.cluster.slot_assignment import Ring
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.watch_streams import Published, short_update
from milena_router.shared.shared_leases import SharedLeases
from tests.support.fake_clock import FakeClock, run_ready_tasks
from tests.support.memory_ring_store import MemoryRing, MemoryRingStore

LEASE = 3.0
NEW_CLUSTER = 1.0


class SharingRouter:
    """One router: its leases, its connection to the store, and the rings that it has published."""

    def __init__(self, ring: MemoryRing, clock: FakeClock, ids: count[int]) -> None:
        self.clock = clock
        self.store = MemoryRingStore(ring)
        self.published: list[Ring] = []
        self.changes: list[Change] = []
        self._ids = ids
        self._task: asyncio.Task[None] | None = None
        self.leases = self._new()

    def _new(self) -> SharedLeases:
        membership = Membership(LEASE, self.clock.now(), self._recovery(), f"cluster{next(self._ids)}")
        return SharedLeases(
            membership,
            self.clock,
            self.store,
            self._changed,
            lambda: None,
            self._recovery,
            lambda: b"%d" % next(self._ids),
            lambda: 1.0,
        )

    @staticmethod
    def _recovery() -> Recovery:
        return Recovery(LEASE, NEW_CLUSTER)

    def _changed(self, change: Change) -> None:
        self.changes.append(change)
        if self.published[-1:] != [change.ring]:
            self.published.append(change.ring)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self.leases.run())

    async def kill(self) -> None:
        """End the process: what it knows is lost."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def restart(self) -> None:
        await self.kill()
        self.leases = self._new()
        self.start()
        await run_ready_tasks()

    @property
    def ring(self) -> Ring:
        return self.leases.ring

    @property
    def failed(self) -> BaseException | None:
        """What ended its tasks, which must not happen."""
        return self._task.exception() if self._task is not None and self._task.done() else None


class FakeNode:
    """A node that reports what a test sets, and keeps the newest ring that it has received."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = f"{name}:50051"
        self.process = 1
        self.journal = f"journal-{name}"
        self.leaving = False
        self.foreign_writes = False
        self.status_number = 0
        self.ring = pb.RingUpdate()
        self.lease_until = 0.0
        self.lease_epoch = 0

    @property
    def node_id(self) -> str:
        return f"{self.name}-{self.process}"

    def request(self, *, with_ring: bool = False) -> pb.JoinRequest:
        self.status_number += 1
        request = pb.JoinRequest(
            status_number=self.status_number,
            address=self.address,
            node_id=self.node_id,
            weight=1.0,
            addresses={"resp": f"{self.name}:6379"},
            default_bucket="photos",
            journal_id=self.journal,
            cluster_id=self.ring.cluster_id,
            ring_epoch=self.ring.epoch,
            epoch=self.ring.epoch,
            features=MOVES,
            acknowledged_epoch=self.ring.epoch,
            leaving=self.leaving,
            foreign_writes=self.foreign_writes,
            dirty_entries=0,
        )
        if with_ring:
            request.last_ring.ring.CopyFrom(self.ring)
            request.last_ring.lease_seconds = LEASE
        return request

    async def renew(self, router: SharingRouter) -> None:
        """Renew as a node does, and receive the ring. Raises MilenaError."""
        sent_at = router.clock.now()
        reported = await router.leases.request_join(self.request())
        membership = router.leases.membership
        if membership.recovery is not None and membership.recovery.wants_ring(reported.known):
            sent_at = router.clock.now()
            await router.leases.request_join(self.request(with_ring=True))
        self.lease_until, self.lease_epoch = sent_at + LEASE, membership.ring.epoch
        self.receive(router)

    def receive(self, router: SharingRouter) -> None:
        """Receive the ring of `router` if it is newer."""
        membership = router.leases.membership
        if not membership.recovering and membership.ring.epoch >= self.ring.epoch:
            published = Published(
                membership.ring,
                membership.default_bucket,
                membership.cluster_id,
                0,
                membership.missing.all(),
                membership.released_epoch,
            )
            self.ring = short_update(published, None, RUNS | MOVES | COPIES)


class System:
    """Some routers on one store."""

    def __init__(self, number: int) -> None:
        self.clock = FakeClock()
        self.memory = MemoryRing()
        ids = count(1)
        self.routers = [SharingRouter(self.memory, self.clock, ids) for _ in range(number)]

    async def renew_all(self, nodes: Sequence[FakeNode], router: SharingRouter, seconds: float = 0.0) -> None:
        """Have `nodes` renew at `router`, at once and each third of a lease, for `seconds`."""
        end = self.clock.now() + seconds
        while True:
            await asyncio.gather(*(node.renew(router) for node in nodes))
            left = end - self.clock.now()
            if left <= 0:
                return
            await self.clock.advance(min(LEASE / 3, left))

    def members(self, router: SharingRouter) -> set[str]:
        return {member.address for member in router.ring.members}


@asynccontextmanager
async def sharing(number: int) -> AsyncIterator[System]:
    system = System(number)
    for router in system.routers:
        router.start()
    await run_ready_tasks()
    yield system
    failures = [router.failed for router in system.routers]
    for router in system.routers:
        await router.kill()
    assert failures == [None] * number


async def with_ring(system: System, *names: str) -> list[FakeNode]:
    """Return nodes that are members of a ring, whose recovery is over."""
    nodes = [FakeNode(name) for name in names]
    await system.renew_all(nodes, system.routers[0], NEW_CLUSTER + 0.5)
    for router in system.routers:
        assert system.members(router) == {node.address for node in nodes}
    await system.renew_all(nodes, system.routers[0])
    return nodes
