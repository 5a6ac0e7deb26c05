"""CLIENT: names, lists, KILL, REPLY, DEFER."""

from __future__ import annotations

import pytest

from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient


def listed(reply: bytes) -> list[dict[str, str]]:
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in reply.decode().splitlines()]


# As redis-server 7 has them, in its order.
FIELDS = (
    "id addr laddr fd name age idle flags db sub psub ssub multi watch qbuf qbuf-free argv-mem multi-mem rbs rbp "
    "obl oll omem tot-mem events cmd user redir resp lib-name lib-ver tot-net-in tot-net-out tot-cmds"
)


@pytest.mark.parametrize(
    ("argv", "reply"),
    [
        (b"CLIENT", b"-ERR wrong number of arguments for 'client' command\r\n"),
        (b"CLIENT NOSUCH x", b"-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n"),
        (b"CLIENT ID x", b"-ERR wrong number of arguments for 'client|id' command\r\n"),
        (b"CLIENT SETINFO lib-foo x", b"-ERR Unrecognized option 'lib-foo'\r\n"),
        (b"CLIENT SETINFO LIB-NAME redis-py", b"+OK\r\n"),
        (b"CLIENT SETNAME a\xc3", b"-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
        (b"CLIENT LIST TYPE replica", b"$0\r\n\r\n"),
        (b"CLIENT LIST TYPE x", b"-ERR Unknown client type 'x'\r\n"),
        (b"CLIENT LIST TYPE", b"-ERR syntax error\r\n"),
        (b"CLIENT LIST ID x", b"-ERR Invalid client ID\r\n"),
        (b"CLIENT LIST ID", b"-ERR syntax error\r\n"),
        (b"CLIENT LIST ID 99", b"$0\r\n\r\n"),
        (b"CLIENT KILL", b"-ERR wrong number of arguments for 'client|kill' command\r\n"),
        (b"CLIENT KILL 1.2.3.4:5", b"-ERR No such client\r\n"),
        (b"CLIENT KILL ID 0", b"-ERR client-id should be greater than 0\r\n"),
        (b"CLIENT KILL ID x", b"-ERR client-id should be greater than 0\r\n"),
        (b"CLIENT KILL ID 3 x", b"-ERR syntax error\r\n"),
        (b"CLIENT KILL SKIPME x", b"-ERR syntax error\r\n"),
        (b"CLIENT KILL USER bob", b"-ERR No such user 'bob'\r\n"),
        (b"CLIENT KILL MAXAGE x", b"-ERR maxage is not an integer or out of range\r\n"),
        (b"CLIENT KILL ADDR 1.2.3.4:5", b":0\r\n"),
        (b"CLIENT NO-EVICT x", b"-ERR syntax error\r\n"),
        (b"CLIENT NO-TOUCH on", b"+OK\r\n"),
        (b"CLIENT UNBLOCK 3", b":0\r\n"),
        (b"CLIENT UNBLOCK 3 x", b"-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR\r\n"),
        (b"CLIENT REPLY x", b"-ERR syntax error\r\n"),
        (b"CLIENT DEFER x", b"-ERR syntax error\r\n"),
    ],
)
async def test_replies_are_those_of_redis(argv: bytes, reply: bytes) -> None:
    assert ServerUnderTest().connect().now(*argv.split(b" ")) == reply


async def test_a_line_about_each_connection() -> None:
    server = ServerUnderTest()
    server.connect()
    client = server.connect(resp3=True)
    for argv in (b"CLIENT SETNAME me", b"CLIENT SETINFO LIB-VER 1.2", b"CLIENT NO-EVICT ON"):
        client.now(*argv.split())
    await server.t.clock.advance(7)
    first, second = listed(await client.value(b"CLIENT", b"LIST"))
    assert list(first) == FIELDS.split()
    assert (first["flags"], first["cmd"], first["resp"], first["idle"]) == ("N", "NULL", "2", "7")
    assert (second["name"], second["lib-ver"], second["flags"], second["age"], second["idle"]) == (
        "me",
        "1.2",
        "e",
        "7",
        "0",
    )
    assert (second["cmd"], second["resp"], second["tot-cmds"]) == ("client|list", "3", "5")
    assert listed(await client.value(b"CLIENT", b"INFO"))[0]["id"] == str(await client.value(b"CLIENT", b"ID"))
    chosen = listed(await client.value(b"CLIENT", b"LIST", b"ID", second["id"].encode(), b"99"))
    assert [line["id"] for line in chosen] == [second["id"]]


@pytest.mark.parametrize(
    ("argv", "killed"),
    [
        (b"KILL ID %(other)d", {"other"}),
        (b"KILL TYPE NORMAL", {"other"}),
        (b"KILL TYPE NORMAL SKIPME no", {"other", "me"}),
        (b"KILL LADDR 127.0.0.1:6379", {"other"}),
        (b"KILL USER default SKIPME yes", {"other"}),
        (b"KILL MAXAGE 5", {"other"}),
        (b"KILL MAXAGE 6", set()),
        (b"KILL ID %(me)d", set()),
        (b"KILL ID %(me)d SKIPME no", {"me"}),
        (b"KILL ADDR 127.0.0.1:40000 ID %(other)d", {"other"}),
    ],
)
async def test_kill(argv: bytes, killed: set[str]) -> None:
    server = ServerUnderTest()
    clients = {"other": server.connect()}
    await server.t.clock.advance(5)
    me = clients["me"] = server.connect()
    ids = {name.encode(): client.session.id for name, client in clients.items()}
    assert me.now(b"CLIENT", *(argv % ids).split()) == b":%d\r\n" % len(killed)
    assert {name for name, client in clients.items() if client.transport.close_state} == killed


async def test_the_old_form_of_kill_means_an_address() -> None:
    server = ServerUnderTest()
    client = server.connect()
    assert client.now(b"CLIENT", b"KILL", b"127.0.0.1:40000") == b"+OK\r\n"
    assert client.transport.close_state == "closed"


@pytest.mark.parametrize(
    ("lines", "replies"),
    [
        (b"CLIENT REPLY OFF;PING;NOSUCH;CLIENT REPLY ON;PING", b"+OK\r\n+PONG\r\n"),
        (b"CLIENT REPLY SKIP;PING;PING", b"+PONG\r\n"),
        (b"CLIENT REPLY SKIP;CLIENT REPLY SKIP;PING;PING", b"+PONG\r\n"),
        (b"CLIENT REPLY OFF;CLIENT REPLY SKIP;PING;CLIENT REPLY ON;PING", b"+OK\r\n+PONG\r\n"),
    ],
)
async def test_reply_as_redis_server_has_it(lines: bytes, replies: bytes) -> None:
    client = ServerUnderTest().connect()
    client.send(b"".join(line + b"\r\n" for line in lines.split(b";")))
    assert client.take() == replies


async def test_reply_off_is_also_about_hits_and_what_has_to_wait() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "hit", b"value")
    server.t.in_s3("miss", b"other")
    client.take()
    client.send(b"CLIENT REPLY OFF\r\n")
    for key in (b"hit", b"miss"):
        client.send(command(b"GET", key))
    await client.idle()
    client.send(b"CLIENT REPLY ON\r\n")
    await client.idle()
    assert client.take() == b"+OK\r\n"


async def test_deferring_needs_resp3_and_ends_with_it() -> None:
    client: WireClient = ServerUnderTest().connect()
    assert client.now(b"CLIENT", b"DEFER", b"ON").startswith(b"-ERR CLIENT DEFER needs RESP3")
    client.now(b"HELLO", b"3")
    assert client.now(b"CLIENT", b"DEFER", b"ON") == b"+OK\r\n"
    assert client.session.deferring
    client.now(b"HELLO", b"2")
    assert not client.session.deferring


async def test_help_names_every_subcommand() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for name, described in server.context.commands.items():
        if not described.subcommands:
            continue
        lines = [line.decode() for line in await client.value(name, b"HELP")]
        assert lines[0] == f"{name.decode()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        documented = {line.split(" ")[0].lower() for line in lines[1:] if not line.startswith(" ")}
        assert documented == {each.name.partition("|")[2] for each in described.subcommands}
