"""In which order a connection's commands take effect, and its replies and messages reach the client."""

from __future__ import annotations

import hiredis
import pytest

from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.support.fake_clock import run_ready_tasks

BIG = 2 * HIGH_WATER


async def started(**node: object) -> ServerUnderTest:
    server = ServerUnderTest(**node)  # type: ignore[arg-type]
    await server.t.start()
    return server


async def deferring(server: ServerUnderTest) -> WireClient:
    client = server.connect(resp3=True)
    assert client.now(b"CLIENT", b"DEFER", b"ON") == b"+OK\r\n"
    return client


def call(method: str, request: object) -> bytes:
    return command(b"MILENA.CALL", method.encode(), b"5000", request.SerializeToString())  # type: ignore[attr-defined]


def push(number: int, reply: bytes) -> bytes:
    return b">3\r\n+deferred\r\n:%d\r\n%b" % (number, reply)


async def test_a_waiting_command_gets_its_reply_in_the_protocol_of_its_request() -> None:
    server = await started()
    client = server.connect()
    client.send(command(b"GET", b"none") + command(b"HELLO", b"3") + command(b"GET", b"none"))
    await run_ready_tasks()
    replies = client.take()
    assert replies.startswith(b"$-1\r\n%7\r\n")
    assert replies.endswith(b"_\r\n")
    await server.t.stop()


@pytest.mark.parametrize("argv", [(b"HELLO", b"2"), (b"RESET",), (b"CLIENT", b"DEFER", b"OFF")])
async def test_no_deferred_reply_comes_after_the_end_of_deferring(argv: tuple[bytes, ...]) -> None:
    server = await started()
    client = await deferring(server)
    client.send(command(b"GET", b"none") + command(*argv) + command(b"GET", b"nowhere"))
    assert client.take() == b"-DEFERRED 1\r\n"
    await run_ready_tasks()
    replies = client.take()
    assert replies.startswith(push(1, b"_\r\n"))
    assert replies.endswith(b"_\r\n" if argv[0] == b"CLIENT" else b"$-1\r\n")
    assert b"DEFERRED" not in replies
    await server.t.stop()


async def test_a_deferred_reply_does_not_come_before_its_announcement() -> None:
    server = await started()
    client = server.connect(resp3=True)
    client.send(command(b"DEBUG", b"SLEEP", b"1") + command(b"CLIENT", b"DEFER", b"ON") + command(b"GET", b"none"))
    await run_ready_tasks()
    assert client.take() == b""
    await server.t.clock.advance(2)
    assert client.take() == b"+OK\r\n+OK\r\n-DEFERRED 1\r\n" + push(1, b"_\r\n")
    await server.t.stop()


@pytest.mark.parametrize("end", ["quit", "finish", "eof"])
async def test_closing_waits_for_the_deferred_replies_of_a_slow_client(end: str) -> None:
    server = await started(max_bytes=10**8, max_value_bytes=10**7)
    client = await deferring(server)
    for key in (b"a", b"b", b"c"):
        server.t.in_s3(key.decode(), key * BIG)
    client.take()
    client.transport.client_reads = False
    client.send(b"".join(command(b"GET", key) for key in (b"a", b"b", b"c")))
    if end == "quit":
        client.send(command(b"QUIT"))
    await run_ready_tasks()
    if end == "finish":
        client.connection.finish()
    if end == "eof" and not client.connection.eof_received():
        client.transport.close()
    await run_ready_tasks()
    client.transport.client_takes()
    await run_ready_tasks()
    replies = client.take()
    for key in (b"a", b"b", b"c"):
        assert bulk(key * BIG) in replies
    assert client.transport.close_state == "closed"
    await server.t.stop()


async def test_a_push_does_not_overtake_a_reply_that_waits_for_the_client() -> None:
    """Or the client would keep a value after it was notified to drop it."""
    server = await started(max_bytes=10**8, max_value_bytes=10**7)
    client, other = await deferring(server), server.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON")
    for key in (b"a", b"b"):
        server.t.in_s3(key.decode(), key * BIG)
    client.transport.client_reads = False
    client.send(command(b"GET", b"a") + command(b"GET", b"b"))
    await run_ready_tasks()
    for key in (b"a", b"b"):
        assert await other.request(b"SET", key, b"newer") == b"+OK\r\n"
    await run_ready_tasks()
    client.transport.client_takes()
    await run_ready_tasks()
    replies = client.take()
    said = [replies.index(key * BIG) for key in (b"a", b"b")]
    notified = [replies.rindex(bulk(key)) for key in (b"a", b"b")]
    assert max(said) < min(notified)
    await server.t.stop()


