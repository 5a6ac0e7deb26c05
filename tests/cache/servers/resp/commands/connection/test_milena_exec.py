"""Transactions of clients of other nodes: the owner of the keys carries them out, or nothing of them."""

from __future__ import annotations

from typing import Any

import pytest

from milena_cache.objects.version import Version
from milena_cache.servers.resp.dispatch.session import FORWARDER_NAME
from milena_cache.servers.resp.dispatch.transaction import Watched
from milena_common.cluster.slots import slot_of
from milena_common.forwarding.transactions import MAX_WATCHED, encode_exec
from milena_common.resp.redis_replies import CommandError
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, ring

OTHER = "127.0.0.1:1"


async def started(durability: str = "back", **variables: str) -> tuple[ServerUnderTest, WireClient]:
    """A node, and the connection of another one."""
    server = ServerUnderTest(variables or None, mode=durability)
    await server.t.start()
    client = server.connect(resp3=True)
    client.session.identified, client.session.name, client.session.forwards = True, FORWARDER_NAME, False
    return server, client


async def execute(client: WireClient, watched: dict[bytes, bytes], *lines: bytes) -> Any:
    return await client.value(*encode_exec(b"a", watched, [line.split() for line in lines]))


async def watch(client: WireClient, *keys: bytes) -> dict[bytes, bytes]:
    return dict(zip(keys, await client.value(b"MILENA.WATCH", *keys), strict=True))


@pytest.mark.parametrize("durability", ["back", "memory"])
async def test_it_is_carried_out_by_one_commit_if_what_is_watched_is_unchanged(durability: str) -> None:
    server, client = await started(durability)
    server.t.in_s3("b", b"7")
    watched = await watch(client, b"a", b"b")
    assert await execute(client, watched, b"SET a 1", b"INCR b", b"GET none", b"SET a 2 GET") == [
        b"OK",
        8,
        None,
        b"1",
    ]
    assert await execute(client, watched, b"SET a 9") is None
    assert await execute(client, watched) is None
    assert await execute(client, await watch(client, b"a", b"b"), b"GET a") == [b"2"]
    commits = server.t.disk.commits
    assert await execute(client, {}, b"SET a 3", b"SET b 3") == [b"OK", b"OK"]
    assert server.t.disk.commits - commits <= 1
    await server.t.stop()


async def test_what_was_watched_at_another_process_or_in_another_time_has_changed() -> None:
    server, client = await started("memory")
    (state,) = (await watch(client, b"a")).values()
    found = Watched.decode(state)
    assert await execute(client, {b"a": state}, b"GET a") == [None]
    for other in (found._replace(process="another"), found._replace(owned_since=found.owned_since + 1)):
        assert await execute(client, {b"a": other.encode()}, b"SET a 1") is None
    assert await client.value(b"GET", b"a") is None
    await server.t.stop()


async def test_a_slot_that_comes_back_has_changed_and_one_that_is_away_is_moved() -> None:
    server, client = await started("memory")
    key = next(b"k%d" % number for number in range(99) if slot_of(b"k%d" % number) < 8000)
    server.ownership.update(ring(ME, OTHER, epoch=2))
    watched = await watch(client, key)
    server.ownership.update(ring(OTHER, epoch=3))
    sent = encode_exec(key, watched, [[b"SET", key, b"1"]])
    assert str(await client.value(*sent)).startswith("MOVED ")
    assert str(await client.value(b"MILENA.WATCH", key)).startswith("MOVED ")
    server.ownership.update(ring(ME, OTHER, epoch=4))
    assert await client.value(*sent) is None
    assert await client.value(b"GET", key) is None
    await server.t.stop()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"NOSUCH a", "unknown command"),
        (b"PING", "unknown command"),
        (b"GET", "wrong number"),
        (b"MEMORY USAGE a", "not available in a transaction"),
        (b"SET a 1 DURABILITY back", "not available in a transaction"),
        (b"MILENA.EXEC a 0", "not available in a transaction"),
        (b"WATCH a", "not available in a transaction"),
    ],
)
async def test_nothing_is_done_if_it_has_what_cannot_be_queued(line: bytes, said: str) -> None:
    server, client = await started()
    assert said in str(await execute(client, {}, b"SET a 1", line))
    assert await client.value(b"EXISTS", b"a") == 0
    await server.t.stop()


async def test_other_clients_may_not_send_it() -> None:
    server, _ = await started()
    client = server.connect()
    assert str(await execute(client, {}, b"SET a 1")).startswith("NOPERM only nodes")
    assert str(await client.value(b"MILENA.WATCH", b"a")).startswith("NOPERM only nodes")
    await server.t.stop()


async def test_it_takes_no_token_of_the_rate_limit_and_watches_only_so_many() -> None:
    server, client = await started("memory", RATE_LIMIT="1")
    for _ in range(5):
        assert await execute(client, {}, b"INCR a") is not None
    assert await client.value(b"GET", b"a") == b"5"
    keys = [b"{a}%d" % number for number in range(MAX_WATCHED + 1)]
    assert "can watch at most" in str(await client.value(b"MILENA.WATCH", *keys))
    await server.t.stop()


def test_what_is_watched_comes_out_as_it_went_in() -> None:
    for each in (
        Watched("process", 7, Version(3, 4), True, '"an etag with spaces"', 1234.567),
        Watched("", 0, None, False, "", 0.0),
    ):
        assert Watched.decode(each.encode()) == each
    for wrong in (b"", b"a", b"p x - 1 0.0 ", b"p 1 a-b 1 0.0 e", b"p 1 - 1 never e", b"\xff 1 - 1 0.0 e"):
        with pytest.raises(CommandError, match="malformed"):
            Watched.decode(wrong)
