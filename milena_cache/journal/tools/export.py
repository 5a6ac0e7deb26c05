"""Shell. Exports a journal to files: the newest acknowledged value of each key, and a manifest.

    DIRECTORY/manifest.jsonl                a line of JSON for each key, and for each damaged record without a key
    DIRECTORY/objects/bucket/a/b.csv        the value of the key a/b
    DIRECTORY/unnamed/1700000000000001      the value of a key that makes no file name, by its record's number

Keys are untrusted: one may be "../../etc/passwd", contain control characters, or need a directory where another key
has a file. Only a key whose every part is an ordinary name becomes a path; the manifest lists the files of the
others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from milena_cache.journal.lmdb_disk import LmdbReader
from milena_cache.journal.record import Record
from milena_cache.journal.tools.found import Found, look, row

MANIFEST = "manifest.jsonl"
MAX_NAME_BYTES = 255


class CannotExport(Exception):
    """The directory cannot be used, or the export is not complete. `code`: 2 if nothing was written, else 1."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Exported(NamedTuple):
    """Counts of keys by newest write: value, delete, damaged; `nameless`: damaged records without a key."""

    values: int
    deletes: int
    damaged: int
    nameless: int

    @property
    def keys(self) -> int:
        return self.values + self.deletes + self.damaged


def export(reader: LmdbReader, bucket: str, to: Path, one_more: Callable[[], None]) -> Exported:
    """Export the records of `reader` below `to`; `one_more` is called for each. `bucket`: the default bucket.

    The manifest is in memory until the end, a few hundred bytes for each key. Raises CannotExport, Unreadable.
    """
    _prepare(to, reader.directory)
    try:
        return _Export(reader, bucket, to).run(one_more)
    except OSError as error:
        raise CannotExport(
            f"--to {to}: {error.strerror}; the export there is not complete: remove it, and export to "
            "another place",
            1,
        ) from None


def _prepare(to: Path, journal: Path) -> None:
    if to.resolve().is_relative_to(journal.resolve()):
        raise CannotExport(f"--to {to}: is in the journal's own directory; name another", 2)
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise CannotExport(f"--to {to}: is not empty; name a directory that is, or that is not there yet", 2)
    except OSError as error:
        raise CannotExport(f"--to {to}: {error.strerror}; name a directory that can be made", 2) from None


class _Key(NamedTuple):
    """The newest write of a key: its line of the manifest, and its file, if it has one."""

    row: str
    file: Path | None
    damaged: bool


class _Export:
    def __init__(self, reader: LmdbReader, bucket: str, to: Path) -> None:
        self._reader = reader
        self._bucket = bucket
        self._to = to
        self._keys: dict[bytes, _Key] = {}
        self._nameless: list[str] = []

    def run(self, one_more: Callable[[], None]) -> Exported:
        for found in self._reader.records(partial(look, with_value=True)):
            one_more()
            self._add(found)
        for found in self._reader.quarantined(look):
            self._nameless.append(self._row(found, None))
        with (self._to / MANIFEST).open("x", encoding="ascii") as manifest:
            for key in self._keys.values():
                manifest.write(key.row)
            manifest.writelines(self._nameless)
        values = sum(key.file is not None for key in self._keys.values())
        damaged = sum(key.damaged for key in self._keys.values())
        return Exported(values, len(self._keys) - values - damaged, damaged, len(self._nameless))

    def _add(self, found: Found) -> None:
        """Add a record, which replaces an earlier one of its key: records come in the order of the writes."""
        record = found.record
        if record is None:
            self._nameless.append(self._row(found, None))
            return
        earlier = self._keys.get(record.cache_key)
        if earlier is not None and earlier.file is not None:
            earlier.file.unlink()
        file = None
        if record.value is not None and not found.damage:
            file = self._write(found, record, record.value)
        self._keys[record.cache_key] = _Key(self._row(found, file), file, bool(found.damage))

    def _row(self, found: Found, file: Path | None) -> str:
        fields = row(found, self._bucket, self._reader.rejections, time.time())
        del fields["age"]
        where = None if file is None else file.relative_to(self._to).as_posix()
        return json.dumps({"file": where, **fields}) + "\n"

    def _write(self, found: Found, record: Record, value: bytes) -> Path:
        fields = row(found, self._bucket, {}, 0)
        parts = [str(fields["bucket"]), *str(fields["key"]).split("/")]
        if all(map(_is_name, parts)):
            try:
                return _write_new(self._to.joinpath("objects", *parts), value)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                pass  # another key's file is where this one needs a directory, or the other way about
        return _write_new(self._to / "unnamed" / str(found.number), value)


def _is_name(part: str) -> bool:
    """Return True if `part` is a printable file name without separators, valid on any file system."""
    return (
        part not in ("", ".", "..")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode(errors="surrogatepass")) <= MAX_NAME_BYTES
    )


def _write_new(path: Path, value: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(value)
    return path
