"""MILENA.LISTING over RESP, between two nodes."""

from __future__ import annotations

from tests.cache.servers.resp.server_under_test import ServerUnderTest, parsed


async def test_the_deleted_keys_of_a_listing_are_returned_once() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect(resp3=True)
    await server.t.delete("a")
    number = parsed(client.now(b"MILENA.LISTING", b"BEGIN", b"5000"))
    end = (b"MILENA.LISTING", b"END", b"%d" % number, b"a", b"b")
    assert parsed(client.now(*end)) == [b"a"]
    assert parsed(client.now(*end)) is None
    server.servers.peer_listings.cancel()
    await server.t.stop()


async def test_a_time_or_number_that_is_none_is_rejected() -> None:
    client = ServerUnderTest().connect()
    for argv in ((b"BEGIN", b"0"), (b"BEGIN", b"x"), (b"END", b"x"), (b"BEGIN",), (b"MIDDLE",)):
        assert client.now(b"MILENA.LISTING", *argv).startswith(b"-ERR ")
