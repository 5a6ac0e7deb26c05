"""HOTKEYS, and that the fast path of GET samples what it serves."""

from __future__ import annotations

from milena_cache.memory.read_samples import ALL_KEYS, READ
from milena_cache.sampling.hot_keys import ONE_IN, WINDOW_SECONDS
from tests.cache.servers.resp.server_under_test import ServerUnderTest

NUMBER = 100 * ONE_IN


async def with_reads() -> ServerUnderTest:
    """Return a server of which `hot` was read three times as often as `cold`, by pipelines of GETs."""
    server = ServerUnderTest()
    client = server.connect()
    await client.value(b"SET", b"hot", b"v")
    await client.value(b"SET", b"cold", b"v" * 50)
    server.context.node.memory.samples.threshold = 0
    keys = [b"hot", b"hot", b"cold", b"hot"] * (NUMBER // 4)
    for start in range(0, NUMBER, 80):
        parts: list[bytes] = []
        done = server.hits.serve(keys[start : start + 80], server.t.clock.now(), parts, 10**6)
        assert done == 80
        assert len(parts) == 240
    return server


async def test_get_has_the_form_of_valkey() -> None:
    server = await with_reads()
    client = server.connect(resp3=True)
    assert await client.value(b"HOTKEYS", b"GET") == [], "no window has ended"
    server.t.clock.tick(WINDOW_SECONDS)
    found = await client.value(b"HOTKEYS", b"GET")
    assert [(each[b"key"], each[b"db"]) for each in found] == [(b"hot", 0), (b"cold", 0)]
    hot, cold = (each[b"qps"] for each in found)
    assert 0.6 < hot / (hot + cold) < 0.9
    assert 0.8 < (hot + cold) * WINDOW_SECONDS / NUMBER < 1.2
    by_bytes = await client.value(b"HOTKEYS", b"GET", b"bytes")
    assert [each[b"key"] for each in by_bytes] == [b"cold", b"hot"]
    assert all(each.keys() == {b"key", b"db", b"bytes"} for each in by_bytes)
    assert await client.value(b"HOTKEYS", b"GET", b"requests") == found
    plain = await server.connect().value(b"HOTKEYS", b"GET")
    assert plain == [[b"key", each[b"key"], b"db", 0, b"qps", each[b"qps"]] for each in found]


async def test_reset_forgets_the_reads() -> None:
    server = await with_reads()
    client = server.connect()
    server.t.clock.tick(WINDOW_SECONDS)
    assert await client.value(b"HOTKEYS", b"GET") != []
    assert await client.value(b"HOTKEYS", b"RESET") == b"OK"
    assert await client.value(b"HOTKEYS", b"GET") == []


async def test_what_is_no_form_of_it_is_rejected() -> None:
    client = ServerUnderTest().connect()
    for words, error in (
        ((b"GET", b"CPU"), "syntax error"),
        ((b"GET", b"BYTES", b"1"), "wrong number of arguments"),
        ((b"START",), "unknown subcommand"),
        ((b"RESET", b"1"), "wrong number of arguments"),
    ):
        assert error in str(await client.value(b"HOTKEYS", *words))


async def test_the_fast_path_serves_entries_of_the_sample_and_records_their_reads() -> None:
    server = ServerUnderTest()
    memory, client = server.t.memory, server.connect()
    memory.samples.threshold = ALL_KEYS
    for key in (b"a", b"b"):
        server.t.store.objects[server.t.buckets.resolve("", key).ref] = b"value"
        assert await client.value(b"GET", key) == b"value"
    memory.samples.take_events()
    parts: list[bytes] = []
    assert server.hits.serve([b"a", b"b", b"a"], server.t.clock.now(), parts, 10**6) == 3
    assert b"".join(parts) == b"$5\r\nvalue\r\n" * 3
    assert memory.samples.take_events() == [(READ, hash(key), 1, 5) for key in (b"a", b"b", b"a")]
    assert server.hits.serve([b"a", b"b"], server.t.clock.now(), parts, 5) == 1, "the second one exceeds the bytes"
    assert memory.samples.take_events() == [(READ, hash(b"a"), 1, 5)], "what is not served is not recorded"


async def test_a_miss_is_recorded_before_what_it_stores_and_once() -> None:
    server = ServerUnderTest()
    node, memory = server.context.node, server.t.memory
    memory.samples.threshold = ALL_KEYS
    target = server.t.buckets.resolve("", b"a")
    server.t.store.objects[target.ref] = b"value"
    await node.get(target, 5.0)
    await node.get(target, 5.0)
    kinds = [event[0] for event in memory.samples.take_events()]
    assert kinds == [READ, 1, READ]
