"""MILENA.BLOCK over RESP, between two nodes."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.membership.identity import NodeIdentity
from milena_common.cluster.slot_map import SlotMap
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring
from tests.support.s3.memory_store import etag_of

VALUE = bytes(range(200))
ETAG = etag_of(VALUE).encode()


async def connected(server: ServerUnderTest) -> WireClient:
    """A connection of another node."""
    server.requests.identity = NodeIdentity("bucket", "n1")
    server.requests.identity.ring_changed("c1")
    client = server.connect()
    assert isinstance(await client.value(b"MILENA.HELLO", b"c1", b"bucket", b"n1"), int)
    return client


async def block(client: WireClient, *argv: object) -> Any:
    words = [word if isinstance(word, bytes) else str(word).encode() for word in argv]
    return await client.value(b"MILENA.BLOCK", *words)


async def test_the_bytes_come_with_how_many_blocks_were_fetched() -> None:
    server = ServerUnderTest()
    server.t.in_s3("k", VALUE)
    client = await connected(server)
    assert await block(client, "k", ETAG, 200, 10, 30, 1000) == [VALUE[10:40], 3, 1]
    assert await block(client, "k", ETAG, 200, 10, 30, 1000) == [VALUE[10:40], 0, 0]
    assert server.t.node.reads.hits + server.t.node.reads.misses == 0, "the owner of the key counts the read"


async def test_it_needs_no_slot_and_no_lease() -> None:
    server = ServerUnderTest()
    server.t.in_s3("k", VALUE)
    client = await connected(server)
    server.ownership.update(ring("127.0.0.1:1", ME, epoch=2))
    assert await block(client, "k", ETAG, 200, 0, 30, 1000) == [VALUE[:30], 2, 1]
    server.ownership.update(SlotMap.empty())
    assert await block(client, "k", ETAG, 200, 0, 30, 1000) == [VALUE[:30], 0, 0]


async def test_another_version_is_an_error() -> None:
    server = ServerUnderTest()
    client = await connected(server)
    for value in (VALUE[::-1], None):
        if value is not None:
            server.t.in_s3("k", value)
        else:
            del server.t.store.objects[server.t.object("k").ref]
        with pytest.raises(Exception, match="CONDITION etag: S3 has another version"):
            raise await block(client, "k", ETAG, 200, 0, 30, 1000)


async def test_only_nodes_may_send_it_and_arguments_are_checked() -> None:
    server = ServerUnderTest()
    assert server.connect().now(b"MILENA.BLOCK", b"k", ETAG, b"200", b"0", b"30", b"1000").startswith(b"-NOPERM")
    client = await connected(server)
    for argv in (
        ("k", b"", 200, 0, 30, 1000),
        ("k", ETAG, 200, -1, 30, 1000),
        ("k", ETAG, 200, 0, 0, 1000),
        ("k", ETAG, 200, 190, 11, 1000),
        ("k", ETAG, 2 * 10**6, 0, 10**6 + 1, 1000),
        ("k", b"\xff", 200, 0, 30, 1000),
        ("k", ETAG, 200, 0, 30, 0),
        ("k", ETAG, "x", 0, 30, 1000),
        ("", ETAG, 200, 0, 30, 1000),
    ):
        assert str(await block(client, *argv)).startswith("ERR "), argv
