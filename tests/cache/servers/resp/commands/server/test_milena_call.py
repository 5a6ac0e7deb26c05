"""MILENA.CALL: the methods of the node's API in the Redis protocol."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.api.pb import router_server_pb2 as router_pb
from milena_common.resp.encoding import command
from tests.cache.servers.resp.rig import ME, ServerUnderTest, WireClient, parsed, ring

OTHER = "127.0.0.1:60051"


def argv(method: str, request: Any, timeout_ms: int = 5000) -> tuple[bytes, ...]:
    return b"MILENA.CALL", method.encode(), b"%d" % timeout_ms, request.SerializeToString()


async def got(client: WireClient, key: bytes, **more: Any) -> pb.GetResponse:
    return pb.GetResponse.FromString(await client.value(*argv("Get", pb.GetRequest(key=key, **more))))


async def test_objects_are_written_read_and_deleted() -> None:
    door = ServerUnderTest()
    client = door.connect()
    put = await client.value(*argv("Put", pb.PutRequest(key=b"k", value=b"v", if_none_match="*", ttl_ms=10_000)))
    assert pb.PutResponse.FromString(put).successful
    answer = await got(client, b"k")
    assert (answer.successful, answer.value, answer.outcome, answer.ttl_ms) == (True, b"v", "hit", 10_000)
    again = await client.value(*argv("Put", pb.PutRequest(key=b"k", value=b"v", if_none_match="*")))
    assert str(again).startswith("CONDITION ")
    listed = await client.value(*argv("List", pb.ListRequest()))
    assert [each.key for each in pb.ListResponse.FromString(listed).objects] == [b"k"]
    await client.value(*argv("Delete", pb.DeleteRequest(key=b"k")))
    assert not (await got(client, b"k")).successful
    counted = {name: counts.requests for name, counts in door.calls.by_operation.items() if counts.requests}
    assert counted == {"get": 2, "put": 2, "list": 1, "delete": 1}
    assert sum(door.calls["put"].errors.values()) == 1


async def test_a_hit_is_answered_at_once() -> None:
    door = ServerUnderTest()
    client = door.connect()
    await door.warm(client, "k", b"v")
    answer = pb.GetResponse.FromString(parsed(client.now(*argv("Get", pb.GetRequest(key=b"k")))))
    assert (answer.value, answer.outcome) == (b"v", "hit")
    head = pb.GetRequest(key=b"k", metadata_only=True)
    answer = pb.GetResponse.FromString(parsed(client.now(*argv("Get", head))))
    assert (answer.value, answer.size) == (b"", 1)


async def test_a_part_is_answered_with_the_size_of_the_whole() -> None:
    door = ServerUnderTest()
    client = door.connect()
    await door.warm(client, "k", b"0123456789")
    part = pb.GetRequest(key=b"k", offset=-4, length=3)
    answer = pb.GetResponse.FromString(parsed(client.now(*argv("Get", part))))
    assert (answer.value, answer.size, answer.outcome) == (b"678", 10, "hit")
    assert (await got(client, b"k", offset=7, if_match=answer.etag)).value == b"789"
    left_out = await got(client, b"k", offset=2, max_bytes=7)
    assert (left_out.value, left_out.size, left_out.omitted) == (b"", 10, True)
    assert (await got(client, b"k", offset=2, length=7, max_bytes=7)).value == b"2345678"
    assert not (await got(client, b"absent", offset=2, if_match=answer.etag)).successful
    for more, error in (
        ({"offset": 10}, "RANGE offset: "),
        ({"if_match": '"other"'}, "CONDITION if_match: "),
        ({"if_match": "\n"}, "ERR if_match: "),
        ({"offset": 1, "metadata_only": True}, "ERR offset, length, if_match: "),
    ):
        refused = await client.value(*argv("Get", pb.GetRequest(key=b"k", **more)))
        assert str(refused).startswith(error)


async def test_one_level_of_keys_is_listed_with_what_is_dirty() -> None:
    door = ServerUnderTest(mode="memory", delay=1000)
    await door.t.start()
    client = door.connect()
    door.t.in_s3("a/1", b"v")
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
    refused = await client.value(*argv("List", pb.ListRequest(cursor="x")))
    assert str(refused).startswith("ERR cursor: ")
    await door.t.stop()


async def test_the_router_s_messages_are_taken_too() -> None:
    door = ServerUnderTest()
    client = door.connect()
    await client.value(*argv("Put", router_pb.PutRequest(key=b"k", value=b"v")))
    answer = await client.value(*argv("Get", router_pb.GetRequest(key=b"k")))
    assert router_pb.GetResponse.FromString(answer).value == b"v"


async def test_a_key_of_another_node_is_told_to_be_there_unless_the_router_sends_it() -> None:
    door = ServerUnderTest()
    client = door.connect()
    door.ownership.update(ring(OTHER, epoch=2))
    for method, request in (
        ("Get", pb.GetRequest(key=b"k")),
        ("Put", pb.PutRequest(key=b"k", value=b"v")),
        ("Delete", pb.DeleteRequest(key=b"k")),
    ):
        assert client.now(*argv(method, request)) == b"-MOVED 7629 127.0.0.1:60052\r\n"
        request.owned_since = 3
        assert isinstance(await client.value(*argv(method, request)), bytes)


async def test_a_copy_from_before_the_ring_changed_is_asked_about() -> None:
    door = ServerUnderTest()
    client = door.connect()
    await door.warm(client, "k", b"v")
    door.t.in_s3("k", b"newer")
    door.ownership.update(ring(ME, epoch=2))
    assert (await got(client, b"k")).value == b"newer"


@pytest.mark.parametrize(
    ("sent", "answer"),
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
    ],
)
async def test_what_is_no_call_is_refused(sent: list[bytes], answer: str) -> None:
    door = ServerUnderTest()
    refusal = parsed(door.connect().now(b"MILENA.CALL", *sent))
    assert isinstance(refusal, hiredis.ReplyError)
    assert str(refusal).startswith(answer)


async def test_calls_wait_for_nobody_on_a_connection_that_defers() -> None:
    door = ServerUnderTest()
    client = door.connect(resp3=True)
    client.now(b"CLIENT", b"DEFER", b"ON")
    await door.warm(door.connect(), "hot", b"h")
    client.send(
        command(*argv("Get", pb.GetRequest(key=b"cold"))) + command(*argv("Get", pb.GetRequest(key=b"hot")))
    )
    reader = hiredis.Reader()
    reader.feed(await client.answers(3))
    assert str(reader.gets()) == "DEFERRED 1"
    assert pb.GetResponse.FromString(reader.gets()).value == b"h"
    kind, number, answer = reader.gets()
    assert (kind, number) == (b"deferred", 1)
    assert not pb.GetResponse.FromString(answer).successful


async def test_calls_count_for_the_rate_limit() -> None:
    door = ServerUnderTest({"RATE_LIMIT": "2"})
    client = door.connect()
    for _ in range(2):
        await got(client, b"k")
    refusal = parsed(client.now(*argv("Get", pb.GetRequest(key=b"k"))))
    assert str(refusal).startswith("RATELIMIT retry-after-ms=500 ")
    assert isinstance(await client.value(*argv("Invalidate", pb.InvalidateRequest(key=b"k"))), bytes)


async def test_what_a_tracking_client_gets_is_followed() -> None:
    door = ServerUnderTest()
    client, other = door.connect(resp3=True), door.connect()
    await client.value(b"CLIENT", b"TRACKING", b"ON")
    for _ in range(2):  # a miss, and a hit
        assert not (await got(client, b"k")).successful
        await client.idle()
        client.take()
        await other.value(b"SET", b"k", b"v")
        await other.value(b"DEL", b"k")
        assert parsed(await client.answers(1)) == [b"invalidate", [b"k"]]
        await other.value(b"GET", b"k")


async def test_a_change_while_a_call_waits_is_told_behind_its_answer() -> None:
    door = ServerUnderTest()
    client, other = door.connect(resp3=True), door.connect()
    await client.value(b"CLIENT", b"TRACKING", b"ON")
    door.t.in_s3("k", b"old")
    door.t.store.read_gate.clear()
    client.send(command(*argv("Get", pb.GetRequest(key=b"k"))))
    await client.idle()
    assert await other.value(b"SET", b"k", b"new") == b"OK"
    await client.idle()
    door.t.store.read_gate.set()
    await client.idle()
    reader = hiredis.Reader()
    reader.feed(await client.answers(3))
    said = [reader.gets(), reader.gets(), reader.gets()]
    assert isinstance(said[1], bytes)
    assert said[0] == said[2] == [b"invalidate", [b"k"]]
