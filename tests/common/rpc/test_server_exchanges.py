"""Exchanges: calls on a stream that stays open, from the transport through the server, over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from milena_common.api.errors import FailedPrecondition, InvalidRequest, Overloaded, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc.channel import AsyncGrpcTransport
from milena_common.rpc.server import GrpcServer

SOON = 10.0
MAX_EXCHANGES = 2


class JoinServer:
    """A server whose Join and KeepLease reply with the number of requests so far as the epoch."""

    def __init__(self) -> None:
        self.calls = CallCounts(("join",))
        self.requests: list[str] = []
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.server = GrpcServer("router_server.Router", 1000, ByteBudget(10_000), 5, 0, MAX_EXCHANGES)
        self.address = self.server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")

    async def join(self, request: pb.JoinRequest, _: float | None) -> bytes:
        self.requests.append(request.address)
        self.entered.set()
        await self.go_on.wait()
        if not request.address:
            raise InvalidRequest("address: got ''")
        return pb.JoinResponse(epoch=len(self.requests)).SerializeToString()

    async def start(self, with_exchange: bool = True) -> None:
        method = {"join": ("join", pb.JoinRequest, self.join)}
        exchanges = {"KeepLease": method["join"]} if with_exchange else {}
        await self.server.start({"Join": method["join"]}, self.calls, {}, exchanges)


@asynccontextmanager
async def joined_server(with_exchange: bool = True) -> AsyncIterator[tuple[JoinServer, AsyncGrpcTransport]]:
    server = JoinServer()
    await server.start(with_exchange)
    transport = AsyncGrpcTransport(str(server.address))
    try:
        yield server, transport
    finally:
        await transport.close()
        await server.server.stop(0)


async def keep(transport: AsyncGrpcTransport, address: str = "n1:1", timeout: float = SOON) -> int:
    reply = await transport.exchange("KeepLease", pb.JoinRequest(address=address), timeout)
    assert isinstance(reply, pb.JoinResponse)
    return reply.epoch


async def test_each_request_has_its_reply_on_one_stream() -> None:
    async with joined_server() as (server, transport):
        assert [await keep(transport) for _ in range(3)] == [1, 2, 3]
        assert server.calls["join"].requests == 3
        assert sum(server.calls["join"].durations.counts) == 3


async def test_an_error_arrives_as_itself_and_the_next_request_opens_another_stream() -> None:
    async with joined_server() as (server, transport):
        await keep(transport)
        with pytest.raises(InvalidRequest, match="address: got ''"):
            await keep(transport, "")
        assert await keep(transport) == 3
        assert server.calls["join"].errors == {"invalid_argument": 1}


async def test_a_router_without_the_stream_is_called() -> None:
    async with joined_server(with_exchange=False) as (_, transport):
        assert [await keep(transport) for _ in range(2)] == [1, 2]


async def test_no_reply_in_time_ends_the_stream() -> None:
    async with joined_server() as (server, transport):
        server.go_on.clear()
        waiting = asyncio.ensure_future(keep(transport, timeout=0.05))
        await server.entered.wait()
        with pytest.raises(Exception, match=r"did not respond within 0\.05 s"):
            await waiting
        server.go_on.set()
        assert await keep(transport) == 2


async def test_a_server_that_stops_ends_its_streams_at_once_and_another_one_is_found() -> None:
    async with joined_server() as (server, transport):
        await keep(transport)
        await asyncio.wait_for(server.server.stop(SOON), SOON / 2)
        with pytest.raises(Unavailable):
            await keep(transport)


async def test_a_closed_transport_rejects_calls() -> None:
    async with joined_server() as (server, transport):
        server.go_on.clear()
        waiting = asyncio.ensure_future(keep(transport))
        await server.entered.wait()
        await transport.close()
        with pytest.raises(FailedPrecondition, match="closed"):
            await waiting
        with pytest.raises(FailedPrecondition, match="closed"):
            await keep(transport)


async def test_exchanges_are_bounded_and_take_no_room_from_calls() -> None:
    async with joined_server() as (server, transport):
        others = [AsyncGrpcTransport(str(server.address)) for _ in range(MAX_EXCHANGES)]
        try:
            for each in others:
                await keep(each)
            with pytest.raises(Overloaded, match="open streams 2 are at the limit 2"):
                await keep(transport)
            reply = await transport.call("Join", pb.JoinRequest(address="n1:1"), SOON)
            assert isinstance(reply, pb.JoinResponse)
        finally:
            for each in others:
                await each.close()


async def test_what_is_no_message_ends_the_stream_with_its_reason() -> None:
    async with joined_server() as (server, _), grpc.aio.insecure_channel(str(server.address)) as channel:
        stream = channel.stream_stream("/router_server.Router/KeepLease")()
        await stream.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError, match="is not a message of this method"):
            await asyncio.wait_for(stream.read(), SOON)
