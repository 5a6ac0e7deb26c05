"""Shell. A node in the Redis protocol, for an event loop. Connects at first use, and reconnects when necessary.

Callers never wait long for a node that cannot be reached. They wait for the first connection, a second at most;
after a failure reconnects run in the background, with growing pauses, while calls fail at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from milena_common.api.credentials import CurrentCredentials, no_credentials
from milena_common.api.errors import MilenaError, NodeLost, WrongNode
from milena_common.network.connecting import open_connection
from milena_common.network.security import Security
from milena_common.process.distribution import installed_version
from milena_common.resp.client_commands import handshake
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.stream import RespStream
from milena_common.runtime.backoff import Backoff

log = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
# With two more round trips, and milliseconds of work on both sides.
CONNECT_TLS_SECONDS = 3.0
BACKOFF = Backoff(first=0.2, max_delay=5.0)


class Listener(Protocol):
    """Receives the events of a link's connections."""

    def opened(self, link: RespLink, requested_at: float) -> None:
        """Handle a new connection; the node has replied to a request sent at `requested_at`, monotonic seconds."""

    def lost(self, link: RespLink) -> None:
        """Handle the end of the connection."""

    def pushed(self, message: list[Any]) -> None:
        """Handle a push that is not a deferred reply: its kind, then its elements."""


class RespLink:
    """The node at `address` (host:port of its RESP server).

    `timeout`, in seconds, is for requests without one of their own, and `who` begins the text of every error.
    `identity` is the node that is expected: another one rejects the connection before it is used.
    `credentials` returns what each connection logs in with.
    `more` are commands that follow the handshake of each connection; it is not used before they have succeeded.
    `security` encrypts each connection; None: they are plain. `server_name` is the host that the node's certificate
    is for, if it is not that of `address`.

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
    ) -> None:
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
        self._room: asyncio.Event = asyncio.Event()
        self._failures = 0
        self._again_at = 0.0
        self._closed = False

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

    async def _connect(self) -> None:
        stream = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS if self._security is None else CONNECT_TLS_SECONDS):
                stream = await open_connection(
                    lambda: RespStream(self, self._timeout, self._who),
                    self.address,
                    self._security,
                    self._server_name,
                )
                await self._greet(stream)
        except (OSError, ValueError, MilenaError, asyncio.CancelledError) as error:
            reason = str(error) or f"no response within {CONNECT_SECONDS:g} s"
            if (
                self._security is not None
                and stream is not None
                and not stream.heard
                and isinstance(error, NodeLost)
            ):
                # The end of a handshake as a server sees it that rejects this side's certificate.
                reason = f"it ended the connection right after the TLS handshake: {self._security.hint()}"
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

    async def _greet(self, stream: RespStream) -> None:
        """Do the handshake. Raises MilenaError, and ends the connection, if the node rejects a command."""
        requested_at = monotonic()
        try:
            commands = handshake(self._name, installed_version(), self._identity, self._credentials())
            replies = await asyncio.gather(*[stream.request(command) for command in (*commands, *self._more)])
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except BaseException:
            stream.abort(NodeLost("the handshake did not finish"))
            raise
        if self._closed:
            stream.abort(NodeLost(f"{self._who}is not connected any more"))
            return
        self._failures = 0
        self.reached = True
        self._connected = self.stream = stream
        self._room.set()
        if self._listener is not None:
            self._listener.opened(self, requested_at)

    def paused(self) -> None:
        self.stream = None
        self._room.clear()

    def resumed(self) -> None:
        self.stream = None if self._closed else self._connected
        self._room.set()

    def lost(self, error: MilenaError) -> None:
        if self._connected is None:
            return  # before the end of its handshake
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
        if self._connecting is not None:
            self._connecting.cancel()
        if stream is None:
            return
        try:
            if grace:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stream.idle(), grace)
        finally:
            stream.abort(error)

    def break_off(self, error: MilenaError) -> None:
        """Fail all pending requests with `error`, except lasting calls."""
        if self._connected is not None:
            self._connected.break_off(error)
