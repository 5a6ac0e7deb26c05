"""Shell. A bare client of a cache node's gRPC server, without router, ring or the client library.

Over gRPC a node serves any key without comparing it with its ring, so no ring is necessary.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import grpc

from milena_common.api.methods import FLUSH, GET, PUT
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.rpc.status import is_shed

_CALL_SECONDS = 5
_FLUSH_SECONDS = 600


def flush(address: str) -> None:
    """Wait until S3 has everything that the node at `address` has acknowledged."""

    async def wait() -> None:
        async with NodeServer(address) as server:
            await server.wait_flushed()

    asyncio.run(wait())


class NodeServer:
    """The client, for the event loop in which it is created."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._get: grpc.aio.UnaryUnaryMultiCallable[pb.GetRequest, pb.GetResponse]
        self._get = self._channel.unary_unary(
            GET.node_path, pb.GetRequest.SerializeToString, pb.GetResponse.FromString
        )
        self._put: grpc.aio.UnaryUnaryMultiCallable[pb.PutRequest, pb.PutResponse]
        self._put = self._channel.unary_unary(
            PUT.node_path, pb.PutRequest.SerializeToString, pb.PutResponse.FromString
        )
        self._flush: grpc.aio.UnaryUnaryMultiCallable[pb.FlushRequest, pb.FlushResponse]
        self._flush = self._channel.unary_unary(
            FLUSH.node_path, pb.FlushRequest.SerializeToString, pb.FlushResponse.FromString
        )

    async def get(self, key: bytes) -> pb.GetResponse:
        """Return the object; a call that an overloaded node did not begin is made again, as clients do."""
        while True:
            try:
                return await self._get(pb.GetRequest(key=key), timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if not is_shed(error.code(), error.details()):
                    raise

    async def put_object(self, key: bytes, value: bytes, durability: str) -> pb.PutResponse:
        request = pb.PutRequest(key=key, value=value, durability=durability)
        return await self._put(request, timeout=_CALL_SECONDS)

    async def wait_flushed(self) -> None:
        """Return when S3 has all acknowledged writes."""
        response = await self._flush(pb.FlushRequest(), timeout=_FLUSH_SECONDS)
        assert not response.remaining, f"{response.remaining} writes did not reach S3"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()
