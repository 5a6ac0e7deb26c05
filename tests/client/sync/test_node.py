"""A node in the Redis protocol, for threads, over real sockets."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milena_client.sync.node import RespNode
from milena_client.sync.socket import RespSocket
from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import DeadlineExceeded, NodeLost, OriginUnavailable
from milena_common.network.connecting import Endpoint, open_stream
from milena_common.resp.client_commands import call, get, mget
from milena_common.tls.certificates import Certificates
from tests.support.certificates import Authority, write_files
from tests.support.fake_resp_node import FakeRespNode
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

LONG = 30.0
VALUES = {
    "k": b"v",
    "empty": b"",
    "ends": b"\r\n$1\r\n",
    **{f"{size}": b"x" * size for size in (65_500, 3_000_000)},
}


@pytest.fixture
def node() -> Iterator[FakeRespNode]:
    cluster = MemoryCluster(lambda: 0.0)
    cluster.add(VALUES)
    node = FakeRespNode(cluster.respond)
    yield node
    node.close()


@pytest.fixture
def here(node: FakeRespNode) -> Iterator[RespNode]:
    here = RespNode(node.address, error_prefix="node a:1 ")
    yield here
    here.leave()


def opened(here: RespNode) -> RespSocket:
    return wait_until("the node is found", lambda: here.open(LONG), LONG)


@pytest.mark.parametrize("key", [*VALUES, "none"])
def test_every_value(here: RespNode, key: str) -> None:
    connection = opened(here)
    for _ in range(3):
        assert connection.exchange(get(key.encode()), LONG) == VALUES.get(key)


def test_values_around_the_size_of_a_read(node: FakeRespNode, here: RespNode) -> None:
    """A value whose end, or line end, comes with another read."""
    connection = opened(here)
    for size in range(65_536 - 30, 65_536 + 30):
        node.says = lambda argv, size=size: b"$%d\r\n%b\r\n" % (size, b"y" * size)
        assert connection.exchange(get(b"k"), LONG) == b"y" * size


def test_a_reply_in_two_pieces_wherever_it_is_split() -> None:
    replies = [
        (b"$3\r\nabc\r\n", b"abc"),
        (b"$0\r\n\r\n", b""),
        (b"_\r\n", None),
        (b"*1\r\n$1\r\na\r\n", [b"a"]),
        (b"-DEFERRED 7\r\n>3\r\n+deferred\r\n:7\r\n$1\r\na\r\n", b"a"),
    ]
    plan = [(data, cut, meant) for data, meant in replies for cut in range(1, len(data))]
    pause = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            for data, cut, _ in plan:
                connection.recv(65536)
                connection.sendall(data[:cut])
                pause.wait(0.001)  # so that the client has most likely read it
                connection.sendall(data[cut:])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        connection = RespSocket(open_stream(Endpoint(server.family, server.getsockname()), LONG), (), LONG, "")
        for _, _, meant in plan:
            assert connection.exchange(get(b"k"), LONG) == meant
        connection.close()
        thread.join()


def test_an_error_is_a_reply(node: FakeRespNode, here: RespNode) -> None:
    node.says = lambda argv: b"-ORIGINDOWN S3 is down\r\n"
    assert isinstance(opened_before(node, here).exchange(get(b"k"), LONG), OriginUnavailable)


def opened_before(node: FakeRespNode, here: RespNode) -> RespSocket:
    """A connection whose handshake succeeds although the node replies to everything in one way."""
    said, node.says = node.says, lambda argv: None
    connection = opened(here)
    node.says = said
    return connection


def test_deferred_replies_are_waited_for(node: FakeRespNode, here: RespNode) -> None:
    connection = opened(here)
    node.defers = lambda argv: argv[-1] == b"k"
    released = threading.Thread(target=lambda: (wait_until("asked", lambda: node.held, LONG), node.release()))
    released.start()
    assert connection.exchange(get(b"k"), LONG) == b"v"
    released.join()
    released = threading.Thread(
        target=lambda: (wait_until("asked", lambda: len(node.held) == 2, LONG), node.release())
    )
    released.start()
    connection.send([get(b"k"), get(b"empty"), get(b"k"), mget([b"k", b"none", b"ends"])], LONG)
    assert connection.receive(4) == [b"v", b"", b"v", [b"v", None, b"\r\n$1\r\n"]]
    released.join()


@pytest.mark.parametrize("deferred", [False, True])
def test_silence_ends_the_call_and_the_connection(node: FakeRespNode, here: RespNode, deferred: bool) -> None:
    connection = opened(here)
    node.silent = not deferred
    node.defers = lambda argv: deferred
    with pytest.raises(DeadlineExceeded, match=r"node a:1 did not respond within 0\.05 s"):
        connection.exchange(get(b"k"), 0.05)
    assert connection.closed
    assert here.current() is None
    node.silent, node.defers = False, lambda argv: False
    assert opened(here).exchange(get(b"k"), LONG) == b"v", "it is not the late answer to another call"


def test_a_drip_of_bytes_does_not_make_a_call_longer() -> None:
    gone = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"$1000000\r\n")
            try:
                while not gone.wait(0.005):
                    connection.sendall(b"x")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        connection = RespSocket(open_stream(Endpoint(server.family, server.getsockname()), LONG), (), LONG, "")
        with pytest.raises(DeadlineExceeded):
            connection.exchange(get(b"k"), 0.2)
        gone.set()
        thread.join()


@pytest.mark.parametrize("many", [False, True])
def test_a_node_that_takes_a_little_at_a_time_does_not_make_a_call_longer(many: bool) -> None:
    gone = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while not gone.wait(0.005) and connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        thread = threading.Thread(target=serve)
        thread.start()
        connection = RespSocket(open_stream(Endpoint(server.family, server.getsockname()), LONG), (), LONG, "")
        large = call("Put", 0.2, b"x" * 30_000_000)
        with pytest.raises(DeadlineExceeded):
            connection.send([large], 0.2) if many else connection.exchange(large, 0.2)
        gone.set()
        thread.join()
        assert connection.closed


def test_without_files_left_there_is_no_connection(node: FakeRespNode, here: RespNode) -> None:
    opened(here)
    found: list[object] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    thread = threading.Thread(target=lambda: found.append(here.open(LONG)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        thread.start()
        thread.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [None]


def test_a_broken_connection_is_a_lost_node(node: FakeRespNode, here: RespNode) -> None:
    connection = opened(here)
    node.disconnect()
    wait_until("it is noticed", lambda: not node.connections, LONG)
    with pytest.raises(NodeLost, match="node a:1 broke off the connection"):
        connection.exchange(get(b"k"), LONG)
    assert opened(here).exchange(get(b"k"), LONG) == b"v"


@pytest.mark.parametrize("data", [b"hello\r\n", b"$x\r\n", b"$-1", b">2\r\n+a\r\n"])
def test_what_makes_no_sense_ends_the_connection(node: FakeRespNode, here: RespNode, data: bytes) -> None:
    connection = opened(here)
    node.says = lambda argv: data
    with pytest.raises((NodeLost, DeadlineExceeded)):
        connection.exchange(get(b"k"), 0.1)
    assert connection.closed


def test_each_thread_has_a_connection_and_takes_it_along_when_it_ends(node: FakeRespNode, here: RespNode) -> None:
    opened(here)
    wait_until("looking is over", lambda: node.connections == 1, LONG)
    requested, end = threading.Barrier(9), threading.Event()
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(50):
            if opened(here).exchange(get(b"k"), LONG) != b"v":
                wrong.append("another value")
        requested.wait(LONG)
        end.wait(LONG)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    requested.wait(LONG)
    assert node.connections == 9
    end.set()
    for thread in threads:
        thread.join()
    wait_until("their connections are closed", lambda: node.connections == 1, LONG)
    assert not wrong


def test_leaving_ends_all_but_what_is_to_last(node: FakeRespNode, here: RespNode) -> None:
    node.defers = lambda argv: argv[0] == b"GET"
    finished: dict[bool, Any] = {}

    def work(lasting: bool) -> None:
        connection = opened(here)
        connection.lasting = lasting
        try:
            finished[lasting] = connection.exchange(get(b"k"), LONG)
        except NodeLost as error:
            finished[lasting] = error

    threads = {lasting: threading.Thread(target=work, args=(lasting,)) for lasting in (False, True)}
    for thread in threads.values():
        thread.start()
    wait_until("both wait", lambda: len(node.held) == 2, LONG)
    here.leave(lasting=True)
    threads[False].join()
    assert isinstance(finished[False], NodeLost)
    node.held = [each for each in node.held if each[0].fileno() >= 0]
    node.release()
    threads[True].join()
    assert finished[True] == b"v"
    assert here.open(LONG) is None


def test_a_node_that_is_not_there_costs_no_time_and_is_looked_for_beside(node: FakeRespNode) -> None:
    with ReservedPort() as unused:
        here = RespNode(unused.address)
        for _ in range(1000):
            assert here.open(LONG) is None
    connection = opened(there := RespNode(node.address))
    node.close()
    assert there.current() is connection
    with pytest.raises(NodeLost):
        connection.exchange(get(b"k"), LONG)
    for _ in range(1000):
        assert there.open(LONG) is None


def test_an_interrupt_leaves_no_reply_behind(node: FakeRespNode, here: RespNode) -> None:
    connection = opened(here)
    node.defers = lambda argv: True
    main = threading.get_ident()

    def interrupt() -> None:
        wait_until("asked", lambda: node.held, LONG)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        connection.exchange(get(b"k"), LONG)
    thread.join()
    assert connection.closed
    node.defers = lambda argv: False
    assert opened(here).exchange(get(b"empty"), LONG) == b""


def in_a_child(body: Callable[[], object]) -> int:
    """Fork, run `body` there, and give the child's exit status: 0 if it returned something true."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if body() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(node: FakeRespNode, here: RespNode) -> None:
    connection = opened(here)

    def child() -> bool:
        assert here.current() is None
        values = [opened(here).exchange(get(b"k"), LONG) for _ in range(20)]
        here.leave()
        return values == [b"v"] * 20

    assert in_a_child(child) == 0
    assert connection.exchange(get(b"k"), LONG) == b"v", "the parent's is as it was"


def test_a_thread_has_a_new_connection_when_there_are_new_certificates(tmp_path: Path) -> None:
    authority = Authority()
    certificates = Certificates(write_files(tmp_path, authority.pem, authority.issue()))

    def encrypt(connection: socket.socket) -> socket.socket:
        context = certificates.server_context("resp")
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    cluster = MemoryCluster(lambda: 0.0)
    cluster.add(VALUES)
    node = FakeRespNode(cluster.respond, accepted=encrypt)
    here = RespNode(node.address, security=certificates)
    before = opened(here)
    assert here.open(LONG) is before
    write_files(tmp_path, authority.pem, authority.issue())
    while certificates.look():
        pass
    assert here.current() is before, "reads are made again if it ends"
    after = here.open(LONG)
    assert after is not None
    assert after is not before
    assert before.closed
    assert after.exchange(get(b"k"), LONG) == b"v"
    here.leave()
    node.close()
