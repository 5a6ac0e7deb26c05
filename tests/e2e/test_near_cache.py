"""Values kept in the client, and everything that makes them wrong: they go, in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import AsyncMilena, Milena, MilenaError, NearCache
from tests.e2e.conftest import StartCluster
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

KEYS = [f"near/{number}" for number in range(20)]
# What is invalidated because it was kept for too long proves nothing here.
MAX_AGE = 10_000.0
SECONDS = 30.0


@pytest.fixture
def near() -> NearCache:
    return NearCache(2**20, MAX_AGE)


@pytest.fixture
def m(cluster: Cluster, near: NearCache) -> Iterator[Milena]:
    with Milena(cluster.address, near_cache=near) as client:
        yield client


@pytest.fixture
def other(cluster: Cluster) -> Iterator[Milena]:
    with Milena(cluster.address) as client:
        yield client


def keep(m: Milena, near: NearCache, key: str) -> bytes:
    """Read `key` until its value comes from the near cache."""

    def kept() -> bool:
        before = near.hits
        value = m.get(key)
        return near.hits > before and value is not None

    wait_until(f"{key} is kept", kept, SECONDS)
    value = near.get(key)
    assert value is not None
    return value


def test_a_value_is_kept_until_another_client_writes_it(m: Milena, near: NearCache, other: Milena) -> None:
    for key in KEYS:
        other.set(key, b"1")
        keep(m, near, key)
    assert m.get_many(KEYS) == dict.fromkeys(KEYS, b"1")
    before = near.misses
    assert m.get(KEYS[0]) is m.get(KEYS[0])
    assert near.misses == before
    for key in KEYS[:10]:
        other.set(key, b"2")
    for key in KEYS[10:]:
        other.delete(key)
    for key in KEYS[:10]:
        wait_until("the write is seen", lambda key=key: m.get(key) == b"2", SECONDS)
    for key in KEYS[10:]:
        wait_until("the delete is seen", lambda key=key: m.get(key) is None, SECONDS)


def test_own_writes_are_read_at_once_by_every_thread(m: Milena, near: NearCache) -> None:
    m.set("k", b"0")
    keep(m, near, "k")
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        newest = 0
        while not stop.is_set():
            value = int(m["k"])
            if value < newest:
                wrong.append((value, newest))
            newest = value

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 200):
        m.set("k", b"%d" % number, durability="memory")
        assert m["k"] == m["k"] == b"%d" % number
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_batches_use_it_and_fill_it(m: Milena, near: NearCache, other: Milena) -> None:
    other.set_many(dict.fromkeys(KEYS, b"v"))
    keep(m, near, KEYS[0])
    wait_until("all are kept", lambda: bool(m.get_many(KEYS)) and len(near) == len(KEYS), SECONDS)
    before = near.misses
    assert m.get_many(KEYS) == dict.fromkeys(KEYS, b"v")
    assert near.misses == before
    m.set_many(dict.fromkeys(KEYS, b"w"))
    assert m.get_many(KEYS) == dict.fromkeys(KEYS, b"w")
    m.delete_many(KEYS)
    assert m.get_many(KEYS) == {}


def test_a_change_in_the_bucket_is_notified_when_the_node_finds_it(
    start_cluster: StartCluster, s3: S3Client, near: NearCache
) -> None:
    cluster = start_cluster(1, node_env={"TTL_SECONDS": "1", "GRACE_SECONDS": "0"})
    s3.put_object(Bucket=cluster.bucket, Key="k", Body=b"old")
    with Milena(cluster.address, near_cache=near) as m, Milena(cluster.address) as other:
        assert keep(m, near, "k") == b"old"
        s3.put_object(Bucket=cluster.bucket, Key="k", Body=b"new")
        wait_until("the node has asked S3", lambda: other["k"] == b"new", SECONDS)
        wait_until("it was notified", lambda: m["k"] == b"new", SECONDS)


def test_an_expired_object_is_gone_without_a_request_to_the_node(m: Milena, near: NearCache, other: Milena) -> None:
    other.set("k", b"v", ttl=3.0)
    keep(m, near, "k")
    wait_until("its expiry is notified", lambda: near.get("k") is None, SECONDS)
    assert m.get("k") is None


def test_a_new_ring_empties_it(cluster: Cluster, m: Milena, near: NearCache, other: Milena) -> None:
    for key in KEYS:
        other.set(key, b"1")
        keep(m, near, key)
    cluster.add_node()
    wait_until("it is empty", lambda: len(near) == 0, SECONDS)
    for key in KEYS:
        assert keep(m, near, key) == b"1"
        other.set(key, b"2")
    for key in KEYS:
        wait_until("the write is seen", lambda key=key: m.get(key) == b"2", SECONDS)


def test_a_killed_node_empties_it(cluster: Cluster, m: Milena, near: NearCache, other: Milena) -> None:
    for key in KEYS:
        other.set(key, b"1", durability="through")
        keep(m, near, key)
    cluster.kill_node(cluster.nodes[0])
    wait_until("it is empty", lambda: len(near) == 0, SECONDS)
    cluster.wait_for_ring(2)
    for key in KEYS:
        wait_until("the value is read again", lambda key=key: reads(m, key) == b"1", SECONDS)
        keep(m, near, key)
        wait_until("the write is done", lambda key=key: writes(other, key, b"2"), SECONDS)
        wait_until("the write is seen", lambda key=key: reads(m, key) == b"2", SECONDS)


def writes(m: Milena, key: str, value: bytes) -> bool:
    try:
        return bool(m.set(key, value))
    except MilenaError:
        return False


def reads(m: Milena, key: str) -> bytes | None:
    try:
        return m.get(key)
    except MilenaError:
        return None


def test_nothing_is_returned_of_a_silent_node(cluster: Cluster, m: Milena, near: NearCache, other: Milena) -> None:
    for key in KEYS:
        other.set(key, b"1")
        keep(m, near, key)
    node = cluster.nodes[0]
    node.pause()
    try:
        wait_until("nothing is returned", lambda: all(near.get(key) is None for key in KEYS), SECONDS)
    finally:
        node.resume()


async def eventually(what: str, attempt: Callable[[], Awaitable[bool]]) -> None:
    """As `wait_until`, for a loop that has something to do meanwhile."""
    end = asyncio.get_running_loop().time() + SECONDS
    while not await attempt():
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"{what}: not within {SECONDS} s")
        await asyncio.sleep(0.02)


async def test_for_an_event_loop(cluster: Cluster, near: NearCache) -> None:
    async with AsyncMilena(cluster.address, near_cache=near) as m, AsyncMilena(cluster.address) as other:

        async def kept(key: str) -> bool:
            before = near.hits
            value = await m.get(key)
            return near.hits > before and value is not None

        async def reads(key: str, value: bytes | None) -> bool:
            try:
                return await m.get(key) == value
            except MilenaError:
                return False

        async def deletes(key: str) -> bool:
            try:
                return bool(await other.delete(key))
            except MilenaError:
                return False

        await other.set_many(dict.fromkeys(KEYS, b"1"), durability="through")
        for key in KEYS:
            await eventually(f"{key} is kept", lambda key=key: kept(key))
        assert await m.get_many(KEYS) == dict.fromkeys(KEYS, b"1")
        for key in KEYS:
            await other.set(key, b"2", durability="through")
        for key in KEYS:
            await eventually("the write is seen", lambda key=key: reads(key, b"2"))
        for number in range(50):
            await m.set("k", b"%d" % number)
            assert await m.get("k") == await m.get("k") == b"%d" % number
        for key in KEYS:
            await eventually(f"{key} is kept", lambda key=key: kept(key))
        cluster.kill_node(cluster.nodes[0])
        for key in KEYS:
            await eventually("the value is read again", lambda key=key: reads(key, b"2"))
            await eventually("the key is deleted", lambda key=key: deletes(key))
            await eventually("the delete is seen", lambda key=key: reads(key, None))
