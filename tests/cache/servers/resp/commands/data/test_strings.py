"""Commands on values: what is in memory gets a reply at once, and what depends on what there is, in one step."""

from __future__ import annotations

import asyncio
import itertools

import hiredis
import pytest

from milena_cache.servers.resp.decisions.strings import part_of
from milena_common.api.durability import Durability
from milena_common.api.etags import etag_of
from milena_common.cluster.slots import slot_of
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, parsed, ring

OTHER = "127.0.0.1:60051"


async def test_hits_of_every_reading_command_get_a_reply_at_once() -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "k", b"0123456789")
    assert await client.value(b"GET", b"absent") is None
    calls = len(server.t.store.calls)
    assert client.now(b"GET", b"k") == b"$10\r\n0123456789\r\n"
    assert client.now(b"GETEX", b"k") == b"$10\r\n0123456789\r\n"
    assert client.now(b"MGET", b"k", b"absent", b"k") == b"*3\r\n$10\r\n0123456789\r\n$-1\r\n$10\r\n0123456789\r\n"
    assert client.now(b"STRLEN", b"k") == b":10\r\n"
    assert client.now(b"GETRANGE", b"k", b"2", b"-2") == b"$7\r\n2345678\r\n"
    assert client.now(b"EXISTS", b"k", b"absent", b"k") == b":2\r\n"
    assert client.now(b"TOUCH", b"k") == b":1\r\n"
    assert client.now(b"TYPE", b"k") == b"+string\r\n"
    assert client.now(b"TTL", b"k") == b":-1\r\n"
    assert client.now(b"OBJECT", b"ENCODING", b"k") == b"$6\r\nembstr\r\n"
    assert len(server.t.store.calls) == calls


def test_a_range_of_positions_covers_what_redis_returns() -> None:
    value = b"012345"
    for size, start, end in itertools.product(range(len(value) + 1), range(-9, 10), range(-9, 10)):
        # Redis's getrangeCommand, in its own steps.
        first = max(0, start + size if start < 0 else start)
        last = min(size - 1, max(0, end + size if end < 0 else end))
        empty = (start < 0 and end < 0 and start > end) or first > last or size == 0
        offset, length = part_of(size, start, end)
        assert value[:size][offset : offset + length] == (b"" if empty else value[first : last + 1])


async def test_a_range_of_a_value_that_is_too_large_to_be_read_whole_is_read_alone() -> None:
    server = ServerUnderTest(max_value_bytes=50)
    client = server.connect()
    value = bytes(range(48, 123))
    server.t.in_s3("k", value)
    assert str(await client.value(b"GET", b"k")).startswith("PRECONDITION ")
    for start, end in ((0, 9), (-10, -1), (70, 200), (5, -60)):
        expected = value[start : end + 1 or None]
        assert await client.value(b"GETRANGE", b"k", b"%d" % start, b"%d" % end) == expected
    assert await client.value(b"GETRANGE", b"k", b"100", b"200") == b""
    assert str(await client.value(b"GETRANGE", b"k", b"0", b"-1")).startswith("PRECONDITION length: ")
    assert await client.value(b"GETRANGE", b"absent", b"0", b"-1") == b""


async def test_a_missing_value_is_null_in_the_protocol_of_the_connection() -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=True)
    assert await client.request(b"MGET", b"k", b"l") == b"*2\r\n_\r\n_\r\n"
    assert await client.request(b"GET", b"k") == b"_\r\n"
    assert await client.request(b"SET", b"k", b"v", b"XX") == b"_\r\n"


async def test_misses_of_one_mget_are_fetched_from_s3_together_and_returned_in_order() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for number in range(5):
        server.t.in_s3(f"k{number}", b"%d" % number)
    await server.warm(client, "hot", b"h")
    server.t.store.gate.clear()
    client.send(command(b"MGET", b"hot", b"k0", b"k1", b"hot", b"k2", b"k3", b"k4", b"k0"))
    await client.idle()
    assert sorted(key for operation, key in server.t.store.calls if operation == "get")[-5:] == [
        "k0",
        "k1",
        "k2",
        "k3",
        "k4",
    ]
    server.t.store.gate.set()
    assert parsed(await client.replies(1)) == [b"h", b"0", b"1", b"h", b"2", b"3", b"4", b"0"]
    assert server.t.node.reads.outcomes["miss"] == 6
    assert server.t.node.reads.outcomes["hit"] == 2


