"""Transactions: all commands or none, with nothing in between, on keys that are still what they were."""

from __future__ import annotations

import hiredis
import pytest

from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.transactions import MAX_COMMANDS, MAX_WATCHED
from milena_common.resp.encoding import command
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring
from tests.support.fake_clock import run_ready_tasks

ABORTED = "EXECABORT Transaction discarded because of previous errors."
CLASSES = pytest.mark.parametrize("durability", ["back", "memory"])


async def started(durability: str = "back", **options: int) -> ServerUnderTest:
    server = ServerUnderTest(mode=durability, **options)
    await server.t.start()
    return server


def words(*lines: str) -> tuple[bytes, ...]:
    return tuple(command(*line.encode().split()) for line in lines)


async def replies(client: WireClient, *sent: bytes) -> list[str]:
    """The replies as text, an error with its code word."""
    client.take()
    client.send(b"".join(sent))
    reader = hiredis.Reader()
    reader.feed(await client.replies(len(sent)))
    return [str(reader.gets()) for _ in sent]


@CLASSES
@pytest.mark.parametrize("in_pieces", [True, False])
async def test_every_command_sees_what_those_before_it_have_done(durability: str, in_pieces: bool) -> None:
    server = await started(durability)
    server.t.in_s3("there", b"7")
    client = server.connect()
    sent = words(
        "MULTI", "SET a 1", "INCR a", "APPEND there x", "INCR there", "MGET a there b", "PING", "DEL a", "EXEC"
    )
    if in_pieces:
        returned = [reply for each in sent for reply in await replies(client, each)]
    else:
        returned = await replies(client, *sent)
    assert returned[:-1] == ["b'OK'", *["b'QUEUED'"] * 7]
    error = "ReplyError('ERR value is not an integer or out of range')"
    assert returned[-1] == f"[b'OK', 2, 2, {error}, [b'2', b'7x', None], b'PONG', 1]"
    assert await client.value(b"MGET", b"a", b"there") == [None, b"7x"]
    await server.t.flush()
    assert (server.t.s3_has("a"), server.t.s3_has("there")) == (None, b"7x")
    await server.t.stop()


async def test_it_is_one_commit_of_the_journal() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(b"".join(words("MULTI", "SET a 1", "SET b 2", "RENAME b c", "EXEC")))
    await run_ready_tasks()
    other = server.connect()
    assert await other.value(b"MGET", b"a", b"b", b"c") == [None, None, None]
    commits = server.t.disk.commits
    server.t.disk.gate.set()
    assert (await client.replies(5)).endswith(b"*3\r\n+OK\r\n+OK\r\n+OK\r\n")
    assert server.t.disk.commits - commits <= 1
    assert await other.value(b"MGET", b"a", b"b", b"c") == [b"1", None, b"2"]
    await server.t.stop()


async def test_commands_behind_exec_wait_for_it_and_those_before_multi_come_first() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(b"".join(words("SET a 1", "MULTI", "INCR a", "EXEC", "INCR a", "GET a")))
    await run_ready_tasks()
    server.t.disk.gate.set()
    assert await client.replies(6) == b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:2\r\n:3\r\n$1\r\n3\r\n"
    await server.t.stop()


@CLASSES
async def test_of_transactions_of_many_connections_no_increment_is_lost(durability: str) -> None:
    server = await started(durability)
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.send(b"".join(words("MULTI", "INCR a", "INCR b", "EXEC") * 4))
    for client in clients:
        await client.replies(16)
    assert await clients[0].value(b"MGET", b"a", b"b") == [b"20", b"20"]
    await server.t.stop()


@pytest.mark.parametrize(
    "rejected",
    [
        *words("NOSUCH a", "GET", "GET a b", "OBJECT NOSUCH a", "SET a 1 DURABILITY back", "MEMORY USAGE a"),
        *words("HELLO 3", "SUBSCRIBE __redis__:invalidate", "CLIENT REPLY OFF", "SET s3://no-such/a 1"),
        command(b"MILENA.CALL", b"Put", b"5000", pb.PutRequest(key=b"a", value=b"1").SerializeToString()),
    ],
)
async def test_nothing_is_done_if_a_command_was_rejected(rejected: bytes) -> None:
    server = await started()
    client = server.connect()
    returned = await replies(client, *words("MULTI", "SET a 1"), rejected, *words("SET b 1", "EXEC"))
    assert returned[0:2] == ["b'OK'", "b'QUEUED'"]
    assert returned[3:] == ["b'QUEUED'", ABORTED]
    assert await client.value(b"EXISTS", b"a", b"b") == 0
    assert await replies(client, *words("MULTI", "EXEC")) == ["b'OK'", "[]"]
    await server.t.stop()


