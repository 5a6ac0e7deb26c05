"""SCAN gives every key of the node once, whatever is written back meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Page
from milena_cache.servers.resp.state.cursors import SECONDS
from milena_common.cluster.slots import slot_of
from tests.cache.node_under_test import BUCKET
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring

OTHER = "127.0.0.1:60051"


async def scanned(client: WireClient, *options: bytes) -> list[bytes]:
    """What a whole scan gives, in its order."""
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, page = await client.value(b"SCAN", cursor, *options)
        found += page
        if cursor == b"0":
            return found


def fill(server: ServerUnderTest, number: int, form: str = "k%04d") -> list[bytes]:
    for each in range(number):
        server.t.in_s3(form % each, b"v")
    return [(form % each).encode() for each in range(number)]


async def test_a_scan_goes_through_all_pages() -> None:
    server = ServerUnderTest()
    client = server.connect()
    keys = fill(server, 250)
    assert await scanned(client) == keys
    assert sum(operation == "list" for operation, _ in server.t.store.calls) == 3
    assert await scanned(client, b"COUNT", b"1000") == keys
    assert await scanned(client, b"COUNT", b"9223372036854775807") == keys


async def test_s3_is_queried_with_the_prefix_of_the_pattern() -> None:
    server = ServerUnderTest()
    client = server.connect()
    fill(server, 150, "a%d")
    b = fill(server, 150, "b/%d")
    assert sorted(await scanned(client, b"MATCH", b"b/*")) == sorted(b)
    assert await scanned(client, b"MATCH", b"b/[0-1]?") == sorted(b"b/%d" % n for n in range(10, 20))
    assert {prefix for operation, prefix in server.t.store.calls if operation == "list"} == {"b/"}
    assert await scanned(client, b"MATCH", b"absent*") == []
    assert await scanned(client, b"MATCH", b"\xff*") == []
    assert await scanned(client, b"MATCH", b"b\x00*") == []
    assert await scanned(client, b"MATCH", b"x" * 1025 + b"*") == []


async def test_what_is_dirty_lies_over_what_s3_lists() -> None:
    server = ServerUnderTest(mode="memory", delay=1000)
    await server.t.start()
    client = server.connect()
    keys = fill(server, 150)
    for key in (b"a first", b"k0050 new", b"z last"):
        await client.value(b"SET", key, b"v")
    await client.value(b"SET", b"ended", b"v", b"PX", b"10")
    server.t.clock.tick(1)
    await client.value(b"DEL", b"k0010", b"k0120", b"absent")
    expected = {*keys, b"a first", b"k0050 new", b"z last"} - {b"k0010", b"k0120"}
    found = await scanned(client)
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(found)
    assert await scanned(client, b"MATCH", b"k0050*") == [b"k0050", b"k0050 new"]
    await server.t.stop()


async def test_a_key_that_is_uploaded_while_s3_is_queried_is_not_missed() -> None:
    server = ServerUnderTest(mode="memory", delay=1000)
    await server.t.start()
    client = server.connect()
    await client.value(b"SET", b"k", b"v")
    listing = server.t.store.list

    async def list_then_upload(*request: Any) -> Page:
        page = await listing(*request)
        await server.t.flush()
        return page

    server.t.store.list = list_then_upload  # type: ignore[method-assign]
    assert await scanned(client) == [b"k"]
    assert b"k" not in server.t.dirty
    await server.t.stop()


@settings(max_examples=30)
@given(
    st.sets(st.integers(0, 350), max_size=350),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400), st.booleans()), max_size=30),
)
def test_a_key_that_is_there_all_the_time_is_returned_once(
    there: set[int], changes: list[tuple[int, int, bool]]
) -> None:
    """Changes of other keys, and uploads, between the pages."""

    async def test() -> None:
        server = ServerUnderTest(mode="memory", delay=1000)
        await server.t.start()
        client = server.connect()
        for number in there:
            if number % 3:
                server.t.in_s3(f"{number:04}", b"v")
            else:
                await client.value(b"SET", b"%04d" % number, b"v")
        found: list[bytes] = []
        cursor, turn = b"0", 0
        while True:
            for when, number, flush in changes:
                if when == turn:
                    await client.value(
                        *((b"SET", b"%04d+" % number, b"v") if flush else (b"DEL", b"%04d+" % number))
                    )
                    if flush:
                        await server.t.flush()
            cursor, page = await client.value(b"SCAN", cursor)
            found += page
            turn += 1
            if cursor == b"0":
                break
        kept = [key for key in found if not key.endswith(b"+")]
        assert sorted(kept) == sorted(b"%04d" % number for number in there)
        assert len(set(found)) == len(found)
        await server.t.stop()

    asyncio.run(test())


async def test_each_node_returns_its_own_keys() -> None:
    server, other = ServerUnderTest(), ServerUnderTest()
    other.t.store.objects = server.t.store.objects
    keys = fill(server, 300)
    slots = ring(ME, OTHER, epoch=2)
    server.ownership.update(slots)
    other.ownership.me = OTHER
    other.ownership.update(slots)
    mine, others = [await scanned(each.connect()) for each in (server, other)]
    assert sorted(mine + others) == keys
    assert all(slot_of(key) < 8192 for key in mine)


async def test_keys_are_spelled_as_commands_take_them() -> None:
    server = ServerUnderTest(buckets=Buckets(BUCKET, "hidden/"))
    client = server.connect()
    server.t.store.objects.clear()
    for key in (b"k", b"s3://default/s3://x"):
        assert await client.value(b"SET", key, b"v") == b"OK"
    server.t.in_s3("elsewhere", b"v")
    assert await scanned(client) == [b"k", b"s3://default/s3://x"]
    assert await scanned(client, b"MATCH", b"s3*") == [b"s3://default/s3://x"]
    assert await scanned(client, b"MATCH", b"s3://default/*") == [b"s3://default/s3://x"]
    assert await client.value(b"MGET", *await scanned(client)) == [b"v", b"v"]


async def test_a_page_may_be_requested_again_until_it_is_removed() -> None:
    server = ServerUnderTest()
    client = server.connect()
    keys = fill(server, 150)
    cursor, _ = await client.value(b"SCAN", b"0")
    for _ in range(2):
        assert (await client.value(b"SCAN", cursor))[1] == keys[100:]
    server.t.clock.tick(SECONDS + 1)
    reply = await client.value(b"SCAN", cursor)
    assert str(reply) == "ERR invalid cursor: it is not known here, or not any more; begin with 0"


async def test_a_delete_that_is_uploaded_while_s3_is_queried_is_not_returned() -> None:
    """The page is older than the upload, and the delete is not dirty any more when the page is merged."""
    server = ServerUnderTest(mode="memory", delay=1000)
    await server.t.start()
    client = server.connect()
    fill(server, 3)
    await client.value(b"SET", b"dirty", b"v")
    await client.value(b"DEL", b"k0001")
    listing = server.t.store.list

    async def list_then_upload(*request: Any) -> Page:
        page = await listing(*request)
        await server.t.delete("dirty", owned_since=1)
        await server.t.flush()
        return page

    server.t.store.list = list_then_upload  # type: ignore[method-assign]
    assert await scanned(client) == [b"k0000", b"k0002"]
    assert len(server.t.dirty) == 0
    await server.t.stop()


async def test_a_key_that_is_deleted_and_written_anew_while_s3_is_queried_is_returned() -> None:
    server = ServerUnderTest(mode="memory", delay=1000)
    await server.t.start()
    client = server.connect()
    fill(server, 3)
    await client.value(b"DEL", b"k0001")
    listing = server.t.store.list

    async def list_then_write(*request: Any) -> Page:
        page = await listing(*request)
        await server.t.flush()
        await server.t.put("k0001", b"new", owned_since=1)
        await server.t.flush()
        return page

    server.t.store.list = list_then_write  # type: ignore[method-assign]
    assert await scanned(client) == [b"k0000", b"k0001", b"k0002"]
    await server.t.stop()