async def test_mget_of_more_keys_than_are_requested_at_once() -> None:
    server = ServerUnderTest(max_entries=1000)
    client = server.connect()
    for number in range(300):
        server.t.in_s3(f"k{number}", b"%d" % number)
    keys = [b"k%d" % number for number in range(300)]
    assert await client.value(b"MGET", *keys) == [b"%d" % number for number in range(300)]


async def test_an_error_of_one_key_is_the_reply_to_mget() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for key in "abc":
        server.t.in_s3(key, bytes(10))
    server.t.in_s3("large", bytes(2 * 10**6))
    reply = await client.value(b"MGET", b"a", b"large", b"b", b"c")
    assert isinstance(reply, hiredis.ReplyError)
    assert str(reply).startswith("PRECONDITION ")
    assert str(await client.value(b"MGET", b"a", b"")).startswith("ERR key: is empty")


async def test_a_reply_of_mget_is_bounded() -> None:
    server = ServerUnderTest({"RESP_OUTPUT_BYTES": "64KiB"}, max_value_bytes=60_000)
    client = server.connect()
    await server.warm(client, "k", bytes(30_000))
    assert parsed(client.now(b"MGET", b"k", b"k")) == [bytes(30_000)] * 2
    for argv in ([b"k"] * 3, [b"absent", *[b"k"] * 3]):
        reply = await client.value(b"MGET", *argv)
        assert str(reply).startswith("ERR the reply has more than 65536 bytes (RESP_OUTPUT_BYTES)")
    server.t.in_s3("l", bytes(30_000))
    server.t.in_s3("m", bytes(30_000))
    assert str(await client.value(b"MGET", b"k", b"l", b"m")).startswith("ERR the reply has more than")


async def test_keys_of_several_slots_are_rejected_unless_one_node_has_all() -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=True)
    mine, also_mine, others = (
        next(b"%s%d" % (name, n) for n in range(99) if (slot_of(b"%s%d" % (name, n)) < 8192) is expected)
        for name, expected in ((b"a", True), (b"b", True), (b"c", False))
    )
    assert await client.value(b"MSET", mine, b"1", others, b"2") == b"OK"
    server.ownership.update(ring(ME, OTHER, epoch=2))
    for argv in ([b"MGET", mine, others], [b"MSET", mine, b"1", others, b"2"], [b"DEL", mine, also_mine]):
        assert str(await client.value(*argv)).startswith("CROSSSLOT ")
    client.now(b"CLIENT", b"DEFER", b"ON")
    assert str(parsed(client.now(b"MGET", mine, others))) == f"MOVED {slot_of(others)} 127.0.0.1:60052"
    await client.value(b"GET", mine)
    assert parsed(client.now(b"GET", also_mine)) is not None


async def test_a_rejected_mset_has_written_nothing() -> None:
    server = ServerUnderTest(max_value_bytes=100)
    client = server.connect()
    for argv in ([b"k", b"v", b"", b"w"], [b"k", b"v", b"l", bytes(101)], [b"k", b"v", b"l"]):
        assert isinstance(await client.value(b"MSET", *argv), hiredis.ReplyError)
    assert server.t.store.objects == {}


async def test_the_writes_of_one_mset_are_begun_together() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(command(b"MSET", *(word for number in range(50) for word in (b"k%d" % number, b"v"))))
    await client.idle()
    server.t.disk.gate.set()
    assert await client.replies(1) == b"+OK\r\n"
    assert server.t.disk.commits <= 3
    await server.t.stop()


async def test_many_keys_are_written_in_parts() -> None:
    server = ServerUnderTest(mode="back", dirty_max_bytes=10**8, dirty_memory_bytes=10**8)
    await server.t.start()
    client = server.connect()
    pairs = [word for number in range(3000) for word in (b"k%d" % number, b"%d" % number)]
    assert await client.value(b"MSET", *pairs) == b"OK"
    assert parsed(client.now(b"MGET", b"k0", b"k1500", b"k2999")) == [b"0", b"1500", b"2999"]
    assert await client.value(b"DEL", *pairs[::2]) == 3000
    assert await client.value(b"EXISTS", *pairs[::2]) == 0
    await server.t.stop()


async def test_a_write_behind_one_of_many_keys_comes_after_it() -> None:
    server = ServerUnderTest(mode="back", dirty_max_bytes=10**8, dirty_memory_bytes=10**8)
    await server.t.start()
    client = server.connect()
    pairs = [word for number in range(2000) for word in (b"k%d" % number, b"old")]
    client.send(command(b"MSET", *pairs) + command(b"SET", b"k1999", b"new") + command(b"GET", b"k1999"))
    assert await client.replies(3) == b"+OK\r\n+OK\r\n$3\r\nnew\r\n"
    await server.t.stop()


