"""In whose name a connection makes its requests: ACL WHOAMI, and wherever else it is shown."""

from __future__ import annotations

import pytest

from milena_cache.service.principals import Principal
from tests.cache.servers.resp.server_under_test import ServerUnderTest

WHOAMI = (b"ACL", b"WHOAMI")
DEFAULT = b"$7\r\ndefault\r\n"


@pytest.mark.parametrize("line", [b"PING", b"AUTH default x", b"AUTH bob x", b"HELLO 2 AUTH default x", b"RESET"])
async def test_every_connection_is_the_default_user(line: bytes) -> None:
    client = ServerUnderTest().connect()
    client.now(*line.split())
    assert client.now(*WHOAMI) == DEFAULT


async def test_a_connections_principal_is_shown_and_lasts_until_it_authenticates_or_resets() -> None:
    server = ServerUnderTest()
    client, other = server.connect(resp3=True), server.connect()
    client.session.principal = Principal("bob")
    assert client.now(*WHOAMI) == b"$3\r\nbob\r\n"
    assert b" user=bob " in client.now(b"CLIENT", b"INFO")
    assert client.now(b"CLIENT", b"KILL", b"USER", b"default") == b":1\r\n"
    assert other.transport.close_state
    assert client.now(b"HELLO", b"3", b"AUTH", b"default", b"x", b"SETNAME", b"a b").startswith(
        b"-ERR Client names"
    )
    assert client.now(*WHOAMI) == b"$3\r\nbob\r\n", "a HELLO that fails changes nothing"
    assert client.now(b"AUTH", b"default", b"x") == b"+OK\r\n"
    assert client.now(*WHOAMI) == DEFAULT
    client.session.principal = Principal("bob")
    client.now(b"RESET")
    assert client.now(*WHOAMI) == DEFAULT


async def test_other_subcommands_are_not_known() -> None:
    client = ServerUnderTest().connect()
    assert client.now(b"ACL", b"SETUSER", b"bob").startswith(b"-ERR unknown subcommand 'SETUSER'")
    assert b"WHOAMI" in client.now(b"ACL", b"HELP")
