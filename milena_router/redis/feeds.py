"""Coordination. The messages of publish/subscribe at a router: from every node, by a connection to each.

A node sends over it what its own clients publish, and its events of keys, of the names to which any client of this
router is subscribed (`milena_common.pubsub.channels`, relays). What clients of this router publish goes to one
node, which spreads it, and comes back as every message does.

- SUBSCRIBE is confirmed when every node of the ring has confirmed it: what is published after that arrives.
- At most once, as between nodes: what is published while the connection to a node is lost, or a node that joins is
  not subscribed at yet, is not sent again. A connection subscribes anew to all names.
- A lost connection without a message on it would go unnoticed, and the router would be deaf: so each is pinged.

**Bounds.** The names of all subscriptions of a router have at most MAX_TOTAL_BYTES. Messages are handed to their
subscribers at once, and nothing waits here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from milena_common.api.errors import MilenaError, NodeLost, NodeUnreachable, NoNodes
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.topology import Upstream
from milena_common.forwarding.upstreams import Upstreams
from milena_common.pubsub import between
from milena_common.pubsub.channels import KINDS, NAME_BYTES, Channels, Kind, Receiver
from milena_common.resp.encoding import bulk, command
from milena_common.resp.link import CONNECT_SECONDS, RespLink
from milena_common.resp.redis_replies import CommandError
from milena_common.resp.stream import RespStream
from milena_common.runtime.clock import Clock

MAX_TOTAL_BYTES: Final = 64 * 2**20
# Of one request to a node.
TIMEOUT_SECONDS: Final = 2.0
PING_SECONDS: Final = 5.0
# Pause before another attempt to connect.
RETRY_SECONDS: Final = 0.1
# A request for all keys ends after so many seconds: nodes list the whole bucket for it.
WHOLE_SECONDS: Final = 600.0
_PING: Final = command(b"PING")
_KIND_OF: Final[dict[bytes, Kind]] = {b"message": "channel", b"pmessage": "pattern", b"smessage": "shard"}

Name = tuple[Kind, bytes]


class Feeds:
    """The connections of one router to all nodes, for messages. `receivers`: its clients' connections by id.

    `timeout`: in which a subscription is confirmed, seconds.

    channels: the subscriptions of the clients
    """

    def __init__(
        self, upstreams: Upstreams, receivers: Mapping[int, Receiver], clock: Clock, timeout: float
    ) -> None:
        self.channels = Channels(receivers, self._unused)
        self._upstreams = upstreams
        self._clock = clock
        self._timeout = timeout
        self._epoch: Any = None
        self._nodes: dict[Upstream, _Feed] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._pending: Counter[Name] = Counter()  # names of subscriptions that are not confirmed yet
        self._maybe_unused: list[Name] = []  # names that may be unused

    # ---- the ring

    def follow_ring(self) -> None:
        """Take the newest ring: subscribe at new nodes, and end the connections to those that left."""
        topology = self._upstreams.topology
        if topology.epoch is self._epoch:
            return
        self._epoch = topology.epoch
        before = self._nodes
        self._nodes = {}
        for node in topology.upstreams:
            if node.called:
                self._nodes[node] = before.get(node) or _Feed(self, self._upstreams, self._clock, node)
        for node, feed in before.items():
            if node not in self._nodes:
                error = NodeLost(f"node {node.address} left the ring")
                task = asyncio.get_running_loop().create_task(feed.close(error))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        if self.needed():
            self._start()

    def _start(self) -> None:
        for feed in self._nodes.values():
            feed.start()

    # ---- subscriptions

    @asynccontextmanager
    async def subscribing(self, names: Sequence[Name]) -> AsyncIterator[None]:
        """Within it every node sends the messages of `names`; they stay wanted if a client is subscribed then.

        Raises CommandError for too many names, and NodeUnreachable if a node does not confirm them.
        """
        size = sum(len(name) + NAME_BYTES for _, name in names)
        if self.channels.bytes + size + self._pending_bytes > MAX_TOTAL_BYTES:
            raise CommandError(
                f"ERR the names of all subscriptions at this router have more than {MAX_TOTAL_BYTES} bytes; "
                "nothing was subscribed to"
            )
        self._pending.update(names)
        try:
            await self._confirm(names)
            yield
        finally:
            self._pending.subtract(names)
            for name in names:
                if not self._pending[name]:
                    del self._pending[name]
                self._unused(*name)

    @property
    def _pending_bytes(self) -> int:
        return sum((len(name) + NAME_BYTES) * number for (_, name), number in self._pending.items())

    async def _confirm(self, names: Sequence[Name]) -> None:
        topology = self._upstreams.topology
        if topology.unpublished:
            await topology.published(self._timeout)
        self.follow_ring()
        self._start()
        feeds = tuple(self._nodes.values())
        sent = [*between.commands(between.SUBSCRIBE, names)]
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.gather(*(feed.confirm(sent) for feed in feeds))
        except TimeoutError:
            why = next((str(feed.error) for feed in feeds if feed.error), "a node is silent")
            raise NodeUnreachable(
                f"not all nodes have confirmed the subscription within {self._timeout:g} s ({why}); nothing was "
                "subscribed to"
            ) from None

    def needed(self) -> list[Name]:
        """Return the names of whose messages any client is, or is about to be, a subscriber."""
        names: dict[Name, None] = dict.fromkeys(self._pending)
        for kind in KINDS:
            names.update(((kind, name), None) for name in self.channels.names(kind))
        return [*names]

    def _unused(self, kind: Kind, name: bytes) -> None:
        """End the subscription to a name at the nodes, soon, if it is unused then."""
        if not self._maybe_unused:
            asyncio.get_running_loop().call_soon(self._unsubscribe)
        self._maybe_unused.append((kind, name))

    def _unsubscribe(self) -> None:
        maybe_unused, self._maybe_unused = self._maybe_unused, []
        unused = [
            (kind, name)
            for kind, name in dict.fromkeys(maybe_unused)
            if (kind, name) not in self._pending and not self.channels.listeners(kind, name)
        ]
        for sent in between.commands(between.UNSUBSCRIBE, unused):
            for feed in self._nodes.values():
                feed.send(sent)

    # ---- messages

    def received(self, message: list[Any]) -> None:
        """Send a message of a node to its subscribers."""
        kind = _KIND_OF.get(message[0])
        if kind is not None:
            self.channels.send(kind, message[1], *map(bulk, message[1:]))

    async def publish(self, word: bytes, channel: bytes, payload: bytes) -> int:
        """Publish a message by `word`, PUBLISH or SPUBLISH; return how many clients get it, here and at one node.

        Raises MilenaError: NoNodes and NodeUnreachable if nothing was published.
        """
        self.channels.published += 1
        self.follow_ring()
        feeds = [feed for _, feed in sorted(self._nodes.items(), key=lambda each: each[0].address)]
        if not feeds:
            raise NoNodes("the ring has no node that serves the Redis protocol; nothing was published")
        # By one node as long as the ring is the same, so that a channel's messages keep their order.
        feed = feeds[slot_of(channel) % len(feeds)]
        reply: int = await feed.request(command(word, channel, payload), TIMEOUT_SECONDS)
        return reply + self.channels.listeners_of(channel, shard=word == b"SPUBLISH")

    async def request_of_all(self, argv: Sequence[bytes]) -> Any:
        """Return a node's reply to a command on all keys, for those of all nodes. Raises MilenaError."""
        topology = self._upstreams.topology
        self.follow_ring()
        owner = topology.find_owner(b"")
        feed = next((feed for node, feed in self._nodes.items() if node.address == owner), None)
        if feed is None:
            raise NodeUnreachable(f"node {owner} serves no Redis protocol (RESP_ADDR); nothing was done")
        return await feed.request(command(b"MILENA.ALL", *argv), WHOLE_SECONDS)

    async def close(self) -> None:
        """End every connection."""
        feeds, self._nodes = self._nodes, {}
        error = NodeLost("the process is stopping")
        await asyncio.gather(*(feed.close(error) for feed in feeds.values()), *self._closing)