@pytest.mark.parametrize("durability", [b"back", b"through", b"memory"])
async def test_set_reaches_the_durability_that_it_names(durability: bytes) -> None:
    server = ServerUnderTest(mode="through")
    await server.t.start()
    client = server.connect()
    assert await client.value(b"SET", b"k", b"v", b"EX", b"100", b"durability", durability) == b"OK"
    assert await client.value(b"SET", b"l", b"v", b"DURABILITY", durability, b"NX") == b"OK"
    assert server.t.writes.acknowledged[durability.decode()] == 2
    reply = await client.value(b"SET", b"k", b"v", b"DURABILITY", b"eternal")
    assert str(reply) == "ERR durability: got 'eternal'; allowed: back, through, memory"
    assert str(await client.value(b"SET", b"k", b"v", b"DURABILITY")) == "ERR syntax error"
    await server.t.stop()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("durability", ["back", "through", "memory"])
async def test_a_receipt_has_class_node_and_an_etag_that_the_value_does_not_give(
    durability: str, together: bool
) -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    argv = (b"SET", b"k", b"v", b"RECEIPT", b"DURABILITY", durability.encode())
    client.send(command(*argv) * (2 if together else 1))
    for _ in range(5):
        await client.idle()
    etag = f" {etag_of(b'v')}" if durability == "through" else ""
    assert client.take() == f"+{durability} {ME}{etag}\r\n".encode() * (2 if together else 1)
    assert server.requests.received_bytes == (2 if together else 1)
    assert await client.request(b"SET", b"k", b"v", b"RECEIPT", b"NX") == b"$-1\r\n"
    assert await client.request(b"SET", b"new", b"v", b"XX", b"RECEIPT") == b"$-1\r\n"
    assert await client.request(b"SET", b"new", b"v", b"NX", b"RECEIPT") == f"+back {ME}\r\n".encode()
    for options in ((b"GET", b"RECEIPT"), (b"RECEIPT", b"GET")):
        assert await client.request(b"SET", b"k", b"v", *options) == b"-ERR syntax error\r\n"
    await server.t.stop()


@pytest.mark.parametrize("mode", ["back", "memory"])
@pytest.mark.parametrize("number", [1, 3])
async def test_a_set_after_its_deadline_is_rejected_and_the_others_are_done(mode: Durability, number: int) -> None:
    server = ServerUnderTest(mode=mode)
    await server.t.start()
    await server.t.clock.advance(10)
    now_ms = int(server.t.clock.now() * 1000)
    client = server.connect()
    client.send(
        command(b"SET", b"a", b"1", b"WITHIN", b"1000", b"%d" % (now_ms + 5000)) * number
        + command(b"SET", b"b", b"1", b"WITHIN", b"1000", b"%d" % (now_ms - 500)) * number
        + command(b"SET", b"c", b"1", b"WITHIN", b"1000", b"") * number
        + command(b"SET", b"d", b"1", b"WITHIN", b"0", b"") * number
        + command(b"SET", b"e", b"1", b"WITHIN", b"1000")
    )
    await client.idle()
    replies = client.take().splitlines()
    assert [reply[:5] for reply in replies[::number]] == [b"+OK", b"-BUSY", b"+OK", b"-ERR ", b"-ERR "]
    assert replies[number].endswith(b"the call arrived 0.5 s after its caller's deadline; nothing was done")
    assert {*server.t.dirty} == {b"a", b"c"}
    await server.t.stop()


async def test_a_set_waits_for_the_disk_as_long_as_it_says() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.disk.gate.clear()
    reply = await client.request(b"SET", b"k", b"v", b"WITHIN", b"50", b"")
    assert reply.startswith(b"-TIMEOUT")
    server.t.disk.gate.set()
    await server.t.stop()


async def test_a_set_in_memory_is_acknowledged_at_once() -> None:
    server = ServerUnderTest(mode="memory")
    await server.t.start()
    client = server.connect()
    assert client.now(b"SET", b"k", b"v") == b"+OK\r\n"
    assert client.now(b"SET", b"k", b"v", b"EX", b"10") == b"+OK\r\n"
    assert client.now(b"MSET", b"k", b"v", b"l", b"w") == b"+OK\r\n"
    assert client.now(b"MGET", b"k", b"l") == b"*2\r\n$1\r\nv\r\n$1\r\nw\r\n"
    assert client.now(b"DEL", b"k", b"l") == b":2\r\n"
    await server.t.stop()