async def test_calls_of_the_api_see_the_writes_before_them() -> None:
    server = await started()
    client = server.connect()
    server.t.in_s3("k", b"0")
    client.send(
        command(b"GET", b"k")
        + call("Put", pb.PutRequest(key=b"k", value=b"1"))
        + call("Get", pb.GetRequest(key=b"k"))
        + call("Delete", pb.DeleteRequest(key=b"k", bucket="bucket"))
        + command(b"GET", b"k")
    )
    reader = hiredis.Reader()
    reader.feed(await client.replies(5))
    replies = [reader.gets() for _ in range(5)]
    assert (replies[0], replies[4]) == (b"0", None)
    assert pb.GetResponse.FromString(replies[2]).value == b"1"
    await server.t.stop()


async def test_a_change_while_a_call_is_queued_is_notified_after_its_reply() -> None:
    server = await started()
    client, other = server.connect(resp3=True), server.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON")
    server.t.in_s3("k", b"old")
    client.send(command(b"DEBUG", b"SLEEP", b"1") + call("Get", pb.GetRequest(key=b"k")))
    await run_ready_tasks()
    assert await other.request(b"SET", b"k", b"new") == b"+OK\r\n"
    await run_ready_tasks()
    await server.t.clock.advance(2)
    reader = hiredis.Reader()
    reader.feed(client.take())
    replies = []
    while (reply := reader.gets()) is not False:
        replies.append(reply)
    place = next(number for number, reply in enumerate(replies) if isinstance(reply, bytes) and b"old" in reply)
    assert [b"invalidate", [b"k"]] in replies[place + 1 :]
    await server.t.stop()


async def test_two_names_of_an_object_are_one_object() -> None:
    server = await started(mode="back")
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1") + command(b"GET", b"s3://bucket/k") + command(b"GET", b"s3://default/k")
    )
    await run_ready_tasks()
    server.t.disk.gate.set()
    assert await client.replies(3) == b"+OK\r\n" + bulk(b"1") * 2
    await server.t.stop()


@pytest.mark.parametrize("second", [b"back", b"memory", b"through"])
async def test_the_later_of_two_writes_counts_whatever_their_durability(second: bytes) -> None:
    server = await started(mode="back")
    client = server.connect()
    client.send(
        command(b"SET", b"k", b"1", b"DURABILITY", b"through")
        + command(b"SET", b"k", b"2", b"DURABILITY", second)
        + command(b"GET", b"k")
    )
    assert await client.replies(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await server.t.flush()
    assert server.t.s3_has("k") == b"2"
    await server.t.stop()


async def test_a_write_for_which_there_was_no_room_is_not_later_than_the_one_behind_it() -> None:
    server = await started(mode="back", dirty_max_bytes=5000)
    client = server.connect()
    client.send(command(b"SET", b"k", b"1" * 6000) + command(b"SET", b"k", b"2") + command(b"GET", b"k"))
    assert await client.replies(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await server.t.stop()


@pytest.mark.parametrize("durability", [b"through", b"back"])
async def test_what_was_begun_is_done_though_the_client_has_gone(durability: bytes) -> None:
    server = await started(mode="back")
    client, other = server.connect(), server.connect()
    server.t.store.gate.clear()
    server.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1", b"DURABILITY", durability) + command(b"DEL", b"l"))
    await run_ready_tasks()
    client.transport.abort()
    await run_ready_tasks()
    assert not client.take()
    server.t.store.gate.set()
    server.t.disk.gate.set()
    assert await other.value(b"GET", b"k") in (None, b"1")
    await server.t.writes.finish(5.0)
    await server.t.flush()
    assert server.t.s3_has("k") == b"1"
    await run_ready_tasks()  # a command is counted a few turns of the loop after what it has done
    assert server.calls["put"].requests == 1
    assert not server.calls["put"].errors
    await server.t.stop()


@pytest.mark.parametrize("tracking", [False, True])
async def test_a_mixed_pipeline_waits_for_the_disk_once_and_not_for_each_of_its_keys(tracking: bool) -> None:
    server = await started(mode="back")
    client = server.connect()
    if tracking:
        client.now(b"CLIENT", b"TRACKING", b"ON")
    keys = [b"k%d" % number for number in range(400)]
    server.t.disk.gate.clear()
    before = server.t.disk.commits
    client.send(b"".join(command(b"SET", key, key) + command(b"GET", key) for key in keys))
    await run_ready_tasks()
    assert client.take() == b""
    server.t.disk.gate.set()
    assert await client.replies(2 * len(keys)) == b"".join(b"+OK\r\n" + bulk(key) for key in keys)
    assert server.t.disk.commits - before <= 2
    await server.t.stop()


async def test_a_command_that_waits_for_one_before_it_is_rejected_when_it_has_waited_too_long() -> None:
    server = await started(mode="back")
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"SET", b"l", b"2"))
    await run_ready_tasks()
    server.t.clock.tick(server.config.request_timeout + 1)
    server.t.disk.gate.set()
    reader = hiredis.Reader()
    reader.feed(await client.replies(3))
    replies = [reader.gets() for _ in range(3)]
    assert (replies[0], replies[2]) == (b"OK", b"OK")
    assert str(replies[1]).startswith("BUSY retry-after-ms=")
    await server.t.stop()


