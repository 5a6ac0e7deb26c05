"""Shell. Checks the journal's file before LMDB maps it into memory.

LMDB trusts its file. Missing pages end the process by SIGBUS, and an empty file counts as a new one. So the head of
the file, two meta pages, is read here first, as plain bytes, and checked: the file is LMDB's, of the engine that
this program uses, and has the length that its head gives. A shorter file is audited page by page with
`lmdb.verify`, which reads bytes too; pages at the end that no tree refers to may be missing without harm.

py-lmdb 3 has two engines, LMDB 0.9 and 1.0, which cannot open each other's files. This program uses 0.9 only, by
name, so that a change of the library's default does not matter.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import lmdb.verify

from milena_cache.journal.disk import CannotOpen

DATA_FILE = "data.mdb"
# LMDB's major version, for `lmdb.open`; see above.
ENGINE = 0
ENGINE_NAMES = {1: "0.9", 3: "1.0"}
DATA_VERSION = 1

_MAGIC = 0xBEEFC0DE
# Offset of the meta data on its page: after the page header, which is longer in 1.0.
_META_OFFSETS = (16, 24)
_MIN_PAGE, _MAX_PAGE = 512, 65536
# In the meta data of 0.9, in bytes from its beginning: page size, number of the last page, number of the
# transaction.
_PAGE_SIZE, _LAST_PAGE, _TRANSACTION = 24, 120, 128
_META_BYTES = 136
_P_META = 0x08

REPAIR = (
    "restore the file from a copy, or save what is readable with `milena journal export`; a node that starts with "
    "an empty directory instead loses the writes that this one acknowledged and S3 does not have"
)


class _Meta(NamedTuple):
    transaction: int
    page_size: int
    pages: int


def check(directory: Path, *, whole: bool = True) -> None:
    """Raise CannotOpen if the directory's data file cannot be a journal that LMDB 0.9 reads to its end.

    `whole=False` accepts a truncated file, for tools that save what is readable. A directory without a data file
    passes: that is a new journal.
    """
    path = directory / DATA_FILE
    try:
        with path.open("rb") as file:
            # The head before the size: a node that commits concurrently makes the file longer before it changes the
            # head, so the size is never less than this head says.
            head = file.read(_MAX_PAGE + _MAX_PAGE)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotOpen(f"{directory}: {DATA_FILE}: {error.strerror}") from None
    if not size:
        raise CannotOpen(f"{directory}: {DATA_FILE} is empty, and a journal never is: it was truncated. {REPAIR}")
    version = _data_version(head)
    if version is None:
        what = "it was overwritten, or is another file"
        raise CannotOpen(f"{directory}: {DATA_FILE} does not begin as a journal does: {what}. {REPAIR}")
    if version != DATA_VERSION:
        raise CannotOpen(
            f"{directory}: was written by LMDB {ENGINE_NAMES.get(version, f'of data version {version}')}, and this "
            f"program uses LMDB {ENGINE_NAMES[DATA_VERSION]}; start the version of Milena that wrote it, and stop "
            "that one with exit code 0 before changing versions"
        )
    metas = [meta for meta in _metas(head) if meta is not None]
    if not metas or size < 2 * metas[0].page_size:
        raise CannotOpen(f"{directory}: {DATA_FILE} is truncated in its head. {REPAIR}")
    meta = max(metas)
    should_have = meta.pages * meta.page_size
    if whole and size < should_have:
        problems = audit(directory)
        if problems:
            raise CannotOpen(
                f"{directory}: {DATA_FILE} has {size} of {should_have} bytes, and records are in the missing part "
                f"({problems[0]}). {REPAIR}"
            )


def audit(directory: Path) -> list[str]:
    """Return the faults in the structure of the data file, page by page; no process may write it meanwhile.

    Takes about 15 µs for each record (py-lmdb 3.0.0). Raises CannotOpen if the file cannot be read.
    """
    try:
        return list(lmdb.verify.verify(str(directory), subdir=True))  # type: ignore[no-untyped-call]
    except (lmdb.verify.VerifyError, OSError) as error:
        raise CannotOpen(f"{directory}: {DATA_FILE}: {error}") from None


def _data_version(head: bytes) -> int | None:
    for offset in _META_OFFSETS:
        if len(head) >= offset + 8:
            magic, version = struct.unpack_from("=II", head, offset)
            if magic == _MAGIC:
                return int(version) & 0xFFFF
    return None


def _metas(head: bytes) -> tuple[_Meta | None, _Meta | None]:
    """Return the two meta pages, None for one that is not valid. A crash while one is written leaves the other."""
    first = _meta(head, 0)
    if first is not None:
        return first, _meta(head, first.page_size)
    # The first gives the page size; without it the second is searched for at every possible page size.
    sizes = (2**power for power in range(9, 17))
    return None, next((meta for size in sizes if (meta := _meta(head, size)) and meta.page_size == size), None)


def _meta(head: bytes, page: int) -> _Meta | None:
    start = page + _META_OFFSETS[0]
    if len(head) < start + _META_BYTES:
        return None
    (flags,) = struct.unpack_from("=H", head, page + 10)
    magic, version = struct.unpack_from("=II", head, start)
    (page_size,) = struct.unpack_from("=I", head, start + _PAGE_SIZE)
    last_page, transaction = struct.unpack_from("=QQ", head, start + _LAST_PAGE)
    sound = flags & _P_META and magic == _MAGIC and version & 0xFFFF == DATA_VERSION
    if not sound or not _MIN_PAGE <= page_size <= _MAX_PAGE or page_size & (page_size - 1):
        return None
    return _Meta(transaction, page_size, last_page + 1)