async def test_of_many_that_set_if_absent_one_succeeds() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    clients = [server.connect() for _ in range(10)]
    replies = await asyncio.gather(
        *(each.request(b"SET", b"lock", b"%d" % n, b"NX", b"EX", b"10") for n, each in enumerate(clients))
    )
    assert sorted(replies) == [b"$-1\r\n"] * 9 + [b"+OK\r\n"]
    winner = replies.index(b"+OK\r\n")
    assert await clients[0].value(b"GET", b"lock") == b"%d" % winner
    await server.t.stop()


async def test_of_many_that_take_a_value_one_gets_it() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    clients = [server.connect() for _ in range(10)]
    await clients[0].value(b"SET", b"k", b"v")
    replies = await asyncio.gather(*(each.request(b"GETDEL", b"k") for each in clients))
    assert sorted(replies) == [b"$-1\r\n"] * 9 + [b"$1\r\nv\r\n"]
    await server.t.stop()


@pytest.mark.parametrize("mode", ["back", "through", "memory"])
async def test_commands_of_one_read_take_effect_in_their_order(mode: str) -> None:
    server = ServerUnderTest(mode=mode)
    await server.t.start()
    client = server.connect()
    sent = [
        [b"SET", b"k", b"1", b"NX"],
        [b"SET", b"k", b"2"],
        [b"SET", b"k", b"3", b"GET"],
        [b"MSET", b"k", b"4", b"l", b"x"],
        [b"GET", b"k"],
        [b"DEL", b"k"],
        [b"SET", b"k", b"5"],
        [b"EXPIRE", b"k", b"100"],
        [b"SET", b"k", b"6", b"KEEPTTL"],
        [b"TTL", b"k"],
        [b"GETDEL", b"k"],
        [b"GET", b"k"],
        [b"GET", b"l"],
    ]
    client.send(b"".join(command(*argv) for argv in sent))
    reader = hiredis.Reader()
    reader.feed(await client.replies(len(sent)))
    assert [reader.gets() for _ in sent] == [
        b"OK",
        b"OK",
        b"2",
        b"OK",
        b"4",
        1,
        b"OK",
        1,
        b"OK",
        100,
        b"6",
        None,
        b"x",
    ]
    await server.t.stop()


async def test_a_tracking_client_is_notified_of_keys_that_it_read_by_any_command() -> None:
    server = ServerUnderTest()
    client, other = server.connect(resp3=True), server.connect()
    server.t.in_s3("k", b"v")
    reads = (
        [b"GET", b"k"],
        [b"MGET", b"k", b"l"],
        [b"GETRANGE", b"k", b"0", b"1"],
        [b"STRLEN", b"k"],
        [b"EXISTS", b"k"],
        [b"TTL", b"k"],
    )
    assert await client.value(b"CLIENT", b"TRACKING", b"ON") == b"OK"
    for argv in reads:
        await client.request(*argv)
        await client.idle()
        client.take()
        await other.value(b"SET", b"k", b"w")
        assert parsed(await client.replies(1)) == [b"invalidate", [b"k"]], argv


@pytest.mark.parametrize("durability", ["back", "memory", "through"])
async def test_msetex_sets_all_keys_and_their_expiry(durability: str) -> None:
    server = ServerUnderTest(mode=durability)
    await server.t.start()
    client = server.connect()
    wall = server.t.clock.wall
    for options, expected in (
        ((), (-1, -1)),
        ((b"EX", b"100"), (100, 100)),
        ((b"px", b"100000"), (100, 100)),
        ((b"EXAT", b"%d" % (wall() + 100)), (100, 100)),
        ((b"PXAT", b"%d" % ((wall() + 100) * 1000)), (100, 100)),
        ((b"EXAT", b"1"), (-2, -2)),
    ):
        await client.value(b"SETEX", b"a", b"50", b"old")
        assert await client.value(b"MSETEX", b"2", b"a", b"1", b"b", b"2", *options) == 1
        assert (await client.value(b"TTL", b"a"), await client.value(b"TTL", b"b")) == expected, options
        gone = expected == (-2, -2)
        assert await client.value(b"MGET", b"a", b"b") == ([None, None] if gone else [b"1", b"2"])
    # The last value of a key that is named twice, as in Redis.
    assert await client.value(b"MSETEX", b"2", b"a", b"1", b"a", b"2") == 1
    assert await client.value(b"GET", b"a") == b"2"
    await server.t.stop()


