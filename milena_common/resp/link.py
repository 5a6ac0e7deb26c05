"""Shell. A node in the Redis protocol, for an event loop. Connects at first use, and reconnects when necessary.

Callers never wait long for a node that cannot be reached. They wait for the first connection, a second at most;
after a failure reconnects run in the background, with growing pauses, while calls fail at once.

With TLS a connection is replaced when there are new certificates, since the node ends those whose authority was
removed: a new one is made, takes all further commands, and the one before ends when it has its replies.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from milena_common.api.credentials import CurrentCredentials, no_credentials
from milena_common.api.errors import MilenaError, NodeLost, WrongNode
from milena_common.network.connecting import open_connection
from milena_common.network.security import Security
from milena_common.process.distribution import installed_version
from milena_common.resp.client_commands import handshake, takes_sets
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.stream import Owner, RespStream
from milena_common.runtime.backoff import Backoff

log = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
# With two more round trips, and milliseconds of work on both sides.
CONNECT_TLS_SECONDS = 3.0
BACKOFF = Backoff(first=0.2, max_delay=5.0)
# Seconds between two looks for new certificates, and those that a replaced connection has for its replies.
RENEW_SECONDS = 1.0
RETIRED_SECONDS = 30.0


class Listener(Protocol):
    """Receives the events of a link's connections."""

    def opened(self, link: RespLink, requested_at: float) -> None:
        """Handle a new connection; the node has replied to a request sent at `requested_at`, monotonic seconds."""

    def lost(self, link: RespLink) -> None:
        """Handle the end of the connection."""

    def pushed(self, message: list[Any]) -> None:
        """Handle a push that is not a deferred reply: its kind, then its elements."""


class _Events:
    """Passes the events of `stream` on to `link` while that uses it."""

    __slots__ = ("link", "stream")

    def __init__(self, link: RespLink) -> None:
        self.link = link
        self.stream: RespStream | None = None

    @property
    def _in_use(self) -> bool:
        return self.stream is not None and self.link.uses(self.stream)

    def paused(self) -> None:
        if self._in_use:
            self.link.paused()

    def resumed(self) -> None:
        if self._in_use:
            self.link.resumed()

    def lost(self, error: MilenaError) -> None:
        if self._in_use:
            self.link.lost(error)

    def pushed(self, message: list[Any]) -> None:
        if self._in_use:
            self.link.pushed(message)


