"""Coordination. Calls that go straight to the node that owns the key, for threads.

Which way a call goes is decided as in `milena_client.aio.direct`. Here each thread waits for its own answer on a
connection of its own, so that no call needs another thread. A batch is sent to all owners before any is waited for.
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
from milena_common.api.errors import FailedPrecondition, MilenaError, Moved, NodeLost, NodeUnreachable, NoNodes
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import RingWatch, Streams
from milena_common.resp import client_commands as resp_wire
from milena_common.resp.client_commands import NOT_ASKED
from milena_common.resp.identity import ANY, Identity
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock
from milena_common.runtime.forks import NO_GRPC, survive_forks

_CLOSED = "this client is closed"

# A call of the API: method, request and the seconds for its reply.
TimedRequest = tuple[str, Message, float]


class Router(Transport, Streams, Protocol):
    """What is used of a connection to the router."""


def _tell(ring_changed: WeakMethod[Any], slot_map: SlotMap) -> None:
    method = ring_changed()
    if method is not None:
        method(slot_map)


def _end(watch: RingWatch, routes: Routes[RespNode]) -> None:
    for node in routes.all():
        node.leave()
    watch.close()


def _alike(calls: Sequence[TimedRequest]) -> Iterable[list[int]]:
    """The places of calls whose times are alike, within a factor of two; those with the least time come first.

    What is sent at once is waited for as long as the longest may take. The node itself ends each in its own time.
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
    - `near`: the near cache to clear when what it holds may be wrong.
    """

    def __init__(
        self,
        router: Router,
        bucket: str,
        timeout: float,
        clock: BlockingClock,
        rng: Callable[[], float],
        near: NearCache | None = None,
    ) -> None:
        self._router = router
        self._timeout = timeout
        self._clock = clock
        self._near = near
        if near is not None:
            survive_forks(near)
        # Whether this process was forked from one that followed the ring, or was about to: it cannot follow it.
        self._forked = False

        def node(address: str, identity: Identity) -> RespNode:
            return RespNode(address, identity=identity, who=f"node {address} " if address else "", near=near)

        self._routes: Routes[RespNode] = Routes(bucket, node("", ANY), node)
        self._updating = threading.Lock()
        # The thread that follows the ring must not keep alive a client that nobody has any more.
        ring_changed = WeakMethod(self._ring_changed)
        self._watch = RingWatch(router, rng, lambda slot_map: _tell(ring_changed, slot_map))
        finalize(self, _end, self._watch, self._routes).atexit = False
        self._watching = False
        self._closed = False
        survive_forks(self)

    def forked(self) -> None:
        self._updating = threading.Lock()
        self._forked = self._watching
        self._watch.forked()
        # The thread that follows the ring may have been about to take over the newest one, or half way through it.
        if not self._closed:
            self._routes.update(self._watch.current)

    @property
    def max_value_bytes(self) -> int:
        """The largest value that may be sent: the router's limit, or what no server takes while that is unknown."""
        return self._routes.max_value_bytes

    def request_value(self, key: str | bytes) -> Any:
        """The answer to a GET of `key`: its value, None if there is none, or an exception.

        NOT_ASKED: it has to be read by `call`.
        """
        routes = self._routes
        filed = routes.filed(key)
        if filed is None:
            return NOT_ASKED
        connection = routes.way(filed).current()
        if connection is None:
            return NOT_ASKED
        try:
            return connection.ask(resp_wire.get(filed), self._timeout)
        except MilenaError as error:
            return self._told(error)

    def request_values(self, keys: Sequence[str | bytes]) -> list[Any]:
        """For each of `keys` what `request_value` answers; all owners are asked at once."""
        answers: list[Any] = [NOT_ASKED] * len(keys)
        filed = self._routes.filed_many(keys)
        if filed is None:
            return answers
        shares = self._routes.shares(filed, MAX_MGET_KEYS)
        while shares:
            # One share of each owner is under way at a time: nothing is read while they are sent.
            asked: dict[RespSocket, tuple[list[bytes], Sequence[int]]] = {}
            later = []
            for node, wanted, places in shares:
                connection = self._connection(node, self._timeout)
                if connection in asked:
                    later.append((node, wanted, places))
                elif connection is not None:
                    asked[connection] = ([resp_wire.mget(wanted)], places)
            shares = later
            replies = self._send_and_receive({each: asked[each][0] for each in asked}, self._timeout)
            for connection, (reply,) in replies.items():
                places = asked[connection][1]
                for place, value in zip(places, resp_wire.values(reply, len(places)), strict=True):
                    answers[place] = value
        return answers

    def call_many(self, calls: Sequence[TimedRequest]) -> list[Message | MilenaError | None]:
        """The answer to each of `calls`; None: it has to go through the router. All owners are asked at once."""
        self._begin()
        answers: list[Message | MilenaError | None] = [None] * len(calls)
        for places in _alike(calls):
            some = self._call_alike([calls[at] for at in places])
            for at, answer in zip(places, some, strict=True):
                answers[at] = answer
        return answers

    def _call_alike(self, calls: Sequence[TimedRequest]) -> list[Message | MilenaError | None]:
        began = self._clock.now()
        places: dict[RespSocket, list[int]] = {}
        commands: dict[RespSocket, list[bytes]] = {}
        for at, (method, request, timeout) in enumerate(calls):
            if method not in resp_wire.ANSWERS:
                continue
            connection = self._connection(self._routes.of(request), timeout)
            if connection is not None:
                places.setdefault(connection, []).append(at)
                command = resp_wire.call(method, timeout, request.SerializeToString())
                commands.setdefault(connection, []).append(command)
        answers: list[Message | MilenaError | None] = [None] * len(calls)
        longest = max((timeout for _, _, timeout in calls), default=self._timeout)
        for connection, replies in self._send_and_receive(commands, longest, lasting=True).items():
            for at, reply in zip(places[connection], replies, strict=True):
                method, request, timeout = calls[at]
                try:
                    if reply is NOT_ASKED:
                        continue
                    if isinstance(reply, Moved | NoNodes):
                        left = max(began + timeout - self._clock.now(), MIN_REQUEST_SECONDS)
                        answers[at] = self.call(method, request, left)
                    elif isinstance(reply, MilenaError):
                        answers[at] = reply
                    else:
                        answers[at] = resp_wire.answer(method, reply)
                except MilenaError as error:
                    answers[at] = error
        return answers

    def _send_and_receive(
        self, commands: dict[RespSocket, list[bytes]], timeout: float, *, lasting: bool = False
    ) -> dict[RespSocket, list[Any]]:
        """The replies to the commands for each connection; an exception in place of each that did not come."""
        replies: dict[RespSocket, list[Any]] = {}
        waiting: set[RespSocket] = set()
        try:
            for connection, batch in commands.items():
                connection.lasting = lasting
                if connection.closed:
                    replies[connection] = [NOT_ASKED] * len(batch)
                    continue
                waiting.add(connection)
                try:
                    connection.send(batch, timeout)
                except MilenaError as error:
                    waiting.discard(connection)
                    replies[connection] = [self._told(error)] * len(batch)
            for connection in [*waiting]:
                received = connection.receive(len(commands[connection]))
                replies[connection] = [*map(self._told, received)] if connection.closed else received
                waiting.discard(connection)
                connection.lasting = False
        finally:
            for connection in waiting:  # only when interrupted
                connection.close()
        return replies

    def call(self, method: str, request: Message, timeout: float) -> Message:
        self._begin()
        if method not in resp_wire.ANSWERS:
            return self._router.call(method, request, timeout)
        deadline = self._clock.now() + timeout
        try:
            answer = self._ask_owner(self._routes.of(request), method, request, deadline)
        except Moved as moved:
            try:
                answer = self._ask_owner(self._routes.moved(moved.address), method, request, deadline)
            except (Moved, NoNodes):
                answer = None
        except NoNodes:
            answer = None
        if answer is None:
            if self._forked:
                return self._ask_all(method, request, deadline)
            return self._router.call(method, request, max(deadline - self._clock.now(), MIN_REQUEST_SECONDS))
        return answer

    def _ask_all(self, method: str, request: Message, deadline: float) -> Message:
        """Call any node until one owns the key or knows its owner: in a forked process, without a router.

        The ring is the one that was known at the fork. Raises FailedPrecondition if none was,
        NodeUnreachable if no node of it can be reached.
        """
        nodes = self._routes.all()
        if not nodes:
            raise FailedPrecondition(_CLOSED if self._closed else NO_GRPC)
        for node in nodes:
            answer = None
            try:
                answer = self._ask_owner(node, method, request, deadline)
            except Moved as moved:
                with suppress(Moved, NoNodes):
                    answer = self._ask_owner(self._routes.moved(moved.address), method, request, deadline)
            except NoNodes:
                continue
            if answer is not None:
                return answer
        raise NodeUnreachable(
            "the owner of this key cannot be reached, and no node that was known when this process was forked says "
            "that it has another one"
        )

    def _ask_owner(self, node: RespNode, method: str, request: Message, deadline: float) -> Message | None:
        """None: there is no way to it."""
        connection = self._connection(node, deadline - self._clock.now())
        if connection is None:
            return None
        remaining = max(deadline - self._clock.now(), MIN_REQUEST_SECONDS)
        command = resp_wire.call(method, remaining, request.SerializeToString())
        connection.lasting = method != "Get"
        if connection.closed:
            return None
        try:
            reply = connection.ask(command, remaining)
        except MilenaError as error:
            raise self._told(error) from None
        finally:
            connection.lasting = False
        if isinstance(reply, Exception):
            raise reply
        return resp_wire.answer(method, reply)

    @staticmethod
    def _connection(node: RespNode, remaining: float) -> RespSocket | None:
        if not node.address:
            return None
        return node.open(min(max(remaining, MIN_REQUEST_SECONDS) / 2, CONNECT_SECONDS))

    def _told(self, answer: Any) -> Any:
        """`answer`; a connection that broke off because this client was closed has not lost a node."""
        return FailedPrecondition(_CLOSED) if self._closed and isinstance(answer, NodeLost) else answer

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        """Begin a call through the router; in a forked process, make one through the nodes."""
        self._begin()
        if self._forked:
            future: Future[Message] = Future()
            try:
                future.set_result(self.call(method, request, timeout))
            except MilenaError as error:
                future.set_exception(error)
            return future
        return self._router.start(method, request, timeout)

    def _begin(self) -> None:
        if not self._watching and not self._closed:
            with suppress(RuntimeError):  # no thread can be had, as at the end of the process
                self._watch.start()
                self._watching = True

    def _ring_changed(self, slot_map: SlotMap) -> None:
        with self._updating:
            gone = self._routes.update(slot_map) if not self._closed else []
            if self._near is not None:
                self._near.clear()  # what it holds from now on comes from the new owners
        if gone:
            later = threading.Timer(LAST_REPLIES_SECONDS, _leave, (gone,))
            later.daemon = True
            later.start()

    def close(self) -> None:
        with self._updating:
            self._closed = True
            nodes = self._routes.all()
            self._routes.update(SlotMap.empty())
        for node in nodes:
            node.leave()
        if self._near is not None:
            self._near.clear()
        self._watch.close()


def _leave(gone: Sequence[RespNode]) -> None:
    for node in gone:
        node.leave(lasting=True)
