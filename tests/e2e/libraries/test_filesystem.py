"""The filesystem beyond fsspec's own tests: versions, errors, workers, and disks that are full."""

from __future__ import annotations

import asyncio
import errno
import io
import multiprocessing
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from milena_client import Milena
from milena_client.dataset import MilenaDataset
from milena_client.fsspec import MilenaFileSystem
from tests.behaviour.test_forks import in_a_child
from tests.e2e.libraries.conftest import BUCKET
from tests.e2e.libraries.workers import decoded, read, work
from tests.support.cluster import Cluster

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]

KIB = 1024
METHODS = ("fork", "forkserver", "spawn")


@pytest.fixture
def fs(milena_fs: MilenaFileSystem) -> MilenaFileSystem:
    return milena_fs


@pytest.fixture
def path(milena_path: str) -> str:
    return f"{milena_path}/object"


@pytest.fixture(scope="module")
def client(library_cluster: Cluster) -> Iterator[Milena]:
    with Milena(library_cluster.address) as client:
        yield client


def test_slices_are_those_of_bytes(fs: MilenaFileSystem, path: str) -> None:
    value = bytes(range(100))
    fs.pipe_file(path, value)
    bounds = (None, 0, 1, 60, 100, 150, -1, -60, -150)
    slices = [(start, end) for start in bounds for end in bounds]
    for start, end in slices:
        assert fs.cat_file(path, start=start, end=end) == value[start:end], (start, end)
    starts, ends = [list(each) for each in zip(*slices, strict=True)]
    assert fs.cat_ranges([path] * len(slices), starts, ends) == [value[start:end] for start, end in slices]


def test_a_batch_has_each_result_or_error_in_its_place(fs: MilenaFileSystem, milena_path: str) -> None:
    paths = [f"{milena_path}/{number}" for number in range(300)]
    fs.pipe({path: path.encode() for path in paths})
    assert fs.cat(paths) == {path: path.encode() for path in paths}
    missing, other = f"{milena_path}/none", "other-bucket/key"
    found = fs.cat_ranges(
        [paths[0], missing, other, paths[1], paths[1]], [0, 0, None, None, 5], [4, 9, None, None, 9]
    )
    assert found[0] == paths[0].encode()[:4]
    assert isinstance(found[1], FileNotFoundError)
    assert isinstance(found[2], ValueError)
    assert found[3:] == [paths[1].encode(), paths[1].encode()[5:9]]
    with pytest.raises(FileNotFoundError):
        fs.cat([paths[0], missing])
    assert fs.cat([paths[0], missing], on_error="omit") == {paths[0]: paths[0].encode()}


def test_folders_are_what_keys_have_in_common(fs: MilenaFileSystem, milena_path: str, client: Milena) -> None:
    folder = f"{milena_path}/folder"
    fs.pipe({f"{folder}/a": b"1", f"{folder}/sub/b": b"22", f"{folder}/sub/deep/c": b"333"})
    # As some programs mark a folder.
    client.set(f"{folder.removeprefix(f'{BUCKET}/')}/", b"", durability="through")
    assert fs.ls(folder, detail=False) == [f"{folder}/a", f"{folder}/sub"]
    assert fs.isdir(folder)
    assert fs.isdir(BUCKET)
    assert not fs.isdir(f"{folder}/a")
    assert not fs.isfile(folder)
    assert fs.isfile(f"{folder}/a")
    assert not fs.exists(f"{folder}/fol")
    assert fs.find(folder) == [f"{folder}/a", f"{folder}/sub/b", f"{folder}/sub/deep/c"]
    assert fs.find(folder, maxdepth=1, withdirs=True) == [folder, f"{folder}/a", f"{folder}/sub"]
    assert fs.find(folder, maxdepth=2, withdirs=True)[-2:] == [f"{folder}/sub/b", f"{folder}/sub/deep"]
    assert fs.glob(f"{folder}/**/c") == [f"{folder}/sub/deep/c"]
    assert fs.glob(f"{folder}/s*/b") == [f"{folder}/sub/b"]
    assert fs.du(folder) == 6
    assert [each[0] for each in fs.walk(folder)] == [folder, f"{folder}/sub", f"{folder}/sub/deep"]
    assert fs.info(f"{folder}/sub/b")["size"] == 2
    assert fs.info(folder) == {"name": folder, "size": 0, "type": "directory"}
    fs.rm(folder, recursive=True)
    assert not fs.exists(folder)
    assert client.get(f"{folder.removeprefix(f'{BUCKET}/')}/") is None, "its mark is gone too"
    with pytest.raises(FileNotFoundError):
        fs.rm(folder, recursive=True)
    with pytest.raises(FileNotFoundError):
        fs.ls(folder)


