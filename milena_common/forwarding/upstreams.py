"""Coordination. The connections to the nodes, which all clients share: one to each (`node_stream`).

What may be sent again, and when:

- MOVED, TRYAGAIN, and what was never sent: nothing was done. The command follows the ring, within its time.
- A read whose node is lost is sent once more, to the owner in the ring then.
- A write that was sent and has no reply is not: its client gets an error that says so.

A write is acknowledged only when every later read will find it: if its key got another owner meanwhile,
`Topology.confirm` has that one drop what it has read of the key first.

**Bounds.** Commands are bounded by those in flight of each client.
"""

from __future__ import annotations

import asyncio
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
    TryAgain,
    WrongNode,
)
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.forwarding.node_stream import SILENCE_SECONDS, SWEEP_SECONDS, NodeStream
from milena_common.forwarding.pending import Request
from milena_common.forwarding.topology import (
    LEAVE_GRACE_SECONDS,
    MIN_SECONDS,
    REJOIN_CHECK_SECONDS,
    REJOIN_SECONDS,
    Topology,
    Upstream,
)
from milena_common.limits.byte_budget import ByteBudget
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import error_line
from milena_common.resp.errors import from_resp, to_resp
from milena_common.resp.identity import Identity
from milena_common.resp.link import CONNECT_SECONDS, Listener, RespLink
from milena_common.resp.stream import Owner, RespStream
from milena_common.runtime.clock import Clock