@pytest.mark.parametrize("durability", ["back", "memory"])
async def test_conditions_of_msetex_are_about_all_keys(durability: str) -> None:
    server = ServerUnderTest(mode=durability)
    await server.t.start()
    client = server.connect()
    server.t.in_s3("a", b"old")
    assert await client.value(b"MSETEX", b"2", b"a", b"1", b"b", b"1", b"NX", b"EX", b"100") == 0
    assert await client.value(b"MSETEX", b"2", b"a", b"1", b"b", b"1", b"EX", b"100", b"XX") == 0
    assert await client.value(b"MGET", b"a", b"b") == [b"old", None]
    assert await client.value(b"MSETEX", b"2", b"c", b"1", b"b", b"2", b"nx", b"EX", b"100") == 1
    assert await client.value(b"MSETEX", b"2", b"a", b"3", b"b", b"4", b"XX", b"KEEPTTL") == 1
    assert await client.value(b"MGET", b"a", b"b", b"c") == [b"3", b"4", b"1"]
    assert [await client.value(b"TTL", key) for key in (b"a", b"b", b"c")] == [-1, 100, 100]
    await server.t.stop()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((b"2", b"a", b"1", b"b"), "wrong number of key-value pairs"),
        ((b"x", b"a", b"1"), "invalid numkeys value"),
        ((b"0", b"a", b"1"), "invalid numkeys value"),
        ((b"2147483648", b"a", b"1"), "invalid numkeys value"),
        ((b"1", b"a"), "wrong number of arguments for 'msetex' command"),
        ((b"1", b"a", b"1", b"b", b"2"), "syntax error"),
        ((b"1", b"a", b"1", b"NX", b"XX"), "syntax error"),
        ((b"1", b"a", b"1", b"EX"), "syntax error"),
        ((b"1", b"a", b"1", b"EX", b"1", b"KEEPTTL"), "syntax error"),
        ((b"1", b"a", b"1", b"GET"), "syntax error"),
        ((b"1", b"a", b"1", b"DURABILITY", b"back"), "syntax error"),
        ((b"1", b"a", b"1", b"EX", b"0"), "invalid expire time in 'msetex' command"),
        ((b"1", b"a", b"1", b"EX", b"x"), "value is not an integer or out of range"),
    ],
)
async def test_what_msetex_rejects(argv: tuple[bytes, ...], said: str) -> None:
    server = ServerUnderTest(mode="memory")
    await server.t.start()
    client = server.connect()
    assert said in str(await client.value(b"MSETEX", *argv))
    assert await client.value(b"GET", b"a") is None
    # Also in a transaction, where the errors of options come with the replies.
    await client.value(b"MULTI")
    await client.value(b"MSETEX", *argv)
    assert (await client.request(b"EXEC")).startswith((b"*1\r\n-", b"-EXECABORT"))
    await server.t.stop()


async def test_msetex_in_scripts_and_transactions() -> None:
    pytest.importorskip("lupa.lua54")
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.in_s3("a", b"old")
    source = b"return redis.call('msetex', 2, KEYS[1], 1, KEYS[2], 2, 'EX', 100)"
    assert await client.value(b"EVAL", source, b"2", b"a", b"b") == 1
    await client.value(b"MULTI")
    await client.value(b"MSETEX", b"2", b"a", b"3", b"b", b"4", b"KEEPTTL")
    await client.value(b"GET", b"a")
    commits = server.t.disk.commits
    assert await client.value(b"EXEC") == [1, b"3"]
    assert server.t.disk.commits - commits == 1
    assert [await client.value(b"TTL", key) for key in (b"a", b"b")] == [100, 100]
    await server.t.stop()


async def test_msetex_of_more_keys_than_one_step_takes() -> None:
    server = ServerUnderTest(mode="memory")
    await server.t.start()
    client = server.connect()
    pairs = [word for number in range(1000) for word in (b"k%d" % number, b"%d" % number)]
    assert await client.value(b"MSETEX", b"1000", *pairs, b"EX", b"100") == 1
    assert await client.value(b"MGET", *pairs[::2]) == pairs[1::2]
    assert await client.value(b"TTL", b"k999") == 100
    await server.t.stop()
