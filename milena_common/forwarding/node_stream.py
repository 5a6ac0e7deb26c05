"""Coordination. One connection to a node over which commands are forwarded, pipelined, for all clients.

The commands that begin in one iteration of the event loop are one write. Replies are not decoded. The node may
reply out of order (CLIENT DEFER), so that a read that waits for S3 holds up no other client's hits.

While the process exceeds its budget of bytes in flight, no replies are read, and the node begins no more commands
than its connection allows.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from milena_common.api.errors import MilenaError, NodeLost
from milena_common.forwarding.pending import Request
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.replies import ReplySplitter
from milena_common.resp.stream import Owner, RespStream
from milena_common.runtime.clock import Clock

# Seconds between two looks for commands whose time is over, and for room to read more replies.
SWEEP_SECONDS: Final = 0.1
# A node that has commands and sends nothing for so long is taken for lost.
SILENCE_SECONDS: Final = 30.0
_DEFERRED: Final = b"-DEFERRED "
_PUSH: Final = b">3\r\n+deferred\r\n:"
_ERROR: Final = ord("-")
_OUT_OF_BAND: Final = ord(">")


class Requests(Protocol):
    """What becomes of the requests of a connection. The fields are those of `Upstreams`."""

    clock: Clock
    budget: ByteBudget
    now: float
    forwarded: int

    def repeat_all(self, requests: list[Request], error: MilenaError) -> None:
        """Send requests whose connection ended before they were sent."""

    def node_rejected(self, request: Request, reply: bytes) -> None:
        """Handle an error reply."""

    def written(self, request: Request, reply: bytes) -> None:
        """Handle the reply to a write."""

    def lost(self, request: Request, error: MilenaError) -> None:
        """Handle that the connection ended while the node had a request."""

    def late(self, request: Request, who: str) -> None:
        """Handle that a node did not reply to a request in time."""


class NodeStream(RespStream):
    """One connection to a node. After its handshake it carries requests, whose replies are passed on undecoded."""

    def __init__(self, owner: Owner, timeout: float, who: str, hello: bytes, upstreams: Requests) -> None:
        super().__init__(owner, timeout, who, hello)
        self._upstreams = upstreams
        self._splitter = ReplySplitter()
        self._data: list[bytes] = []  # commands of `_requests`
        self._requests: list[Request] = []
        self._due: deque[Request | None] = deque()  # in the order of their commands; None: given up
        self._late: dict[int, Request] = {}  # deferred, by the node's number
        self._forwards = False
        self._paused = False
        self.heard_at = 0.0  # when the node was last heard, or had nothing to say; monotonic seconds

    def forward(self, request: Request) -> None:
        """Send `request` at the end of this iteration of the event loop."""
        if not self._requests:
            self._forwards = True
            self._loop.call_soon(self._send)
        self._requests.append(request)
        self._data.append(request.data)

    def _send(self) -> None:
        requests, data = self._requests, self._data
        if not requests:
            return
        self._requests, self._data = [], []
        if self._lost is not None or self._transport is None:
            self._upstreams.repeat_all(requests, self._lost or NodeLost(f"{self._who}is not connected"))
            return
        if not self._due and not self._late:
            self.heard_at = self._upstreams.clock.now()
        self._due.extend(requests)
        self._upstreams.forwarded += len(requests)
        self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    def data_received(self, data: bytes) -> None:
        if not self._forwards:
            super().data_received(data)
            return
        self._upstreams.now = self.heard_at = self._upstreams.clock.now()
        try:
            replies = self._splitter.feed(data)
            due = self._due.popleft
            for reply in replies:
                kind = reply[0]
                if kind == _ERROR:
                    self._failed(due(), reply)
                elif kind == _OUT_OF_BAND:
                    self._pushed(reply)
                elif (request := due()) is not None:
                    if request.writes:
                        self._upstreams.written(request, reply)
                    else:
                        request.replied(reply)
        except (ValueError, IndexError):  # IndexError: a reply without a request
            self.abort(NodeLost(f"{self._who}sent a reply that is not in the Redis protocol"))
            return
        if self._upstreams.budget.used > self._upstreams.budget.limit:
            self._pause()
        if self._idle is not None:
            self._look_whether_idle()

    def _failed(self, request: Request | None, reply: bytes) -> None:
        if reply.startswith(_DEFERRED):
            if request is not None:
                self._late[int(reply[len(_DEFERRED) : -2])] = request
                request.defer()
        elif request is not None:
            self._upstreams.node_rejected(request, reply)

    def _pushed(self, push: bytes) -> None:
        if not push.startswith(_PUSH):
            return
        end = push.index(b"\r\n", len(_PUSH))
        request = self._late.pop(int(push[len(_PUSH) : end]), None)
        if request is None:
            return
        reply = push[end + 2 :]
        if reply[0] == _ERROR:
            self._upstreams.node_rejected(request, reply)
        elif request.writes:
            self._upstreams.written(request, reply)
        else:
            request.replied(reply)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def sweep(self, now: float, timeout: float) -> None:
        """Give up requests that have waited for more than `timeout` seconds, and read on if there is room again."""
        if self._paused and self._upstreams.budget.used <= self._upstreams.budget.limit:
            self._paused = False
            self.heard_at = now
            if self._transport is not None and self._lost is None:
                self._transport.resume_reading()
        over, slow = now - timeout, now - SWEEP_SECONDS
        for place, request in enumerate(self._due):
            if request is None:
                continue
            if request.started > slow:
                break
            if request.started > over:
                request.defer()
                continue
            self._due[place] = None
            self._upstreams.late(request, self._who)
        for number, request in [*self._late.items()]:
            if request.started <= over:
                del self._late[number]
                self._upstreams.late(request, self._who)
        if self._due and not self._paused and now - self.heard_at > SILENCE_SECONDS:
            self.abort(NodeLost(f"{self._who}has been silent for {SILENCE_SECONDS:.3g} s"))

    @property
    def is_idle(self) -> bool:
        pending = self._requests or self._late or any(request is not None for request in self._due)
        return not pending and super().is_idle

    def _fail_all(self, error: MilenaError) -> None:
        super()._fail_all(error)
        unsent, self._requests, self._data = self._requests, [], []
        sent = [request for request in (*self._due, *self._late.values()) if request is not None]
        self._due.clear()
        self._late.clear()
        self._upstreams.repeat_all(unsent, error)
        for request in sent:
            self._upstreams.lost(request, error)
        self._look_whether_idle()
