"""The router's Redis port in front of a fake node on a real socket: order, moved slots, lost node, slow clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.network.addresses import Address
from milena_common.resp.encoding import command
from milena_common.resp.replies import ReplySplitter
from tests.router.router_under_test import SOON, Router, running_router
from tests.support.fake_resp_node import Argv, FakeRespNode
from tests.support.waiting import wait_until


class Port:
    """A router's Redis port, in front of one fake node that has all slots."""

    def __init__(self, router: Router, node: FakeRespNode, address: Address) -> None:
        self.router = router
        self.node = node
        self.address = address

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection(self.address.host, self.address.port))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the node's threads have come so far."""
        await asyncio.to_thread(wait_until, "the node has it", condition, SOON)

    async def goes_on(self, seconds: float) -> None:
        """Let time pass, in steps in which what sleeps goes on."""
        for _ in range(round(seconds / 0.05)):
            await self.router.clock.advance(0.05)

    async def goes_on_until(self, reply: asyncio.Task[Any]) -> None:
        """Let time pass until the reply is there, and give the node's threads theirs before each step."""
        while not (await asyncio.wait({reply}, timeout=0.02))[0]:
            await self.goes_on(0.1)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._splitter = ReplySplitter()
        self._replies: list[bytes] = []

    def send(self, *commands: bytes) -> None:
        self.writer.write(b"".join(command(*line.split()) for line in commands))

    async def replies(self, number: int) -> list[bytes]:
        while len(self._replies) < number:
            data = await asyncio.wait_for(self._reader.read(65536), SOON)
            assert data, self._replies
            self._replies += self._splitter.feed(data)
        found, self._replies = self._replies[:number], self._replies[number:]
        return found


def value(_: str, request: Any) -> pb.GetResponse:
    return pb.GetResponse(successful=True, value=b"v-" + request.key)


@asynccontextmanager
async def running_port() -> AsyncIterator[Port]:
    node = FakeRespNode(value)
    async with running_router() as router:
        address = await router.redis.start(Address("127.0.0.1", 0))
        join = pb.JoinRequest(
            address="node:1", node_id="id", default_bucket="photos", addresses={"resp": node.address}
        )
        await router.stub.Join(join, timeout=SOON)
        try:
            yield Port(router, node, address)
        finally:
            await router.redis.stop_serving(0)
            await router.redis.upstreams.close()
            await asyncio.to_thread(node.close)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with running_port() as port:
        yield port


async def test_replies_are_in_order_and_a_read_waits_for_the_write_before_it(port: Port) -> None:
    port.node.defers = lambda argv: argv[0] == b"SET"
    client = await port.connect()
    client.send(b"SET a 1", b"GET a", b"GET b", b"PING")
    await port.until(lambda: bool(port.node.held))
    await port.until(lambda: b"GET" in port.node.commands)
    # GET b is sent, GET a is not: the node would reply with what there was before the SET.
    assert [argv[:2] for argv in port.node.received] == [[b"SET", b"a"], [b"GET", b"b"]]
    port.node.release()
    assert await client.replies(4) == [b"+OK\r\n", b"$3\r\nv-a\r\n", b"$3\r\nv-b\r\n", b"+PONG\r\n"]
    assert port.node.received[-1] == [b"GET", b"a"]


async def test_one_read_is_one_write_to_the_node(port: Port) -> None:
    client = await port.connect()
    client.send(b"GET first")
    await client.replies(1)
    (stream,) = port.router.redis.upstreams.streams
    written: list[bytes] = []
    transport: Any = stream._transport

    class Recorded:
        def write(self, data: bytes) -> None:
            written.append(data)
            transport.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

    stream._transport = Recorded()  # type: ignore[assignment]
    client.send(*[b"GET k%d" % number for number in range(50)])
    assert len(await client.replies(50)) == 50
    assert len(written) == 1


@pytest.mark.parametrize("error", [b"-MOVED 1 127.0.0.1:1\r\n", b"-TRYAGAIN retry-after-ms=10 the slot moves\r\n"])
@pytest.mark.parametrize("line", [b"GET a", b"SET a 1", b"MGET a b"])
async def test_a_slot_that_has_moved_is_followed(port: Port, error: bytes, line: bytes) -> None:
    rejected: list[Argv] = []

    def says(argv: Argv) -> bytes | None:
        if argv[1] == b"a" and not rejected:
            rejected.append(argv)
            return error
        return None

    port.node.says = says
    client = await port.connect()
    client.send(line)
    await port.until(lambda: bool(rejected))
    reply = asyncio.create_task(client.replies(1))
    await port.goes_on_until(reply)
    assert (await reply)[0][:1] in (b"$", b"+", b"*")
    assert port.router.redis.upstreams.repeated == 1


