"""One round of the event loop is short, whatever the connections of the server have to do."""

from __future__ import annotations

import asyncio

from milena_cache.servers.resp.state.loop_share import LOOP_SECONDS, MAX_SLICE_SECONDS, LoopShare
from milena_common.resp.encoding import bulk, command
from tests.cache.servers.resp.server_under_test import ServerUnderTest
from tests.support.fake_clock import run_ready_tasks


class Waiter:
    """Runs as many steps as it was made for, each of which takes `seconds` of the fake time."""

    def __init__(self, time: list[float], share: LoopShare, number: int, seconds: float) -> None:
        self.time = time
        self.share = share
        self.left = number
        self.seconds = seconds
        self.rounds: list[int] = []
        self.round = 0

    def run_slice(self) -> None:
        self.rounds.append(self.round)
        self.time[0] += self.seconds
        self.left -= 1
        if self.left:
            self.share.enqueue(self)


async def test_a_round_ends_when_its_time_is_over_and_the_others_keep_their_place() -> None:
    time = [0.0]
    share = LoopShare(lambda: time[0])
    waiting = [Waiter(time, share, 3, LOOP_SECONDS * 0.6) for _ in range(4)]
    for each in waiting:
        share.enqueue(each)
    for number in range(8):
        before = time[0]
        await asyncio.sleep(0)
        assert time[0] - before <= LOOP_SECONDS * 1.2 + 1e-9
        for each in waiting:
            each.round = number + 1
    assert [each.rounds for each in waiting] == [[0, 2, 4], [0, 2, 4], [1, 3, 5], [1, 3, 5]]


async def test_many_that_wait_get_smaller_slices() -> None:
    share = LoopShare(lambda: 0.0)
    assert share.slice() == MAX_SLICE_SECONDS
    for _ in range(7):
        share.enqueue(Waiter([0.0], share, 1, 0.0))
    assert share.slice() == LOOP_SECONDS / 8
    await run_ready_tasks()
    assert share.slice() == MAX_SLICE_SECONDS


async def test_work_as_bytes_arrive_is_bounded_for_each_round() -> None:
    share = LoopShare(lambda: 0.0)
    share.used(LOOP_SECONDS / 2)
    assert not share.exhausted
    share.used(LOOP_SECONDS / 2)
    assert share.exhausted
    await run_ready_tasks()
    assert not share.exhausted


async def server_with_a_clock_that_takes(seconds: float) -> ServerUnderTest:
    """A server with a key in memory, whose clock goes on by `seconds` whenever it is looked at."""
    server = ServerUnderTest()
    await server.t.start()
    client = server.connect()
    await server.warm(client, "k", b"v")
    server.t.clock.reading_takes = seconds
    return server


async def test_a_connection_that_pipelines_without_pause_does_not_starve_the_others() -> None:
    server = await server_with_a_clock_that_takes(0.0001)
    greedy, other = server.connect(), server.connect()
    number = 2000
    mixed = (command(b"GET", b"k") + command(b"ECHO", b"x")) * (number // 2)
    greedy.send(mixed)
    assert not greedy.transport.reading
    served = greedy.session.commands
    assert 0 < served < 100
    for _ in range(5):
        assert other.now(b"GET", b"k") == bulk(b"v")
        await asyncio.sleep(0)
        assert greedy.session.commands - served < 100, "one round of the loop was long"
        served = greedy.session.commands
    while not greedy.transport.reading:
        await run_ready_tasks()
    assert greedy.take() == (bulk(b"v") + bulk(b"x")) * (number // 2)
    await server.t.stop()


async def test_a_pipeline_of_gets_in_reads_that_end_anywhere_gets_its_replies_in_rounds() -> None:
    server = await server_with_a_clock_that_takes(0.0005)
    client = server.connect()
    data = command(b"GET", b"k") * 20_000
    for at in range(0, len(data), 99_991):
        client.send(data[at : at + 99_991])
        assert not client.transport.reading
        while not client.transport.reading:
            await run_ready_tasks()
    assert client.take() == bulk(b"v") * 20_000
    await server.t.stop()


async def test_many_replies_in_one_iteration_of_the_loop_are_one_round() -> None:
    server = await server_with_a_clock_that_takes(0.0)
    client = server.connect()
    server.t.store.gate.clear()
    client.send(b"".join(command(b"GET", b"cold%d" % each) for each in range(1000)) + command(b"PING") * 3000)
    while not client.transport.reading:
        await asyncio.sleep(0)
        if client.session.commands >= 4000:
            break
    server.t.store.gate.set()
    assert await client.replies(4000) == b"$-1\r\n" * 1000 + b"+PONG\r\n" * 3000
    await server.t.stop()
