"""In which order a connection's commands take effect, and its answers and messages reach the client."""

from __future__ import annotations

import hiredis
import pytest

from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.rig import ServerUnderTest, WireClient
from tests.support.fake_clock import settle

BIG = 2 * HIGH_WATER


async def started(**node: object) -> ServerUnderTest:
    door = ServerUnderTest(**node)  # type: ignore[arg-type]
    await door.t.start()
    return door


async def deferring(door: ServerUnderTest) -> WireClient:
    client = door.connect(resp3=True)
    assert client.now(b"CLIENT", b"DEFER", b"ON") == b"+OK\r\n"
    return client


def call(method: str, request: object) -> bytes:
    return command(b"MILENA.CALL", method.encode(), b"5000", request.SerializeToString())  # type: ignore[attr-defined]


def push(number: int, answer: bytes) -> bytes:
    return b">3\r\n+deferred\r\n:%d\r\n%b" % (number, answer)


async def test_what_waits_is_answered_in_the_protocol_in_which_it_was_asked() -> None:
    door = await started()
    client = door.connect()
    client.send(command(b"GET", b"none") + command(b"HELLO", b"3") + command(b"GET", b"none"))
    await settle()
    answers = client.take()
    assert answers.startswith(b"$-1\r\n%7\r\n")
    assert answers.endswith(b"_\r\n")
    await door.t.stop()


@pytest.mark.parametrize("argv", [(b"HELLO", b"2"), (b"RESET",), (b"CLIENT", b"DEFER", b"OFF")])
async def test_no_deferred_answer_comes_after_the_end_of_deferring(argv: tuple[bytes, ...]) -> None:
    door = await started()
    client = await deferring(door)
    client.send(command(b"GET", b"none") + command(*argv) + command(b"GET", b"nowhere"))
    assert client.take() == b"-DEFERRED 1\r\n"
    await settle()
    answers = client.take()
    assert answers.startswith(push(1, b"_\r\n"))
    assert answers.endswith(b"_\r\n" if argv[0] == b"CLIENT" else b"$-1\r\n")
    assert b"DEFERRED" not in answers
    await door.t.stop()


async def test_a_deferred_answer_does_not_come_before_the_word_of_it() -> None:
    door = await started()
    client = door.connect(resp3=True)
    client.send(command(b"DEBUG", b"SLEEP", b"1") + command(b"CLIENT", b"DEFER", b"ON") + command(b"GET", b"none"))
    await settle()
    assert client.take() == b""
    await door.t.clock.advance(2)
    assert client.take() == b"+OK\r\n+OK\r\n-DEFERRED 1\r\n" + push(1, b"_\r\n")
    await door.t.stop()


@pytest.mark.parametrize("end", ["quit", "finish", "eof"])
async def test_the_end_of_a_connection_waits_for_deferred_answers_that_a_slow_client_is_owed(end: str) -> None:
    door = await started(max_bytes=10**8, max_value_bytes=10**7)
    client = await deferring(door)
    for key in (b"a", b"b", b"c"):
        door.t.in_s3(key.decode(), key * BIG)
    client.take()
    client.transport.client_reads = False
    client.send(b"".join(command(b"GET", key) for key in (b"a", b"b", b"c")))
    if end == "quit":
        client.send(command(b"QUIT"))
    await settle()
    if end == "finish":
        client.connection.finish()
    if end == "eof" and not client.connection.eof_received():
        client.transport.close()
    await settle()
    client.transport.client_takes()
    await settle()
    answers = client.take()
    for key in (b"a", b"b", b"c"):
        assert bulk(key * BIG) in answers
    assert client.transport.ended == "closed"
    await door.t.stop()


async def test_a_message_does_not_overtake_an_answer_that_waits_for_the_client() -> None:
    """Or the client would keep a value after it was told to drop it."""
    door = await started(max_bytes=10**8, max_value_bytes=10**7)
    client, other = await deferring(door), door.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON")
    for key in (b"a", b"b"):
        door.t.in_s3(key.decode(), key * BIG)
    client.transport.client_reads = False
    client.send(command(b"GET", b"a") + command(b"GET", b"b"))
    await settle()
    for key in (b"a", b"b"):
        assert await other.ask(b"SET", key, b"newer") == b"+OK\r\n"
    await settle()
    client.transport.client_takes()
    await settle()
    answers = client.take()
    said = [answers.index(key * BIG) for key in (b"a", b"b")]
    told = [answers.rindex(bulk(key)) for key in (b"a", b"b")]
    assert max(said) < min(told)
    await door.t.stop()


