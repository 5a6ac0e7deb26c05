"""How a connection begins and ends: HELLO, AUTH, PING, SELECT, QUIT, RESET."""

from __future__ import annotations

import pytest

from tests.cache.servers.resp.server_under_test import ServerUnderTest

NO_PASSWORD = (
    b"-ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?\r\n"
)


@pytest.mark.parametrize(
    ("argv", "reply"),
    [
        (b"PING", b"+PONG\r\n"),
        (b"PING a", b"$1\r\na\r\n"),
        (b"PING a b", b"-ERR wrong number of arguments for 'ping' command\r\n"),
        (b"echo a", b"$1\r\na\r\n"),
        (b"ECHO", b"-ERR wrong number of arguments for 'echo' command\r\n"),
        (b"AUTH x", NO_PASSWORD),
        (b"AUTH default x", b"+OK\r\n"),
        (b"AUTH bob x", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        (b"AUTH a b c", b"-ERR syntax error\r\n"),
        (b"SELECT 0", b"+OK\r\n"),
        (b"SELECT 1", b"-ERR SELECT is not allowed in cluster mode\r\n"),
        (b"SELECT x", b"-ERR value is not an integer or out of range\r\n"),
        (b"HELLO 1", b"-NOPROTO unsupported protocol version\r\n"),
        (b"HELLO 4", b"-NOPROTO unsupported protocol version\r\n"),
        (b"HELLO x", b"-ERR Protocol version is not an integer or out of range\r\n"),
        (b"HELLO 3 SETNAME", b"-ERR Syntax error in HELLO option 'SETNAME'\r\n"),
        (b"HELLO 3 AUTH bob x", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        (b"READONLY", b"+OK\r\n"),
        (b"READWRITE", b"+OK\r\n"),
        (b"ASKING", b"+OK\r\n"),
        (b"NOSUCH a b", b"-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n"),
        (b"CLIENT|ID", b"-ERR unknown command 'CLIENT|ID', with args beginning with: \r\n"),
    ],
)
async def test_replies_are_those_of_redis(argv: bytes, reply: bytes) -> None:
    assert ServerUnderTest().connect().now(*argv.split()) == reply


async def test_hello_describes_the_server_in_the_requested_protocol() -> None:
    client = ServerUnderTest().connect()
    assert (await client.value(b"HELLO"))[:6] == [b"server", b"redis", b"version", b"7.4.0", b"proto", 2]
    returned = await client.value(b"HELLO", b"3", b"AUTH", b"default", b"", b"SETNAME", b"me")
    assert returned == {
        b"server": b"redis",
        b"version": b"7.4.0",
        b"proto": 3,
        b"id": client.session.id,
        b"mode": b"cluster",
        b"role": b"master",
        b"modules": [{b"name": b"milena", b"ver": 1, b"path": b"", b"args": []}],
    }
    assert await client.value(b"CLIENT", b"GETNAME") == b"me"
    assert client.now(b"HELLO", b"2").startswith(b"*14\r\n")


async def test_a_hello_that_is_rejected_changes_nothing() -> None:
    client = ServerUnderTest().connect()
    assert client.now(b"HELLO", b"3", b"SETNAME", b"a b").startswith(b"-ERR Client names cannot contain")
    assert client.now(b"CLIENT", b"GETNAME") == b"$-1\r\n"


async def test_reset_makes_a_new_connection_of_it() -> None:
    client = ServerUnderTest().connect(resp3=True)
    for argv in (b"CLIENT SETNAME me", b"CLIENT DEFER ON", b"CLIENT NO-EVICT ON"):
        assert client.now(*argv.split()) == b"+OK\r\n"
    assert client.now(b"RESET") == b"+RESET\r\n"
    assert client.now(b"CLIENT", b"GETNAME") == b"$-1\r\n"  # RESP2's null
    assert not client.session.deferring


async def test_quit_replies_and_closes() -> None:
    client = ServerUnderTest().connect()
    client.send(b"QUIT\r\nPING\r\n")
    assert client.take() == b"+OK\r\n"
    assert client.transport.close_state == "closed"


async def test_debug_sleep_delays_only_the_replies_of_this_connection() -> None:
    server = ServerUnderTest()
    sleeper, other = server.connect(), server.connect()
    sleeper.send(b"DEBUG SLEEP 0.5\r\nPING\r\n")
    assert sleeper.take() == b""
    assert other.now(b"PING") == b"+PONG\r\n"
    await server.t.clock.advance(0.5)
    assert sleeper.take() == b"+OK\r\n+PONG\r\n"
    assert other.now(b"DEBUG", b"SLEEP", b"61").startswith(b"-ERR ")
    assert other.now(b"DEBUG", b"SEGFAULT") == b"-ERR unknown subcommand 'SEGFAULT'. Try DEBUG HELP.\r\n"


async def test_time_and_role() -> None:
    client = ServerUnderTest().connect()
    assert await client.value(b"TIME") == [b"1700000000", b"0"]
    assert await client.value(b"ROLE") == [b"master", 0, []]
