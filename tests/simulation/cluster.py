"""Coordination. A whole cluster in one event loop: routers, nodes, clients and S3, and what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from random import Random

from milena_cache.objects.object_store import Ref
from milena_common.cluster.copy_losses import WaitingRun
from milena_common.cluster.slot_assignment import Ring
from milena_common.cluster.slots import slot_of
from milena_router.ring.membership import Change
from tests.faults.linearizability.operations import Kind as Call
from tests.faults.linearizability.operations import Operation, Outcome
from tests.simulation import faults
from tests.simulation.client import Client, History
from tests.simulation.etcd import HOST as etcd_host
from tests.simulation.etcd import Etcd
from tests.simulation.faults import Fault, Kind
from tests.simulation.loop import VirtualLoop
from tests.simulation.machine import WALL, MachineClock
from tests.simulation.network import Network
from tests.simulation.node import BUCKET, SimulatedNode
from tests.simulation.router import LEASE_SECONDS, WAIT_SECONDS, SimulatedRouter
from tests.simulation.store import HOST, MAX_SLOW, S3
from tests.support.s3.memory_store import MemoryStore

NODES = 4
CLIENTS = 6
KEYS = 10
# The number of routers; several have one ring, in an etcd.
ROUTERS = (*(1,) * 14, 2, 3)
# COPIES of the nodes. With copies a seed takes two to three times the processor time.
COPIES = (*(1,) * 15, *(2,) * 4, 3)
CALLS = 50  # of each client
# Virtual seconds within which the first ring is there, and everything is in S3 after the last fault.
START_SECONDS = 10.0
HEAL_SECONDS = 40.0
FINAL_READS = 20
# Virtual seconds that each commit of a slow disk takes, at most: longer than a lease with what is queued behind it.
MAX_DISK_SLOW = 1.5


class SimulatedCluster:
    """The cluster of one seed."""

    def __init__(
        self,
        loop: VirtualLoop,
        seed: int,
        store: MemoryStore,
        routers: int = 0,
        log: Callable[[str], None] | None = None,
        copies: int = 0,
    ) -> None:
        """`routers`: how many there are, `copies`: COPIES of all nodes; 0 if the seed decides."""
        rng = self._rng = Random(seed)
        self.loop = loop
        self.network = network = Network(loop, Random(rng.random()))
        network.log = log
        # Both are drawn also if they are not used, so that the rest of the run is the same.
        decided = rng.choice(ROUTERS), rng.choice(COPIES)
        routers, self.copies = routers or decided[0], copies or decided[1]
        self.etcd = Etcd(network, Random(rng.random())) if routers > 1 else None
        self.plan = faults.plan(
            Random(rng.random()), LEASE_SECONDS, lost=self.copies > 1, etcd=self.etcd is not None
        )
        # What has happened of the plan: some faults need what is not there, such as a second node that lives.
        self.happened: list[Fault] = []
        store.date = lambda: WALL + loop.time()
        self.s3 = S3(store, Random(rng.random()))
        self.routers = [
            SimulatedRouter(
                network, f"10.0.0.{number + 1}", Random(rng.random()), self._clock(), self._ring_changed, self.etcd
            )
            for number in range(routers)
        ]
        flush_delay = rng.choice((0.1, 0.5, 2.0))
        self.nodes = [
            SimulatedNode(
                network,
                f"10.0.1.{number + 1}",
                Random(rng.random()),
                self._clock(),
                self.s3,
                self.routers,
                flush_delay,
                self.copies,
            )
            for number in range(NODES)
        ]
        self.keys = [f"key-{number}" for number in range(KEYS)]
        self.history = History(network)
        addresses = [node.resp_address for node in self.nodes]
        self.clients = [
            Client(
                network,
                f"client-{number}",
                Random(rng.random()),
                self.history,
                self.keys,
                addresses,
                self.routers[0] if number == CLIENTS - 1 else None,
            )
            for number in range(CLIENTS)
        ]
        self.reader = Client(network, "reader", Random(rng.random()), self.history, self.keys, addresses)
        # By key, the nanosecond since which writes of it may be with a lost node, and since which its slot moved.
        self.lost: dict[str, int] = {}
        self.moved: dict[str, int] = {}
        self.problems: list[str] = []
        self._owners: dict[str, str] = {}
        self._absent: dict[str, SimulatedNode] = {}
        self._cluster_id = ""
        self._destroyed: dict[str, None] = {}  # addresses of nodes that were lost with their disks
        # The newest ring, and how many rings had complete holders for all slots.
        self._ring = Ring.empty()
        self.copied_rings = 0
        # By epoch, the slots that waited for a lost node.
        self._waiting: dict[int, Sequence[WaitingRun]] = {}
        self.given_up = 0

    def _clock(self) -> MachineClock:
        return MachineClock(self.loop, self._rng.uniform(10.0, 1000.0), self._rng.uniform(-0.2, 0.2))

    @property
    def fencing(self) -> bool:
        """True if the ring has promised that its epochs are released: then moves of slots lose nothing."""
        return any(
            getattr(node.servers.ownership.slot_map, "released_epoch", 0) > 0
            for node in self.nodes
            if node.alive and hasattr(node, "servers")
        )

    # ---- what a loss can be explained by

    def _ring_changed(self, change: Change, cluster_id: str) -> None:
        self.network.record(change.kind, change.address, change.reason, change.ring.epoch)
        node = next((node for node in self.nodes if node.address == change.address), None)
        self._record_copies(change)
        self._record_new_cluster(cluster_id)
        if (
            change.ring.copies.target < 2
            and node is not None
            and change.kind == "Leave"
            # One that was stopped, and could give its writes neither to S3 nor to others in time, takes them along.
            and (change.reason != "left" or node.dirty_keys())
        ):
            self._absent[change.address] = node
        self.record_losses()
        if change.kind == "Join":
            self._absent.pop(change.address, None)
        self._record_moves(change.ring)

    def _record_copies(self, change: Change) -> None:
        """Record the keys of slots that were given up because all that had their writes were lost."""
        self._ring = max(self._ring, change.ring, key=lambda ring: ring.epoch)
        # Another router may have announced the ring that follows already.
        waiting = [part for epoch, parts in self._waiting.items() if epoch < change.ring.epoch for part in parts]
        self._waiting[change.ring.epoch] = change.ring.copies.waiting
        copies = change.ring.copies
        if copies.target > 1 and not copies.waiting and not change.ring.slots_with_missing_copies():
            self.copied_rings += 1
        if change.reason.endswith("are lost"):
            self.given_up += 1
            for key in self.keys:
                slot = slot_of(key.encode())
                if any(part.first <= slot <= part.last for part in waiting):
                    self.lost.setdefault(key, self.history.now())

    def _record_new_cluster(self, cluster_id: str) -> None:
        """Record all keys if the ring was lost: with all nodes and their disks, and the router that had it.

        No slot waits for a lost node then.
        """
        if self._cluster_id not in ("", cluster_id) and self._destroyed:
            self.given_up += 1
            for key in self.keys:
                self.lost.setdefault(key, self.history.now())
        self._cluster_id = cluster_id

    def record_losses(self) -> None:
        """Record the keys of the acknowledged writes that only absent nodes have."""
        for node in self._absent.values():
            for cache_key in node.dirty_keys():
                self.lost.setdefault(cache_key.decode(), self.history.now())

    def _record_moves(self, ring: Ring) -> None:
        for key in self.keys:
            owner = ring.owner(slot_of(key.encode())) if ring.members else ""
            if self._owners.get(key, owner) != owner:
                self.moved.setdefault(key, self.history.now())
            if owner:
                self._owners[key] = owner

    # ---- the run

    async def run(self) -> None:
        """Live through the plan, heal everything, and read every key."""
        for router in self.routers:
            router.start()
        joins = any(fault.kind is Kind.JOIN for fault in self.plan)
        first = self.nodes[: NODES - 1] if joins else self.nodes
        for node in first:
            node.start()
        await self._until(lambda: len({node.epoch for node in first} - {0}) == 1, START_SECONDS, "no first ring")
        began = self.loop.time()
        happening = [self.loop.create_task(self._happen(fault, began)) for fault in self.plan]
        calling = [
            self.loop.create_task(client.run(CALLS), context=client.process.context) for client in self.clients
        ]
        await asyncio.gather(*happening, *calling)
        await self._heal()
        await self._read_all()

    async def _until(self, reached: Callable[[], bool], seconds: float, problem: str) -> None:
        until = self.loop.time() + seconds
        while not reached():
            if self.loop.time() > until:
                self.problems.append(f"{problem} within {seconds:g} s")
                return
            await asyncio.sleep(0.1)

    async def _heal(self) -> None:
        for router in self.routers:
            if not router.alive:
                router.start()
        await self._until(lambda: not any(node.alive and node.stopping for node in self.nodes), 30.0, "no stop")
        for node in self.nodes:
            if not node.alive:
                node.start()
        await asyncio.sleep(2 * LEASE_SECONDS)
        await self._until(lambda: not self._ring.copies.waiting, 2 * WAIT_SECONDS, "slots wait for a lost node")
        await self._write_off()
        await self._until(self._is_healed, HEAL_SECONDS, "not all writes in S3 and one ring at all nodes")

    async def _write_off(self) -> None:
        """Write the nodes off that were lost with their disks, as a person does: see `Releases`."""
        router = self.routers[0]

        async def write_off() -> None:
            for address in self._destroyed:
                await router.leases.request_write_off(address)

        await self.loop.create_task(write_off(), context=router.process.context)

    def _is_healed(self) -> bool:
        self.record_losses()
        epochs = {node.epoch for node in self.nodes}
        return len(epochs) == 1 and 0 not in epochs and not any(node.dirty_keys() for node in self.nodes)

    async def _read_all(self) -> None:
        async def read(key: str) -> None:
            for _ in range(FINAL_READS):
                if await self.reader.get(key):
                    return
                await asyncio.sleep(0.5)
            self.problems.append(f"{key} could not be read after everything was healed")

        for key in self.keys:
            await self.loop.create_task(read(key), context=self.reader.process.context)
        for key in self.keys:
            found = self.s3.store.objects.get(Ref(BUCKET, key))
            value = None if found is None else bytes(found).decode()
            now = self.history.now()
            self.history.operations.append(Operation("S3", key, Call.GET, now, now, Outcome.OK, value))

    # ---- faults

    async def _happen(self, fault: Fault, began: float) -> None:
        await asyncio.sleep(began + fault.start - self.loop.time())
        self.network.record("begins:", fault)
        undo = self._begin(fault)
        if undo is None:
            return
        self.happened.append(fault)
        await asyncio.sleep(began + fault.stop - self.loop.time())
        self.network.record("is over:", fault)
        undo()

    def _begin(self, fault: Fault) -> Callable[[], None] | None:
        """Let `fault` begin; return what undoes it, None if it cannot happen now."""
        network, kind = self.network, fault.kind
        node = self.nodes[fault.one % NODES]
        other = self.nodes[(fault.one + 1 + fault.two % (NODES - 1)) % NODES]
        router = self.routers[fault.two % len(self.routers)]
        share = min(0.8, abs(fault.size))
        if kind in (Kind.NODE_PAUSE, Kind.ROUTER_PAUSE):
            process = node.process if kind is Kind.NODE_PAUSE else router.process
            if process is None or process.paused:
                return None
            self.loop.pause(process)
            return lambda: self.loop.resume(process)
        if kind is Kind.NODE_CRASH:
            if not node.serving:
                return None
            node.kill()
            return lambda: None if node.alive else node.start()
        if kind is Kind.NODE_LOST:
            if not node.serving or self.copies < 2 or (node.process and node.process.paused):
                return None
            self._lose(node)
            return lambda: None if node.alive else node.start()
        if kind in (Kind.OWNER_AND_SUCCESSOR_CRASH, Kind.OWNER_AND_SUCCESSOR_LOST):
            return self._end_owner_and_successor(fault)
        if kind is Kind.ROUTER_CRASH:
            if not router.alive:
                return None
            router.kill()
            return lambda: None if router.alive else router.start()
        if kind in (Kind.NODE_CLOCK, Kind.ROUTER_CLOCK):
            clock = node.clock if kind is Kind.NODE_CLOCK else router.clock
            clock.ahead += fault.size
            return _nothing
        if kind is Kind.NODE_DISK_SLOW:
            node.disk_slow = min(MAX_DISK_SLOW, abs(fault.size))
            return lambda: setattr(node, "disk_slow", 0.0)
        if kind is Kind.JOIN:
            if self.nodes[-1].alive:
                return None
            self.nodes[-1].start()
            return _nothing
        if kind is Kind.LEAVE:
            if not node.serving or (node.process and node.process.paused):
                return None
            node.stop()
            return _nothing
        if kind is Kind.BREAK:
            pairs = [(node.host, router.host), (node.host, other.host), (self.clients[0].process.host, node.host)]
            network.break_connections(*pairs[fault.two % 3])
            network.break_connections(*reversed(pairs[fault.two % 3]))
            return _nothing
        if kind is Kind.DUPLICATES:
            network.duplicates = share
            return lambda: setattr(network, "duplicates", 0.0)
        if kind is Kind.S3_SLOW:
            self.s3.slow = min(MAX_SLOW, abs(fault.size))
            return lambda: setattr(self.s3, "slow", 0.0)
        if kind is Kind.S3_FAILING:
            self.s3.failing = share
            return lambda: setattr(self.s3, "failing", 0.0)
        if kind is Kind.S3_AWAY:
            return self._disconnect((each.host, HOST) for each in self.nodes)
        if self.etcd is not None and kind in faults.ETCD:
            return self._break_etcd(self.etcd, kind, router)
        if kind is Kind.SLOW:
            pair = (node.host, router.host if fault.two % 2 else other.host)
            network.slow[pair] = min(1.0, abs(fault.size))
            return lambda: network.slow.pop(pair, None) and None
        return self._partition(fault, node, other, router)

    def _partition(
        self, fault: Fault, node: SimulatedNode, other: SimulatedNode, router: SimulatedRouter
    ) -> Callable[[], None]:
        kind, here = fault.kind, node.host
        if kind in (Kind.PARTITION_ROUTER_NODE, Kind.PARTITION_ROUTER_NODE_ONE_WAY):
            there = [router.host] if fault.two % 4 == 0 else [each.host for each in self.routers]
        elif kind in (Kind.PARTITION_NODES, Kind.PARTITION_NODES_ONE_WAY):
            there = [other.host]
        elif kind is Kind.ISOLATE_NODE:
            there = [each.host for each in (*self.routers, *self.nodes) if each is not node]
        elif kind is Kind.PARTITION_CLIENT:
            there = [client.process.host for client in self.clients[: 1 + fault.two % CLIENTS]]
        else:
            there = [HOST]
        directions = [(here, each) for each in there] + [(each, here) for each in there]
        if kind in (Kind.PARTITION_ROUTER_NODE_ONE_WAY, Kind.PARTITION_NODES_ONE_WAY):
            directions = directions[: len(there)] if fault.two % 2 else directions[len(there) :]
        elif kind is Kind.PARTITION_S3_ONE_WAY:
            directions = directions[len(there) :]
        return self._block(directions)

    def _disconnect(self, pairs: Iterable[tuple[str, str]]) -> Callable[[], None]:
        return self._block([each for one, two in pairs for each in ((one, two), (two, one))])

    def _block(self, directions: Sequence[tuple[str, str]]) -> Callable[[], None]:
        for each in directions:
            self.network.block(*each)

        def heal() -> None:
            for each in directions:
                self.network.unblock(*each)

        return heal

    def _break_etcd(self, etcd: Etcd, kind: Kind, router: SimulatedRouter) -> Callable[[], None] | None:
        if kind is Kind.PARTITION_ETCD:
            return self._disconnect([(router.host, etcd_host)])
        if kind is Kind.ETCD_WATCHES_SILENT:
            return etcd.silence_watches()
        if kind is Kind.ETCD_WATCHES_END:
            etcd.break_watches()
            return _nothing
        if etcd.electing:
            return None
        etcd.lose_leader()
        return etcd.elect

    def _lose(self, node: SimulatedNode) -> None:
        """End a node, and destroy its disk."""
        self._destroyed[node.address] = None
        node.lose()

    def _end_owner_and_successor(self, fault: Fault) -> Callable[[], None] | None:
        """End the owner of a key and the first complete holder of its slot, at once."""
        slot = slot_of(self.keys[fault.one % KEYS].encode())
        addresses = self._ring.owner(slot), self._ring.successor(slot)
        victims = [node for node in self.nodes if node.address in addresses and node.serving]
        if len(victims) < 2 or any(node.process and node.process.paused for node in victims):
            return None
        for node in victims:
            if fault.kind is Kind.OWNER_AND_SUCCESSOR_LOST:
                self._lose(node)
            else:
                node.kill()

        def start() -> None:
            for node in victims:
                if not node.alive:
                    node.start()

        return start


def _nothing() -> None:
    pass
