"""Coordination. Clients of a simulation, and the history of what they wrote and read.

A client speaks the Redis protocol with the nodes and follows MOVED, or calls a router. It makes one call at a time
and does not repeat one that may have been done: its outcome is unknown. It goes on to another node only where it is
certain that nothing was done: MOVED, or no connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

import hiredis

from milena_common.api.errors import ConditionFailed, KeyNotFound, MilenaError
from milena_common.api.methods import DELETE, GET, PUT
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import slot_of
from milena_common.network.addresses import parse_address
from milena_common.resp.client_commands import call
from milena_common.resp.encoding import command
from tests.faults.linearizability.operations import Kind, Operation, Outcome
from tests.simulation.loop import Process
from tests.simulation.network import Network
from tests.simulation.router import RouterConnection, SimulatedRouter
from tests.support.s3.memory_store import etag_of

CALL_SECONDS = 1.5
CONNECT_SECONDS = 0.5
MAX_REDIRECTS = 6
# Seconds between two calls, at most; the mean is half of it.
MAX_PAUSE = 0.5
# Replies by which it is certain that nothing was done, unless they say that the outcome is unknown.
NOTHING_DONE = ("CLUSTERDOWN", "TRYAGAIN", "BUSY", "RATELIMIT")


class History:
    """The calls of all clients; times are virtual nanoseconds."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.operations: list[Operation] = []
        self.returned: dict[Outcome, int] = dict.fromkeys(Outcome, 0)

    def now(self) -> int:
        return int(self._network.loop.time() * 1e9)

    def add(
        self,
        process: str,
        key: str,
        kind: Kind,
        invoked: int,
        outcome: Outcome,
        value: str | None,
        expected: str | None,
        *,
        in_order: bool = False,
    ) -> None:
        """Record a call that has ended now. `in_order`: see `Operation`."""
        responded = None if outcome is Outcome.UNKNOWN else self.now()
        self.operations.append(
            Operation(process, key, kind, invoked, responded, outcome, value, expected, in_order)
        )
        self.returned[outcome] += 1
        self._network.record(process, kind.value, key, value, expected, outcome.value)


