"""Shell. The node's gRPC connection to one router: join and leave."""

from __future__ import annotations

from typing import Protocol

import grpc

from milena_common.grpc_options import channel_options
from milena_common.pb import router_server_pb2 as pb
from milena_common.status import from_grpc


class RouterConnection(Protocol):
    """A way to join and leave. Both raise a MilenaError if the router does not answer or refuses."""

    async def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinResponse: ...

    async def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveResponse: ...

    async def close(self) -> None: ...


class GrpcRouterConnection:
    """A `RouterConnection` over one gRPC channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        service = "/router_server.Router"
        self._join = self._channel.unary_unary(
            f"{service}/Join",
            request_serializer=pb.JoinRequest.SerializeToString,
            response_deserializer=pb.JoinResponse.FromString,
        )
        self._leave = self._channel.unary_unary(
            f"{service}/Leave",
            request_serializer=pb.LeaveRequest.SerializeToString,
            response_deserializer=pb.LeaveResponse.FromString,
        )

    async def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinResponse:
        try:
            return await self._join(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None

    async def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveResponse:
        try:
            return await self._leave(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None

    async def close(self) -> None:
        await self._channel.close()
