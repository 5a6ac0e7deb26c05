"""Anything may come over a connection: it gets a reply, or the connection ends, and no memory grows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import hiredis
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from milena_cache.servers.resp.commands.registry import command_registry
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import MIB, ServerUnderTest, WireClient

# What would wait, end the connection on purpose, or say something else each time.
APART = {b"DEBUG", b"INFO", b"CLIENT", b"HELLO", b"QUIT", b"SLOWLOG", b"LATENCY", b"MEMORY", b"RANDOMKEY", b"TIME"}
# Those of channels get their replies once for each channel.
NAMES = sorted(name for name in set(command_registry()) - APART if not name.endswith(b"SUBSCRIBE"))

keys = st.sampled_from([b"k", b"l", b"{k}1", b"s3://other-bucket/k", b"", b"\xff", b"a\0b"])
numbers = (b"0", b"-1", b"1", b"100", b"9223372036854775807", b"-9223372036854775808", b"9" * 30, b"1.5")
options = (b"EX", b"PX", b"NX", b"XX", b"GET", b"KEEPTTL", b"PERSIST", b"DURABILITY", b"memory", b"GT", b"MATCH")
others = (b"COUNT", b"*", b"[", b"[a-", b"TYPE", b"string", b"ENCODING", b"Get", b"Put", b"List")
arguments = keys | st.binary(max_size=10) | st.sampled_from((*numbers, *options, *others))
commands = st.tuples(st.sampled_from(NAMES), st.lists(arguments, max_size=5)).map(lambda made: [made[0], *made[1]])
no_protocol = (b"*", b"*1048577\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$99999999999\r\n", b'SET k "\r\n')
odd = (b"*-1\r\n", b"*0\r\n", b"\r\n", b"GET k\r\n")
rubbish = st.binary(max_size=30) | st.sampled_from((*no_protocol, *odd))


def fuzzed(caplog: pytest.LogCaptureFixture, test: Coroutine[Any, Any, None]) -> None:
    """Run `test`; nothing may be logged of an exception."""
    caplog.clear()
    asyncio.run(test)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert said == []


async def replies_to(client: WireClient, pieces: list[bytes]) -> tuple[bytes, str]:
    """What a connection replies to all of it, and whether it ended."""
    for piece in pieces:
        if client.transport.close_state:
            break
        client.send(piece)
    for _ in range(20):
        await client.idle()  # until everything that was begun is over
    return client.take(), client.transport.close_state


def a_server() -> ServerUnderTest:
    return ServerUnderTest({"RESP_OUTPUT_BYTES": "1MiB"}, max_value_bytes=1000)


given_examples = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given_examples
@given(st.lists(commands, max_size=10))
@example([[b"ASKING"], [b"MILENA.HELLO", b"k", b"k", b""], [b"GET", b"k"]])
@example([[b"MGET", b"k", b"l"], [b"SET", b"k", b"v", b"EX", b"9223372036854775"], [b"TTL", b"k"]])
def test_each_command_has_one_reply_whatever_its_arguments(
    caplog: pytest.LogCaptureFixture, sent: list[list[bytes]]
) -> None:
    async def test() -> None:
        client = a_server().connect()
        replies, _ = await replies_to(client, [command(*argv) for argv in sent])
        reader = hiredis.Reader()
        reader.feed(replies)
        replies_so_far = 0
        while reader.gets() is not False:  # not `iter(reader.gets, False)`: the reply 0 is equal to it
            replies_so_far += 1
        # A connection that ends (QUIT, an identity that is not this node's) ends with a reply: none is left over.
        assert replies_so_far == len(sent) or (client.transport.close_state and 0 < replies_so_far < len(sent))

    fuzzed(caplog, test())


@given_examples
@given(st.lists(commands.map(lambda argv: command(*argv)) | rubbish, max_size=8), st.lists(st.integers(0, 500)))
@example([b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*a\r\n"], [3, 5])
def test_the_replies_are_the_same_however_the_bytes_are_split(
    caplog: pytest.LogCaptureFixture, sent: list[bytes], places: list[int]
) -> None:
    data = b"".join(sent)
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})

    async def test() -> None:
        whole = await replies_to(a_server().connect(), [data])
        cut = [data[start:end] for start, end in pairwise(at)]
        assert await replies_to(a_server().connect(), cut) == whole
        each = [data[place : place + 1] for place in range(len(data))]
        assert await replies_to(a_server().connect(), each) == whole

    fuzzed(caplog, test())


@given_examples
@given(st.lists(rubbish | st.binary(max_size=2000), max_size=8))
def test_any_bytes_get_a_reply_or_end_the_connection(caplog: pytest.LogCaptureFixture, pieces: list[bytes]) -> None:
    async def test() -> None:
        server = a_server()
        client, other = server.connect(), server.connect()
        await replies_to(client, pieces)
        assert client.connection.unread <= 64 * 1024 + 8 * 2000
        assert await other.value(b"SET", b"other", b"v") == b"OK"
        client.connection.connection_lost(None)
        assert await other.value(b"GET", b"other") == b"v"

    fuzzed(caplog, test())


async def test_what_is_announced_and_does_not_come_takes_no_memory() -> None:
    server = a_server()
    clients = [server.connect() for _ in range(100)]
    for client in clients:
        client.send(b"*1048576\r\n$1000\r\n")
        assert client.connection.unread == 0
        client.send(b"x")
        assert client.connection.unread <= MIB
