"""Shell. The router's gRPC connection to one node.

Requests and answers are bytes here: the router builds the one and passes the other on as it came.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import grpc

from milena_common.errors import NodeLost
from milena_common.grpc_options import channel_options
from milena_common.status import from_grpc, is_answer


class NodeConnection(Protocol):
    """A way to call one node."""

    async def call(self, method: str, request: bytes, timeout: float) -> bytes:
        """The node's answer, within `timeout` seconds.

        Raises NodeLost if the node cannot be reached or does not answer, and what the node answered otherwise.
        """

    async def close(self, grace: float) -> None:
        """Break off what is still in hand after `grace` seconds; those calls raise NodeLost."""


class GrpcNodeConnection:
    """A `NodeConnection` over one gRPC channel, made at the first call."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def call(self, method: str, request: bytes, timeout: float) -> bytes:
        stub = self._methods.get(method)
        if stub is None:
            # Without serializers gRPC passes bytes through.
            stub = self._channel.unary_unary(f"/cache_server.Cache/{method}")
            self._methods[method] = stub
        try:
            return await stub(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if is_answer(error.trailing_metadata()):
                raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise NodeLost(f"cannot be reached: {error.details()}") from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NodeLost(f"did not answer within {timeout:.3g} s") from None
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise NodeLost("left the ring") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller gave up
            raise NodeLost("left the ring while it was asked") from None  # the channel was closed

    async def close(self, grace: float) -> None:
        await self._channel.close(grace)
