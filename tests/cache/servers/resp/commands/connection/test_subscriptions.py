"""SUBSCRIBE for the channel of invalidations, as a redis-server 7.0 replies; and what comes on it."""

from __future__ import annotations

import pytest

from milena_common.resp.encoding import bulk
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient

CHANNEL = b"__redis__:invalidate"
MESSAGE = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n%b"
MESSAGE_K = MESSAGE % b"*1\r\n$1\r\nk\r\n"
SUBSCRIBED = b"*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n"
UNSUBSCRIBED = b"*3\r\n$11\r\nunsubscribe\r\n$20\r\n__redis__:invalidate\r\n:0\r\n"


def subscriber(server: ServerUnderTest, *, resp3: bool = False) -> WireClient:
    client = server.connect(resp3=resp3)
    reply = client.now(b"SUBSCRIBE", CHANNEL)
    assert reply == (SUBSCRIBED.replace(b"*3", b">3") if resp3 else SUBSCRIBED)
    return client


async def redirected(server: ServerUnderTest, sink: WireClient) -> WireClient:
    """A RESP2 client that has read `k`, and has `sink` notified of it."""
    client = server.connect(resp3=False)
    assert client.now(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % sink.session.id) == b"+OK\r\n"
    server.t.in_s3("k", b"v")
    assert await client.request(b"GET", b"k") == b"$1\r\nv\r\n"
    return client


async def test_a_resp2_client_hears_of_changed_keys_on_the_channel() -> None:
    server = ServerUnderTest()
    sink = subscriber(server)
    client = await redirected(server, sink)
    for _ in range(2):
        await server.connect().request(b"SET", b"k", b"w")
    await sink.idle()
    assert sink.take() == MESSAGE_K
    assert client.take() == b""


async def test_a_message_without_keys_is_null() -> None:
    server = ServerUnderTest()
    sink = subscriber(server)
    await redirected(server, sink)
    server.context.tracking.flush_all()
    await sink.idle()
    assert sink.take() == MESSAGE % b"$-1\r\n"


@pytest.mark.parametrize("unsubscribes", [(b"UNSUBSCRIBE",), (b"UNSUBSCRIBE", CHANNEL), (b"RESET",)])
async def test_an_unsubscribed_client_receives_nothing(unsubscribes: tuple[bytes, ...]) -> None:
    server = ServerUnderTest()
    sink = subscriber(server)
    await redirected(server, sink)
    assert sink.now(*unsubscribes) == (UNSUBSCRIBED if unsubscribes[0] == b"UNSUBSCRIBE" else b"+RESET\r\n")
    await server.connect().request(b"SET", b"k", b"w")
    await sink.idle()
    assert sink.take() == b""
    assert await sink.request(b"GET", b"none") == b"$-1\r\n"


async def test_a_resp2_client_hears_of_its_own_reads_only_by_way_of_another_connection() -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=False)
    assert client.now(b"CLIENT", b"TRACKING", b"ON") == b"+OK\r\n"
    server.t.in_s3("k", b"v")
    await client.request(b"GET", b"k")
    assert client.now(b"SUBSCRIBE", CHANNEL) == SUBSCRIBED
    await server.connect().request(b"SET", b"k", b"w")
    await client.idle()
    assert client.take() == b""