# While a slot changes hands, TRYAGAIN asks for a repetition after at most so many seconds. Where it asks for a
# later one, the slot waits for more than that.
GAP_SECONDS: Final = 0.5
_MOVED: Final = b"-MOVED "
_TRY_AGAIN: Final = b"-TRYAGAIN "
_LEFT: Final = "left the ring before it replied"


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
    """The connections, called `name` at the nodes, which log in with `credentials`.

    `timeout`: of a command, seconds.

    topology: the ring
    now: when the replies that are handled now were read, monotonic seconds
    forwarded, repeated: how many requests were sent, and sent again
    """

    def __init__(
        self,
        topology: Topology,
        name: str,
        credentials: CurrentCredentials,
        budget: ByteBudget,
        clock: Clock,
        timeout: float,
    ) -> None:
        self.topology = self._topology = topology
        self._name = name
        self._credentials = credentials
        self.clock = clock
        self._timeout = timeout
        self.budget = budget
        self.now = clock.now()
        self.forwarded = 0
        self.repeated = 0
        self._epoch: Any = None
        self._nodes: dict[_Key, _Node] = {}
        self._by_address: dict[str, _Node] = {}
        self._by_slot: list[_Node | None] = [None] * SLOTS
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    # ---- the ring

    def follow_ring(self, grace: float = LEAVE_GRACE_SECONDS) -> None:
        """Take the newest ring: keep the connections to its nodes, and end others after `grace` seconds."""
        topology = self._topology
        self._epoch = topology.epoch
        nodes: dict[_Key, _Node] = {}
        for upstream in topology.upstreams:
            key = _Key(upstream.called, upstream.identity)
            nodes[key] = self._nodes.get(key) or self._node(upstream)
        gone = [node for key, node in self._nodes.items() if key not in nodes and node.link is not None]
        self._nodes = nodes
        self._by_address = {node.address: node for node in nodes.values()}
        by_slot: list[_Node | None] = []
        for first, last, address in topology.ranges:
            by_slot += [None] * (first - len(by_slot))
            by_slot += [self._by_address.get(address)] * (last + 1 - first)
        self._by_slot = by_slot + [None] * (SLOTS - len(by_slot))
        for node in gone:
            self._spawn(cast(RespLink, node.link).close(grace, NodeLost(f"node {node.address} {_LEFT}")))

    def _node(self, upstream: Upstream) -> _Node:
        def make_stream(owner: Owner, timeout: float, who: str, hello: bytes) -> RespStream:
            return NodeStream(owner, timeout, who, hello, self)

        return _Node(
            upstream.address, upstream.called, lambda: self.make_link(upstream, None, make_stream=make_stream)
        )

    def make_link(
        self,
        upstream: Upstream,
        listener: Listener | None,
        *,
        make_stream: Callable[[Owner, float, str, bytes], RespStream] = RespStream,
    ) -> RespLink:
        """Return a new link to a node. Raises MilenaError for an address that must not be called."""
        called = upstream.called
        where = self._topology.to_call(called)
        return RespLink(
            where,
            timeout=SILENCE_SECONDS,
            identity=upstream.identity,
            who=f"node {upstream.address} ",
            name=self._name,
            listener=listener,
            security=upstream.security,
            server_name="" if where == called else parse_address(called).host,
            credentials=self._credentials,
            make_stream=make_stream,
        )

    # ---- requests

    def send_request(self, request: Request) -> None:
        """Send `request` to the owner of its key."""
        epoch = self._topology.epoch
        if epoch is not self._epoch:
            self.follow_ring()
        node = self._by_slot[slot_of(request.key)]
        link = None if node is None else node.link
        stream = None if link is None else cast("NodeStream | None", link.stream)
        if stream is None or self._topology.unpublished:
            self._spawn(self._find_way(request))
            return
        request.ring = epoch
        stream.forward(request)

    async def _find_way(self, request: Request, error: MilenaError | None = None) -> None:
        """Send a request as soon as its owner can be reached.

        `error`: why its last attempt had no effect; None for the first one.
        """
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep_for_ever())
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
                if self._topology.unpublished:
                    await self._topology.published(max(remaining, MIN_SECONDS))
                if self._topology.epoch is not self._epoch:
                    self.follow_ring()
                if self._topology.take(request):
                    return
                node = destination or self._owner(request.key)
                destination = None
                if not node.called:
                    raise NodeUnreachable(
                        f"node {node.address}, which owns slot {slot_of(request.key)}, serves no Redis protocol "
                        "that this process may use (RESP_ADDR, RESP_TLS_ADDR); nothing was done"
                    )
                if node.link is None:
                    await self._topology.checked(node.called)
                link = node.opened()
                stream = link.stream or await link.open(max(MIN_SECONDS, min(remaining / 2, CONNECT_SECONDS)))
                if stream is not None:
                    request.ring = self._epoch
                    cast(NodeStream, stream).forward(request)
                    return
                kind = WrongNode if isinstance(link.error, WrongNode) else NodeUnreachable
                failure: MilenaError = kind(f"{link.error or 'no connection'}; nothing was done")
            except TryAgain as error:
                if error.retry_after > GAP_SECONDS or not await self._pause(deadline - MIN_SECONDS):
                    request.replied(_line(error))
                    return
                continue
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
        """Return the owner of `key`. Raises MilenaError if there is none."""
        node = self._by_slot[slot_of(key)]
        if node is None:
            node = self._by_address.get(self._topology.find_owner(key))
        if node is None:
            raise NoNodes(f"slot {slot_of(key)} has no owner; nothing was done")
        return node

    def _destination(self, request: Request) -> _Node | None:
        """Return the destination of a pending move of the request's slot; None: the ring decides after a pause."""
        if self._topology.epoch is not self._epoch:
            self.follow_ring()
        return self._by_address.get(self._topology.destination(slot_of(request.key)))

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
        if request.ring is self._topology.epoch:
            request.replied(reply)
        else:
            self._spawn(self._confirm(request, reply))

    async def _confirm(self, request: Request, reply: bytes) -> None:
        """Acknowledge a write once the present owner of its key has nothing older of it."""
        try:
            await self._topology.confirm(request, request.started + self._timeout)
        except (MilenaError, UnicodeDecodeError) as error:
            reply = _line(NodeLost(f"{error}; the write was done, and later reads may not find it yet"))
        request.replied(reply)

    @property
    def streams(self) -> list[NodeStream]:
        """Return the connections that are open."""
        return [stream for node in self._nodes.values() if (stream := node.stream) is not None]

    # ---- the end

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
        error = NodeLost("the process is stopping")
        await asyncio.gather(*[node.link.close(0, error) for node in self._nodes.values() if node.link is not None])
        for task in tuple(self._tasks):
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _line(error: MilenaError) -> bytes:
    return error_line(to_resp(error))
