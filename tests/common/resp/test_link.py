"""A node in the Redis protocol, for an event loop, over real sockets: connecting, losing, connecting again."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milena_client.testing.memory_cluster import MemoryCluster
from milena_common.api.errors import FailedPrecondition, NodeLost, Overloaded
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.process.distribution import installed_version
from milena_common.resp.client_commands import get, handshake
from milena_common.resp.encoding import command
from milena_common.resp.identity import ANY
from milena_common.resp.link import RespLink
from milena_common.resp.stream import RespStream
from milena_common.tls.certificates import Certificates
from milena_common.tls.settings import TlsFiles
from tests.support.certificates import Authority, write_files
from tests.support.fake_resp_node import FakeRespNode
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

LONG = 30.0
PING = command(b"PING")
PUT = pb.PutRequest(key=b"k", value=b"new").SerializeToString()


async def until(what: Callable[[], Any]) -> None:
    await asyncio.to_thread(wait_until, "what the test waits for", what, LONG)


class Recorder:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.pushes: list[list[Any]] = []

    def opened(self, link: RespLink, requested_at: float) -> None:
        self.events.append("opened")

    def lost(self, link: RespLink) -> None:
        self.events.append("lost")

    def pushed(self, message: list[Any]) -> None:
        self.pushes.append(message)


@pytest.fixture
def node() -> Any:
    cluster = MemoryCluster(lambda: 0.0)
    cluster.add({"k": b"v", "big": b"x" * 5_000_000})
    node = FakeRespNode(cluster.respond)
    yield node
    node.close()


@pytest.fixture
async def link(node: FakeRespNode) -> AsyncIterator[RespLink]:
    link = RespLink(node.address, timeout=LONG)
    yield link
    await link.close(0, NodeLost("the test is over"))


async def opened(link: RespLink) -> RespStream:
    stream = await link.open(LONG)
    assert stream is not None, link.error
    return stream


async def test_it_connects_at_first_use_and_greets(node: FakeRespNode, link: RespLink) -> None:
    assert link.stream is None
    streams = await asyncio.gather(*(link.open(LONG) for _ in range(5)))
    assert {id(stream) for stream in streams} == {id(link.stream)}
    assert node.connections == 1
    assert node.greetings == 6
    assert await (await opened(link)).call(get(b"k"), LONG) == b"v"


async def test_large_values(link: RespLink) -> None:
    stream = await opened(link)
    values = await asyncio.gather(*(stream.call(get(b"big"), LONG) for _ in range(5)))
    assert values == [b"x" * 5_000_000] * 5


async def test_a_deferred_reply_does_not_delay_others(node: FakeRespNode, link: RespLink) -> None:
    node.defers = lambda argv: argv == [b"GET", b"k"]
    stream = await opened(link)
    late = [asyncio.create_task(stream.call(get(b"k"), LONG)) for _ in range(3)]
    assert await stream.call(get(b"none"), LONG) is None
    assert not any(task.done() for task in late)
    node.release()
    assert await asyncio.gather(*late) == [b"v"] * 3


async def test_a_lost_connection_is_made_again_at_the_next_use(node: FakeRespNode, link: RespLink) -> None:
    node.defers = lambda argv: argv == [b"GET", b"k"]
    stream = await opened(link)
    call = asyncio.create_task(stream.call(get(b"k"), LONG))
    await until(lambda: node.held)
    node.disconnect()
    with pytest.raises(NodeLost, match="broke off the connection"):
        await call
    assert link.stream is None
    assert await opened(link) is not stream


async def test_a_node_that_is_not_there_is_tried_again_beside() -> None:
    with ReservedPort() as unused:
        link = RespLink(unused.address, timeout=LONG, who="node a:1 ")
        assert await link.open(LONG) is None
        assert str(link.error).startswith("node a:1 cannot be reached: ")
        node = FakeRespNode(MemoryCluster(lambda: 0.0).respond, unused.number)
        for _ in range(int(LONG / 0.01)):
            if await link.open(LONG) is not None:
                break
            await asyncio.sleep(0.01)
        assert node.connections == 1
        await link.close(0, NodeLost("over"))
        node.close()


async def test_a_port_that_accepts_and_sends_nothing_is_given_up_after_one_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = RespLink(f"127.0.0.1:{silent.getsockname()[1]}", timeout=LONG)
        assert await link.open(LONG) is None
        assert "no response within 1 s" in str(link.error)
        assert await link.open(LONG) is None
        await link.close(0, NodeLost("over"))


async def test_a_node_that_rejects_the_handshake_is_not_used(node: FakeRespNode) -> None:
    node.says = lambda argv: b"-NOAUTH who are you\r\n" if argv[0] == b"HELLO" else None
    link = RespLink(node.address, timeout=LONG)
    assert await link.open(LONG) is None
    assert "who are you" in str(link.error)
    await until(lambda: not node.connections)
    await link.close(0, NodeLost("over"))


@pytest.mark.parametrize("address", ["nowhere.invalid:6379", "no address"])
async def test_an_address_that_means_nothing_is_not_reached(address: str) -> None:
    link = RespLink(address, timeout=LONG)
    assert await link.open(LONG) is None
    assert "cannot be reached" in str(link.error)


async def test_a_listener_hears_of_connections_and_pushes(node: FakeRespNode) -> None:
    recorder = Recorder()
    link = RespLink(node.address, timeout=LONG, more=[command(b"CLIENT", b"TRACKING", b"ON")], listener=recorder)
    await opened(link)
    assert node.greetings == 7
    node.push(b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n")
    await until(lambda: recorder.pushes)
    assert recorder.pushes == [[b"invalidate", [b"k"]]]
    node.disconnect()
    await until(lambda: "lost" in recorder.events)
    await opened(link)
    assert recorder.events == ["opened", "lost", "opened"]
    await link.close(0, NodeLost("over"))


async def test_closing_with_grace_lets_calls_finish(node: FakeRespNode, link: RespLink) -> None:
    node.defers = lambda argv: argv[0] == b"GET"
    stream = await opened(link)
    call = asyncio.create_task(stream.call(get(b"k"), LONG))
    await until(lambda: node.held)
    closing = asyncio.create_task(link.close(LONG, NodeLost("left")))
    await asyncio.sleep(0)
    assert await link.open(LONG) is None
    node.release()
    assert await call == b"v"
    await closing


async def test_closing_without_grace_breaks_off(node: FakeRespNode, link: RespLink) -> None:
    node.defers = lambda argv: argv[0] == b"GET"
    stream = await opened(link)
    call = asyncio.create_task(stream.call(get(b"k"), LONG))
    await until(lambda: node.held)
    await link.close(0, FailedPrecondition("this client is closed"))
    with pytest.raises(FailedPrecondition, match="closed"):
        await call
    assert await link.open(LONG) is None


async def test_a_writer_that_sends_more_than_the_node_reads_waits() -> None:
    """Memory is bounded by the requests of callers in flight, and not by what they would like to send."""
    gate = threading.Event()
    big = command(b"SET", b"k", b"x" * (16 << 20))

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"%0\r\n" + b"+OK\r\n" * 5)
            gate.wait(LONG)
            missing = len(big) + len(b"".join(handshake("milena-client", installed_version(), ANY)))
            while missing:
                missing -= len(connection.recv(1 << 20))
            connection.sendall(b"+OK\r\n")
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        link = RespLink(f"127.0.0.1:{server.getsockname()[1]}", timeout=LONG)
        stream = await opened(link)
        call = asyncio.create_task(stream.call(big, LONG))
        await until(lambda: link.stream is None)
        assert await link.open(0.01) is None
        assert "does not keep up" in str(link.error)
        waiting = asyncio.create_task(link.open(LONG))
        gate.set()
        assert await waiting is stream
        assert await call == b"OK"
        await link.close(0, NodeLost("over"))
        await asyncio.to_thread(thread.join, LONG)


async def test_a_close_with_grace_that_is_cancelled_ends_the_connection(node: FakeRespNode, link: RespLink) -> None:
    node.defers = lambda argv: argv[0] == b"GET"
    stream = await opened(link)
    call = asyncio.create_task(stream.call(get(b"k"), LONG))
    await until(lambda: node.held)
    closing = asyncio.create_task(link.close(LONG, NodeLost("left")))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(NodeLost, match="left"):
        await call
    await until(lambda: not node.connections)


class Encrypted:
    """A node with TLS, and certificates that can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.rejects = False
        self._folder = folder
        self._authority = Authority()
        self.certificates = Certificates(self._write())
        cluster = MemoryCluster(lambda: 0.0)
        cluster.add({"k": b"v", "other": b"o"})
        self.node = FakeRespNode(cluster.respond, accepted=self._encrypt)

    def _write(self) -> TlsFiles:
        return write_files(self._folder, self._authority.pem, self._authority.issue())

    def _encrypt(self, connection: socket.socket) -> socket.socket:
        if self.rejects:
            connection.close()
            return connection
        context = self.certificates.server_context("resp")
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def replace(self) -> None:
        self._write()
        while self.certificates.look():
            pass