@pytest.mark.parametrize("mode", [(), (b"BCAST", b"PREFIX", b"k")])
async def test_a_resp2_client_that_redirects_to_itself_hears_of_changed_keys(mode: tuple[bytes, ...]) -> None:
    """As cashews does, which follows a prefix on the connection that subscribes."""
    server = ServerUnderTest()
    client = server.connect(resp3=False)
    assert client.now(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", b"%d" % client.session.id, *mode) == b"+OK\r\n"
    server.t.in_s3("k", b"v")
    await client.request(b"GET", b"k")
    assert client.now(b"SUBSCRIBE", CHANNEL) == SUBSCRIBED
    await server.connect().request(b"SET", b"k", b"w")
    await client.idle()
    assert client.take() == MESSAGE_K
    await server.connect().request(b"DEL", b"other")
    await client.idle()
    assert client.take() == b""


async def test_a_resp3_connection_is_pushed_to_whether_it_subscribes_or_not() -> None:
    server = ServerUnderTest()
    sink = subscriber(server, resp3=True)
    await redirected(server, sink)
    assert sink.now(b"ECHO", b"x") == b"$1\r\nx\r\n", "and it may say anything"
    await server.connect().request(b"SET", b"k", b"w")
    await sink.idle()
    assert sink.take() == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"


REPLIES: list[tuple[tuple[bytes, ...], bytes]] = [
    ((b"PING",), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
    ((b"PING", b"hi"), b"*2\r\n$4\r\npong\r\n$2\r\nhi\r\n"),
    ((b"SUBSCRIBE", CHANNEL, CHANNEL), SUBSCRIBED * 2),
    ((b"UNSUBSCRIBE", b"other"), b"*3\r\n$11\r\nunsubscribe\r\n$5\r\nother\r\n:1\r\n"),
    ((b"UNSUBSCRIBE", CHANNEL, b"other"), UNSUBSCRIBED + b"*3\r\n$11\r\nunsubscribe\r\n$5\r\nother\r\n:0\r\n"),
    ((b"PUNSUBSCRIBE",), b"*3\r\n$12\r\npunsubscribe\r\n$-1\r\n:1\r\n"),
    ((b"PUNSUBSCRIBE", b"a*"), b"*3\r\n$12\r\npunsubscribe\r\n$2\r\na*\r\n:1\r\n"),
    ((b"SUNSUBSCRIBE",), b"*3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n"),
    ((b"QUIT",), b"+OK\r\n"),
]


@pytest.mark.parametrize(("argv", "reply"), REPLIES, ids=[str(number) for number in range(len(REPLIES))])
async def test_commands_that_a_subscriber_may_send(argv: tuple[bytes, ...], reply: bytes) -> None:
    assert subscriber(ServerUnderTest()).now(*argv) == reply


def test_unsubscribing_without_a_subscription_returns_null() -> None:
    client = ServerUnderTest().connect(resp3=False)
    assert client.now(b"UNSUBSCRIBE") == b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"
    client = ServerUnderTest().connect(resp3=True)
    assert client.now(b"UNSUBSCRIBE") == b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n"
    assert client.now(b"PING") == b"+PONG\r\n"


@pytest.mark.parametrize(
    "argv", [(b"GET", b"k"), (b"SET", b"k", b"v"), (b"HELLO", b"3"), (b"CLIENT", b"ID"), (b"ECHO", b"x")]
)
def test_a_resp2_subscriber_may_send_nothing_else(argv: tuple[bytes, ...]) -> None:
    server = ServerUnderTest()
    reply = subscriber(server).now(*argv)
    assert reply.startswith(b"-ERR Can't execute '" + argv[0].lower())
    assert b"only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context" in reply
    assert subscriber(server, resp3=True).now(b"PING") == b"+PONG\r\n", "on RESP3 everything is allowed"


async def test_subscribers_are_seen_and_can_be_ended_by_their_type() -> None:
    server = ServerUnderTest()
    sink, client = subscriber(server), server.connect()
    listed = client.now(b"CLIENT", b"LIST", b"TYPE", b"PUBSUB")
    assert b"id=%d " % sink.session.id in listed
    assert b" flags=P " in listed
    assert b" sub=1 " in listed
    assert b"id=%d " % client.session.id not in listed
    assert b"id=%d " % sink.session.id not in client.now(b"CLIENT", b"LIST", b"TYPE", b"NORMAL")
    assert client.now(b"CLIENT", b"KILL", b"TYPE", b"PUBSUB") == b":1\r\n"
    await client.idle()
    assert sink.session.id not in server.context.clients.by_id


def test_keys_and_the_channel_are_bulk_strings() -> None:
    assert b"*3\r\n" + bulk(b"message") + bulk(CHANNEL) == MESSAGE % b""


@pytest.mark.parametrize("resp3", [False, True])
async def test_subscriptions_and_messages_come_with_replies_off_too_and_errors_do_not(resp3: bool) -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=resp3)
    first = b">" if resp3 else b"*"
    client.send(b"CLIENT REPLY OFF\r\nSUBSCRIBE c\r\nSUBSCRIBE\r\n")
    assert client.take() == first + b"3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    assert server.connect().now(b"PUBLISH", b"c", b"m") == b":1\r\n"
    await client.idle()
    assert client.take() == first + b"3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"
    client.send(b"CLIENT REPLY SKIP\r\nUNSUBSCRIBE c\r\n")
    assert client.take() == first + b"3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n"
