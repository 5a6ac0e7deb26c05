"""What one connection may hold, and for how long: commands, replies, and the connection itself."""

from __future__ import annotations

import pytest

from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_cache.servers.resp.server import STALLED_SWEEPS
from milena_cache.servers.resp.state.pending_replies import MAX_PENDING
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import MIB, ServerUnderTest, WireClient, parsed
from tests.support.fake_clock import run_ready_tasks


async def started(variables: dict[str, str] | None = None, **node: object) -> ServerUnderTest:
    server = ServerUnderTest(variables, **node)
    await server.t.start()
    return server


async def test_a_deferring_client_with_one_command_at_a_time_has_the_same_limit_of_pending_replies() -> None:
    server = await started()
    client = server.connect(resp3=True)
    client.now(b"CLIENT", b"DEFER", b"ON")
    server.t.store.gate.clear()
    sent = 0
    while client.transport.reading:
        assert sent <= MAX_PENDING
        client.send(command(b"GET", b"k%d" % sent))
        sent += 1
    assert client.take().count(b"-DEFERRED ") == MAX_PENDING
    server.t.store.gate.set()
    while client.take() or client.connection.session.commands < sent + 2:
        await run_ready_tasks()
    assert client.transport.reading
    await server.t.stop()


async def test_values_on_their_way_to_s3_hold_up_the_commands_behind_them() -> None:
    server = await started(max_value_bytes=MIB)
    client = server.connect()
    server.t.store.gate.clear()
    sent = 0
    while client.transport.reading and sent < 300:
        client.send(command(b"SET", b"k%d" % sent, bytes(MIB)))
        sent += 1
    await run_ready_tasks()
    assert sent < 100
    server.t.store.gate.set()
    assert await client.replies(sent) == b"+OK\r\n" * sent
    assert client.transport.reading
    await server.t.stop()


