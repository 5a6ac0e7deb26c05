"""Shell. A bare client of a cache node's gRPC door, without router, ring, retries or the client library."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import grpc

from milena_cache.servers.grpc.methods import SERVICE
from milena_common.api.pb import cache_server_pb2 as pb

_CALL_SECONDS = 5
_FLUSH_SECONDS = 600


def flush(address: str) -> None:
    """Wait until S3 has everything that the node at `address` has acknowledged."""

    async def wait() -> None:
        async with NodeServer(address) as server:
            await server.flush()

    asyncio.run(wait())


class NodeServer:
    """For the event loop that it is made in."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._get: grpc.aio.UnaryUnaryMultiCallable[pb.GetRequest, pb.GetResponse]
        self._get = self._channel.unary_unary(
            f"/{SERVICE}/Get", pb.GetRequest.SerializeToString, pb.GetResponse.FromString
        )
        self._put: grpc.aio.UnaryUnaryMultiCallable[pb.PutRequest, pb.PutResponse]
        self._put = self._channel.unary_unary(
            f"/{SERVICE}/Put", pb.PutRequest.SerializeToString, pb.PutResponse.FromString
        )
        self._flush: grpc.aio.UnaryUnaryMultiCallable[pb.FlushRequest, pb.FlushResponse]
        self._flush = self._channel.unary_unary(
            f"/{SERVICE}/Flush", pb.FlushRequest.SerializeToString, pb.FlushResponse.FromString
        )

    async def get(self, key: bytes) -> pb.GetResponse:
        return await self._get(pb.GetRequest(key=key), timeout=_CALL_SECONDS)

    async def put(self, key: bytes, value: bytes, durability: str) -> pb.PutResponse:
        request = pb.PutRequest(key=key, value=value, durability=durability)
        return await self._put(request, timeout=_CALL_SECONDS)

    async def flush(self) -> None:
        """Return when S3 has everything."""
        response = await self._flush(pb.FlushRequest(), timeout=_FLUSH_SECONDS)
        assert not response.remaining, f"{response.remaining} writes did not reach S3"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
