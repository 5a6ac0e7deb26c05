"""A port that demands certificates ends each connection by its age, since gRPC cannot end those of one client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc
import pytest

from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.byte_budget import ByteBudget
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.rpc import options
from milena_common.rpc.options import server_options
from milena_common.rpc.server import GrpcServer

SERVICE = "cache_server.Cache"
AT_MOST = 30.0


def test_only_ports_that_demand_certificates_do() -> None:
    named = {name for name, _ in server_options(1, verifies_clients=True)} - {name for name, _ in server_options(1)}
    assert named == {"grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"}


async def test_a_stream_ends_and_no_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    age = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 300)]
    monkeypatch.setattr(options, "_AGE", age)
    server = GrpcServer(SERVICE, 10**6, ByteBudget(10**8), 5, 10, verifies_clients=True)

    async def method(_: object, __: float | None) -> bytes:
        return b"done"

    async def stream(_: object, __: float | None) -> AsyncGenerator[bytes, None]:
        yield b"begun"
        await asyncio.Event().wait()

    address = server.bind(Address("127.0.0.1", 0), "LISTEN_ADDR")
    await server.start(
        {"Get": ("get", pb.GetRequest, method)},
        CallCounts(("get",)),
        {"Watch": ("get", pb.GetRequest, stream)},
    )
    try:
        async with grpc.aio.insecure_channel(str(address)) as channel:
            get = channel.unary_unary(f"/{SERVICE}/Get")
            watch = channel.unary_stream(f"/{SERVICE}/Watch")

            async def watched() -> grpc.StatusCode:
                try:
                    async for _ in watch(b"", timeout=AT_MOST):
                        pass
                except grpc.aio.AioRpcError as error:
                    return error.code()
                raise AssertionError("the stream has ended without an error")

            for _ in range(3):
                watching = asyncio.create_task(watched())
                while not watching.done():
                    assert await get(b"", timeout=AT_MOST) == b"done"
                assert watching.result() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)