async def test_of_a_lost_node_reads_are_sent_again_and_writes_are_not(port: Port) -> None:
    port.node.silent = False
    client = await port.connect()
    client.send(b"GET first")
    await client.replies(1)
    port.node.silent = True
    client.send(b"SET a 1", b"GET b")
    await port.until(lambda: port.node.commands[-2:] == [b"SET", b"GET"])
    port.node.silent = False
    port.node.disconnect()
    written, read = await client.replies(2)
    assert written.startswith(b"-NODELOST node node:1 broke off the connection; the write may or may not have been")
    assert read == b"$3\r\nv-b\r\n"
    assert port.node.commands.count(b"SET") == 1


async def test_a_node_that_reads_slowly_is_waited_for(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await port.connect()
    client.send(b"GET first")
    await client.replies(1)
    # Only now: the first connection may take longer than that, and no time passes while it is waited for.
    monkeypatch.setattr("milena_common.forwarding.upstreams.CONNECT_SECONDS", 0.01)
    (stream,) = port.router.redis.upstreams.streams
    stream.pause_writing()
    sleeping = port.router.clock.sleeping
    client.send(b"SET a 1")
    await port.until(lambda: port.router.clock.sleeping > sleeping)
    await port.goes_on(2)
    stream.resume_writing()
    reply = asyncio.create_task(client.replies(1))
    await port.goes_on_until(reply)
    assert await reply == [b"+OK\r\n"]


async def test_a_silent_node_does_not_hold_a_command_for_longer_than_its_time(port: Port) -> None:
    client = await port.connect()
    client.send(b"GET first")
    await client.replies(1)
    port.node.silent = True
    client.send(b"SET a 1", b"GET b")
    await port.until(lambda: len(port.node.received) == 3)
    await port.goes_on(5.2)
    written, read = await client.replies(2)
    assert written.startswith(
        b"-TIMEOUT node node:1 did not respond within 5 s; the write may or may not have been"
    )
    assert read == b"-TIMEOUT node node:1 did not respond within 5 s\r\n"


async def test_a_client_that_does_not_read_stops_no_other(port: Port) -> None:
    port.node.says = lambda argv: b"$500000\r\n%b\r\n" % (b"x" * 500_000) if argv[1] == b"large" else None
    slow, quick = await port.connect(), await port.connect()
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
    slow.send(*[b"GET large"] * 400)
    for _ in range(20):
        quick.send(b"GET a")
        assert await quick.replies(1) == [b"$3\r\nv-a\r\n"]
    (held,) = [each.unsent for each in port.router.redis.connections.values() if each.unsent]
    assert held < 2**26 + 2**20
    slow.writer.transport.abort()


async def test_bounds_of_a_client_without_a_login_and_of_connections(port: Port) -> None:
    port.router.redis.context.max_connections = 1
    first = await port.connect()
    first.send(b"PING")
    assert await first.replies(1) == [b"+PONG\r\n"]
    second = await port.connect()
    assert await second.replies(1) == [b"-ERR max number of clients reached\r\n"]
    first.send(b"QUIT")
    assert await first.replies(1) == [b"+OK\r\n"]


async def test_deferred_replies_come_as_pushes_and_hold_up_no_others(port: Port) -> None:
    port.node.defers = lambda argv: argv[1] == b"slow"
    client = await port.connect()
    client.send(b"GET first")  # opens the connection to the node
    await client.replies(1)
    client.send(b"HELLO 3", b"CLIENT DEFER ON", b"GET slow", b"GET b")
    assert (await client.replies(4))[2:] == [b"-DEFERRED 1\r\n", b"$3\r\nv-b\r\n"]
    port.node.release()
    assert await client.replies(1) == [b">3\r\n+deferred\r\n:1\r\n$6\r\nv-slow\r\n"]


async def test_a_transaction_is_one_command_that_is_never_sent_twice(port: Port) -> None:
    says = {b"MILENA.EXEC": b"*2\r\n+OK\r\n_\r\n", b"MILENA.WATCH": b"*1\r\n$5\r\nstate\r\n"}
    port.node.says = lambda argv: says.get(argv[0])
    client = await port.connect()
    client.send(b"WATCH a", b"MULTI", b"SET a 1", b"PING", b"GET {a}b", b"EXEC", b"GET a")
    assert await client.replies(7) == [
        *[b"+OK\r\n"] * 2,
        *[b"+QUEUED\r\n"] * 3,
        b"*3\r\n+OK\r\n+PONG\r\n$-1\r\n",
        b"$3\r\nv-a\r\n",
    ]
    sent = b"MILENA.EXEC a 1 a state 3 SET a 1 2 GET {a}b".split()
    assert port.node.received == [[b"MILENA.WATCH", b"a"], sent, [b"GET", b"a"]]
    # What was watched is forgotten, and a node that is lost may have carried it out.
    says[b"MILENA.EXEC"] = b""
    port.node.defers = lambda argv: argv[0] == b"MILENA.EXEC"
    client.send(b"MULTI", b"SET a 2", b"EXEC", b"GET a")
    assert await client.replies(2) == [b"+OK\r\n", b"+QUEUED\r\n"]
    await port.until(lambda: bool(port.node.held))
    port.node.disconnect()
    lost, read = await client.replies(2)
    assert lost.startswith(b"-NODELOST")
    assert b"may or may not have been done" in lost
    assert read == b"$3\r\nv-a\r\n"
    assert port.node.commands.count(b"MILENA.EXEC") == 2
    assert [argv for argv in port.node.received if argv[0] == b"MILENA.EXEC"][1][2] == b"0"


async def test_a_transaction_follows_a_slot_that_has_moved(port: Port) -> None:
    replies = [b"-TRYAGAIN retry-after-ms=100 it moves\r\n", b"_\r\n"]
    port.node.says = lambda argv: replies.pop(0) if argv[0] == b"MILENA.EXEC" else None
    client = await port.connect()
    client.send(b"MULTI", b"SET a 1", b"EXEC")
    reply = asyncio.create_task(client.replies(3))
    await port.goes_on_until(reply)
    assert reply.result()[2] == b"*-1\r\n"
    assert replies == []


async def test_commands_of_a_rejected_transaction_reach_no_node(port: Port) -> None:
    client = await port.connect()
    client.send(
        b"MULTI", b"SET a 1", b"HELLO 3", b"EXEC", b"MULTI", b"SET a 1", b"MEMORY USAGE a", b"DISCARD", b"EXEC"
    )
    replies = await client.replies(9)
    assert replies[2] == b"-ERR 'hello' is not available in a transaction; nothing of it will be done\r\n"
    assert replies[3] == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert replies[7:] == [b"+OK\r\n", b"-ERR EXEC without MULTI\r\n"]
    assert port.node.received == []


async def test_a_new_owner_drops_what_it_has_of_every_key_of_a_write(port: Port) -> None:
    port.node.defers = lambda argv: argv[0] in (b"MSETNX", b"MILENA.EXEC")
    said = {b"MSETNX": b":1\r\n", b"MILENA.EXEC": b"*2\r\n+OK\r\n+OK\r\n"}
    port.node.says = lambda argv: said.get(argv[0])
    client, other = await port.connect(), await port.connect()
    client.send(b"MSETNX {a}1 v {a}2 v")
    other.send(b"MULTI", b"SET {a}3 v", b"SET {a}4 v", b"EXEC")
    assert (await other.replies(3))[2] == b"+QUEUED\r\n"
    await port.until(lambda: len(port.node.held) == 2)
    stub = port.router.stub
    await stub.Leave(pb.LeaveRequest(address="node:1", node_id="id"), timeout=SOON)
    addresses = {"resp": port.node.address}
    join = pb.JoinRequest(address="node:2", node_id="id2", default_bucket="photos", addresses=addresses)
    await stub.Join(join, timeout=SOON)
    port.node.release()
    assert await client.replies(1) == [b":1\r\n"]
    assert await other.replies(1) == [b"*2\r\n+OK\r\n+OK\r\n"]
    calls = port.router.nodes["node:2"].calls
    dropped = [cache_pb.InvalidateRequest.FromString(request).key for _, request, _ in calls]
    assert sorted(dropped) == [b"{a}1", b"{a}2", b"{a}3", b"{a}4"]
