"""There are no transactions: of one that a client believes to have failed, nothing is carried out."""

from __future__ import annotations

import hiredis
import pytest

from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.support.fake_clock import run_ready_tasks


async def started() -> ServerUnderTest:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    return server


async def replies(client: WireClient, *sent: bytes) -> list[str]:
    """The replies as text, an error with its code word."""
    client.take()
    client.send(b"".join(sent))
    reader = hiredis.Reader()
    reader.feed(await client.replies(len(sent)))
    return [str(reader.gets()) for _ in sent]


WRITES = (
    command(b"SET", b"a", b"1"),
    command(b"MSET", b"a", b"1", b"b", b"2"),
    command(b"SET", b"a", b"1", b"NX", b"EX", b"9"),
    command(b"DEL", b"there"),
    command(b"GETDEL", b"there"),
    command(b"EXPIRE", b"there", b"0"),
    command(b"MILENA.CALL", b"Put", b"5000", pb.PutRequest(key=b"a", value=b"1").SerializeToString()),
)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("pieces", [1, 0])
async def test_nothing_between_multi_and_exec_is_carried_out(write: bytes, pieces: int) -> None:
    server = await started()
    client = server.connect()
    await server.warm(client, "there", b"x")
    sent = (command(b"MULTI"), write, command(b"GET", b"there"), command(b"EXEC"))
    if pieces:
        returned = [reply for each in sent for reply in await replies(client, each)]
    else:
        returned = await replies(client, *sent)
    assert returned[0] == "b'OK'"
    assert returned[1].startswith("ERR transactions are not supported")
    assert returned[2].startswith("ERR transactions are not supported")
    assert returned[3] == "EXECABORT Transaction discarded because of previous errors."
    await run_ready_tasks()
    assert await client.value(b"MGET", b"a", b"b", b"there") == [None, None, b"x"]
    assert len(server.t.dirty) == 0
    await server.t.stop()


@pytest.mark.parametrize("end", [b"EXEC", b"DISCARD", b"RESET"])
async def test_after_its_end_commands_are_carried_out_again(end: bytes) -> None:
    server = await started()
    client = server.connect()
    await replies(client, command(b"MULTI"), command(b"PING"), command(end))
    assert await client.request(b"SET", b"a", b"1") == b"+OK\r\n"
    assert await client.value(b"GET", b"a") == b"1"
    await server.t.stop()


@pytest.mark.parametrize("rejected", [b"MULTI", b"WATCH", b"PING", b"NOSUCH"])
async def test_exec_fails_if_any_command_was_rejected(rejected: bytes) -> None:
    server = await started()
    client = server.connect()
    returned = await replies(client, command(b"MULTI"), command(rejected, b"a"), command(b"EXEC"))
    assert returned[2] == "EXECABORT Transaction discarded because of previous errors."
    assert await replies(client, command(b"MULTI"), command(b"EXEC")) == ["b'OK'", "[]"]
    await server.t.stop()


async def test_a_client_that_waits_for_the_reply_to_multi_does_not_take_it_for_rejected() -> None:
    """It would send neither EXEC nor DISCARD, and all that follows on its connection would be rejected."""
    server = await started()
    client = server.connect()
    assert client.now(b"MULTI") == b"+OK\r\n"
    assert client.now(b"DISCARD") == b"+OK\r\n"
    assert await client.request(b"SET", b"a", b"1") == b"+OK\r\n"
    await server.t.stop()


async def test_another_connection_is_not_concerned() -> None:
    server = await started()
    client, other = server.connect(), server.connect()
    await replies(client, command(b"MULTI"))
    assert await other.request(b"SET", b"a", b"1") == b"+OK\r\n"
    await server.t.stop()


async def test_a_transaction_that_waits_too_long_is_rejected_as_a_whole() -> None:
    """Were MULTI rejected for its age alone, what comes after it in time would be carried out."""
    server = await started()
    client = server.connect()
    server.t.store.gate.clear()
    client.send(command(b"GET", b"cold") + command(b"HELLO", b"3") + command(b"MULTI"))
    await run_ready_tasks()
    server.t.clock.tick(server.config.request_timeout + 1)
    server.t.store.gate.set()
    await run_ready_tasks()
    client.take()
    assert (await client.request(b"SET", b"a", b"1")).startswith(b"-ERR transactions")
    await server.t.stop()


async def test_without_multi_they_reply_as_redis_does() -> None:
    server = await started()
    client = server.connect()
    assert await replies(client, command(b"EXEC"), command(b"DISCARD")) == [
        "ERR EXEC without MULTI",
        "ERR DISCARD without MULTI",
    ]
    assert client.now(b"UNWATCH") == b"+OK\r\n"
    assert (await replies(client, command(b"WATCH", b"a")))[0].startswith("ERR transactions are not supported")
    await server.t.stop()