class _Connection(asyncio.Protocol):
    """One connection with at most one call in flight."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._reply: asyncio.Future[Any] | None = None
        self.transport: asyncio.Transport
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def request(self, sent: bytes) -> asyncio.Future[Any]:
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(sent)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        reply = self._reader.gets()
        if reply is not False and self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the connection broke"))


class _NothingDone(Exception):
    """The call had no effect."""


class Client:
    """One client on its own machine. `router`: the one that it calls; None: it goes to the nodes at `addresses`."""

    def __init__(
        self,
        network: Network,
        name: str,
        rng: Random,
        history: History,
        keys: Sequence[str],
        addresses: Sequence[str],
        router: SimulatedRouter | None = None,
    ) -> None:
        self.process = Process(name, name)
        network.client(self.process)
        self._network = network
        self._name = name
        self._rng = rng
        self._history = history
        self._keys = keys
        self._addresses = addresses
        self._router = router
        self._to_router: RouterConnection | None = None
        self._owners: dict[int, str] = {}
        self._connections: dict[str, _Connection] = {}
        self._seen: dict[str, str] = {}
        self._number = 0

    async def run(self, calls: int) -> None:
        """Make so many calls, with pauses."""
        for _ in range(calls):
            await asyncio.sleep(self._rng.uniform(0.0, MAX_PAUSE))
            await self.call(self._rng.choice(self._keys))

    async def call(self, key: str) -> None:
        """Make a random call for `key`."""
        rng = self._rng
        chosen = rng.random()
        if chosen < 0.45:
            await self.get(key)
        elif chosen < 0.53:
            await self._write(Kind.DELETE, key, None, None, "through" if rng.random() < 0.4 else "back")
        else:
            self._number += 1
            value = f"{self._name}-{self._number}"
            durability = "through" if rng.random() < 0.25 else "back"
            seen = self._seen.get(key)
            if chosen < 0.8:
                await self._write(Kind.PUT, key, value, None, durability)
            elif chosen < 0.9 or seen is None:
                await self._write(Kind.PUT_IF_ABSENT, key, value, None, durability)
            else:
                await self._write(Kind.PUT_IF_MATCH, key, value, seen, durability)

    async def get(self, key: str) -> bool:
        """Read a key; False if there was no reply."""
        invoked = self._history.now()
        try:
            found = await self._get(key)
        except (_NothingDone, OSError, TimeoutError, MilenaError, hiredis.ReplyError):
            self._history.add(self._name, key, Kind.GET, invoked, Outcome.FAILED, None, None)
            return False
        value = None if found is None else found.decode()
        if value is not None:
            self._seen[key] = value
        self._history.add(self._name, key, Kind.GET, invoked, Outcome.OK, value, None)
        return True

    async def _get(self, key: str) -> bytes | None:
        if self._router is None:
            found: bytes | None = await self._command(key, command(b"GET", key.encode()))
            return found
        try:
            response: Any = await self._of_router().call(GET.name, pb.GetRequest(key=key.encode()), CALL_SECONDS)
        except KeyNotFound:
            return None
        return response.value if response.successful else None

    async def _write(self, kind: Kind, key: str, value: str | None, expected: str | None, durability: str) -> None:
        invoked = self._history.now()
        try:
            done = await (self._by_router if self._router else self._by_node)(
                kind, key, value, expected, durability
            )
            outcome = Outcome.OK if done else Outcome.CONDITION_FAILED
        except _NothingDone:
            outcome = Outcome.FAILED
        except ConditionFailed:
            outcome = Outcome.CONDITION_FAILED
        except hiredis.ReplyError as error:
            text = str(error)
            if text.startswith("CONDITION "):
                outcome = Outcome.CONDITION_FAILED
            elif text.startswith(NOTHING_DONE) and "unknown" not in text:
                outcome = Outcome.FAILED
            else:
                outcome = Outcome.UNKNOWN
        except (OSError, TimeoutError, MilenaError):
            outcome = Outcome.UNKNOWN
        if outcome is Outcome.OK and value is not None:
            self._seen[key] = value
        # Commands of the Redis protocol carry no deadline: one that was given up may be carried out later.
        in_order = self._router is not None
        self._history.add(self._name, key, kind, invoked, outcome, value, expected, in_order=in_order)

    async def _by_node(
        self, kind: Kind, key: str, value: str | None, expected: str | None, durability: str
    ) -> bool:
        name = key.encode()
        if value is None:
            deleted = pb.DeleteRequest(key=name, durability=durability)
            await self._command(key, call(DELETE.name, CALL_SECONDS, deleted.SerializeToString()))
            return True
        if kind is Kind.PUT_IF_MATCH:
            assert expected is not None
            request = pb.PutRequest(
                key=name, value=value.encode(), durability=durability, if_match=etag_of(expected.encode())
            )
            await self._command(key, call(PUT.name, CALL_SECONDS, request.SerializeToString()))
            return True
        options = [b"NX"] if kind is Kind.PUT_IF_ABSENT else []
        reply = await self._command(
            key, command(b"SET", name, value.encode(), b"DURABILITY", durability.encode(), *options)
        )
        return reply is not None

    async def _by_router(
        self, kind: Kind, key: str, value: str | None, expected: str | None, durability: str
    ) -> bool:
        name = key.encode()
        if value is None:
            request: Any = pb.DeleteRequest(key=name, durability=durability)
            await self._of_router().call(DELETE.name, request, CALL_SECONDS)
            return True
        request = pb.PutRequest(
            key=name,
            value=value.encode(),
            durability=durability,
            if_match=etag_of(expected.encode()) if expected is not None else "",
            if_none_match="*" if kind is Kind.PUT_IF_ABSENT else "",
        )
        await self._of_router().call(PUT.name, request, CALL_SECONDS)
        return True

    def _of_router(self) -> RouterConnection:
        if self._to_router is None:
            assert self._router is not None
            self._to_router = RouterConnection(self._network, self._router)
        return self._to_router

    async def _command(self, key: str, sent: bytes) -> Any:
        """Return the reply of the key's owner. Raises ReplyError, _NothingDone, OSError or TimeoutError."""
        slot = slot_of(key.encode())
        address = self._owners.get(slot) or self._rng.choice(self._addresses)
        for _ in range(MAX_REDIRECTS):
            connection = self._connections.get(address)
            if connection is None or connection.broken:
                connection = await self._connected(address)
                if connection is None:
                    self._owners.pop(slot, None)
                    address = self._rng.choice(self._addresses)
                    continue
            try:
                reply = await asyncio.wait_for(connection.request(sent), CALL_SECONDS)
            except TimeoutError:
                del self._connections[address]
                connection.transport.abort()
                self._owners.pop(slot, None)
                raise
            if not isinstance(reply, hiredis.ReplyError):
                self._owners[slot] = address
                return reply
            word, _, rest = str(reply).partition(" ")
            if word != "MOVED":
                self._owners.pop(slot, None)
                raise reply
            address = self._owners[slot] = rest.split()[1]
        raise _NothingDone

    async def _connected(self, address: str) -> _Connection | None:
        to = parse_address(address)
        loop = asyncio.get_running_loop()
        with suppress(OSError, TimeoutError):
            connecting = loop.create_connection(_Connection, to.host, to.port)
            _, connection = await asyncio.wait_for(connecting, CONNECT_SECONDS)
            self._connections[address] = connection
            return connection
        return None
