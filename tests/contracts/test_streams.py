"""What a `Stream` must do: the plain one and the encrypted one, under the connections of the client for threads."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milena_client.core.near_cache import NearCache
from milena_client.sync.near_cache_feed import NearCacheFeed
from milena_client.sync.socket import RespSocket
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import DeadlineExceeded, MilenaError, NodeLost
from milena_common.network.connecting import Endpoint, open_stream, resolve
from milena_common.network.stream import Stream
from milena_common.resp.client_commands import call, get, handshake, mget
from milena_common.resp.identity import ANY
from milena_common.resp.stream import RespStream
from milena_common.tls.certificates import Certificates
from tests.support.certificates import Authority, write_files
from tests.support.fake_resp_node import FakeRespNode
from tests.support.waiting import wait_until

HOST = "127.0.0.1"
LONG = 30.0
SHORT = 0.05
VALUES = {"k": b"v", "empty": b"", **{f"{size}": b"x" * size for size in (16_384, 65_525, 65_536, 3_000_000)}}


class Kind:
    """One kind of stream: how clients open it, and what a server makes of an accepted connection."""

    def __init__(self, certificates: Certificates | None) -> None:
        self._certificates = certificates
        self.client: ssl.SSLContext | None = certificates.client_context() if certificates else None

    def open(self, endpoint: Endpoint) -> Stream:
        return open_stream(endpoint, LONG, self._certificates, HOST)

    def accepted(self, connection: socket.socket) -> socket.socket:
        if self._certificates is None:
            return connection
        context = self._certificates.server_context("resp")
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)


@pytest.fixture(params=["plain", "tls"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "plain":
        return Kind(None)
    authority = Authority()
    return Kind(Certificates(write_files(tmp_path, authority.pem, authority.issue())))


@pytest.fixture
def node(kind: Kind) -> Iterator[FakeRespNode]:
    cluster = MemoryCluster(lambda: 0.0)
    cluster.add(VALUES)
    node = FakeRespNode(cluster.respond, accepted=kind.accepted)
    yield node
    node.close()


@pytest.fixture
def connection(kind: Kind, node: FakeRespNode) -> Iterator[RespSocket]:
    connection = connected(kind, node)
    yield connection
    connection.close()


def connected(kind: Kind, node: FakeRespNode) -> RespSocket:
    (endpoint,) = resolve(node.address)
    return RespSocket(kind.open(endpoint), handshake("test", "0", ANY), LONG, "node a:1 ")


@pytest.fixture
def served(kind: Kind) -> Iterator[Callable[[Callable[[socket.socket], None]], Stream]]:
    """Serves one connection with a function, and returns the client's side of it."""
    with socket.create_server((HOST, 0)) as server:
        threads: list[threading.Thread] = []
        streams: list[Stream] = []

        def serve(serving: Callable[[socket.socket], None]) -> Stream:
            def run() -> None:
                with kind.accepted(server.accept()[0]) as connection:
                    serving(connection)

            threads.append(threading.Thread(target=run, daemon=True))
            threads[-1].start()
            streams.append(kind.open(Endpoint(server.family, server.getsockname())))
            return streams[-1]

        yield serve
        for stream in streams:
            stream.close()
        for thread in threads:
            thread.join(LONG)


# ---- the stream itself


def test_a_limit_ends_the_wait_for_bytes(served: Callable[..., Stream]) -> None:
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        over.wait(LONG)
        connection.sendall(b"late")

    stream = served(serve)
    stream.set_limit(SHORT)
    assert stream.send_some(b"x") == 1
    for receive in (stream.recv, stream.recv_full, stream.recv_ready):
        with pytest.raises(BlockingIOError):
            receive(4)
    over.set()
    stream.set_limit(LONG)
    assert stream.recv_full(4) == b"late", "nothing is lost by a limit"


def test_full_reads_return_all_bytes_and_what_came_before_the_end(served: Callable[..., Stream]) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        for _ in range(10):
            connection.sendall(b"x" * 10_000)

    stream = served(serve)
    stream.set_limit(LONG)
    stream.send_some(b"x")
    assert len(stream.recv_full(70_000)) == 70_000
    assert len(stream.recv_full(70_000)) == 30_000
    assert stream.recv(1) == b""


def test_bytes_that_were_received_together_are_returned_without_waiting(served: Callable[..., Stream]) -> None:
    sent, stop = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        for part in (b"abc", b"d", b"ef"):
            connection.sendall(part)
        sent.set()
        stop.wait(LONG)

    stream = served(serve)
    stream.set_limit(LONG)
    stream.send_some(b"x")
    assert sent.wait(LONG)
    stream.set_limit(SHORT)
    found = b""
    while len(found) < 6:
        found += stream.recv(2)
    assert found == b"abcdef"
    with pytest.raises(BlockingIOError):
        stream.recv(2)
    stop.set()


