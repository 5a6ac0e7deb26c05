"""Commands on keys."""

from __future__ import annotations

import hiredis
import pytest

from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, parsed, ring

OTHER = "127.0.0.1:60051"


async def test_whether_a_key_exists_is_checked_without_its_value() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.t.in_s3("k", bytes(1000))
    for argv, reply in (
        ([b"EXISTS", b"k", b"l", b"k"], 2),
        ([b"TOUCH", b"k", b"l"], 1),
        ([b"TYPE", b"k"], b"string"),
        ([b"TYPE", b"l"], b"none"),
        ([b"STRLEN", b"k"], 1000),
        ([b"TTL", b"l"], -2),
        ([b"OBJECT", b"IDLETIME", b"k"], 0),
        ([b"OBJECT", b"IDLETIME", b"l"], None),
    ):
        assert await client.value(*argv) == reply
    assert {operation for operation, _ in server.t.store.calls} == {"head"}


async def test_del_counts_what_existed_each_key_once() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for key in ("cold", "hot", "other"):
        server.t.in_s3(key, b"v")
    await client.value(b"GET", b"hot")
    assert await client.value(b"DEL", b"cold", b"hot", b"absent", b"hot") == 2
    assert await client.value(b"UNLINK", b"other", b"cold") == 1
    assert server.t.store.objects == {}


async def test_del_removes_what_the_node_believes_to_be_absent() -> None:
    server = ServerUnderTest()
    client = server.connect()
    assert await client.value(b"GET", b"k") is None
    server.t.in_s3("k", b"written elsewhere")
    assert await client.value(b"DEL", b"k") == 0
    assert server.t.s3_has("k") is None


async def test_a_key_may_be_spelled_in_two_ways() -> None:
    server = ServerUnderTest()
    client = server.connect()
    assert await client.value(b"SET", b"s3://bucket/k", b"v") == b"OK"
    assert await client.value(b"GET", b"k") == b"v"
    assert await client.value(b"DEL", b"k", b"s3://default/k") == 1
    reply = await client.value(b"GET", b"s3://other-bucket/k")
    assert str(reply).startswith("NOPERM bucket: 'other-bucket' is not served here")


async def test_dbsize_counts_what_the_node_holds() -> None:
    server = ServerUnderTest(mode="memory", delay=100)
    await server.t.start()
    client = server.connect()
    assert client.now(b"DBSIZE") == b":0\r\n"
    await server.warm(client, "k", b"v")
    await client.value(b"SET", b"l", b"v")
    assert client.now(b"DBSIZE") == b":2\r\n"
    await server.t.stop()


async def test_randomkey_is_a_key_that_exists() -> None:
    server = ServerUnderTest(mode="memory", delay=100)
    await server.t.start()
    client = server.connect()
    assert client.now(b"RANDOMKEY") == b"$-1\r\n"
    await client.value(b"GET", b"absent")
    await client.value(b"SET", b"deleted", b"v")
    await client.value(b"DEL", b"deleted")
    await client.value(b"SET", b"ended", b"v", b"PX", b"10")
    server.t.clock.tick(1)
    assert client.now(b"RANDOMKEY") == b"$-1\r\n"
    for number in range(3):
        await server.warm(client, f"k{number}", b"v")
    found = set()
    for _ in range(50):
        server.t.clock.tick(0.000_001)
        found.add(parsed(client.now(b"RANDOMKEY")))
    assert found == {b"k0", b"k1", b"k2"}
    await client.value(b"SET", b"l", b"v")
    assert parsed(client.now(b"RANDOMKEY")) == b"l"
    await server.t.stop()


async def test_randomkey_is_one_of_the_node_s_own() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for number in range(20):
        await server.warm(client, f"k{number}", b"v")
    server.ownership.update(ring(OTHER, epoch=2))
    assert client.now(b"RANDOMKEY") == b"$-1\r\n"
    server.ownership.update(ring(ME, epoch=3))
    assert client.now(b"RANDOMKEY") != b"$-1\r\n"


async def test_randomkey_does_not_keep_a_copy_from_being_evicted() -> None:
    server = ServerUnderTest(max_entries=2)
    client = server.connect()
    await server.warm(client, "old", b"v")
    await server.warm(client, "new", b"v")
    while parsed(client.now(b"RANDOMKEY")) != b"old":
        server.t.clock.tick(0.000_001)
    await server.warm(client, "newer", b"v")
    assert b"old" not in server.t.memory


@pytest.mark.parametrize("word", [b"FREQ", b"IDLETIME", b"ENCODING"])
async def test_a_query_about_a_key_waits_for_a_write_of_it(word: bytes) -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    client.send(command(b"SET", b"k", b"v") + command(b"OBJECT", word, b"k"))
    reader = hiredis.Reader()
    reader.feed(await client.replies(2))
    assert reader.gets() == b"OK"
    assert reader.gets() is not None
    await server.t.stop()


async def test_every_command_redirects_keys_of_other_nodes() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.ownership.update(ring(OTHER, epoch=2))
    for line in (
        "GET k",
        "MGET k",
        "GETEX k",
        "GETEX k PERSIST",
        "GETDEL k",
        "STRLEN k",
        "GETRANGE k 0 1",
        "SET k v",
        "SET k v NX",
        "MSET k v",
        "DEL k",
        "UNLINK k",
        "EXISTS k",
        "TOUCH k",
        "TYPE k",
        "TTL k",
        "EXPIRE k 10",
        "PERSIST k",
        "OBJECT ENCODING k",
    ):
        assert client.now(*line.encode().split()) == b"-MOVED 7629 127.0.0.1:60052\r\n", line
    assert server.t.store.calls == []


@pytest.mark.parametrize("argv", [[b"DEL", b"k"], [b"UNLINK", b"l", b"k"]])
async def test_a_write_behind_a_delete_comes_after_it(argv: list[bytes]) -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.in_s3("k", b"old")
    client.send(command(*argv) + command(b"SET", b"k", b"new") + command(b"GET", b"k"))
    assert await client.replies(3) == b":1\r\n+OK\r\n$3\r\nnew\r\n"
    await server.t.stop()
