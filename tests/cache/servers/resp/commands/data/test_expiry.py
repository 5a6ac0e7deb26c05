"""Ends of objects, as commands set and return them."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.object_store import Ref
from milena_common.cluster.slots import slot_of
from tests.cache.node_under_test import BUCKET
from tests.cache.servers.resp.server_under_test import ServerUnderTest
from tests.support.s3.memory_store import metadata_of

assert slot_of(b"k") == 7629  # what MOVED says in the tests beside


def end_in_s3(server: ServerUnderTest, key: str) -> str:
    return metadata_of(server.t.store.objects[Ref(BUCKET, key)]).get("milena-expires", "")


@pytest.mark.parametrize("mode", ["back", "through", "memory"])
async def test_an_end_is_the_object_s_own_and_is_kept_in_s3(mode: str) -> None:
    server = ServerUnderTest(mode=mode)
    await server.t.start()
    client = server.connect()
    now_ms = round(server.t.clock.wall() * 1000)
    assert await client.value(b"SET", b"k", b"v", b"PX", b"1500") == b"OK"
    assert await client.value(b"SET", b"l", b"v") == b"OK"
    assert await client.value(b"EXPIRE", b"l", b"10") == 1
    await server.t.clock.advance(0)
    flushing = asyncio.ensure_future(server.t.flush())
    await server.t.clock.advance(0.5)
    await flushing
    assert end_in_s3(server, "k") == str(now_ms + 1500)
    assert end_in_s3(server, "l") == str(now_ms + 10_000)
    assert await client.value(b"PTTL", b"k") == 1000
    assert await client.value(b"TTL", b"l") == 10
    await server.t.clock.advance(1)
    assert await client.value(b"GET", b"k") is None
    assert await client.value(b"PTTL", b"k") == -2
    assert await client.value(b"EXISTS", b"k", b"l") == 1
    assert await client.value(b"SET", b"k", b"w", b"NX") == b"OK"
    await server.t.stop()


async def test_an_end_holds_for_a_node_that_has_never_seen_the_object() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await client.value(b"SET", b"k", b"v", b"EX", b"100")
    other = ServerUnderTest(store=server.t.store, clock=server.t.clock).connect()
    assert await other.value(b"TTL", b"k") == 100
    server.t.clock.tick(50)
    assert await other.value(b"TTL", b"k") == 50
    server.t.clock.tick(50)
    assert await other.value(b"TTL", b"k") == -2
    assert await other.value(b"MGET", b"k") == [None]


async def test_the_remaining_time_is_rounded_as_redis_does() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await client.value(b"SET", b"k", b"v", b"PX", b"2000")
    server.t.clock.tick(0.6)
    assert client.now(b"TTL", b"k") == b":1\r\n"
    server.t.clock.tick(1.0)
    assert client.now(b"TTL", b"k") == b":0\r\n"
    assert client.now(b"PTTL", b"k") == b":400\r\n"


async def test_of_many_that_set_an_end_if_there_is_none_one_succeeds() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    clients = [server.connect() for _ in range(8)]
    await clients[0].value(b"SET", b"k", b"v")
    replies = await asyncio.gather(
        *(each.value(b"EXPIRE", b"k", b"%d" % (100 + n), b"NX") for n, each in enumerate(clients))
    )
    assert sorted(replies) == [0] * 7 + [1]
    assert await clients[0].value(b"TTL", b"k") == 100 + replies.index(1)
    await server.t.stop()


async def test_a_new_expiry_does_not_change_the_value() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.in_s3("k", b"from S3")
    assert await client.value(b"EXPIRE", b"k", b"100") == 1
    assert await client.value(b"GETEX", b"k", b"EX", b"200") == b"from S3"
    assert await client.value(b"TTL", b"k") == 200
    assert await client.value(b"PERSIST", b"k") == 1
    assert await client.value(b"GET", b"k") == b"from S3"
    await server.t.stop()


@pytest.mark.parametrize(
    "argv",
    [
        [b"SET", b"k", b"w", b"EXAT", b"1"],
        [b"SET", b"k", b"w", b"XX", b"EXAT", b"1"],
        [b"GETEX", b"k", b"EXAT", b"1"],
        [b"EXPIRE", b"k", b"-1"],
    ],
)
async def test_an_end_that_has_been_removes_the_object(argv: list[bytes]) -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.t.in_s3("k", b"v")
    assert await client.value(*argv) in (b"OK", b"v", 1)
    assert server.t.s3_has("k") is None