async def test_calls_of_the_api_see_the_writes_before_them() -> None:
    door = await started()
    client = door.connect()
    door.t.in_s3("k", b"0")
    client.send(
        command(b"GET", b"k")
        + call("Put", pb.PutRequest(key=b"k", value=b"1"))
        + call("Get", pb.GetRequest(key=b"k"))
        + call("Delete", pb.DeleteRequest(key=b"k", bucket="bucket"))
        + command(b"GET", b"k")
    )
    reader = hiredis.Reader()
    reader.feed(await client.answers(5))
    answers = [reader.gets() for _ in range(5)]
    assert (answers[0], answers[4]) == (b"0", None)
    assert pb.GetResponse.FromString(answers[2]).value == b"1"
    await door.t.stop()


async def test_a_change_while_a_call_waits_for_its_turn_is_told_behind_its_answer() -> None:
    door = await started()
    client, other = door.connect(resp3=True), door.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON")
    door.t.in_s3("k", b"old")
    client.send(command(b"DEBUG", b"SLEEP", b"1") + call("Get", pb.GetRequest(key=b"k")))
    await settle()
    assert await other.ask(b"SET", b"k", b"new") == b"+OK\r\n"
    await settle()
    await door.t.clock.advance(2)
    reader = hiredis.Reader()
    reader.feed(client.take())
    answers = []
    while (answer := reader.gets()) is not False:
        answers.append(answer)
    place = next(number for number, answer in enumerate(answers) if isinstance(answer, bytes) and b"old" in answer)
    assert [b"invalidate", [b"k"]] in answers[place + 1 :]
    await door.t.stop()


async def test_two_names_of_an_object_are_one_object() -> None:
    door = await started(mode="back")
    client = door.connect()
    door.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1") + command(b"GET", b"s3://bucket/k") + command(b"GET", b"s3://default/k")
    )
    await settle()
    door.t.disk.gate.set()
    assert await client.answers(3) == b"+OK\r\n" + bulk(b"1") * 2
    await door.t.stop()


@pytest.mark.parametrize("second", [b"back", b"memory", b"through"])
async def test_the_later_of_two_writes_counts_whatever_their_durability(second: bytes) -> None:
    door = await started(mode="back")
    client = door.connect()
    client.send(
        command(b"SET", b"k", b"1", b"DURABILITY", b"through")
        + command(b"SET", b"k", b"2", b"DURABILITY", second)
        + command(b"GET", b"k")
    )
    assert await client.answers(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await door.t.flush()
    assert door.t.s3_has("k") == b"2"
    await door.t.stop()


async def test_a_write_for_which_there_was_no_room_is_not_later_than_the_one_behind_it() -> None:
    door = await started(mode="back", dirty_max_bytes=5000)
    client = door.connect()
    client.send(command(b"SET", b"k", b"1" * 6000) + command(b"SET", b"k", b"2") + command(b"GET", b"k"))
    assert await client.answers(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await door.t.stop()


@pytest.mark.parametrize("durability", [b"through", b"back"])
async def test_what_was_begun_is_done_though_the_client_has_gone(durability: bytes) -> None:
    door = await started(mode="back")
    client, other = door.connect(), door.connect()
    door.t.store.gate.clear()
    door.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1", b"DURABILITY", durability) + command(b"DEL", b"l"))
    await settle()
    client.transport.abort()
    await settle()
    assert not client.take()
    door.t.store.gate.set()
    door.t.disk.gate.set()
    assert await other.value(b"GET", b"k") in (None, b"1")
    await door.t.writes.finish(5.0)
    await door.t.flush()
    assert door.t.s3_has("k") == b"1"
    assert door.calls["put"].requests == 1
    assert not door.calls["put"].errors
    await door.t.stop()


@pytest.mark.parametrize("tracking", [False, True])
async def test_a_mixed_pipeline_waits_for_the_disk_once_and_not_for_each_of_its_keys(tracking: bool) -> None:
    door = await started(mode="back")
    client = door.connect()
    if tracking:
        client.now(b"CLIENT", b"TRACKING", b"ON")
    keys = [b"k%d" % number for number in range(400)]
    door.t.disk.gate.clear()
    before = door.t.disk.commits
    client.send(b"".join(command(b"SET", key, key) + command(b"GET", key) for key in keys))
    await settle()
    assert client.take() == b""
    door.t.disk.gate.set()
    assert await client.answers(2 * len(keys)) == b"".join(b"+OK\r\n" + bulk(key) for key in keys)
    assert door.t.disk.commits - before <= 2
    await door.t.stop()


async def test_a_command_that_waits_for_one_before_it_is_refused_when_it_has_waited_too_long() -> None:
    door = await started(mode="back")
    client = door.connect()
    door.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"SET", b"l", b"2"))
    await settle()
    door.t.clock.tick(door.config.request_timeout + 1)
    door.t.disk.gate.set()
    reader = hiredis.Reader()
    reader.feed(await client.answers(3))
    answers = [reader.gets() for _ in range(3)]
    assert (answers[0], answers[2]) == (b"OK", b"OK")
    assert str(answers[1]).startswith("BUSY retry-after-ms=")
    await door.t.stop()


