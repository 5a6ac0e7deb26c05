"""The RESP server of a node over fakes, and clients of it whose wire is a pair of byte strings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import hiredis

from milena_cache.app import build_servers
from milena_cache.configuration.config import Config, load
from milena_cache.membership.identity import NodeIdentity
from milena_cache.servers.resp.connection import Connection
from milena_cache.servers.resp.state.cursors import Cursors
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.process.env import Environment
from milena_common.resp.encoding import command
from tests.cache.node_under_test import BUCKET, FRESHNESS, VARIABLES, NodeUnderTest
from tests.support.fake_clock import run_ready_tasks

ME = "127.0.0.1:50051"
REPLY_SECONDS = 20.0
MIB = 2**20


def ring(*owners: str, epoch: int = 1) -> SlotMap:
    """Nodes with an equal share of the slots each, ascending; a node's server is one port above its gRPC port."""
    nodes = []
    for owner in owners:
        host, port = owner.split(":")
        nodes.append(MapNode(owner, f"{host}:{int(port) + 1}", owner))
    starts = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    ranges = (MapRange(starts[n], starts[n + 1] - 1, node, epoch) for n, node in enumerate(nodes))
    return SlotMap(epoch, BUCKET, tuple(nodes), tuple(ranges))


class ServerUnderTest:
    """A server without a socket, in front of `t`. The node owns every slot, until `ownership` is changed.

    `variables` are the node's environment beyond what it needs; `node` goes to NodeUnderTest.
    """

    def __init__(self, variables: dict[str, str] | None = None, **node: Any) -> None:
        self.t = NodeUnderTest(max_in_flight_bytes=256 * MIB, **node)
        self.budget = self.t.budget
        self.config: Config = replace(
            load(
                Environment(
                    {
                        **VARIABLES,
                        "RESP_FORWARD": "off",  # with it, real connections to other nodes: tests/e2e/redis
                        "MAX_VALUE_BYTES": str(node.get("max_value_bytes", 10**6)),
                        **(variables or {}),
                    }
                ),
                2**30,
            ),
            freshness=node.get("freshness", FRESHNESS),
            buckets=self.t.buckets,
        )
        self.servers = servers = build_servers(self.config, self.t.parts, ME, NodeIdentity("", ""), lambda: False)
        self.ownership = servers.ownership
        self.ownership.collects = False  # rings come without what collects copies: tests/cache/copies
        self.ownership.update(ring(ME))
        self.calls = servers.calls
        self.report = servers.status
        self.requests = servers.requests
        self.server = servers.resp
        self.context = servers.resp.context
        self.context.cursors = Cursors(1)
        self.hits = self.context.plain_gets
        self.invalidations = servers.resp.invalidations

    def connect(self, *, resp3: bool = False) -> WireClient:
        """A new client of the server; needs a running loop."""
        client = WireClient(Connection(self.context, self.hits, self.context.clients.next_id()))
        if resp3:
            client.send(command(b"HELLO", b"3"))
            client.take()
        return client

    async def warm(self, client: WireClient, key: str, value: bytes) -> None:
        """Put an object into S3, and have the node read it."""
        self.t.in_s3(key, value)
        assert await client.value(b"GET", key.encode()) == value


class FakeTransport(asyncio.Transport):
    """The socket of a connection. `sent` is what the client was sent; while it does not read (`client_reads` is
    false) that counts as unsent.
    """

    def __init__(self, protocol: asyncio.Protocol, peer: tuple[str, int] = ("127.0.0.1", 40000)) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 6379)})
        self.sent = bytearray()
        self.writes = 0
        self.client_reads = True
        self.unsent = 0
        self.reading = True
        self.close_state = ""  # "closed" (which is so only when the client has taken everything) or "aborted"
        self._lost = False
        self._protocol = protocol
        self._paused = False
        self._high = 64 * 1024

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.close_state:
            return
        self.sent += data
        if not self.client_reads:
            self.unsent += len(data)
            if self.unsent > self._high and not self._paused:
                self._paused = True
                self._protocol.pause_writing()

    def writelines(self, parts: Iterable[Any]) -> None:
        self.write(b"".join(parts))

    def client_takes(self) -> None:
        """The client reads again, and takes everything."""
        self.client_reads = True
        self.unsent = 0
        if self._paused:
            self._paused = False
            self._protocol.resume_writing()
        if self.close_state == "closed":
            self._lose()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high if high is not None else self._high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return bool(self.close_state)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        if self.close_state == "closed" and self.unsent:
            self.close_state = ""
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.close_state:
            self.close_state = how
            if how == "aborted" or not self.unsent:
                self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class WireClient:
    """Speaks to a connection in bytes. Replies are taken as they are, or parsed by hiredis."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport = FakeTransport(connection)
        self._taken = 0
        connection.connection_made(self.transport)

    @property
    def session(self) -> Any:
        return self.connection.session

    def send(self, data: bytes) -> None:
        """As TCP would bring it; nothing of it is lost while the connection does not read."""
        self.connection.data_received(data)

    def take(self) -> bytes:
        """What was sent since the last time."""
        taken = bytes(self.transport.sent[self._taken :])
        self._taken += len(taken)
        return taken

    def now(self, *argv: bytes) -> bytes:
        """The reply's bytes, which must be there at once."""
        self.take()
        self.send(command(*argv))
        reply = self.take()
        assert reply, f"{argv[0]!r} has to wait"
        return reply

    async def request(self, *argv: bytes) -> bytes:
        """The reply's bytes."""
        self.take()
        self.send(command(*argv))
        return await self.replies(1)

    async def replies(self, number: int) -> bytes:
        """The bytes of the next `number` replies or pushes; fewer if the connection ends before."""
        reader = hiredis.Reader()
        taken = b""
        async with asyncio.timeout(REPLY_SECONDS):
            while True:
                new = self.take()
                taken += new
                reader.feed(new)
                while number and reader.gets() is not False:
                    number -= 1
                if not number or self.transport.close_state:
                    return taken
                await asyncio.sleep(0)

    async def value(self, *argv: bytes) -> Any:
        """The reply as hiredis reads it; an error is a `hiredis.ReplyError`."""
        return parsed(await self.request(*argv))

    async def idle(self) -> None:
        """Let everything that is ready happen."""
        await run_ready_tasks()


def parsed(reply: bytes) -> Any:
    """The first of the replies."""
    reader = hiredis.Reader()
    reader.feed(reply)
    return reader.gets()
