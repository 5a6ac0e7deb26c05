"""A router over its real gRPC server, in front of fake nodes, on a fake clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from milena_common.access.access import Access
from milena_common.api.credentials import no_credentials
from milena_common.api.errors import MilenaError
from milena_common.api.methods import ROUTER_OPERATIONS
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.api.pb import router_server_pb2_grpc as pb_grpc
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.network.connecting import resolve_host
from milena_common.process.env import Environment
from milena_common.rpc.server import GrpcServer
from milena_common.rpc.status import from_grpc
from milena_common.tls.outgoing import PLAIN
from milena_router.config import load
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.redis.server import RedisServer
from milena_router.redis.topology import RouterTopology
from milena_router.ring.fast_death import FastDeath, members_confirm, ports_reject
from milena_router.ring.leases import Leases
from milena_router.ring.membership import Change, Membership
from milena_router.ring.watch_streams import MAX_WATCHERS, RingWatchers
from milena_router.service import MAX_LEASES, RouterService
from tests.router.fake_nodes import FakeNodes
from tests.support.fake_clock import FakeClock

MAX_VALUE_BYTES = 1000
SOON = 10.0


class Router:
    """`stub` calls it as any gRPC client does; `nodes` are the fakes behind it."""

    def __init__(self, rate_limit: float, *, direct_access: bool = True) -> None:
        self.clock = FakeClock()
        self.nodes = FakeNodes(self.clock, lambda _: b"")  # every field at its default
        self.config = replace(load(Environment({}), 2**30), max_value_bytes=MAX_VALUE_BYTES, rate_limit=rate_limit)
        membership = Membership(self.config.lease_seconds, self.clock.now())
        self.forwarder = Forwarder(membership, self.nodes.connect, self.clock)
        self.watchers = RingWatchers(membership, direct_access)

        def ring_changed(change: Change) -> None:
            self.forwarder.member_changed(change)
            self.watchers.wake_watchers()

        self.leases = Leases(membership, self.clock, ring_changed, self.watchers.wake_watchers)
        self.limiter = TokenBucket(rate_limit, self.clock.now())
        self.budget = ByteBudget(2**30)
        self.refusing: set[str] = set()  # addresses at which no process listens

        async def rejects_connections(address: str, _: float) -> bool:
            return address in self.refusing

        self.service = RouterService(
            self.config,
            self.leases,
            self.forwarder,
            self.limiter,
            self.clock,
            self.budget,
            FastDeath(
                self.leases,
                [
                    ports_reject(rejects_connections, self.clock),
                    members_confirm(self.leases, self.forwarder.request),
                ],
            ),
        )
        self.calls = CallCounts(ROUTER_OPERATIONS)
        self.access = Access(self.clock)
        upstreams = Upstreams(
            RouterTopology(
                self.leases, self.forwarder, PLAIN, JoinAddresses(resolve_host, (), self.clock), self.clock
            ),
            "milena-router",
            no_credentials,
            self.budget,
            self.clock,
            self.config.request_timeout,
        )
        self.redis = RedisServer(
            leases=self.leases,
            upstreams=upstreams,
            methods=self.service.methods(),
            access=self.access,
            limiter=self.limiter,
            budget=self.budget,
            clock=self.clock,
            timeout=self.config.request_timeout,
            max_value_bytes=MAX_VALUE_BYTES,
            max_connections=100,
        )
        self.address: Address
        self.stub: pb_grpc.RouterStub
        self.server = GrpcServer("router_server.Router", MAX_VALUE_BYTES, self.budget, 5, MAX_WATCHERS, MAX_LEASES)
        self.channel: grpc.aio.Channel

    async def join(self, *addresses: str, bucket: str = "photos") -> None:
        for address in addresses:
            await self.stub.Join(pb.JoinRequest(address=address, default_bucket=bucket), timeout=SOON)

    async def rejection(self, method: str, request: object) -> tuple[grpc.StatusCode, MilenaError]:
        """Status and error that a call which must fail gets."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(self.stub, method)(request, timeout=SOON)
        error = raised.value
        return error.code(), from_grpc(error.code(), error.details(), error.trailing_metadata())

    def requests_at_nodes(self) -> list[tuple[str, str, bytes]]:
        """(node, method, request) of everything that reached a node."""
        return [(node, method, sent) for node, fake in self.nodes.nodes.items() for method, sent, _ in fake.calls]


@asynccontextmanager
async def running_router(rate_limit: float = 0.0, *, direct_access: bool = True) -> AsyncIterator[Router]:
    router = Router(rate_limit, direct_access=direct_access)
    router.address = router.server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await router.server.start(
        router.service.methods(),
        router.calls,
        router.watchers.streams(),
        router.service.exchanges(),
        router.service.exchange_closed,
        router.service.pieces(),
    )
    try:
        async with grpc.aio.insecure_channel(str(router.address)) as router.channel:
            router.stub = pb_grpc.RouterStub(router.channel)
            yield router
    finally:
        router.watchers.end_streams()
        await router.server.stop(0)


def found(value: bytes, node: str) -> bytes:
    """A node's reply to a Get."""
    return cache_pb.GetResponse(
        successful=True, value=value, outcome="hit", age_seconds=1.5, etag='"e"', node=node, size=len(value)
    ).SerializeToString()
