"""Journals of another number of workers: refused while they have writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_cache.configuration.config import Config, load
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.workers.left_journals import check_left_journals
from milena_common.api.errors import ConfigError
from milena_common.process.env import Environment
from tests.cache.workers.test_plan import REQUIRED


def config(directory: Path, workers: int) -> Config:
    return load(Environment(REQUIRED | {"JOURNAL_DIR": str(directory), "WORKERS": str(workers)}), 2**33)


async def journal(directory: Path, *, writes: int) -> None:
    disk = LmdbDisk(directory, 2**20)
    await disk.roll_back()
    for number in range(writes):
        disk.put_record(number + 1, b"a record")
    await disk.commit()
    await disk.close()


async def test_fewer_workers_do_not_start_beside_the_writes_of_more(tmp_path: Path) -> None:
    for index in range(4):
        await journal(tmp_path / f"worker-{index}", writes=index)
    check_left_journals(config(tmp_path, 4))
    with pytest.raises(ConfigError) as caught:
        check_left_journals(config(tmp_path, 2))
    first, second = caught.value.problems
    assert f"{tmp_path}/worker-2 has writes" in first
    assert f"{tmp_path}/worker-3 has writes" in second
    assert "start once with WORKERS=4" in first
    with pytest.raises(ConfigError, match="start once with WORKERS=4"):
        check_left_journals(config(tmp_path, 1))


async def test_a_single_node_with_writes_is_not_turned_into_workers(tmp_path: Path) -> None:
    await journal(tmp_path, writes=1)
    check_left_journals(config(tmp_path, 1))
    with pytest.raises(ConfigError, match="start once with WORKERS=1"):
        check_left_journals(config(tmp_path, 2))


async def test_empty_journals_and_other_directories_are_no_obstacle(tmp_path: Path) -> None:
    await journal(tmp_path, writes=0)
    await journal(tmp_path / "worker-5", writes=0)
    (tmp_path / "worker-old").mkdir()
    check_left_journals(config(tmp_path, 2))
    check_left_journals(config(tmp_path / "not there", 2))


async def test_a_journal_that_cannot_be_read_may_have_writes(tmp_path: Path) -> None:
    await journal(tmp_path / "worker-1", writes=1)
    (tmp_path / "worker-1" / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(ConfigError, match="start once with WORKERS=2"):
        check_left_journals(config(tmp_path, 1))
