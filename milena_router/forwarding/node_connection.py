"""Shell. The router's connections to one node: in the Redis protocol what is small and usual, over gRPC the rest.

Requests and answers are bytes here: the router builds the one and passes the other on as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final, Protocol

import grpc

from milena_common.api.errors import InternalError, NodeLost, NodeUnreachable, Overloaded
from milena_common.resp import client_commands
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.link import RespLink
from milena_common.resp.stream import NoReply
from milena_common.rpc.options import LARGE_REQUESTS, REQUEST_BYTES, channel_options
from milena_common.rpc.status import from_grpc, is_response

# What goes over the Redis protocol, where a call costs the router and the node a tenth of one over gRPC.
FAST: Final = frozenset(("Get", "Put", "Delete", "Invalidate"))
# Requests and answers above this many bytes go over gRPC. In the Redis protocol, which has one connection with its
# commands in order, a large request would hold up all others for that node while it is sent, and for as long as the
# node has no room for it; and when its caller gives up, what was handed to the connection would have to be sent all
# the same. Meanwhile the call has ended and its bytes are back in the budget, so the next large request would be in
# memory beside it. A gRPC call that is given up drops what it has not sent, and does not receive the rest.
LARGE_BYTES = 2**20
# How long a node whose Redis door does not answer holds up the first call, which then goes over gRPC.
CONNECT_SECONDS = 1.0
# A node that has not said a word for so long, with commands before it, is given a new connection.
SILENCE_SECONDS = 30.0
# How gRPC's details begin when no connection could be made: nothing says it but this text.
_NO_CONNECTION: Final = "failed to connect to all addresses"


class NodeConnection(Protocol):
    """A way to call one node."""

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        """The node's answer, within `timeout` seconds. `response_bytes`: its expected size, 0 if it is small.

        Raises NodeLost if the node cannot be reached or does not answer, WrongNode if another is there, Overloaded
        if it has not begun the call, and what the node answered otherwise.
        """

    async def close(self, grace: float) -> None:
        """Break off what is still in hand after `grace` seconds; those calls raise NodeLost."""


class GrpcNodeConnection:
    """A `NodeConnection` over one gRPC channel, made at the first call. Each call says for which node it is."""

    def __init__(self, address: str, identity: Identity = ANY) -> None:
        # gRPC makes a Metadata of any other sequence with each call, by ten calls of Python.
        self._metadata = grpc.aio.Metadata(*(identity.metadata() if identity != ANY else ()))
        self._channel = grpc.aio.insecure_channel(address, options=channel_options())
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        stub = self._methods.get(method)
        if stub is None:
            # Without serializers gRPC passes bytes through.
            stub = self._channel.unary_unary(f"/cache_server.Cache/{method}")
            self._methods[method] = stub
        metadata = self._metadata
        if method in LARGE_REQUESTS:
            metadata = grpc.aio.Metadata(*metadata, (REQUEST_BYTES, str(len(request))))
        try:
            response: bytes | None = await stub(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if is_response(error.trailing_metadata()):
                raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                # A call that finds no connection is not sent; one that loses its connection may have been done.
                kind = NodeUnreachable if (error.details() or "").startswith(_NO_CONNECTION) else NodeLost
                raise kind(f"cannot be reached: {error.details()}") from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NodeLost(f"did not answer within {timeout:.3g} s") from None
            if error.code() is grpc.StatusCode.CANCELLED:
                # By the node's gRPC, which ends calls that have waited for too long to be begun. A call that was
                # begun and is broken off, because the node ends, is UNAVAILABLE.
                raise Overloaded("the node has more calls than it can begin; nothing was done") from None
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise NodeLost("left the ring") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller gave up
            raise NodeLost("left the ring while it was asked") from None  # the channel was closed
        if response is None:  # gRPC drops it if the time ends while it arrives (grpc/grpc#23559)
            raise NodeLost(f"did not answer within {timeout:.3g} s")
        return response

    async def close(self, grace: float) -> None:
        await self._channel.close(grace)


class RespNodeConnection:
    """A `NodeConnection` in the Redis protocol, to the door at `address`; `other` has what does not go there.

    That is methods that are rare, requests and answers above LARGE_BYTES, and everything while the door cannot be
    reached, or another node is there.
    """

    def __init__(self, address: str, other: NodeConnection, identity: Identity = ANY) -> None:
        self._link = RespLink(address, timeout=SILENCE_SECONDS, identity=identity, name="milena-router")
        self._other = other
        self._closed = False

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        if self._closed:
            raise NodeLost("left the ring")
        fast = method in FAST and len(request) <= LARGE_BYTES and response_bytes <= LARGE_BYTES
        stream = self._link.stream if fast else None
        if stream is None and fast:
            started = monotonic()
            stream = await self._link.open(min(timeout / 2, CONNECT_SECONDS))
            timeout -= monotonic() - started
        if stream is None:
            return await self._other.call(method, request, timeout)
        try:
            response = await stream.call(client_commands.call(method, timeout, request), timeout)
        except NoReply as silence:
            raise NodeLost(str(silence)) from None
        if type(response) is not bytes:
            raise InternalError(f"the node answered {method} with what is no message: {response!r:.80}")
        return response

    async def close(self, grace: float) -> None:
        self._closed = True
        error = NodeLost("left the ring while it was asked")
        await asyncio.gather(self._link.close(grace, error), self._other.close(grace))


def connect(address: str, addresses: Mapping[str, str], identity: Identity) -> NodeConnection:
    """The connection to the node `identity` at `address`; `addresses` are those of its further doors, by name."""
    connection = GrpcNodeConnection(address, identity)
    return RespNodeConnection(addresses["resp"], connection, identity) if addresses.get("resp") else connection
