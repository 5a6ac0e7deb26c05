"""PUBLISH and the subscriptions of clients, as a redis-server 7.0 replies; and what reaches other nodes."""

from __future__ import annotations

from typing import Any

import pytest

from milena_common.api.errors import NodeLost
from milena_common.pubsub.channels import MAX_BYTES, NAME_BYTES
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring

OTHER = "127.0.0.1:60000"


def array(*elements: bytes | int, resp3: bool = False) -> bytes:
    parts = [b":%d\r\n" % each if isinstance(each, int) else bulk(each) for each in elements]
    return (b">%d\r\n" if resp3 else b"*%d\r\n") % len(parts) + b"".join(parts)


class Other:
    """Another node: the messages that it gets. `fails`: it cannot be reached."""

    def __init__(self) -> None:
        self.messages: list[list[bytes]] = []
        self.fails = False

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        if self.fails:
            raise NodeLost("gone")
        words = sent.split(b"\r\n")[2::2]
        self.messages += [words[at : at + 3] for at in range(1, len(words), 3)]
        return b"OK"


@pytest.mark.parametrize("resp3", [False, True])
async def test_messages_reach_the_subscribers_of_channel_and_pattern(resp3: bool) -> None:
    server = ServerUnderTest()
    one, publisher = server.connect(resp3=resp3), server.connect()
    assert one.now(b"SUBSCRIBE", b"news", b"sport") == (
        array(b"subscribe", b"news", 1, resp3=resp3) + array(b"subscribe", b"sport", 2, resp3=resp3)
    )
    assert one.now(b"PSUBSCRIBE", b"n*") == array(b"psubscribe", b"n*", 3, resp3=resp3)
    assert one.now(b"SSUBSCRIBE", b"news") == array(b"ssubscribe", b"news", 1, resp3=resp3)
    assert publisher.now(b"PUBLISH", b"news", b"hello") == b":2\r\n"
    assert one.take() == (
        array(b"message", b"news", b"hello", resp3=resp3)
        + array(b"pmessage", b"n*", b"news", b"hello", resp3=resp3)
    )
    assert publisher.now(b"SPUBLISH", b"news", b"shard") == b":1\r\n"
    assert one.take() == array(b"smessage", b"news", b"shard", resp3=resp3)
    assert publisher.now(b"PUBLISH", b"other", b"x") == b":0\r\n"
    assert publisher.now(b"PUBSUB", b"CHANNELS") == array(b"news", b"sport")
    assert publisher.now(b"PUBSUB", b"CHANNELS", b"s*") == array(b"sport")
    assert publisher.now(b"PUBSUB", b"CHANNELS", b"a", b"b") == (
        b"-ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.\r\n"
    )
    assert publisher.now(b"PUBSUB", b"NUMSUB", b"news", b"none") == array(b"news", 1, b"none", 0)
    assert publisher.now(b"PUBSUB", b"NUMPAT") == b":1\r\n"
    assert publisher.now(b"PUBSUB", b"SHARDCHANNELS") == array(b"news")
    assert publisher.now(b"PUBSUB", b"SHARDNUMSUB", b"news") == array(b"news", 1)
    assert one.now(b"UNSUBSCRIBE") == (
        array(b"unsubscribe", b"news", 2, resp3=resp3) + array(b"unsubscribe", b"sport", 1, resp3=resp3)
    )
    assert one.now(b"PUNSUBSCRIBE", b"n*") == array(b"punsubscribe", b"n*", 0, resp3=resp3)
    assert one.now(b"SUNSUBSCRIBE") == array(b"sunsubscribe", b"news", 0, resp3=resp3)
    assert publisher.now(b"PUBLISH", b"news", b"x") == b":0\r\n"
    assert one.take() == b""
    assert one.now(b"ECHO", b"x") == b"$1\r\nx\r\n"
    assert publisher.now(b"PUBSUB", b"NUMPAT") == b":0\r\n"


