"""MILENA.HELLO at the RESP server."""

from __future__ import annotations

from milena_cache.membership.identity import NodeIdentity
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, parsed


def server() -> ServerUnderTest:
    made = ServerUnderTest()
    made.requests.identity = NodeIdentity("bucket", "n1")
    made.requests.identity.ring_changed("c1")
    return made


def test_a_connection_that_means_this_node_goes_on_and_learns_its_monotonic_time() -> None:
    under_test = server()
    client = under_test.connect()
    shown = int(1000 * under_test.context.clock.now())
    assert client.now(b"MILENA.HELLO", b"c1", b"bucket", b"n1") == b":%d\r\n" % shown
    under_test.t.clock.tick(1.5)
    assert client.now(b"MILENA.HELLO", b"c1", b"bucket", b"n1") == b":%d\r\n" % (shown + 1500)
    assert client.now(b"PING") == b"+PONG\r\n"


async def test_a_connection_meant_for_another_node_is_closed_and_no_later_command_is_executed() -> None:
    under_test = server()
    client = under_test.connect()
    calls = under_test.calls["get"].requests
    rejected = client.now(b"MILENA.HELLO", b"c1", b"bucket", b"n0")
    assert rejected.startswith(b"-WRONGNODE ")
    assert b"n1" in rejected
    client.send(command(b"GET", b"k"))
    assert client.take() == b""
    assert under_test.calls["get"].requests == calls


def test_a_client_that_says_nothing_is_served() -> None:
    assert parsed(server().connect().now(b"ECHO", b"k")) == b"k"
