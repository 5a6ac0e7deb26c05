"""SETs that arrive together are one batch: one commit, one write to the socket, and each its own result."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.journal.disk import DiskFailed
from milena_cache.journal.group_commit import PROBE_SECONDS
from milena_cache.servers.resp.set_batches import MAX_BATCH
from milena_cache.servers.resp.state.pending_replies import MAX_PENDING
from milena_common.api.durability import Durability
from milena_common.cluster.slots import SLOTS
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient
from tests.support.fake_clock import run_ready_tasks

ALL_SLOTS = [(0, SLOTS - 1)]


async def started(mode: Durability = "back", **options: object) -> ServerUnderTest:
    server = ServerUnderTest(mode=mode, **options)  # type: ignore[arg-type]
    await server.t.start()
    return server


def set_(key: bytes, value: bytes, *options: bytes) -> bytes:
    return command(b"SET", key, value, *options)


def lines(client: WireClient) -> list[bytes]:
    """The replies since the last time, which are single lines."""
    return client.take().splitlines()


@pytest.mark.parametrize("options", [(), (b"EX", b"100"), (b"DURABILITY", b"back"), (b"px", b"5000")])
async def test_a_batch_is_one_commit_and_one_write(options: tuple[bytes, ...]) -> None:
    server = await started()
    client = server.connect()
    commits, writes = server.t.disk.commits, client.transport.writes
    client.send(b"".join(set_(b"k%d" % number, b"v", *options) for number in range(100)))
    assert client.take() == b""
    assert client.connection.waits
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n" * 100
    assert server.t.disk.commits == commits + 1
    assert client.transport.writes == writes + 1
    assert not client.connection.waits
    assert server.t.writes.acknowledged["back"] == 100
    assert server.calls["put"].requests == 100
    assert server.context.stats["set"].calls == client.session.commands == 100
    after = await server.t.crash()
    assert (await after.get("k42")).entry.value == b"v"
    assert bool((await after.get("k42")).entry.expires_at) is (options[:1] in ((b"EX",), (b"px",)))
    await after.stop()


async def test_each_of_a_batch_has_its_own_error_in_its_place() -> None:
    server = await started(max_value_bytes=10)
    client = server.connect()
    client.send(
        set_(b"a", b"1")
        + set_(b"", b"2")
        + set_(b"b", bytes(11))
        + set_(b"c", b"3", b"EX", b"0")
        + set_(b"d", b"4", b"EX", b"100", b"BOGUS")
        + set_(b"e", b"5")
    )
    await run_ready_tasks()
    replies = lines(client)
    assert [reply.split()[0] for reply in replies] == [b"+OK", *[b"-ERR"] * 4, b"+OK"]
    assert [
        word in reply for word, reply in zip((b"key", b"value", b"expire", b"syntax"), replies[1:], strict=False)
    ]
    assert {key.decode() for key in server.t.dirty} == {"a", "e"}
    assert server.context.stats["set"].calls == server.calls["put"].requests == 6
    assert sum(server.calls["put"].errors.values()) == server.context.stats["set"].failed == 4
    await server.t.stop()


async def test_writes_of_a_key_in_a_batch_take_effect_in_their_order() -> None:
    server = await started()
    client = server.connect()
    client.send(set_(b"k", b"1") + set_(b"l", b"1") + set_(b"k", b"2") + command(b"GET", b"k"))
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n" * 3 + bulk(b"2")
    assert server.t.dirty.get(b"k").version > server.t.dirty.get(b"l").version  # type: ignore[union-attr]
    await server.t.stop()


async def test_a_set_in_conflict_with_a_read_in_flight_waits_and_those_of_other_keys_do_not() -> None:
    server = await started()
    server.t.in_s3("k", b"old")
    client = server.connect()
    server.t.store.gate.clear()
    client.send(command(b"GET", b"k") + set_(b"a", b"1") + set_(b"k", b"new") + set_(b"b", b"1"))
    await run_ready_tasks()
    assert b"a" in server.t.dirty
    assert b"b" in server.t.dirty
    assert b"k" not in server.t.dirty
    assert client.take() == b""
    server.t.store.gate.set()
    await run_ready_tasks()
    assert client.take() == bulk(b"old") + b"+OK\r\n" * 3
    assert server.t.dirty.get(b"k").value == b"new"  # type: ignore[union-attr]
    await server.t.stop()


async def test_what_the_journal_has_no_room_for_goes_through_each_by_itself() -> None:
    server = await started()
    client = server.connect()
    await client.request(b"SET", b"before", b"1")
    server.t.disk.capacity = 0
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n" * 2
    assert (server.t.s3_has("a"), server.t.s3_has("b")) == (b"1", b"2")
    assert server.t.writes.acknowledged["through"] == 2
    server.t.disk.capacity = None
    await server.t.clock.advance(PROBE_SECONDS)
    await server.t.stop()


async def test_a_slot_that_is_handed_over_while_a_batch_waits_has_its_sets_repeated() -> None:
    server = await started()
    owned_since = server.ownership.owned_since
    server.t.writes.check_owner = lambda change: owned_since(change.target.cache_key)  # type: ignore
    client = server.connect()
    server.t.disk.gate.clear()
    server.t.disk.capacity = 0
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    await run_ready_tasks()
    server.ownership.stop_slots(ALL_SLOTS)
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert client.take() == b""
    assert server.t.s3_has("a") is None
    server.ownership.resume_slots(ALL_SLOTS)
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n" * 2
    assert (server.t.s3_has("a"), server.t.s3_has("b")) == (b"1", b"2")
    server.t.disk.capacity = None
    await server.t.clock.advance(PROBE_SECONDS)
    await server.t.stop()


async def test_no_write_is_acknowledged_when_the_lease_has_expired_during_the_sync() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    await run_ready_tasks()
    server.t.journal.unacknowledged = lambda: "the lease is over"
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert lines(client) == [b"-UNAVAILABLE the lease is over"] * 2
    assert server.t.writes.acknowledged["back"] == 0
    await server.t.stop()


async def test_a_disk_that_fails_fails_all_of_a_batch() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.failure = DiskFailed("Input/output error")
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    await run_ready_tasks()
    replies = lines(client)
    assert len(replies) == 2
    assert all(reply.startswith(b"-UNAVAILABLE the node's journal failed") for reply in replies)
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    assert len(lines(client)) == 2
    assert not client.connection.waits


async def test_replies_of_a_batch_are_deferred_one_by_one() -> None:
    server = await started()
    client = server.connect(resp3=True)
    client.now(b"CLIENT", b"DEFER", b"ON")
    client.send(set_(b"a", b"1") + set_(b"b", b"2") + command(b"PING"))
    assert client.take() == b"-DEFERRED 1\r\n-DEFERRED 2\r\n+PONG\r\n"
    await run_ready_tasks()
    assert client.take() == b">3\r\n+deferred\r\n:1\r\n+OK\r\n>3\r\n+deferred\r\n:2\r\n+OK\r\n"
    client.send(set_(b"a", b"1", b"DURABILITY", b"memory") * 2)
    assert client.take() == b"+OK\r\n" * 2
    assert server.context.clients.deferred == 2
    await server.t.stop()


async def test_a_connection_that_is_lost_loses_no_write_of_its_batch() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.gate.clear()
    client.send(set_(b"a", b"1") + set_(b"b", b"2"))
    await run_ready_tasks()
    client.transport.abort()
    await run_ready_tasks()
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert {*server.t.dirty} == {b"a", b"b"}
    await server.t.stop()


async def test_no_more_commands_are_in_flight_than_a_connection_may_have() -> None:
    server = await started(dirty_max_bytes=10**7, dirty_memory_bytes=10**7)
    client = server.connect()
    server.t.disk.gate.clear()
    number = MAX_PENDING + MAX_BATCH + 7
    client.send(b"".join(set_(b"k%d" % each, b"v", b"EX", b"100") for each in range(number)))
    for _ in range(10):
        await run_ready_tasks()
        assert len(server.t.dirty) == 0
        assert sum(1 for _ in server.t.writes.busy()) <= MAX_PENDING
    server.t.disk.gate.set()
    await asyncio.wait_for(client.replies(number), 20)
    assert len(server.t.dirty) == number
    await server.t.stop()


@pytest.mark.parametrize("mode", ["back", "memory"])
async def test_writes_of_many_keys_are_one_commit(mode: Durability) -> None:
    server = await started(mode)
    client = server.connect()
    commits = server.t.disk.commits
    pairs = [word for number in range(50) for word in (b"k%d" % number, b"v")]
    client.send(command(b"MSET", *pairs))
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n"
    client.send(command(b"DEL", *pairs[::2]))
    await run_ready_tasks()
    assert client.take() == b":50\r\n"
    assert server.t.disk.commits - commits == (2 if mode == "back" else 0)
    assert all(entry.deleted for entry in server.t.dirty.values())
    await server.t.stop()


async def test_replies_to_commands_of_one_commit_are_written_together() -> None:
    server = await started()
    client = server.connect()
    server.t.disk.gate.clear()
    for number in range(10):
        client.send(set_(b"k%d" % number, b"v"))
    await run_ready_tasks()
    writes = client.transport.writes
    server.t.disk.gate.set()
    await run_ready_tasks()
    assert client.take() == b"+OK\r\n" * 10
    assert client.transport.writes == writes + 1
    await server.t.stop()


@pytest.mark.parametrize("mode", ["memory", "back"])
async def test_a_pipeline_of_reads_and_writes_is_written_once_if_nothing_waits(mode: Durability) -> None:
    server = await started(mode)
    client = server.connect()
    await client.request(b"SET", b"k", b"v")
    writes = client.transport.writes
    gets = command(b"GET", b"k")
    client.send((set_(b"k", b"v", b"DURABILITY", b"memory") + gets if mode == "memory" else gets) * 20)
    assert client.take()
    assert client.transport.writes == writes + 1
    await server.t.stop()
