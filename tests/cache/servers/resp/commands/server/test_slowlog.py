"""SLOWLOG: its bounds, and that a long one delays no connection. (tests/e2e compares its form with Redis.)"""

from __future__ import annotations

import asyncio

from milena_cache.servers.resp.commands.server.slowlog import ENCODED_AT_ONCE
from milena_cache.servers.resp.statistics.slow_log import MAX_BYTES, MAX_ENTRIES, MAX_LOG_BYTES, SlowLog
from tests.cache.servers.resp.server_under_test import ServerUnderTest, parsed


def filled(log: SlowLog, number: int, word: bytes = b"w", name: str = "") -> None:
    for each in range(number):
        log.add(float(each), 1.0, [b"GET", word], "10.0.0.1:5000", name)


def test_the_newest_are_kept() -> None:
    log = SlowLog(max_len=3)
    filled(log, 5)
    assert [entry.id for entry in log.newest(-1)] == [4, 3, 2]
    assert [entry.id for entry in log.newest(2)] == [4, 3]
    log.resize(1)
    assert [entry.id for entry in log.newest(-1)] == [4]
    log.resize(2)
    filled(log, 1)
    assert [entry.id for entry in log.newest(-1)] == [5, 4]
    log.clear()
    assert (len(log), log.bytes) == (0, 0)


def test_the_log_is_bounded_in_bytes_too() -> None:
    log = SlowLog(max_len=MAX_ENTRIES)
    filled(log, 5 * MAX_ENTRIES, b"x" * 10_000, "n" * 10_000)
    assert log.bytes <= MAX_LOG_BYTES
    assert log.bytes == sum(
        sum(map(len, entry.argv)) + len(entry.addr) + len(entry.name) for entry in log.newest(-1)
    )
    assert {len(entry.name) for entry in log.newest(-1)} == {MAX_BYTES}
    assert log.newest(1)[0].id == 5 * MAX_ENTRIES - 1


async def test_a_greater_length_is_rejected() -> None:
    server = ServerUnderTest()
    client = server.connect()
    too_many = b"%d" % (MAX_ENTRIES + 1)
    reply = str(await client.value(b"CONFIG", b"SET", b"slowlog-max-len", too_many))
    assert f"between 0 and {MAX_ENTRIES}" in reply
    assert await client.value(b"CONFIG", b"SET", b"slowlog-max-len", b"%d" % MAX_ENTRIES) == b"OK"
    assert await client.value(b"CONFIG", b"GET", b"slowlog-max-len") == [b"slowlog-max-len", b"%d" % MAX_ENTRIES]


async def test_other_tasks_run_while_a_long_log_is_returned() -> None:
    server = ServerUnderTest()
    log = server.context.slow.log
    log.resize(MAX_ENTRIES)
    filled(log, MAX_ENTRIES)
    slow, other = server.connect(), server.connect()
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            assert other.now(b"PING") == b"+PONG\r\n"
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    reply = parsed(await slow.request(b"SLOWLOG", b"GET", b"-1"))
    task.cancel()
    assert [entry[0] for entry in reply] == list(range(MAX_ENTRIES - 1, -1, -1))
    assert reply[0] == [MAX_ENTRIES - 1, MAX_ENTRIES - 1, 1_000_000, [b"GET", b"w"], b"10.0.0.1:5000", b""]
    assert rounds >= MAX_ENTRIES // ENCODED_AT_ONCE


async def test_a_short_and_a_long_reply_have_one_form() -> None:
    server = ServerUnderTest()
    client = server.connect()
    filled(server.context.slow.log, 2 * ENCODED_AT_ONCE)
    long = await client.value(b"SLOWLOG", b"GET", b"%d" % (ENCODED_AT_ONCE + 1))
    short = await client.value(b"SLOWLOG", b"GET", b"%d" % ENCODED_AT_ONCE)
    assert long[:-1] == short
