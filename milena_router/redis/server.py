"""Coordination. The router's server of the Redis protocol: listens, accepts connections, and sweeps them.

A sweep every SWEEP_SECONDS does all that depends on time alone: it ends connections that do not log in or do not
read, and rejects commands for which there was no room in time. While the process exceeds its budget of bytes in
flight, a connection that reads nothing is ended sooner: what it holds keeps the replies to others away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Final

from milena_common.access.access import LOGIN_SECONDS, Access
from milena_common.access.api_guard import ApiGuard
from milena_common.access.principals import ANONYMOUS
from milena_common.forwarding.call import request_to_owner
from milena_common.forwarding.routing import Forwarded
from milena_common.forwarding.topology import LEAVE_GRACE_SECONDS
from milena_common.forwarding.upstreams import Upstreams
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.network.addresses import Address
from milena_common.network.listening import bind, check_free, listen
from milena_common.network.security import PeerChain, ServerSecurity
from milena_common.network.spare_listener import SpareListener
from milena_common.process.distribution import installed_version
from milena_common.pubsub.channels import Kind
from milena_common.resp.identity import Identity
from milena_common.rpc.calls import Message, Method
from milena_common.runtime.clock import Clock
from milena_router.redis.api_calls import ApiCalls
from milena_router.redis.connection import MAX_UNSENT, Connection
from milena_router.redis.context import Context
from milena_router.redis.feeds import Feeds
from milena_router.redis.permissions import PORT, Permissions
from milena_router.ring.leases import Leases
from milena_router.ring.membership import EXITED, EXPIRED, Change

# Connections that the system queues until they are accepted.
BACKLOG: Final = 1024
SWEEP_SECONDS: Final = 1.0
# After so many sweeps in which a client with unsent replies has read nothing, it is disconnected; the second number
# is for while the process exceeds its budget of bytes in flight.
STALLED_SWEEPS: Final = 20
STALLED_SWEEPS_OVER_BUDGET: Final = 2
STOP_PAUSE_SECONDS: Final = 0.02
# The operations under which the port's commands are counted.
OPERATIONS: Final = ("get", "put", "delete", "refresh", "other")

log = logging.getLogger(__name__)


class RedisServer:
    """The server. `methods` are those of the router's gRPC service, which MILENA.CALL calls."""

    def __init__(
        self,
        *,
        leases: Leases,
        upstreams: Upstreams,
        methods: Mapping[str, tuple[str, type[Message], Method]],
        access: Access,
        limiter: TokenBucket,
        budget: ByteBudget,
        clock: Clock,
        timeout: float,
        max_value_bytes: int,
        max_connections: int,
    ) -> None:
        self._leases = leases
        self.upstreams = upstreams
        self.budget = budget
        self.limiter = limiter
        self.clock = clock
        self.timeout = timeout
        self.max_value_bytes = max_value_bytes
        self.calls = CallCounts(OPERATIONS)
        membership = leases.membership
        guard = ApiGuard(access, lambda: membership.default_bucket, clock.now)
        self.permissions = Permissions(access, guard, clock.now)
        self.api = ApiCalls(methods, guard, access, clock)
        self.connections: dict[int, Connection] = {}
        self.feeds = Feeds(upstreams, self.connections, clock, timeout)
        self.context = Context(
            access=access,
            clock=clock,
            ring=lambda: membership.ring,
            identity=lambda: Identity(membership.cluster_id, membership.default_bucket),
            calls=self.calls,
            version=installed_version(),
            max_connections=max_connections,
            request=self._request,
            default_bucket=lambda: membership.default_bucket,
            named=self.permissions.named,
            feeds=self.feeds,
            started_at=clock.now(),
        )
        self.disconnected = 0
        self._touched: list[Connection] = []
        self._stalled: dict[int, int] = {}  # by connection id, for how many sweeps it has read nothing
        self._server: asyncio.Server | None = None
        self._security: ServerSecurity | None = None
        self._tls_listener: SpareListener | None = None
        self._sweeper: asyncio.Task[None] | None = None
        access.on_change.append(self.users_changed)

    @property
    def default_bucket(self) -> str:
        return self._leases.membership.default_bucket

    def _request(self, forwarded: Forwarded, keys: list[bytes], argv: list[bytes]) -> Awaitable[bytes]:
        request, reply = request_to_owner(self.budget, forwarded, keys, argv, self.clock.now())
        self.upstreams.send_request(request)
        return reply

    # ---- listening

    async def start(self, address: Address) -> Address:
        """Listen, and return the address with the real port. Raises CannotListen."""
        check_free(address, "RESP_ADDR")
        self._server, listens = await listen(self._connection, address, "RESP_ADDR", backlog=BACKLOG)
        self._begin()
        return listens

    def start_tls(self, address: Address, security: ServerSecurity) -> Address:
        """Listen for connections that `security` encrypts; otherwise as `start`."""
        check_free(address, "RESP_TLS_ADDR")
        self._security = security
        sockets = bind(address, "RESP_TLS_ADDR")
        self._tls_listener = SpareListener(sockets, self._connection, security, port=PORT, spares=0)
        self._tls_listener.start(BACKLOG)
        self._begin()
        return Address(address.host, sockets[0].getsockname()[1])

    def _begin(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_for_ever())

    def _connection(self) -> Connection:
        self.context.opened += 1
        return Connection(self, self.context.opened)

    def opened(self, connection: Connection) -> bool:
        """Add a new connection; False if there are too many."""
        if len(self.connections) >= self.context.max_connections:
            self.context.rejected += 1
            return False
        session = connection.session
        self.connections[session.id] = connection
        self.context.sessions[session.id] = session, lambda: (connection.unsent, connection.unread)
        return True

    def closed(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self.connections.pop(connection.session.id, None)
        self.feeds.channels.end_all(connection.session)
        self.context.sessions.pop(connection.session.id, None)
        self._stalled.pop(connection.session.id, None)

    def too_slow(self, connection: Connection) -> None:
        """Disconnect a subscriber that does not read its messages."""
        log.warning(
            "a subscriber does not read its messages, %d bytes are unsent: disconnected; addr=%s user=%s name=%r",
            connection.unsent,
            connection.session.addr,
            connection.session.principal.name,
            connection.session.name,
        )
        self._disconnect(connection)

    # ---- replies

    def flush_soon(self, connection: Connection) -> None:
        """Have `connection.write_replies` called at the end of this iteration of the event loop.

        The replies of several nodes may arrive in one iteration: they are one write then.
        """
        if not self._touched:
            asyncio.get_running_loop().call_soon(self._flush)
        self._touched.append(connection)

    def _flush(self) -> None:
        touched, self._touched = self._touched, []
        for connection in touched:
            connection.write_replies()

    # ---- sweeping

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        """Do the periodic work: see the module's docstring."""
        self.feeds.follow_ring()
        now = self.clock.now()
        over = self.budget.used > self.budget.limit
        max_sweeps = STALLED_SWEEPS_OVER_BUDGET if over else STALLED_SWEEPS
        for number, connection in tuple(self.connections.items()):
            session = connection.session
            if connection.no_room_since and connection.no_room_since < now - self.timeout:
                connection.no_room()
            if not session.principal.authenticated and session.created_at < now - LOGIN_SECONDS:
                self.permissions.access.timed_out(session.addr, PORT)
                self._disconnect(connection)
                continue
            if session.chain is not None and not session.closing:
                self._check_certificate(connection, session.chain)
            held = connection.unsent_here
            stuck = held == connection.stalled_at and (held >= MAX_UNSENT or session.closing)
            sweeps = self._stalled.get(number, 0) + 1 if stuck else 0
            connection.stalled_at = held
            if sweeps < max_sweeps:
                self._stalled[number] = sweeps
                continue
            log.warning(
                "a client does not read its replies, %d bytes are unsent: disconnected; addr=%s user=%s name=%r",
                held,
                session.addr,
                session.principal.name,
                session.name,
            )
            self._disconnect(connection)

    def _check_certificate(self, connection: Connection, chain: PeerChain) -> None:
        """End a connection whose certificate is not accepted any more, after its commands in flight."""
        if self._security is not None and not self._security.accepts(chain):
            connection.finish()

    def _disconnect(self, connection: Connection) -> None:
        self.disconnected += 1
        connection.disconnect()

    def member_changed(self, change: Change) -> None:
        """Take the ring after `change`. A node whose lease is over gets no time to finish."""
        self.feeds.follow_ring()
        self.upstreams.follow_ring(0.0 if change.reason in (EXPIRED, EXITED) else LEAVE_GRACE_SECONDS)

    def users_changed(self) -> None:
        """Bring the connections to the present table of users; those end whose user or password is gone."""
        access = self.permissions.access
        for connection in tuple(self.connections.values()):
            session = connection.session
            certificate = session.certificate
            session.anonymous = access.principal_of(certificate.names if certificate is not None else ())
            unchanged = session.principal.how in ("none", "certificate") and not session.principal.is_cluster
            principal = session.anonymous if unchanged else access.renewed(session.principal)
            if principal is None:
                session.principal = ANONYMOUS
                connection.finish()
            elif principal != session.principal:
                session.principal = principal
        for number in self.feeds.channels.denied(self._may_listen):
            self._disconnect(self.connections[number])

    def _may_listen(self, number: int, kind: Kind, name: bytes) -> bool:
        return self.permissions.may_listen(self.connections[number].session, kind, name)

    async def stop_serving(self, grace: float) -> None:
        """Accept no new connections, and give the commands in flight up to `grace` seconds."""
        if self._sweeper is None:
            return
        self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        if self._tls_listener is not None:
            self._tls_listener.close()
        until = self.clock.now() + grace
        for connection in tuple(self.connections.values()):
            connection.finish()
        while self.connections and self.clock.now() < until:
            await self.clock.sleep(STOP_PAUSE_SECONDS)
        for connection in tuple(self.connections.values()):
            connection.disconnect()
        await self.feeds.close()
