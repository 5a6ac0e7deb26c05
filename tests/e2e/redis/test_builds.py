"""The compiled build and the same files as Python reply to the same commands with the same bytes.

Runs where both are: in the tree that `scripts/compiled` makes. Each build is a real node, alone in the ring.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from milena_common.build import VARIABLE, is_compiled
from milena_common.resp.encoding import command
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

pytestmark = pytest.mark.e2e

STREAMS = 60
COMMANDS = 80
SECONDS = 60.0
KEYS = tuple(b"k%d" % number for number in range(8))
# In the year 2100, so that no reply depends on when it was sent.
FUTURE = b"4102444800"

# Replies to these do not depend on the clock, on the process or on its address. Of tracking they do: when an
# invalidation is sent depends on other work.
FIXED: tuple[tuple[bytes, ...], ...] = (
    (b"PING",),
    (b"PING", b"text"),
    (b"ECHO", b"\x00\r\n\xff"),
    (b"SELECT", b"0"),
    (b"SELECT", b"1"),
    (b"COMMAND", b"COUNT"),
    (b"COMMAND", b"INFO", b"get", b"set", b"nosuch"),
    (b"COMMAND", b"DOCS", b"mset"),
    (b"CLIENT", b"GETNAME"),
    (b"CLIENT", b"SETNAME", b"a name"),
    (b"CLIENT", b"SETNAME", b"name"),
    (b"CLIENT", b"REPLY", b"SKIP"),
    (b"CLIENT", b"NOSUCH"),
    (b"CONFIG", b"GET", b"max*"),
    (b"CLUSTER", b"KEYSLOT", b"{a}b"),
    (b"ACL", b"WHOAMI"),
    (b"MULTI",),
    (b"EXEC",),
    (b"DISCARD",),
    (b"NOSUCH", b"a", b"b"),
    (b"SUBSCRIBE", b"c"),
    (b"UNSUBSCRIBE", b"c"),
)
INLINE = (b"PING\r\n", b"GET k1\r\n", b'SET k1 "a b"\r\n', b"\r\n", b"*0\r\n", b"*-1\r\n")
NO_PROTOCOL = (b"*1\r\n$-1\r\n", b"*x\r\n", b'SET k "\r\n', b"*1\r\n+a\r\n", b"*1048577\r\n")


@pytest.fixture(scope="module")
def moto_of_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="module", params=["back", "memory"])
def nodes(
    request: pytest.FixtureRequest, moto_of_both: MotoServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The addresses of a compiled node and of one that runs Python, with writes of one durability class."""
    if not is_compiled():
        pytest.skip("this tree has no compiled modules: scripts/compiled makes one that has")
    directory = tmp_path_factory.mktemp("builds")
    with ExitStack() as stack:
        clusters = [
            stack.enter_context(
                Cluster(
                    Path(directory, compiled),
                    moto_of_both.endpoint_url,
                    moto_of_both.new_bucket(),
                    1,
                    node_env={"WRITE_MODE": request.param, VARIABLE: "0" if compiled == "true" else "1"},
                )
            )
            for compiled in ("true", "false")
        ]
        for cluster, compiled in zip(clusters, ("true", "false"), strict=True):
            assert cluster.nodes[0].metrics().value("milena_build_info", compiled=compiled) == 1
        yield clusters[0].nodes[0].resp, clusters[1].nodes[0].resp
        assert [line for cluster in clusters for line in cluster.tracebacks()] == []


def value(rng: random.Random) -> bytes:
    size = rng.choice((0, 1, 10, 100, 1000, 20_000, 70_000))
    return rng.choice((b"%d" % rng.randrange(-1000, 1000), rng.randbytes(size), b"v" * size))


def keyed(rng: random.Random) -> tuple[bytes, ...]:
    """One command about keys, most of them right."""
    key, other = rng.choice(KEYS), rng.choice(KEYS)
    number = rng.choice((b"0", b"1", b"-1", b"5", b"-3", b"99999", b"9" * 20, b"x", b"1.5"))
    options = rng.sample((b"NX", b"XX", b"GET", b"KEEPTTL", b"EXAT", b"DURABILITY"), rng.randrange(3))
    return rng.choice(
        (
            (b"GET", key),
            (b"GET", key),
            (b"GET", key),
            (b"get", rng.choice((b"", b"\xff", b"a\0b", b"s3://other/k", b"k" * 1100))),
            (b"SET", key, value(rng)),
            (b"SET", key, value(rng)),
            (b"SET", key, value(rng)),
            (b"SET", key, value(rng), *options),
            (b"SET", key, value(rng), b"EXAT", FUTURE),
            (b"SET", key, value(rng), b"DURABILITY", rng.choice((b"memory", b"back", b"nosuch"))),
            (b"DEL", key),
            (b"DEL", key, other, key),
            (b"MGET", *rng.choices(KEYS, k=rng.randrange(1, 6))),
            (b"MSET", *(each for name in rng.sample(KEYS, rng.randrange(1, 4)) for each in (name, value(rng)))),
            (b"EXISTS", key, other, key),
            (b"STRLEN", key),
            (b"GETRANGE", key, number, rng.choice((b"0", b"-1", b"7"))),
            (b"APPEND", key, b"more"),
            (b"INCR", key),
            (b"INCRBY", key, number),
            (b"GETDEL", key),
            (b"GETEX", key, b"PERSIST"),
            (b"EXPIREAT", key, FUTURE),
            (b"EXPIRETIME", key),
            (b"PEXPIRETIME", key),
            (b"PERSIST", key),
            (b"TYPE", key),
            (b"OBJECT", b"ENCODING", key),
            (b"GET",),
            (b"SET", key),
            (b"MSET", key),
        )
    )


def stream(rng: random.Random) -> list[bytes]:
    """The bytes of one connection, in the pieces in which they are sent."""
    sent = [command(b"HELLO", b"3")] if rng.random() < 0.5 else []
    for _ in range(rng.randrange(1, COMMANDS)):
        kind = rng.random()
        if kind < 0.85:
            sent.append(command(*keyed(rng)))
        elif kind < 0.96:
            sent.append(command(*rng.choice(FIXED)))
        elif kind < 0.995:
            sent.append(rng.choice(INLINE))
        else:
            sent.append(rng.choice(NO_PROTOCOL))
    data = b"".join(sent)
    if rng.random() < 0.3:
        return [data]
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(40)))
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True) if start < end]


def replies(address: str, pieces: list[bytes]) -> bytes:
    """Everything that a connection replies until it ends; it ends its own half behind the last piece."""
    host, _, port = address.rpartition(":")
    received = []
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send() -> None:
            with suppress(OSError):  # the node has ended the connection
                for piece in pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        with suppress(ConnectionResetError):  # what came behind an error of the protocol was not read
            while data := connection.recv(2**16):
                received.append(data)
        sender.join()
    return b"".join(received)


@pytest.mark.parametrize("seed", range(STREAMS))
def test_both_builds_reply_with_the_same_bytes(nodes: tuple[str, str], seed: int) -> None:
    pieces = stream(random.Random(seed))
    compiled, interpreted = (replies(address, pieces) for address in nodes)
    if compiled != interpreted:
        pairs = enumerate(zip(compiled, interpreted, strict=False))
        at = next((at for at, (one, other) in pairs if one != other), min(len(compiled), len(interpreted)))
        near = slice(max(0, at - 200), at + 100)
        pytest.fail(f"at byte {at}:\n{compiled[near]!r}\n{interpreted[near]!r}")
