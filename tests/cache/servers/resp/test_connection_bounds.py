"""What one connection may hold, and for how long: commands, answers, and the connection itself."""

from __future__ import annotations

import pytest

from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_cache.servers.resp.server import STALLED_SWEEPS
from milena_cache.servers.resp.state.pending_replies import MAX_PENDING
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.rig import MIB, ServerUnderTest, WireClient, parsed
from tests.support.fake_clock import settle


async def started(variables: dict[str, str] | None = None, **node: object) -> ServerUnderTest:
    door = ServerUnderTest(variables, **node)
    await door.t.start()
    return door


async def test_who_defers_and_sends_one_command_at_a_time_waits_for_no_more_answers_than_others() -> None:
    door = await started()
    client = door.connect(resp3=True)
    client.now(b"CLIENT", b"DEFER", b"ON")
    door.t.store.gate.clear()
    sent = 0
    while client.transport.reading:
        assert sent <= MAX_PENDING
        client.send(command(b"GET", b"k%d" % sent))
        sent += 1
    assert client.take().count(b"-DEFERRED ") == MAX_PENDING
    door.t.store.gate.set()
    while client.take() or client.connection.session.commands < sent + 2:
        await settle()
    assert client.transport.reading
    await door.t.stop()


async def test_values_on_their_way_to_s3_hold_up_the_commands_behind_them() -> None:
    door = await started(max_value_bytes=MIB)
    client = door.connect()
    door.t.store.gate.clear()
    sent = 0
    while client.transport.reading and sent < 300:
        client.send(command(b"SET", b"k%d" % sent, bytes(MIB)))
        sent += 1
    await settle()
    assert sent < 100
    door.t.store.gate.set()
    assert await client.answers(sent) == b"+OK\r\n" * sent
    assert client.transport.reading
    await door.t.stop()