async def test_a_connection_that_ends_or_is_reset_leaves_nothing_behind() -> None:
    server = ServerUnderTest()
    for end in (lambda each: each.now(b"RESET"), lambda each: each.transport.abort()):
        client = server.connect()
        client.now(b"SUBSCRIBE", b"a")
        client.now(b"PSUBSCRIBE", b"a*")
        end(client)
        await server.connect().idle()
        assert server.context.channels.subscribers == server.context.channels.patterns == 0
        assert server.connect().now(b"PUBLISH", b"a", b"x") == b":0\r\n"


async def test_a_subscriber_that_does_not_read_is_disconnected_at_its_limit() -> None:
    server = ServerUnderTest({"RESP_OUTPUT_BYTES": "10KiB"})
    slow, publisher = server.connect(), server.connect()
    slow.now(b"SUBSCRIBE", b"news")
    slow.transport.client_reads = False
    for _ in range(20):
        publisher.now(b"PUBLISH", b"news", b"x" * 1000)
    assert slow.transport.close_state == "aborted"
    assert server.context.clients.disconnects["output"] == 1
    await publisher.idle()
    assert publisher.now(b"PUBLISH", b"news", b"x") == b":0\r\n"


def test_the_names_of_a_connection_are_bounded() -> None:
    client = ServerUnderTest(max_value_bytes=MAX_BYTES).connect()
    size = MAX_BYTES // 2 - NAME_BYTES
    assert client.now(b"SUBSCRIBE", b"a" * size) == array(b"subscribe", b"a" * size, 1)
    assert client.now(b"SUBSCRIBE", b"b" * size) == array(b"subscribe", b"b" * size, 2)
    assert client.now(b"SUBSCRIBE", b"c").startswith(b"-ERR the names of this connection's subscriptions have more")
    client.now(b"UNSUBSCRIBE", b"a" * size)
    assert client.now(b"SUBSCRIBE", b"c") == array(b"subscribe", b"c", 2)


async def test_messages_are_sent_to_other_nodes_in_their_order_at_most_once() -> None:
    server, other = ServerUnderTest(), Other()
    server.context.publisher._links = other
    server.ownership.update(ring(ME, OTHER, epoch=2))
    publisher = server.connect()
    for number in range(3):
        assert publisher.now(b"PUBLISH", b"news", b"%d" % number) == b":0\r\n"
    publisher.now(b"SPUBLISH", b"shard", b"s")
    await publisher.idle()
    assert other.messages == [
        [b"c", b"news", b"0"],
        [b"c", b"news", b"1"],
        [b"c", b"news", b"2"],
        [b"s", b"shard", b"s"],
    ]
    assert server.context.publisher.sent == 4
    other.fails = True
    publisher.now(b"PUBLISH", b"news", b"lost")
    await publisher.idle()
    other.fails = False
    publisher.now(b"PUBLISH", b"news", b"next")
    await publisher.idle()
    assert [each[2] for each in other.messages[4:]] == [b"next"]
    assert server.context.publisher.dropped == 1


async def test_what_waits_for_another_node_is_bounded() -> None:
    server, other = ServerUnderTest(max_value_bytes=10**7), Other()
    server.context.publisher._links = other
    server.ownership.update(ring(ME, OTHER, epoch=2))
    publisher = server.connect()
    for _ in range(12):
        publisher.send(command(b"PUBLISH", b"big", b"x" * 2**20))
    await publisher.idle()
    assert (server.context.publisher.sent, server.context.publisher.dropped) == (7, 5)


