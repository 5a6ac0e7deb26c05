"""Clients of Redis see one standalone server at the router, and the answers are those of a node."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.network.addresses import parse_address
from milena_common.resp.encoding import command
from milena_common.resp.replies import ReplySplitter
from tests.support.cluster import Cluster
from tests.support.ports import ReservedPort
from tests.support.s3.moto_server import MotoServer

pytestmark = pytest.mark.e2e

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])
SECONDS = 60.0


@pytest.fixture(scope="module")
def router(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis port of a router with three nodes."""
    with ReservedPort() as port, _three_nodes(moto, tmp_path_factory, port):
        yield port.address


@contextmanager
def _three_nodes(
    moto: MotoServer, tmp_path_factory: pytest.TempPathFactory, port: ReservedPort, **node: str
) -> Iterator[Cluster]:
    environment = {"RESP_ADDR": port.address}
    directory, bucket = tmp_path_factory.mktemp("three"), moto.new_bucket()
    with Cluster(directory, moto.endpoint_url, bucket, 3, router_env=environment, node_env=node) as cluster:
        cluster.wait_for_ring(3)
        yield cluster
        assert cluster.tracebacks() == []


def client(address: str, protocol: int = 2) -> Any:
    at = parse_address(address)
    return redis.Redis(host=at.host, port=at.port, protocol=protocol, socket_timeout=SECONDS)


@PROTOCOLS
def test_a_plain_client_reads_and_writes_keys_of_all_nodes(router: str, protocol: int) -> None:
    keys = [f"plain/{protocol}/{number}" for number in range(60)]
    with client(router, protocol) as one:
        assert one.ping()
        assert one.mset({key: key for key in keys})
        assert one.mget([*keys, "missing"]) == [key.encode() for key in keys] + [None]
        assert one.exists(*keys, keys[0], "missing") == 61
        assert one.get("missing") is None
        assert one.set(keys[0], "new", ex=100, get=True) == keys[0].encode()
        assert 90 < one.ttl(keys[0]) <= 100
        assert one.set(keys[0], "newer", nx=True) is None
        pipeline = one.pipeline(transaction=False)
        for key in keys:
            pipeline.set(key, f"{key}!").get(key)
        assert pipeline.execute() == [each for key in keys for each in (True, f"{key}!".encode())]
        assert one.delete(*keys, keys[0], "missing") == 60
        assert one.mget(keys) == [None] * 60


@PROTOCOLS
def test_what_makes_no_sense_through_a_router_says_what_to_use(router: str, protocol: int) -> None:
    with client(router, protocol) as one:
        for line, said in (
            ("CLUSTER INFO", "cluster support disabled"),
            ("CLUSTER NODES", "cluster support disabled"),
            ("CLIENT TRACKING ON", "connect to a node"),
            ("CONFIG SET maxmemory 1", "connect to a node"),
            ("DEBUG SLEEP 1", "connect to a node"),
            ("SELECT 1", "DB index is out of range"),
            ("MILENA.HANDOVER x", "unknown command"),
            ("NOSUCH x y", "unknown command 'NOSUCH', with args beginning with: 'x' 'y'"),
            ("GET", "wrong number of arguments for 'get' command"),
        ):
            with pytest.raises(RedisError, match=said):
                one.execute_command(*line.split())
        assert one.info("cluster")["cluster_enabled"] == 0
        assert one.client_id() > 0
        assert one.time()[0] > 10**9
        assert one.command_count() > 20


@PROTOCOLS
def test_commands_on_all_keys_are_about_those_of_all_nodes(router: str, protocol: int) -> None:
    keys = sorted(b"all/%d/%d" % (protocol, number) for number in range(120))
    with client(router, protocol) as one:
        one.mset({key: b"v" for key in keys})
        assert sorted(one.keys(f"all/{protocol}/*")) == keys
        assert sorted(one.scan_iter(match=f"all/{protocol}/*", count=100)) == keys
        assert one.dbsize() >= len(keys)
        assert one.randomkey() is not None
        assert one.keys("nosuch/*") == []
        for line, said in (
            ("SCAN 12345", "invalid cursor"),
            ("SCAN x", "invalid cursor"),
            ("SCAN 0 COUNT", "syntax error"),
            ("KEYS", "wrong number of arguments for 'keys' command"),
        ):
            with pytest.raises(RedisError, match=said):
                one.execute_command(*line.split())
        one.delete(*keys)
        assert list(one.scan_iter(match=f"all/{protocol}/*")) == []


