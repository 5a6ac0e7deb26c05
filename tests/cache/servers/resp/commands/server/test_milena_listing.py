"""MILENA.LISTING over RESP, between two nodes."""

from __future__ import annotations

from milena_common.api.etags import etag_of
from tests.cache.servers.resp.server_under_test import ServerUnderTest, parsed

BEGIN = (b"MILENA.LISTING", b"BEGIN", b"5000", b"")


async def test_a_listing_gets_what_was_written_and_the_deleted_keys_once() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect(resp3=True)
    await server.t.delete("a")
    for key in ("b/1", "b/2", "c", "d"):
        await server.t.put(key, b"value")
    number, until, *written = await client.value(*BEGIN, b"", b"/", b"a", b"2")
    assert until == b"c", "complete up to here: others follow"
    assert written[:4] == [b"b/", -1, b"", 0]
    assert written[4:7] == [b"c", 5, etag_of(b"value").encode()]
    assert len(written) == 8
    end = (b"MILENA.LISTING", b"END", b"%d" % number, b"a", b"b")
    assert parsed(client.now(*end)) == [b"a"]
    assert parsed(client.now(*end)) is None
    server.servers.peer_listings.cancel()
    await server.t.stop()


async def test_what_is_no_listing_is_rejected() -> None:
    client = ServerUnderTest().connect()
    rest = (b"", b"", b"", b"", b"10")
    for argv in (
        (b"BEGIN", b"0", *rest),
        (b"BEGIN", b"x", *rest),
        (b"BEGIN", b"5", b"", b"", b"", b"", b"x"),
        (b"BEGIN", b"5", b"", b"\xff", b"", b"", b"1"),
        (b"END", b"x"),
        (b"BEGIN",),
        (b"BEGIN", b"5"),
        (b"MIDDLE",),
    ):
        assert client.now(b"MILENA.LISTING", *argv).startswith(b"-ERR ")
    for limit in (b"0", b"1001"):
        reply = await client.request(b"MILENA.LISTING", b"BEGIN", b"5", b"", b"", b"", b"", limit)
        assert reply.startswith(b"-ERR ")
