"""A client that is not for Redis Cluster uses any one node of three, for the keys of all of them."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from milena_common.network.addresses import parse_address
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])
SECONDS = 60.0


@pytest.fixture(scope="module")
def three(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A ring of three nodes."""
    with Cluster(tmp_path_factory.mktemp("three"), moto.endpoint_url, moto.new_bucket(), 3) as cluster:
        cluster.wait_for_ring(3)
        yield cluster
        assert cluster.tracebacks() == []


def client(address: str, protocol: int = 2) -> Any:
    at = parse_address(address)
    return redis.Redis(host=at.host, port=at.port, protocol=protocol, socket_timeout=SECONDS)


@PROTOCOLS
def test_a_plain_client_reads_and_writes_keys_of_all_nodes(three: Cluster, protocol: int) -> None:
    keys = [f"plain/{protocol}/{number}" for number in range(60)]
    with client(three.nodes[0].resp, protocol) as one, client(three.nodes[1].resp, protocol) as other:
        for key in keys:
            assert one.set(key, key, ex=1000)
            assert other.get(key) == key.encode()
        assert one.mset({key: f"{key}!" for key in keys})
        assert other.mget([*keys, "missing"]) == [f"{key}!".encode() for key in keys] + [None]
        assert one.exists(*keys, keys[0], "missing") == 61
        assert one.get("missing") is None
        assert other.set(keys[0], "new", ex=100, get=True) == f"{keys[0]}!".encode()
        assert 90 < one.ttl(keys[0]) <= 100
        assert one.set(keys[0], "newer", nx=True) is None
        assert one.object("encoding", keys[1]) == b"embstr"
        assert one.delete(*keys, keys[0], "missing") == 60
        assert other.mget(keys) == [None] * 60


@PROTOCOLS
def test_commands_of_a_connection_take_effect_in_their_order(three: Cluster, protocol: int) -> None:
    keys = [f"order/{protocol}/{number}" for number in range(20)]
    with client(three.nodes[2].resp, protocol) as one:
        pipeline = one.pipeline(transaction=False)
        expected: list[Any] = []
        for each_round in range(10):
            for key in keys:
                pipeline.set(key, f"{each_round}").get(key)
                expected += [True, b"%d" % each_round]
        assert pipeline.execute() == expected
        assert one.mget(keys) == [b"9"] * 20


def test_a_client_that_requests_the_ring_or_tracks_keys_is_redirected(three: Cluster) -> None:
    keys = [f"who/{number}" for number in range(30)]
    for words in (("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"), ("READONLY",), ("CLIENT", "TRACKING", "ON")):
        with client(three.nodes[0].resp, 3) as one:
            one.execute_command(*words)
            moved = 0
            for key in keys:
                try:
                    one.get(key)
                except RedisError as error:
                    moved += str(error).startswith(("MOVED", "1", "2", "3", "4", "5", "6", "7", "8", "9"))
            assert moved > 5, words


def test_wrong_arguments_have_their_errors_at_any_node(three: Cluster) -> None:
    with client(three.nodes[0].resp) as one:
        for number in range(6):
            key = f"errors/{number}"
            for line, said in (
                (("SET", key, "v", "EX", "0"), "invalid expire time"),
                (("SET", key, "v", "NOSUCH"), "syntax error"),
                (("EXPIRE", key, "x"), "not an integer"),
            ):
                with pytest.raises(RedisError, match=said):
                    one.execute_command(*line)


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed (redis-tools)")
def test_redis_cli(three: Cluster) -> None:
    def cli(*words: str) -> str:
        at = parse_address(three.nodes[1].resp)
        arguments = ["redis-cli", "-h", at.host, "-p", str(at.port), *words]
        return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=SECONDS).stdout.strip()

    for number in range(8):
        assert cli("set", f"cli{number}", "value") == "OK"
        assert cli("-3", "get", f"cli{number}") == "value"
    assert cli("mget", "cli1", "cli2", "cli3").split() == ["value"] * 3
    assert cli("del", "cli1", "cli2", "cli3", "cli4") == "4"


def test_an_owner_that_is_killed_costs_errors_for_its_lease_and_no_wrong_value(start_cluster: StartCluster) -> None:
    cluster = start_cluster(3, router_env={"LEASE_SECONDS": "2"}, node_env={"WRITE_MODE": "through"})
    cluster.wait_for_ring(3)
    right: dict[str, set[bytes]] = {f"killed/{number}": set() for number in range(30)}
    wrong: list[str] = []
    errors: list[str] = []
    done = threading.Event()
    rounds = 0

    def work() -> None:
        nonlocal rounds
        with client(cluster.nodes[0].resp) as one:
            while not done.is_set():
                rounds += 1
                for key in right:
                    value = b"%d" % rounds
                    try:
                        one.set(key, value)
                        right[key] = {value}
                    except RedisError as error:
                        right[key] = {*right[key], value}
                        errors.append(str(error))
                    try:
                        got = one.get(key)
                    except RedisError as error:
                        errors.append(str(error))
                        continue
                    if got not in right[key] and right[key]:
                        wrong.append(f"{key}: {got!r}, and not one of {right[key]}")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until("some rounds", lambda: rounds > 3, SECONDS)
        assert errors == []
        cluster.kill_node(cluster.nodes[2])
        cluster.wait_for_ring(2)
        failed = len(errors)
        seen = rounds
        wait_until("the ring of two serves", lambda: rounds > seen + 3, SECONDS)
        assert len(errors) <= failed + 2, errors[failed:]
        # Slots that are handed over cost no error: commands follow them.
        failed = len(errors)
        cluster.add_node()
        cluster.wait_for_ring(3)
        seen = rounds
        wait_until("the ring of three serves", lambda: rounds > seen + 3, SECONDS)
        assert errors[failed:] == []
    finally:
        done.set()
        worker.join()
    assert wrong == []


@PROTOCOLS
def test_messages_reach_subscribers_at_other_nodes(three: Cluster, protocol: int) -> None:
    first, second, third = (client(node.resp, protocol) for node in three.nodes)
    with first, second, third:
        listener = first.pubsub()
        listener.subscribe("news")
        listener.psubscribe("n*")
        assert [listener.get_message(timeout=SECONDS)["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
        assert first.publish("news", "here") == 2
        second.publish("news", "there")
        got = [listener.get_message(timeout=SECONDS) for _ in range(4)]
        assert sorted((each["type"], each["data"]) for each in got) == [
            ("message", b"here"),
            ("message", b"there"),
            ("pmessage", b"here"),
            ("pmessage", b"there"),
        ]
        for number in range(100):
            third.publish("news", number)
        numbers = [listener.get_message(timeout=SECONDS) for _ in range(200)]
        assert [each["data"] for each in numbers if each["type"] == "message"] == [b"%d" % n for n in range(100)]
        listener.close()


@PROTOCOLS
def test_keys_scan_and_flush_are_about_all_nodes(start_cluster: StartCluster, protocol: int) -> None:
    cluster = start_cluster(3, node_env={"ALLOW_FLUSH": "objects"})
    cluster.wait_for_ring(3)
    keys = sorted(b"all/%d" % number for number in range(40))
    with client(cluster.nodes[0].resp, protocol) as one, client(cluster.nodes[1].resp, protocol) as other:
        assert one.mset({key: b"v" for key in keys})
        assert sorted(one.keys("all/*")) == keys
        assert sorted(other.scan_iter("all/*")) == keys
        assert one.dbsize() >= len(keys)
        assert other.wait(1, 100) == 1
        assert other.flushdb()
        assert one.keys("*") == []
        assert one.mget(keys) == [None] * len(keys)
