"""The stream of replies, however it is cut into pieces, and what their callers get."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milena_common.api.errors import MilenaError, NodeLost, OriginUnavailable
from milena_common.resp.client_commands import get
from milena_common.resp.stream import NoReply, RespStream

LONG = 60.0
SHORT = 0.05


class Watcher:
    """An owner that records what it received."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.error: MilenaError | None = None
        self.pushes: list[list[Any]] = []

    def paused(self) -> None:
        self.events.append("paused")

    def resumed(self) -> None:
        self.events.append("resumed")

    def lost(self, error: MilenaError) -> None:
        self.error = error

    def pushed(self, message: list[Any]) -> None:
        self.pushes.append(message)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"socket": socket.socket()})
        self.written: list[bytes] = []
        self.unsent = 0
        self.aborted = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Harness:
    """A stream whose bytes go to and come from a test."""

    def __init__(self, timeout: float = LONG) -> None:
        self.owner = Watcher()
        self.wire = Wire()
        self.stream = RespStream(self.owner, timeout, "node a:1 ")
        self.stream.connection_made(self.wire)

    def close(self) -> None:
        self.wire.get_extra_info("socket").close()

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.stream.data_received(piece)


def run(test: Callable[[Harness], Any], timeout: float = LONG) -> None:
    async def body() -> None:
        harness = Harness(timeout)
        try:
            await test(harness)
            harness.stream.abort(NodeLost("the test is over"))
        finally:
            harness.close()

    asyncio.run(body())


# Replies, and what they mean.
RESPONSES: list[tuple[bytes, Any]] = [
    (b"$5\r\nvalue\r\n", b"value"),
    (b"$0\r\n\r\n", b""),
    (b"$6\r\n\r\n$1\r\n\r\n", b"\r\n$1\r\n"),
    (b"_\r\n", None),
    (b"$-1\r\n", None),
    (b"+OK\r\n", b"OK"),
    (b":5\r\n", 5),
    (b"#f\r\n", False),
    (b"*2\r\n$1\r\na\r\n_\r\n", [b"a", None]),
    (b"-ORIGINDOWN S3 is down\r\n", OriginUnavailable),
]


def matches(reply: Any, expected: Any) -> bool:
    return isinstance(reply, expected) if isinstance(expected, type) else bool(reply == expected)


@given(
    st.lists(st.tuples(st.sampled_from(RESPONSES), st.booleans(), st.integers(0, 5))),
    st.lists(st.integers(0, 500)),
)
def test_every_caller_gets_its_reply_however_the_stream_is_split(
    planned: list[tuple[tuple[bytes, Any], bool, int]], cuts: list[int]
) -> None:
    """Some replies are deferred, and come up to five replies later; some are pushes without a caller."""
    stream: list[bytes] = []
    late: list[tuple[int, bytes]] = []
    for number, ((data, _), deferred, later) in enumerate(planned):
        stream.append(b"-DEFERRED %d\r\n" % number if deferred else data)
        if deferred:
            late.append((number + later, b">3\r\n+deferred\r\n:%d\r\n%b" % (number, data)))
        stream.extend(push for due, push in late if due == number)
        stream.append(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")
    stream.extend(push for due, push in late if due >= len(planned))
    whole = b"".join(stream)
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})

    async def test(harness: Harness) -> None:
        futures = [harness.stream.request(get(b"k")) for _ in planned]
        await asyncio.sleep(0)
        assert b"".join(harness.wire.written) == get(b"k") * len(planned)
        harness.receive(*(whole[start:end] for start, end in pairwise(edges)))
        replies = await asyncio.gather(*futures)
        assert all(matches(reply, meant) for reply, ((_, meant), _, _) in zip(replies, planned, strict=True))
        await asyncio.sleep(0)
        assert len(harness.owner.pushes) == len(planned)
        assert harness.owner.error is None

    run(test)


def test_one_byte_at_a_time() -> None:
    data = b"".join(reply for reply, _ in RESPONSES)

    async def test(harness: Harness) -> None:
        futures = [harness.stream.request(b"x") for _ in RESPONSES]
        await asyncio.sleep(0)
        harness.receive(*(data[at : at + 1] for at in range(len(data))))
        for future, (_, meant) in zip(futures, RESPONSES, strict=True):
            assert matches(await future, meant)

    run(test)


