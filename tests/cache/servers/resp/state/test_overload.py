"""Which commands an overloaded node rejects, and of which connections it rejects none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from milena_cache.servers.resp.state.overload import BEHIND_BYTES, BEHIND_SECONDS, MANY, unread_bytes
from milena_common.resp.encoding import bulk, command
from milena_common.resp.parser import CommandReader
from milena_common.resp.plain_commands import short_gets
from tests.cache.servers.resp.server_under_test import FakeTransport, ServerUnderTest, WireClient

BUSY = b"-BUSY retry-after-ms=500 overloaded\r\n"
LONG = command(b"GET", b"k") * (BEHIND_BYTES // len(command(b"GET", b"k")) + 1)
NUMBER = LONG.count(b"GET")


class Backlog:
    """The socket of a connection, with `unread` bytes that wait in it."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()
        self._ends[0].setblocking(False)

    def arrives(self, number: int) -> None:
        self._ends[0].send(bytes(number))

    def is_read(self) -> None:
        self._ends[1].recv(2**20)

    def of(self, client: WireClient) -> Backlog:
        client.transport._extra["socket"] = self._ends[1]  # what get_extra_info of a transport returns
        return self

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def backlogs() -> Iterator[list[Backlog]]:
    with ExitStack() as stack:
        made = [Backlog() for _ in range(MANY)]
        for each in made:
            stack.callback(each.close)
        yield made


async def behind(server: ServerUnderTest, backlogs: list[Backlog]) -> list[WireClient]:
    """Clients each of whose sockets has more than a long read."""
    clients = [server.connect() for _ in backlogs]
    await clients[0].value(b"SET", b"k", b"v")
    for client, backlog in zip(clients, backlogs, strict=True):
        backlog.of(client).arrives(BEHIND_BYTES + 1)
    for client in clients:
        client.send(LONG)
        await client.idle()
        assert client.take() == bulk(b"v") * NUMBER
    return clients


async def test_gets_of_connections_that_have_long_been_behind_are_rejected_together(
    backlogs: list[Backlog],
) -> None:
    server = ServerUnderTest()
    clients = await behind(server, backlogs)
    await server.t.clock.advance(BEHIND_SECONDS + 0.01)
    clients[0].send(LONG)
    await clients[0].idle()
    assert clients[0].take() == BUSY * NUMBER
    counts = server.context.calls["get"]
    assert counts.errors == {"resource_exhausted": NUMBER}
    assert server.context.stats["get"].rejected == server.context.stats.errors["BUSY"] == NUMBER


async def test_a_connection_that_has_caught_up_is_served_again(backlogs: list[Backlog]) -> None:
    server = ServerUnderTest()
    clients = await behind(server, backlogs)
    await server.t.clock.advance(BEHIND_SECONDS + 0.01)
    backlogs[0].is_read()
    for reply in (BUSY, bulk(b"v")):  # the first read may be as old as the backlog was
        clients[0].send(LONG)
        await clients[0].idle()
        assert clients[0].take() == reply * NUMBER


async def test_an_old_backlog_is_rejected_to_its_end_though_others_have_caught_up(backlogs: list[Backlog]) -> None:
    server = ServerUnderTest()
    clients = await behind(server, backlogs)
    await server.t.clock.advance(BEHIND_SECONDS + 0.01)
    for round_ in range(2):
        clients[0].send(LONG)
        await clients[0].idle()
        assert clients[0].take() == BUSY * NUMBER, round_
        clients[1].transport.abort()
        await clients[1].idle()


async def test_nothing_is_rejected_for_a_short_delay_or_while_few_are_behind(backlogs: list[Backlog]) -> None:
    server = ServerUnderTest()
    clients = await behind(server, backlogs)
    await server.t.clock.advance(BEHIND_SECONDS - 0.01)
    clients[0].send(LONG)
    await clients[0].idle()
    assert clients[0].take() == bulk(b"v") * NUMBER
    await server.t.clock.advance(10)
    clients[-1].transport.abort()
    await clients[-1].idle()
    clients[0].send(LONG)
    await clients[0].idle()
    assert clients[0].take() == bulk(b"v") * NUMBER


async def test_writes_and_what_follows_them_are_not_rejected(backlogs: list[Backlog]) -> None:
    server = ServerUnderTest(mode="memory")
    clients = await behind(server, backlogs)
    await server.t.clock.advance(BEHIND_SECONDS + 0.01)
    clients[0].send(command(b"SET", b"k", b"w") + LONG)
    await clients[0].idle()
    assert clients[0].take() == b"+OK\r\n" + bulk(b"w") * NUMBER


@pytest.mark.parametrize("key", [b"", b"k", b"k" * 64, b"\n", b"a\0b", b"*2\n"])
def test_gets_of_short_keys_are_counted_up_to_what_is_none(key: bytes) -> None:
    get = command(b"GET", key)
    for rest in (b"", b"*", get[:-1], command(b"GET", b"k" * 65), command(b"SET", key, b"v"), command(b"get", key)):
        assert short_gets(get * 3 + rest, 0) == (3, 3 * len(get))
        assert short_gets(rest, 0) == (0, 0)


@pytest.mark.parametrize("hidden", [b"\r\n*2\r\n$3\r\nGET\r\n$1\r\nx", b"x\r\n*2\r\n$3\r\nGET\r\n$1\r\ny\r\n"])
def test_a_get_in_a_key_is_not_counted(hidden: bytes) -> None:
    gets = command(b"GET", b"k")
    assert short_gets(gets + command(b"GET", hidden) + gets, 0) == (1, len(gets))


def test_what_was_skipped_is_not_read_again() -> None:
    reader = CommandReader(1000, 1000)
    reader.feed(command(b"GET", b"k") * 2 + b"*2\r\n$3\r\nGE")
    assert reader.skip_gets() == 2
    reader.feed(b"T\r\n$1\r\nk\r\n" + command(b"PING"))
    argv: list[list[bytes]] = []
    while reader.more:
        reader.read(argv.append)
    assert argv == [[b"GET", b"k"], [b"PING"]]


def test_a_transport_without_a_socket_has_nothing_unread() -> None:
    assert unread_bytes(FakeTransport(None)) == 0  # type: ignore[arg-type]