async def test_a_transaction_does_not_concern_the_commands_before_it_that_still_wait() -> None:
    server = await started(mode="back")
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1")
        + command(b"GET", b"k")
        + command(b"MULTI")
        + command(b"SET", b"l", b"2")
        + command(b"EXEC")
        + command(b"GET", b"l")
    )
    await run_ready_tasks()
    server.t.disk.gate.set()
    replies = await client.replies(6)
    assert replies == b"+OK\r\n" + bulk(b"1") + b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n" + bulk(b"2")
    await server.t.stop()


async def test_a_suppressed_reply_is_that_of_the_command_that_was_named() -> None:
    server = await started(mode="back")
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1")
        + command(b"CLIENT", b"REPLY", b"SKIP")
        + command(b"GET", b"k")
        + command(b"SET", b"l", b"2")
        + command(b"GET", b"l")
    )
    await run_ready_tasks()
    server.t.disk.gate.set()
    assert await client.replies(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await server.t.stop()


async def test_commands_that_wait_for_others_are_not_carried_out_when_the_client_has_gone() -> None:
    server = await started(mode="back")
    client, other = server.connect(), server.connect()
    server.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"SET", b"k", b"2"))
    await run_ready_tasks()
    client.transport.abort()
    await run_ready_tasks()
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert await other.value(b"GET", b"k") == b"1"
    await server.t.flush()
    assert server.t.s3_has("k") == b"1"
    await server.t.stop()


@pytest.mark.parametrize("end", ["quit", "finish", "eof"])
async def test_the_end_of_a_connection_waits_for_commands_that_wait_for_others(end: str) -> None:
    server = await started(mode="back")
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"GET", b"k"))
    if end == "quit":
        client.send(command(b"QUIT"))
    await run_ready_tasks()
    if end == "finish":
        client.connection.finish()
    if end == "eof" and not client.connection.eof_received():
        client.transport.close()
    await run_ready_tasks()
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert client.take().startswith(b"+OK\r\n" + bulk(b"1") * 2)
    assert client.transport.close_state == "closed"
    await server.t.stop()


async def test_a_command_that_waits_for_others_is_tracked_if_it_is_the_one_that_was_named() -> None:
    server = await started(mode="back")
    client, other = server.connect(resp3=True), server.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON", b"OPTIN")
    server.t.disk.gate.clear()
    client.send(
        command(b"SET", b"a", b"1")
        + command(b"SET", b"b", b"1")
        + command(b"GET", b"a")
        + command(b"CLIENT", b"CACHING", b"YES")
        + command(b"GET", b"b")
        + command(b"GET", b"a")
    )
    await run_ready_tasks()
    server.t.disk.gate.set()
    await client.replies(6)
    for key in (b"a", b"b"):
        await other.request(b"SET", key, b"2")
    await run_ready_tasks()
    pushes = client.take()
    assert bulk(b"b") in pushes
    assert bulk(b"a") not in pushes
    await server.t.stop()
