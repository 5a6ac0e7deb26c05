"""What becomes of commands on keys of other nodes, and of those that another node has admitted."""

from __future__ import annotations

import asyncio

from milena_cache.servers.resp.dispatch.session import FORWARDER_NAME
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring

OTHER = "127.0.0.1:1"


async def test_what_another_node_has_admitted_takes_no_token_of_the_rate_limit() -> None:
    server = ServerUnderTest({"RATE_LIMIT": "1"})
    client, forwarder = server.connect(), server.connect()
    await server.warm(client, "a", b"v")
    assert client.now(b"GET", b"a").startswith(b"-RATELIMIT")
    forwarder.session.identified, forwarder.session.name = True, FORWARDER_NAME
    for _ in range(5):
        assert forwarder.now(b"GET", b"a") == b"$1\r\nv\r\n"


async def test_a_key_of_a_node_that_cannot_be_reached_has_an_error_within_its_time() -> None:
    server = ServerUnderTest({"RESP_FORWARD": "on"})
    server.ownership.update(ring(ME, OTHER, epoch=2))
    client = server.connect()
    request = asyncio.create_task(client.request(b"SET", b"a", b"v"))  # its slot is in the second half
    while not (await asyncio.wait({request}, timeout=0.02))[0]:
        await server.t.clock.advance(0.1)
    reply = request.result()
    assert reply.startswith(b"-NODEUNREACHABLE"), reply
    assert b"nothing was done" in reply
    server.ownership.update(ring(ME, epoch=3))
    assert await client.request(b"SET", b"a", b"v") == b"+OK\r\n"


async def test_clients_that_follow_moved_get_it() -> None:
    server = ServerUnderTest({"RESP_FORWARD": "on"})
    server.ownership.update(ring(ME, OTHER, epoch=2))
    for line in (b"CLUSTER SLOTS", b"CLUSTER NODES", b"READONLY", b"CLIENT TRACKING ON"):
        client = server.connect(resp3=True)
        client.now(*line.split())
        assert client.now(b"GET", b"a").startswith(b"-MOVED 15495 "), line
        assert client.now(b"MGET", b"a", b"b").startswith((b"-MOVED", b"-CROSSSLOT")), line
