"""Shell. A node in the Redis protocol, for threads: each thread has a connection of its own.

No call waits for a node that cannot be reached, or for the resolution of its name. Whether it can be reached is
found out by a thread beside: at first use, and after a connection could not be made, with growing pauses. Until
then callers are told that there is none. A thread that ends takes its connections with it.
"""

from __future__ import annotations

# `getaddrinfo` imports it at its first use. A process that is forked while another thread does that never has it.
import encodings.idna  # noqa: F401
import logging
import random
import socket
import threading
from time import monotonic
from typing import Any
from weakref import WeakSet

from milena_client.core.limits import CONNECT_SECONDS
from milena_client.core.near_cache import NearCache
from milena_client.sync.near_cache_feed import NearListener
from milena_client.sync.socket import RespSocket
from milena_common.api.errors import NodeLost, WrongNode
from milena_common.network.addresses import parse_address
from milena_common.process.distribution import installed_version
from milena_common.resp.client_commands import greeting
from milena_common.resp.identity import ANY, Identity
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.forks import survive_forks

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.2, most=5.0)


class _Mine(threading.local):
    """The connection of the thread that looks."""

    socket: RespSocket | None = None


class RespNode:
    """The node at `address` (host:port of its Redis door); `who` begins the text of every error.

    `identity` is the node that must be there: another one refuses each connection before it is used.

    What is read is followed for `near`, if there is one. Thread-safe, and usable in a process that was forked from
    the one that made it.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: Identity = ANY,
        who: str = "",
        name: str = "milena-client",
        near: NearCache | None = None,
    ) -> None:
        self.address = address
        self._mine = _Mine()
        self._who = who
        self._commands = greeting(name, installed_version(), identity)
        self._lock = threading.Lock()
        self._sockets: WeakSet[RespSocket] = WeakSet()
        self._endpoint: tuple[int, Any] | None = None  # where it was reached
        self._looking = False
        self._failures = 0
        self._again_at = 0.0
        self._closed = False
        self._near = near
        # With a near cache there is one, or no endpoint; just after a fork an endpoint alone, and nothing is kept.
        self._listener: NearListener | None = None
        survive_forks(self)

    def current(self) -> RespSocket | None:
        """The calling thread's connection, if there is one."""
        connection = self._mine.socket
        return None if connection is None or connection.closed else connection

    def open(self, timeout: float) -> RespSocket | None:
        """The calling thread's connection, made within `timeout` seconds if need be. None: there is none.

        Unlike `current` it looks whether the node has ended it meanwhile: a write that is sent into the void might
        have been done, for all that one can know.
        """
        connection = self.current()
        if connection is not None:
            if not connection.ended():
                return connection
            connection.close()
        listener, endpoint = self._listener, self._endpoint
        if endpoint is None or (self._near is not None and listener is None):
            self._look()
        if endpoint is None:
            return None
        try:
            connection = self._connect(*endpoint, min(timeout, CONNECT_SECONDS), listener)
        except (NodeLost, WrongNode) as error:
            self._endpoint = None
            self._failed(error)
            return None
        with self._lock:
            if self._closed or listener is not self._listener:
                connection.close()
                return None
            self._sockets.add(connection)
        self._mine.socket = connection
        return connection

    def _connect(
        self, family: int, address: Any, timeout: float, listener: NearListener | None = None
    ) -> RespSocket:
        commands = (*self._commands, listener.follow) if listener is not None else self._commands
        return RespSocket(family, address, commands, timeout, self._who)

    def _failed(self, error: Exception | None = None) -> None:
        if isinstance(error, WrongNode) and not self._failures:
            log.warning("%s", error)
        self._failures += 1
        self._again_at = monotonic() + BACKOFF.delay(self._failures, random.random)

    def _look(self) -> None:
        """Find out whether the node can be reached, beside."""
        with self._lock:
            if self._looking or self._closed or monotonic() < self._again_at:
                return
            self._looking = True
        try:
            threading.Thread(target=self._find, name=f"milena looks for {self.address}", daemon=True).start()
        except RuntimeError:  # no thread can be had, as at the end of the process
            self._looking = False
            self._failed()

    def _find(self) -> None:
        try:
            host, port = parse_address(self.address)
            error: Exception = NodeLost("no address")
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                try:
                    self._reach(family, address)
                except (NodeLost, WrongNode) as refused:
                    error = refused
                else:
                    self._failures = 0
                    return
            raise error
        except (OSError, ValueError) as problem:
            self._failed(problem)
        finally:
            self._looking = False

    def _reach(self, family: int, address: Any) -> None:
        """Raises NodeLost if it cannot be reached there, WrongNode if another node is there."""
        listener, fresh = self._listener, None
        if self._near is None or listener is not None:
            self._connect(family, address, CONNECT_SECONDS, listener).close()
        else:
            fresh = NearListener(family, address, self._commands, CONNECT_SECONDS, self._near, self._unheard)
        with self._lock:
            if fresh is not None and self._near is not None:
                self._listener = listener = fresh
                self._retire()
                self._near.clear()
                fresh.start()
                if self._closed:
                    fresh.close()
            if self._listener is listener:
                self._endpoint = (family, address)

    def _unheard(self, listener: NearListener) -> None:
        """Nobody hears any more of what the connections of the threads read."""
        with self._lock:
            if self._listener is listener:
                self._endpoint = self._listener = None
                self._retire()

    def _retire(self) -> None:
        """Let threads make new connections: what is read from these is heard of by nobody."""
        for connection in self._sockets:
            connection.closed = True

    def forked(self) -> None:
        """Forget what belongs to the process from which this one was forked: connections, threads, their locks.

        Sockets are closed, and not shut down: the parent's connections go on, and end when the parent ends them.
        """
        self._mine = _Mine()
        self._lock = threading.Lock()
        for connection in list(self._sockets):
            connection.close()
        self._sockets = WeakSet()
        self._looking = False
        if self._listener is not None:
            self._listener.drop()
            self._listener = None

    def leave(self, *, lasting: bool = False) -> None:
        """Make no new connections, and end those that there are: their calls raise NodeLost.

        `lasting`: except calls that must not be broken off; their connections end with the threads' interest.
        """
        with self._lock:
            self._closed = True
            connections = [*self._sockets]
            if self._listener is not None:
                self._listener.close()
        for connection in connections:
            connection.shutdown(lasting=lasting)
