"""The examples of docs/libraries.md run as they are, with the real libraries."""

from __future__ import annotations

import fsspec
import numpy as np
import pandas
import pytest
import xarray

from milena_client import Milena
from milena_client.core.files.read_ahead import MIN_WINDOW
from milena_client.fsspec import MilenaFileSystem
from milena_client.sync.files import BUFFER_BYTES
from tests.docs.documents import DOCUMENTS, Block, blocks
from tests.e2e.libraries.conftest import BUCKET
from tests.support.cluster import Cluster

pytestmark = pytest.mark.e2e

EXAMPLES = [block for block in blocks("python") if block.document.name == "libraries.md"]


@pytest.fixture(scope="module", autouse=True)
def objects(library_cluster: Cluster) -> None:
    """What the examples read."""
    with Milena(library_cluster.address) as client:
        client.set_many({"images/1.jpg": b"1", "images/2.jpg": b"22"}, durability="through")
    fs = fsspec.filesystem("milena", router=library_cluster.address)
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    for path in ("frame.parquet", "frames/1.parquet", "frames/2.parquet"):
        frame.to_parquet(f"milena://{BUCKET}/{path}", storage_options=fs.storage_options)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.text.split()[1])
def test_examples_run(
    block: Block, library_cluster: Cluster, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open("report.csv", "w") as file:
        file.write("a,b\n")
    text = block.text.replace("router:50050", library_cluster.address).replace("my-bucket", BUCKET)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(text, block.document.name, "exec"), names)
    if "client" in names:
        assert names["dataset"].__getitems__([1, 0]) == [("images/2.jpg", 2), ("images/1.jpg", 1)]
        names["client"].close()
    if "store" in names:
        assert names["array"][99, 3] == 1.0
        names["store"].close()


def test_there_is_an_example_of_each_library() -> None:
    text = "".join(block.text for block in EXAMPLES)
    assert all(document.exists() for document in DOCUMENTS)
    for library in ("fsspec", "pandas", "dask", "xarray", "polars", "pyarrow", "zarr", "milena_client.dataset"):
        assert f"import {library}" in text or f"from {library}" in text


def test_columns_of_a_parquet_file_need_few_other_bytes(milena_fs: MilenaFileSystem, milena_path: str) -> None:
    path = f"{milena_path}/wide.parquet"
    generator = np.random.default_rng(1)
    frame = pandas.DataFrame({f"c{number}": generator.random(20_000) for number in range(20)})
    frame.to_parquet(f"milena://{path}", storage_options=milena_fs.storage_options)
    with milena_fs.open(path) as file:
        requested: list[int] = []
        read_range = file.raw._read_range
        file.raw._read_range = lambda part, ahead: requested.append(part.length) or read_range(part, ahead)
        found = pandas.read_parquet(file, columns=["c3", "c7"])
    assert found.equals(frame[["c3", "c7"]])
    # `io` splits a read in two, the second of which is sequential: at most one window is read ahead.
    assert sum(requested) < 0.1 * milena_fs.size(path) + MIN_WINDOW + 2 * BUFFER_BYTES
    assert pandas.read_parquet(
        f"milena://{path}", columns=["c3", "c7"], storage_options=milena_fs.storage_options
    ).equals(found)


def test_an_array_that_is_written_in_parts_is_read_by_another_process(
    milena_path: str, options: dict[str, str]
) -> None:
    values = xarray.Dataset({"t": (("x", "y"), np.arange(40_000.0).reshape(200, 200))})
    url = f"milena://{milena_path}/array.zarr"
    values.chunk({"x": 50}).to_zarr(url, storage_options=options)
    read = xarray.open_zarr(url, storage_options=options)
    assert read["t"][17:33].mean().compute() == values["t"][17:33].mean()
    missing = f"milena://{milena_path}/none.zarr"
    with pytest.raises(FileNotFoundError):
        xarray.open_zarr(missing, storage_options=options)