def test_requests_of_one_tick_leave_in_one_write() -> None:
    async def test(harness: Harness) -> None:
        async def request(key: bytes) -> None:
            await harness.stream.request(key)
            await harness.stream.request(key)

        tasks = [asyncio.create_task(request(b"%d" % number)) for number in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert harness.wire.written == [b"01234"]
        harness.receive(b"+OK\r\n" * 5)
        await asyncio.sleep(0)
        assert harness.wire.written == [b"01234", b"01234"], "what the answers set off leaves in the same tick"
        harness.receive(b"+OK\r\n" * 5)
        await asyncio.gather(*tasks)

    run(test)


@pytest.mark.parametrize("data", [b"hello\r\n", b"$x\r\n", b"+OK\r\n+OK\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_makes_no_sense_ends_the_connection(data: bytes) -> None:
    async def test(harness: Harness) -> None:
        first = harness.stream.request(b"x")
        await asyncio.sleep(0)
        harness.receive(data)
        assert harness.wire.aborted
        assert isinstance(harness.owner.error, NodeLost)
        assert first.done()
        assert isinstance(await harness.stream.request(b"y"), NodeLost)

    run(test)


def test_a_broken_connection_raises_its_cause_in_all_waiters() -> None:
    async def test(harness: Harness) -> None:
        parked, waiting = harness.stream.request(b"x"), harness.stream.request(b"y")
        await asyncio.sleep(0)
        harness.receive(b"-DEFERRED 1\r\n")
        harness.stream.connection_lost(ConnectionResetError("reset by peer"))
        for future in (parked, waiting):
            assert str(await future) == "node a:1 broke off the connection: reset by peer"
        with pytest.raises(NodeLost):
            await harness.stream.call(b"z", LONG)

    run(test)


def test_a_caller_that_gave_up_is_passed_over() -> None:
    async def test(harness: Harness) -> None:
        first, second, third = (harness.stream.request(b"x") for _ in range(3))
        await asyncio.sleep(0)
        harness.receive(b"-DEFERRED 1\r\n")
        first.cancel()
        second.cancel()
        harness.receive(b"$1\r\n2\r\n$1\r\n3\r\n>3\r\n+deferred\r\n:1\r\n$1\r\n1\r\n>3\r\n+deferred\r\n:9\r\n_\r\n")
        assert await third == b"3"
        assert harness.owner.error is None

    run(test)


def test_a_call_ends_at_its_timeout_and_its_reply_is_discarded() -> None:
    async def test(harness: Harness) -> None:
        with pytest.raises(NoReply, match=r"node a:1 did not respond within 0\.05 s"):
            await harness.stream.call(b"x", SHORT)
        call = asyncio.create_task(harness.stream.call(b"y", LONG))
        await asyncio.sleep(0)
        harness.receive(b"$1\r\n1\r\n$1\r\n2\r\n")
        assert await call == b"2"
        assert harness.owner.error is None

    run(test)


def test_a_deferred_call_ends_when_its_time_is_over() -> None:
    async def test(harness: Harness) -> None:
        call = asyncio.create_task(harness.stream.call(b"y", SHORT))
        await asyncio.sleep(0)
        harness.receive(b"-DEFERRED 1\r\n")
        with pytest.raises(NoReply):
            await call
        harness.receive(b">3\r\n+deferred\r\n:1\r\n$1\r\n2\r\n")

    run(test)


def test_requests_end_after_the_streams_own_time() -> None:
    async def test(harness: Harness) -> None:
        deferred, other = harness.stream.request(b"x"), harness.stream.request(b"y")
        await asyncio.sleep(0)
        harness.receive(b"-DEFERRED 1\r\n$1\r\n2\r\n")
        assert isinstance(await deferred, NoReply)
        assert await other == b"2"
        assert harness.owner.error is None, "it has answered something"

    run(test, SHORT)


class Hurried(asyncio.SelectorEventLoop):
    """A loop whose time a test moves on."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def test_the_time_of_a_deferred_request_is_counted_from_its_own_write() -> None:
    """The node may have been held up, and then reply to the commands of several writes at once."""

    async def test(loop: Hurried) -> None:
        harness = Harness(60)
        early = harness.stream.request(b"x")
        await asyncio.sleep(0)
        loop.ahead += 50
        late = harness.stream.request(b"y")
        await asyncio.sleep(0)
        harness.receive(b"-DEFERRED 1\r\n-DEFERRED 2\r\n")
        loop.ahead += 20
        assert isinstance(await early, NoReply)
        assert not late.done()
        harness.receive(b">3\r\n+deferred\r\n:2\r\n$1\r\n2\r\n")
        assert await late == b"2"
        harness.stream.abort(NodeLost("the test is over"))
        harness.close()

    with asyncio.Runner(loop_factory=Hurried) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Hurried)
        runner.run(test(loop))


def test_a_node_that_says_nothing_at_all_is_lost() -> None:
    async def test(harness: Harness) -> None:
        assert isinstance(await harness.stream.request(b"x"), NoReply)
        assert str(harness.owner.error) == "node a:1 has been silent for 0.05 s"
        assert harness.wire.aborted

    run(test, SHORT)


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_large_value_may_be_on_its_way_for_as_long_as_its_caller_has_time(way: str) -> None:
    """On a slow line the first reply may be complete long after the stream's own time."""

    async def test(harness: Harness) -> None:
        call = asyncio.create_task(harness.stream.call(b"x" * 100, LONG))
        harness.wire.unsent = 60 if way == "up" else 0
        await asyncio.sleep(0)
        other = harness.stream.request(b"y")
        await asyncio.sleep(0)
        if way == "down":
            harness.receive(b"$6\r\nva")
        assert isinstance(await other, NoReply)
        assert harness.owner.error is None
        harness.receive(b"" if way == "down" else b"$6\r\nva", b"lues\r\n")
        assert await call == b"values"

    run(test, SHORT)


def test_a_node_that_says_no_more_is_lost_at_once() -> None:
    """Also one that does not read, so that what is left to be sent would keep the connection open."""

    async def test(harness: Harness) -> None:
        waiting = harness.stream.request(b"x" * 100)
        await asyncio.sleep(0)
        harness.wire.unsent = 60
        harness.stream.eof_received()
        assert str(await waiting) == str(harness.owner.error) == "node a:1 broke off the connection"
        assert harness.wire.aborted

    run(test)


def test_each_waiter_gets_an_error_of_its_own() -> None:
    """Raised by each of them, one for all would collect the tracebacks of all."""

    async def test(harness: Harness) -> None:
        reads = [harness.stream.request(b"x") for _ in range(4)]
        harness.stream.break_off(NodeLost("left"))
        writes = [harness.stream.request(b"x") for _ in range(4)]
        harness.stream.abort(NodeLost("gone"))
        errors = await asyncio.gather(*reads, *writes)
        assert [str(error) for error in errors] == ["left"] * 4 + ["gone"] * 4
        assert len({id(error) for error in errors}) == 8

    run(test)


def test_breaking_off_leaves_calls_that_are_to_last() -> None:
    async def test(harness: Harness) -> None:
        read = asyncio.create_task(harness.stream.call(b"r", LONG))
        write = asyncio.create_task(harness.stream.call(b"w", LONG, lasting=True))
        await asyncio.sleep(0)
        harness.stream.break_off(NodeLost("left"))
        with pytest.raises(NodeLost, match="left"):
            await read
        idle = asyncio.create_task(harness.stream.idle())
        await asyncio.sleep(0)
        harness.receive(b"_\r\n$1\r\nw\r\n")
        assert await write == b"w"
        await idle

    run(test)


def test_a_slow_reader_is_reported() -> None:
    async def test(harness: Harness) -> None:
        harness.stream.pause_writing()
        harness.stream.resume_writing()
        assert harness.owner.events == ["paused", "resumed"]

    run(test)


def test_a_call_at_once_is_sent_before_this_iteration_ends_behind_what_is_queued() -> None:
    async def test(harness: Harness) -> None:
        first = harness.stream.request(get(b"first"))
        calling = harness.stream.call(get(b"k"), LONG, at_once=True)
        calling.send(None)  # up to its wait for the reply
        assert harness.wire.written == [get(b"first") + get(b"k")]
        harness.receive(b"$1\r\n1\r\n$1\r\n2\r\n")
        assert await first == b"1"
        with pytest.raises(StopIteration) as replied:
            calling.send(None)
        assert replied.value.value == b"2"

    run(test)


def test_a_call_that_was_begun_is_sent_at_once_and_ends_at_its_timeout() -> None:
    async def test(harness: Harness) -> None:
        queued = harness.stream.request(get(b"j"))
        begun = harness.stream.begin(get(b"k"), LONG)
        assert harness.wire.written == [get(b"j") + get(b"k")]
        late = harness.stream.begin(get(b"l"), SHORT)
        harness.receive(b"$1\r\n1\r\n$1\r\n2\r\n")
        assert (await queued, await begun) == (b"1", b"2")
        assert isinstance(await late, NoReply)
        harness.receive(b"$1\r\n3\r\n")
        last = harness.stream.begin(get(b"m"), LONG)
        harness.receive(b"$1\r\n4\r\n")
        assert await last == b"4"

    run(test)


def test_large_replies_leave_no_room_in_the_parser_and_what_follows_them_is_read() -> None:
    async def test(harness: Harness) -> None:
        value = bytes(300_000)
        large = b"$%d\r\n%b\r\n" % (len(value), value)
        replies = [harness.stream.request(get(b"k")) for _ in range(4)]
        before = harness.stream._reader
        harness.receive(large[:200_000])
        assert harness.stream._reader is before, "a part of a reply is in it"
        harness.receive(large[200_000:] + b"$5\r\nva")
        assert harness.stream._reader is before, "a part of the next one is"
        harness.receive(b"lue\r\n")
        assert harness.stream._reader is not before
        harness.receive(large, b"$1\r\nx\r\n")
        assert await asyncio.gather(*replies) == [value, b"value", value, b"x"]

    run(test)
