"""Following the ring: newer rings only, through lost routers, and not where it is withheld."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress

import pytest
from google.protobuf.message import Message

from milena_common.api.errors import FailedPrecondition, MilenaError, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.runs_message import RUNS
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slot_map_watch import REJECTED_SECONDS, AsyncRingWatch, RingWatch
from tests.support.fake_clock import FakeClock, run_ready_tasks

SOON = 10.0
NODES = (pb.RingNode(address="a:1", resp_address="a:2"),)

LOST = Unavailable("the router cannot be reached")
WITHHELD = FailedPrecondition("this router has DIRECT_ACCESS=false")
END = None

Event = pb.RingUpdate | MilenaError | None


def ring(epoch: int) -> pb.RingUpdate:
    return pb.RingUpdate(
        epoch=epoch, nodes=NODES, slots=[pb.SlotRange(first=0, last=16383, owned_since=epoch)] if epoch else []
    )


class FakeRouter:
    """What comes on its streams is put in by the test; an error or `END` ends the one that is open."""

    def __init__(self) -> None:
        self.requested: list[pb.WatchRingRequest] = []
        self.open = 0
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    async def watch(self, method: str, request: Message) -> AsyncGenerator[pb.RingUpdate, None]:
        assert method == "WatchRing"
        assert isinstance(request, pb.WatchRingRequest)
        self.requested.append(request)
        self.open += 1
        try:
            while (event := await self.events.get()) is not END:
                if isinstance(event, MilenaError):
                    raise event
                yield event
        finally:
            self.open -= 1


class Harness:
    def __init__(self, node_id: str = "") -> None:
        self.clock = FakeClock()
        self.router = FakeRouter()
        self.seen: list[int] = []
        self.watch = AsyncRingWatch(self.router, self.clock, lambda: 1.0, self.changed, node_id=node_id)

    def changed(self, slot_map: SlotMap) -> None:
        assert self.watch.current is slot_map
        self.seen.append(slot_map.epoch)

    async def happens(self, *events: Event) -> None:
        for event in events:
            self.router.events.put_nowait(event)
        await run_ready_tasks()


@asynccontextmanager
async def following(node_id: str = "") -> AsyncGenerator[Harness, None]:
    harness = Harness(node_id)
    task = asyncio.create_task(harness.watch.run())
    await run_ready_tasks()
    yield harness
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not harness.router.open


async def test_each_newer_ring_is_taken_over_and_announced() -> None:
    async with following("me") as harness:
        assert harness.watch.current.epoch == 0
        await harness.happens(ring(5), ring(8))
        assert harness.seen == [5, 8]
        assert harness.watch.current.target(0).resp_address == "a:2"
        assert harness.router.requested == [pb.WatchRingRequest(node_id="me", features=RUNS)]


def runs(epoch: int, base: int = 0) -> pb.RingUpdate:
    """The same ring in the short form, whole or as a change of the ring with the epoch `base`."""
    update = ring(epoch)
    del update.slots[:]
    update.runs.CopyFrom(pb.SlotRuns(lengths=[16384], owners=[1], since=[0], epochs=[epoch]))
    update.base_epoch = base
    return update


async def test_a_change_applies_to_the_last_ring_of_its_stream() -> None:
    async with following() as harness:
        await harness.happens(runs(5), runs(6, 5), runs(9, 6))
        assert harness.seen == [5, 6, 9]
        assert harness.watch.current.target(0)[:4] == (0, "a:1", "a:2", 9)


async def test_a_change_of_a_ring_that_was_not_adopted_applies_to_it() -> None:
    """A router that was restarted without its clock sends an older ring, and then a change of that."""
    async with following() as harness:
        await harness.happens(runs(8), END)
        await harness.clock.advance(0.1)
        await harness.happens(runs(5), runs(9, 5))
        assert harness.seen == [8, 9]


async def test_a_change_that_does_not_fit_ends_the_stream_and_the_next_one_begins_whole() -> None:
    async with following() as harness:
        await harness.happens(runs(5), runs(7, 6))
        assert harness.seen == [5]
        await harness.clock.advance(2)
        assert len(harness.router.requested) == 2
        await harness.happens(runs(9, 5))
        await harness.clock.advance(2)
        assert len(harness.router.requested) == 3, "the last stream's ring is no base"
        await harness.happens(runs(7), runs(8, 7))
        assert harness.seen == [5, 7, 8]


async def test_the_port_of_another_router_is_taken_over_at_the_same_epoch() -> None:
    def own_port(address: str) -> pb.RingUpdate:
        update = ring(5)
        del update.nodes[:]
        update.nodes.add(address=address, resp_address=address)
        return update

    async with following() as harness:
        await harness.happens(own_port("router-1:6379"), own_port("router-2:6379"))
        assert [node.resp_address for node in harness.watch.current.nodes] == ["router-2:6379"]
        assert harness.seen == [5, 5]


async def test_never_back() -> None:
    async with following() as harness:
        await harness.happens(ring(8), ring(7), ring(8), ring(0))
        await harness.happens(END)
        await harness.clock.advance(5)
        await harness.happens(ring(0), ring(6), ring(8), ring(9))
        assert harness.seen == [8, 9]


@pytest.mark.parametrize("end", [LOST, END])
async def test_a_lost_router_leaves_the_last_ring_and_is_called_again(end: Event) -> None:
    async with following() as harness:
        await harness.happens(ring(5), end)
        assert harness.watch.current.epoch == 5
        assert len(harness.router.requested) == 1
        await harness.clock.advance(0.1)
        assert len(harness.router.requested) == 2
        await harness.happens(ring(5), ring(6))
        assert harness.seen == [5, 6]
        assert not harness.watch.rejected


async def test_the_pauses_grow_to_two_seconds_and_begin_anew_after_a_reply() -> None:
    async with following() as harness:
        for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            requested = len(harness.router.requested)
            await harness.happens(LOST)
            await harness.clock.advance(pause * 0.99)
            assert len(harness.router.requested) == requested
            await harness.clock.advance(pause * 0.02)
            assert len(harness.router.requested) == requested + 1
        await harness.happens(ring(1), LOST)
        await harness.clock.advance(0.1)
        assert len(harness.router.requested) == 9


async def test_where_the_ring_is_withheld_it_is_requested_rarely() -> None:
    async with following() as harness:
        await harness.happens(WITHHELD)
        assert harness.watch.rejected
        assert harness.seen == []
        await harness.clock.advance(REJECTED_SECONDS - 1)
        assert len(harness.router.requested) == 1
        await harness.clock.advance(1)
        assert len(harness.router.requested) == 2
        await harness.happens(ring(5))
        assert not harness.watch.rejected
        assert harness.seen == [5]


async def test_it_is_logged_once_that_the_ring_is_withheld(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with following() as harness:
        for _ in range(3):
            await harness.happens(WITHHELD)
            await harness.clock.advance(REJECTED_SECONDS)
        assert [each.getMessage() for each in caplog.records] == [f"the router withholds its ring: {WITHHELD}"]
        await harness.happens(ring(5), WITHHELD)
        assert len(caplog.records) == 2, "it had changed in between"


async def test_a_router_that_begins_to_withhold_the_ring_takes_it_away() -> None:
    async with following() as harness:
        await harness.happens(ring(5), LOST)
        await harness.clock.advance(1)
        await harness.happens(WITHHELD)
        assert harness.seen == [5, 0]
        await harness.clock.advance(REJECTED_SECONDS)
        await harness.happens(WITHHELD)
        assert harness.seen == [5, 0]
        await harness.clock.advance(REJECTED_SECONDS)
        await harness.happens(ring(4), ring(5))
        assert harness.seen == [5, 0, 5], "the same ring is welcome again, an older one is not"


async def test_what_is_no_ring_is_survived() -> None:
    async with following() as harness:
        await harness.happens(ring(5), pb.RingUpdate(epoch=6, slots=[pb.SlotRange(first=1, last=0)]))
        assert harness.watch.current.epoch == 5
        await harness.clock.advance(1)
        await harness.happens(ring(7))
        assert harness.seen == [5, 7]


# ---- for threads


class ThreadedRouter:
    """As `FakeRouter`; `close` ends what is open."""

    def __init__(self) -> None:
        self.requested = 0
        self.events: queue.Queue[Event] = queue.Queue()

    def watch(self, method: str, request: Message) -> Generator[pb.RingUpdate, None, None]:
        self.requested += 1
        while (event := self.events.get()) is not END:
            if isinstance(event, MilenaError):
                raise event
            yield event

    def close(self) -> None:
        self.events.put(FailedPrecondition("this client is closed"))


class Seen:
    """Epochs, in the order in which they were announced."""

    def __init__(self) -> None:
        self.epochs: queue.Queue[int] = queue.Queue()

    def __call__(self, slot_map: SlotMap) -> None:
        self.epochs.put(slot_map.epoch)

    def next(self) -> int:
        return self.epochs.get(timeout=SOON)


def test_a_thread_follows_the_ring() -> None:
    router, seen = ThreadedRouter(), Seen()
    watch = RingWatch(router, lambda: 0.0, seen)
    assert watch.current.epoch == 0
    router.events.put(ring(5))
    watch.start()
    watch.start()
    assert seen.next() == 5
    assert watch.current.epoch == 5
    for event in (LOST, ring(4), END, ring(6)):
        router.events.put(event)
    assert seen.next() == 6
    assert router.requested == 3
    watch.close()
    assert watch.current.epoch == 6
    assert not watch.rejected, "to be closed is not to be refused"


def test_a_rejected_thread_ends_when_it_is_stopped() -> None:
    router, seen = ThreadedRouter(), Seen()
    watch = RingWatch(router, lambda: 0.0, seen)
    for event in (ring(5), WITHHELD):
        router.events.put(event)
    watch.start()
    assert [seen.next(), seen.next()] == [5, 0]
    assert watch.rejected
    watch.close()
    assert all(thread.name != "milena ring watch" for thread in threading.enumerate())


def test_closed_before_it_began() -> None:
    watch = RingWatch(ThreadedRouter(), lambda: 0.0, Seen())
    watch.close()
    watch.start()
    assert all(thread.name != "milena ring watch" for thread in threading.enumerate())


def test_a_callback_of_the_ring_may_close_the_watch() -> None:
    router = ThreadedRouter()
    closed = threading.Event()

    def changed(_: SlotMap) -> None:
        watch.close()
        closed.set()

    watch = RingWatch(router, lambda: 0.0, changed)
    router.events.put(ring(5))
    watch.start()
    assert closed.wait(SOON)