async def test_a_pipeline_of_large_replies_stops_when_the_client_does_not_read() -> None:
    server = await started({"RESP_OUTPUT_BYTES": "4MiB"}, max_bytes=10**7)
    client = server.connect()
    value = b"v" * (HIGH_WATER // 4)
    await server.warm(client, "big", value)
    client.transport.client_reads = False
    client.send(command(b"MGET", b"big") * 100)
    assert 4 * HIGH_WATER <= client.transport.unsent < 5 * HIGH_WATER
    client.take()
    client.transport.client_takes()
    await run_ready_tasks()
    assert client.session.commands == 101
    await server.t.stop()


async def test_any_command_may_reply_with_as_much_as_the_value_limit() -> None:
    server = await started({"RESP_OUTPUT_BYTES": "1KiB"}, max_value_bytes=2000)
    client = server.connect()
    await server.warm(client, "big", b"v" * 2000)
    for _ in range(2):
        assert client.now(b"MGET", b"big") == b"*1\r\n" + bulk(b"v" * 2000)
    await server.t.stop()


@pytest.mark.parametrize("end", [command(b"QUIT"), b"*1\r\n+no\r\n"])
async def test_a_client_that_closes_and_reads_no_replies_is_disconnected(end: bytes) -> None:
    server = await started(max_bytes=10**7)
    client = server.connect()
    await server.warm(client, "big", b"v" * (HIGH_WATER // 2))
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") + end)
    assert client.transport.close_state == "closed"
    for _ in range(2 * STALLED_SWEEPS):
        server.server.sweep()
    assert client.transport.close_state == "aborted"
    await run_ready_tasks()
    assert not server.context.clients.by_id
    await server.t.stop()


async def test_a_stop_does_not_wait_for_a_client_that_does_not_read() -> None:
    server = await started(max_bytes=10**7)
    client = server.connect()
    await server.warm(client, "big", b"v" * (HIGH_WATER // 2))
    client.transport.client_reads = False
    client.send(command(b"GET", b"big"))
    client.connection.finish()
    client.connection.disconnect("killed")
    assert client.transport.close_state == "aborted"
    await server.t.stop()


async def test_a_client_that_waits_for_a_reply_is_not_silent() -> None:
    server = await started({"RESP_IDLE_SECONDS": "10"})
    client = server.connect()
    client.send(command(b"DEBUG", b"SLEEP", b"30"))
    await run_ready_tasks()
    await server.t.clock.advance(29)
    server.server.sweep()
    assert not client.transport.close_state
    await server.t.clock.advance(2)
    assert client.take() == b"+OK\r\n"
    server.server.sweep()
    assert not client.transport.close_state
    await server.t.clock.advance(11)
    server.server.sweep()
    assert client.transport.close_state
    await server.t.stop()


async def test_a_value_of_any_allowed_size_can_be_written_by_any_command() -> None:
    maximum = 2 * MIB
    server = await started(max_value_bytes=maximum, max_bytes=10**8)
    client = server.connect()
    value = bytes(maximum)
    assert await client.request(b"SET", b"k", value) == b"+OK\r\n"
    put = pb.PutRequest(key=b"k" * 1024, value=value, durability="through", if_none_match="*")
    reply = await client.value(b"MILENA.CALL", b"Put", b"5000", put.SerializeToString())
    assert pb.PutResponse.FromString(reply).successful
    assert server.t.s3_has("k" * 1024) == value
    await server.t.stop()


@pytest.mark.parametrize("more", [1, 4 * MIB])
async def test_a_value_over_the_limit_is_rejected_and_the_connection_goes_on(more: int) -> None:
    maximum = 2 * MIB
    server = await started(max_value_bytes=maximum)
    client = server.connect()
    size = maximum + more
    data = command(b"SET", b"k", bytes(size)) + command(b"PING")
    for at in range(0, len(data), 2**18):
        client.send(data[at : at + 2**18])
        assert client.connection.unread <= 2 * maximum
    replies = await client.replies(2)
    assert str(parsed(replies)) == f"ERR value: has {size} bytes; allowed are at most {maximum} (MAX_VALUE_BYTES)"
    assert replies.endswith(b"+PONG\r\n")
    assert not client.transport.close_state
    await server.t.stop()


async def test_a_large_mixed_pipeline_gets_its_replies_although_the_client_reads_nothing_before_its_end() -> None:
    """As synchronous clients send one: what the node stopped reading, they could not send."""
    server = await started(
        max_value_bytes=2 * MIB, max_bytes=10**8, dirty_max_bytes=10**9, dirty_memory_bytes=10**9
    )
    client = server.connect()
    client.transport.client_reads = False
    value = b"v" * MIB
    data = b"".join(command(b"SET", b"k%d" % n, value) + command(b"GET", b"k%d" % n) for n in range(32))
    for at in range(0, len(data), 256_000):
        client.send(data[at : at + 256_000])
        for _ in range(100):
            if client.transport.reading:
                break
            await run_ready_tasks()
        assert client.transport.reading, f"deadlock after {at} bytes"
    client.transport.client_takes()
    assert await client.replies(64) == (b"+OK\r\n" + bulk(value)) * 32
    await run_ready_tasks()
    assert server.budget.used == 0
    await server.t.stop()


async def test_a_large_argument_takes_room_for_its_copy_in_the_journal_too() -> None:
    server = await started(max_value_bytes=2 * MIB, max_bytes=10**8, dirty_max_bytes=10**9)
    client = server.connect()
    data = command(b"SET", b"k", bytes(MIB))
    client.send(data[:100])
    assert 2 * MIB <= server.budget.used < 2 * MIB + 10_000
    client.send(data[100:])
    assert 2 * MIB <= server.budget.used < 2 * MIB + 10_000, "it is on its way into the journal"
    assert await client.replies(1) == b"+OK\r\n"
    await run_ready_tasks()
    assert server.budget.used == 0
    await server.t.stop()


async def test_without_room_in_the_process_a_client_that_does_not_read_waits_for_itself() -> None:
    server = await started(max_value_bytes=2 * MIB, max_bytes=10**8)
    server.budget.limit = 4 * MIB
    client, other = server.connect(), server.connect()
    await server.warm(client, "big", b"v" * MIB)
    client.take()
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") * 50)
    await run_ready_tasks()
    assert 4 * MIB < client.transport.unsent < 7 * MIB
    assert not client.transport.reading
    assert other.now(b"GET", b"big") == bulk(b"v" * MIB), "who reads is answered"
    client.transport.client_takes()
    client.transport.client_reads = True
    assert await client.replies(50) == bulk(b"v" * MIB) * 50
    await run_ready_tasks()
    assert server.budget.used == 0
    await server.t.stop()


async def test_commands_that_waited_longer_than_a_request_may_take_are_rejected() -> None:
    server = await started()
    client = server.connect()
    server.t.store.gate.clear()
    sent = MAX_PENDING + 10
    client.send(b"".join(command(b"GET", b"k%d" % each) for each in range(sent)) + command(b"PING"))
    await run_ready_tasks()
    assert client.session.commands == MAX_PENDING
    requested = server.t.store.count("get")
    server.t.clock.tick(server.config.request_timeout + 1)
    server.t.store.gate.set()
    replies = (await client.replies(sent + 1)).splitlines()
    rejected = [reply for reply in replies if reply.startswith(b"-BUSY retry-after-ms=500 the command waited")]
    assert len(rejected) == 10
    assert replies[-1] == b"+PONG"
    assert server.t.store.count("get") == max(requested, MAX_PENDING)
    assert await client.value(b"GET", b"k1") is None
    await server.t.stop()


async def test_time_in_which_the_client_did_not_read_makes_no_command_late() -> None:
    server = await started({"RESP_OUTPUT_BYTES": "2MiB"}, max_value_bytes=2 * MIB, max_bytes=10**8)
    client = server.connect()
    await server.warm(client, "big", b"v" * MIB)
    client.take()
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") * 5)
    await run_ready_tasks()
    server.t.clock.tick(60)
    client.transport.client_takes()
    assert await client.replies(5) == bulk(b"v" * MIB) * 5
    await server.t.stop()


async def test_client_list_shows_the_bytes_of_commands_that_have_not_begun() -> None:
    server = await started()
    client, other = server.connect(), server.connect()

    async def qbuf() -> int:
        line = (await other.value(b"CLIENT", b"LIST", b"ID", b"%d" % client.session.id)).decode()
        return int(dict(field.split("=", 1) for field in line.split())["qbuf"])

    assert await qbuf() == 0
    client.send(command(b"SET", b"k", b"v" * 500)[:-100])
    assert await qbuf() >= 400
    client.send(command(b"SET", b"k", b"v" * 500)[-100:])
    await client.replies(1)
    server.t.store.gate.clear()
    client.send(command(b"GET", b"cold") + command(b"HELLO", b"3") + command(b"ECHO", b"x" * 300))
    await run_ready_tasks()
    assert await qbuf() >= 300
    assert b"qbuf=0 " not in await client_line(other)
    server.t.store.gate.set()
    await client.replies(3)
    assert await qbuf() == 0
    await server.t.stop()


async def client_line(client: WireClient) -> bytes:
    """What CLIENT LIST says of the connection that asks."""
    reply: bytes = await client.value(b"CLIENT", b"LIST", b"ID", b"%d" % client.session.id)
    return reply