async def test_a_transaction_does_not_concern_the_commands_before_it_that_still_wait() -> None:
    door = await started(mode="back")
    client = door.connect()
    door.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1")
        + command(b"GET", b"k")
        + command(b"MULTI")
        + command(b"SET", b"l", b"2")
        + command(b"EXEC")
        + command(b"GET", b"l")
    )
    await settle()
    door.t.disk.gate.set()
    answers = await client.answers(6)
    assert answers.startswith(b"+OK\r\n" + bulk(b"1") + b"+OK\r\n-ERR transactions are not supported")
    assert answers.endswith(b"$-1\r\n")
    await door.t.stop()


async def test_an_answer_that_the_client_does_not_want_is_that_of_the_command_it_named() -> None:
    door = await started(mode="back")
    client = door.connect()
    door.t.disk.gate.clear()
    client.send(
        command(b"SET", b"k", b"1")
        + command(b"CLIENT", b"REPLY", b"SKIP")
        + command(b"GET", b"k")
        + command(b"SET", b"l", b"2")
        + command(b"GET", b"l")
    )
    await settle()
    door.t.disk.gate.set()
    assert await client.answers(3) == b"+OK\r\n+OK\r\n" + bulk(b"2")
    await door.t.stop()


async def test_commands_that_wait_for_others_are_not_carried_out_when_the_client_has_gone() -> None:
    door = await started(mode="back")
    client, other = door.connect(), door.connect()
    door.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"SET", b"k", b"2"))
    await settle()
    client.transport.abort()
    await settle()
    door.t.disk.gate.set()
    await settle()
    assert await other.value(b"GET", b"k") == b"1"
    await door.t.flush()
    assert door.t.s3_has("k") == b"1"
    await door.t.stop()


@pytest.mark.parametrize("end", ["quit", "finish", "eof"])
async def test_the_end_of_a_connection_waits_for_commands_that_wait_for_others(end: str) -> None:
    door = await started(mode="back")
    client = door.connect()
    door.t.disk.gate.clear()
    client.send(command(b"SET", b"k", b"1") + command(b"GET", b"k") + command(b"GET", b"k"))
    if end == "quit":
        client.send(command(b"QUIT"))
    await settle()
    if end == "finish":
        client.connection.finish()
    if end == "eof" and not client.connection.eof_received():
        client.transport.close()
    await settle()
    door.t.disk.gate.set()
    await settle()
    assert client.take().startswith(b"+OK\r\n" + bulk(b"1") * 2)
    assert client.transport.ended == "closed"
    await door.t.stop()


async def test_a_command_that_waits_for_others_is_tracked_if_it_is_the_one_that_was_named() -> None:
    door = await started(mode="back")
    client, other = door.connect(resp3=True), door.connect()
    client.now(b"CLIENT", b"TRACKING", b"ON", b"OPTIN")
    door.t.disk.gate.clear()
    client.send(
        command(b"SET", b"a", b"1")
        + command(b"SET", b"b", b"1")
        + command(b"GET", b"a")
        + command(b"CLIENT", b"CACHING", b"YES")
        + command(b"GET", b"b")
        + command(b"GET", b"a")
    )
    await settle()
    door.t.disk.gate.set()
    await client.answers(6)
    for key in (b"a", b"b"):
        await other.ask(b"SET", key, b"2")
    await settle()
    pushes = client.take()
    assert bulk(b"b") in pushes
    assert bulk(b"a") not in pushes
    await door.t.stop()
