"""Coordination. Sends calls straight to the nodes that own their keys, for threads.

Which way a call goes is decided as in `milena_client.aio.direct`. Here each thread waits for its own reply on a
connection of its own, so that no call needs another thread. A batch is sent to all owners before any reply is
waited for. In a forked process, where gRPC cannot be used, the nodes that were known at the fork are the only way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from math import frexp
from typing import Any, Protocol
from weakref import WeakMethod, finalize

from google.protobuf.message import Message

from milena_client.core.limits import CONNECT_SECONDS, LAST_REPLIES_SECONDS, MAX_MGET_KEYS, MIN_REQUEST_SECONDS
from milena_client.core.near_cache import NearCache
from milena_client.core.routing import Routes
from milena_client.sync.node import RespNode
from milena_client.sync.socket import RespSocket
from milena_common.api.credentials import Credentials
from milena_common.api.errors import (
    FailedPrecondition,
    MilenaError,
    Moved,
    NodeLost,
    NodeUnreachable,
    NoNodes,
    Overloaded,
)
from milena_common.api.methods import GET
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import RingWatch, Streams
from milena_common.resp import client_commands as resp_wire
from milena_common.resp.client_commands import NOT_SENT, NodeCall
from milena_common.resp.identity import ANY, Identity
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock
from milena_common.runtime.forks import NO_GRPC, NO_KNOWN_NODE, inherited_ring, remember_ring, survive_forks
from milena_common.tls.certificates import Certificates, Refreshed

_CLOSED = "this client is closed"

# A call of the API: method, request and the seconds for its reply.
TimedRequest = tuple[str, Message, float]


class Router(Transport, Streams, Protocol):
    """A connection to the router: for calls, and for following its ring."""


def _notify(ring_changed: WeakMethod[Any], slot_map: SlotMap) -> None:
    method = ring_changed()
    if method is not None:
        method(slot_map)


def _close_unused(watch: RingWatch, routes: Routes[RespNode]) -> None:
    """Close what is left of a client that was dropped without `close`."""
    for node in routes.all_ways():
        node.leave()
    watch.close()


def _by_timeout(calls: Sequence[TimedRequest]) -> Iterable[list[int]]:
    """Return the places of calls in groups of similar timeouts, within a factor of two, the shortest first.

    What is sent together is waited for as long as the longest may take; the node itself ends each call in its own
    time. In one group, a call with 5 ms left would be waited for as long as one with 10 s.
    """
    places: dict[int, list[int]] = {}
    for at, (_, _, timeout) in enumerate(calls):
        places.setdefault(frexp(timeout)[1], []).append(at)
    return [places[size] for size in sorted(places)]


class DirectTransport:
    """A `Transport` to the owners of keys, and to the `router` for the rest. Thread-safe.

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
        router: Router,
        bucket: str,
        timeout: float,
        clock: BlockingClock,
        rng: Callable[[], float],
        near: NearCache | None = None,
        certificates: Certificates | None = None,
        credentials: Credentials | None = None,
        routers: str = "",
    ) -> None:
        self._certificates = certificates
        self._routers = routers
        self._router = router
        self._timeout = timeout
        self._clock = clock
        self._near = near
        if near is not None:
            survive_forks(near)

        def node(address: str, identity: Identity) -> RespNode:
            prefix = f"node {address} " if address else ""
            return RespNode(
                address,
                identity=identity,
                error_prefix=prefix,
                near=near,
                security=security,
                credentials=credentials,
            )

        security = None if certificates is None else Refreshed(certificates)
        self._routes: Routes[RespNode] = Routes(bucket, node("", ANY), node, encrypted=security is not None)
        self._updating = threading.Lock()
        # A strong reference in the thread that follows the ring would keep alive a client that programs have
        # dropped.
        ring_changed = WeakMethod(self._ring_changed)
        self._watch = RingWatch(router, rng, lambda slot_map: _notify(ring_changed, slot_map))
        finalize(self, _close_unused, self._watch, self._routes).atexit = False
        self._watching = False
        self._closed = False
        # True if this process was forked from one that followed the ring, or was about to: it cannot follow it.
        self._forked = self._adopt_inherited_ring()
        survive_forks(self)

    def forked(self) -> None:
        self._updating = threading.Lock()
        self._watch.forked()
        # At the fork, the parent's thread may have been about to take over the newest ring, or half way through it.
        if not self._closed and self._watch.current.epoch:
            self._routes.update(self._watch.current)
            self._forked = True
        else:
            self._forked = self._adopt_inherited_ring() or self._watching

    def _adopt_inherited_ring(self) -> bool:
        """Return True if this process has the ring from its parent, and cannot follow it."""
        ring = inherited_ring(self._routers)
        if isinstance(ring, SlotMap) and not self._closed:
            self._routes.update(ring)
            return True
        return False

    @property
    def max_value_bytes(self) -> int:
        """The largest value that may be sent, in bytes; that of any server while the cluster's limit is unknown."""
        return self._routes.max_value_bytes

    def request_value(self, key: str | bytes) -> Any:
        """Send a GET of `key`; return its value, None if there is none, or an exception to raise.

        NOT_SENT: nothing was sent, and `call` has to read it.
        """
        routes = self._routes
        cache_key = routes.to_cache_key(key)
        if cache_key is None:
            return NOT_SENT
        connection = routes.owner_of(cache_key).current()
        if connection is None:
            return NOT_SENT
        try:
            return connection.exchange(resp_wire.get(cache_key), self._timeout)
        except MilenaError as error:
            return self._explained(error)

    def request_values(self, keys: Sequence[str | bytes]) -> list[Any]:
        """Return what `request_value` returns for each of `keys`; all commands leave before any reply is read."""
        found: list[Any] = [NOT_SENT] * len(keys)
        cache_keys = self._routes.to_cache_keys(keys)
        if cache_keys is None:
            return found
        parts = self._routes.by_owner(cache_keys, MAX_MGET_KEYS)
        while parts:
            # One command for each owner is in flight at a time, since nothing is read while commands are sent. With
            # more: (1) the node's replies fill the buffers, because nothing reads them; (2) the node stops reading;
            # (3) this thread waits to send, and neither side continues.
            sent: dict[RespSocket, tuple[list[bytes], Sequence[int]]] = {}
            rest = []
            for node, part, places in parts:
                connection = self._connection(node, self._timeout)
                if connection in sent:
                    rest.append((node, part, places))
                elif connection is not None:
                    sent[connection] = ([resp_wire.mget(part)], places)
            parts = rest
            replies = self._send_and_receive({each: sent[each][0] for each in sent}, self._timeout)
            for connection, (reply,) in replies.items():
                places = sent[connection][1]
                values = resp_wire.values(reply, len(places))
                if len(places) == len(keys):
                    return values
                for place, value in zip(places, values, strict=True):
                    found[place] = value
        return found

    def call_many(self, calls: Sequence[TimedRequest]) -> list[Message | MilenaError | None]:
        """Return the response to each of `calls`, or its error; None: it has to go through the router.

        All owners are sent to before any reply is read.
        """
        self._follow_ring()
        responses: list[Message | MilenaError | None] = [None] * len(calls)
        for places in _by_timeout(calls):
            some = self._call_together([calls[at] for at in places])
            for at, response in zip(places, some, strict=True):
                responses[at] = response
        return responses

    def _call_together(self, calls: Sequence[TimedRequest]) -> list[Message | MilenaError | None]:
        began = self._clock.now()
        places: dict[RespSocket, list[int]] = {}
        commands: dict[RespSocket, list[bytes]] = {}
        node_calls: dict[int, NodeCall] = {}
        for at, (method, request, timeout) in enumerate(calls):
            if method not in resp_wire.RESPONSES:
                continue
            connection = self._connection(self._routes.owner_of_request(request), timeout)
            if connection is not None and not connection.closed:
                with suppress(MilenaError):  # the node did not tell its time: the call goes through the router
                    made = self._node_call(connection, method, request)
                    command = connection.call_command(made, timeout)
                    node_calls[at] = made
                    places.setdefault(connection, []).append(at)
                    commands.setdefault(connection, []).append(command)
        responses: list[Message | MilenaError | None] = [None] * len(calls)
        longest = max((timeout for _, _, timeout in calls), default=self._timeout)
        for connection, replies in self._send_and_receive(commands, longest, lasting=True).items():
            for at, reply in zip(places[connection], replies, strict=True):
                method, request, timeout = calls[at]
                try:
                    if reply is NOT_SENT:
                        continue
                    if isinstance(reply, Moved | NoNodes):
                        left = max(began + timeout - self._clock.now(), MIN_REQUEST_SECONDS)
                        responses[at] = self.call(method, request, left)
                    elif isinstance(reply, MilenaError):
                        if isinstance(reply, Overloaded):
                            connection.peer_clock.doubt()
                        responses[at] = reply
                    else:
                        responses[at] = node_calls[at].response(reply)
                except MilenaError as error:
                    responses[at] = error
        return responses

    def _send_and_receive(
        self, commands: dict[RespSocket, list[bytes]], timeout: float, *, lasting: bool = False
    ) -> dict[RespSocket, list[Any]]:
        """Return the replies to the commands of each connection, and an exception for each that did not come."""
        replies: dict[RespSocket, list[Any]] = {}
        waiting: set[RespSocket] = set()
        try:
            for connection, batch in commands.items():
                connection.lasting = lasting
                if connection.closed:
                    replies[connection] = [NOT_SENT] * len(batch)
                    continue
                waiting.add(connection)
                try:
                    connection.send(batch, timeout)
                except MilenaError as error:
                    waiting.discard(connection)
                    replies[connection] = [self._explained(error)] * len(batch)
            for connection in [*waiting]:
                received = connection.receive(len(commands[connection]))
                replies[connection] = [*map(self._explained, received)] if connection.closed else received
                waiting.discard(connection)
                connection.lasting = False
        finally:
            for connection in waiting:  # only when interrupted
                connection.close()
        return replies

    def call(self, method: str, request: Message, timeout: float) -> Message:
        self._follow_ring()
        deadline = self._clock.now() + timeout
        if method not in resp_wire.RESPONSES:
            if self._forked and method in resp_wire.ANY_NODE:
                return self._call_any_node(method, request, deadline)
            return self._router.call(method, request, timeout)
        try:
            response = self._call_node(self._routes.owner_of_request(request), method, request, deadline)
        except Moved as moved:
            try:
                response = self._call_node(self._routes.redirect(moved.address), method, request, deadline)
            except (Moved, NoNodes):
                response = None
        except NoNodes:
            response = None
        if response is not None:
            return response
        if self._forked:
            return self._call_any_node(method, request, deadline)
        # `close` ends the connections to the nodes before that to the router. A call that lost its node to that
        # must not be made once more through the router, which may reply before it is closed too.
        if self._closed:
            raise FailedPrecondition(_CLOSED)
        return self._router.call(method, request, max(deadline - self._clock.now(), MIN_REQUEST_SECONDS))

    def _call_any_node(self, method: str, request: Message, deadline: float) -> Message:
        """Call any node until one replies, or names the owner of the key: in a forked process, without a router.

        The ring is the one that was known at the fork. Raises FailedPrecondition if none was,
        NodeUnreachable if no node of it can be reached.
        """
        nodes = self._routes.all_ways()
        if not nodes:
            raise FailedPrecondition(_CLOSED if self._closed else NO_GRPC)
        for node in nodes:
            response = None
            try:
                response = self._call_node(node, method, request, deadline)
            except Moved as moved:
                with suppress(Moved, NoNodes):
                    response = self._call_node(self._routes.redirect(moved.address), method, request, deadline)
            except NoNodes:
                continue
            if response is not None:
                return response
        raise NodeUnreachable(NO_KNOWN_NODE)

    def _call_node(self, node: RespNode, method: str, request: Message, deadline: float) -> Message | None:
        """Return the response of the node; None: it cannot be reached. Raises MilenaError."""
        connection = self._connection(node, deadline - self._clock.now())
        if connection is None:
            return None
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        call = self._node_call(connection, method, request)
        connection.lasting = method != GET.name
        if connection.closed:
            return None
        try:
            command = connection.call_command(call, remaining)
        except MilenaError:
            return None  # the node did not tell its time, and nothing else was sent
        try:
            reply = connection.exchange(command, remaining)
        except MilenaError as error:
            raise self._explained(error) from None
        finally:
            connection.lasting = False
        if isinstance(reply, Exception):
            if isinstance(reply, Overloaded):
                connection.peer_clock.doubt()
            raise reply
        return call.response(reply)

    def _node_call(self, connection: RespSocket, method: str, request: Message) -> NodeCall:
        key = self._routes.key_of_request(request) if method in resp_wire.RESPONSES else b""
        return resp_wire.node_call(method, request, key, takes_sets=connection.takes_sets)

    @staticmethod
    def _connection(node: RespNode, remaining: float) -> RespSocket | None:
        if not node.address:
            return None
        return node.open(min(max(remaining, MIN_REQUEST_SECONDS) / 2, CONNECT_SECONDS))

    def _explained(self, reply: Any) -> Any:
        """Return `reply`, or FailedPrecondition for a NodeLost that `close` has caused."""
        return FailedPrecondition(_CLOSED) if self._closed and isinstance(reply, NodeLost) else reply

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        """Begin a call through the router; in a forked process, make one through the nodes."""
        self._follow_ring()
        if not self._forked and not self._closed:
            return self._router.start(method, request, timeout)
        future: Future[Message] = Future()
        try:
            future.set_result(self.call(method, request, timeout))
        except MilenaError as error:
            future.set_exception(error)
        return future

    def _follow_ring(self) -> None:
        if not self._watching and not self._closed and not self._forked:
            with suppress(RuntimeError):  # no thread can be started, as at the end of the process
                self._watch.start()
                self._watching = True

    def _ring_changed(self, slot_map: SlotMap) -> None:
        remember_ring(self._routers, slot_map if slot_map.epoch else None)
        with self._updating:
            gone = self._routes.update(slot_map) if not self._closed else []
            if self._near is not None:
                # After the update: a read that begins between the two goes to the new owner. Cleared before it, a
                # read of the old owner could begin and be kept in between, and no node would report its changes.
                self._near.clear()
        if gone:
            timer = threading.Timer(LAST_REPLIES_SECONDS, _leave, (gone,))
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        with self._updating:
            self._closed = True
            nodes = self._routes.all_ways()
            self._routes.update(SlotMap.empty())
        for node in nodes:
            node.leave()
        if self._near is not None:
            self._near.clear()
        self._watch.close()


def _leave(gone: Sequence[RespNode]) -> None:
    for node in gone:
        node.leave(lasting=True)