@PROTOCOLS
def test_messages_of_all_nodes_reach_the_clients_of_the_router_once(
    moto: MotoServer, tmp_path_factory: pytest.TempPathFactory, protocol: int
) -> None:
    flush = {"ALLOW_FLUSH": "objects", "NOTIFY_KEYSPACE_EVENTS": "E$"}
    with ReservedPort() as port, _three_nodes(moto, tmp_path_factory, port, **flush) as cluster:
        first, second = (client(node.resp, protocol) for node in cluster.nodes[:2])
        with first, second, client(port.address, protocol) as one, client(port.address, protocol) as other:
            here, there = one.pubsub(), first.pubsub()
            here.subscribe("news")
            here.psubscribe("new*")
            there.subscribe("news")
            assert [here.get_message(timeout=SECONDS)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
            assert there.get_message(timeout=SECONDS)["type"] == "subscribe"
            assert other.publish("news", "router") >= 2
            first.publish("news", "first")
            second.publish("news", "second")
            said = [b"first", b"router", b"second"]
            got = [here.get_message(timeout=SECONDS) for _ in range(6)]
            assert sorted(each["data"] for each in got) == sorted(said * 2)
            assert sorted(each["data"] for each in got if each["type"] == "message") == said
            assert sorted(there.get_message(timeout=SECONDS)["data"] for _ in range(3)) == said
            # In the order of one publisher.
            pipeline = other.pipeline(transaction=False)
            for number in range(100):
                pipeline.publish("news", number)
            pipeline.execute()
            got = [here.get_message(timeout=SECONDS) for _ in range(200)]
            assert [each["data"] for each in got if each["type"] == "message"] == [b"%d" % n for n in range(100)]
            here.unsubscribe()
            here.punsubscribe()
            assert [here.get_message(timeout=SECONDS)["type"] for _ in range(2)] == ["unsubscribe", "punsubscribe"]
            # Events of keys come from the owner of each.
            here.subscribe("__keyevent@0__:set")
            assert here.get_message(timeout=SECONDS)["type"] == "subscribe"
            keys = [b"event/%d" % number for number in range(30)]
            assert len({slot_of(key) * 3 // SLOTS for key in keys}) == 3
            other.mset({key: b"v" for key in keys})
            assert sorted(here.get_message(timeout=SECONDS)["data"] for _ in keys) == sorted(keys)
            assert other.flushdb()
            assert other.mget(keys) == [None] * len(keys)
            assert other.keys("*") == []
            here.close()
            there.close()


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed (redis-tools)")
def test_redis_cli(router: str) -> None:
    at = parse_address(router)

    def cli(*words: str) -> str:
        arguments = ["redis-cli", "-h", at.host, "-p", str(at.port), *words]
        return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip()

    assert cli("set", "cli", "value") == "OK"
    assert cli("-3", "get", "cli") == "value"
    assert cli("del", "cli", "cli2") == "1"
    # -c has no effect, as nothing is redirected.
    assert cli("-c", "get", "cli") == ""


def _exchange(address: str, sent: bytes, number: int) -> list[bytes]:
    """The replies to `number` commands, as bytes."""
    at = parse_address(address)
    splitter, replies = ReplySplitter(), []
    with socket.create_connection((at.host, at.port), SECONDS) as connection:
        connection.sendall(sent)
        while len(replies) < number:
            data = connection.recv(65536)
            assert data, f"{len(replies)} of {number} replies"
            replies += splitter.feed(data)
    return replies


def _are_times(argv: list[bytes], *replies: bytes) -> bool:
    """True for the times of an expiry that one of the two got a little later than the other."""
    if argv[0] not in (b"TTL", b"EXPIRETIME") or not all(reply.startswith(b":") for reply in replies):
        return False
    first, second = (int(reply[1:]) for reply in replies)
    return min(first, second) >= 0 and abs(first - second) <= SECONDS


def _stream(rng: random.Random, prefix: str) -> list[list[bytes]]:
    """Commands on a few keys, as clients send them, with some that are wrong."""

    def key() -> bytes:
        return f"{prefix}{rng.randrange(8)}".encode()

    commands: list[list[bytes]] = []
    for _ in range(120):
        commands.append(
            rng.choice(
                [
                    lambda: [b"GET", key()],
                    lambda: [b"SET", key(), b"v%d" % rng.randrange(1000)],
                    lambda: [b"SET", key(), b"w", b"EX", b"%d" % rng.randrange(-1, 3000)],
                    lambda: [b"SET", key(), b"x", rng.choice([b"NX", b"XX", b"GET", b"KEEPTTL", b"BAD"])],
                    lambda: [b"MGET", key(), key(), key()],
                    lambda: [b"MSET", key(), b"1", key(), b"2"],
                    lambda: [b"MSET", key(), b"1", key()],
                    lambda: [rng.choice([b"DEL", b"UNLINK", b"EXISTS", b"TOUCH"]), key(), key()],
                    lambda: [rng.choice([b"STRLEN", b"TYPE", b"TTL", b"PERSIST", b"GETDEL", b"EXPIRETIME"]), key()],
                    lambda: [b"GETRANGE", key(), b"0", rng.choice([b"1", b"-1", b"x"])],
                    lambda: [b"EXPIRE", key(), rng.choice([b"1000", b"x", b"-1"])],
                    lambda: [b"GETEX", key(), b"EX", b"1000"],
                    lambda: [b"OBJECT", rng.choice([b"ENCODING", b"FREQ", b"IDLETIME", b"NOSUCH"]), key()],
                    lambda: [b"OBJECT"],
                    lambda: [rng.choice([b"PING", b"ECHO", b"SELECT"]), rng.choice([b"0", b"text"])],
                    lambda: [rng.choice([b"GET", b"SET", b"MGET", b"CLIENT", b"NOSUCH", b"QUIT2"])],
                    lambda: [b"CLIENT", b"GETNAME"],
                    lambda: [b"CLIENT", b"SETNAME", rng.choice([b"name", b"a name"])],
                    lambda: [b"GET", b"\xff\xfe"],
                    lambda: [b"GET", b""],
                    lambda: [b"DEL", key(), b"\0"],
                    lambda: [rng.choice([b"MULTI", b"MULTI", b"EXEC", b"EXEC", b"EXEC", b"DISCARD", b"UNWATCH"])],
                    lambda: [rng.choice([b"MULTI", b"EXEC", b"WATCH"]), key()],
                    lambda: [b"WATCH", key()],
                ]
            )()
        )
    # Not between MULTI and EXEC: a router does not know the nodes' buckets, and the error is that of EXEC.
    return [*commands, [b"DISCARD"], [b"MGET", key(), b"s3://other-bucket/key"]]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_replies_are_those_of_a_node_byte_for_byte(pair: tuple[str, str], seed: int, protocol: int) -> None:
    """One node has all slots, so that it replies to commands on any keys; the router is another way to it."""
    through, node = pair
    rng = random.Random(f"{seed}/{protocol}")
    prefix = f"bytes/{seed}/{protocol}/"
    commands = _stream(rng, prefix)
    begin = command(b"HELLO", b"%d" % protocol)
    cleared = [[b"DEL", *(f"{prefix}{number}".encode() for number in range(8))]]

    def sent(commands: list[list[bytes]]) -> bytes:
        return begin + b"".join(command(*argv) for argv in commands)

    replies = []
    for address in (node, through):
        _exchange(address, sent(cleared), 2)
        replies.append(_exchange(address, sent(commands), len(commands) + 1)[1:])
    for argv, ours, theirs in zip(commands, replies[1], replies[0], strict=True):
        assert ours == theirs or _are_times(argv, ours, theirs), argv


@pytest.fixture(scope="module")
def pair(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The Redis port of a router, and that of its only node."""
    with ReservedPort() as port:
        environment = {"RESP_ADDR": port.address}
        directory = tmp_path_factory.mktemp("one")
        with Cluster(directory, moto.endpoint_url, moto.new_bucket(), 1, router_env=environment) as cluster:
            yield port.address, cluster.nodes[0].resp
            assert cluster.tracebacks() == []


def test_the_keys_of_the_tests_are_of_several_slots() -> None:
    assert len({slot_of(f"plain/2/{number}".encode()) for number in range(60)}) > 50
