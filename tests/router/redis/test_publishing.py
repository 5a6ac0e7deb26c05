"""Publish/subscribe through the router: it subscribes at the nodes for its clients, which get each message once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from milena_common.access.acl_file import parse_users
from milena_common.pubsub.channels import NAME_BYTES
from milena_common.resp.encoding import bulk, push
from tests.router.redis.test_connection import Client, Port, running_port

SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n%b:%d\r\n"


# Those of the present test: one that no test holds would be closed.
CLIENTS: list[Client] = []


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with running_port() as port:
        yield port
    CLIENTS.clear()


async def subscriber(port: Port, *lines: bytes, replies: int | None = None) -> Client:
    client = await port.connect()
    CLIENTS.append(client)
    client.send(*lines)
    await client.replies(replies or len(lines))
    return client


def requested(port: Port, word: bytes) -> list[list[bytes]]:
    return [argv[1:] for argv in port.node.received if argv[0] == word]


@pytest.mark.parametrize("kind", [b"*", b">"])
async def test_each_subscriber_gets_each_message_once(port: Port, kind: bytes) -> None:
    resp3 = kind == b">"
    clients = []
    for _ in range(2):
        client = await port.connect()
        client.send(b"HELLO 3" if resp3 else b"PING", b"SUBSCRIBE news sport", b"PSUBSCRIBE n*", b"SSUBSCRIBE news")
        assert (await client.replies(5))[1:] == [
            kind + b"3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
            kind + b"3\r\n$9\r\nsubscribe\r\n$5\r\nsport\r\n:2\r\n",
            kind + b"3\r\n$10\r\npsubscribe\r\n$2\r\nn*\r\n:3\r\n",
            kind + b"3\r\n$10\r\nssubscribe\r\n$4\r\nnews\r\n:1\r\n",
        ]
        clients.append(client)
    for message in (
        (b"message", b"news", b"1"),
        (b"pmessage", b"n*", b"news", b"1"),
        (b"smessage", b"news", b"2"),
        (b"message", b"other", b"3"),
        (b"message", b"sport", b"4"),
    ):
        port.node.push(push(message[0], *map(bulk, message[1:])))
    for client in clients:
        assert await client.replies(4) == [
            kind + b"3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n1\r\n",
            kind + b"4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$1\r\n1\r\n",
            kind + b"3\r\n$8\r\nsmessage\r\n$4\r\nnews\r\n$1\r\n2\r\n",
            kind + b"3\r\n$7\r\nmessage\r\n$5\r\nsport\r\n$1\r\n4\r\n",
        ]


async def test_a_subscription_is_confirmed_when_the_nodes_have_confirmed_it(port: Port) -> None:
    await subscriber(port, b"SUBSCRIBE other")  # the connection to the node is there
    port.node.defers = lambda argv: argv[:1] == [b"MILENA.SUBSCRIBE"]
    client = await port.connect()
    client.send(b"SUBSCRIBE news", b"PING")
    await port.until(lambda: bool(port.node.held))
    assert requested(port, b"MILENA.SUBSCRIBE")[-1] == [b"c", b"news"]
    port.node.push(push(b"message", bulk(b"news"), bulk(b"before")))
    reply = asyncio.create_task(client.replies(2))
    assert not (await asyncio.wait({reply}, timeout=0.05))[0]
    port.node.release()
    assert await reply == [SUBSCRIBED % (bulk(b"news"), 1), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"]


async def test_nodes_are_notified_when_a_name_has_no_subscription_left(port: Port) -> None:
    one = await subscriber(port, b"SUBSCRIBE a b", replies=2)
    other = await subscriber(port, b"SUBSCRIBE a", b"PSUBSCRIBE p*")
    one.send(b"UNSUBSCRIBE a", b"UNSUBSCRIBE")
    assert await one.replies(2) == [
        b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n",
        b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
    ]
    await port.until(lambda: requested(port, b"MILENA.UNSUBSCRIBE") == [[b"c", b"b"]])
    other.writer.close()
    await port.until(lambda: requested(port, b"MILENA.UNSUBSCRIBE")[1:] == [[b"c", b"a", b"p", b"p*"]])
    assert port.router.redis.feeds.needed() == []
    one.send(b"PUBSUB NUMSUB a", b"GET k")
    assert await one.replies(2) == [b"*2\r\n$1\r\na\r\n:0\r\n", b"$3\r\nv-k\r\n"]


async def test_a_new_connection_to_a_node_subscribes_to_all_names(port: Port) -> None:
    client = await subscriber(port, b"SUBSCRIBE a", b"PSUBSCRIBE p*")
    port.node.disconnect()

    def again() -> bool:
        return any({*names} == {b"c", b"a", b"p", b"p*"} for names in requested(port, b"MILENA.SUBSCRIBE"))

    while not again():
        await port.goes_on(0.1)
        await asyncio.sleep(0)
    port.node.push(push(b"message", bulk(b"a"), bulk(b"x")))
    assert await client.replies(1) == [b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"]


async def test_a_message_comes_behind_the_replies_before_it(port: Port) -> None:
    client = await port.connect()
    client.send(b"HELLO 3", b"SUBSCRIBE a")
    await client.replies(2)
    port.node.defers = lambda argv: argv[:1] == [b"SET"]
    client.send(b"SET k 1")
    await port.until(lambda: bool(port.node.held))
    port.node.push(push(b"message", bulk(b"a"), bulk(b"x")))
    port.node.release()
    assert await client.replies(2) == [b"+OK\r\n", push(b"message", bulk(b"a"), bulk(b"x"))]


async def test_a_subscriber_may_send_what_redis_allows(port: Port) -> None:
    client = await subscriber(port, b"SUBSCRIBE a")
    client.send(b"GET k", b"PING x", b"CLIENT REPLY OFF", b"SUBSCRIBE b", b"RESET", b"GET k")
    allowed = b"only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    assert await client.replies(6) == [
        b"-ERR Can't execute 'get': %b\r\n" % allowed,
        b"*2\r\n$4\r\npong\r\n$1\r\nx\r\n",
        b"-ERR Can't execute 'client|reply': %b\r\n" % allowed,
        SUBSCRIBED % (bulk(b"b"), 2),
        b"+RESET\r\n",
        b"$3\r\nv-k\r\n",
    ]
    await port.until(lambda: requested(port, b"MILENA.UNSUBSCRIBE") == [[b"c", b"a", b"c", b"b"]])


async def test_publish_goes_to_a_node_behind_the_writes_before_it(port: Port) -> None:
    await subscriber(port, b"SUBSCRIBE a", b"PSUBSCRIBE a*")
    port.node.says = lambda argv: b":5\r\n" if argv[0] in (b"PUBLISH", b"SPUBLISH") else None
    port.node.defers = lambda argv: argv[:1] == [b"SET"]
    client = await port.connect()
    client.send(b"SET k 1", b"PUBLISH a x", b"SPUBLISH a x", b"MULTI", b"PUBLISH b x", b"SET k 2", b"EXEC")
    await port.until(lambda: bool(port.node.held))
    await asyncio.sleep(0)
    assert not requested(port, b"PUBLISH")
    port.node.says = lambda argv: {
        b"PUBLISH": b":5\r\n",
        b"SPUBLISH": b":5\r\n",
        b"MILENA.EXEC": b"*1\r\n+OK\r\n",
    }.get(argv[0])
    port.node.release()
    assert await client.replies(7) == [
        b"+OK\r\n",
        b":7\r\n",  # five at the node, and two here
        b":5\r\n",
        b"+OK\r\n",
        b"+QUEUED\r\n",
        b"+QUEUED\r\n",
        b"*2\r\n:5\r\n+OK\r\n",
    ]


async def test_a_message_is_published_once_or_with_an_error(port: Port) -> None:
    client = await subscriber(port, b"PUBLISH a 1")
    port.node.silent = True
    client.send(b"PUBLISH a 2")
    await port.until(lambda: len(requested(port, b"PUBLISH")) == 2)
    port.node.disconnect()
    assert (await client.replies(1))[0].startswith(b"-NODELOST node node:1 broke off the connection")
    assert requested(port, b"PUBLISH") == [[b"a", b"1"], [b"a", b"2"]]


async def test_a_subscriber_that_does_not_read_is_disconnected(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milena_router.redis.connection.MAX_REPLY_BYTES", 10_000)
    await subscriber(port, b"SUBSCRIBE a")
    redis = port.router.redis
    message = push(b"message", bulk(b"a"), bulk(b"x" * 1000_000))

    def pushed() -> bool:
        port.node.push(message)
        return redis.disconnected == 1

    await port.until(pushed)
    await asyncio.sleep(0)
    assert redis.feeds.channels.subscribers == 0


async def test_names_are_bounded(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milena_router.redis.feeds.MAX_TOTAL_BYTES", 2 * NAME_BYTES + 3)
    client = await subscriber(port, b"SUBSCRIBE a b", replies=2)
    other = await port.connect()
    other.send(b"SUBSCRIBE cc")
    assert (await other.replies(1))[0].startswith(
        b"-ERR the names of all subscriptions at this router have more than"
    )
    client.send(b"UNSUBSCRIBE a")
    await client.replies(1)
    other.send(b"SUBSCRIBE cc")
    assert await other.replies(1) == [SUBSCRIBED % (bulk(b"cc"), 1)]


async def test_a_subscription_that_a_node_does_not_confirm_is_none(port: Port) -> None:
    await subscriber(port, b"SUBSCRIBE a")
    port.router.redis.feeds._timeout = 0.05
    port.node.silent = True
    client = await port.connect()
    client.send(b"SUBSCRIBE b")
    assert (await client.replies(1))[0].startswith(
        b"-NODEUNREACHABLE not all nodes have confirmed the subscription within 0.05 s"
    )
    assert port.router.redis.feeds.needed() == [("channel", b"a")]
    client.send(b"PUBSUB CHANNELS", b"PUBSUB NUMPAT")
    assert await client.replies(2) == [b"*1\r\n$1\r\na\r\n", b":0\r\n"]


USERS = b"user app on >x ~* &app.* +@all\nuser less on >x ~* &app.* +@all -flushdb"


async def test_users_have_rules_for_channels(port: Port) -> None:
    access = port.router.redis.permissions.access
    access.replace_users(parse_users(USERS, "photos"))
    client = await port.connect()
    client.send(b"AUTH app x", b"SUBSCRIBE other", b"PUBLISH other x", b"SUBSCRIBE app.1")
    _, *replies = await client.replies(4)
    assert [each[:8] for each in replies] == [b"-NOPERM ", b"-NOPERM ", b"*3\r\n$9\r\n"]
    access.replace_users(parse_users(USERS.replace(b"&app.*", b"&new.*"), "photos"))
    assert await client._reader.read() == b""  # it may not keep its subscription


@pytest.mark.parametrize("name", [b"FLUSHDB", b"FLUSHALL"])
async def test_a_node_flushes_for_all_of_them(port: Port, name: bytes) -> None:
    port.router.redis.permissions.access.replace_users(parse_users(USERS, "photos"))
    rejected = await port.connect()
    rejected.send(b"AUTH less x", b"FLUSHDB")
    assert (await rejected.replies(2))[1].startswith(b"-NOPERM ")
    port.node.defers = lambda argv: argv[0] == b"MILENA.ALL"
    client = await port.connect()
    client.send(b"AUTH app x", b"SET k 1", name + b" ASYNC", b"GET k", name + b" WRONG")
    await port.until(lambda: bool(port.node.held))
    assert port.node.received[-2:] == [[b"SET", b"k", b"1"], [b"MILENA.ALL", name]]
    port.node.says = lambda argv: None
    port.node.release()
    assert await client.replies(5) == [
        b"+OK\r\n",
        b"+OK\r\n",
        b"+OK\r\n",
        b"$3\r\nv-k\r\n",
        b"-ERR syntax error\r\n",
    ]


async def test_a_flush_that_a_node_rejects(port: Port) -> None:
    port.node.says = lambda argv: b"-ERR FLUSHDB is not allowed: x\r\n" if argv[0] == b"MILENA.ALL" else None
    client = await port.connect()
    client.send(b"FLUSHDB", b"GET k")
    assert await client.replies(2) == [b"-ERR FLUSHDB is not allowed: x\r\n", b"$3\r\nv-k\r\n"]