async def test_its_size_is_bounded() -> None:
    server = await started("memory")
    client = server.connect()
    await replies(client, *words("MULTI"), *words("GET a") * MAX_COMMANDS)
    assert (await replies(client, *words("GET a")))[0].startswith("ERR a transaction has at most")
    assert await replies(client, *words("EXEC")) == [ABORTED]
    await replies(client, *words("MULTI"))
    value = b"x" * 900_000
    returned = [str(await client.value(b"SET", b"a", value)) for _ in range(19)]
    assert returned[0] == "b'QUEUED'"
    assert returned[-1].startswith("ERR a transaction has at most")
    assert client.session.transaction.bytes > 16 * 900_000
    assert await replies(client, *words("DISCARD")) == ["b'OK'"]
    assert (await client.value(b"WATCH", *(b"k%d" % n for n in range(MAX_WATCHED)))) == b"OK"
    assert str(await client.value(b"WATCH", b"another")).startswith("ERR a connection can watch at most")
    await server.t.stop()


@pytest.mark.parametrize("end", ["EXEC", "DISCARD", "RESET"])
async def test_after_its_end_commands_are_carried_out_again(end: str) -> None:
    server = await started()
    client = server.connect()
    await replies(client, *words("MULTI", "PING", end))
    assert await client.request(b"SET", b"a", b"1") == b"+OK\r\n"
    assert await client.value(b"GET", b"a") == b"1"
    await server.t.stop()


@CLASSES
async def test_nothing_is_done_if_a_watched_key_was_written(durability: str) -> None:
    server = await started(durability)
    client, other = server.connect(), server.connect()
    await other.request(b"SET", b"a", b"1")
    for change in words("SET a 1", "EXPIRE a 1000", "INCR a", "DEL a", "SET a 2"):
        assert await replies(client, *words("WATCH a")) == ["b'OK'"]
        await replies(other, change)
        assert (await replies(client, *words("MULTI", "SET a 9", "SET b 9", "EXEC")))[-1] == "None"
        assert (await replies(client, *words("MULTI", "GET a", "EXEC")))[-1] != "None"
    assert await client.value(b"EXISTS", b"b") == 0
    await server.t.stop()


@CLASSES
async def test_it_is_done_if_watched_keys_were_only_uploaded_or_read(durability: str) -> None:
    server = await started(durability)
    client, other = server.connect(), server.connect()
    await client.request(b"SET", b"a", b"1")
    await replies(client, *words("WATCH a b"))
    await server.t.flush()
    assert await other.value(b"MGET", b"a", b"b") == [b"1", None]
    assert (await replies(client, *words("MULTI", "INCR a", "EXEC")))[-1] == "[2]"
    await replies(client, *words("WATCH gone"))
    await replies(other, *words("DEL gone"))
    assert (await replies(client, *words("MULTI", "GET gone", "EXEC")))[-1] == "[None]"
    await replies(client, *words("WATCH a", "INCR a", "UNWATCH"))
    assert (await replies(client, *words("MULTI", "INCR a", "EXEC")))[-1] == "[4]"
    await server.t.stop()


async def test_a_slot_that_moved_between_watch_and_exec_is_never_written() -> None:
    server = await started("memory")
    client = server.connect()
    server.ownership.update(ring(ME, "10.0.0.2:50051", epoch=2))
    key = next(b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) < 8000)
    await client.request(b"SET", key, b"1")
    await client.request(b"WATCH", key)
    assert (await replies(client, command(b"MULTI"), command(b"SET", key, b"2"))) == ["b'OK'", "b'QUEUED'"]
    server.ownership.update(ring("10.0.0.2:50051", epoch=3))
    assert (await replies(client, command(b"EXEC")))[0].startswith("MOVED ")
    await client.request(b"WATCH", key)
    server.ownership.update(ring(ME, "10.0.0.2:50051", epoch=4))
    await server.t.stop()


async def test_keys_of_several_slots_are_rejected_when_they_are_queued() -> None:
    server = await started("memory")
    client = server.connect()
    server.ownership.update(ring(ME, "10.0.0.2:50051", epoch=2))
    one, two = [b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) < 8000][:2]
    sent = (command(b"MULTI"), command(b"SET", one, b"1"), command(b"SET", two, b"1"), command(b"EXEC"))
    returned = await replies(client, *sent)
    assert returned[2:] == ["CROSSSLOT Keys in request don't hash to the same slot", ABORTED]
    elsewhere = next(b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) > 9000)
    returned = await replies(client, command(b"MULTI"), command(b"GET", elsewhere), command(b"EXEC"))
    assert returned[1].startswith("MOVED ")
    assert returned[2] == ABORTED
    await server.t.stop()


async def test_through_s3_only_one_key_can_be_written() -> None:
    server = await started("through")
    client = server.connect()
    assert (await replies(client, *words("MULTI", "SET a 1", "INCR a", "EXEC")))[-1] == "[b'OK', 2]"
    returned = await replies(client, *words("MULTI", "SET a 7", "SET b 7", "EXEC"))
    assert returned[-1].startswith("PRECONDITION several keys cannot be written together")
    assert (server.t.s3_has("a"), server.t.s3_has("b")) == (b"2", None)
    await server.t.stop()


