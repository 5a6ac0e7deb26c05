"""Coordination. The connections to the nodes, which the clients of the Redis port share: one to each, pipelined.

The commands of all clients that begin in one iteration of the event loop are one write to each owner. Replies are
not decoded. The node may reply out of order (CLIENT DEFER), so that a read that waits for S3 holds up no other
client's hits.

What may be sent again, and when:

- MOVED, TRYAGAIN, and what was never sent: nothing was done. The command follows the ring, within its time.
- A read whose node is lost is sent once more, to the owner in the ring then.
- A write that was sent and has no reply is not: its client gets an error that says so.

A write is acknowledged only when every later read will find it, as `milena_router.forwarding.forward` explains: if
its key got another owner meanwhile, that one drops what it has read of the key first.

**Bounds.** Commands are bounded by those in flight of each client. While the process exceeds its budget of bytes in
flight, no replies are read, and the nodes begin no more commands than their connections allow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, cast

from milena_common.api.credentials import CurrentCredentials
from milena_common.api.errors import (
    DeadlineExceeded,
    MilenaError,
    Moved,
    NodeLost,
    NodeUnreachable,
    NoNodes,
    WrongNode,
)
from milena_common.api.keys import split_cache_key
from milena_common.api.methods import INVALIDATE
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.cluster.member import RESP, RESP_TLS
from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import from_resp, to_resp
from milena_common.resp.identity import Identity
from milena_common.resp.link import RespLink
from milena_common.resp.replies import ReplySplitter
from milena_common.resp.stream import Owner, RespStream
from milena_common.runtime.clock import Clock
from milena_common.tls.outgoing import Outgoing
from milena_router.forwarding.forward import (
    LEAVE_GRACE_SECONDS,
    MIN_SECONDS,
    REJOIN_CHECK_SECONDS,
    REJOIN_SECONDS,
    Forwarder,
)
from milena_router.forwarding.join_addresses import JoinAddresses
from milena_router.forwarding.node_connection import CONNECT_SECONDS, SILENCE_SECONDS
from milena_router.redis.pending import Request
from milena_router.ring.leases import Leases
from milena_router.ring.membership import EXITED, EXPIRED, Change

# Seconds between two looks for commands whose time is over, and for room to read more replies.
SWEEP_SECONDS: Final = 0.1
_DEFERRED: Final = b"-DEFERRED "
_PUSH: Final = b">3\r\n+deferred\r\n:"
_ERROR: Final = ord("-")
_OUT_OF_BAND: Final = ord(">")
_MOVED: Final = b"-MOVED "
_TRY_AGAIN: Final = b"-TRYAGAIN "
_LEFT: Final = "left the ring before it replied"


class NodeStream(RespStream):
    """One connection to a node. After its handshake it carries requests, whose replies are passed on undecoded."""

    def __init__(self, owner: Owner, timeout: float, who: str, hello: bytes, upstreams: Upstreams) -> None:
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


class _Node:
    """A node of the ring: the link to its RESP server. `address` is that of the ring, `called` what is called."""

    def __init__(self, address: str, called: str, make: Callable[[], RespLink]) -> None:
        self.address = address
        self.called = called
        self._make = make
        self.link: RespLink | None = None

    @property
    def stream(self) -> NodeStream | None:
        link = self.link
        return None if link is None else cast("NodeStream | None", link.stream)

    def opened(self) -> RespLink:
        """Return the link, made at the first call. Raises AccessDenied for an address that may not be called."""
        if self.link is None:
            self.link = self._make()
        return self.link


class _Key(NamedTuple):
    """What a connection is for; another process at the same address gets another one."""

    called: str
    identity: Identity


class Upstreams:
    """The connections. `now` is when the replies that are handled now were read, monotonic seconds.

    forwarded, repeated: how many requests were sent, and sent again
    """

    def __init__(
        self,
        leases: Leases,
        forwarder: Forwarder,
        outgoing: Outgoing,
        credentials: CurrentCredentials,
        allowed: JoinAddresses,
        budget: ByteBudget,
        clock: Clock,
        timeout: float,
    ) -> None:
        self._leases = leases
        self._forwarder = forwarder
        self._outgoing = outgoing
        self._credentials = credentials
        self._allowed = allowed
        self.clock = clock
        self._timeout = timeout
        self.budget = budget
        self.now = clock.now()
        self.forwarded = 0
        self.repeated = 0
        self._ring: Ring | None = None
        self._nodes: dict[_Key, _Node] = {}
        self._by_address: dict[str, _Node] = {}
        self._by_slot: list[_Node | None] = [None] * SLOTS
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    # ---- the ring

    def _follow_ring(self, grace: float = LEAVE_GRACE_SECONDS) -> None:
        """Take the newest ring: keep the connections to its nodes, and end others after `grace` seconds."""
        membership = self._leases.membership
        ring = self._ring = membership.ring
        nodes: dict[_Key, _Node] = {}
        for member in ring.members:
            identity = Identity(membership.cluster_id, membership.default_bucket, member.node_id)
            called, _ = self._outgoing.choose(member.addresses.get(RESP, ""), member.addresses.get(RESP_TLS, ""))
            key = _Key(called, identity)
            nodes[key] = self._nodes.get(key) or self._node(member, identity)
        gone = [node for key, node in self._nodes.items() if key not in nodes and node.link is not None]
        self._nodes = nodes
        self._by_address = {node.address: node for node in nodes.values()}
        by_slot: list[_Node | None] = []
        for first, last, address, _ in ring.ranges():
            by_slot += [self._by_address.get(address)] * (last + 1 - first)
        self._by_slot = by_slot
        for node in gone:
            self._spawn(cast(RespLink, node.link).close(grace, NodeLost(f"node {node.address} {_LEFT}")))

    def _node(self, member: Member, identity: Identity) -> _Node:
        called, certificates = self._outgoing.choose(
            member.addresses.get(RESP, ""), member.addresses.get(RESP_TLS, "")
        )

        def make() -> RespLink:
            where = self._allowed.to_call(called)
            return RespLink(
                where,
                timeout=SILENCE_SECONDS,
                identity=identity,
                who=f"node {member.address} ",
                name="milena-router",
                security=certificates,
                server_name="" if where == called else parse_address(called).host,
                credentials=self._credentials,
                make_stream=lambda owner, timeout, who, hello: NodeStream(owner, timeout, who, hello, self),
            )

        return _Node(member.address, called, make)

    def member_changed(self, change: Change) -> None:
        """Take the ring after `change`. A node whose lease is over gets no time to finish."""
        self._follow_ring(0.0 if change.reason in (EXPIRED, EXITED) else LEAVE_GRACE_SECONDS)

    # ---- requests

    def send_request(self, request: Request) -> None:
        """Send `request` to the owner of its key."""
        ring = self._leases.membership.ring
        if ring is not self._ring:
            self._follow_ring()
        node = self._by_slot[slot_of(request.key)]
        link = None if node is None else node.link
        stream = None if link is None else cast("NodeStream | None", link.stream)
        if stream is None or self._leases.recovering:
            self._spawn(self._find_way(request))
            return
        request.ring = ring
        stream.forward(request)

    async def _find_way(self, request: Request, error: MilenaError | None = None) -> None:
        """Send a request as soon as its owner can be reached.

        `error`: why its last attempt had no effect; None for the first one.
        """
        request.defer()
        deadline = request.started + self._timeout
        rejoined = min(deadline - MIN_SECONDS, self.clock.now() + REJOIN_SECONDS)
        destination: _Node | None = None
        if error is not None:
            self.repeated += 1
            if isinstance(error, Moved):
                destination = self._destination(request)
            if destination is None and not await self._pause(deadline - MIN_SECONDS):
                request.replied(_line(error))
                return
        while True:
            try:
                remaining = deadline - self.clock.now()
                if self._leases.recovering:
                    await self._leases.published(max(remaining, MIN_SECONDS))
                if self._leases.membership.ring is not self._ring:
                    self._follow_ring()
                node = destination or self._owner(request.key)
                destination = None
                if not node.called:
                    raise NodeUnreachable(
                        f"node {node.address}, which owns slot {slot_of(request.key)}, serves no Redis protocol "
                        "that this router may use (RESP_ADDR, RESP_TLS_ADDR); nothing was done"
                    )
                if node.link is None and self._allowed.has_name([node.called]):
                    await self._allowed.check_all([node.called])
                link = node.opened()
                stream = link.stream or await link.open(max(MIN_SECONDS, min(remaining / 2, CONNECT_SECONDS)))
                if stream is not None:
                    request.ring = self._ring
                    cast(NodeStream, stream).forward(request)
                    return
                kind = WrongNode if isinstance(link.error, WrongNode) else NodeUnreachable
                failure: MilenaError = kind(f"{link.error or 'no connection'}; nothing was done")
            except MilenaError as error:
                request.replied(_line(error))
                return
            # Nothing was sent. The node may be restarting, or the ring may be about to lose it; or it only reads
            # slowly, large values for example.
            if not await self._pause(deadline - MIN_SECONDS if link.connected else rejoined):
                request.replied(_line(failure))
                return

    async def _pause(self, until: float) -> bool:
        """Wait before another attempt; False if there is no time for one before `until`."""
        if self.clock.now() + REJOIN_CHECK_SECONDS >= until:
            return False
        await self.clock.sleep(REJOIN_CHECK_SECONDS)
        return True

    def _owner(self, key: bytes) -> _Node:
        """Return the owner of `key`. Raises NoNodes or TryAgain if there is none."""
        node = self._by_slot[slot_of(key)]
        if node is None:
            self._forwarder.owner(key)  # raises the error that says why, unless there is an owner now
            raise NoNodes(f"slot {slot_of(key)} has no owner")
        return node

    def _destination(self, request: Request) -> _Node | None:
        """Return the destination of a pending move of the request's slot; None: the ring decides after a pause."""
        ring, slot = self._leases.membership.ring, slot_of(request.key)
        if ring is not self._ring:
            self._follow_ring()
        for first, last, address, _ in ring.pending:
            if first <= slot <= last and ring.owner(slot) != address:
                return self._by_address.get(address)
        return None

    # ---- what becomes of requests

    def node_rejected(self, request: Request, reply: bytes) -> None:
        """Handle an error reply: follow a slot that has moved, or pass the error on."""
        if reply.startswith((_MOVED, _TRY_AGAIN)):
            self._spawn(self._find_way(request, from_resp(reply[1:-2].decode(errors="replace"))))
        else:
            request.replied(reply)

    def repeat_all(self, requests: list[Request], error: MilenaError) -> None:
        """Send requests whose connection ended before they were sent."""
        for request in requests:
            self._spawn(self._find_way(request, error))

    def lost(self, request: Request, error: MilenaError) -> None:
        """Handle that the connection ended while the node had a request."""
        if request.writes:
            request.replied(_line(NodeLost(f"{error}; the write may or may not have been done")))
        elif request.resent or self.clock.now() + MIN_SECONDS >= request.started + self._timeout:
            request.replied(_line(error))
        else:
            request.resent = True
            self.repeated += 1
            self._spawn(self._find_way(request))

    def late(self, request: Request, who: str) -> None:
        """Handle that a node did not reply to a request in time."""
        outcome = "; the write may or may not have been done" if request.writes else ""
        request.replied(_line(DeadlineExceeded(f"{who}did not respond within {self._timeout:.3g} s{outcome}")))

    def written(self, request: Request, reply: bytes) -> None:
        """Handle the reply to a write."""
        if request.ring is self._leases.membership.ring:
            request.replied(reply)
        else:
            self._spawn(self._confirm(request, reply))

    async def _confirm(self, request: Request, reply: bytes) -> None:
        """Acknowledge a write once the present owner of its key has nothing older of it."""
        deadline = request.started + self._timeout
        owner = request.ring.find(request.key)
        try:
            while True:
                newer = self._leases.membership.ring.find(request.key)
                if newer.owned_since == owner.owned_since or not newer.address:
                    break
                bucket, key = split_cache_key(request.key)
                invalidate = cache_pb.InvalidateRequest(key=key, bucket=bucket).SerializeToString()
                remaining = max(deadline - self.clock.now(), MIN_SECONDS)
                await self._forwarder.request(newer.address, INVALIDATE.name, invalidate, remaining)
                owner = newer
        except (MilenaError, UnicodeDecodeError) as error:
            reply = _line(NodeLost(f"{error}; the write was done, and later reads may not find it yet"))
        request.replied(reply)

    @property
    def streams(self) -> list[NodeStream]:
        """Return the connections that are open."""
        return [stream for node in self._nodes.values() if (stream := node.stream) is not None]

    # ---- the end

    def start(self) -> None:
        """Begin the periodic work."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_SECONDS)
            now = self.now = self.clock.now()
            for stream in self.streams:
                stream.sweep(now, self._timeout)

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        error = NodeLost("the router is stopping")
        await asyncio.gather(*[node.link.close(0, error) for node in self._nodes.values() if node.link is not None])
        for task in tuple(self._tasks):
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _line(error: MilenaError) -> bytes:
    return error_line(to_resp(error))