def test_looking_for_the_end_takes_no_bytes_away(served: Callable[..., Stream]) -> None:
    sent, stop = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"reply")
        sent.set()
        stop.wait(LONG)

    stream = served(serve)
    stream.set_limit(LONG)
    assert not stream.peer_closed()
    stream.send_some(b"x")
    assert sent.wait(LONG)
    assert not any(stream.peer_closed() for _ in range(100))
    assert stream.recv_full(5) == b"reply"
    stop.set()
    wait_until("the end is seen", stream.peer_closed, LONG)


def test_a_reader_that_reads_nothing_ends_a_send_by_the_limit(served: Callable[..., Stream]) -> None:
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        over.wait(LONG)

    stream = served(serve)
    stream.set_limit(SHORT)

    def fill() -> None:
        while True:
            stream.send_some(b"x" * 1_000_000)

    with pytest.raises(BlockingIOError):
        fill()
    over.set()


def test_a_stream_that_another_thread_shuts_down_ends_its_call(served: Callable[..., Stream]) -> None:
    read = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(1)
        read.set()
        connection.recv(1)

    stream = served(serve)
    stream.set_limit(LONG)
    stream.send_some(b"x")
    ending = threading.Thread(target=lambda: (read.wait(LONG), stream.shutdown()))
    ending.start()
    try:
        assert stream.recv(1) == b""
    except BlockingIOError:
        raise
    except OSError:
        pass
    ending.join()
    stream.shutdown()


# ---- the connections of the client for threads


@pytest.mark.parametrize("key", [*VALUES, "none"])
def test_every_value_arrives_whole(connection: RespSocket, key: str) -> None:
    for _ in range(3):
        assert connection.exchange(get(key.encode()), LONG) == VALUES.get(key)


def test_commands_leave_together_and_deferred_replies_are_waited_for(
    node: FakeRespNode, connection: RespSocket
) -> None:
    node.defers = lambda argv: argv[-1] == b"k"
    released = threading.Thread(
        target=lambda: (wait_until("requested", lambda: len(node.held) == 2, LONG), node.release())
    )
    released.start()
    large = call("Put", LONG, b"x" * 2_000_000)
    node.says = lambda argv: b"+OK\r\n" if argv[0] == b"MILENA.CALL" else None
    connection.send([get(b"k"), large, get(b"empty"), get(b"k"), mget([b"k", b"none"])], LONG)
    assert connection.receive(5) == [b"v", b"OK", b"", b"v", [b"v", None]]
    released.join()


def test_a_silent_node_ends_the_exchange_by_its_timeout(node: FakeRespNode, connection: RespSocket) -> None:
    node.silent = True
    with pytest.raises(DeadlineExceeded, match=r"node a:1 did not respond within 0\.05 s"):
        connection.exchange(get(b"k"), SHORT)
    assert connection.closed


def test_a_drip_of_bytes_does_not_make_an_exchange_longer(served: Callable[..., Stream]) -> None:
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"$1000000\r\n")
        try:
            while not gone.wait(0.005):
                connection.sendall(b"x")
        except OSError:
            pass

    connection = RespSocket(served(serve), (), LONG, "")
    with pytest.raises(DeadlineExceeded):
        connection.exchange(get(b"k"), 0.2)
    gone.set()


def test_a_connection_that_breaks_off_is_a_lost_node(node: FakeRespNode, connection: RespSocket) -> None:
    assert not connection.peer_closed()
    node.disconnect()
    wait_until("the end is seen", connection.peer_closed, LONG)
    with pytest.raises(NodeLost, match="node a:1 broke off the connection"):
        connection.exchange(get(b"k"), LONG)


def test_pushes_reach_the_near_cache(kind: Kind, node: FakeRespNode) -> None:
    near = NearCache(1 << 20, 60.0)
    lost: list[NearCacheFeed] = []
    (endpoint,) = resolve(node.address)
    feed = NearCacheFeed(kind.open(endpoint), handshake("test", "0", ANY), LONG, near, lost.append)
    feed.start()
    near.end_read("k", near.begin_read("k"), b"v")
    assert near.get("k") == b"v"
    node.push(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n")
    wait_until("the entry is gone", lambda: near.get("k") is None, LONG)
    feed.close()
    wait_until("the feed has ended", lambda: lost == [feed], LONG)


# ---- the connection of an event loop


class Events:
    """The owner of a `RespStream` whose events do not matter."""

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def lost(self, error: MilenaError) -> None: ...

    def pushed(self, message: list[Any]) -> None: ...


async def test_the_stream_of_an_event_loop_needs_only_another_transport(kind: Kind, node: FakeRespNode) -> None:
    ((_, (host, port)),) = resolve(node.address)
    _, stream = await asyncio.get_running_loop().create_connection(
        lambda: RespStream(Events(), LONG), host, port, ssl=kind.client
    )
    commands = [stream.call(get(key.encode()), LONG) for key in [*VALUES, "none"]]
    assert await asyncio.gather(*commands) == [*VALUES.values(), None]
    stream.abort(NodeLost("the test is over"))