def test_not_found_means_that_there_is_no_such_object(fs: MilenaFileSystem, path: str) -> None:
    for call in (fs.cat_file, fs.info, fs.ls, fs.open, fs.size):
        with pytest.raises(FileNotFoundError):
            call(path)
    for call in (fs.cat_file, fs.info, fs.ls, fs.open, fs.exists, fs.isfile, fs.isdir, fs.find, fs.glob):
        with pytest.raises(ValueError, match=r"bucket: 'other-bucket' is not served here.*S3_BUCKETS"):
            call("milena://other-bucket/key*")
    with pytest.raises(ValueError, match=r"path: '127.0.0.1:50050/b/k' is not milena://BUCKET/KEY"):
        fs.cat_file("milena://127.0.0.1:50050/b/k")


def test_a_cluster_that_cannot_be_reached_is_no_missing_object(path: str) -> None:
    gone = MilenaFileSystem(router="127.0.0.1:1", timeout=0.2)
    for call in (gone.cat_file, gone.info, gone.ls, gone.exists, gone.isfile, gone.isdir, gone.find, gone.glob):
        with pytest.raises((ConnectionError, TimeoutError)) as raised:
            call(f"{path}*")
        assert not isinstance(raised.value, FileNotFoundError)
    with pytest.raises((ConnectionError, TimeoutError)):
        [*gone.walk(path)]


def test_modes_and_their_errors(fs: MilenaFileSystem, path: str) -> None:
    for mode in ("ab", "r+b", "a", "w+b"):
        with pytest.raises(io.UnsupportedOperation, match="nothing can be appended"):
            fs.open(path, mode)
    assert not fs.exists(path)
    first, second = fs.open(path, "xb"), fs.open(path, "xb")
    first.write(b"first")
    second.write(b"second")
    first.close()
    with pytest.raises(FileExistsError):
        second.close()
    with pytest.raises(FileExistsError):
        fs.open(path, "x")
    assert fs.cat_file(path) == b"first"
    with fs.open(path, "w", encoding="utf-8") as text:
        text.write("ключ")
    with fs.open(path, "r", encoding="utf-8") as text:
        assert text.read() == "ключ"


def test_what_is_left_by_an_exception_or_dropped_is_not_stored(fs: MilenaFileSystem, path: str) -> None:
    with suppress(ZeroDivisionError), fs.open(path, "wb") as file:
        file.write(b"half")
        raise ZeroDivisionError
    dropped = fs.open(path, "wb")
    dropped.write(b"half")
    del dropped
    assert not fs.exists(path)
    with suppress(ZeroDivisionError), fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"whole")
        raise ZeroDivisionError
    assert not fs.exists(path)
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"whole")
        assert not fs.exists(path)
    assert fs.cat_file(path) == b"whole"


@pytest.mark.parametrize("cache_type", [None, "readahead", "bytes", "all"])
def test_an_open_file_is_of_one_version(fs: MilenaFileSystem, path: str, cache_type: str | None) -> None:
    value = os.urandom(300 * KIB)
    fs.pipe_file(path, value)
    options: dict[str, Any] = {} if cache_type is None else {"cache_type": cache_type, "block_size": KIB}
    with fs.open(path, "rb", **options) as file:
        assert file.read(100) == value[:100]
        file.seek(-50, os.SEEK_END)
        assert file.read() == value[-50:]
        file.seek(7)
        copy = pickle.loads(pickle.dumps(file))
        assert copy.tell() == 7
        assert copy.read(10) == value[7:17]
        assert file.size == len(value)
        assert file.info()["ETag"] == fs.info(path)["ETag"]
        sent = pickle.dumps(file)
        fs.pipe_file(path, value[::-1])
        if cache_type != "all":
            file.seek(150 * KIB)
            with pytest.raises(OSError, match="replaced") as raised:
                file.read(100 * KIB)
            assert raised.value.errno == errno.ESTALE
        with pytest.raises(OSError, match="replaced"):
            pickle.loads(sent)


def test_lines_of_a_file(fs: MilenaFileSystem, path: str) -> None:
    lines = [b"%d\n" % number for number in range(20_000)]
    fs.pipe_file(path, b"".join(lines))
    with fs.open(path, "rb") as file:
        assert [*file] == lines


def test_files_of_any_size_are_written_copied_and_read(shared_cluster: Cluster, tmp_path: Path) -> None:
    fs = MilenaFileSystem(router=shared_cluster.address)
    value = os.urandom(9 * KIB * KIB + 1)
    folder = f"{shared_cluster.bucket}/large"
    local = tmp_path / "large"
    local.write_bytes(value)
    with fs.open(f"{folder}/opened", "wb") as file:
        file.write(value)
        assert not fs.exists(f"{folder}/opened")
    fs.pipe_file(f"{folder}/piped", value)
    fs.put_file(str(local), f"{folder}/put")
    fs.cp_file(f"{folder}/put", f"{folder}/copied")
    for name in ("opened", "piped", "put", "copied"):
        assert fs.cat_file(f"{folder}/{name}") == value
        with pytest.raises(FileExistsError):
            fs.pipe_file(f"{folder}/{name}", value, mode="create")
    with suppress(ZeroDivisionError), fs.open(f"{folder}/half", "wb") as file:
        file.write(value)
        raise ZeroDivisionError
    assert fs.ls(folder, detail=False) == [f"{folder}/{name}" for name in ("copied", "opened", "piped", "put")]
    assert fs.cat_ranges([f"{folder}/put"] * 2, [5, -7], [10, None]) == [value[5:10], value[-7:]]
    target = tmp_path / "got"
    fs.get_file(f"{folder}/put", str(target))
    assert target.read_bytes() == value