class RespLink:
    """The node at `address` (host:port of its RESP server).

    `timeout`, in seconds, is for requests without one of their own, and `who` begins the text of every error.
    `identity` is the node that is expected: another one rejects the connection before it is used.
    `credentials` returns what each connection logs in with.
    `more` are commands that follow the handshake of each connection; it is not used before they have succeeded.
    `security` encrypts each connection; None: they are plain. `server_name` is the host that the node's certificate
    is for, if it is not that of `address`. `make_stream` makes the stream of each connection.

    `reached`: True once a connection was established.

    `stream` takes the commands; None while there is no connection, or while the node does not keep up with
    reading: then `open` waits for it.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float,
        identity: Identity = ANY,
        who: str = "",
        name: str = "milena-client",
        more: Sequence[bytes] = (),
        listener: Listener | None = None,
        security: Security | None = None,
        server_name: str = "",
        credentials: CurrentCredentials = no_credentials,
        make_stream: Callable[[Owner, float, str, bytes], RespStream] = RespStream,
    ) -> None:
        self._make_stream = make_stream
        self._security = security
        self._server_name = server_name
        self.address = address
        self.stream: RespStream | None = None
        self.reached = False
        self.error: MilenaError | None = None  # why there is no connection
        self._timeout = timeout
        self._who = who
        self._name = name
        self._identity = identity
        self._more = more
        self._credentials = credentials
        self._listener = listener
        self._connected: RespStream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._context: ssl.SSLContext | None = None  # of the newest connection, or of the attempt to make one
        self._renewing: asyncio.Task[None] | None = None
        self._renewal_failed = False
        self._retiring: set[asyncio.Task[None]] = set()
        self._room: asyncio.Event = asyncio.Event()
        self._failures = 0
        self._again_at = 0.0
        self._closed = False

    @property
    def connected(self) -> bool:
        """Return True if there is a connection, also while the node does not keep up with reading."""
        return self._connected is not None

    async def open(self, timeout: float) -> RespStream | None:
        """Return the stream for commands, within `timeout` seconds; None, with the reason in `error`, if there is
        none.
        """
        if self.stream is not None:
            return self.stream
        if self._connected is not None:
            try:
                await asyncio.wait_for(self._room.wait(), timeout)
            except TimeoutError:
                self.error = NodeLost(f"{self._who}does not keep up with reading")
            return self.stream
        loop = asyncio.get_running_loop()
        if self._closed or loop.time() < self._again_at:
            return None
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
        if not self._failures:
            await asyncio.wait({self._connecting}, timeout=timeout)
        return self.stream

    def uses(self, stream: RespStream) -> bool:
        """Return True if `stream` is the present connection."""
        return stream is self._connected

    async def _connect(self) -> None:
        try:
            stream, requested_at = await self._establish()
            self._failures = 0
            self.reached = True
            self._use(stream, requested_at)
        except (OSError, ValueError, MilenaError, asyncio.CancelledError) as error:
            reason = str(error) or f"no response within {CONNECT_SECONDS:g} s"
            if isinstance(error, WrongNode):
                self.error = WrongNode(f"{self._who}is not at its address: {reason}")
                if not self._failures:
                    log.warning("%s", self.error)
            else:
                self.error = NodeLost(f"{self._who}cannot be reached: {reason}")
            self._failures += 1
            self._again_at = asyncio.get_running_loop().time() + BACKOFF.delay(self._failures, random.random)
        finally:
            self._connecting = None

    async def _establish(self) -> tuple[RespStream, float]:
        """Return a new connection after its handshake, and when that was sent, monotonic seconds.

        Raises OSError, ValueError, or MilenaError, also if the node rejects a command of the handshake.
        """
        events = _Events(self)

        def make() -> RespStream:
            events.stream = self._make_stream(events, self._timeout, self._who, self._identity.command())
            return events.stream

        security = self._security
        if security is not None:
            self._context = security.client_context()
        try:
            async with asyncio.timeout(CONNECT_SECONDS if security is None else CONNECT_TLS_SECONDS):
                stream = await open_connection(make, self.address, security, self._server_name)
                return stream, await self._greet(stream)
        except NodeLost:
            if security is not None and events.stream is not None and not events.stream.heard:
                # The end of a handshake as a server sees it that rejects this side's certificate.
                reason = f"it ended the connection right after the TLS handshake: {security.hint()}"
                raise NodeLost(reason) from None
            raise

    async def _greet(self, stream: RespStream) -> float:
        """Do the handshake, and return when it began. Raises MilenaError, and ends the connection, if it fails."""
        requested_at = monotonic()
        try:
            commands = handshake(self._name, installed_version(), self._identity, self._credentials())
            hello = self._identity.command()
            replies = await asyncio.gather(
                *[
                    stream.observe_time(stream.request(command)) if command == hello else stream.request(command)
                    for command in (*commands, *self._more)
                ]
            )
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            stream.takes_sets = takes_sets(replies[0])
        except BaseException:
            stream.abort(NodeLost("the handshake did not finish"))
            raise
        return requested_at

    def _use(self, stream: RespStream, requested_at: float) -> None:
        """Use `stream` from now on."""
        if self._closed or stream.closed:
            stream.abort(NodeLost(f"{self._who}is not connected any more"))
            return
        self._connected = self.stream = stream
        self._room.set()
        if self._security is not None:
            asyncio.get_running_loop().call_later(RENEW_SECONDS, self._look_at_certificates, stream)
        if self._listener is not None:
            self._listener.opened(self, requested_at)

    def _look_at_certificates(self, stream: RespStream) -> None:
        """Replace `stream`, if it is still in use, when it was not made with the newest certificates."""
        if self._closed or self._security is None or stream is not self._connected:
            return
        if self._security.client_context() is not self._context:
            if self._listener is None:
                self._renewing = asyncio.get_running_loop().create_task(self._renew(stream))
            elif stream.is_idle:
                # What a listener keeps belongs to one connection: (1) a read is sent on the one before; (2) the
                # new one counts as open; (3) the value is kept, and no connection reports its change. So the one
                # before ends first, and that while there is no command on it.
                stream.abort(NodeLost(f"{self._who}has a new connection, for new certificates"))
                return
        asyncio.get_running_loop().call_later(RENEW_SECONDS, self._look_at_certificates, stream)

    async def _renew(self, old: RespStream) -> None:
        before = self._context
        try:
            stream, requested_at = await self._establish()
        except (OSError, ValueError, MilenaError) as error:
            self._context = before  # for another attempt
            if not self._renewal_failed:
                log.warning("%s%s: no connection with the new certificates yet: %s", self._who, self.address, error)
            self._renewal_failed = True
            return
        finally:
            self._renewing = None
        self._renewal_failed = False
        if not self.uses(old):
            stream.abort(NodeLost(f"{self._who}is connected already"))
            return
        self._use(stream, requested_at)
        retiring = asyncio.get_running_loop().create_task(_retire(old, RETIRED_SECONDS))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)

    def paused(self) -> None:
        self.stream = None
        self._room.clear()

    def resumed(self) -> None:
        self.stream = None if self._closed else self._connected
        self._room.set()

    def lost(self, error: MilenaError) -> None:
        self.error = error
        self._connected = self.stream = None
        self._room.set()
        if self._listener is not None:
            self._listener.lost(self)

    def pushed(self, message: list[Any]) -> None:
        if self._listener is not None:
            self._listener.pushed(message)

    async def close(self, grace: float, error: MilenaError) -> None:
        """End the connection when no reply is pending any more, at the latest after `grace` seconds.

        Requests that are still pending then fail with `error`, and so does every later `open`.
        """
        self._closed = True
        self.error = error
        stream, self.stream = self._connected, None
        for task in (self._connecting, self._renewing):
            if task is not None:
                task.cancel()
        try:
            if grace and stream is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stream.idle(), grace)
        finally:
            for retiring in self._retiring:
                retiring.cancel()
            if stream is not None:
                stream.abort(error)

    def break_off(self, error: MilenaError) -> None:
        """Fail all pending requests with `error`, except lasting calls."""
        if self._connected is not None:
            self._connected.break_off(error)


async def _retire(stream: RespStream, grace: float) -> None:
    """End a connection when no reply is pending any more, at the latest after `grace` seconds."""
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(stream.idle(), grace)
    finally:
        stream.abort(NodeLost("the connection was replaced by one with new certificates"))
