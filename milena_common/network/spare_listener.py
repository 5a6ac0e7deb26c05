"""Shell. Accepts connections even while the process has no file descriptor left.

A process whose descriptors are all in use, by clients for example, cannot accept the connection of a health check
either: the check would fail, and the process would be killed although it serves those clients. So a listener here
holds a few descriptors in reserve. When no others are free, it closes one and accepts with it; it refills the
reserve as soon as descriptors are free again.

Between closing and accepting another part of the process may take the descriptor. Then the next one in reserve is
closed; with none left the listener retries after a pause, and the connection waits in the socket's backlog.

With TLS, a connection gets its protocol after the handshake. That begins when the client has sent something, until
when the connection takes next to no memory, and one begins in an iteration of the loop: it takes half a millisecond
of the processor, and when a thousand clients connect at once, others would wait for all of them. Silent connections
and handshakes in progress are bounded, in number and time: beyond MAX_SILENT and MAX_HANDSHAKES, the one that has
taken the longest is ended for a new one. While MAX_HANDSHAKES wait for their turn, no connection is accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from milena_common.network.encrypted import (
    HANDSHAKE_SECONDS,
    accept_encrypted,
    begins_with_tls,
    log_no_handshakes,
)
from milena_common.network.security import ServerSecurity

log = logging.getLogger(__name__)

# Descriptors in reserve: the number of health checks that can be served at the same time when no others are free.
SPARES = 8
# Connections that are accepted in one iteration of the loop.
ACCEPTED_AT_ONCE = 16
PAUSE_SECONDS = 0.2
LOG_AGAIN_SECONDS = 60.0
# Connections whose clients have not sent anything; each takes some 4 KiB.
MAX_SILENT = 4096
# Handshakes in progress; each takes some 100 KiB.
MAX_HANDSHAKES = 1024
# What a handshake may take at least, when its client has waited for its turn.
MIN_HANDSHAKE_SECONDS = 1.0
# No descriptor is left, in the process or on the machine.
NONE_LEFT = (errno.EMFILE, errno.ENFILE)
# No connection is waiting, or the waiting one was closed by its client.
NOTHING_THERE = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED)


class SpareListener:
    """Accepts connections on bound `sockets`, which it owns; `connection` returns each connection's protocol.

    - `security`: encrypts all connections; None: none.
    - `plain_too`: take connections that do not begin with a TLS handshake as they are.
    - `port`: what the port is called in metrics and logs.
    - `spares`: descriptors in reserve.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        connection: Callable[[], asyncio.Protocol],
        security: ServerSecurity | None = None,
        *,
        plain_too: bool = False,
        port: str = "http",
        spares: int = SPARES,
    ) -> None:
        self._sockets = sockets
        self._connection = connection
        self._security = security
        self._plain_too = plain_too
        self._port = port
        self._number_of_spares = spares
        self._spares: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._resuming: asyncio.TimerHandle | None = None
        # Silent connections and handshakes in progress, the oldest first.
        self._silent: dict[asyncio.Task[None], socket.socket] = {}
        self._handshakes: dict[asyncio.Task[None], socket.socket] = {}
        self._log_at = float("-inf")
        self._queued: deque[asyncio.Future[None]] = deque()  # of handshakes that may begin, the oldest first

    def start(self, backlog: int) -> None:
        """Listen. Raises OSError."""
        self._stock()
        if self._security is not None:
            log_no_handshakes(self._loop)
        for listening in self._sockets:
            listening.setblocking(False)
            listening.listen(backlog)
        self._resume()

    def close(self) -> None:
        """Stop accepting; accepted connections continue."""
        if self._resuming is not None:
            self._resuming.cancel()
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        while self._spares:
            os.close(self._spares.pop())

    def _stock(self) -> bool:
        """Refill the reserve of descriptors; False if there are not enough."""
        while len(self._spares) < self._number_of_spares:
            try:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return False
        return True

    def _resume(self) -> None:
        self._resuming = None
        self._stock()
        for listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _pause(self) -> None:
        """Stop reading for a while: a connection that cannot be accepted would wake the loop continuously."""
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
        if self._resuming is None:
            self._resuming = self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except OSError as error:
                if error.errno in NOTHING_THERE:
                    return
                if error.errno in NONE_LEFT:
                    self._say()
                    if self._spares:
                        os.close(self._spares.pop())
                        continue
                self._pause()
                return
            self._stock()
            task = self._loop.create_task(self._adopt(accepted))
            self._silent[task] = accepted
            task.add_done_callback(self._adopted)
            if len(self._silent) > MAX_SILENT:
                _end_oldest(self._silent)
            if len(self._queued) >= MAX_HANDSHAKES:
                self._pause()
                return

    def _adopted(self, task: asyncio.Task[None]) -> None:
        self._silent.pop(task, None)
        self._handshakes.pop(task, None)

    async def _adopt(self, accepted: socket.socket) -> None:
        security = self._security
        try:
            accepted.setblocking(False)
            until = self._loop.time() + HANDSHAKE_SECONDS
            if security is None or (not await begins_with_tls(accepted) and self._plain_too):
                await self._loop.connect_accepted_socket(self._connection, accepted)
                return
            await self._wait_to_begin(accepted)
            seconds = max(MIN_HANDSHAKE_SECONDS, until - self._loop.time())
            await accept_encrypted(self._connection, accepted, security.server_context(self._port), seconds)
        except OSError as error:
            if security is not None:
                security.count_rejection(self._port, error)
            accepted.close()  # without TLS: closed by its client already

    async def _wait_to_begin(self, accepted: socket.socket) -> None:
        """Return in an iteration of the loop in which no other handshake begins."""
        place = self._loop.create_future()
        self._queued.append(place)
        if len(self._queued) == 1:
            self._loop.call_soon(self._begin_next)
        # Those that wait are not among the oldest that are ended: (1) thousands of clients connect at once; (2) the
        # first of them are about to have their turn; (3) they would be ended for the last ones, and none would get
        # in.
        task = asyncio.current_task()
        assert task is not None
        self._silent.pop(task, None)
        await place
        self._handshakes[task] = accepted
        if len(self._handshakes) > MAX_HANDSHAKES:
            _end_oldest(self._handshakes)

    def _begin_next(self) -> None:
        place = self._queued.popleft()
        if not place.done():
            place.set_result(None)
        if self._queued:
            self._loop.call_soon(self._begin_next)

    def _say(self) -> None:
        now = self._loop.time()
        if now >= self._log_at:
            self._log_at = now + LOG_AGAIN_SECONDS
            log.error(
                "too many open files: this process has all that it may have open (ulimit -n, LimitNOFILE); %s",
                "only health checks and metrics are still accepted" if self._number_of_spares else "others wait",
            )


def _end_oldest(connections: dict[asyncio.Task[None], socket.socket]) -> None:
    with suppress(OSError):
        next(iter(connections.values())).shutdown(socket.SHUT_RDWR)