def test_instances_are_shared_by_arguments_and_pickled_by_them(fs: MilenaFileSystem) -> None:
    router = fs.storage_options["router"]
    assert fsspec.filesystem("milena", router=router) is fs
    assert fsspec.filesystem("milena", router=router, timeout=3) is not fs
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()) is fs


def test_the_router_is_that_of_the_environment(
    fs: MilenaFileSystem, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.pipe_file(path, b"v")
    monkeypatch.setenv("MILENA_URL", f"milena://{fs.storage_options['router']}?timeout=9s")
    found = fsspec.filesystem("milena", skip_instance_cache=True)
    assert found.cat_file(path) == b"v"
    assert found.fsid == fs.fsid


def test_several_event_loops_use_one_instance(library_cluster: Cluster, path: str) -> None:
    fs = MilenaFileSystem(router=library_cluster.address, asynchronous=True)

    async def use(value: bytes) -> bytes:
        await fs._pipe_file(path, value)
        file = await fs.open_async(path)
        async with file:
            found = await file.read()
        await fs._close_session()
        return found

    assert asyncio.run(use(b"1")) == b"1"
    assert asyncio.run(use(b"2")) == b"2"


# ---- local files


def test_a_full_disk_leaves_nothing_of_a_file(fs: MilenaFileSystem, path: str, tmp_path: Path) -> None:
    fs.pipe_file(path, os.urandom(200 * KIB))
    target = tmp_path / "copy"
    target.write_bytes(b"of before")

    def limited() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 * KIB, 100 * KIB))
        with pytest.raises(OSError, match="too large") as raised:
            fs.get_file(path, str(target))
        return raised.value.errno == errno.EFBIG

    assert in_a_child(limited) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]
    assert target.read_bytes() == b"of before"
    fs.get_file(path, str(target))
    assert target.stat().st_size == 200 * KIB


def test_local_files_are_put_and_got_whole(fs: MilenaFileSystem, path: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(300 * KIB))
    fs.put_file(str(source), path)
    with pytest.raises(FileExistsError):
        fs.put_file(str(source), path, mode="create")
    fs.get_file(path, str(target))
    assert target.read_bytes() == source.read_bytes()
    assert oct(target.stat().st_mode)[-3:] == oct(source.stat().st_mode)[-3:]
    with pytest.raises(FileNotFoundError):
        fs.get_file(f"{path}/none", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


# ---- workers


@pytest.mark.parametrize("method", METHODS)
def test_a_filesystem_is_sent_to_workers(fs: MilenaFileSystem, path: str, method: str) -> None:
    fs.pipe_file(path, b"a value")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read, (fs, path)) == (b"a value", [path], b"a val")


def test_a_forked_process_uses_the_instances_that_it_has(fs: MilenaFileSystem, path: str) -> None:
    fs.pipe_file(path, b"a value")
    file = fs.open(path, "rb")

    def child() -> bool:
        assert read(fs, path)[0] == b"a value"
        assert fsspec.filesystem("milena", **fs.storage_options).cat_file(path) == b"a value"
        fs.pipe_file(f"{path}2", b"of the child")
        assert fs.exists(f"{path}2")
        return file.read() == b"a value"

    assert in_a_child(child) == 0
    assert fs.cat_file(f"{path}2") == b"of the child"
    assert file.read() == b"a value", "the parent's is as it was"


@pytest.mark.parametrize("method", METHODS)
def test_workers_read_the_batches_of_a_dataset(client: Milena, milena_path: str, method: str) -> None:
    folder = milena_path.removeprefix(f"{BUCKET}/")
    keys = [f"{folder}/{number}" for number in range(200)]
    client.set_many({key: b"%d" % number for number, key in enumerate(keys)})
    dataset = MilenaDataset(client, keys, decoded)
    assert dataset[7] == (keys[7], 7)
    batches = [[*range(start, start + 50)][::-1] for start in range(0, 200, 50)]
    context = multiprocessing.get_context(method)
    indices, results = context.Queue(), context.Queue()
    workers = [context.Process(target=work, args=(dataset, indices, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for batch in [*batches, None, None]:
        indices.put(batch)
    found = sorted((results.get(timeout=100) for _ in batches), key=lambda items: items[-1][1])
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert found == [[(keys[index], index) for index in batch] for batch in batches]
