"""Commands that make a value of what it was: nothing comes in between, and several keys change as one."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.api.durability import DURABILITIES, Durability
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring
from tests.support.fake_clock import run_ready_tasks

CLASSES = pytest.mark.parametrize("durability", DURABILITIES)


async def started(durability: Durability = "back") -> ServerUnderTest:
    server = ServerUnderTest(mode=durability)
    await server.t.start()
    return server


@CLASSES
async def test_of_the_increments_of_many_connections_none_is_lost(durability: Durability) -> None:
    server = await started(durability)
    server.t.in_s3("k", b"7")
    clients = [server.connect() for _ in range(5)]
    for _ in range(4):
        for client in clients:
            client.send(command(b"INCR", b"k"))
    replies = [int(each[1:]) for client in clients for each in (await client.replies(4)).split()]
    assert sorted(replies) == list(range(8, 28))
    await server.t.flush()
    assert server.t.s3_has("k") == b"27"
    await server.t.stop()


@CLASSES
async def test_increments_and_plain_writes_of_a_connection_take_effect_in_their_order(
    durability: Durability,
) -> None:
    server = await started(durability)
    client = server.connect()
    client.send(
        command(b"SET", b"k", b"5")
        + command(b"INCR", b"k")
        + command(b"SET", b"k", b"20")
        + command(b"INCRBY", b"k", b"2")
        + command(b"GET", b"k")
    )
    assert await client.replies(5) == b"+OK\r\n:6\r\n+OK\r\n:22\r\n$2\r\n22\r\n"
    await server.t.stop()


async def test_what_another_program_has_put_into_s3_is_not_lost() -> None:
    server = await started("through")
    client = server.connect()
    await server.warm(client, "k", b"5")
    server.t.in_s3("k", b"9")
    assert await client.request(b"INCR", b"k") == b":10\r\n"
    assert server.t.s3_has("k") == b"10"
    await server.t.stop()


@pytest.mark.parametrize("durability", ["back", "memory"])
async def test_several_keys_are_written_by_one_commit_or_not_at_all(durability: Durability) -> None:
    server = await started(durability)
    client = server.connect()
    assert await client.value(b"MSETNX", b"a", b"1", b"b", b"2") == 1
    assert await client.value(b"MSETNX", b"b", b"3", b"c", b"4") == 0
    assert await client.value(b"MGET", b"a", b"b", b"c") == [b"1", b"2", None]
    assert await client.request(b"RENAME", b"a", b"c") == b"+OK\r\n"
    assert await client.value(b"MGET", b"a", b"b", b"c") == [None, b"2", b"1"]
    await server.t.flush()
    assert [server.t.s3_has(key) for key in ("a", "b", "c")] == [None, b"2", b"1"]
    await server.t.stop()


async def test_through_s3_several_keys_are_not_written_together() -> None:
    server = await started("through")
    client = server.connect()
    assert (await client.request(b"MSETNX", b"a", b"1", b"b", b"2")).startswith(b"-PRECONDITION several keys")
    assert await client.value(b"EXISTS", b"a", b"b") == 0
    assert await client.value(b"MSETNX", b"a", b"1") == 1
    assert await client.value(b"COPY", b"a", b"b") == 1
    await server.t.stop()


async def test_readers_see_all_keys_changed_or_none() -> None:
    server = await started("back")
    client, reader = server.connect(), server.connect()
    await client.request(b"SET", b"a", b"1")
    assert await reader.value(b"GET", b"b") is None
    client.send(command(b"RENAME", b"a", b"b"))
    seen = set()
    for _ in range(30):
        seen.add(reader.now(b"EXISTS", b"a", b"b"))
        await asyncio.sleep(0)
    await run_ready_tasks()
    assert await client.replies(1) == b"+OK\r\n"
    assert seen == {b":1\r\n"}
    await server.t.stop()


async def test_keys_of_several_slots_are_rejected_in_a_ring_of_several_nodes() -> None:
    server = await started("memory")
    client = server.connect()
    server.ownership.update(ring(ME, "10.0.0.2:50051", epoch=2))
    mine = [f"k{number}".encode() for number in range(200) if slot_of(b"k%d" % number) < 8192]
    assert (
        await client.request(b"RENAME", *mine[:2]) == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
    )
    client.session.deferring = True
    assert await client.request(b"COPY", *mine[:2]) == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
    await server.t.stop()


async def test_a_key_may_be_named_with_its_bucket() -> None:
    server = await started("memory")
    client = server.connect()
    assert await client.value(b"SETNX", b"k", b"1") == 1
    assert await client.value(b"INCR", b"s3://bucket/k") == 2
    assert await client.value(b"COPY", b"k", b"s3://bucket/l") == 1
    assert await client.value(b"GET", b"l") == b"2"
    await server.t.stop()


async def test_a_value_over_the_limit_is_rejected() -> None:
    server = await started("memory")
    client = server.connect()
    too_long = b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
    await client.request(b"SET", b"k", b"x" * 999_999)
    assert await client.request(b"APPEND", b"k", b"xx") == too_long
    assert await client.request(b"SETRANGE", b"k", b"999999", b"xx") == too_long
    assert await client.value(b"STRLEN", b"k") == 999_999
    await server.t.stop()


async def test_fields_of_bits() -> None:
    server = ServerUnderTest()
    await server.t.start()
    client = server.connect()
    for line, reply in (
        (b"SET u8 0 200 INCRBY u8 0 100 GET u4 4", [0, 44, 12]),
        (b"OVERFLOW SAT INCRBY u8 0 300 INCRBY u8 0 -900", [255, 0]),
        (b"OVERFLOW FAIL INCRBY i8 0 127 INCRBY i8 0 1 GET i8 0", [127, None, 127]),
        (b"SET i5 #3 -5 GET i5 15 GET u5 #3 GET u1 999", [0, -5, 27, 0]),
        (b"", []),
    ):
        assert await client.value(b"BITFIELD", b"a", *line.split()) == reply, line
    assert await client.value(b"STRLEN", b"a") == 3
    # The lowest numbers that a field of less than 64 bits can be set to are the highest for Redis.
    for number, reply in ((-(2**63), 15), (15 - 2**63, 15), (16 - 2**63, -16)):
        await client.value(b"BITFIELD", b"a", b"OVERFLOW", b"SAT", b"SET", b"i5", b"0", b"%d" % number)
        assert await client.value(b"BITFIELD", b"a", b"GET", b"i5", b"0") == [reply], number
    assert await client.value(b"BITFIELD", b"none", b"GET", b"u8", b"0") == [0]
    assert await client.value(b"EXISTS", b"none") == 0
    for line, said in (
        (b"GET u64 0", "Invalid bitfield type"),
        (b"GET u8 -1", "bit offset is not an integer"),
        (b"OVERFLOW BAD", "Invalid OVERFLOW type"),
        (b"GET u8", "syntax error"),
        (b"SET u8 9000000 1", "string exceeds maximum allowed size"),
    ):
        assert said in str(await client.value(b"BITFIELD", b"a", *line.split())), line
    await server.t.stop()


@pytest.mark.parametrize(
    ("sent", "writes"),
    [
        ("BITFIELD a INCRBY u1 2 0", False),
        ("BITFIELD a SET u8 0 120", False),
        ("BITFIELD a OVERFLOW FAIL SET u4 0 16", False),
        ("BITFIELD a SET u8 0 1 SET u8 0 120", True),
        ("BITFIELD a SET u8 0 1", True),
        ("BITFIELD a SET u8 8 0", True),
        ("SETBIT a 1 1", False),
        ("SETBIT a 0 1", True),
    ],
)
async def test_bits_that_do_not_change_fail_no_transaction_that_watches_them(sent: str, writes: bool) -> None:
    server = await started()
    client, other = server.connect(), server.connect()
    await client.request(b"SET", b"a", b"x")
    await client.request(b"WATCH", b"a")
    await other.request(*sent.encode().split())
    await client.request(b"MULTI")
    assert (await client.value(b"EXEC") is None) is writes
    await server.t.stop()