class _Feed:
    """The connection to `node`. It is subscribed to all names while `ready` is set.

    error: why it is not; None: it is, or has not been tried
    """

    def __init__(self, feeds: Feeds, upstreams: Upstreams, clock: Clock, node: Upstream) -> None:
        self._feeds = feeds
        self._upstreams = upstreams
        self._clock = clock
        self.node = node
        self.error: MilenaError | None = None
        self.ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._link: RespLink | None = None
        self._stream: RespStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # ---- events of the link

    def opened(self, link: RespLink, requested_at: float) -> None:
        """Do nothing: `_keep` has waited for it, or will look for it."""

    def lost(self, link: RespLink) -> None:
        self.ready.clear()
        self._stream = None
        self._lost.set()

    def pushed(self, message: list[Any]) -> None:
        self._feeds.received(message)

    # ---- subscriptions

    def start(self) -> None:
        """Begin to keep a connection that is subscribed to all wanted names."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self._lost.clear()
            try:
                await self._subscribe()
                await self._watch()
            except MilenaError as error:
                self.error = error
            finally:
                self.ready.clear()
            await self._clock.sleep(RETRY_SECONDS)

    async def _subscribe(self) -> None:
        stream = self._stream = await self._open()
        names = self._feeds.needed()
        for sent in between.commands(between.SUBSCRIBE, names):
            await stream.call(sent, TIMEOUT_SECONDS)
        # Names that became unused meanwhile may have been subscribed to after they were unsubscribed from. New ones
        # wait in `confirm`.
        unused = dict.fromkeys(names)
        for name in self._feeds.needed():
            unused.pop(name, None)
        for sent in between.commands(between.UNSUBSCRIBE, unused):
            self.send(sent)
        self.error = None
        self.ready.set()

    async def _watch(self) -> None:
        """Return when the connection has ended. Raises MilenaError if the node does not reply any more."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), PING_SECONDS)
                return
            await self.request(_PING, TIMEOUT_SECONDS)

    async def confirm(self, sent: Sequence[bytes]) -> None:
        """Return once the node has confirmed the commands `sent`, or has left. Raises the error of the node."""
        while not self._closed:
            await self.ready.wait()
            try:
                for each in sent:
                    await self.request(each, TIMEOUT_SECONDS)
                return
            except NodeLost:
                self.ready.clear()  # `_keep` subscribes to all names, when there is a connection again
                self._lost.set()

    def send(self, sent: bytes) -> None:
        """Send a command, if there is a connection, without waiting for its reply."""
        if self._stream is not None:
            self._stream.request(sent)

    # ---- requests

    async def request(self, sent: bytes, timeout: float) -> Any:
        """Return the reply to a command. Raises MilenaError: NodeUnreachable if it was not sent."""
        stream = await self._open()
        return await stream.call(sent, timeout)

    async def _open(self) -> RespStream:
        called = self.node.called
        if self._link is None:
            await self._upstreams.topology.checked(called)
        if self._closed:
            raise NodeUnreachable(f"node {self.node.address} has left the ring; nothing was done")
        link = self._link = self._link or self._upstreams.make_link(self.node, self)
        stream = await link.open(CONNECT_SECONDS)
        if stream is None:
            why = link.error or f"node {self.node.address} has no connection"
            raise NodeUnreachable(f"{why}; nothing was done")
        return stream

    async def close(self, error: NodeLost) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self.ready.set()  # for those in `confirm`
        if self._link is not None:
            await self._link.close(0, error)
