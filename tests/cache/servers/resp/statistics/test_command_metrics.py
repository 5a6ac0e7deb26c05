"""What is a read, an error, and neither."""

from __future__ import annotations

import pytest

from milena_common.metrics.call_counts import OperationCounts
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring

OTHER = "127.0.0.1:60051"


@pytest.mark.parametrize(
    ("argv", "reads"),
    [
        ([b"DEL", b"k"], 0),
        ([b"DEL", b"k", b"cold", b"absent"], 0),
        ([b"UNLINK", b"k"], 0),
        ([b"SET", b"k", b"v", b"NX"], 0),
        ([b"SET", b"cold", b"v", b"XX"], 0),
        ([b"SET", b"k", b"v", b"KEEPTTL"], 0),
        ([b"EXPIRE", b"k", b"100"], 0),
        ([b"PERSIST", b"cold"], 0),
        ([b"MILENA.REFRESH", b"k"], 0),
        ([b"SET", b"k", b"w", b"GET"], 1),
        ([b"GETDEL", b"k"], 1),
        ([b"GETEX", b"k", b"EX", b"100"], 1),
        ([b"EXISTS", b"k", b"cold"], 2),
        ([b"TTL", b"cold"], 1),
    ],
    ids=lambda value: value[0].decode() if isinstance(value, list) else "",
)
async def test_what_counts_as_a_read(argv: list[bytes], reads: int) -> None:
    server = ServerUnderTest()
    client = server.connect()
    await server.warm(client, "k", b"v")
    server.t.in_s3("cold", b"v")
    before = server.t.node.reads.hits + server.t.node.reads.misses
    assert not str(await client.value(*argv)).startswith("ERR")
    assert server.t.node.reads.hits + server.t.node.reads.misses == before + reads


async def test_a_write_that_reads_brings_its_reader_what_it_found() -> None:
    server = ServerUnderTest()
    client = server.connect()
    server.t.in_s3("k", b"v")
    assert await client.value(b"EXPIRE", b"k", b"100") == 1
    assert await client.value(b"GET", b"k") == b"v"
    assert server.t.node.reads.outcomes["hit"] == 1


async def test_a_redirection_is_no_error() -> None:
    server = ServerUnderTest()
    server.ownership.update(ring(OTHER, ME, epoch=2))
    client = server.connect()
    for argv in ([b"GET", b"b"], [b"SET", b"b", b"v"], [b"DEL", b"b"], [b"MILENA.REFRESH", b"b"]):
        assert str(await client.value(*argv)).startswith("MOVED ")
    assert {name: counts.moved for name, counts in server.calls.by_operation.items() if counts.moved} == {
        "get": 1,
        "put": 1,
        "delete": 1,
        "refresh": 1,
    }
    assert server.calls.errors == 0
    assert server.report.values()["errors"] == 0
    await client.value(b"GET")
    assert server.calls.errors == 1, "what is an error still counts"
    assert b"errorstat_MOVED:count=4" in await client.value(b"INFO", b"errorstats"), "as Redis shows it"


def test_an_operation_begins_at_nothing() -> None:
    counts = OperationCounts()
    assert (counts.requests, counts.moved, counts.errors) == (0, 0, {})
