"""COMMAND: what clients learn of the commands."""

from __future__ import annotations

import re
from typing import Any

from tests.cache.servers.resp.server_under_test import ServerUnderTest


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def test_as_redis_server_describes_get() -> None:
    client = ServerUnderTest().connect()
    (described,) = await client.value(b"COMMAND", b"INFO", b"GET")
    assert described == [
        b"get",
        2,
        [b"fast", b"readonly"],
        1,
        1,
        1,
        [b"@fast", b"@read", b"@string"],
        [],
        [
            [
                *(b"flags", [b"RO", b"access"]),
                *(b"begin_search", [b"type", b"index", b"spec", [b"index", 1]]),
                *(b"find_keys", [b"type", b"range", b"spec", [b"lastkey", 0, b"keystep", 1, b"limit", 0]]),
            ]
        ],
        [],
    ]


async def test_every_command_can_be_described() -> None:
    server = ServerUnderTest()
    client = server.connect(resp3=True)
    described = await client.value(b"COMMAND")
    assert len(described) == await client.value(b"COMMAND", b"COUNT") == len(server.context.commands)
    assert described == await client.value(b"COMMAND", b"INFO")
    docs = await client.value(b"COMMAND", b"DOCS")
    assert sorted(docs) == sorted(await client.value(b"COMMAND", b"LIST"))
    by_name = {each[0]: each for each in described}
    for name, doc in docs.items():
        assert set(doc) >= {b"summary", b"since", b"group", b"complexity"}
        assert doc[b"summary"], name
        below = [each[0] for each in by_name[name][9]]
        assert sorted(doc.get(b"subcommands", {})) == sorted(below)
        assert all(each.startswith(name + b"|") for each in below)
        for each in doc.get(b"subcommands", {}).values():
            assert each[b"summary"], each
        for word in (doc[b"summary"], doc[b"complexity"]):
            assert re.fullmatch(rb"[\x20-\x7e]+", word)


async def test_a_command_with_subcommands_has_no_keys_and_its_subcommand_has() -> None:
    client = ServerUnderTest().connect()
    container, usage, nothing = await client.value(b"COMMAND", b"INFO", b"memory", b"memory|usage", b"nosuch")
    assert container[3:6] == [0, 0, 0]
    assert usage[3:6] == [2, 2, 1]
    assert nothing is None
    (docs,) = (pairs(await client.value(b"COMMAND", b"DOCS", b"memory|usage", b"nosuch")),)
    assert list(docs) == [b"memory|usage"]


async def test_the_keys_of_a_command() -> None:
    client = ServerUnderTest().connect()

    async def keys(*argv: bytes) -> Any:
        return await client.value(b"COMMAND", b"GETKEYS", *argv)

    assert await keys(b"get", b"a") == [b"a"]
    assert await keys(b"mset", b"a", b"1", b"b", b"2") == [b"a", b"b"]
    assert await keys(b"del", b"a", b"b") == [b"a", b"b"]
    assert await keys(b"memory", b"usage", b"k") == [b"k"]
    assert str(await keys(b"nosuch", b"a")) == "ERR Invalid command specified"
    assert str(await keys(b"client", b"id")) == "ERR The command has no key arguments"
    assert str(await keys(b"get", b"a", b"b")) == "ERR Invalid number of arguments specified for command"
    assert client.now(b"COMMAND", b"GETKEYS", b"get").startswith(
        b"-ERR wrong number of arguments for 'command|getkeys'"
    )


async def test_lists() -> None:
    client = ServerUnderTest().connect()

    async def names(*argv: bytes) -> Any:
        return await client.value(b"COMMAND", b"LIST", *argv)

    assert b"get" in await names()
    assert b"client|id" not in await names()
    assert await names(b"FILTERBY", b"MODULE", b"x") == []
    assert await names(b"FILTERBY", b"ACLCAT", b"nosuch") == []
    assert {b"get", b"memory|usage"} <= set(await names(b"filterby", b"aclcat", b"READ"))
    assert await names(b"FILTERBY", b"PATTERN", b"SLOWLOG|?ET") == [b"slowlog|get"]
    assert str(await names(b"FILTERBY", b"x", b"y")) == "ERR syntax error"
    assert client.now(b"COMMAND", b"NOSUCH") == b"-ERR unknown subcommand 'NOSUCH'. Try COMMAND HELP.\r\n"
