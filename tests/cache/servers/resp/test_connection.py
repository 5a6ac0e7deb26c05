"""What a connection does with bytes, order, waiting and readers that do not read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from milena_cache.membership.identity import NodeIdentity
from milena_cache.membership.peers import NODE_NAME
from milena_cache.servers.resp.dispatch.admission import MEMBER_CONNECTIONS, MEMBER_SECONDS
from milena_cache.servers.resp.output_buffer import HIGH_WATER
from milena_common.resp.encoding import bulk, command
from milena_common.resp.in_flight import COPIES
from tests.cache.servers.resp.server_under_test import ServerUnderTest, WireClient, ring
from tests.support.fake_clock import run_ready_tasks
from tests.support.s3.memory_store import MemoryStore


@asynccontextmanager
async def server(variables: dict[str, str] | None = None, **node: object) -> AsyncIterator[ServerUnderTest]:
    made = ServerUnderTest(variables, **node)
    await made.t.start()
    yield made
    await made.t.stop()


def gets(*keys: bytes) -> bytes:
    return b"".join(command(b"GET", key) for key in keys)


async def test_hits_get_their_replies_within_the_read_that_brought_them_in_one_write() -> None:
    async with server() as d:
        client = d.connect()
        for key in ("a", "b"):
            await d.warm(client, key, key.encode() * 3)
        client.take()
        writes = client.transport.writes
        client.send(gets(b"a", b"b", b"a"))
        assert client.take() == bulk(b"aaa") + bulk(b"bbb") + bulk(b"aaa")
        assert client.transport.writes == writes + 1
        assert d.t.node.reads.outcomes["hit"] == 3
        assert d.calls["get"].requests == 5
        assert sum(d.calls["get"].durations.counts) == 5


@pytest.mark.parametrize("deferring", [False, True])
async def test_the_reply_to_a_miss_in_the_middle_comes_in_its_place_or_deferred(deferring: bool) -> None:
    async with server() as d:
        client = d.connect()
        await d.warm(client, "a", b"1")
        await d.warm(client, "c", b"3")
        d.t.in_s3("b", b"2")
        client.take()
        client.session.deferring = deferring
        client.session.protocol = 3 if deferring else 2
        client.send(gets(b"a", b"b", b"c", b"none"))
        if deferring:
            assert client.take() == bulk(b"1") + b"-DEFERRED 1\r\n" + bulk(b"3") + b"-DEFERRED 2\r\n"
            await run_ready_tasks()
            assert client.take() == (b">3\r\n+deferred\r\n:1\r\n" + bulk(b"2") + b">3\r\n+deferred\r\n:2\r\n_\r\n")
            assert d.context.clients.deferred == 2
        else:
            assert client.take() == bulk(b"1")
            await run_ready_tasks()
            assert client.take() == bulk(b"2") + bulk(b"3") + b"$-1\r\n"


async def test_misses_of_one_read_are_fetched_from_s3_together() -> None:
    async with server() as d:
        client = d.connect()
        d.t.store.gate.clear()
        client.send(gets(*(b"k%d" % number for number in range(20))))
        await run_ready_tasks()
        assert d.t.store.count("get") == 20
        d.t.store.gate.set()
        assert await client.replies(20) == b"$-1\r\n" * 20


async def test_a_read_sees_the_write_before_it_and_not_the_one_after_it() -> None:
    async with server(mode="back") as d:
        client = d.connect()
        d.t.in_s3("k", b"0")
        client.send(
            gets(b"k") + command(b"SET", b"k", b"1") + gets(b"k") + command(b"SET", b"k", b"2") + gets(b"k")
        )
        assert await client.replies(5) == b"".join((bulk(b"0"), b"+OK\r\n", bulk(b"1"), b"+OK\r\n", bulk(b"2")))


async def test_a_client_that_does_not_read_gets_no_more_than_it_left_and_is_disconnected() -> None:
    async with server({"RESP_OUTPUT_BYTES": "4MiB"}, max_bytes=10**7) as d:
        client, other = d.connect(), d.connect()
        value = b"v" * (HIGH_WATER // 4)
        await d.warm(other, "big", value)
        client.transport.client_reads = False
        client.send(gets(*[b"big"] * 100))
        held = client.transport.unsent
        assert 4 * HIGH_WATER <= held < 5 * HIGH_WATER
        assert not client.transport.reading
        for _ in range(30):
            d.server.sweep()
        assert client.transport.close_state == "aborted"
        assert client.transport.unsent == held
        await run_ready_tasks()
        assert d.context.clients.disconnects["output"] == 1
        assert other.now(b"GET", b"big") == bulk(value)
        assert len(d.context.clients) == 1


async def test_a_client_that_reads_on_gets_everything_in_order() -> None:
    async with server(max_bytes=10**7) as d:
        client = d.connect()
        value = b"v" * (HIGH_WATER // 4)
        await d.warm(client, "big", value)
        client.take()
        client.transport.client_reads = False
        client.send(gets(*[b"big"] * 11) + command(b"SET", b"k", b"1") + gets(b"k"))
        client.transport.client_takes()
        await run_ready_tasks()
        assert client.take() == bulk(value) * 11 + b"+OK\r\n" + bulk(b"1")
        assert client.transport.reading


async def test_pushes_to_a_client_that_does_not_read_are_bounded() -> None:
    async with server({"RESP_OUTPUT_BYTES": "1KiB"}) as d:
        client = d.connect()
        client.transport.client_reads = False
        while not client.transport.close_state:
            client.connection.push(b"+x\r\n" * 64)
            assert client.transport.unsent < 2048
        assert d.context.clients.disconnects["output"] == 1


async def test_deferred_replies_wait_for_a_slow_reader() -> None:
    async with server(max_bytes=10**7, max_value_bytes=10**7) as d:
        client = d.connect()
        await d.warm(client, "big", b"v" * (HIGH_WATER * 2))
        for number in range(3):
            d.t.in_s3(f"k{number}", b"%d" % number * (HIGH_WATER * 2))
        client.session.deferring, client.session.protocol = True, 3
        client.take()
        client.send(gets(b"k0", b"k1", b"k2"))
        client.transport.client_reads = False
        await run_ready_tasks()
        assert client.transport.unsent < 5 * HIGH_WATER
        client.transport.client_takes()
        await run_ready_tasks()
        taken = client.take()
        for number in range(3):
            assert b"%d" % number * (HIGH_WATER * 2) in taken


OVER_LIMIT = b"-ERR max number of clients reached\r\n"


async def test_a_connection_over_the_limit_gets_an_error_at_its_first_command_and_is_closed() -> None:
    async with server({"RESP_MAX_CONNECTIONS": "2"}) as d:
        clients = [d.connect() for _ in range(3)]
        for sent in ((b"GET", b"k"), (b"SET", b"k", b"v"), (b"PING",), (b"MILENA.PROMISE", b"1", b"1000")):
            assert await clients[2].request(*sent) == OVER_LIMIT
            assert clients[2].transport.close_state == "closed"
            clients[2].transport.close()
            await run_ready_tasks()
            clients[2] = d.connect()
        assert d.context.clients.rejected == 4
        clients[0].transport.close()
        await run_ready_tasks()
        assert await d.connect().request(b"PING") == OVER_LIMIT
        clients[2].transport.close()
        await run_ready_tasks()
        assert await d.connect().request(b"PING") == b"+PONG\r\n"


async def test_a_silent_connection_over_the_limit_is_closed() -> None:
    async with server({"RESP_MAX_CONNECTIONS": "1"}) as d:
        kept, over = d.connect(), d.connect()
        d.t.clock.tick(MEMBER_SECONDS + 1)
        d.server.sweep()
        await run_ready_tasks()
        assert (kept.transport.close_state, over.transport.close_state) == ("", "closed")
        assert over.take() == OVER_LIMIT


async def test_connections_over_the_limit_are_for_nodes_and_are_limited_too() -> None:
    async with server({"RESP_MAX_CONNECTIONS": "1"}) as d:
        d.requests.identity = NodeIdentity("bucket", "n1")
        d.requests.identity.ring_changed("c1")
        d.connect()
        members = [d.connect() for _ in range(MEMBER_CONNECTIONS)]
        assert isinstance(await members[0].value(b"MILENA.HELLO", b"c1", b"bucket", b"n1"), int)
        d.t.clock.tick(MEMBER_SECONDS + 1)
        d.server.sweep()
        assert members[0].transport.close_state == ""
        assert await members[0].request(b"GET", b"k") == OVER_LIMIT
        assert members[0].transport.close_state == "closed"
        [d.connect() for _ in range(2)]
        assert d.connect().take() == OVER_LIMIT


async def test_nodes_send_each_other_all_their_commands_over_the_limit() -> None:
    # A command that is missing keeps slots from moving, or copies from being made, while clients use up the limit.
    async with server({"RESP_MAX_CONNECTIONS": "1"}) as d:
        d.requests.identity = NodeIdentity("bucket", "n1")
        d.requests.identity.ring_changed("c1")
        d.connect()
        of_clients = {"milena.call", "milena.hello", "milena.refresh"}
        commands = {each.name for each in d.context.commands.values()}
        names = {name for name in commands if name.startswith("milena.")} - of_clients | {"ping"}
        assert {"milena.copy", "milena.handover"} < names
        for name in names:
            member = d.connect()
            assert isinstance(await member.value(b"MILENA.HELLO", b"c1", b"bucket", b"n1"), int)
            assert await member.request(name.upper().encode()) != OVER_LIMIT, name


async def test_a_short_command_of_another_node_does_not_wait_for_the_next_round_of_the_loop() -> None:
    async with server() as d:
        client, member = d.connect(), d.connect()
        member.now(b"CLIENT", b"SETNAME", NODE_NAME.encode())
        d.context.share.used(1.0)
        for each in (client, member):
            each.take()
            each.send(command(b"PING"))
        assert (client.take(), member.take()) == (b"", b"+PONG\r\n")
        member.send(command(b"ECHO", b"x" * 5000))
        assert member.take() == b""
        assert await client.replies(1) == b"+PONG\r\n"


async def test_a_client_that_is_silent_for_too_long_is_disconnected() -> None:
    async with server({"RESP_IDLE_SECONDS": "60"}) as d:
        silent, busy = d.connect(), d.connect()
        d.t.clock.tick(59)
        await busy.request(b"GET", b"k")
        d.server.sweep()
        assert not silent.transport.close_state
        d.t.clock.tick(2)
        d.server.sweep()
        assert (silent.transport.close_state, busy.transport.close_state) == ("aborted", "")
        assert d.context.clients.disconnects["idle"] == 1


async def test_commands_before_the_client_closed_its_half_get_their_replies() -> None:
    async with server() as d:
        client = d.connect()
        d.t.in_s3("k", b"1")
        client.send(gets(b"k"))
        assert client.connection.eof_received()
        assert await client.replies(1) == bulk(b"1")
        assert client.transport.close_state == "closed"


async def test_a_protocol_error_is_sent_after_the_replies_before_it() -> None:
    async with server() as d:
        client = d.connect()
        d.t.in_s3("k", b"1")
        client.send(gets(b"k") + b"*1\r\n+no\r\n" + gets(b"k"))
        await run_ready_tasks()
        assert client.take() == bulk(b"1") + b"-ERR Protocol error: expected '$', got '+'\r\n"
        assert client.transport.close_state == "closed"
        assert d.context.clients.disconnects["protocol"] == 1


async def test_incomplete_commands_of_all_connections_wait_for_room_and_are_rejected_when_their_time_is_up() -> (
    None
):
    async with server(max_value_bytes=2**22) as d:
        d.budget.limit = COPIES * (12 * 10**6 + 1000)
        clients = [d.connect() for _ in range(4)]
        value = b"x" * 4_000_000
        head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\n"
        for client in clients:
            client.send(head + value[: 2**18])
        assert [client.transport.reading for client in clients] == [True, True, True, False]
        assert COPIES * 12 * 10**6 <= d.budget.used <= d.budget.limit
        clients[0].send(value[2**18 :] + b"\r\n")
        assert await clients[0].replies(1) == b"+OK\r\n"
        await run_ready_tasks()
        assert clients[3].transport.reading, "there is room now"
        clients[0].send(head)
        assert not clients[0].transport.reading
        d.t.clock.tick(d.config.request_timeout + 1)
        d.server.sweep()
        await run_ready_tasks()
        reply = await clients[0].replies(1)
        assert reply.startswith(b"-BUSY retry-after-ms=500 no room for the command within 5 s: ")
        assert clients[0].transport.reading, "the rest is skipped"
        clients[0].send(value + b"\r\n" + command(b"PING"))
        assert await clients[0].replies(1) == b"+PONG\r\n"
        assert d.budget.rejected == 1
        for client in clients:
            client.transport.abort()
        await run_ready_tasks()
        assert d.budget.used == 0


async def test_keys_of_other_nodes_are_redirected() -> None:
    async with server() as d:
        d.ownership.update(ring("127.0.0.1:50051", "127.0.0.1:50061", epoch=2))
        client = d.connect()
        foo, bar = 12182, 5061  # the slots of "foo" and "bar"
        assert client.now(b"GET", b"foo") == b"-MOVED %d 127.0.0.1:50062\r\n" % foo
        assert await client.request(b"GET", b"bar") == b"$-1\r\n"
        assert bar < 8192 < foo


async def test_over_the_rate_limit_a_command_is_rejected_with_the_time_to_wait() -> None:
    async with server({"RATE_LIMIT": "2"}) as d:
        client = d.connect()
        client.send(gets(b"a", b"b", b"c"))
        replies = await client.replies(3)
        assert replies.startswith(b"$-1\r\n$-1\r\n-RATELIMIT retry-after-ms=500 ")
        assert d.requests.limiter.rejected == 1


async def test_a_stop_lets_commands_in_flight_finish() -> None:
    async with server() as d:
        store: MemoryStore = d.t.store
        waiting, idle = d.connect(), d.connect()
        store.gate.clear()
        waiting.send(gets(b"k"))
        await run_ready_tasks()
        for client in (waiting, idle):
            client.connection.finish()
        assert (waiting.transport.close_state, idle.transport.close_state) == ("", "closed")
        store.gate.set()
        assert await waiting.replies(1) == b"$-1\r\n"
        assert waiting.transport.close_state == "closed"


async def test_a_lost_connection_leaves_nothing_behind() -> None:
    async with server() as d:
        client: WireClient = d.connect()
        d.t.store.gate.clear()
        client.send(gets(b"k", b"l"))
        await run_ready_tasks()
        client.transport.abort()
        await run_ready_tasks()
        assert not d.context.clients.by_id
        d.t.store.gate.set()
        await run_ready_tasks()
        assert client.take() == b""
