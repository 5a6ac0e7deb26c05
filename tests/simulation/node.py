"""Coordination. A node of a simulation: the parts that `milena_cache.app` makes, run as `__main__` does.

It has no gRPC server: routers, other nodes and clients use the RESP server, and `RouterConnection` is its way to
the routers. What `__main__` does besides is left out where nothing depends on it: metrics, probes of S3, logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random

from milena_cache.app import Membership, NodeParts, Servers, build, build_membership, build_servers, node_identity
from milena_cache.configuration.config import Config, load
from milena_cache.membership.coordinator import NodeDescription
from milena_cache.objects.lineage import LINEAGE_DIGITS
from milena_cache.origin.s3.clock import CorrectedClock, S3Clock
from milena_common.limits.byte_budget import ByteBudget
from milena_common.network.addresses import Address
from milena_common.process.env import Environment
from tests.simulation.loop import Process
from tests.simulation.machine import MachineClock, SimulatedDisk
from tests.simulation.network import Network
from tests.simulation.router import RouterConnection, SimulatedRouter
from tests.simulation.store import S3, NodeStore
from tests.support.conditions import made_conditions
from tests.support.memory_disk import Contents

BUCKET = "bucket"
GRPC_PORT, RESP_PORT = 50051, 6379
VARIABLES = {
    "ROUTER_ADDR": "10.0.0.1:50050",
    "AWS_REGION": "eu-central-1",
    "S3_BUCKET": BUCKET,
    "LRU_SIZE": "1000",
    "LRU_BYTES": "1MiB",
    "DIRTY_MAX_BYTES": "1MiB",
    "MAX_VALUE_BYTES": "64KiB",
    "REQUEST_TIMEOUT_SECONDS": "3",
    "S3_RETRIES": "2",
    "DRAIN_SECONDS": "3",
}
CONFIG: Config = load(Environment(VARIABLES), 2**30)
HANDOVER_PAUSE_SECONDS = 0.02
LEAVE_SECONDS = 1.0
LINGER_SECONDS = 0.3
STOP_GRACE_SECONDS = 2.0
FINISH_SECONDS = 2.0
SYNC_SECONDS = 1.0
COPY_SECONDS = 0.5


class SimulatedNode:
    """The node on the machine `host`, one process after the other, all with the journal in `contents`."""

    def __init__(
        self,
        network: Network,
        host: str,
        rng: Random,
        clock: MachineClock,
        s3: S3,
        routers: Sequence[SimulatedRouter],
        flush_delay: float,
        copies: int,
    ) -> None:
        self.host = host
        self.address = f"{host}:{GRPC_PORT}"
        self.resp_address = f"{host}:{RESP_PORT}"
        self.clock = clock
        self.contents = Contents()
        self.disk_slow = 0.0
        self.config = replace(CONFIG, flush_delay=flush_delay, copies=copies, copy_timeout=COPY_SECONDS)
        self._network = network
        self._rng = rng
        self._s3 = s3
        self._routers = {router.address: router for router in routers}
        self._starts = 0
        self._journal_id = self._new_id()
        self.process: Process | None = None
        self.stopping = False
        self.parts: NodeParts
        self.servers: Servers
        self._stop: asyncio.Event
        self._disk: SimulatedDisk

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.killed

    @property
    def serving(self) -> bool:
        """True while the process runs and is not about to leave."""
        return self.alive and not self.stopping

    @property
    def epoch(self) -> int:
        """The epoch of the ring that the process has; 0 without one."""
        return self.servers.ownership.epoch if self.alive and hasattr(self, "servers") else 0

    def dirty_keys(self) -> list[bytes]:
        """Return the keys of acknowledged writes that are not in S3, also of a process that was killed."""
        return [entry.key for entry in self.parts.dirty.values()] if hasattr(self, "parts") else []

    def start(self) -> None:
        self._starts += 1
        self.stopping = False
        self.process = Process(f"{self.host}.{self._starts}", self.host)
        self._network.loop.call_soon(self._begin, context=self.process.context)

    def _begin(self) -> None:
        self._network.loop.create_task(self._run())

    def kill(self) -> None:
        """End the process at once, as SIGKILL or a power failure does."""
        if self.process is not None and not self.process.killed:
            self._network.loop.kill(self.process)
            self._disk.killed()

    def _new_id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"

    def lose(self) -> None:
        """End the process at once, and destroy its disk."""
        self.kill()
        self.contents = Contents()
        self._journal_id = self._new_id()

    def stop(self) -> None:
        """Have the node hand over and leave, as SIGTERM does."""
        if self.process is not None and not self.stopping:
            self.stopping = True
            self._network.loop.call_soon(self._stop.set, context=self.process.context)

    async def _run(self) -> None:
        config, rng = self.config, self._rng
        clock = CorrectedClock(self.clock, S3Clock())
        store = NodeStore(self._s3, self._network, self.host)
        self._disk = SimulatedDisk(self.contents, rng, lambda: self.disk_slow)
        self._stop = stop = asyncio.Event()
        parts = self.parts = build(
            config,
            store,
            self._disk,
            clock,
            rng.random,
            budget=ByteBudget(config.max_in_flight_bytes),
            conditions=made_conditions(),
            lineage=f"{rng.getrandbits(4 * LINEAGE_DIGITS):0{LINEAGE_DIGITS}x}",
        )
        identity = node_identity(config, parts, f"{rng.getrandbits(128):032x}")
        servers = self.servers = build_servers(
            config, parts, self.address, identity, stop.is_set, rejects=self._network.rejects_connections
        )
        await parts.replay("simulated")
        # No call comes over gRPC; a router only finds out that something listens.
        listening = await asyncio.get_running_loop().create_server(asyncio.Protocol, self.host, GRPC_PORT)
        await servers.resp.start(Address(self.host, RESP_PORT), lambda address, variable: None)
        member = NodeDescription(
            address=self.address,
            node_id=identity.node_id,
            weight=config.weight,
            addresses={"resp": self.resp_address},
            default_bucket=BUCKET,
            journal_id=self._journal_id,
            copies=config.copies if config.copies > 1 else 0,
        )
        addresses = [Address(router.host, 50050) for router in self._routers.values()]
        membership = build_membership(
            parts,
            servers,
            member,
            addresses,
            lambda address: RouterConnection(self._network, self._routers[address]),
        )
        background = [asyncio.create_task(parts.writeback.run())]
        background += [asyncio.create_task(each.run()) for each in membership.registrations]
        background.append(asyncio.create_task(membership.promise_requests.run()))
        background.append(asyncio.create_task(membership.ring_offers.run()))
        watching = [asyncio.create_task(each.follow_ring()) for each in membership.registrations]
        await stop.wait()
        await self._leave(membership, background)
        for task in (*background, *watching):
            task.cancel()
        await parts.writeback.stop()
        await servers.handover.cancel_moves()
        await servers.copies.promotion.cancel_promoting()
        await servers.copies.replication.close()
        await servers.cluster_blocks.cancel_all()
        await membership.late_writes.cancel()
        servers.peer_listings.cancel()
        await servers.peers.close()
        await servers.copy_peers.close()
        await servers.block_peers.close()
        await servers.s3_peers.close()
        await asyncio.gather(*(each.close() for each in membership.registrations))
        await parts.journal.close()
        listening.close()
        assert self.process is not None
        self._network.loop.call_soon(self._network.loop.kill, self.process)

    async def _leave(self, membership: Membership, background: Sequence[asyncio.Task[None]]) -> None:
        parts, servers = self.parts, self.servers
        handover = servers.handover
        if handover.can_leave:
            handover.leaving = True
            for registration in membership.registrations:
                registration.renew_if_changed()
            until = parts.clock.now() + self.config.drain / 2
            promotion = servers.copies.promotion
            while (handover.has_slots or promotion.is_needed) and handover.can_leave and parts.clock.now() < until:
                await parts.clock.sleep(HANDOVER_PAUSE_SECONDS)
            handover.source.abort_all()
        parts.writes.draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(parts.journal.sync_barrier(), SYNC_SECONDS)
            await asyncio.wait_for(servers.copies.replication.wait_idle(), SYNC_SECONDS)
        await parts.flush_waiters.wait_flushed(None, self.config.drain)
        for task in background:
            task.cancel()
        await asyncio.gather(*(each.leave_ring(LEAVE_SECONDS) for each in membership.registrations))
        await asyncio.sleep(LINGER_SECONDS)
        await servers.resp.stop(STOP_GRACE_SECONDS)
        await parts.writes.finish(FINISH_SECONDS)
        await parts.node.finish()
        await parts.blocks.cancel_all()
        await parts.withheld.cancel_looks()
