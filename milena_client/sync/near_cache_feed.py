"""Shell. Hears from one node which keys have changed, for the near cache of a client that has threads.

Nobody reads from a thread's own connection between its calls, so pushes would lie there unread. They are
redirected instead (CLIENT TRACKING ON REDIRECT) to one connection for each node, which a thread of its own
reads. The node tells only of keys that this client has read, once for each read: what it costs is bounded by
what the client asks for. (In BCAST mode it would be told of everything that anybody writes.) The node remembers
those keys, in the bounds of its TRACKING_MAX_KEYS.

A node that does not answer a ping within the bound is lost, as one whose connection breaks.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import hiredis

from milena_client.core.invalidations import apply
from milena_client.core.near_cache import BOUND_SECONDS, PING_SECONDS, NearCache
from milena_common.api.errors import MilenaError, NodeLost, WrongNode
from milena_common.resp.client_commands import error_of
from milena_common.resp.encoding import command

_READ_BYTES = 64 * 1024
_PING: Final = command(b"PING")
_NOT_ENOUGH: Final = object()


class NearListener:
    """The connection, and its thread once it is started.

    Raises NodeLost if it cannot be made within `connect` seconds, WrongNode if another node is there.
    `handshake` are the commands that begin it; the first one answers the connection's id. `on_lost` is called when
    it is over, before `near` is told, unless by `close`. `follow` is what a connection has to send so that its
    reads are followed.
    """

    def __init__(
        self,
        family: int,
        address: Any,
        handshake: Sequence[bytes],
        connect: float,
        near: NearCache,
        on_lost: Callable[[NearListener], None],
    ) -> None:
        self._near = near
        self._on_lost = on_lost
        self._sent: deque[float] = deque()  # when the pings were, that have not been answered
        self._reader = hiredis.Reader(
            replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH
        )
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._asked_at = near.now()
        try:
            self._socket.settimeout(connect)
            self._socket.connect(address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(b"".join(handshake))
            answers = [self._accepted() for _ in handshake]
            number = int(answers[0][b"id"])
        except WrongNode:
            self._socket.close()
            raise
        except (OSError, hiredis.HiredisError, MilenaError, LookupError, TypeError, ValueError) as error:
            self._socket.close()
            raise NodeLost(f"cannot be listened to: {error}") from None
        self.follow = command(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % number)

    def _accepted(self) -> Any:
        answer = self._next()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _next(self) -> Any:
        while (reply := self._reader.gets()) is _NOT_ENOUGH:
            self._feed()
        return reply

    def _feed(self) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("closed by the node")
        self._reader.feed(data)

    def start(self) -> None:
        """Begin to listen; from now on it is one of the sources of `near`."""
        self._near.confirmed(self, self._asked_at)
        threading.Thread(target=self._listen, name="milena near cache", daemon=True).start()

    def _listen(self) -> None:
        try:
            with suppress(OSError, hiredis.HiredisError, IndexError):
                self._listen_until_it_breaks()
        finally:
            self._on_lost(self)
            self._near.lost(self)
            self._socket.close()

    def _listen_until_it_breaks(self) -> None:
        now = self._near.now
        ping_at = now()
        while True:
            left = ping_at - now()
            if left <= 0:
                if self._sent and now() - self._sent[0] >= BOUND_SECONDS:
                    return
                self._sent.append(now())
                self._socket.settimeout(BOUND_SECONDS)
                self._socket.sendall(_PING)
                ping_at = now() + PING_SECONDS
                continue
            self._socket.settimeout(left)
            with suppress(TimeoutError):
                self._feed()
            while (reply := self._reader.gets()) is not _NOT_ENOUGH:
                if isinstance(reply, hiredis.PushNotification):
                    apply(reply, self._near)
                else:
                    self._near.confirmed(self, self._sent.popleft())

    def drop(self) -> None:
        """Close the socket in a process that was forked; the connection is the parent's, and goes on there."""
        self._socket.close()

    def close(self) -> None:
        """End the connection; the thread notices."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
