"""Shell. The router's connections to one node: RESP for small requests of frequent methods, gRPC for the rest.

Requests and responses are bytes here: the router builds requests, and passes responses on unparsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import grpc

from milena_common.access.principals import END_USER
from milena_common.api.credentials import END_USER_METADATA, CurrentCredentials, no_credentials
from milena_common.api.errors import (
    AccessDenied,
    InternalError,
    InvalidRequest,
    NodeLost,
    NodeUnreachable,
    Overloaded,
)
from milena_common.api.methods import LARGE_REQUESTS, METHODS, NODE_SERVICE
from milena_common.cluster.member import GRPC_TLS, RESP, RESP_TLS
from milena_common.network.addresses import parse_address
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.link import RespLink
from milena_common.resp.stream import NoReply
from milena_common.rpc.opening import NOT_BEGUN, no_connection, open_async_channel
from milena_common.rpc.options import REQUEST_BYTES
from milena_common.rpc.status import from_grpc, is_response, is_shed
from milena_common.tls.certificates import Certificates
from milena_common.tls.outgoing import PLAIN, Outgoing
from milena_router.forwarding.join_addresses import JoinAddresses

# The methods that use the Redis protocol, where a call costs router and node a tenth of one over gRPC.
FAST: Final = frozenset(method.name for method in METHODS if method.over_resp)
# The methods that the router calls because a user has called the same method of it.
OF_USERS: Final = frozenset(method.name for method in METHODS if method.router and method.node)
# Requests and responses above this many bytes go over gRPC. In the Redis protocol, with commands in order on one
# connection, a large request would delay all others for that node while it is sent, and while the node has no room
# for it; and when its caller gives up, the bytes passed to the connection would still have to be sent. Meanwhile
# the call has ended and its bytes are back in the budget, so the next large request would be in memory besides it.
# A cancelled gRPC call drops its unsent bytes, and does not receive the rest.
LARGE_BYTES = 2**20
# Seconds that the first call waits for a RESP connection; then it goes over gRPC.
CONNECT_SECONDS = 1.0
# Seconds of silence, with commands pending, after which the connection is replaced.
SILENCE_SECONDS = 30.0
# With TLS: seconds until a channel is closed after one with newer certificates was opened.
RETIRED_SECONDS = 60.0


def end_user_of(method: str) -> str:
    """Return for whom the present task calls `method` of a node; "" for the router itself.

    A write of a user invalidates its key at a new owner too, which is a call of the cluster's own.
    """
    return END_USER.get() if method in OF_USERS else ""


class NodeConnection(Protocol):
    """A way to call one node."""

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        """Return the node's response within `timeout` seconds. `response_bytes`: its expected size, 0 if small.

        Raises NodeLost if the node cannot be reached or does not respond, WrongNode if the address belongs to
        another one, Overloaded if the node has not started the call, and the error that the node returned
        otherwise.
        """

    async def close(self, grace: float) -> None:
        """Close the connection; calls still in flight after `grace` seconds raise NodeLost."""


class GrpcNodeConnection:
    """A `NodeConnection` over one gRPC channel, opened at the first call. Each call names the expected node.

    `certificates` encrypt it, and new ones take effect with a new channel; None: it is plain. `address` is "" for a
    node that must not be called. `credentials` returns what each call logs in with. `server_name`: the name in the
    node's certificate, "" if that is in `address`.
    """

    def __init__(
        self,
        address: str,
        identity: Identity = ANY,
        certificates: Certificates | None = None,
        credentials: CurrentCredentials = no_credentials,
        server_name: str = "",
    ) -> None:
        self._server_name = server_name
        self._credentials = credentials
        # gRPC converts any other sequence to a Metadata at each call, by ten Python calls.
        self._metadata = grpc.aio.Metadata(*(identity.metadata() if identity != ANY else ()))
        self._address = address
        self._certificates = certificates
        self._number = certificates.number if certificates is not None else 0
        self._channel = open_async_channel(address, certificates, server_name)
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def _renew(self) -> None:
        """Open a new channel for the new certificates; calls in flight end on the one before."""
        if self._certificates is None:
            return
        closing = asyncio.get_running_loop().create_task(self._channel.close(RETIRED_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        self._number = self._certificates.number
        self._channel = open_async_channel(self._address, self._certificates, self._server_name)
        self._methods = {}

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        if not self._address:
            raise NodeUnreachable("has announced no address with TLS, and this router calls no other (TLS=on)")
        if self._certificates is not None and self._certificates.number != self._number:
            self._renew()
        stub = self._methods.get(method)
        if stub is None:
            # Without serializers gRPC passes bytes through.
            stub = self._channel.unary_unary(f"/{NODE_SERVICE}/{method}")
            self._methods[method] = stub
        metadata = self._metadata
        credentials, end_user = self._credentials(), end_user_of(method)
        if method in LARGE_REQUESTS or credentials is not None or end_user:
            size = ((REQUEST_BYTES, str(len(request))),) if method in LARGE_REQUESTS else ()
            login = () if credentials is None else credentials.call_metadata()
            user = ((END_USER_METADATA, end_user.encode()),) if end_user else ()
            metadata = grpc.aio.Metadata(*metadata, *size, *login, *user)
        try:
            response: bytes | None = await stub(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if is_response(error.trailing_metadata()):
                raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                # A call that was not begun did nothing; one that lost its connection may have been done.
                details = error.details() or ""
                kind = NodeUnreachable if details.startswith(NOT_BEGUN) else NodeLost
                host = self._address.rpartition(":")[0].strip("[]")
                raise kind(
                    f"cannot be reached: {no_connection(details, self._certificates, host) or details}"
                ) from None
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NodeLost(f"did not respond within {timeout:.3g} s") from None
            if is_shed(error.code(), error.details()):
                raise Overloaded("the node has more calls than it can begin; nothing was done") from None
            if error.code() is grpc.StatusCode.CANCELLED:
                raise NodeLost(f"or a proxy before it broke off the call: {error.details()}") from None
            raise from_grpc(error.code(), error.details(), error.trailing_metadata()) from None
        except grpc.aio.UsageError:
            raise NodeLost("left the ring") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the caller gave up
            raise NodeLost("left the ring during the call") from None  # the channel was closed
        if response is None:  # gRPC drops it if the time ends while it arrives (grpc/grpc#23559)
            raise NodeLost(f"did not respond within {timeout:.3g} s")
        return response

    async def close(self, grace: float) -> None:
        for closing in self._closing:
            closing.cancel()
        await self._channel.close(grace)


class RespNodeConnection:
    """A `NodeConnection` in the Redis protocol, to the RESP server at `address`; `other` takes all other calls.

    `certificates` encrypt it; None: it is plain.

    Those are rare methods, requests and responses above LARGE_BYTES, and all calls while the RESP server cannot be
    reached or belongs to another node.
    """

    def __init__(
        self,
        address: str,
        other: NodeConnection,
        identity: Identity = ANY,
        certificates: Certificates | None = None,
        credentials: CurrentCredentials = no_credentials,
        server_name: str = "",
    ) -> None:
        self._link = RespLink(
            address,
            timeout=SILENCE_SECONDS,
            identity=identity,
            name="milena-router",
            security=certificates,
            server_name=server_name,
            credentials=credentials,
        )
        self._other = other
        self._closed = False

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        if self._closed:
            raise NodeLost("left the ring")
        fast = method in FAST and len(request) <= LARGE_BYTES and response_bytes <= LARGE_BYTES
        stream = self._link.stream if fast else None
        if stream is None and fast:
            now = asyncio.get_running_loop().time
            started = now()
            stream = await self._link.open(min(timeout / 2, CONNECT_SECONDS))
            timeout -= now() - started
        if stream is None:
            return await self._other.call(method, request, timeout)
        try:
            response = await stream.call_method(method, request, timeout, end_user=end_user_of(method))
        except NoReply as silence:
            raise NodeLost(str(silence)) from None
        if type(response) is not bytes:
            raise InternalError(f"the node's reply to {method} is not a message: {response!r:.80}")
        return response

    async def close(self, grace: float) -> None:
        self._closed = True
        error = NodeLost("left the ring during the call")
        await asyncio.gather(self._link.close(grace, error), self._other.close(grace))


class CheckedNodeConnection:
    """A `NodeConnection` that `make` makes at the first call, if `check` finds its addresses to be allowed."""

    def __init__(self, check: Callable[[], Awaitable[None]], make: Callable[[], NodeConnection]) -> None:
        self._check = check
        self._make = make
        self._made: NodeConnection | None = None
        self._closed = False

    async def call(self, method: str, request: bytes, timeout: float, response_bytes: int = 0) -> bytes:
        if self._made is None:
            try:
                await self._check()
                if self._closed:
                    raise NodeLost("left the ring")
                self._made = self._made or self._make()
            except (AccessDenied, InvalidRequest) as error:
                raise NodeUnreachable(f"must not be called: {error}") from None
        return await self._made.call(method, request, timeout, response_bytes)

    async def close(self, grace: float) -> None:
        self._closed = True
        if self._made is not None:
            await self._made.close(grace)


def connect(
    address: str,
    addresses: Mapping[str, str],
    identity: Identity,
    outgoing: Outgoing = PLAIN,
    credentials: CurrentCredentials = no_credentials,
    allowed: JoinAddresses | None = None,
) -> NodeConnection:
    """Return a connection to the node `identity` at `address`; `addresses` are its other servers', by name.

    `outgoing`: whether it is encrypted. `credentials` returns what each connection or call logs in with. `allowed`
    checks addresses before they are called; None: all are allowed.
    """
    encrypted = addresses.get(GRPC_TLS, "")
    # With TLS=on the node's own address is the encrypted one.
    grpc_address, grpc_certificates = outgoing.choose("" if address == encrypted else address, encrypted)
    resp_address, resp_certificates = outgoing.choose(addresses.get(RESP, ""), addresses.get(RESP_TLS, ""))

    def make() -> NodeConnection:
        where, name = _to_call(grpc_address, allowed)
        connection = GrpcNodeConnection(where, identity, grpc_certificates, credentials, name)
        if not resp_address:
            return connection
        where, name = _to_call(resp_address, allowed)
        return RespNodeConnection(where, connection, identity, resp_certificates, credentials, name)

    called = [*filter(None, (grpc_address, resp_address))]
    if allowed is None or not allowed.has_name(called):
        return make()
    return CheckedNodeConnection(lambda: allowed.check_all(called), make)


def _to_call(address: str, allowed: JoinAddresses | None) -> tuple[str, str]:
    """Return the address to call in place of `address`, and the name in the certificate there; "" for the same."""
    if allowed is None or not address:
        return address, ""
    where = allowed.to_call(address)
    return where, "" if where == address else parse_address(address).host
