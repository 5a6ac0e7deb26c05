"""Replies that are made together are those that each would have got by itself, and only plain hits are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from milena_cache.objects.object_store import Fault
from milena_common.resp.encoding import bulk
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring
from tests.support.fake_clock import run_ready_tasks

OTHER = "127.0.0.1:60051"


async def read(d: ServerUnderTest) -> None:
    d.t.in_s3("k", b"v")
    await d.t.get("k", 1)


async def put(d: ServerUnderTest) -> None:
    await d.t.put("k", b"v", 1)


async def read_long_ago(d: ServerUnderTest) -> None:
    await read(d)
    d.t.clock.tick(101)


async def read_before_another_had_the_slot(d: ServerUnderTest) -> None:
    await read(d)
    d.ownership.update(ring(OTHER, epoch=2))
    d.ownership.update(ring(ME, epoch=3))


async def written_before_another_had_the_slot(d: ServerUnderTest) -> None:
    await put(d)
    d.ownership.update(ring(OTHER, epoch=2))
    d.ownership.update(ring(ME, epoch=3))


async def read_and_now_of_another_node(d: ServerUnderTest) -> None:
    await read(d)
    d.ownership.update(ring(OTHER, epoch=2))


async def read_and_now_of_another_of_two(d: ServerUnderTest) -> None:
    await read(d)
    first, second = (ME, OTHER) if b"k"[0] % 2 else (OTHER, ME)
    d.ownership.update(ring(first, second, epoch=2))
    if d.ownership.mine_since(b"k") >= 0:
        d.ownership.update(ring(second, first, epoch=3))


async def read_with_an_end(d: ServerUnderTest) -> None:
    await d.t.put("k", b"v", 1, durability="through", expires_at=d.t.clock.wall() + 10)
    d.t.clock.tick(11)


async def written_with_an_end(d: ServerUnderTest) -> None:
    await d.t.put("k", b"v", 1, expires_at=d.t.clock.wall() + 0.5)
    d.t.clock.tick(1)


async def known_to_be_missing(d: ServerUnderTest) -> None:
    await d.t.get("k", 1)


async def deleted(d: ServerUnderTest) -> None:
    await put(d)
    await d.t.delete("k", 1)


async def deleted_over_a_copy(d: ServerUnderTest) -> None:
    await read(d)
    await d.t.delete("k", 1)


async def in_doubt(d: ServerUnderTest) -> None:
    """A write through whose reply was lost."""
    await read(d)
    d.t.store.fail(Fault.TIMEOUT, after_effect=True)
    with pytest.raises(Exception, match="S3"):
        await d.t.put("k", b"newer", 1, durability="through")


async def damaged(d: ServerUnderTest) -> None:
    await put(d)
    d.t.dirty.kill(d.t.dirty.get(b"k"), "damaged", 0.0, damaged=True)


async def forgotten(d: ServerUnderTest) -> None:
    await put(d)
    d.t.node.invalidate_entry(d.t.object("k"))


async def large(d: ServerUnderTest) -> None:
    d.t.in_s3("k", bytes(100_000))
    await d.t.get("k", 1)


State = Callable[[ServerUnderTest], Awaitable[None]]
PLAIN: list[State] = [read, put]
OTHERS: list[State] = [
    read_long_ago,
    read_before_another_had_the_slot,
    written_before_another_had_the_slot,
    read_and_now_of_another_node,
    read_and_now_of_another_of_two,
    read_with_an_end,
    written_with_an_end,
    known_to_be_missing,
    deleted,
    deleted_over_a_copy,
    in_doubt,
    damaged,
    forgotten,
    large,
]


async def in_state(state: State) -> ServerUnderTest:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    await state(server)
    await run_ready_tasks()
    return server


def replies_to(server: ServerUnderTest, keys: list[bytes]) -> tuple[int, bytes]:
    parts: list[bytes] = []
    number = server.hits.serve(keys, server.t.clock.now(), parts, 10**6)
    return number, b"".join(parts)


@pytest.mark.parametrize("state", PLAIN)
async def test_plain_hits_get_their_replies_together(state: State) -> None:
    server = await in_state(state)
    assert replies_to(server, [b"k"] * 3) == (3, bulk(b"v") * 3)
    assert server.t.node.reads.outcomes["hit"] == 3
    assert server.t.node.reads.hit_bytes == 3
    assert replies_to(server, [b"k", b"other", b"k"]) == (1, bulk(b"v"))
    await server.t.stop()


@pytest.mark.parametrize("state", OTHERS)
async def test_what_is_anything_else_goes_the_general_way(state: State) -> None:
    server = await in_state(state)
    before = dict(server.t.node.reads.outcomes)
    assert replies_to(server, [b"k"]) == (0, b"")
    assert server.t.node.reads.outcomes == before
    await server.t.stop()


async def test_no_more_replies_are_made_at_once_than_was_allowed() -> None:
    server = await in_state(put)
    parts: list[bytes] = []
    assert server.hits.serve([b"k"] * 10, server.t.clock.now(), parts, 3) == 3
    assert server.hits.serve([b"k"] * 10, server.t.clock.now(), parts, 0) == 1
    await server.t.stop()
