"""SLOWLOG, LATENCY, MEMORY and CONFIG: what an operator looks at with redis-cli."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.objects.entry import ENTRY_OVERHEAD
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring

FAILED = b"-ERR CONFIG SET failed (possibly related to argument '%b') - %b\r\n"


async def slow(server: ServerUnderTest, client: WireClient, seconds: float) -> None:
    """Have a command take so long."""
    client.send(b"DEBUG SLEEP %g\r\n" % seconds)
    await server.t.clock.advance(seconds)


async def test_the_slow_log() -> None:
    server = ServerUnderTest()
    client = server.connect()
    client.now(b"CLIENT", b"SETNAME", b"me")
    await slow(server, client, 0.005)
    await slow(server, client, 0.5)
    await slow(server, client, 2)
    entries = await client.value(b"SLOWLOG", b"GET")
    assert entries == [
        [1, 1_700_000_000, 2_000_000, [b"DEBUG", b"SLEEP", b"2"], b"127.0.0.1:40000", b"me"],
        [0, 1_700_000_000, 500_000, [b"DEBUG", b"SLEEP", b"0.5"], b"127.0.0.1:40000", b"me"],
    ]
    assert await client.value(b"SLOWLOG", b"LEN") == 2
    assert await client.value(b"SLOWLOG", b"GET", b"1") == entries[:1]
    assert await client.value(b"SLOWLOG", b"GET", b"-1") == entries
    assert client.now(b"SLOWLOG", b"RESET") == b"+OK\r\n"
    assert await client.value(b"SLOWLOG", b"GET") == []


async def test_the_slow_log_is_bounded_in_entries_arguments_and_bytes() -> None:
    server = ServerUnderTest()
    client = server.connect()
    client.now(b"CONFIG", b"SET", b"slowlog-log-slower-than", b"0", b"slowlog-max-len", b"2")
    client.now(b"NOSUCH", *(b"%d" % number for number in range(40)))
    client.now(b"ECHO", b"x" * 200)
    client.now(b"PING")
    entries = await client.value(b"SLOWLOG", b"GET")
    assert [entry[3][0] for entry in entries] == [b"PING", b"ECHO"]
    assert entries[1][3][1] == b"x" * 128 + b"... (72 more bytes)"
    client.now(b"CONFIG", b"SET", b"slowlog-max-len", b"1")
    assert await client.value(b"SLOWLOG", b"LEN") == 1
    client.now(b"NOSUCH", *(b"%d" % number for number in range(40)))
    (argv,) = [entry[3] for entry in await client.value(b"SLOWLOG", b"GET")]
    assert len(argv) == 32
    assert argv[-1] == b"... (10 more arguments)"
    client.now(b"CONFIG", b"SET", b"slowlog-log-slower-than", b"-1")
    client.now(b"SLOWLOG", b"RESET")
    await slow(server, client, 5)
    assert await client.value(b"SLOWLOG", b"LEN") == 0


async def test_latency() -> None:
    server = ServerUnderTest()
    client = server.connect()
    assert b"disabled" in await client.value(b"LATENCY", b"DOCTOR")
    await slow(server, client, 3)
    assert await client.value(b"LATENCY", b"LATEST") == []
    client.now(b"CONFIG", b"SET", b"latency-monitor-threshold", b"100")
    assert b"No command took 100 ms" in await client.value(b"LATENCY", b"DOCTOR")
    await slow(server, client, 0.2)
    await slow(server, client, 0.3)
    await slow(server, client, 0.05)
    await slow(server, client, 1)
    assert await client.value(b"LATENCY", b"HISTORY", b"command") == [[1_700_000_003, 300], [1_700_000_004, 1000]]
    assert await client.value(b"LATENCY", b"LATEST") == [[b"command", 1_700_000_004, 1000, 1000]]
    assert await client.value(b"LATENCY", b"HISTORY", b"fork") == []
    assert b"650 ms on average, 1000 ms at most" in await client.value(b"LATENCY", b"DOCTOR")
    assert (await client.value(b"LATENCY", b"GRAPH", b"command")).count(b"#") == 15 + 50
    assert await client.value(b"LATENCY", b"RESET", b"fork") == 0
    assert await client.value(b"LATENCY", b"RESET") == 1
    assert client.now(b"LATENCY", b"GRAPH", b"command") == b"-ERR No samples available for event 'command'\r\n"


@pytest.mark.parametrize(
    ("argv", "reply"),
    [
        (b"SLOWLOG GET x", b"-ERR count should be greater than or equal to -1\r\n"),
        (b"SLOWLOG GET -2", b"-ERR count should be greater than or equal to -1\r\n"),
        (
            b"SLOWLOG GET 1 2",
            b"-ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG HELP.\r\n",
        ),
        (b"CONFIG SET a", b"-ERR wrong number of arguments for 'config|set' command\r\n"),
        (b"CONFIG SET nosuch 1", b"-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'\r\n"),
        (b"CONFIG SET slowlog-max-len 5 x", b"-ERR syntax error\r\n"),
        (b"CONFIG SET maxmemory 1", FAILED % (b"maxmemory", b"can't set immutable config")),
        (
            b"CONFIG SET slowlog-max-len x",
            FAILED % (b"slowlog-max-len", b"argument couldn't be parsed into an integer"),
        ),
        (
            b"CONFIG SET latency-monitor-threshold -1",
            FAILED
            % (b"latency-monitor-threshold", b"argument must be between 0 and 9223372036854775807 inclusive"),
        ),
        (
            b"CONFIG SET slowlog-max-len 5 slowlog-max-len 6",
            FAILED % (b"slowlog-max-len", b"duplicate parameter"),
        ),
        (b"CONFIG REWRITE", b"-ERR The server is running without a config file\r\n"),
        (b"CONFIG GET nosuch", b"*0\r\n"),
        (b"MEMORY USAGE nosuch", b"$-1\r\n"),
        (b"MEMORY USAGE nosuch SAMPLES x", b"-ERR value is not an integer or out of range\r\n"),
        (b"MEMORY USAGE nosuch SAMPLES -1", b"-ERR syntax error\r\n"),
        (b"MEMORY USAGE nosuch x 1", b"-ERR syntax error\r\n"),
        (b"MEMORY PURGE", b"+OK\r\n"),
    ],
)
async def test_replies_are_those_of_redis(argv: bytes, reply: bytes) -> None:
    assert ServerUnderTest().connect().now(*argv.split()) == reply


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def test_settings() -> None:
    server = ServerUnderTest({"RESP_ADDR": "127.0.0.1:7000", "RESP_IDLE_SECONDS": "30"})
    client = server.connect()
    settings = pairs(await client.value(b"CONFIG", b"GET", b"*max*", b"TIMEOUT", b"port", b"save"))
    assert settings == {
        b"maxclients": b"10000",
        b"maxmemory": str(server.t.memory.max_bytes).encode(),
        b"maxmemory-policy": b"allkeys-lru",
        b"port": b"7000",
        b"proto-max-bulk-len": b"1000000",
        b"save": b"",
        b"slowlog-max-len": b"128",
        b"timeout": b"30",
        b"tracking-table-max-keys": b"1000000",
    }
    assert len(await client.value(b"CONFIG", b"GET", b"*")) > len(settings)
    assert client.now(b"CONFIG", b"SET", b"slowlog-max-len", b"7", b"slowlog-log-slower-than", b"x").startswith(
        b"-ERR"
    )
    assert pairs(await client.value(b"CONFIG", b"GET", b"slowlog-max-len")) == {b"slowlog-max-len": b"128"}
    client.now(b"HELLO", b"3")
    assert client.now(b"CONFIG", b"GET", b"databases") == b"%1\r\n$9\r\ndatabases\r\n$1\r\n1\r\n"


async def test_memory() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    await server.warm(client, "key", b"value")
    assert await client.value(b"MEMORY", b"USAGE", b"key") == 3 + 5 + ENTRY_OVERHEAD
    await client.value(b"SET", b"dirty", b"value")
    assert await client.value(b"MEMORY", b"USAGE", b"dirty", b"SAMPLES", b"5") == server.t.dirty.bytes
    stats = pairs(await client.value(b"MEMORY", b"STATS"))
    assert stats[b"keys.count"] == 2
    assert stats[b"dataset.bytes"] == server.t.memory.bytes + server.t.dirty.memory_bytes
    assert await client.value(b"MEMORY", b"DOCTOR") == b"No problems found.\n"
    server.ownership.update(ring("127.0.0.1:1", ME, epoch=2))
    assert client.now(b"MEMORY", b"USAGE", b"{0}").startswith((b"-MOVED", b"$-1"))
    await server.t.stop()


async def test_the_doctor_says_that_memory_is_full() -> None:
    server = ServerUnderTest(max_entries=2)
    client = server.connect()
    for key in ("a", "b", "c"):
        await server.warm(client, key, b"value")
    assert b"Memory is full: 2 entries of 2 (LRU_SIZE)" in await client.value(b"MEMORY", b"DOCTOR")
    assert b"1 entries were evicted" in await client.value(b"MEMORY", b"DOCTOR")
