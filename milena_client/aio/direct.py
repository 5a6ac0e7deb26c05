"""Coordination. Sends calls straight to the nodes that own their keys, for an event loop.

Calls go through the router where there is no other way: calls that are not about one key, calls while no ring is
known (or the router withholds it), and calls to nodes that cannot be reached from here. This needs no
configuration: connections to a node that cannot be reached are retried in the background, while its calls go
through the router. The same holds if another process is at the node's address: it rejects the handshake before a
key is sent, and a newer ring will follow.

A node that does not own a key replies with the owner. That redirect is followed once. If the second node redirects
too, the rings of the two differ, and the router decides. A request that a node did not serve because it has no ring
goes through the router at once.

Reads that wait for a node fail when it leaves the ring, and are repeated. Writes are not: (1) a node receives a
write and leaves the ring; (2) it finishes what it has received, this write included; (3) a repeated write at the
new owner could overwrite what another client has written since.

In a forked process, where gRPC cannot be used, the nodes that were known at the fork are the only way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import get_ident
from typing import Any, Protocol

from google.protobuf.message import Message

from milena_client.aio.near_cache_feed import FOLLOW, AsyncNearCacheFeed
from milena_client.core.limits import (
    CONNECT_SECONDS,
    FIRST_CONNECT_SECONDS,
    LAST_REPLIES_SECONDS,
    LEAVE_GRACE_SECONDS,
    MAX_MGET_KEYS,
    MIN_REQUEST_SECONDS,
)
from milena_client.core.near_cache import NearCache
from milena_client.core.routing import Routes
from milena_common.api.credentials import Credentials
from milena_common.api.errors import FailedPrecondition, Moved, NodeLost, NodeUnreachable, NoNodes
from milena_common.api.methods import GET
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import AsyncRingWatch, AsyncStreams
from milena_common.resp import client_commands as resp_wire
from milena_common.resp.client_commands import NOT_SENT
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.link import RespLink
from milena_common.rpc.transport import AsyncTransport
from milena_common.runtime.clock import Clock
from milena_common.runtime.event_loops import Home
from milena_common.runtime.forks import NO_GRPC, NO_KNOWN_NODE, inherited_ring, leak, remember_ring, survive_forks
from milena_common.tls.certificates import Certificates, Refreshed

_CLOSED = "this client is closed"


class AsyncRouter(AsyncTransport, AsyncStreams, Protocol):
    """The part of a connection to the router that is used here: calls, and following its ring."""


class AsyncDirectTransport:
    """An `AsyncTransport` to the owners of keys, and to the `router` for the rest.

    - `bucket`: that of the keys of `request_value` and `request_values`.
    - `timeout`: the seconds for their replies.
    - `rng`: gives numbers in [0, 1), for the pauses between attempts to follow the ring.
    - `near`: the near cache, which is cleared when its values may be outdated.
    - `certificates`: encrypt the connections to nodes; None: they are plain.
    - `credentials`: what connections log in with; None: they do not.
    - `routers`: the addresses of the routers, by which their ring is known after a fork.
    """

    def __init__(
        self,
        router: AsyncRouter,
        bucket: str,
        timeout: float,
        clock: Clock,
        rng: Callable[[], float],
        near: NearCache | None = None,
        certificates: Certificates | None = None,
        credentials: Credentials | None = None,
        routers: str = "",
    ) -> None:
        self._certificates = certificates
        self._credentials = credentials
        self._routers = routers
        self._router = router
        self._timeout = timeout
        self._clock = clock
        self._bucket = bucket
        self._rng = rng
        self._near = near
        self._closed = False
        self._begin_anew()
        self._home = Home(self._begin_anew)
        survive_forks(self)

    def _begin_anew(self) -> None:
        """Begin without a ring and without connections, for the event loop of the next call."""
        self._feed = AsyncNearCacheFeed(self._near, self._clock) if self._near is not None else None
        if self._near is not None:
            self._near.drop_sources()
        self._routes: Routes[RespLink] = Routes(
            self._bucket, self._link("", ANY), self._link, encrypted=self._certificates is not None
        )
        self._watch = AsyncRingWatch(self._router, self._clock, self._rng, self._ring_changed)
        self._watching: asyncio.Task[None] | None = None
        self._leaving: dict[asyncio.Task[None], RespLink] = {}
        # A ring: this process was forked from one that knew it, and cannot follow it.
        ring = inherited_ring(self._routers)
        self._forked = isinstance(ring, SlotMap) and not self._closed
        if isinstance(ring, SlotMap) and self._forked:
            self._routes.update(ring)

    def forked(self) -> None:
        # The parent's transports would take themselves out of an epoll that both processes have.
        leak((self._routes, self._watching, self._leaving, self._feed))
        if self._near is not None:
            self._near.forked()
        self._begin_anew()
        self._home.leave_loop()

    def _link(self, address: str, identity: Identity) -> RespLink:
        who = f"node {address} " if address else ""
        feed = self._feed
        return RespLink(
            address,
            timeout=self._timeout,
            identity=identity,
            who=who,
            more=() if feed is None else (FOLLOW,),
            listener=feed,
            security=None if self._certificates is None else Refreshed(self._certificates),
            credentials=lambda: self._credentials,
        )

    @property
    def max_value_bytes(self) -> int:
        """The largest value that may be sent, in bytes; that of any server while the cluster's limit is unknown."""
        return self._routes.max_value_bytes

    def request_value(self, key: str | bytes) -> Any:
        """Send a GET of `key`; return a future of its value, None if there is none, or an exception to raise.

        NOT_SENT in place of the future: nothing was sent, and `call` has to read it.
        """
        home = self._home
        if not home.is_running() or home.thread != get_ident():
            home.adopt()
        routes = self._routes
        cache_key = routes.to_cache_key(key)
        if cache_key is None:
            return NOT_SENT
        stream = routes.owner_of(cache_key).stream
        return NOT_SENT if stream is None else stream.request(resp_wire.get(cache_key))

    async def request_values(self, keys: Sequence[str | bytes]) -> list[Any]:
        """Return for each of `keys` its value, None if there is none, or an exception: `call` has to read it then.

        Requests go to all owners concurrently, in commands of at most MAX_MGET_KEYS keys.
        """
        self._home.adopt()
        found: list[Any] = [NOT_SENT] * len(keys)
        cache_keys = self._routes.to_cache_keys(keys)
        if cache_keys is None:
            return found
        sent = [
            (places, stream.request(resp_wire.mget(part)))
            for link, part, places in self._routes.by_owner(cache_keys, MAX_MGET_KEYS)
            if (stream := link.stream) is not None
        ]
        for places, reply in sent:
            values = resp_wire.values(await reply, len(places))
            if len(places) == len(keys):
                return values
            for place, value in zip(places, values, strict=True):
                found[place] = value
        return found

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        self._home.adopt()
        if self._watching is None and not self._closed and not self._forked:
            self._watching = asyncio.create_task(self._watch.run())
        deadline = self._clock.now() + timeout
        if method not in resp_wire.RESPONSES:
            if self._forked and method in resp_wire.ANY_NODE:
                return await self._call_any_node(method, request, deadline)
            return await self._router.call(method, request, timeout)
        try:
            response = await self._call_node(self._routes.owner_of_request(request), method, request, deadline)
        except Moved as moved:
            try:
                response = await self._call_node(self._routes.redirect(moved.address), method, request, deadline)
            except (Moved, NoNodes):
                response = None
        except NoNodes:
            response = None
        if response is not None:
            return response
        if self._forked:
            return await self._call_any_node(method, request, deadline)
        return await self._router.call(method, request, max(deadline - self._clock.now(), MIN_REQUEST_SECONDS))

    async def _call_any_node(self, method: str, request: Message, deadline: float) -> Message:
        """Call any node until one replies, or names the owner of the key: in a forked process, without a router.

        Raises FailedPrecondition if no ring was known at the fork, NodeUnreachable if no node of it can be reached.
        """
        links = self._routes.all_ways()
        if not links:
            raise FailedPrecondition(_CLOSED if self._closed else NO_GRPC)
        for link in links:
            response = None
            try:
                response = await self._call_node(link, method, request, deadline)
            except Moved as moved:
                with suppress(Moved, NoNodes):
                    owner = self._routes.redirect(moved.address)
                    response = await self._call_node(owner, method, request, deadline)
            except NoNodes:
                continue
            if response is not None:
                return response
        raise NodeUnreachable(NO_KNOWN_NODE)

    async def _call_node(self, link: RespLink, method: str, request: Message, deadline: float) -> Message | None:
        """Return the response of the node; None: it cannot be reached. Raises MilenaError."""
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        if not link.address:
            return None
        connect_timeout = CONNECT_SECONDS if link.reached else FIRST_CONNECT_SECONDS
        stream = link.stream or await link.open(min(remaining / 2, connect_timeout))
        if stream is None:
            return None
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        key = self._routes.key_of_request(request) if method in resp_wire.RESPONSES else b""
        call = resp_wire.node_call(method, request, key, takes_sets=stream.takes_sets)
        return call.response(await stream.make(call, remaining, lasting=method != GET.name))

    def _ring_changed(self, slot_map: SlotMap) -> None:
        remember_ring(self._routers, slot_map if slot_map.epoch else None)
        gone = self._routes.update(slot_map)
        if self._feed is not None:
            self._feed.nodes_gone(gone)
        for link in gone:
            task = asyncio.create_task(self._leave(link))
            self._leaving[task] = link
            task.add_done_callback(self._leaving.pop)

    async def _leave(self, link: RespLink) -> None:
        # First let replies that are on their way arrive; then end the reads; then wait for the writes.
        error = NodeLost(f"node {link.address} left the ring before it replied")
        await self._clock.sleep(LAST_REPLIES_SECONDS)
        link.break_off(error)
        await link.close(LEAVE_GRACE_SECONDS, error)

    async def close(self) -> None:
        self._home.adopt()
        self._closed = True
        if self._feed is not None:
            self._feed.close()
        if self._watching is not None:
            self._watching.cancel()
        error = FailedPrecondition(_CLOSED)
        links = [*self._routes.all_ways(), *self._leaving.values()]
        self._routes.update(SlotMap.empty())
        await asyncio.gather(*[link.close(0, error) for link in links], self._router.close())
        tasks = {*self._leaving, *([self._watching] if self._watching is not None else [])}
        if tasks:
            await asyncio.wait(tasks)
