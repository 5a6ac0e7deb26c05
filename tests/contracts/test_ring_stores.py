"""What a `RingStore` must do: etcd, and the fake that tests of routers use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import count

import pytest

from milena_common.runtime.clock import SystemClock
from milena_router.etcd.client import EtcdClient
from milena_router.etcd.security import EtcdSecurity
from milena_router.shared.etcd_store import EtcdRingStore
from milena_router.shared.ring_store import ABSENT, MAX_RECORDS, RingStore, Update, Write
from tests.support.etcd_server import ETCD, EtcdCluster, running_etcd
from tests.support.memory_ring_store import MemoryRing, MemoryRingStore

SECONDS = 5.0
Connect = Callable[[], RingStore]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    if ETCD is None:
        pytest.skip("there is no etcd (Debian: etcd-server)")
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["memory", "etcd"])
async def connect(request: pytest.FixtureRequest, prefixes: Iterator[int]) -> AsyncIterator[Connect]:
    """Return connections to one store."""
    stores: list[RingStore] = []
    ring = MemoryRing()
    prefix = f"/milena/{next(prefixes)}/"
    cluster = request.getfixturevalue("etcd") if request.param == "etcd" else None

    def connected() -> RingStore:
        if cluster is None:
            stores.append(MemoryRingStore(ring))
        else:
            client = EtcdClient(cluster.endpoints, EtcdSecurity(), SystemClock())
            stores.append(EtcdRingStore(client, prefix))
        return stores[-1]

    yield connected
    for store in stores:
        await store.close()


@pytest.fixture(scope="module")
def prefixes() -> Iterator[int]:
    return count()


@asynccontextmanager
async def following(store: RingStore, revision: int) -> AsyncIterator[list[Update]]:
    """Yield the list of the changes as they come."""
    updates: list[Update] = []
    began = asyncio.Event()

    async def follow() -> None:
        async with aclosing(store.follow(revision)) as changes:
            async for update in changes:
                began.set()
                if update.revision:
                    updates.append(update)

    task = asyncio.create_task(follow())
    await began.wait()
    yield updates
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def reached(updates: list[Update], revision: int) -> None:
    async with asyncio.timeout(SECONDS):
        while not updates or updates[-1].revision < revision:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def written(store: RingStore, change: Write) -> int:
    revision = await store.write(change, SECONDS)
    assert revision is not None
    return revision


async def test_a_new_store_has_nothing(connect: Connect) -> None:
    snapshot = await connect().read(SECONDS)
    assert (snapshot.state, snapshot.records) == (ABSENT, {})


async def test_a_change_is_there_for_all_at_once(connect: Connect) -> None:
    first, second = connect(), connect()
    revision = await written(first, Write(0, b"state", {"a:1": b"A", "b:1": b"B"}))
    snapshot = await second.read(SECONDS)
    assert snapshot.state == (b"state", revision)
    assert snapshot.records == {"a:1": (b"A", revision), "b:1": (b"B", revision)}
    assert snapshot.revision >= revision


async def test_of_two_changes_of_one_state_one_is_made(connect: Connect) -> None:
    first, second = connect(), connect()
    base = await written(first, Write(0, b"0"))
    results = await asyncio.gather(
        *(store.write(Write(base, value), SECONDS) for store, value in ((first, b"1"), (second, b"2")))
    )
    (revision,) = (result for result in results if result is not None)
    state = (await first.read(SECONDS)).state
    assert state == (b"1" if results[0] else b"2", revision)


async def test_a_change_that_is_not_made_leaves_everything(connect: Connect) -> None:
    store = connect()
    base = await written(store, Write(0, b"0", {"a:1": b"A"}))
    renewed = await written(store, Write(base, None, {"a:1": b"A2"}))
    assert await store.write(Write(base - 1, b"1", {"b:1": b"B"}), SECONDS) is None
    assert await store.write(Write(base, b"1", {"b:1": b"B"}, {"a:1": base}), SECONDS) is None
    assert await store.write(Write(base, b"1", {}, {"b:1": base}), SECONDS) is None
    snapshot = await store.read(SECONDS)
    assert snapshot.state == (b"0", base)
    assert snapshot.records == {"a:1": (b"A2", renewed)}
    assert await store.write(Write(base, b"1", {"a:1": None}, {"a:1": renewed, "b:1": 0}), SECONDS)


async def test_a_state_is_created_once_and_a_record_can_be_removed_that_is_not_there(connect: Connect) -> None:
    store = connect()
    await written(store, Write(0, b"0", {"gone:1": None}))
    assert await store.write(Write(0, b"again"), SECONDS) is None


async def test_a_change_takes_as_many_records_as_it_may_have(connect: Connect) -> None:
    store = connect()
    names = [f"n{number}:1" for number in range(MAX_RECORDS)]
    await written(store, Write(0, b"s", dict.fromkeys(names, b"v"), dict.fromkeys(names, 0)))
    assert len((await store.read(SECONDS)).records) == MAX_RECORDS


async def test_a_follower_sees_each_change_once_in_order_and_what_was_before(connect: Connect) -> None:
    store, other = connect(), connect()
    first = await written(store, Write(0, b"0", {"a:1": b"A"}))
    second = await written(store, Write(first, b"1"))
    async with following(other, first) as updates:
        third = await written(store, Write(second, None, {"a:1": None, "b:1": b"B"}))
        await reached(updates, third)
    assert sorted({update.revision for update in updates}) == [update.revision for update in updates]
    states = [update.state for update in updates if update.state is not None]
    assert states[-1] == (b"1", second)
    assert updates[-1].records == {"a:1": ABSENT, "b:1": (b"B", third)}


async def test_a_follower_from_the_present_revision_on_sees_only_what_is_new(connect: Connect) -> None:
    store, other = connect(), connect()
    first = await written(store, Write(0, b"0"))
    async with following(other, (await other.read(SECONDS)).revision + 1) as updates:
        second = await written(store, Write(first, b"1"))
        await reached(updates, second)
        assert [update.state for update in updates] == [(b"1", second)]
