"""Clients of Redis that are not Milena's: the programs that come with it, redis-py and coredis.

`one` is a cluster of one node, where any client finds everything; `three` is for clients that know clusters.
"""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig

from milena_common.cluster.slots import SLOTS
from milena_common.network.addresses import Address, parse_address
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

TIMEOUT_SECONDS = 60.0
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])

needs_cli = pytest.mark.skipif(not shutil.which("redis-cli"), reason="redis-cli is not installed (redis-tools)")
needs_benchmark = pytest.mark.skipif(
    not shutil.which("redis-benchmark"), reason="redis-benchmark is not installed (redis-tools)"
)


@pytest.fixture(scope="module")
def one(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The RESP server of a cluster of one node."""
    with Cluster(tmp_path_factory.mktemp("one"), moto.endpoint_url, moto.new_bucket(), 1) as cluster:
        yield parse_address(cluster.nodes[0].resp)
        assert cluster.tracebacks() == []


@pytest.fixture
def three(shared_cluster: Cluster) -> Iterator[Address]:
    """The RESP server of one of three nodes, each of which knows them all."""
    for node in shared_cluster.nodes:
        at = parse_address(node.resp)
        with redis.Redis(host=at.host, port=at.port, decode_responses=True) as client:

            def whole(client: Any = client) -> bool:
                info = client.execute_command("CLUSTER INFO")
                return (info["cluster_state"], info["cluster_size"]) == ("ok", "3")

            wait_until(f"{node.name} knows the ring of three", whole, TIMEOUT_SECONDS)
    yield parse_address(shared_cluster.nodes[0].resp)
    assert shared_cluster.tracebacks() == []


def program(name: str, at: Address, *arguments: str, stdin: str = "") -> str:
    """What it writes, once it has ended by itself, and well."""
    finished = subprocess.run(
        [name, "-h", at.host, "-p", str(at.port), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert (finished.returncode, finished.stderr) == (0, ""), finished
    return finished.stdout


def cli(at: Address, *arguments: str, stdin: str = "") -> str:
    return program("redis-cli", at, *arguments, stdin=stdin)


def watch(at: Address, *arguments: str, until: int) -> list[str]:
    """The first lines that redis-cli writes to a terminal; then it is ended."""
    ours, terminal = pty.openpty()
    command = ["redis-cli", "-h", at.host, "-p", str(at.port), *arguments]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as child:
        os.close(terminal)
        written = b""
        try:
            while written.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") < until:
                written += os.read(ours, 4096)
        finally:
            child.kill()
            os.close(ours)
    return written.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")


# ---- redis-cli


@needs_cli
def test_a_session_with_redis_cli(one: Address) -> None:
    lines = [
        *("set cli:1 one", "get cli:1", "HELLO 3", "get cli:nothing", 'set cli:2 "two words"', "mget cli:1 cli:2"),
        *("nosuch a", "select 1", "client getname", "config get databases", "del cli:1 cli:2", "help get"),
    ]
    written = cli(one, stdin="\n".join(lines) + "\n").splitlines()
    assert written[:2] == ["OK", "one"]
    assert "proto 3" in written
    rest = "\n".join(written[written.index("role master") :])
    for reply in (
        "OK\none\ntwo words\nERR unknown command 'nosuch', with args beginning with: 'a' ",
        "\nERR SELECT is not allowed in cluster mode\n",
        "\ndatabases 1\n2\n",
    ):
        assert reply in rest, rest


@needs_cli
def test_redis_cli_knows_the_commands(one: Address) -> None:
    assert "SET" in cli(one, "help", "set").upper()
    assert "get" in cli(one, "COMMAND", "LIST").split()


@needs_cli
@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_redis_cli_speaks_both_protocols(one: Address, protocol: str) -> None:
    requested = [] if protocol == "-2" else [protocol]
    assert cli(one, *requested, "PING") == "PONG\n"
    assert f"proto\n{protocol[1:]}\n" in cli(one, *requested, "HELLO").replace("proto ", "proto\n")
    assert "redis_version:7." in cli(one, *requested, "INFO")


@needs_cli
def test_redis_cli_shows_what_goes_on(one: Address) -> None:
    lines = watch(one, "--stat", "-i", "0.1", until=6)
    assert any(line.startswith("keys") and "clients" in line and "requests" in line for line in lines), lines
    assert sum(line[:1].isdigit() for line in lines) >= 2, lines


@needs_cli
def test_redis_cli_measures_latency(one: Address) -> None:
    minimum, maximum, average, number = map(float, cli(one, "--latency", "-i", "1").split())
    assert 0 <= minimum <= average <= maximum
    assert number > 0


@needs_cli
def test_redis_cli_looks_through_the_keys(one: Address) -> None:
    for number in range(5):
        cli(one, "SET", f"big:{number}", "x" * (number + 1) * 100)
    assert sorted(cli(one, "--scan", "--pattern", "big:*").split()) == [f"big:{n}" for n in range(5)]
    assert "Biggest string found '\"big:4\"' has 500 bytes" in cli(one, "--bigkeys")
    assert "Biggest string found '\"big:4\"'" in cli(one, "--memkeys")


@needs_cli
def test_redis_cli_and_a_cluster(three: Address) -> None:
    for number in range(20):
        assert cli(three, "-c", "SET", f"cluster:{number}", str(number)) == "OK\n"
    values = [str(number) for number in range(20)]
    assert [cli(three, "-c", "GET", f"cluster:{n}").rstrip("\n") for n in values] == values
    assert [cli(three, "GET", f"cluster:{n}").rstrip("\n") for n in values] == values, "without -c it is forwarded"
    # A connection on which READONLY was sent is one of a client of Redis Cluster: it is redirected.
    lines = "\n".join(["READONLY", *(f"GET cluster:{n}" for n in values)]) + "\n"
    status, *replies = [line for line in cli(three, stdin=lines).split("\n") if line]
    assert status == "OK"
    assert all(reply == n or reply.startswith("MOVED ") for reply, n in zip(replies, values, strict=True)), replies
    assert set(replies) - set(values), "of three nodes, one owns not all of these keys"
    status, *replies = [line for line in cli(three, "-c", stdin=lines).split("\n") if line]
    assert status == "OK"
    assert [reply for reply in replies if not reply.startswith("-> Redirected to slot ")] == values
    assert len(replies) > len(values), "-c follows MOVED"
    where = str(three)
    assert "in 3 masters." in cli(three, "--cluster", "info", where)
    checked = cli(three, "--cluster", "check", where)
    assert "[OK] All nodes agree about slots configuration." in checked
    assert f"[OK] All {SLOTS} slots covered." in checked


# ---- redis-benchmark


@needs_benchmark
@pytest.mark.parametrize("pipeline", ["1", "16"])
def test_redis_benchmark(one: Address, pipeline: str) -> None:
    written = program(
        "redis-benchmark", one, "-t", "ping,set,get,mset", "-n", "400", "-c", "8", "-P", pipeline, "-q"
    )
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "MSET (10 keys)"):
        assert f"{name}: " in written
    assert "Error" not in written


@needs_benchmark
def test_redis_benchmark_and_a_cluster(three: Address) -> None:
    written = program("redis-benchmark", three, "--cluster", "-t", "set,get", "-n", "600", "-c", "9", "-q")
    assert "Cluster has 3 master nodes" in written
    assert "GET: " in written
    assert "Error" not in written


# ---- redis-py


@PROTOCOLS
def test_redis_py(one: Address, protocol: int) -> None:
    prefix = f"py{protocol}:"
    a, b, c = (prefix + name for name in "abc")
    with redis.Redis(
        host=one.host, port=one.port, protocol=protocol, decode_responses=True, client_name="test"
    ) as client:
        assert client.ping()
        assert client.set(a, "1")
        assert (client.get(a), client.get(c), client.mget(a, c)) == ("1", None, ["1", None])
        assert client.set(b, "x", ex=100, nx=True)
        assert client.set(b, "y", nx=True) is None
        assert 0 < client.ttl(b) <= 100
        assert client.persist(b)
        assert (client.ttl(b), client.pttl(c)) == (-1, -2)
        assert client.mset({a: "2", c: "value"})
        assert (client.exists(a, b, c), client.strlen(c), client.getrange(c, 1, 3)) == (3, 5, "alu")
        assert client.type(a) == "string"
        assert sorted(client.scan_iter(f"{prefix}*")) == [a, b, c]
        with client.pipeline(transaction=False) as pipeline:
            for number in range(200):
                pipeline.set(a, str(number)).get(a)
            assert pipeline.execute()[1::2] == [str(number) for number in range(200)]
        assert (client.delete(a, b), client.getdel(c), client.exists(a, b, c)) == (2, "value", 0)
        with pytest.raises(redis.ResponseError, match="unknown command 'LPUSH'"):
            client.lpush(a, "x")


@PROTOCOLS
def test_redis_py_carries_out_transactions(one: Address, protocol: int) -> None:
    prefix = f"transaction:{protocol}:"
    key, other = prefix + "a", prefix + "b"
    with redis.Redis(
        host=one.host, port=one.port, protocol=protocol, decode_responses=True, single_connection_client=True
    ) as client:
        assert client.pipeline().set(key, "1").get(key).setex(other, 100, "x").incr(key).execute() == [
            True,
            "1",
            True,
            2,
        ]

        def add(pipeline: Any) -> None:
            before = int(pipeline.get(key))
            pipeline.multi()
            pipeline.set(key, before + 1)

        assert client.transaction(add, key) == [True]
        with pytest.raises(redis.ResponseError, match="not an integer"):
            client.pipeline().set(other, "y").incr(other).execute()
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.pipeline().set(key, "written").execute_command("NOSUCH").execute()
        with client.pipeline() as pipeline:
            pipeline.watch(key)
            client.incr(key)
            pipeline.multi()
            pipeline.set(key, "lost")
            with pytest.raises(redis.WatchError):
                pipeline.execute()
        assert client.mget(key, other) == ["4", "y"]


def test_redis_py_hears_of_changed_keys_on_one_resp2_connection(one: Address) -> None:
    with (
        redis.Redis(host=one.host, port=one.port, protocol=2) as client,
        client.pubsub() as listener,
    ):
        listener.execute_command("CLIENT", "ID")
        number = listener.parse_response()
        listener.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "BCAST", "PREFIX", "heard:")
        assert listener.parse_response() == b"OK"
        listener.subscribe("__redis__:invalidate")
        client.set("heard:1", "value")
        wait_until(
            "the key is named",
            lambda: (listener.get_message(timeout=1) or {}).get("data") == [b"heard:1"],
            TIMEOUT_SECONDS,
        )


@PROTOCOLS
def test_redis_py_queries_the_server(one: Address, protocol: int) -> None:
    with redis.Redis(
        host=one.host, port=one.port, protocol=protocol, decode_responses=True, client_name="test"
    ) as client:
        info = client.info()
        assert info["redis_mode"] == "cluster"
        assert {"keyspace_hits", "used_memory", "instantaneous_ops_per_sec", "milena_version"} <= set(info)
        assert client.client_getname() == "test"
        assert client.client_info()["lib-name"].startswith("redis-py")
        assert client.client_info()["id"] == client.client_id()
        assert any(other["name"] == "test" for other in client.client_list())
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert client.config_set("slowlog-max-len", 64)
        assert client.slowlog_len() >= 0
        assert isinstance(client.slowlog_get(), list)
        assert client.role()[0] == "master"
        assert client.command()["get"]["first_key_pos"] == 1
        assert client.command_getkeys("MSET", "a", "1", "b", "2") == ["a", "b"]
        assert client.time()[0] > 1_500_000_000
        assert client.memory_stats()["keys.count"] >= 0
        assert client.latency_latest() == []


@PROTOCOLS
def test_redis_py_and_a_cluster(three: Address, protocol: int) -> None:
    prefix = f"pc{protocol}:"
    keys = [f"{prefix}{number}" for number in range(30)]
    with redis.RedisCluster(host=three.host, port=three.port, protocol=protocol, decode_responses=True) as client:
        assert len(client.get_nodes()) == 3
        for key in keys:
            assert client.set(key, key)
        assert [client.get(key) for key in keys] == keys
        assert client.mget_nonatomic(keys) == keys
        assert client.mset({f"{{{prefix}}}a": 1, f"{{{prefix}}}b": 2})
        assert client.mget(f"{{{prefix}}}a", f"{{{prefix}}}b") == ["1", "2"]
        with client.pipeline() as pipeline:
            for key in keys:
                pipeline.get(key)
            assert pipeline.execute() == keys
        assert set(keys) <= set(client.scan_iter(f"{prefix}*"))
        assert client.cluster_info()["cluster_state"] == "ok"
        assert len(client.cluster_shards()) == 3
        assert client.delete(*keys) == 30


def test_redis_py_caches_on_its_side(one: Address) -> None:
    with (
        redis.Redis(
            host=one.host, port=one.port, protocol=3, cache_config=CacheConfig(), decode_responses=True
        ) as reader,
        redis.Redis(host=one.host, port=one.port) as writer,
    ):
        writer.set("cached", "old")
        assert reader.get("cached") == "old"
        requested = _gets(writer)
        assert [reader.get("cached") for _ in range(10)] == ["old"] * 10
        assert _gets(writer) == requested  # out of its own memory
        writer.set("cached", "new")
        wait_until("the reader has heard of the change", lambda: reader.get("cached") == "new", TIMEOUT_SECONDS)


def _gets(client: Any) -> int:
    """GETs that the node got."""
    return int(client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"])


def test_redis_py_caches_the_keys_of_a_cluster(three: Address) -> None:
    with (
        redis.RedisCluster(
            host=three.host, port=three.port, protocol=3, cache_config=CacheConfig(), decode_responses=True
        ) as reader,
        redis.RedisCluster(host=three.host, port=three.port) as writer,
    ):
        keys = [f"cc:{number}" for number in range(10)]
        for key in keys:
            writer.set(key, "old")
        assert [reader.get(key) for key in keys * 2] == ["old"] * 20
        for key in keys:
            writer.set(key, "new")
        wait_until(
            "the reader has heard of every change",
            lambda: [reader.get(key) for key in keys] == ["new"] * len(keys),
            TIMEOUT_SECONDS,
        )


@PROTOCOLS
async def test_redis_py_with_asyncio(one: Address, protocol: int) -> None:
    async with redis.asyncio.Redis(
        host=one.host, port=one.port, protocol=protocol, decode_responses=True
    ) as client:
        keys = [f"aio{protocol}:{number}" for number in range(50)]
        assert all(await asyncio.gather(*(client.set(key, key) for key in keys)))
        assert await asyncio.gather(*(client.get(key) for key in keys)) == keys
        assert await client.mget(keys) == keys
        assert await client.delete(*keys) == len(keys)


async def test_redis_py_with_asyncio_and_a_cluster(three: Address) -> None:
    async with redis.asyncio.RedisCluster(host=three.host, port=three.port, decode_responses=True) as client:
        keys = [f"aioc:{number}" for number in range(50)]
        assert all(await asyncio.gather(*(client.set(key, key) for key in keys)))
        assert await asyncio.gather(*(client.get(key) for key in keys)) == keys
        assert await client.mget_nonatomic(keys) == keys


# ---- coredis


async def test_coredis(one: Address) -> None:
    coredis = pytest.importorskip("coredis", reason="coredis is not installed")
    async with coredis.Redis(host=one.host, port=one.port, decode_responses=True) as client:
        assert await client.set("coredis", "1", ex=100)
        assert await client.get("coredis") == "1"
        assert 0 < await client.ttl("coredis") <= 100
        assert await client.mget(["coredis", "nothing"]) == ("1", None)
        assert (await client.client_info())["lib-name"] == "coredis"
        assert (await client.info("server"))["redis_mode"] == "cluster"
        assert await client.delete(["coredis"]) == 1


async def test_coredis_and_a_cluster(three: Address) -> None:
    coredis = pytest.importorskip("coredis", reason="coredis is not installed")
    async with coredis.RedisCluster(host=three.host, port=three.port, decode_responses=True) as client:
        keys = [f"core:{number}" for number in range(20)]
        for key in keys:
            assert await client.set(key, key)
        assert [await client.get(key) for key in keys] == keys
        assert (await client.cluster_info())["cluster_state"] == "ok"
        assert await client.delete(keys) == 20


async def test_coredis_caches_on_its_side(one: Address) -> None:
    pytest.importorskip("coredis", reason="coredis is not installed")
    import coredis
    from coredis.patterns.cache import LRUCache

    async with (
        coredis.Redis(host=one.host, port=one.port, decode_responses=True, cache=LRUCache()) as reader,
        coredis.Redis(host=one.host, port=one.port) as writer,
    ):
        await writer.set("core:cached", "old")
        assert [await reader.get("core:cached") for _ in range(5)] == ["old"] * 5
        await writer.set("core:cached", "new")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await reader.get("core:cached") != "new":
                await writer.ping()
