"""Transports to several routers: calls and streams go on at the next one when a router is away."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager

import grpc
import pytest

from milena_common.api.errors import NoNodes, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.rpc.channel import AsyncGrpcTransport, GrpcTransport
from milena_common.rpc.failover import (
    AsyncFailoverTransport,
    FailoverTransport,
    async_router_transport,
    router_transport,
)
from milena_common.rpc.options import server_options
from milena_common.rpc.status import to_grpc
from tests.support.ports import ReservedPort

SOON = 10.0
GET = pb.GetRequest(key=b"k")


class Router:
    """A router that replies to Get with its name, or with an error, and ends WatchRing after one ring."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.empty = False

    def get(self, _: pb.GetRequest, context: grpc.ServicerContext) -> pb.GetResponse:
        self.calls += 1
        if self.empty:
            status, details, metadata = to_grpc(NoNodes("no node"))
            context.set_trailing_metadata(metadata)
            context.abort(status, details)
        return pb.GetResponse(successful=True, node=self.name)

    def watch(self, _: pb.WatchRingRequest, __: grpc.ServicerContext) -> Iterator[pb.RingUpdate]:
        yield pb.RingUpdate(cluster_id=self.name)


@contextmanager
def running(router: Router, port: int = 0) -> Iterator[str]:
    """Serve `router`; yield its address."""
    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(
            router.get,
            request_deserializer=pb.GetRequest.FromString,
            response_serializer=pb.GetResponse.SerializeToString,
        ),
        "WatchRing": grpc.unary_stream_rpc_method_handler(
            router.watch,
            request_deserializer=pb.WatchRingRequest.FromString,
            response_serializer=pb.RingUpdate.SerializeToString,
        ),
    }
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=server_options(1000))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("router_server.Router", handlers),))
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield f"127.0.0.1:{bound}"
        finally:
            server.stop(0).wait()


@pytest.fixture
def dead() -> Iterator[str]:
    with ReservedPort() as port:
        yield port.address


def node_of(response: object) -> str:
    assert isinstance(response, pb.GetResponse)
    return response.node


def test_one_address_needs_no_choice() -> None:
    assert isinstance(router_transport("a:1"), GrpcTransport)
    assert isinstance(router_transport("a:1,b:1"), FailoverTransport)
    assert isinstance(async_router_transport("a:1"), AsyncGrpcTransport)
    assert isinstance(async_router_transport("a:1,b:1"), AsyncFailoverTransport)


def test_a_call_that_was_not_sent_is_made_at_another_router(dead: str) -> None:
    router = Router("living")
    with running(router) as address:
        for _ in range(4):  # they begin with a router by chance
            with closing(router_transport(f"{dead},{address}")) as transport:
                assert node_of(transport.call("Get", GET, SOON)) == "living"
                assert node_of(transport.start("Get", GET, SOON).result(SOON)) == "living"
    assert router.calls == 8


async def test_a_call_of_an_event_loop_too(dead: str) -> None:
    router = Router("living")
    with running(router) as address:
        for _ in range(4):
            transport = async_router_transport(f"{dead},{address}")
            assert node_of(await transport.call("Get", GET, SOON)) == "living"
            await transport.close()
    assert router.calls == 4


def test_a_router_that_replies_with_an_error_is_kept(dead: str) -> None:
    first, second = Router("first"), Router("second")
    first.empty = second.empty = True
    with running(first) as one, running(second) as other, closing(router_transport(f"{one},{other}")) as transport:
        for _ in range(4):
            with pytest.raises(NoNodes):
                transport.call("Get", GET, SOON)
    assert sorted([first.calls, second.calls]) == [0, 4]


def test_when_all_are_away_each_is_tried_once(dead: str) -> None:
    with ReservedPort() as port, closing(router_transport(f"{dead},{port.address}")) as transport:
        with pytest.raises(Unavailable, match="cannot be reached"):
            transport.call("Get", GET, SOON)
        with pytest.raises(Unavailable, match="cannot be reached"):
            transport.start("Get", GET, SOON).result(SOON)


def test_a_stream_begins_again_at_another_router(dead: str) -> None:
    router = Router("living")
    with running(router) as address, closing(router_transport(f"{dead},{address}")) as transport:
        found: list[str] = []
        for _ in range(2):
            try:
                found += [ring.cluster_id for ring in transport.watch("WatchRing", pb.WatchRingRequest())]
            except Unavailable:
                continue
        assert "living" in found


async def test_a_stream_of_an_event_loop_too(dead: str) -> None:
    router = Router("living")
    with running(router) as address:
        transport = async_router_transport(f"{dead},{address}")
        found: list[str] = []
        for _ in range(2):
            try:
                async with aclosing(transport.watch("WatchRing", pb.WatchRingRequest())) as rings:
                    found += [ring.cluster_id async for ring in rings]
            except Unavailable:
                continue
        assert "living" in found
        await transport.close()
