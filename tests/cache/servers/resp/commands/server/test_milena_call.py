"""MILENA.CALL: the methods of the node's API in the Redis protocol."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from milena_cache.servers.api_methods import LARGE_BYTES
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.pb import router_server_pb2 as router_pb
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, parsed, ring

OTHER = "127.0.0.1:60051"


def argv(method: str, request: Any, timeout_ms: int = 5000) -> tuple[bytes, ...]:
    return b"MILENA.CALL", method.encode(), b"%d" % timeout_ms, request.SerializeToString()


async def got(client: WireClient, key: bytes, **more: Any) -> pb.GetResponse:
    return pb.GetResponse.FromString(await client.value(*argv("Get", pb.GetRequest(key=key, **more))))


async def test_objects_are_written_read_and_deleted() -> None:
    server = ServerUnderTest()
    client = server.connect()
    put = await client.value(*argv("Put", pb.PutRequest(key=b"k", value=b"v", if_none_match="*", ttl_ms=10_000)))
    assert pb.PutResponse.FromString(put).successful
    reply = await got(client, b"k")
    assert (reply.successful, reply.value, reply.outcome, reply.ttl_ms) == (True, b"v", "hit", 10_000)
    again = await client.value(*argv("Put", pb.PutRequest(key=b"k", value=b"v", if_none_match="*")))
    assert str(again).startswith("CONDITION ")
    listed = await client.value(*argv("List", pb.ListRequest()))
    assert [each.key for each in pb.ListResponse.FromString(listed).objects] == [b"k"]
    await client.value(*argv("Delete", pb.DeleteRequest(key=b"k")))
    assert not (await got(client, b"k")).successful
    counted = {name: counts.requests for name, counts in server.calls.by_operation.items() if counts.requests}
    assert counted == {"get": 2, "put": 2, "list": 1, "delete": 1}
    assert sum(server.calls["put"].errors.values()) == 1


async def test_a_hit_gets_a_reply_at_once() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "k", b"v")
    reply = pb.GetResponse.FromString(parsed(client.now(*argv("Get", pb.GetRequest(key=b"k")))))
    assert (reply.value, reply.outcome) == (b"v", "hit")
    head = pb.GetRequest(key=b"k", metadata_only=True)
    reply = pb.GetResponse.FromString(parsed(client.now(*argv("Get", head))))
    assert (reply.value, reply.size) == (b"", 1)


@pytest.mark.parametrize("size", [LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 300_000])
async def test_a_large_value_is_in_the_same_message_as_a_small_one(size: int) -> None:
    server = ServerUnderTest()
    client = server.connect()
    value = bytes(range(256)) * (size // 256 + 1)
    server.t.store.objects[server.t.buckets.resolve("", b"k").ref] = value[:size]
    for outcome in ("miss", "hit"):
        reply = await got(client, b"k")
        assert (reply.value, reply.size, reply.outcome, reply.node) == (value[:size], size, outcome, ME)
        assert reply.etag
    part = await got(client, b"k", offset=1, length=size - 1)
    assert (part.value, part.size) == (value[1:size], size)


async def test_the_reply_with_a_part_has_the_size_of_the_whole() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "k", b"0123456789")
    part = pb.GetRequest(key=b"k", offset=-4, length=3)
    reply = pb.GetResponse.FromString(parsed(client.now(*argv("Get", part))))
    assert (reply.value, reply.size, reply.outcome) == (b"678", 10, "hit")
    assert (await got(client, b"k", offset=7, if_match=reply.etag)).value == b"789"
    left_out = await got(client, b"k", offset=2, max_bytes=7)
    assert (left_out.value, left_out.size, left_out.omitted) == (b"", 10, True)
    assert (await got(client, b"k", offset=2, length=7, max_bytes=7)).value == b"2345678"
    assert not (await got(client, b"absent", offset=2, if_match=reply.etag)).successful
    for more, error in (
        ({"offset": 10}, "RANGE offset: "),
        ({"if_match": '"other"'}, "CONDITION if_match: "),
        ({"if_match": "\n"}, "ERR if_match: "),
        ({"offset": 1, "metadata_only": True}, "ERR offset, length, if_match: "),
    ):
        rejected = await client.value(*argv("Get", pb.GetRequest(key=b"k", **more)))
        assert str(rejected).startswith(error)


async def test_one_level_of_keys_is_listed_with_what_is_dirty() -> None:
    server = ServerUnderTest(mode="memory", delay=1000)
    await server.t.start()
    client = server.connect()
    server.t.in_s3("a/1", b"v")
    await client.value(b"SET", b"b/1", b"v")
    await client.value(b"SET", b"c", b"v")
    names: list[bytes] = []
    cursor = ""
    for _ in range(3):
        request = pb.ListRequest(delimiter=b"/", limit=1, cursor=cursor)
        page = pb.ListResponse.FromString(await client.value(*argv("List", request)))
        names += [*(each.key for each in page.objects), *page.prefixes]
        cursor = page.cursor
    assert (names, cursor) == ([b"a/", b"b/", b"c"], "")
    rejected = await client.value(*argv("List", pb.ListRequest(cursor="x")))
    assert str(rejected).startswith("ERR cursor: ")
    await server.t.stop()


async def test_the_router_s_messages_are_taken_too() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await client.value(*argv("Put", router_pb.PutRequest(key=b"k", value=b"v")))
    reply = await client.value(*argv("Get", router_pb.GetRequest(key=b"k")))
    assert router_pb.GetResponse.FromString(reply).value == b"v"


async def test_a_key_of_another_node_is_redirected_unless_the_router_sends_it() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.ownership.update(ring(OTHER, epoch=2))
    for method, request in (
        ("Get", pb.GetRequest(key=b"k")),
        ("Put", pb.PutRequest(key=b"k", value=b"v")),
        ("Delete", pb.DeleteRequest(key=b"k")),
    ):
        assert client.now(*argv(method, request)) == b"-MOVED 7629 127.0.0.1:60052\r\n"
        request.owned_since = 3
        assert isinstance(await client.value(*argv(method, request)), bytes)


async def test_an_entry_from_before_the_ring_changed_is_revalidated() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "k", b"v")
    server.t.in_s3("k", b"newer")
    server.ownership.update(ring(ME, epoch=2))
    assert (await got(client, b"k")).value == b"newer"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        ([b"Nothing", b"1000", b""], "ERR method: got 'Nothing'; allowed: Get, Put, Delete, "),
        ([b"get", b"1000", b""], "ERR method: got 'get'; allowed: "),
        ([b"\xff", b"1000", b""], "ERR method: "),
        ([b"Get", b"soon", b""], "ERR timeout_ms: got 'soon'; allowed: 1 to 86400000"),
        ([b"Get", b"0", b""], "ERR timeout_ms: got '0'; allowed: 1 to 86400000"),
        ([b"Get", b"86400001", b""], "ERR timeout_ms: "),
        ([b"Get", b"1000", b"\xff"], "ERR request: is not an encoded GetRequest"),
        ([b"Get", b"1000", b""], "ERR key: is empty"),
        ([b"Get", b"1000"], "ERR wrong number of arguments for 'milena.call' command"),
        ([b"Get", b"1000", b"", b"", b"1", b"1"], "ERR wrong number of arguments for 'milena.call' command"),
        ([b"Get", b"1000", b"", b"soon"], "ERR deadline_ms: got 'soon'; allowed: whole numbers"),
    ],
)
async def test_what_is_no_call_is_rejected(sent: list[bytes], reply: str) -> None:
    server = ServerUnderTest()
    rejection = parsed(server.connect().now(b"MILENA.CALL", *sent))
    assert isinstance(rejection, hiredis.ReplyError)
    assert str(rejection).startswith(reply)


async def test_a_write_that_arrives_after_its_deadline_is_not_carried_out() -> None:
    server = ServerUnderTest()
    client = server.connect()
    put, delete = pb.PutRequest(key=b"k", value=b"v"), pb.DeleteRequest(key=b"k")
    now = int(1000 * server.context.clock.now())
    for deadline in (now, now - 1, now - 86_400_000, 0, -1):
        for method, request in (("Put", put), ("Delete", delete)):
            rejection = str(await client.value(*argv(method, request), b"%d" % deadline))
            assert rejection.startswith("BUSY retry-after-ms=")
            assert rejection.endswith("nothing was done")
    assert not (await got(client, b"k")).successful
    in_time = await client.value(*argv("Put", put), b"%d" % (now + 1000))
    assert pb.PutResponse.FromString(in_time).successful
    assert (await got(client, b"k")).value == b"v"


async def test_a_write_that_waited_at_the_node_beyond_its_deadline_is_not_carried_out_either() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.t.store.read_gate.clear()
    put = command(*argv("Put", pb.PutRequest(key=b"k", value=b"v")), b"%d" % (1000 * server.t.clock.now() + 1000))
    client.send(command(*argv("Get", pb.GetRequest(key=b"k"), 60_000)) + put)
    await client.idle()
    server.t.clock.tick(1.5)
    server.t.store.read_gate.set()
    reader = hiredis.Reader()
    reader.feed(await client.replies(2))
    assert not pb.GetResponse.FromString(reader.gets()).successful
    assert str(reader.gets()).startswith("BUSY ")
    assert not server.t.dirty


async def test_a_deadline_ends_a_call_that_has_more_time_by_itself() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.t.store.read_gate.clear()
    now = int(1000 * server.context.clock.now())
    client.send(command(*argv("Get", pb.GetRequest(key=b"k"), 60_000), b"%d" % (now + 50)))
    assert "no response within 0.0" in str(parsed(await client.replies(1)))
    server.t.store.read_gate.set()


async def test_calls_do_not_wait_for_each_other_on_a_connection_that_defers() -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=True)
    client.now(b"CLIENT", b"DEFER", b"ON")
    await server.warm(server.connect(), "hot", b"h")
    client.send(
        command(*argv("Get", pb.GetRequest(key=b"cold"))) + command(*argv("Get", pb.GetRequest(key=b"hot")))
    )
    reader = hiredis.Reader()
    reader.feed(await client.replies(3))
    assert str(reader.gets()) == "DEFERRED 1"
    assert pb.GetResponse.FromString(reader.gets()).value == b"h"
    kind, number, reply = reader.gets()
    assert (kind, number) == (b"deferred", 1)
    assert not pb.GetResponse.FromString(reply).successful


async def test_calls_count_for_the_rate_limit() -> None:
    server = ServerUnderTest({"RATE_LIMIT": "2"})
    client = server.connect()
    for _ in range(2):
        await got(client, b"k")
    rejection = parsed(client.now(*argv("Get", pb.GetRequest(key=b"k"))))
    assert str(rejection).startswith("RATELIMIT retry-after-ms=500 ")
    assert isinstance(await client.value(*argv("Invalidate", pb.InvalidateRequest(key=b"k"))), bytes)


async def test_what_a_tracking_client_gets_is_followed() -> None:
    server = ServerUnderTest()
    client, other = server.connect(resp3=True), server.connect()
    await client.value(b"CLIENT", b"TRACKING", b"ON")
    for _ in range(2):  # a miss, and a hit
        assert not (await got(client, b"k")).successful
        await client.idle()
        client.take()
        await other.value(b"SET", b"k", b"v")
        await other.value(b"DEL", b"k")
        assert parsed(await client.replies(1)) == [b"invalidate", [b"k"]]
        await other.value(b"GET", b"k")


async def test_a_change_while_a_call_waits_is_notified_after_its_reply() -> None:
    server = ServerUnderTest()
    client, other = server.connect(resp3=True), server.connect()
    await client.value(b"CLIENT", b"TRACKING", b"ON")
    server.t.in_s3("k", b"old")
    server.t.store.read_gate.clear()
    client.send(command(*argv("Get", pb.GetRequest(key=b"k"))))
    await client.idle()
    assert await other.value(b"SET", b"k", b"new") == b"OK"
    await client.idle()
    server.t.store.read_gate.set()
    await client.idle()
    reader = hiredis.Reader()
    reader.feed(await client.replies(3))
    said = [reader.gets(), reader.gets(), reader.gets()]
    assert isinstance(said[1], bytes)
    assert said[0] == said[2] == [b"invalidate", [b"k"]]