async def test_a_pipeline_of_large_answers_stops_when_the_client_does_not_read() -> None:
    door = await started({"RESP_OUTPUT_BYTES": "4MiB"}, max_bytes=10**7)
    client = door.connect()
    value = b"v" * (HIGH_WATER // 4)
    await door.warm(client, "big", value)
    client.transport.client_reads = False
    client.send(command(b"MGET", b"big") * 100)
    assert 4 * HIGH_WATER <= client.transport.unsent < 5 * HIGH_WATER
    client.take()
    client.transport.client_takes()
    await settle()
    assert client.session.commands == 101
    await door.t.stop()


async def test_as_much_as_one_value_may_have_is_answered_to_any_command() -> None:
    door = await started({"RESP_OUTPUT_BYTES": "1KiB"}, max_value_bytes=2000)
    client = door.connect()
    await door.warm(client, "big", b"v" * 2000)
    for _ in range(2):
        assert client.now(b"MGET", b"big") == b"*1\r\n" + bulk(b"v" * 2000)
    await door.t.stop()


@pytest.mark.parametrize("end", [command(b"QUIT"), b"*1\r\n+no\r\n"])
async def test_who_ends_a_connection_and_takes_no_answers_is_disconnected(end: bytes) -> None:
    door = await started(max_bytes=10**7)
    client = door.connect()
    await door.warm(client, "big", b"v" * (HIGH_WATER // 2))
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") + end)
    assert client.transport.ended == "closed"
    for _ in range(2 * STALLED_SWEEPS):
        door.door.sweep()
    assert client.transport.ended == "aborted"
    await settle()
    assert not door.context.clients.by_id
    await door.t.stop()


async def test_a_stop_does_not_wait_for_who_does_not_read() -> None:
    door = await started(max_bytes=10**7)
    client = door.connect()
    await door.warm(client, "big", b"v" * (HIGH_WATER // 2))
    client.transport.client_reads = False
    client.send(command(b"GET", b"big"))
    client.connection.finish()
    client.connection.disconnect("killed")
    assert client.transport.ended == "aborted"
    await door.t.stop()


async def test_who_waits_for_an_answer_is_not_silent() -> None:
    door = await started({"RESP_IDLE_SECONDS": "10"})
    client = door.connect()
    client.send(command(b"DEBUG", b"SLEEP", b"30"))
    await settle()
    await door.t.clock.advance(29)
    door.door.sweep()
    assert not client.transport.ended
    await door.t.clock.advance(2)
    assert client.take() == b"+OK\r\n"
    door.door.sweep()
    assert not client.transport.ended
    await door.t.clock.advance(11)
    door.door.sweep()
    assert client.transport.ended
    await door.t.stop()


async def test_a_value_of_any_allowed_size_can_be_written_by_any_command() -> None:
    most = 2 * MIB
    door = await started(max_value_bytes=most, max_bytes=10**8)
    client = door.connect()
    value = bytes(most)
    assert await client.ask(b"SET", b"k", value) == b"+OK\r\n"
    put = pb.PutRequest(key=b"k" * 1024, value=value, durability="through", if_none_match="*")
    answer = await client.value(b"MILENA.CALL", b"Put", b"5000", put.SerializeToString())
    assert pb.PutResponse.FromString(answer).successful
    assert door.t.s3_has("k" * 1024) == value
    await door.t.stop()


@pytest.mark.parametrize("more", [1, 4 * MIB])
async def test_a_value_over_the_limit_is_refused_and_the_connection_goes_on(more: int) -> None:
    most = 2 * MIB
    door = await started(max_value_bytes=most)
    client = door.connect()
    size = most + more
    data = command(b"SET", b"k", bytes(size)) + command(b"PING")
    for at in range(0, len(data), 2**18):
        client.send(data[at : at + 2**18])
        assert client.connection.unread <= 2 * most
    answers = await client.answers(2)
    assert str(parsed(answers)) == f"ERR value: has {size} bytes; allowed are at most {most} (MAX_VALUE_BYTES)"
    assert answers.endswith(b"+PONG\r\n")
    assert not client.transport.ended
    await door.t.stop()


async def test_a_large_mixed_pipeline_is_answered_although_the_client_reads_nothing_before_its_end() -> None:
    """As synchronous clients send one: what the node stopped reading, they could not send."""
    door = await started(max_value_bytes=2 * MIB, max_bytes=10**8, dirty_max_bytes=10**9, dirty_memory_bytes=10**9)
    client = door.connect()
    client.transport.client_reads = False
    value = b"v" * MIB
    data = b"".join(command(b"SET", b"k%d" % n, value) + command(b"GET", b"k%d" % n) for n in range(32))
    for at in range(0, len(data), 256_000):
        client.send(data[at : at + 256_000])
        for _ in range(100):
            if client.transport.reading:
                break
            await settle()
        assert client.transport.reading, f"deadlock after {at} bytes"
    client.transport.client_takes()
    assert await client.answers(64) == (b"+OK\r\n" + bulk(value)) * 32
    await settle()
    assert door.budget.used == 0
    await door.t.stop()


async def test_a_large_argument_takes_room_for_its_copy_in_the_journal_too() -> None:
    door = await started(max_value_bytes=2 * MIB, max_bytes=10**8, dirty_max_bytes=10**9)
    client = door.connect()
    data = command(b"SET", b"k", bytes(MIB))
    client.send(data[:100])
    assert 2 * MIB <= door.budget.used < 2 * MIB + 10_000
    client.send(data[100:])
    assert 2 * MIB <= door.budget.used < 2 * MIB + 10_000, "it is on its way into the journal"
    assert await client.answers(1) == b"+OK\r\n"
    await settle()
    assert door.budget.used == 0
    await door.t.stop()


async def test_without_room_in_the_process_a_client_that_does_not_read_waits_for_itself() -> None:
    door = await started(max_value_bytes=2 * MIB, max_bytes=10**8)
    door.budget.limit = 4 * MIB
    client, other = door.connect(), door.connect()
    await door.warm(client, "big", b"v" * MIB)
    client.take()
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") * 50)
    await settle()
    assert 4 * MIB < client.transport.unsent < 7 * MIB
    assert not client.transport.reading
    assert other.now(b"GET", b"big") == bulk(b"v" * MIB), "who reads is answered"
    client.transport.client_takes()
    client.transport.client_reads = True
    assert await client.answers(50) == bulk(b"v" * MIB) * 50
    await settle()
    assert door.budget.used == 0
    await door.t.stop()


async def test_commands_that_waited_longer_than_a_request_may_take_are_refused() -> None:
    door = await started()
    client = door.connect()
    door.t.store.gate.clear()
    sent = MAX_PENDING + 10
    client.send(b"".join(command(b"GET", b"k%d" % each) for each in range(sent)) + command(b"PING"))
    await settle()
    assert client.session.commands == MAX_PENDING
    asked = door.t.store.count("get")
    door.t.clock.tick(door.config.request_timeout + 1)
    door.t.store.gate.set()
    answers = (await client.answers(sent + 1)).splitlines()
    refused = [answer for answer in answers if answer.startswith(b"-BUSY retry-after-ms=500 the command waited")]
    assert len(refused) == 10
    assert answers[-1] == b"+PONG"
    assert door.t.store.count("get") == max(asked, MAX_PENDING)
    assert await client.value(b"GET", b"k1") is None
    await door.t.stop()


async def test_time_in_which_the_client_did_not_read_makes_no_command_late() -> None:
    door = await started({"RESP_OUTPUT_BYTES": "2MiB"}, max_value_bytes=2 * MIB, max_bytes=10**8)
    client = door.connect()
    await door.warm(client, "big", b"v" * MIB)
    client.take()
    client.transport.client_reads = False
    client.send(command(b"GET", b"big") * 5)
    await settle()
    door.t.clock.tick(60)
    client.transport.client_takes()
    assert await client.answers(5) == bulk(b"v" * MIB) * 5
    await door.t.stop()


async def test_client_list_shows_the_bytes_of_commands_that_have_not_begun() -> None:
    door = await started()
    client, other = door.connect(), door.connect()

    async def qbuf() -> int:
        line = (await other.value(b"CLIENT", b"LIST", b"ID", b"%d" % client.session.id)).decode()
        return int(dict(field.split("=", 1) for field in line.split())["qbuf"])

    assert await qbuf() == 0
    client.send(command(b"SET", b"k", b"v" * 500)[:-100])
    assert await qbuf() >= 400
    client.send(command(b"SET", b"k", b"v" * 500)[-100:])
    await client.answers(1)
    door.t.store.gate.clear()
    client.send(command(b"GET", b"cold") + command(b"HELLO", b"3") + command(b"ECHO", b"x" * 300))
    await settle()
    assert await qbuf() >= 300
    assert b"qbuf=0 " not in await client_line(other)
    door.t.store.gate.set()
    await client.answers(3)
    assert await qbuf() == 0
    await door.t.stop()


async def client_line(client: WireClient) -> bytes:
    """What CLIENT LIST says of the connection that asks."""
    answer: bytes = await client.value(b"CLIENT", b"LIST", b"ID", b"%d" % client.session.id)
    return answer
