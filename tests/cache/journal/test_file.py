"""A journal's file is looked at before it is mapped: each way in which it is none has a sentence."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from milena_cache.journal import file as journal_file
from milena_cache.journal import identity as journal_identity
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.identity import IDENTITY_FILE
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.trial import trial
from tests.support.processes import ROOT

MAX_BYTES = 10**7


async def journal_of(directory: Path, records: int = 500) -> Path:
    disk = LmdbDisk(directory, MAX_BYTES)
    await disk.roll_back()
    for seq in range(records):
        disk.put_record(seq, bytes(1000))
    await disk.commit()
    await disk.close()
    return directory


@pytest.fixture
async def journal(tmp_path: Path) -> Path:
    return await journal_of(tmp_path / "journal")


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def test_a_whole_file_passes(journal: Path) -> None:
    journal_file.check(journal)
    trial(journal)
    assert journal_file.audit(journal) == []


@pytest.mark.parametrize("size", [1, 100, 4096, 8192, 100_000])
def test_a_truncated_file_is_rejected_before_it_is_mapped(journal: Path, size: int) -> None:
    os.truncate(journal / DATA_FILE, size)
    with pytest.raises(CannotOpen, match=rf"^{journal}: data.mdb .*(missing|is truncated|does not begin)"):
        LmdbDisk(journal, MAX_BYTES)
    with pytest.raises(CannotOpen, match=f"^{journal}: "):
        trial(journal)
    assert (journal / DATA_FILE).stat().st_size == size


def test_an_empty_file_is_no_new_journal_where_one_was(journal: Path) -> None:
    os.truncate(journal / DATA_FILE, 0)
    with pytest.raises(CannotOpen, match=rf"^{journal}: data.mdb is empty, and a journal never is"):
        LmdbDisk(journal, MAX_BYTES)


async def test_half_of_a_first_head_is_a_new_journal(tmp_path: Path) -> None:
    """A crash while the very first file is made leaves no identity beside it."""
    (tmp_path / DATA_FILE).write_bytes(bytes(100))
    trial(tmp_path)
    disk = LmdbDisk(tmp_path, MAX_BYTES)
    await disk.close()
    assert journal_identity.find(tmp_path) is not None


def test_one_of_the_two_heads_is_enough(journal: Path) -> None:
    """A crash in the middle of a commit leaves the other one."""
    overwrite(journal / DATA_FILE, 0, bytes(200))
    with pytest.raises(CannotOpen, match="does not begin"):
        journal_file.check(journal)
    shutil.copyfile(journal / DATA_FILE, journal / "saved")
    overwrite(journal / DATA_FILE, 0, (journal / "saved").read_bytes()[4096:4296])
    overwrite(journal / DATA_FILE, 4096, bytes(200))
    journal_file.check(journal)


def test_a_file_of_the_other_engine_is_named(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), lib_version=1) as other, other.begin(write=True) as txn:
        txn.put(b"a", b"b")
    with pytest.raises(CannotOpen, match=r"was written by LMDB 1\.0, and this program uses LMDB 0\.9"):
        LmdbDisk(tmp_path, MAX_BYTES)


async def test_the_engine_is_the_one_that_is_named(journal: Path) -> None:
    disk = LmdbDisk(journal, MAX_BYTES)
    try:
        assert disk._env.lib_version()[:2] == (0, 9)
    finally:
        await disk.close()


def test_garbage_in_the_pages_is_a_sentence(journal: Path) -> None:
    size = (journal / DATA_FILE).stat().st_size
    overwrite(journal / DATA_FILE, 8192, random.Random(1).randbytes(size - 8192))
    with pytest.raises(CannotOpen, match=rf"^{journal}: (its pages are damaged|.*MDB_)"):
        trial(journal)


# ---- copies


def test_a_copy_is_rejected_until_it_is_adopted(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(journal, copy)
    with pytest.raises(CannotOpen, match=rf"^{copy}: is a copy of journal .* `milena journal adopt {copy}`$"):
        LmdbDisk(copy, MAX_BYTES)
    original = journal_identity.find(journal)
    adopted = journal_identity.adopt(copy)
    assert original is not None
    assert adopted.journal == original.journal
    assert journal_identity.check(copy) == adopted


async def test_an_adopted_copy_opens_with_what_it_holds(journal: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(journal, copy)
    journal_identity.adopt(copy)
    disk = LmdbDisk(copy, MAX_BYTES)
    try:
        assert len(disk.records(-1, 1000)) == 500
    finally:
        await disk.close()


async def test_a_directory_that_was_renamed_is_the_same_journal(journal: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(journal, moved)
    disk = LmdbDisk(moved, MAX_BYTES)
    await disk.close()


async def test_a_journal_in_use_is_not_adopted(journal: Path) -> None:
    disk = LmdbDisk(journal, MAX_BYTES)
    try:
        with pytest.raises(CannotOpen, match="another process has it"):
            journal_identity.adopt(journal)
    finally:
        await disk.close()


def test_what_is_no_journal_is_not_adopted(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen, match="is no journal"):
        journal_identity.adopt(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"journal": "a"}', '{"journal": "a", "inode": "x"}', "\xff"]
)
def test_an_identity_that_is_none_is_a_sentence(journal: Path, text: str) -> None:
    (journal / IDENTITY_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(
        CannotOpen, match=r"identity.json: has other contents than Milena writes; .*`milena journal adopt"
    ):
        LmdbDisk(journal, MAX_BYTES)
    journal_identity.adopt(journal)
    journal_identity.check(journal)


async def test_the_node_that_uses_it_is_recorded(journal: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = LmdbDisk(journal, MAX_BYTES)
    try:
        journal_identity.record_node(journal, disk.identity, "cache1:50051")
    finally:
        await disk.close()
    disk = LmdbDisk(journal, MAX_BYTES)
    try:
        assert disk.identity.node == "cache1:50051"
        assert not caplog.messages
        journal_identity.record_node(journal, disk.identity, "cache2:50051")
    finally:
        await disk.close()
    assert "was used by node cache1:50051 before; this is node cache2:50051" in caplog.messages[0]


def test_a_place_that_cannot_be_a_directory_is_left_to_the_disk_to_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trial(tmp_path / "file" / "journal")
    with pytest.raises(CannotOpen, match="Not a directory"):
        LmdbDisk(tmp_path / "file" / "journal", MAX_BYTES)


# ---- a node


def start(directory: Path, journal: Path) -> subprocess.CompletedProcess[str]:
    """A node on `journal`, which is expected to reject it."""
    variables = {
        "ROUTER_ADDR": "127.0.0.1:1",
        "LISTEN_ADDR": "127.0.0.1:0",
        "RESP_ADDR": "off",
        "METRICS_PORT": "0",
        "S3_BUCKET": "some-bucket",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "JOURNAL_DIR": str(journal),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "milena_cache"],
        env={"PATH": os.defpath, **variables},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.e2e
@pytest.mark.parametrize("fault", ["cut short", "empty", "garbage", "copy", "identity"])
def test_a_node_rejects_it_with_exit_code_2_and_one_line(journal: Path, tmp_path: Path, fault: str) -> None:
    given = journal
    if fault == "cut short":
        os.truncate(journal / DATA_FILE, 50_000)
    elif fault == "empty":
        os.truncate(journal / DATA_FILE, 0)
    elif fault == "garbage":
        size = (journal / DATA_FILE).stat().st_size
        overwrite(journal / DATA_FILE, 8192, random.Random(2).randbytes(size - 8192))
    elif fault == "identity":
        (journal / IDENTITY_FILE).write_text("")
    else:
        given = tmp_path / "copy"
        shutil.copytree(journal, given)
    finished = start(tmp_path, given)
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"milena-cache: JOURNAL_DIR: {given}")
