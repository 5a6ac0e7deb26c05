"""Coordination. Calls that go straight to the node that owns the key, for an event loop.

The router is asked when there is no other way: for what is not about one key, while no ring is known, when it
keeps its ring to itself, and for nodes that cannot be reached from here. Nobody has to say which it is: a node that
cannot be connected to is tried again beside, now and then, while its calls go through the router. With the ring
known, calls need the router no more. So it is with a node that is not the one which the ring has at its address:
it refuses the connection before a key is sent, and the ring in which it is right is on its way.

A node that does not own a key says who does, and is believed once. If that one disagrees, the router decides, and
by then the ring over which they disagree is on its way. What a node did not do because it has no ring itself goes
through the router at once too.

Reads that wait for a node are given up when it leaves the ring, and are tried again; writes are not, since a node
that leaves finishes what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Protocol

from google.protobuf.message import Message

from milena_client.aio.near_cache_feed import FOLLOW, NearLinks
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
from milena_common.api.errors import FailedPrecondition, Moved, NodeLost, NoNodes
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import AsyncRingWatch, AsyncStreams
from milena_common.resp import client_commands as resp_wire
from milena_common.resp.client_commands import NOT_ASKED
from milena_common.resp.identity import ANY, Identity
from milena_common.resp.link import RespLink
from milena_common.rpc.transport import AsyncTransport
from milena_common.runtime.clock import Clock
from milena_common.runtime.event_loops import Home
from milena_common.runtime.forks import leak, survive_forks


class AsyncRouter(AsyncTransport, AsyncStreams, Protocol):
    """What is used of a connection to the router."""


class AsyncDirectTransport:
    """An `AsyncTransport` to the owners of keys, and to the `router` for the rest.

    - `bucket`: that of the keys of `request_value` and `request_values`.
    - `timeout`: the seconds for their replies.
    - `rng`: gives numbers in [0, 1), for the pauses between attempts to follow the ring.
    - `near`: the near cache to clear when what it holds may be wrong.
    """

    def __init__(
        self,
        router: AsyncRouter,
        bucket: str,
        timeout: float,
        clock: Clock,
        rng: Callable[[], float],
        near: NearCache | None = None,
    ) -> None:
        self._router = router
        self._timeout = timeout
        self._clock = clock
        self._bucket = bucket
        self._rng = rng
        self._values = near
        self._closed = False
        self._begin()
        self._home = Home(self._begin)
        survive_forks(self)

    def _begin(self) -> None:
        """Begin without a ring and without connections, for the event loop of the next call."""
        self._near = NearLinks(self._values, self._clock) if self._values is not None else None
        if self._values is not None:
            self._values.drop_sources()
        self._routes: Routes[RespLink] = Routes(self._bucket, self._link("", ANY), self._link)
        self._watch = AsyncRingWatch(self._router, self._clock, self._rng, self._ring_changed)
        self._watching: asyncio.Task[None] | None = None
        self._leaving: dict[asyncio.Task[None], RespLink] = {}

    def forked(self) -> None:
        # The parent's transports would take themselves out of an epoll that both processes have.
        leak((self._routes, self._watching, self._leaving, self._near))
        if self._values is not None:
            self._values.forked()
        self._begin()
        self._home.leave()

    def _link(self, address: str, identity: Identity) -> RespLink:
        who = f"node {address} " if address else ""
        near = self._near
        if near is None:
            return RespLink(address, timeout=self._timeout, identity=identity, who=who)
        return RespLink(address, timeout=self._timeout, identity=identity, who=who, more=(FOLLOW,), listener=near)

    @property
    def max_value_bytes(self) -> int:
        """The largest value that may be sent: the router's limit, or what no server takes while that is unknown."""
        return self._routes.max_value_bytes

    def request_value(self, key: str | bytes) -> Any:
        """Send a GET of `key`; return a future of its value, None if there is none, or an exception to raise.

        NOT_ASKED in place of the future: nothing was sent, and `call` has to read it.
        """
        home = self._home
        if not home.is_running() or home.thread != get_ident():
            home.settle()
        routes = self._routes
        filed = routes.filed(key)
        if filed is None:
            return NOT_ASKED
        stream = routes.way(filed).stream
        return NOT_ASKED if stream is None else stream.request(resp_wire.get(filed))

    async def request_values(self, keys: Sequence[str | bytes]) -> list[Any]:
        """For each of `keys`: its value, None if there is none, or an exception, after which it is read by `call`.

        All owners are asked at once.
        """
        self._home.settle()
        answers: list[Any] = [NOT_ASKED] * len(keys)
        filed = self._routes.filed_many(keys)
        if filed is None:
            return answers
        asked = [
            (places, stream.request(resp_wire.mget(wanted)))
            for link, wanted, places in self._routes.shares(filed, MAX_MGET_KEYS)
            if (stream := link.stream) is not None
        ]
        for places, future in asked:
            for place, value in zip(places, resp_wire.values(await future, len(places)), strict=True):
                answers[place] = value
        return answers

    async def call(self, method: str, request: Message, timeout: float) -> Message:
        self._home.settle()
        if self._watching is None and not self._closed:
            self._watching = asyncio.create_task(self._watch.run())
        if method not in resp_wire.ANSWERS:
            return await self._router.call(method, request, timeout)
        deadline = self._clock.now() + timeout
        try:
            answer = await self._ask_owner(self._routes.of(request), method, request, deadline)
        except Moved as moved:
            try:
                answer = await self._ask_owner(self._routes.moved(moved.address), method, request, deadline)
            except (Moved, NoNodes):
                answer = None
        except NoNodes:
            answer = None
        if answer is None:
            return await self._router.call(method, request, max(deadline - self._clock.now(), MIN_REQUEST_SECONDS))
        return answer

    async def _ask_owner(self, link: RespLink, method: str, request: Message, deadline: float) -> Message | None:
        """None: there is no way to it."""
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        if not link.address:
            return None
        patience = CONNECT_SECONDS if link.reached else FIRST_CONNECT_SECONDS
        stream = link.stream or await link.open(min(remaining / 2, patience))
        if stream is None:
            return None
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        command = resp_wire.call(method, remaining, request.SerializeToString())
        return resp_wire.answer(method, await stream.call(command, remaining, lasting=method != "Get"))

    def _ring_changed(self, slot_map: SlotMap) -> None:
        gone = self._routes.update(slot_map)
        if self._near is not None:
            self._near.ring_changed(gone)
        for link in gone:
            task = asyncio.create_task(self._part_from(link))
            self._leaving[task] = link
            task.add_done_callback(self._leaving.pop)

    async def _part_from(self, link: RespLink) -> None:
        error = NodeLost(f"node {link.address} left the ring while it was asked")
        await self._clock.sleep(LAST_REPLIES_SECONDS)
        link.break_off(error)
        await link.close(LEAVE_GRACE_SECONDS, error)

    async def close(self) -> None:
        self._home.settle()
        self._closed = True
        if self._near is not None:
            self._near.close()
        if self._watching is not None:
            self._watching.cancel()
        error = FailedPrecondition("this client is closed")
        links = [*self._routes.all(), *self._leaving.values()]
        self._routes.update(SlotMap.empty())
        await asyncio.gather(*[link.close(0, error) for link in links], self._router.close())
        ending = {*self._leaving, *([self._watching] if self._watching is not None else [])}
        if ending:
            await asyncio.wait(ending)
