"""Shell. A node in the Redis protocol, for threads: each thread has a connection of its own.

No call waits for a node that cannot be reached, or for the resolution of its name. A thread in the background
probes whether it can be reached: at first use, and after a connection could not be made, with growing pauses.
Until it has found an address, callers get no connection, and use the router. The connections of a thread are closed
when it ends.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
from time import monotonic
from weakref import WeakSet

from milena_client.core.limits import CONNECT_SECONDS
from milena_client.core.near_cache import NearCache
from milena_client.sync.near_cache_feed import NearCacheFeed
from milena_client.sync.socket import RespSocket
from milena_common.api.credentials import Credentials
from milena_common.api.errors import NodeLost, WrongNode
from milena_common.network.connecting import Endpoint, open_stream, resolve
from milena_common.network.security import Security
from milena_common.network.stream import Stream
from milena_common.process.distribution import installed_version
from milena_common.resp.client_commands import handshake
from milena_common.resp.identity import ANY, Identity
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.forks import survive_forks

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.2, max_delay=5.0)


class _OfThread(threading.local):
    """The connection of the calling thread, and what it was encrypted with."""

    socket: RespSocket | None = None
    context: ssl.SSLContext | None = None


class RespNode:
    """The node at `address`, host:port for the Redis protocol. Thread-safe, and usable in a forked process.

    - `identity`: the expected node; another one rejects each connection before it is used.
    - `error_prefix`: begins the text of every error.
    - `name`: what the connections are called in the node's lists.
    - `credentials`: what connections log in with; None: they do not.
    - `near`: the near cache for which the node tracks what is read; None: there is none.
    - `security`: encrypts the connections; None: they are plain.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: Identity = ANY,
        error_prefix: str = "",
        name: str = "milena-client",
        near: NearCache | None = None,
        security: Security | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self._host = address.rpartition(":")[0].strip("[]")
        self._security = security
        self._of_thread = _OfThread()
        self._error_prefix = error_prefix
        self._commands = handshake(name, installed_version(), identity, credentials)
        self._hello = identity.command()
        self._lock = threading.Lock()
        self._sockets: WeakSet[RespSocket] = WeakSet()
        self._endpoint: Endpoint | None = None  # where it was reached
        self._probing = False
        self._failures = 0
        self._probe_at = 0.0
        self._closed = False
        self._near = near
        # With a near cache: set whenever `_endpoint` is, except just after a fork, when nothing is kept.
        self._feed: NearCacheFeed | None = None
        survive_forks(self)

    def current(self) -> RespSocket | None:
        """Return the calling thread's connection, if there is one. It may have been ended by the node."""
        connection = self._of_thread.socket
        return None if connection is None or connection.closed else connection

    def open(self, timeout: float) -> RespSocket | None:
        """Return the calling thread's connection, made within `timeout` seconds if it has none; None: it cannot be.

        Unlike `current` it checks that the node has not ended the connection: for a write that was sent on one that
        had ended, it could not be known whether it was made.
        """
        connection = self.current()
        if connection is not None:
            if not (self._outdated() or connection.peer_closed()):
                return connection
            connection.close()
        feed, endpoint = self._feed, self._endpoint
        if endpoint is None or (self._near is not None and feed is None):
            self._start_probe()
        if endpoint is None:
            return None
        context = None if self._security is None else self._security.client_context()
        try:
            connection = self._connect(endpoint, min(timeout, CONNECT_SECONDS), feed)
        except (NodeLost, WrongNode) as error:
            self._endpoint = None
            self._failed(error)
            return None
        with self._lock:
            # (1) This connection was made, its invalidations redirected to `feed`; (2) that feed was lost, and
            # `_retire_sockets` did not find this connection, which was not in the set yet. Used now, invalidations
            # of its reads would go nowhere.
            if self._closed or feed is not self._feed:
                connection.close()
                return None
            self._sockets.add(connection)
        self._of_thread.socket, self._of_thread.context = connection, context
        return connection

    def _outdated(self) -> bool:
        """Return True if there are newer certificates than those of the thread's connection.

        The node ends connections whose authority was removed: no write should be on one then.
        """
        return self._security is not None and self._security.client_context() is not self._of_thread.context

    def _connect(self, endpoint: Endpoint, timeout: float, feed: NearCacheFeed | None = None) -> RespSocket:
        commands = (*self._commands, feed.follow) if feed is not None else self._commands
        return RespSocket(self._open_stream(endpoint, timeout), commands, timeout, self._error_prefix, self._hello)

    def _open_stream(self, endpoint: Endpoint, timeout: float) -> Stream:
        try:
            return open_stream(endpoint, timeout, self._security, self._host)
        except OSError as error:
            raise NodeLost(f"{self._error_prefix}cannot be reached: {error}") from None

    def _failed(self, error: Exception | None = None) -> None:
        if isinstance(error, WrongNode) and not self._failures:
            log.warning("%s", error)
        self._failures += 1
        self._probe_at = monotonic() + BACKOFF.delay(self._failures, random.random)

    def _start_probe(self) -> None:
        """Start a thread that determines whether the node can be reached, unless one runs or it is too early."""
        with self._lock:
            if self._probing or self._closed or monotonic() < self._probe_at:
                return
            self._probing = True
        try:
            threading.Thread(target=self._probe, name=f"milena probes {self.address}", daemon=True).start()
        except RuntimeError:  # no thread can be started, as at the end of the process
            self._probing = False
            self._failed()

    def _probe(self) -> None:
        try:
            error: Exception = NodeLost("no address")
            for endpoint in resolve(self.address):
                try:
                    self._probe_endpoint(endpoint)
                except (NodeLost, WrongNode) as problem:
                    error = problem
                else:
                    self._failures = 0
                    return
            raise error
        except (OSError, ValueError) as problem:
            self._failed(problem)
        finally:
            self._probing = False

    def _probe_endpoint(self, endpoint: Endpoint) -> None:
        """Connect to `endpoint`, and keep it; with a near cache, start its feed.

        Raises NodeLost if the node cannot be reached there, WrongNode if another node is there.
        """
        feed, fresh = self._feed, None
        if self._near is None or feed is not None:
            self._connect(endpoint, CONNECT_SECONDS, feed).close()
        else:
            stream = self._open_stream(endpoint, CONNECT_SECONDS)
            fresh = NearCacheFeed(stream, self._commands, CONNECT_SECONDS, self._near, self._feed_lost)
        with self._lock:
            if fresh is not None and self._near is not None:
                # In this order: connections without this feed are retired before the cache is cleared, so that no
                # read over one of them is kept after that. The feed becomes a source last: earlier, values that it
                # does not cover could be returned.
                self._feed = feed = fresh
                self._retire_sockets()
                self._near.clear()
                fresh.start()
                if self._closed:
                    fresh.close()
            if self._feed is feed:
                self._endpoint = endpoint

    def _feed_lost(self, feed: NearCacheFeed) -> None:
        """Stop using the connections whose invalidations went to `feed`, which has ended."""
        with self._lock:
            if self._feed is feed:
                self._endpoint = self._feed = None
                self._retire_sockets()

    def _retire_sockets(self) -> None:
        """Let threads make new connections: invalidations of what is read on the present ones would be lost."""
        for connection in self._sockets:
            connection.closed = True

    def forked(self) -> None:
        """Drop what belongs to the process from which this one was forked: connections, threads, their locks.

        Sockets are closed, and not shut down: the parent's connections go on, and end when the parent ends them.
        """
        self._of_thread = _OfThread()
        self._lock = threading.Lock()
        for connection in list(self._sockets):
            connection.close()
        self._sockets = WeakSet()
        self._probing = False
        if self._feed is not None:
            self._feed.close_after_fork()
            self._feed = None

    def leave(self, *, lasting: bool = False) -> None:
        """Make no new connections, and end those that there are: their calls raise NodeLost.

        `lasting`: let calls that must not be broken off finish; their connections end when their threads do.
        """
        with self._lock:
            self._closed = True
            connections = [*self._sockets]
            if self._feed is not None:
                self._feed.close()
        for connection in connections:
            connection.shutdown(lasting=lasting)
