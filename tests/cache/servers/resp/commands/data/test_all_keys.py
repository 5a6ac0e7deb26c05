"""KEYS and FLUSHDB: every key of this node, in S3 or dirty; rejected, or of copies, or of objects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from tests.cache.node_under_test import BUCKET
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, parsed, ring

OTHER = "127.0.0.1:60000"


async def test_keys_are_those_in_s3_and_those_that_are_dirty() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for key in ("a/1", "a/2", "b/1"):
        server.t.in_s3(key, b"v")
    await client.request(b"SET", b"a/dirty", b"v")
    await client.request(b"DEL", b"a/2")
    assert sorted(parsed(await client.request(b"KEYS", b"a/*"))) == [b"a/1", b"a/dirty"]
    assert sorted(parsed(await client.request(b"KEYS", b"*"))) == [b"a/1", b"a/dirty", b"b/1"]
    assert parsed(await client.request(b"KEYS", b"none*")) == []


async def test_keys_of_other_nodes_are_left_out_for_clients_that_know_them() -> None:
    server = ServerUnderTest()
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        server.t.in_s3(key, b"v")
    server.ownership.update(ring(ME, OTHER, epoch=2))
    mine = [key.encode() for key in keys if slot_of(key.encode()) < 8192]
    assert sorted(parsed(await server.connect().request(b"KEYS", b"*"))) == sorted(mine)


async def test_flushdb_is_rejected_unless_it_is_allowed() -> None:
    server = ServerUnderTest()
    server.t.in_s3("a", b"v")
    client = server.connect()
    for line in (b"FLUSHDB", b"FLUSHALL", b"FLUSHDB ASYNC"):
        assert client.now(*line.split()).startswith(b"-ERR FLUSH")
    assert client.now(b"FLUSHDB", b"X") == b"-ERR syntax error\r\n"
    assert await client.value(b"GET", b"a") == b"v"


async def test_flushdb_of_the_cache_drops_copies_only() -> None:
    server = ServerUnderTest({"ALLOW_FLUSH": "cache"})
    client = server.connect()
    await server.warm(client, "a", b"v")
    assert len(server.t.memory) == 1
    assert await client.request(b"FLUSHDB") == b"+OK\r\n"
    assert len(server.t.memory) == 0
    assert await client.value(b"GET", b"a") == b"v"


@pytest.mark.parametrize("name", [b"FLUSHDB", b"FLUSHALL"])
async def test_flushdb_of_objects_deletes_them_and_what_is_sent_behind_it_stays(name: bytes) -> None:
    server = ServerUnderTest({"ALLOW_FLUSH": "objects"})
    for number in range(5):
        server.t.in_s3(f"k{number}", b"v")
    client = server.connect()
    await client.request(b"SET", b"dirty", b"v")
    client.send(command(name) + command(b"SET", b"k1", b"new") + command(b"GET", b"k1"))
    assert await client.replies(3) == b"+OK\r\n+OK\r\n$3\r\nnew\r\n"
    assert parsed(await client.request(b"KEYS", b"*")) == [b"k1"]
    assert server.context.flushed == 6


@pytest.mark.parametrize("owners", [(ME, OTHER), (OTHER, ME)])
@pytest.mark.parametrize("name", [b"FLUSHDB", b"KEYS *", b"SCAN 0"])
async def test_what_is_about_all_nodes_fails_if_a_slot_gets_another_owner_meanwhile(
    owners: tuple[str, ...], name: bytes
) -> None:
    server = ServerUnderTest({"ALLOW_FLUSH": "objects"})
    server.ownership.update(ring(ME, OTHER, epoch=2))
    sent_to: list[str] = []

    class Others:
        async def request(self, address: str, sent: bytes, timeout: float) -> Any:
            sent_to.append(address)
            # Another epoch alone, as of new holders of copies, changes nothing of which node has which key.
            later = ring(*owners, epoch=3)
            same = owners == (ME, OTHER)
            ranges = ring(*owners, epoch=2).ranges if same else later.ranges
            server.ownership.update(SlotMap(3, BUCKET, later.nodes, ranges))
            return b"OK" if b"FLUSHDB" in sent else [b"0", [b"theirs"]] if b"SCAN" in sent else [b"theirs"]

    server.context.other_nodes._links = Others()
    client = server.connect()
    client.session.spans = True

    async def replied(*argv: bytes) -> Any:
        reply = asyncio.create_task(client.request(*argv))
        while not reply.done():
            await server.t.clock.advance(1.0)
        return parsed(await reply)

    reply = await replied(*name.split())
    if name == b"SCAN 0":
        reply = await replied(b"SCAN", reply[0])
    rejected = str(reply).startswith("TRYAGAIN")
    if owners == (ME, OTHER):
        assert not rejected
        assert len(sent_to) == 1
    else:
        # It is tried once more, when the slots have changed or the time is over.
        assert rejected or len(sent_to) == 2


def test_wait_returns_how_many_other_journals_have_what_was_acknowledged() -> None:
    server = ServerUnderTest({"COPIES": "2"})
    client = server.connect()
    assert client.now(b"WAIT", b"1", b"10") == b":0\r\n", "there is no other node"
    server.ownership.update(ring(ME, OTHER, epoch=2))
    assert client.now(b"WAIT", b"1", b"10") == b":1\r\n"
    assert client.now(b"WAITAOF", b"1", b"1", b"10") == b"*2\r\n:1\r\n:1\r\n"
    assert client.now(b"WAIT", b"x", b"10") == b"-ERR value is not an integer or out of range\r\n"
    assert client.now(b"WAIT", b"1", b"-1") == b"-ERR timeout is negative\r\n"
    lossy = ServerUnderTest({"COPIES": "2", "WRITE_MODE": "memory"})
    assert lossy.connect().now(b"WAITAOF", b"1", b"1", b"10") == b"*2\r\n:0\r\n:0\r\n"


async def test_a_router_has_commands_on_all_keys_carried_out_for_its_clients() -> None:
    server = ServerUnderTest()
    await server.t.start()
    client = server.connect()
    assert str(await client.value(b"MILENA.ALL", b"KEYS", b"*")).startswith("NOPERM only nodes")
    client.session.identified, client.session.forwards = True, False
    await client.value(b"SET", b"a", b"1")
    assert await client.value(b"MILENA.ALL", b"KEYS", b"*") == [b"a"]
    assert await client.value(b"MILENA.ALL", b"SCAN", b"0") == [b"0", [b"a"]]
    assert await client.value(b"MILENA.ALL", b"DBSIZE") == 1
    assert await client.value(b"MILENA.ALL", b"RANDOMKEY") == b"a"
    assert "FLUSHALL is not allowed: ALLOW_FLUSH" in str(await client.value(b"MILENA.ALL", b"FLUSHALL"))
    assert "unknown command 'GET'" in str(await client.value(b"MILENA.ALL", b"GET", b"a"))
    assert "wrong number of arguments for 'keys'" in str(await client.value(b"MILENA.ALL", b"KEYS"))
    await server.t.stop()
