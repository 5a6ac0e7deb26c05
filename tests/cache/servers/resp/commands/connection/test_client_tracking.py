"""CLIENT TRACKING as clients meet it: the commands, and the messages that come."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import pytest

from milena_cache.servers.resp import invalidations
from milena_cache.servers.resp.invalidations import MAX_SWEEPS, NAMED_AT_ONCE
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.commands.connection.test_subscriptions import MESSAGE, subscriber
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient, parsed
from tests.support.fake_clock import run_ready_tasks

INVALIDATE_K = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
EVERYTHING = b">2\r\n$10\r\ninvalidate\r\n_\r\n"


def tracking(server: ServerUnderTest, *options: bytes, resp3: bool = True) -> WireClient:
    client = server.connect(resp3=resp3)
    assert client.now(b"CLIENT", b"TRACKING", b"ON", *options) == b"+OK\r\n"
    return client


def number(client: WireClient) -> bytes:
    return b"%d" % client.session.id


async def pushes(client: WireClient) -> bytes:
    """What comes by itself."""
    await client.idle()
    return client.take()


async def kept(server: ServerUnderTest, client: WireClient, key: bytes = b"k") -> None:
    """The client reads `key`, which has a value, and has got no invalidation yet."""
    server.t.in_s3(key.decode(), b"v")
    assert await client.value(b"GET", key) == b"v"
    assert await pushes(client) == b""


async def test_a_write_by_any_client_is_notified_once() -> None:
    server = ServerUnderTest()
    client, other = tracking(server), server.connect()
    await kept(server, client)
    for _ in range(2):
        await other.request(b"SET", b"k", b"w")
    assert await pushes(client) == INVALIDATE_K
    assert server.context.tracking.invalidations == 1


async def test_an_own_write_is_notified_after_its_reply() -> None:
    server = ServerUnderTest()
    client = tracking(server)
    await kept(server, client)
    assert await client.request(b"SET", b"k", b"w", b"DURABILITY", b"memory") == b"+OK\r\n"
    assert await pushes(client) == INVALIDATE_K


async def test_noloop() -> None:
    server = ServerUnderTest()
    client, other = tracking(server, b"NOLOOP"), server.connect()
    await kept(server, client)
    assert client.now(b"SET", b"k", b"w", b"DURABILITY", b"memory") == b"+OK\r\n"
    assert await pushes(client) == b""
    await other.request(b"DEL", b"k")
    assert await pushes(client) == INVALIDATE_K


async def test_a_change_while_a_read_waits_is_notified_before_and_after_its_reply() -> None:
    server = ServerUnderTest()
    client, other = tracking(server), server.connect()
    server.t.in_s3("k", b"old")
    client.send(command(b"GET", b"k"))
    client.send(command(b"GET", b"missing"))
    server.context.tracking.changed(b"k")
    await other.idle()
    replies = client.take()
    assert replies.startswith(INVALIDATE_K)
    assert replies.endswith(INVALIDATE_K)
    assert b"$3\r\nold\r\n" in replies


async def test_broadcast() -> None:
    server = ServerUnderTest()
    client = tracking(server, b"BCAST", b"PREFIX", b"a:", b"PREFIX", b"k")
    other = server.connect()
    for key in (b"b:1", b"k"):
        await other.request(b"SET", key, b"w")
    assert await pushes(client) == INVALIDATE_K


async def test_a_redirection_notifies_another_connection_until_that_is_gone() -> None:
    server = ServerUnderTest()
    listener = server.connect(resp3=True)
    client, other = tracking(server, b"REDIRECT", number(listener)), server.connect()
    assert client.now(b"CLIENT", b"GETREDIR") == b":%b\r\n" % number(listener)
    await kept(server, client)
    await other.request(b"SET", b"k", b"w")
    assert await pushes(listener) == INVALIDATE_K
    assert client.take() == b""
    assert await client.value(b"GET", b"k") == b"w"
    listener.send(command(b"QUIT"))
    await listener.idle()
    await other.request(b"SET", b"k", b"x")
    assert await pushes(client) == b">2\r\n$21\r\ntracking-redir-broken\r\n:%b\r\n" % number(listener)
    info = parsed(client.now(b"CLIENT", b"TRACKINGINFO"))
    assert {bytes(flag) for flag in info[b"flags"]} == {b"on", b"broken_redirect"}


async def test_a_resp2_client_gets_no_invalidations() -> None:
    server = ServerUnderTest()
    client, other = tracking(server, resp3=False), server.connect()
    await kept(server, client)
    await other.request(b"SET", b"k", b"w")
    assert await pushes(client) == b""


@pytest.mark.parametrize(
    "read",
    [
        (b"MGET", b"a", b"k"),
        (b"EXISTS", b"k"),
        (b"STRLEN", b"k"),
        (b"GETRANGE", b"k", b"0", b"1"),
        (b"TTL", b"k"),
    ],
)
async def test_whatever_reads_is_followed(read: tuple[bytes, ...]) -> None:
    server = ServerUnderTest()
    client, other = tracking(server), server.connect()
    await server.warm(other, "k", b"v")
    await client.request(*read)
    await other.request(b"SET", b"k", b"w")
    assert INVALIDATE_K in await pushes(client)


async def test_another_version_in_s3_is_notified_when_it_is_found() -> None:
    server = ServerUnderTest()
    client, other = tracking(server), server.connect()
    await kept(server, client)
    server.t.in_s3("k", b"new")
    server.t.clock.tick(111)
    assert await other.value(b"GET", b"k") == b"new"
    assert await pushes(client) == INVALIDATE_K


async def test_the_expiry_of_an_object_is_notified_without_a_read() -> None:
    server = ServerUnderTest()
    client, other = tracking(server), server.connect()
    await other.request(b"SET", b"k", b"v", b"PX", b"2500")
    assert await client.value(b"GET", b"k") == b"v"
    for _ in range(2):
        server.t.clock.tick(1)
        server.server.sweep()
        assert await pushes(client) == b""
    server.t.clock.tick(1)
    server.server.sweep()
    assert await pushes(client) == INVALIDATE_K


async def test_a_key_without_an_entry_is_invalidated_after_a_while() -> None:
    server = ServerUnderTest()
    client = tracking(server)
    server.context.tracking.track(client.session.id, b"k")
    for _ in range(MAX_SWEEPS + 1):
        assert await pushes(client) == b""
        server.server.sweep()
    assert await pushes(client) == INVALIDATE_K


async def test_keys_of_slots_that_come_or_go_are_invalidated_and_no_others() -> None:
    server = ServerUnderTest()
    client = tracking(server)
    broadcast = tracking(server, b"BCAST", b"PREFIX", b"x")
    await kept(server, client)
    await kept(server, client, b"l")
    slot = slot_of(b"k")
    server.server.slots_changed({slot, slot + 1})
    assert await pushes(client) == INVALIDATE_K
    assert await pushes(broadcast) == EVERYTHING
    assert b"l" in server.context.tracking
    server.server.slots_changed({slot})
    assert await pushes(client) == b""


async def test_a_fence_that_opens_or_closes_empties_every_client() -> None:
    server = ServerUnderTest()
    client = tracking(server)
    broadcast = tracking(server, b"BCAST", b"PREFIX", b"x")
    await kept(server, client)
    server.server.fence_changed()
    assert await pushes(client) == INVALIDATE_K
    assert await pushes(broadcast) == EVERYTHING


async def test_very_many_keys_of_slots_that_go_are_invalidated_a_slice_in_each_step_of_the_loop() -> None:
    server = ServerUnderTest()
    client = tracking(server)
    keys = [b"k%d" % at for at in range(NAMED_AT_ONCE + 10)]
    for key in keys:
        server.context.tracking.track(client.session.id, key)
    server.server.slots_changed(range(SLOTS))
    notified: list[bytes] = []
    reader = hiredis.Reader()
    reader.feed(await pushes(client))
    while message := reader.gets():
        notified += message[1]
    assert sorted(notified) == sorted(keys)
    assert server.context.tracking.keys == 0


async def test_keys_are_named_after_a_change_of_the_fence_a_slice_in_each_step_of_the_loop() -> None:
    """coredis 6.9 drops nothing at a message without keys."""
    server = ServerUnderTest()
    client, redirected = tracking(server), server.connect()
    sink = subscriber(server)
    redirected.now(b"CLIENT", b"TRACKING", b"ON", b"REDIRECT", number(sink))
    keys = [b"k%d" % at for at in range(NAMED_AT_ONCE + 10)]
    for key in keys:
        server.context.tracking.track(client.session.id, key)
    server.context.tracking.track(redirected.session.id, keys[0])
    server.server.fence_changed()
    await asyncio.sleep(0)
    server.context.tracking.track(client.session.id, b"read anew")
    notified: list[bytes] = []
    reader = hiredis.Reader()
    reader.feed(await pushes(client))
    while message := reader.gets():
        notified += message[1]
    assert notified == keys
    assert b"read anew" in server.context.tracking
    assert server.context.tracking.keys == 1
    assert await pushes(sink) == MESSAGE % (b"*1\r\n" + bulk(keys[0]))


async def test_with_very_many_keys_a_change_of_the_fence_drops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invalidations, "MAX_NAMED", 1)
    server = ServerUnderTest()
    client = tracking(server)
    for key in (b"k", b"l"):
        await kept(server, client, key)
    server.server.fence_changed()
    assert await pushes(client) == EVERYTHING


async def test_a_client_that_resets_or_leaves_tracks_no_more() -> None:
    server = ServerUnderTest()
    client, other = tracking(server), tracking(server)
    client.now(b"RESET")
    assert server.context.tracking.clients == 1
    other.connection.connection_lost(None)
    assert not server.context.tracking.active


def error(reply: bytes) -> str:
    value: Any = parsed(reply)
    assert isinstance(value, hiredis.ReplyError)
    return str(value)


# As a redis-server 7.0 replies.
REJECTIONS: list[tuple[tuple[bytes, ...], str]] = [
    ((b"TRACKING",), "ERR wrong number of arguments for 'client|tracking' command"),
    ((b"TRACKING", b"MAYBE"), "ERR syntax error"),
    ((b"TRACKING", b"ON", b"REDIRECT"), "ERR syntax error"),
    ((b"TRACKING", b"ON", b"FOO"), "ERR syntax error"),
    ((b"TRACKING", b"ON", b"REDIRECT", b"x"), "ERR value is not an integer or out of range"),
    ((b"TRACKING", b"ON", b"REDIRECT", b"999"), "ERR The client ID you want redirect to does not exist"),
    ((b"TRACKING", b"ON", b"REDIRECT", b"0"), "ERR The client ID you want redirect to does not exist"),
    (
        (b"TRACKING", b"ON", b"REDIRECT", b"1", b"REDIRECT", b"1"),
        "ERR A client can only redirect to a single other client",
    ),
    ((b"TRACKING", b"ON", b"PREFIX", b"a"), "ERR PREFIX option requires BCAST mode to be enabled"),
    ((b"TRACKING", b"ON", b"BCAST", b"OPTIN"), "ERR OPTIN and OPTOUT are not compatible with BCAST"),
    ((b"TRACKING", b"ON", b"OPTIN", b"OPTOUT"), "ERR You can't specify both OPTIN mode and OPTOUT mode"),
    (
        (b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"a", b"PREFIX", b"ab"),
        "ERR Prefix 'a' overlaps with another provided prefix 'ab'. Prefixes for a single client must not overlap.",
    ),
    (
        (b"CACHING", b"YES"),
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode "
        "enabled",
    ),
    ((b"CACHING",), "ERR wrong number of arguments for 'client|caching' command"),
]


@pytest.mark.parametrize(("argv", "rejection"), REJECTIONS, ids=lambda value: repr(value)[:40])
async def test_rejections(argv: tuple[bytes, ...], rejection: str) -> None:
    client = ServerUnderTest().connect()
    assert error(client.now(b"CLIENT", *argv)) == rejection


SWITCHES: list[tuple[tuple[bytes, ...], tuple[bytes, ...], str]] = [
    (
        (b"BCAST", b"PREFIX", b"a"),
        (b"TRACKING", b"ON"),
        "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it "
        "with a different mode.",
    ),
    (
        (b"BCAST", b"PREFIX", b"a"),
        (b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"ab"),
        "ERR Prefix 'ab' overlaps with an existing prefix 'a'. Prefixes for a single client must not overlap.",
    ),
    (
        (b"OPTIN",),
        (b"TRACKING", b"ON", b"OPTOUT"),
        "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it "
        "with a different mode.",
    ),
    (
        (),
        (b"CACHING", b"YES"),
        "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
    ),
    (
        (b"OPTIN",),
        (b"CACHING", b"NO"),
        "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
    ),
    ((b"OPTIN",), (b"CACHING", b"MAYBE"), "ERR syntax error"),
]


@pytest.mark.parametrize(("options", "argv", "rejection"), SWITCHES, ids=lambda value: repr(value)[:40])
async def test_what_does_not_fit_what_was_said_before(
    options: tuple[bytes, ...], argv: tuple[bytes, ...], rejection: str
) -> None:
    client = tracking(ServerUnderTest(), *options)
    assert error(client.now(b"CLIENT", *argv)) == rejection


async def test_trackinginfo_says_what_was_said() -> None:
    server = ServerUnderTest()
    client = server.connect()

    def info() -> dict[bytes, Any]:
        argv = parsed(client.now(b"CLIENT", b"TRACKINGINFO"))
        return dict(zip(argv[::2], argv[1::2], strict=True))

    assert info() == {b"flags": [b"off"], b"redirect": -1, b"prefixes": []}
    client.now(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"b", b"PREFIX", b"a", b"NOLOOP")
    assert info() == {b"flags": [b"on", b"bcast", b"noloop"], b"redirect": 0, b"prefixes": [b"a", b"b"]}
    client.now(b"CLIENT", b"TRACKING", b"OFF")
    client.now(b"CLIENT", b"TRACKING", b"ON", b"OPTIN")
    client.now(b"CLIENT", b"CACHING", b"YES")
    assert info()[b"flags"] == [b"on", b"optin", b"caching-yes"]


async def test_optin() -> None:
    server = ServerUnderTest()
    client, other = tracking(server, b"OPTIN"), server.connect()
    await kept(server, client, b"not")
    client.now(b"CLIENT", b"CACHING", b"YES")
    await kept(server, client)
    for key in (b"not", b"k"):
        await other.request(b"SET", key, b"w")
    assert await pushes(client) == INVALIDATE_K


async def test_a_message_has_one_key_and_with_bcast_the_keys_of_a_prefix() -> None:
    server = ServerUnderTest(mode="memory")
    writer, reader, broadcast = server.connect(), server.connect(resp3=True), server.connect(resp3=True)
    await reader.value(b"CLIENT", b"TRACKING", b"ON")
    await broadcast.value(b"CLIENT", b"TRACKING", b"ON", b"BCAST", b"PREFIX", b"a", b"PREFIX", b"b")
    await reader.value(b"MGET", b"a1", b"b1", b"a2")
    reader.take()
    await writer.value(b"MSET", b"a1", b"1", b"b1", b"1", b"a2", b"1", b"c1", b"1")
    await run_ready_tasks()

    def invalidated(*keys: bytes) -> bytes:
        return b">2\r\n$10\r\ninvalidate\r\n*%d\r\n%b" % (len(keys), b"".join(map(bulk, keys)))

    assert reader.take() == invalidated(b"a1") + invalidated(b"b1") + invalidated(b"a2")
    assert broadcast.take() == invalidated(b"a1", b"a2") + invalidated(b"b1")
    # Very many are one message.
    keys = [b"k%d" % number for number in range(100)]
    await reader.value(b"MGET", *keys)
    reader.take()
    await writer.value(b"MSET", *(word for key in keys for word in (key, b"1")))
    await run_ready_tasks()
    assert reader.take().count(b"invalidate") == 1