@pytest.fixture
def encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encrypted]:
    monkeypatch.setattr("milena_common.resp.link.RENEW_SECONDS", 0.02)
    encrypted = Encrypted(tmp_path)
    yield encrypted
    encrypted.node.close()


async def test_a_connection_is_replaced_with_its_certificates_and_no_call_fails(encrypted: Encrypted) -> None:
    node = encrypted.node
    link = RespLink(node.address, timeout=LONG, security=encrypted.certificates)
    before = await opened(link)
    node.defers = lambda argv: argv == [b"GET", b"k"]
    late = asyncio.create_task(before.call(get(b"k"), LONG))
    await until(lambda: node.held)
    encrypted.replace()
    await until(lambda: link.stream is not before)
    assert await (await opened(link)).call(get(b"other"), LONG) == b"o"
    assert node.connections == 2, "the one before waits for its reply"
    node.release()
    assert await late == b"v"
    await until(lambda: node.connections == 1)
    assert link.stream is not None
    await link.close(0, NodeLost("over"))


async def test_a_connection_with_a_listener_ends_before_the_next_one_is_made(encrypted: Encrypted) -> None:
    node, recorder = encrypted.node, Recorder()
    link = RespLink(node.address, timeout=LONG, security=encrypted.certificates, listener=recorder)
    before = await opened(link)
    node.defers = lambda argv: argv == [b"GET", b"k"]
    late = asyncio.create_task(before.call(get(b"k"), LONG))
    await until(lambda: node.held)
    encrypted.replace()
    assert await before.call(get(b"other"), LONG) == b"o"
    assert recorder.events == ["opened"], "while a call is in flight"
    node.release()
    assert await late == b"v"
    await until(lambda: recorder.events == ["opened", "lost"])
    assert await opened(link) is not before
    assert recorder.events == ["opened", "lost", "opened"]
    await link.close(0, NodeLost("over"))


