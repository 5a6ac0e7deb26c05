"""Coordination. The network between the machines of a simulation, in virtual time.

A `Wire` carries messages in one direction, in order, each after a random delay. While its direction is cut off,
messages wait, as those of TCP do that are sent again and again; when it heals they arrive. Messages that were on
their way when it was cut off arrive. A connection is two wires. It breaks when a process is killed, or by a fault;
then each side finds out when it hears of it: not while it is cut off.

Buffers have no bounds: no message of a simulation is so large that a sender would have to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from hashlib import blake2b
from random import Random
from typing import Any

from milena_common.network.addresses import parse_address
from tests.simulation.loop import Process, VirtualLoop, here

# Virtual seconds that a message takes, between these.
MIN_DELAY, MAX_DELAY = 0.0001, 0.002


class Network:
    """Which machine reaches which, how long a message takes, and who listens.

    slow: seconds that messages of a direction take longer
    duplicates: share of the renewals at a router that arrive twice
    trace: a digest of everything that was sent, and when
    log: takes a line about each event, if there is one
    """

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.trace = blake2b(digest_size=16)
        self.log: Callable[[str], None] | None = None
        self.slow: dict[tuple[str, str], float] = {}
        self.duplicates = 0.0
        # Connections that are not `Endpoint`s: client, server, and what breaks them.
        self.breakable: list[tuple[str, str, Callable[[], None]]] = []
        self._blocked: dict[tuple[str, str], int] = {}
        self._waiting: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._connections: dict[Endpoint, None] = {}
        self._ports = 40_000
        loop.connect = self._connect
        loop.serve = self._serve

    def record(self, *what: object) -> None:
        """Add an event to the trace."""
        self.trace.update(repr((self.loop.time(), *what)).encode())
        if self.log is not None:
            self.log(" ".join((f"{self.loop.time():.4f}", *map(str, what))))

    # ---- faults

    def block(self, source: str, destination: str) -> None:
        """Cut off one direction between two machines; as often as it is called, `unblock` must be."""
        self._blocked[source, destination] = self._blocked.get((source, destination), 0) + 1

    def unblock(self, source: str, destination: str) -> None:
        pair = source, destination
        self._blocked[pair] -= 1
        if not self._blocked[pair]:
            del self._blocked[pair]
            for go_on in self._waiting.pop(pair, ()):
                go_on()

    def is_blocked(self, source: str, destination: str) -> bool:
        return (source, destination) in self._blocked

    def wait_for(self, source: str, destination: str, go_on: Callable[[], None]) -> None:
        """Call `go_on` when the direction, which is cut off, has healed."""
        self._waiting.setdefault((source, destination), []).append(go_on)

    def delay(self, source: str, destination: str) -> float:
        """Return how long the next message takes."""
        return self.rng.uniform(MIN_DELAY, MAX_DELAY) + self.slow.get((source, destination), 0.0)

    def break_connections(self, one: str, other: str) -> None:
        """Break all connections between two machines."""
        for each in list(self._connections):
            if (each.process.host, each.peer.process.host) == (one, other):
                each.vanish()
                each.hear_of_it()
        for client, server, break_off in self.breakable:
            if {client, server} == {one, other}:
                break_off()

    # ---- connections

    async def _connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Any:
        client, loop = here(), self.loop
        opened: asyncio.Future[Any] = loop.create_future()
        there = Wire(self, client.host, host)
        back = Wire(self, host, client.host)
        name = client.name

        def requested() -> None:
            # In the system of the machine, which accepts connections also while the process does not run.
            listener = self._listeners.get((host, port))
            if listener is None or listener.process.killed or not listener.is_open:
                back.send(rejected, client.context)
                return
            self._ports += 1
            near = Endpoint(self, client, there, (host, port), (client.host, self._ports))
            far = Endpoint(self, listener.process, back, (client.host, self._ports), (host, port))
            near.peer, far.peer = far, near
            self._connections[near] = self._connections[far] = None
            loop.call_soon(far.begin, listener.factory, context=listener.process.context)
            back.send(accepted, client.context, near)

        def rejected() -> None:
            if not opened.done():
                opened.set_exception(ConnectionRefusedError(111, f"{name}: nothing listens at {host}:{port}"))

        def accepted(near: Endpoint) -> None:
            if opened.done():  # the caller does not wait any more
                near.vanish()
            else:
                near.begin(factory)
                opened.set_result((near, near.protocol))

        there.send(requested, None)
        return await opened

    async def rejects_connections(self, address: str, timeout: float) -> bool:
        """Implement `is_refused` of `milena_common.network.connecting`."""
        to = parse_address(address)
        try:
            transport, _ = await asyncio.wait_for(self._connect(asyncio.Protocol, to.host, to.port), timeout)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        transport.abort()
        return False

    def _serve(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Listener:
        process = here()
        before = self._listeners.get((host, port))
        assert before is None or before.process.killed or not before.is_open, f"{host}:{port} is in use"
        listener = self._listeners[host, port] = Listener(process, factory, host, port)
        process.on_kill.append(lambda: self._killed(process))
        return listener

    def client(self, process: Process) -> None:
        """Let the connections of a process that does not listen break when it is killed."""
        process.on_kill.append(lambda: self._killed(process))

    def _killed(self, process: Process) -> None:
        for each in list(self._connections):
            if each.process is process:
                each.vanish()

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        self._connections.pop(endpoint, None)


class Wire:
    """Messages from one machine to another, in order."""

    __slots__ = ("_destination", "_latest", "_network", "_source", "_waiting")

    def __init__(self, network: Network, source: str, destination: str) -> None:
        self._network = network
        self._source = source
        self._destination = destination
        self._latest = 0.0
        self._waiting: deque[tuple[Callable[..., None], Context | None, tuple[Any, ...]]] = deque()

    def send(self, deliver: Callable[..., None], context: Context | None, *args: Any) -> None:
        """Have `deliver` called in `context` (None: by the system) when the message has arrived."""
        network = self._network
        if self._waiting or (network._blocked and network.is_blocked(self._source, self._destination)):
            if not self._waiting:
                network.wait_for(self._source, self._destination, self._healed)
            self._waiting.append((deliver, context, args))
            return
        loop = network.loop
        at = max(self._latest, loop.time() + network.delay(self._source, self._destination))
        # The heap does not keep the order of messages that arrive at one time.
        self._latest = at + 1e-9
        loop.call_at(at, deliver, *args, context=context or SYSTEM)

    def _healed(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for deliver, context, args in waiting:
            self.send(deliver, context, *args)


# The context of what machines do by themselves.
SYSTEM = Context()


class Listener:
    """What `create_server` returns: a listening socket."""

    def __init__(self, process: Process, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        self.process = process
        self.factory = factory
        self.is_open = True
        self.sockets = (_Socket((host, port)),)

    def close(self) -> None:
        self.is_open = False


class _Socket:
    """The few methods of a socket that the product uses beside its transport."""

    def __init__(self, name: tuple[str, int]) -> None:
        self._name = name

    def getsockname(self) -> tuple[str, int]:
        return self._name

    def setsockopt(self, *_: int) -> None:
        pass


class Endpoint(asyncio.Transport):
    """One side of a connection: the transport of a real protocol."""

    peer: Endpoint
    protocol: asyncio.Protocol

    def __init__(
        self, network: Network, process: Process, wire: Wire, peername: tuple[str, int], sockname: tuple[str, int]
    ) -> None:
        super().__init__({"peername": peername, "sockname": sockname, "socket": _Socket(sockname)})
        self.process = process
        self._network = network
        self._wire = wire
        self._closing = False
        self._lost = False
        self._reading = True
        self._unread: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def begin(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self.protocol = factory()
        self.protocol.connection_made(self)

    # ---- the transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            sent = bytes(data)
            self._network.record(self.process.name, ">", self.peer.process.name, sent)
            self._to_peer(self.peer._received, sent)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._to_peer(self.peer._finished)
            self._network.loop.call_soon(self._lose, None, context=self.process.context)

    def abort(self) -> None:
        if not self._lost:
            self._closing = True
            self._to_peer(self.peer._broken)
            self._network.loop.call_soon(self._lose, None, context=self.process.context)

    def vanish(self) -> None:
        """End it as the system does when the process was killed: only the peer gets to know."""
        if not self._lost:
            self._lost = self._closing = True
            self._to_peer(self.peer._broken)
            self._network.remove_endpoint(self)

    def hear_of_it(self) -> None:
        """Notify this side's protocol too that the connection broke, if it has been accepted."""
        if not hasattr(self, "protocol"):
            return
        error = ConnectionResetError(104, "connection reset by peer")
        self._network.loop.call_soon(self.protocol.connection_lost, error, context=self.process.context)

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._network.loop.call_soon(self._read_on, context=self.process.context)

    # ---- what arrives

    def _to_peer(self, deliver: Callable[..., None], *args: Any) -> None:
        self._wire.send(deliver, self.peer.process.context, *args)

    def _read_on(self) -> None:
        while self._reading and self._unread:
            deliver, args = self._unread.popleft()
            deliver(*args)

    def _received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._reading and not self._unread:
            self.protocol.data_received(data)
        else:
            self._unread.append((self._received_now, (data,)))

    def _received_now(self, data: bytes) -> None:
        if not self._closing:
            self.protocol.data_received(data)

    def _finished(self) -> None:
        if self._unread:
            self._unread.append((self._finished, ()))
        elif not self._closing and not self.protocol.eof_received():
            self.close()

    def _broken(self) -> None:
        if not self._lost:
            self._closing = True
            self._lose(ConnectionResetError(104, "connection reset by peer"))

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._unread.clear()
            self._network.remove_endpoint(self)
            self.protocol.connection_lost(error)
