"""Commands with very many keys: other connections are served meanwhile, and the deadline is the command's."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.servers.resp.commands.data.reading import MAX_KEYS_AT_ONCE
from milena_cache.servers.resp.dispatch.admission import MAX_KEYS
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import ServerUnderTest

NUMBER = 4 * MAX_KEYS_AT_ONCE


async def started(variables: dict[str, str] | None = None, **node: object) -> ServerUnderTest:
    server = ServerUnderTest(variables, **node)
    await server.t.start()
    return server


def keys(number: int) -> list[bytes]:
    return [b"k%d" % each for each in range(number)]


@pytest.mark.parametrize("name", [b"MGET", b"EXISTS", b"TOUCH", b"DEL", b"UNLINK", b"MSET"])
async def test_other_clients_get_replies_while_a_command_of_many_keys_is_executed(name: bytes) -> None:
    server = await started(mode="memory", max_entries=10**5)
    client, other = server.connect(), server.connect()
    await server.warm(other, "hot", b"v")
    argv = [word for key in keys(NUMBER) for word in ((key, b"v") if name == b"MSET" else (key,))]
    before = server.t.node.reads.outcomes["hit"]
    client.send(command(name, *argv))
    rounds = 0
    while not client.transport.sent:
        assert other.now(b"GET", b"hot") == bulk(b"v")
        rounds += 1
        await asyncio.sleep(0)
    assert rounds >= 4
    assert server.t.node.reads.outcomes["hit"] > before
    await server.t.stop()


async def test_the_reply_is_the_same_however_many_keys_there_are() -> None:
    server = await started(mode="memory", max_entries=10**5)
    client = server.connect()
    for number in (3, MAX_KEYS_AT_ONCE, MAX_KEYS_AT_ONCE + 1, NUMBER):
        some = keys(number)
        pairs = [word for key in some for word in (key, b"v" + key)]
        assert await client.value(b"MSET", *pairs) == b"OK"
        assert await client.value(b"MGET", *some, b"none") == [*(b"v" + key for key in some), None]
        assert await client.value(b"EXISTS", *some, b"none", *some) == 2 * number
        assert await client.value(b"DEL", *some, b"none", *some) == number
        assert await client.value(b"EXISTS", *some) == 0
    await server.t.stop()


@pytest.mark.parametrize("name", [b"MGET", b"EXISTS", b"DEL"])
@pytest.mark.parametrize("number", [200, NUMBER])
async def test_all_keys_together_have_the_time_of_one_command(name: bytes, number: int) -> None:
    server = await started({"REQUEST_TIMEOUT_SECONDS": "0.1"})
    client = server.connect()
    server.t.store.gate.clear()
    client.send(command(name, *keys(number)))
    assert (await client.replies(1)).startswith(b"-TIMEOUT ")
    requested = server.t.store.count("get") + server.t.store.count("head")
    assert requested <= 128
    server.t.store.gate.set()
    assert await client.request(b"PING") == b"+PONG\r\n"
    await server.t.stop()


async def test_a_command_with_more_keys_than_allowed_is_rejected() -> None:
    server = await started()
    client = server.connect()
    reply = await client.request(b"MGET", *keys(MAX_KEYS + 1))
    assert reply == b"-ERR the command has 65537 keys; allowed are at most 65536\r\n"
    await server.t.stop()
