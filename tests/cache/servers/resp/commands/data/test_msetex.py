"""MSETEX: several keys with one expiry, and conditions on all of them."""

from __future__ import annotations

import pytest

from tests.cache.servers.resp.server_under_test import ServerUnderTest

CLASSES = pytest.mark.parametrize("durability", ["back", "memory", "through"])


async def started(durability: str) -> ServerUnderTest:
    server = ServerUnderTest(mode=durability)
    await server.t.start()
    return server


@CLASSES
async def test_it_sets_all_keys_and_their_expiry(durability: str) -> None:
    server = await started(durability)
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
async def test_conditions_are_about_all_keys(durability: str) -> None:
    server = await started(durability)
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
async def test_what_it_rejects(argv: tuple[bytes, ...], said: str) -> None:
    server = await started("memory")
    client = server.connect()
    assert said in str(await client.value(b"MSETEX", *argv))
    assert await client.value(b"GET", b"a") is None
    # Also in a transaction, where the errors of options come with the replies.
    await client.value(b"MULTI")
    await client.value(b"MSETEX", *argv)
    assert (await client.request(b"EXEC")).startswith((b"*1\r\n-", b"-EXECABORT"))
    await server.t.stop()


async def test_in_scripts_and_transactions() -> None:
    pytest.importorskip("lupa.lua54")
    server = await started("back")
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


async def test_more_keys_than_one_step_takes() -> None:
    server = await started("memory")
    client = server.connect()
    pairs = [word for number in range(1000) for word in (b"k%d" % number, b"%d" % number)]
    assert await client.value(b"MSETEX", b"1000", *pairs, b"EX", b"100") == 1
    assert await client.value(b"MGET", *pairs[::2]) == pairs[1::2]
    assert await client.value(b"TTL", b"k999") == 100
    await server.t.stop()