async def test_a_connection_stays_while_none_can_be_made_with_new_certificates(
    encrypted: Encrypted, caplog: pytest.LogCaptureFixture
) -> None:
    node = encrypted.node
    link = RespLink(node.address, timeout=LONG, security=encrypted.certificates)
    before = await opened(link)
    encrypted.rejects = True
    encrypted.replace()
    await until(lambda: "no connection with the new certificates yet" in caplog.text)
    assert link.stream is before
    encrypted.rejects = False
    await until(lambda: link.stream is not before)
    await link.close(0, NodeLost("over"))


async def test_calls_that_write_carry_a_deadline_by_the_node_s_clock(node: FakeRespNode, link: RespLink) -> None:
    node.shows = 5_000_000
    stream = await opened(link)
    await stream.call_method("Put", PUT, 10.0)
    await stream.call_method("Get", pb.GetRequest(key=b"k").SerializeToString(), 10.0)
    await stream.call_method("Delete", pb.DeleteRequest(key=b"k").SerializeToString(), 20.0)
    put, read, delete = node.received
    assert 5_000_000 < int(put[4]) < 5_010_000 + 1000 * LONG
    assert len(read) == 4
    assert int(put[4]) < int(delete[4]) < 5_020_000 + 1000 * LONG
    assert node.times_shown == 1


async def test_a_node_of_an_older_version_gets_no_deadlines(node: FakeRespNode, link: RespLink) -> None:
    await (await opened(link)).call_method("Put", PUT, 10.0)
    assert node.received == [[b"MILENA.CALL", b"Put", b"10000", PUT]]


async def test_after_a_rejection_the_node_has_to_show_its_time(node: FakeRespNode, link: RespLink) -> None:
    """Its machine, or this one, may have been suspended: all calls would be too late for it until it is asked."""
    node.shows = 5_000_000
    stream = await opened(link)
    node.shows = 95_000_000
    node.says = lambda argv: b"-BUSY it came late\r\n" if argv[0] == b"MILENA.CALL" else None
    with pytest.raises(Overloaded):
        await stream.call_method("Put", PUT, 10.0)
    node.says = lambda argv: None
    await asyncio.gather(*(stream.call_method("Put", PUT, 10.0) for _ in range(3)))
    assert node.times_shown == 2
    await stream.call_method("Put", PUT, 10.0)
    assert int(node.received[0][4]) < 6_000_000
    assert int(node.received[-1][4]) > 95_000_000
    assert node.times_shown == 2
