"""Routers, nodes and a store that fails, in any order: one ring for each epoch, growing epochs, one owner a slot.

The store is away for some routers, loses requests and replies, and notifies late or never; routers restart; nodes
renew anywhere, several at once, and fall silent. A node serves as long as its lease lasts by its own clock, and
serves nothing by promises: it acknowledges each ring that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milena_common.api.errors import MilenaError
from milena_common.api.pb import ring_state_pb2
from milena_common.cluster.runs_message import COPIES, MOVES, RUNS, runs_message
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_runs import Run
from milena_common.cluster.slots import SLOTS
from milena_router.ring.watch_streams import Published, short_update
from tests.router.shared.routers import LEASE, NEW_CLUSTER, FakeNode, SharingRouter, System
from tests.support.fake_clock import run_ready_tasks

T = TypeVar("T")
ROUTERS = st.integers(0, 2)
NODES = st.integers(0, 3)
MARGIN = 0.5
# One slot of each 512 is looked at.
SAMPLE = range(0, SLOTS, 512)


class ServingNode(FakeNode):
    """A node with what it serves: `taken` and `handed_over` are the epochs of moves, by slot."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.taken: dict[int, int] = {}
        self.handed_over: dict[int, int] = {}

    @property
    def slot_map(self) -> SlotMap:
        return SlotMap.from_update(self.ring) if self.ring.epoch else SlotMap.empty()

    def request(self, *, with_ring: bool = False) -> Any:
        request = super().request(with_ring=with_ring)
        runs = [Run(slot, slot, self.address, since) for slot, since in sorted(self.taken.items())]
        if runs:
            request.taken.CopyFrom(runs_message(runs, {self.address: 0}))
        return request

    def restart(self) -> None:
        """Begin a new process with the same journal: what it had taken over stays with it."""
        self.process += 1
        self.lease_until = 0.0

    def serves(self, now: float) -> Iterator[int]:
        """Yield the slots of the sample that this node serves now."""
        slot_map = self.slot_map
        if now >= self.lease_until - MARGIN or self.ring.epoch < self.lease_epoch:
            return
        if all(node.node_id != self.node_id for node in slot_map.nodes):
            return
        owners = owners_of(slot_map)
        moves = pending_of(slot_map)
        for slot in SAMPLE:
            address, since = owners.get(slot, ("", 0))
            move = moves.get(slot)
            if address == self.address:
                released = since <= slot_map.released_epoch or self.taken.get(slot) == since
                if released and (move is None or self.handed_over.get(slot) != move[1]):
                    yield slot
            elif move is not None and move == (self.address, self.taken.get(slot)):
                yield slot


def owners_of(slot_map: SlotMap) -> dict[int, tuple[str, int]]:
    return {
        slot: (node.address, since)
        for first, last, node, since in slot_map.ranges
        for slot in SAMPLE
        if first <= slot <= last
    }


def pending_of(slot_map: SlotMap) -> dict[int, tuple[str, int]]:
    return {
        slot: (node.address, since)
        for first, last, node, since in slot_map.pending
        for slot in SAMPLE
        if first <= slot <= last
    }


class RoutersMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.system = self.run(self.make())
        self.nodes = [ServingNode(name) for name in "abcd"]
        self.rings: dict[int, bytes] = {}
        self.seen = 0
        self.newest = 0
        self.run(self.begin())

    async def make(self) -> System:
        system = System(3)
        for router in system.routers:
            router.start()
        return system

    async def begin(self) -> None:
        await self.system.renew_all(self.nodes[:3], self.system.routers[0], NEW_CLUSTER + 0.5)
        await self.system.renew_all(self.nodes[:3], self.system.routers[1])
        assert len(self.system.routers[2].ring.members) == 3

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def renewed(self, node: ServingNode, router: SharingRouter) -> None:
        try:
            await asyncio.wait_for(node.renew(router), 5)
        except MilenaError:
            return

    @rule(node=NODES, router=ROUTERS)
    def renew(self, node: int, router: int) -> None:
        self.run(self.renewed(self.nodes[node], self.system.routers[router]))

    @rule(router=ROUTERS, seconds=st.sampled_from([0.3, 0.9, 1.0]), times=st.integers(1, 5))
    def some_time_with_renewals(self, router: int, seconds: float, times: int) -> None:
        for _ in range(times):
            self.renew_everywhere(router)
            self.run(self.system.clock.advance(seconds))
            self.check()

    @rule(shift=ROUTERS)
    def renew_everywhere(self, shift: int) -> None:
        """All nodes renew at the same time, at different routers."""

        async def at_once() -> None:
            await asyncio.gather(
                *(
                    self.renewed(node, self.system.routers[(place + shift) % 3])
                    for place, node in enumerate(self.nodes)
                )
            )

        self.run(at_once())

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, LEASE - MARGIN, LEASE, 2 * LEASE]))
    def silence(self, seconds: float) -> None:
        self.run(self.system.clock.advance(seconds))

    @rule(node=NODES, seconds=st.sampled_from([0.8, 1.0]), times=st.integers(1, 8), router=ROUTERS)
    def one_is_silent(self, node: int, seconds: float, times: int, router: int) -> None:
        for _ in range(times):
            for place, each in enumerate(self.nodes):
                if place != node:
                    self.run(self.renewed(each, self.system.routers[router]))
            self.run(self.system.clock.advance(seconds))
            self.check()

    @rule(node=NODES, router=ROUTERS)
    def leave(self, node: int, router: int) -> None:
        leaving = self.nodes[node]

        async def leave() -> None:
            leaving.lease_until = 0.0
            try:
                await self.system.routers[router].leases.request_leave(leaving.address, leaving.node_id, None)
            except MilenaError:
                return

        self.run(leave())
        leaving.process += 1

    @rule(node=NODES)
    def restart_a_node(self, node: int) -> None:
        self.nodes[node].restart()

    @rule(node=NODES, router=ROUTERS)
    def receive_the_ring(self, node: int, router: int) -> None:
        self.nodes[node].receive(self.system.routers[router])

    @rule(node=NODES)
    def hand_over(self, node: int) -> None:
        """Owners hand all pending slots over to a node that serves, and has the same moves."""
        destination = self.nodes[node]
        now = self.system.clock.now()
        if now >= destination.lease_until - MARGIN or destination.ring.epoch < destination.lease_epoch:
            return
        for slot, move in pending_of(destination.slot_map).items():
            address, _ = owners_of(destination.slot_map)[slot]
            (owner,) = (each for each in self.nodes if each.address == address)
            agreed = move[0] == destination.address and pending_of(owner.slot_map).get(slot) == move
            if agreed and slot in set(owner.serves(now)):
                owner.handed_over[slot] = destination.taken[slot] = move[1]

    @rule(router=ROUTERS, away=st.booleans())
    def reach_the_store(self, router: int, away: bool) -> None:
        self.system.routers[router].store.away = away

    @rule(router=ROUTERS, silent=st.booleans())
    def notify_late(self, router: int, silent: bool) -> None:
        self.system.routers[router].store.silent = silent

    @rule(router=ROUTERS, lost=st.sampled_from(["request", "reply"]))
    def lose(self, router: int, lost: str) -> None:
        self.system.routers[router].store.loses = lost

    @rule(router=ROUTERS)
    def restart_a_router(self, router: int) -> None:
        self.run(self.system.routers[router].restart())

    @rule()
    def all_is_well_again(self) -> None:
        for router in self.system.routers:
            router.store.away = router.store.silent = False
            router.store.loses = ""
        for _ in range(4):
            self.renew_everywhere(0)
            self.run(self.system.clock.advance(LEASE / 3))
        for node in self.nodes:
            self.run(self.renewed(node, self.system.routers[0]))
        self.run(run_ready_tasks())
        epochs = {router.ring.epoch for router in self.system.routers}
        assert len(epochs) == 1
        assert {len(router.ring.members) for router in self.system.routers} == {4}

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "newest"):
            return
        for router in self.system.routers:
            assert router.failed is None
        self.check_states()
        self.check_published()
        self.check_owners()

    def check_states(self) -> None:
        states = self.system.memory.states
        for data in states[self.seen :]:
            state = ring_state_pb2.RingState.FromString(data)
            if state.recovering:
                continue
            assert state.ring.epoch >= self.newest
            self.newest = state.ring.epoch
            state.ring.ClearField("missing")
            ring = state.ring.SerializeToString(deterministic=True)
            assert self.rings.setdefault(state.ring.epoch, ring) == ring
        self.seen = len(states)

    def check_published(self) -> None:
        for router in self.system.routers:
            for ring in router.published:
                message = short_update(Published(ring, "photos", "", 0, ()), None, RUNS | MOVES | COPIES)
                known = ring_state_pb2.RingState(ring=message).ring
                stored = type(known).FromString(self.rings[ring.epoch])
                assert message.runs == stored.runs
                assert message.pending == stored.pending
                assert [node.node_id for node in message.nodes] == [node.node_id for node in stored.nodes]
            router.published.clear()

    def check_owners(self) -> None:
        now = self.system.clock.now()
        serving: dict[int, str] = {}
        for node in self.nodes:
            for slot in node.serves(now):
                assert slot not in serving, (slot, serving[slot], node.address)
                serving[slot] = node.address

    def teardown(self) -> None:
        if hasattr(self, "system"):
            for router in self.system.routers:
                self.run(router.kill())
        if hasattr(self, "loop"):
            self.loop.close()


RoutersMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # an example is short enough to be read as it is
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRouters = pytest.mark.filterwarnings("ignore")(RoutersMachine.TestCase)