async def test_what_is_only_overwritten_is_not_read_from_s3() -> None:
    server = await started("back")
    client = server.connect()
    server.t.store.gate.clear()
    assert (await replies(client, *words("MULTI", "SET a 1", "SETEX b 9 1", "GET a", "EXEC")))[-1] != "None"
    server.t.store.gate.set()
    # The second command fails, so that the third one has to look.
    returned = await replies(client, *words("MULTI", "SETEX c 0 1", "GET c", "EXEC"))
    assert returned[-1] == "[ReplyError(\"ERR invalid expire time in 'setex' command\"), None]"
    await server.t.stop()


async def test_without_multi_they_reply_as_redis_does() -> None:
    server = await started()
    client = server.connect()
    assert await replies(client, *words("EXEC", "DISCARD", "UNWATCH")) == [
        "ERR EXEC without MULTI",
        "ERR DISCARD without MULTI",
        "b'OK'",
    ]
    assert await replies(client, *words("MULTI", "MULTI", "WATCH a", "EXEC")) == [
        "b'OK'",
        "ERR MULTI calls can not be nested",
        "ERR WATCH inside MULTI is not allowed",
        "[]",
    ]
    await server.t.stop()


async def test_another_connection_is_not_concerned() -> None:
    server = await started()
    client, other = server.connect(), server.connect()
    await replies(client, *words("MULTI"))
    assert await other.request(b"SET", b"a", b"1") == b"+OK\r\n"
    await server.t.stop()


async def test_a_command_that_waited_too_long_fails_the_transaction() -> None:
    server = await started()
    client = server.connect()
    server.t.store.gate.clear()
    client.send(b"".join(words("GET cold", "HELLO 3", "MULTI", "SET a 1", "EXEC")))
    await run_ready_tasks()
    server.t.clock.tick(server.config.request_timeout + 1)
    server.t.store.gate.set()
    await run_ready_tasks()
    assert b"EXECABORT" in client.take()
    assert await client.value(b"EXISTS", b"a") == 0
    await server.t.stop()


@CLASSES
async def test_sets_that_came_together_are_done_together(durability: str) -> None:
    server = await started(durability)
    client = server.connect()
    await replies(client, *words("MULTI", "SET a 1", "SET b 2", "SET a 3"))
    assert client.session.transaction.sets == ([b"a", b"b", b"a"], [b"1", b"2", b"3"])
    assert (await replies(client, *words("EXEC"))) == ["[b'OK', b'OK', b'OK']"]
    assert await client.value(b"MGET", b"a", b"b") == [b"3", b"2"]
    await replies(client, *words("MULTI", "SET a 4", "GET a", "SET b 5"))
    assert client.session.transaction.sets is None
    assert [each.argv[0] for each in client.session.transaction.commands] == [b"SET", b"GET", b"SET"]
    assert (await replies(client, *words("EXEC"))) == ["[b'OK', b'4', b'OK']"]
    await server.t.stop()


async def test_of_sets_for_which_there_is_no_room_none_is_done() -> None:
    server = await started("memory", dirty_max_bytes=4000)
    client = server.connect()
    value = bytes(1500)
    sent = (command(b"SET", key, value) for key in (b"a", b"b", b"c"))
    returned = await replies(client, *words("MULTI"), *sent, *words("EXEC"))
    assert returned[-1].startswith("UNAVAILABLE several keys cannot be written together now")
    assert len(server.t.dirty) == 0
    await server.t.stop()


async def test_sets_wait_for_a_write_in_flight_of_one_of_their_keys() -> None:
    server = await started("memory")
    client, other = server.connect(), server.connect()
    server.t.store.gate.clear()
    other.send(command(b"SET", b"b", b"0", b"NX"))
    await run_ready_tasks()
    client.send(b"".join(words("MULTI", "SET a 1", "SET b 1", "EXEC")))
    await run_ready_tasks()
    assert len(server.t.dirty) == 0
    server.t.store.gate.set()
    assert (await client.replies(4)).endswith(b"*2\r\n+OK\r\n+OK\r\n")
    assert await client.value(b"MGET", b"a", b"b") == [b"1", b"1"]
    await server.t.stop()


async def test_a_ring_that_changes_before_exec_has_nothing_written_of_its_sets() -> None:
    server = await started("memory")
    client = server.connect()
    here = next(b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) < 8000)
    there = next(b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) > 9000)
    queued = (command(b"MULTI"), command(b"SET", here, b"1"), command(b"SET", there, b"1"))
    assert (await replies(client, *queued))[1:] == ["b'QUEUED'"] * 2
    server.ownership.update(ring(ME, "10.0.0.2:50051", epoch=2))
    returned = await replies(client, command(b"EXEC"))
    assert returned == ["CROSSSLOT Keys in request don't hash to the same slot"]
    await replies(client, *queued[:2])
    server.ownership.update(ring("10.0.0.2:50051", epoch=3))
    assert (await replies(client, command(b"EXEC")))[0].startswith("MOVED ")
    assert len(server.t.dirty) == 0
    await server.t.stop()
