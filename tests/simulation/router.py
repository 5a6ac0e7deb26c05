"""Coordination. A router of a simulation: the real ring and its real methods, and the calls to it in place of gRPC.

`RouterConnection` stands at the seam `RouterTransport`: requests and responses are serialized and travel on wires
of the simulated network; a call is answered within its timeout or fails as over gRPC. A request whose caller has
given up may still arrive, with its whole timeout and the cancellation behind it, and while messages are duplicated
a renewal may arrive a second time, later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any, cast

from google.protobuf.message import Message

from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeUnreachable, Unavailable
from milena_common.api.methods import JOIN, KEEP_LEASE, METHODS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.process.env import Environment
from milena_common.resp.identity import Identity
from milena_router.config import Config, load
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.node_connection import NodeConnection, RespNodeConnection
from milena_router.ring.abandoning import AbandonedMoves
from milena_router.ring.fast_death import FastDeath, members_confirm, ports_reject
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from milena_router.ring.recovery import Recovery
from milena_router.ring.watch_streams import RingWatchers
from milena_router.service import RouterService
from milena_router.shared.shared_leases import SharedLeases
from tests.simulation.etcd import Etcd, RouterStore
from tests.simulation.loop import Process, here
from tests.simulation.machine import MachineClock
from tests.simulation.network import SYSTEM, Network, Wire

LEASE_SECONDS = 2.0
# RECOVERY_WAIT_SECONDS
WAIT_SECONDS = 10.0
CONFIG: Config = replace(
    load(Environment({"LEASE_SECONDS": str(LEASE_SECONDS), "RATE_LIMIT": "0"}), 2**30), ring_recovery=2.5
)
RENEWALS = (JOIN.name, KEEP_LEASE.name)
# Virtual seconds after which a duplicate of a request arrives, at most.
MAX_LATE = 3.0
_RESPONSES = {method.name: method.router.response for method in METHODS if method.router}


class SimulatedRouter:
    """The router on the machine `host`, one process after the other.

    `on_change` is called after every change, with the id of the cluster.
    """

    def __init__(
        self,
        network: Network,
        host: str,
        rng: Random,
        clock: MachineClock,
        on_change: Callable[[Change, str], None],
        etcd: Etcd | None,
    ) -> None:
        """`etcd`: what all routers keep their ring in, None for a router alone."""
        self.host = host
        self.address = f"{host}:50050"
        self.clock = clock
        self.connections: dict[RouterConnection, None] = {}
        self._network = network
        self._rng = rng
        self._on_change = on_change
        self._etcd = etcd
        self._starts = 0
        self.process: Process
        self.leases: Leases
        self.service: RouterService
        self.handlers: Mapping[str, tuple[str, type[Message], Any]]

    @property
    def alive(self) -> bool:
        return not self.process.killed

    def start(self) -> None:
        """Start a process; it knows nothing of the one before."""
        self._starts += 1
        self.process = Process(f"{self.host}.{self._starts}", self.host)
        self._network.client(self.process)
        self._network.loop.call_soon(self._begin, context=self.process.context)

    def _begin(self) -> None:
        clock = self.clock
        rng = self._rng

        def new_recovery() -> Recovery:
            return Recovery(CONFIG.lease_seconds, CONFIG.ring_recovery)

        cluster_id = f"{rng.getrandbits(128):032x}"
        membership = Membership(CONFIG.lease_seconds, clock.now(), new_recovery(), cluster_id, WAIT_SECONDS)
        forwarder = Forwarder(membership, _connect, clock)
        watchers = RingWatchers(membership, CONFIG.direct_access, CONFIG.max_value_bytes)

        def ring_changed(change: Change) -> None:
            forwarder.member_changed(change)
            watchers.wake_watchers()
            self._on_change(change, membership.cluster_id)

        if self._etcd is None:
            leases = Leases(membership, clock, ring_changed, watchers.wake_watchers)
        else:
            store = RouterStore(self._etcd, self._network)
            leases = SharedLeases(
                membership,
                clock,
                store,
                ring_changed,
                watchers.wake_watchers,
                new_recovery,
                lambda: rng.randbytes(16),
                rng.random,
            )
        self.leases = leases
        proofs = [
            ports_reject(self._network.rejects_connections, clock),
            members_confirm(leases, forwarder.request),
        ]
        fast_death = FastDeath(leases, proofs)
        limiter, budget = TokenBucket(0, clock.now()), ByteBudget(2**30)
        service = self.service = RouterService(CONFIG, leases, forwarder, limiter, clock, budget, fast_death)
        self.handlers = {**service.methods(), **service.exchanges(), **watchers.streams()}
        self._network.loop.create_task(leases.run())
        self._network.loop.create_task(AbandonedMoves(leases, forwarder.request, clock).run())

    def kill(self) -> None:
        self._network.loop.kill(self.process)
        for each in list(self.connections):
            each.break_off()


class _NoGrpc:
    """The `NodeConnection` that has the calls which do not go over RESP: none arrives."""

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        raise NodeUnreachable(f"cannot be reached: {method} over gRPC is not simulated")

    async def close(self, grace: float) -> None:
        pass


def _connect(address: str, addresses: Mapping[str, str], identity: Identity) -> NodeConnection:
    # Without addresses: a member that has just gone from the ring.
    return RespNodeConnection(addresses["resp"], _NoGrpc(), identity) if "resp" in addresses else _NoGrpc()


class RouterConnection:
    """Implements `RouterTransport`, of the process that creates it to one router."""

    def __init__(self, network: Network, router: SimulatedRouter) -> None:
        self._network = network
        self._router = router
        self._process = here()
        self._there = Wire(network, self._process.host, router.host)
        self._back = Wire(network, router.host, self._process.host)
        self._pending: dict[asyncio.Future[Any], None] = {}
        self._handling: dict[asyncio.Future[Any], asyncio.Task[None]] = {}
        self._streams: dict[asyncio.Queue[Any], asyncio.Task[None] | None] = {}
        self._renewed: dict[Process, Any] = {}  # by the router's process, the last renewal of the open stream
        router.connections[self] = None
        self._process.on_kill.append(self._killed)
        network.breakable.append((self._process.host, router.host, self.break_off))

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        network = self._network
        sent = request.SerializeToString()
        future: asyncio.Future[bytes] = network.loop.create_future()
        self._pending[future] = None
        network.record(self._process.name, method, self._router.host, sent)
        self._there.send(self._arrived, SYSTEM, method, sent, future, timeout)
        # A write is never sent twice by gRPC; a renewal may be, when a proxy or a new stream repeats it.
        if method in RENEWALS and network.duplicates and network.rng.random() < network.duplicates:
            late = network.rng.uniform(0.0, MAX_LATE)
            network.loop.call_later(late, self._arrived, method, sent, None, timeout, context=SYSTEM)
        try:
            response = await asyncio.wait_for(future, timeout)
        except TimeoutError:
            self._there.send(self._given_up, SYSTEM, future)
            raise DeadlineExceeded(f"the router did not respond within {timeout:.3g} s") from None
        finally:
            self._pending.pop(future, None)
        return _RESPONSES[method].FromString(response)

    exchange = call

    async def watch(self, method: str, request: Message) -> AsyncGenerator[Any, None]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._streams[queue] = None
        self._there.send(self._watch_arrived, SYSTEM, method, request.SerializeToString(), queue)
        try:
            while True:
                received = await queue.get()
                if isinstance(received, Exception):
                    raise received
                yield _RESPONSES[method].FromString(received)
        finally:
            self._there.send(self._unwatched, SYSTEM, queue)

    async def close(self) -> None:
        self.break_off()

    def break_off(self) -> None:
        """Break the connection: calls in flight and streams fail when this side hears of it."""
        pending, streams = list(self._pending), list(self._streams)
        self._there.send(self._streams_broke, SYSTEM, streams)
        self._back.send(self._broken, self._process.context, pending, streams)

    def _broken(self, pending: list[asyncio.Future[Any]], streams: list[asyncio.Queue[Any]]) -> None:
        for future in pending:
            if not future.done():
                future.set_exception(Unavailable("the router broke off the call"))
        for queue in streams:
            queue.put_nowait(Unavailable("the router ended the stream"))

    # ---- at the router

    def _arrived(self, method: str, sent: bytes, future: asyncio.Future[bytes] | None, timeout: float) -> None:
        router = self._router
        if not router.alive:
            self._reply(future, Unavailable(f"{router.address} refused the connection"))
            return
        self._network.loop.call_soon(self._serve, method, sent, future, timeout, context=router.process.context)

    def _serve(self, method: str, sent: bytes, future: asyncio.Future[bytes] | None, timeout: float) -> None:
        _, message, handler = self._router.handlers[method]
        request = message.FromString(sent)
        if method == KEEP_LEASE.name and future is not None:
            self._renewed[here()] = request
        task = self._network.loop.create_task(self._handle(handler, request, future, timeout))
        if future is not None:
            self._handling[future] = task
            task.add_done_callback(lambda _: self._handling.pop(future, None))

    def _given_up(self, future: asyncio.Future[bytes]) -> None:
        if self._router.alive:
            self._network.loop.call_soon(self._cancel, future, context=self._router.process.context)

    def _cancel(self, future: asyncio.Future[bytes]) -> None:
        if (task := self._handling.get(future)) is not None:
            task.cancel()

    def _killed(self) -> None:
        self._there.send(self._streams_broke, SYSTEM, list(self._streams))

    def _streams_broke(self, streams: list[asyncio.Queue[Any]]) -> None:
        """Have the router notice that `streams` ended; one that was begun since then is on another connection."""
        for queue in streams:
            self._unwatched(queue)
        router = self._router
        request = self._renewed.pop(router.process, None)
        if request is not None and router.alive:
            self._network.loop.call_soon(router.service.exchange_closed, request, context=router.process.context)

    async def _handle(
        self, handler: Callable[[Any, float | None], Awaitable[bytes]], request: Any, future: Any, timeout: float
    ) -> None:
        try:
            reply: bytes | Exception = await handler(request, timeout)
        except MilenaError as error:
            reply = error
        self._reply(future, reply)

    def _reply(self, future: asyncio.Future[bytes] | None, reply: bytes | Exception) -> None:
        if future is not None:
            self._back.send(self._received, self._process.context, future, reply)

    def _received(self, future: asyncio.Future[bytes], reply: bytes | Exception) -> None:
        if future.done():
            return
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _watch_arrived(self, method: str, sent: bytes, queue: asyncio.Queue[Any]) -> None:
        router = self._router
        if not router.alive:
            self._back.send(
                queue.put_nowait, self._process.context, Unavailable(f"{router.address} refused the connection")
            )
            return
        self._network.loop.call_soon(self._begin_watch, method, sent, queue, context=router.process.context)

    def _begin_watch(self, method: str, sent: bytes, queue: asyncio.Queue[Any]) -> None:
        if queue not in self._streams:
            return
        _, message, handler = self._router.handlers[method]
        updates = cast("AsyncGenerator[bytes, None]", handler(message.FromString(sent), None))
        self._streams[queue] = self._network.loop.create_task(self._send_updates(updates, queue))

    async def _send_updates(self, updates: AsyncGenerator[bytes, None], queue: asyncio.Queue[Any]) -> None:
        context = self._process.context
        try:
            async for update in updates:
                self._network.record(self._router.process.name, "ring", self._process.name, update)
                self._back.send(queue.put_nowait, context, update)
        except MilenaError as error:
            self._back.send(queue.put_nowait, context, error)

    def _unwatched(self, queue: asyncio.Queue[Any]) -> None:
        task = self._streams.pop(queue, None)
        if task is not None:
            task.cancel()
