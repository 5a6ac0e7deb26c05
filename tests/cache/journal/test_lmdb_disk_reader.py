"""Reading a journal's file beside the process that writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from milena_cache.journal import lmdb_disk as journal_lmdb
from milena_cache.journal.disk import CannotOpen
from milena_cache.journal.file import DATA_FILE
from milena_cache.journal.lmdb_disk import LOCK_FILE, LmdbReader, Unreadable
from tests.cache.journal.test_lmdb_disk import directory, mode_of, written

__all__ = ["directory"]


def seen(reader: LmdbReader) -> dict[int, bytes]:
    return dict(reader.records(lambda seq, raw: (seq, bytes(raw))))


def test_a_reader_sees_everything_in_pages(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_lmdb, "PAGE_RECORDS", 7)
    monkeypatch.setattr(journal_lmdb, "PAGE_BYTES", 10_000)
    values = {seq: bytes(50 if seq % 9 else 20_000) for seq in range(0, 200, 3)}
    written(directory, values)
    reader = LmdbReader(directory)
    assert seen(reader) == values
    assert reader.entries == len(values)
    assert list(reader.quarantined(lambda seq, raw: seq)) == []
    reader.close()


def test_a_reader_changes_nothing(directory: Path) -> None:
    written(directory, {1: b"v"})
    (directory / LOCK_FILE).unlink()
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    reader = LmdbReader(directory)
    assert seen(reader) == {1: b"v"}
    reader.close()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    directory.chmod(0o500)
    LmdbReader(directory).close()
    assert mode_of(directory) == 0o500


def test_a_reader_says_what_is_no_journal(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(CannotOpen, match=f"^{tmp_path}: is no journal, there is no data.mdb$"):
        LmdbReader(tmp_path)
    assert list(tmp_path.iterdir()) == []
    written(directory, {1: b"v"})
    (directory / DATA_FILE).write_bytes(b"\x55" * 9000)
    with pytest.raises(CannotOpen, match=f"^{directory}: data.mdb does not begin as a journal does"):
        LmdbReader(directory)


def test_a_reader_says_when_the_tree_is_damaged(directory: Path) -> None:
    written(directory, {seq: bytes(1000) for seq in range(200)})
    file = directory / DATA_FILE
    raw = bytearray(file.read_bytes())
    for page in range(2, len(raw) // 4096):
        raw[page * 4096 + 10 : page * 4096 + 12] = b"\0\0"  # what kind of page it is
    file.write_bytes(raw)
    with pytest.raises((Unreadable, CannotOpen)):
        seen(LmdbReader(directory))
