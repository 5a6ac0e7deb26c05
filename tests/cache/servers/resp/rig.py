"""The Redis door of a node over fakes, and clients of it whose wire is a pair of byte strings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import hiredis

from milena_cache.configuration.config import Config, load
from milena_cache.membership.ownership import Ownership
from milena_cache.origin.bucket_check import BucketCheck
from milena_cache.origin.requests import Origin
from milena_cache.servers.grpc.methods import OPERATIONS, CacheService
from milena_cache.servers.resp.commands.registry import command_registry
from milena_cache.servers.resp.connection import Connection
from milena_cache.servers.resp.invalidations import Invalidations
from milena_cache.servers.resp.server import RespServer
from milena_cache.servers.resp.state.client_registry import Clients
from milena_cache.servers.resp.state.context import Context
from milena_cache.servers.resp.state.cursors import Cursors
from milena_cache.servers.resp.state.plain_gets import PlainGets
from milena_cache.servers.resp.state.tracking import Tracking
from milena_cache.service.status import Status
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.token_bucket import TokenBucket
from milena_common.metrics.call_counts import CallCounts
from milena_common.process.env import Environment
from milena_common.process.facts import ProcessFacts
from milena_common.resp.encoding import command
from tests.cache.rig import BUCKET, FRESHNESS, NodeUnderTest
from tests.support.fake_clock import settle

ME = "127.0.0.1:50051"
ANSWER_SECONDS = 20.0
MIB = 2**20


def ring(*owners: str, epoch: int = 1) -> SlotMap:
    """Nodes with an equal share of the slots each, ascending; a node's door is one port above its gRPC port."""
    nodes = []
    for owner in owners:
        host, port = owner.split(":")
        nodes.append(MapNode(owner, f"{host}:{int(port) + 1}", owner))
    starts = [SLOTS * number // len(nodes) for number in range(len(nodes) + 1)]
    ranges = (MapRange(starts[n], starts[n + 1] - 1, node, epoch) for n, node in enumerate(nodes))
    return SlotMap(epoch, BUCKET, tuple(nodes), tuple(ranges))


class ServerUnderTest:
    """A door without a socket, in front of `t`. The node owns every slot, until `ownership` is told otherwise.

    `variables` are the node's environment beyond what it needs; `node` goes to NodeUnderTest.
    """

    def __init__(self, variables: dict[str, str] | None = None, **node: Any) -> None:
        self.t = NodeUnderTest(**node)
        self.config: Config = replace(
            load(
                Environment(
                    {
                        "ROUTER_ADDR": "127.0.0.1:50050",
                        "AWS_REGION": "eu-central-1",
                        "S3_BUCKET": BUCKET,
                        "MAX_VALUE_BYTES": str(node.get("max_value_bytes", 10**6)),
                        **(variables or {}),
                    }
                ),
                2**30,
            ),
            freshness=node.get("freshness", FRESHNESS),
            buckets=self.t.buckets,
        )
        self.ownership = Ownership(ME)
        self.ownership.update(ring(ME))
        self.budget = ByteBudget(256 * MIB)
        self.calls = CallCounts(OPERATIONS if "other" in OPERATIONS else (*OPERATIONS, "other"))
        origin = Origin(
            self.t.store,
            self.t.clock,
            lambda: 0.5,
            retries=0,
            concurrency=100,
            place_timeout=5.0,
            fresh=self.t.store,
            hedge_after=5.0,
        )
        self.report = Status(
            self.t.node,
            origin.counts,
            self.calls,
            BucketCheck(origin, BUCKET, self.t.clock, lambda: 0.5),
            self.t.journal,
            self.t.writeback,
            300.0,
            lambda: False,
            self.t.corrected,
        )
        self.service = CacheService(self.t.node, self.t.writeback, self.t.buckets, ME, 5.0, self.report)
        self.hits = PlainGets(self.t.memory, self.t.dirty, self.ownership, self.config.freshness, self.t.node.reads)
        self.context = Context(
            node=self.t.node,
            buckets=self.t.buckets,
            ownership=self.ownership,
            service=self.service,
            status=self.report,
            calls=self.calls,
            limiter=TokenBucket(self.config.rate_limit, self.t.clock.now()),
            tracking=Tracking(self.config.tracking_max_keys),
            clock=self.t.corrected,
            config=self.config,
            timeout=self.config.request_timeout,
            clients=Clients(),
            budget=self.budget,
            plain_gets=self.hits,
            cursors=Cursors(1),
            facts=ProcessFacts(),
            commands=command_registry(),
        )
        self.invalidations = Invalidations(
            self.context.tracking,
            self.context.clients,
            self.t.memory.change_feed,
            self.t.memory,
            self.t.dirty,
            self.t.clock,
        )
        self.door = RespServer(self.context, self.hits, self.invalidations)

    def connect(self, *, resp3: bool = False) -> WireClient:
        """A new client of the door; needs a running loop."""
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
        self.ended = ""  # "closed" (which is so only when the client has taken everything) or "aborted"
        self._lost = False
        self._protocol = protocol
        self._paused = False
        self._high = 64 * 1024

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.ended:
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
        if self.ended == "closed":
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
        return bool(self.ended)

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        if self.ended == "closed" and self.unsent:
            self.ended = ""
        self._end("aborted")

    def _end(self, how: str) -> None:
        if not self.ended:
            self.ended = how
            if how == "aborted" or not self.unsent:
                self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class WireClient:
    """Speaks to a connection in bytes. Answers are taken as they are, or parsed by hiredis."""

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
        """The answer's bytes, which must be there at once."""
        self.take()
        self.send(command(*argv))
        answer = self.take()
        assert answer, f"{argv[0]!r} has to wait"
        return answer

    async def ask(self, *argv: bytes) -> bytes:
        """The answer's bytes."""
        self.take()
        self.send(command(*argv))
        return await self.answers(1)

    async def answers(self, number: int) -> bytes:
        """The bytes of the next `number` answers or pushes; fewer if the connection ends before."""
        reader = hiredis.Reader()
        taken = b""
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                new = self.take()
                taken += new
                reader.feed(new)
                while number and reader.gets() is not False:
                    number -= 1
                if not number or self.transport.ended:
                    return taken
                await asyncio.sleep(0)

    async def value(self, *argv: bytes) -> Any:
        """The answer as hiredis reads it; an error is a `hiredis.ReplyError`."""
        return parsed(await self.ask(*argv))

    async def idle(self) -> None:
        """Let everything that is ready happen."""
        await settle()


def parsed(answer: bytes) -> Any:
    """The first of the answers."""
    reader = hiredis.Reader()
    reader.feed(answer)
    return reader.gets()