async def test_a_router_gets_what_is_published_here_and_is_no_subscriber() -> None:
    server = ServerUnderTest()
    relay, client, publisher = server.connect(resp3=True), server.connect(), server.connect()
    assert relay.now(b"MILENA.SUBSCRIBE", b"c", b"news").startswith(b"-NOPERM only nodes of the cluster")
    relay.session.identified = True
    names = (b"c", b"news", b"p", b"n*", b"s", b"news")
    assert relay.now(b"MILENA.SUBSCRIBE", *names) == b"+OK\r\n"
    assert relay.now(b"MILENA.SUBSCRIBE", b"x", b"news") == b"-ERR syntax error\r\n"
    client.now(b"SUBSCRIBE", b"news")
    assert publisher.now(b"PUBLISH", b"news", b"1") == b":1\r\n"
    assert publisher.now(b"SPUBLISH", b"news", b"2") == b":0\r\n"
    assert relay.take() == (
        array(b"message", b"news", b"1", resp3=True)
        + array(b"pmessage", b"n*", b"news", b"1", resp3=True)
        + array(b"smessage", b"news", b"2", resp3=True)
    )
    # It has a connection to the node where these were published.
    publisher.now(b"MILENA.PUBLISH", b"c", b"news", b"3", b"s", b"news", b"4")
    assert relay.take() == b""
    assert client.take() == array(b"message", b"news", b"1") + array(b"message", b"news", b"3")
    assert relay.now(b"MILENA.UNSUBSCRIBE", *names) == b"+OK\r\n"
    publisher.now(b"PUBLISH", b"news", b"5")
    assert relay.take() == b""
    assert server.context.channels.bytes == len(b"news") + NAME_BYTES


def test_the_names_of_a_router_are_bounded_by_it_alone() -> None:
    server = ServerUnderTest(max_value_bytes=MAX_BYTES)
    relay = server.connect(resp3=True)
    relay.session.identified = True
    for letter in (b"a", b"b", b"c"):
        assert relay.now(b"MILENA.SUBSCRIBE", b"c", letter * (MAX_BYTES // 2)) == b"+OK\r\n"


def test_messages_of_another_node_are_delivered_here() -> None:
    server = ServerUnderTest()
    client = server.connect()
    client.now(b"SUBSCRIBE", b"news")
    assert server.connect().now(b"MILENA.PUBLISH", b"c", b"news", b"1", b"s", b"news", b"2") == b"+OK\r\n"
    assert client.take() == array(b"message", b"news", b"1")
    assert server.connect().now(b"MILENA.PUBLISH", b"c", b"news", b"1", b"s").startswith(b"-ERR wrong number")


async def test_keyspace_events() -> None:
    server = ServerUnderTest()
    listener, client = server.connect(), server.connect()
    listener.now(b"PSUBSCRIBE", b"__key*__:*")
    await client.request(b"SET", b"quiet", b"1")
    assert listener.take() == b""
    assert client.now(b"CONFIG", b"SET", b"notify-keyspace-events", b"EKA") == b"+OK\r\n"
    assert client.now(b"CONFIG", b"GET", b"notify-keyspace-events") == array(b"notify-keyspace-events", b"AKE")
    await client.request(b"SET", b"k", b"1")
    await client.request(b"DEL", b"k")
    messages = events(listener)
    assert messages[:2] == [(b"__keyspace@0__:k", b"set"), (b"__keyevent@0__:set", b"k")]
    assert (b"__keyevent@0__:del", b"k") in messages
    await client.request(b"SET", b"e", b"1", b"PX", b"10")
    await server.t.clock.advance(1.0)
    await client.request(b"GET", b"e")
    assert (b"__keyevent@0__:expired", b"e") in events(listener)
    assert client.now(b"CONFIG", b"SET", b"notify-keyspace-events", b"E$") == b"+OK\r\n"
    await client.request(b"SET", b"k", b"2")
    await client.request(b"DEL", b"k")
    assert events(listener) == [(b"__keyevent@0__:set", b"k")]
    assert client.now(b"CONFIG", b"SET", b"notify-keyspace-events", b"?").startswith(b"-ERR CONFIG SET failed")


def events(listener: WireClient) -> list[tuple[bytes, bytes]]:
    """The channel and payload of each message that matches a pattern."""
    words = listener.take().split(b"\r\n")
    return [(words[at + 6 - 2], words[at + 6]) for at, word in enumerate(words) if word == b"pmessage"]
