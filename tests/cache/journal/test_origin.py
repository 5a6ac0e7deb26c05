"""Journals of this version and of the one before, and which of them a node starts on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from milena_cache.__main__ import _open_disk
from milena_cache.journal import origin
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.lmdb_disk import LmdbDisk
from milena_cache.journal.record import Record, encode
from milena_cache.objects.version import Version
from tests.cache.node_under_test import BUCKET, CONFIG

ORIGIN = f"s3://{BUCKET}/"


def write(directory: Path, text: str, *, records: int) -> None:
    async def work() -> None:
        disk = LmdbDisk(directory, 10**6)
        await disk.roll_back()
        for number in range(1, records + 1):
            disk.put_record(number, encode(Record(b"k", Version(1, number), b"v")))
        disk.set_metadata("origin", text)
        await disk.commit()
        await disk.close()

    asyncio.run(work())


def opens(directory: Path) -> int:
    """Open as a node does; return the number of records."""

    async def work() -> int:
        disk = await _open_disk(replace(CONFIG, journal=str(directory)))
        number = len(disk.records(-1, 10))
        await disk.close()
        return number

    return asyncio.run(work())


@pytest.mark.parametrize("text", [ORIGIN, origin.to_text(ORIGIN)])
def test_a_node_starts_on_a_journal_of_the_version_before_and_on_its_own(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, records=3)
    assert opens(tmp_path) == 3


@pytest.mark.parametrize("text", ["s3://another/", origin.to_text("s3://another/")])
def test_a_node_does_not_start_on_writes_for_another_bucket(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, records=1)
    with pytest.raises(CannotOpen, match="has writes for s3://another/, and S3_BUCKET"):
        opens(tmp_path)


def test_the_version_before_takes_writes_of_this_one_for_those_of_another_bucket() -> None:
    text = origin.to_text(ORIGIN)
    # It compares the whole text with its own origin, and rejects the journal if it has records.
    assert text != ORIGIN
    assert text.startswith(f"{ORIGIN}, written by a later version of Milena")
    assert origin.from_text(text) == ORIGIN
