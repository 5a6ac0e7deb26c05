"""Coordination. The RESP server: listens, accepts connections, and closes those that are idle or do not read.

A sweep every SWEEP_SECONDS does all that depends on time alone: it closes idle and stalled connections, and those
whose client's certificate is not accepted any more, rejects
commands for which there was no room in time, samples the rates for INFO, and notifies of objects that have expired.
Each connection's own work is in `connection`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from milena_cache.servers.resp.commands.server.info_sections import totals
from milena_cache.servers.resp.connection import Connection
from milena_cache.servers.resp.dispatch.admission import MAX_CLIENTS, MEMBER_SECONDS
from milena_cache.servers.resp.invalidations import Invalidations
from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_cache.servers.resp.state.client_registry import Client
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.permissions import PORT
from milena_common.access.access import LOGIN_SECONDS
from milena_common.access.principals import ANONYMOUS
from milena_common.network.addresses import Address
from milena_common.network.listening import bind, check_free, listen
from milena_common.network.security import PeerChain, ServerSecurity
from milena_common.network.spare_listener import SpareListener
from milena_common.resp.encoding import error_line

log = logging.getLogger(__name__)

# Connections that the system queues until they are accepted.
BACKLOG = 1024
SWEEP_SECONDS = 1.0
# After so many sweeps in which a client with unsent replies has read nothing, it is disconnected.
STALLED_SWEEPS = 20
# While stopping: the pause between two checks of the connections; a connection is closed after QUIET_SECONDS
# without a command, and all of them after LISTEN_SECONDS.
STOP_PAUSE_SECONDS = 0.02
QUIET_SECONDS = 0.3
LISTEN_SECONDS = 2.0


class RespServer:
    """The RESP server of one node."""

    def __init__(self, context: Context, invalidations: Invalidations) -> None:
        self.clients = context.clients
        self.tracking = context.tracking
        self.context = context
        self.invalidations = invalidations
        self._server: asyncio.Server | None = None
        self._tls_listener: SpareListener | None = None
        self._security: ServerSecurity | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._stalled: dict[int, int] = {}  # by connection id, for how many sweeps it has read nothing

    async def start(self, address: Address, check: Callable[[Address, str], None] = check_free) -> Address:
        """Listen, and return the address with the real port. Raises CannotListen.

        `check` raises it if the address, of the variable given, is in use; only a loop without sockets needs
        another one.
        """
        # Without this two processes could share the port: the loop sets SO_REUSEPORT, or a wildcard address is
        # hidden by a listener on one interface.
        check(address, "RESP_ADDR")
        clients = self.context.clients
        self._server, listens = await listen(
            lambda: Connection(self.context, self.context.plain_gets, clients.next_id()),
            address,
            "RESP_ADDR",
            backlog=BACKLOG,
        )
        self._begin()
        return listens

    def start_tls(self, address: Address, security: ServerSecurity) -> Address:
        """Listen for connections that `security` encrypts; otherwise as `start`."""
        check_free(address, "RESP_TLS_ADDR")
        self._security = security
        clients = self.context.clients
        sockets = bind(address, "RESP_TLS_ADDR")
        self._tls_listener = SpareListener(
            sockets,
            lambda: Connection(self.context, self.context.plain_gets, clients.next_id()),
            security,
            port="resp",
            spares=0,
        )
        self._tls_listener.start(BACKLOG)
        self._begin()
        return Address(address.host, sockets[0].getsockname()[1])

    def _begin(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.context.clock.sleep(SWEEP_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        """Do the periodic work: see the module's docstring."""
        self.invalidations.sweep()
        clients = self.context.clients
        stalled: dict[int, int] = {}
        for number in tuple(clients.slow):
            client = clients.by_id[number]
            unsent = client.unsent
            stuck = unsent == client.stalled_at and (unsent >= HIGH_WATER or client.session.closing)
            sweeps = self._stalled.get(number, 0) + 1 if stuck else 0
            client.stalled_at = unsent
            if sweeps < STALLED_SWEEPS:
                stalled[number] = sweeps
                continue
            log.warning(
                "a client does not read its replies, %d bytes are unsent: disconnected; addr=%s user=%s name=%r",
                unsent,
                client.session.addr,
                client.session.principal.name,
                client.session.name,
            )
            client.disconnect("output")
        self._stalled = stalled
        self.context.rates.sample(self.context.clock.now(), totals(self.context))
        now = self.context.clock.now()
        for client in tuple(clients.by_id.values()):
            if client.no_room_since and client.no_room_since < now - self.context.timeout:
                client.no_room()
            session = client.session
            if session.chain is not None and not session.closing:
                self._check_certificate(client, session.chain)
            no_member = session.over_limit and not session.identified
            if not session.principal.authenticated and session.created_at < now - LOGIN_SECONDS:
                self.context.permissions.access.timed_out(session.addr, PORT)
                client.disconnect("login")
                continue
            if no_member and session.created_at < now - MEMBER_SECONDS:
                client.push(error_line(MAX_CLIENTS))
                client.finish()
        idle = self.context.config.resp_idle
        if idle:
            latest = self.context.clock.now() - idle
            for client in tuple(clients.by_id.values()):
                number, session = client.session.id, client.session
                if session.last_at < latest and not (
                    session.tracking or session.subscribed or client.waits or number in clients.slow
                ):
                    client.disconnect("idle")

    def _check_certificate(self, client: Client, chain: PeerChain) -> None:
        """End a connection whose certificate is not accepted any more, after its commands in flight."""
        if self._security is not None and not self._security.accepts(chain):
            self.clients.disconnects["certificate"] += 1
            client.finish()

    def users_changed(self) -> None:
        """Bring the connections to the present table of users; those end whose user or password is gone.

        Commands in flight finish first, so that a password can be replaced under load. What has not begun, has not.
        """
        access = self.context.permissions.access
        for client in tuple(self.clients.by_id.values()):
            session = client.session
            certificate = session.certificate
            session.anonymous = access.principal_of(certificate.names if certificate is not None else ())
            unchanged = session.principal.how in ("none", "certificate") and not session.principal.is_cluster
            principal = session.anonymous if unchanged else access.renewed(session.principal)
            if principal is None:
                session.principal = ANONYMOUS
                client.finish()
            elif principal != session.principal:
                session.principal = principal
        clients, may_listen = self.clients.by_id, self.context.permissions.may_listen
        for number in self.context.channels.denied(
            lambda number, kind, name: may_listen(clients[number].session, kind, name)
        ):
            clients[number].disconnect("killed")

    def slots_changed(self, slots: Collection[int]) -> None:
        """Notify tracking clients that this node has lost, stopped or gained `slots`."""
        self.invalidations.slots_changed(slots)

    def fence_changed(self) -> None:
        """Notify tracking clients that this node has lost or gained all its slots."""
        self.invalidations.fence_changed()

    async def stop(self, grace: float) -> None:
        """Accept no new connections, and give the commands in flight up to `grace` seconds."""
        if self._sweeper is None:
            return
        self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        if self._tls_listener is not None:
            self._tls_listener.close()
        clients = self.context.clients
        clock = self.context.clock
        started = clock.now()
        # Closing at once would lose commands: (1) this node has left the ring; (2) a client with an older ring
        # sends a command; (3) the connection is closed, and it is unknown to the client whether a write was done.
        # Open a little longer, the connection replies MOVED, and the client goes to the new owner.
        while clients.by_id and clock.now() < started + grace:
            now = clock.now()
            for client in tuple(clients.by_id.values()):
                if now - client.session.last_at >= QUIET_SECONDS or now >= started + LISTEN_SECONDS:
                    client.finish()
            await clock.sleep(STOP_PAUSE_SECONDS)
        for client in tuple(clients.by_id.values()):
            client.disconnect("killed")
        if self.context.forwarder is not None:
            await self.context.forwarder.upstreams.close()
        await self.context.publisher.close()
