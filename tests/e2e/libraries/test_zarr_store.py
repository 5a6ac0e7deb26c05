"""zarr's own tests of stores, and what they leave open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.buffer.cpu import Buffer as CpuBuffer
from zarr.testing.store import StoreTests

from milena_client import Milena, Unavailable
from milena_client.zarr import MilenaStore
from tests.e2e.libraries.conftest import BUCKET
from tests.support.cluster import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(library_cluster: Cluster) -> Iterator[Milena]:
    with Milena(library_cluster.address) as client:
        yield client


class TestMilenaStore(StoreTests[MilenaStore, CpuBuffer]):
    store_cls = MilenaStore
    buffer_cls = CpuBuffer

    @pytest.fixture(autouse=True)
    def _client(self, client: Milena) -> None:
        self.client = client

    @pytest.fixture
    def store_kwargs(self, url: str, options: dict[str, str]) -> dict[str, Any]:  # type: ignore[override]
        return {"path": url, **options}

    @pytest.fixture
    async def store(self, open_kwargs: dict[str, Any]) -> AsyncIterator[MilenaStore]:  # type: ignore[override]
        store = await MilenaStore.open(**open_kwargs)
        yield store
        await store.aclose()

    @pytest.fixture
    async def store_not_open(self, store_kwargs: dict[str, Any]) -> AsyncIterator[MilenaStore]:  # type: ignore[override]
        store = MilenaStore(**store_kwargs)
        yield store
        await store.aclose()

    def key(self, store: MilenaStore, key: str) -> str:
        return f"{str(store).removeprefix(f'milena://{BUCKET}/')}/{key}"

    async def set(self, store: MilenaStore, key: str, value: Buffer) -> None:
        self.client.set(self.key(store, key), value.to_bytes(), durability="through")

    async def get(self, store: MilenaStore, key: str) -> Buffer:
        value = self.client.get(self.key(store, key))
        assert value is not None
        return CpuBuffer.from_bytes(value)

    def test_store_repr(self, store: MilenaStore) -> None:
        assert repr(store) == f"MilenaStore({str(store)!r})"

    def test_store_supports_writes(self, store: MilenaStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: MilenaStore) -> None:
        assert store.supports_listing


def test_an_array_is_written_and_read_in_chunks_and_shards(url: str, options: dict[str, str]) -> None:
    store = MilenaStore(url, **options)
    values = np.arange(10_000).reshape(100, 100)
    group = zarr.open_group(store, mode="w")
    plain = group.create_array("plain", shape=values.shape, dtype=values.dtype, chunks=(30, 30))
    sharded = group.create_array(
        "sharded", shape=values.shape, dtype=values.dtype, chunks=(10, 10), shards=(50, 50)
    )
    plain[:] = values
    sharded[:] = values
    again = zarr.open_group(MilenaStore(url, **options), mode="r")
    assert sorted(again.keys()) == ["plain", "sharded"]
    for name in again:
        assert (again[name][13:77, 5:60] == values[13:77, 5:60]).all()
    store.close()


def test_of_two_writers_that_create_a_key_one_succeeds(url: str, options: dict[str, str]) -> None:
    async def race() -> bytes:
        store = MilenaStore(url, **options)
        values = [CpuBuffer.from_bytes(b"%d" % number) for number in range(8)]
        await asyncio.gather(*[store.set_if_not_exists("k", value) for value in values])
        first = await store.get("k", default_buffer_prototype())
        await asyncio.gather(*[store.set_if_not_exists("k", value) for value in values])
        last = await store.get("k", default_buffer_prototype())
        await store.aclose()
        assert first is not None
        assert last is not None
        assert first.to_bytes() == last.to_bytes()
        return first.to_bytes()

    assert asyncio.run(race()) in {b"%d" % number for number in range(8)}


def test_an_outage_is_no_array_of_fill_values(url: str) -> None:
    store = MilenaStore(url, router="127.0.0.1:1", timeout=0.2)
    with pytest.raises(Unavailable):
        zarr.open_array(store, mode="r")
    store.close()
