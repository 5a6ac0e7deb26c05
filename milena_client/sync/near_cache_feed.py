"""Shell. Receives invalidations from one node, for the near cache of a client for threads.

A thread does not read from its connection between its calls, so pushes on it would stay unread. They are redirected
instead (CLIENT TRACKING ON REDIRECT) to one connection for each node, which a thread of its own reads. The node
reports only keys that this client has read, once for each read: the cost is bounded by what the client reads. (In
BCAST mode the node would report everything that any client writes.) The node keeps at most TRACKING_MAX_KEYS of
these keys.

A node that does not reply to a ping within the bound counts as lost, as one whose connection breaks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import hiredis

from milena_client.core.invalidations import apply_push
from milena_client.core.near_cache import BOUND_SECONDS, PING_SECONDS, NearCache
from milena_common.api.errors import MilenaError, NodeLost, WrongNode
from milena_common.network.stream import Stream
from milena_common.resp.client_commands import error_of
from milena_common.resp.encoding import command

_READ_BYTES = 64 * 1024
_PING: Final = command(b"PING")
_NOT_ENOUGH: Final = object()


class NearCacheFeed:
    """A connection that receives invalidations over `stream`, which it closes, and its thread once it is started.

    - `handshake`: the commands that begin it; the reply to the first one has the connection's id.
    - `handshake_timeout`: the seconds for each reply.
    - `on_lost`: called when it has ended, before `near` is cleared, so that no thread reads on a connection whose
      invalidations go nowhere and has its value kept after that.
    - `follow`: what a connection has to send so that the node tracks its reads.

    Raises NodeLost if the handshake fails, WrongNode if another node is there.
    """

    def __init__(
        self,
        stream: Stream,
        handshake: Sequence[bytes],
        handshake_timeout: float,
        near: NearCache,
        on_lost: Callable[[NearCacheFeed], None],
    ) -> None:
        self._near = near
        self._on_lost = on_lost
        self._pings: deque[float] = deque()  # when those were sent that have no reply yet; monotonic seconds
        self._reader = hiredis.Reader(
            replyError=cast("Callable[[str], Exception]", error_of), notEnoughData=_NOT_ENOUGH
        )
        self._stream = stream
        self._connected_at = near.now()
        try:
            stream.set_limit(handshake_timeout)
            self._send(b"".join(handshake))
            replies = [self._next_success() for _ in handshake]
            number = int(replies[0][b"id"])
        except WrongNode:
            self._stream.close()
            raise
        except BlockingIOError:
            self._stream.close()
            raise NodeLost(f"cannot be tracked: no reply within {handshake_timeout:g} s") from None
        except (OSError, hiredis.HiredisError, MilenaError, LookupError, TypeError, ValueError) as error:
            self._stream.close()
            raise NodeLost(f"cannot be tracked: {error}") from None
        self.follow = command(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % number)

    def _next_success(self) -> Any:
        reply = self._next_reply()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _next_reply(self) -> Any:
        while (reply := self._reader.gets()) is _NOT_ENOUGH:
            self._receive()
        return reply

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._stream.send_some(view) :]

    def _receive(self) -> None:
        data = self._stream.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("closed by the node")
        self._reader.feed(data)

    def start(self) -> None:
        """Start the thread that receives; from now on this is one of the sources of `near`."""
        self._near.confirmed(self, self._connected_at)
        threading.Thread(target=self._run, name="milena near cache", daemon=True).start()

    def _run(self) -> None:
        try:
            with suppress(OSError, hiredis.HiredisError, IndexError):
                self._receive_all()
        finally:
            # In this order. Otherwise: (1) the near cache is cleared; (2) a thread reads on a connection whose
            # invalidations were sent here, and its value is kept; (3) the connection is retired, and the value
            # stays although no node reports its changes.
            self._on_lost(self)
            self._near.lost(self)
            self._stream.close()

    def _receive_all(self) -> None:
        now = self._near.now
        ping_at = now()
        while True:
            left = ping_at - now()
            if left <= 0:
                if self._pings and now() - self._pings[0] >= BOUND_SECONDS:
                    return
                self._pings.append(now())
                self._stream.set_limit(BOUND_SECONDS)
                self._send(_PING)
                ping_at = now() + PING_SECONDS
                continue
            self._stream.set_limit(left)
            with suppress(BlockingIOError):
                self._receive()
            while (reply := self._reader.gets()) is not _NOT_ENOUGH:
                if isinstance(reply, hiredis.PushNotification):
                    apply_push(reply, self._near)
                else:
                    # Only pings are sent here, so any other reply is that to the oldest one.
                    self._near.confirmed(self, self._pings.popleft())

    def close_after_fork(self) -> None:
        """Close the stream in a process that was forked; the parent's connection stays open."""
        self._stream.close()

    def close(self) -> None:
        """End the connection; its thread ends then."""
        self._stream.shutdown()
