"""MILENA.REFRESH, and Refresh, Sweep and Warm by MILENA.CALL."""

from __future__ import annotations

from typing import Any

from milena_cache.servers.resp.commands.data.reading import MAX_KEYS_AT_ONCE
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring

OTHER = "127.0.0.1:60051"


async def test_entries_are_dropped_and_counted_without_a_request_to_s3() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for key in ("a", "b"):
        await server.warm(client, key, b"old")
        server.t.in_s3(key, b"new")
    assert await client.value(b"GET", b"a") == b"old"
    assert await client.value(b"MILENA.REFRESH", b"a", b"b", b"never read") == 2
    assert await client.value(b"GET", b"a") == b"new"
    assert {operation for operation, _ in server.t.store.calls} == {"get"}
    assert server.calls["refresh"].requests == 3
    many = [b"k%d" % number for number in range(2 * MAX_KEYS_AT_ONCE)]
    assert await client.value(b"MILENA.REFRESH", b"a", *many) == 1


async def test_a_write_before_it_on_the_connection_is_kept() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    client.send(command(b"SET", b"k", b"v") + command(b"MILENA.REFRESH", b"k") + command(b"GET", b"k"))
    assert await client.replies(3) == b"+OK\r\n:0\r\n$1\r\nv\r\n"
    await server.t.stop()


async def test_a_client_that_tracks_the_key_is_notified() -> None:
    server = ServerUnderTest()
    client, operator = server.connect(resp3=True), server.connect()
    assert client.now(b"CLIENT", b"TRACKING", b"ON") == b"+OK\r\n"
    await server.warm(client, "k", b"v")
    assert await operator.value(b"MILENA.REFRESH", b"k") == 1
    await client.idle()
    assert client.take() == b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"


async def test_keys_of_another_node_are_redirected() -> None:
    server = ServerUnderTest()
    server.ownership.update(ring(OTHER, ME, epoch=2))
    client = server.connect()
    assert str(await client.value(b"MILENA.REFRESH", b"b")).startswith("MOVED ")
    assert str(await client.value(b"MILENA.REFRESH", b"a", b"b")).startswith("CROSSSLOT ")


async def test_a_whole_prefix_by_the_nodes_own_api() -> None:
    server = ServerUnderTest()
    client = server.connect()
    for key in ("logs/1", "logs/2", "other"):
        await server.warm(client, key, b"v")
    request = pb.RefreshRequest(prefix=b"logs/").SerializeToString()
    reply = pb.RefreshResponse.FromString(await client.value(b"MILENA.CALL", b"Refresh", b"1000", request))
    assert (reply.refreshed, reply.dirty) == (2, 0)
    both = pb.RefreshRequest(prefix=b"logs/", keys=[b"k"]).SerializeToString()
    assert str(await client.value(b"MILENA.CALL", b"Refresh", b"1000", both)).startswith("ERR keys, prefix: ")


async def test_jobs_by_the_nodes_own_api() -> None:
    server = ServerUnderTest()
    client = server.connect()

    async def call(method: bytes, request: Any) -> bytes:
        reply: bytes = await client.value(b"MILENA.CALL", method, b"1000", request.SerializeToString())
        return reply

    for key in ("logs/1", "logs/2", "other"):
        server.t.in_s3(key, b"value")
    warming = pb.WarmRequest(keys=[b"logs/1", b"logs/2", b"other"], sizes=[5, 5, 5])
    warmed = pb.WarmResponse.FromString(await call(b"Warm", warming))
    assert (warmed.warmed, warmed.value_bytes, [*warmed.left]) == (3, 15, [])
    request = pb.SweepRequest(job="1" * 32, prefix=b"logs/", action="purge")
    swept = pb.SweepResponse.FromString(await call(b"Sweep", request))
    assert (swept.done, swept.changed, swept.entries) == (True, 2, 3)
    assert len(server.t.parts.sweeps) == 1
    forgotten = await call(b"Sweep", pb.SweepRequest(job="1" * 32, end=True))
    assert pb.SweepResponse.FromString(forgotten) == pb.SweepResponse(done=True)
    assert len(server.t.parts.sweeps) == 0
    assert {operation for operation, _ in server.t.store.calls} == {"get"}
    assert str(await call(b"Sweep", pb.SweepRequest(job="1"))).startswith("ERR job: ")
    server.t.parts.sweeps.close()
