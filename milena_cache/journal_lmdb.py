"""Shell. The journal's file: LMDB in a directory that one process has to itself.

LMDB is a copy-on-write B-tree: a commit writes new pages, syncs them, then writes one page that makes them the
tree, and syncs that. So after a crash at any moment the file holds exactly what some commit left, and a commit that
fails, for want of space say, leaves what was before. (https://www.symas.com/mdb; "How LMDB works".)

Threads: a write transaction belongs to the thread that began it, because of LMDB's lock. So a thread of the disk's
own commits one and begins the next, and in between the event loop's thread fills it, which is only memory. That
way the costly part runs beside the event loop, and its many small steps need not change threads.

Records are filed under their sequence number, which only grows: then LMDB appends, which is its fastest way.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from milena_cache import journal_directory
from milena_cache.journal_disk import CannotOpen, DiskFailed, DiskFull

RECORDS, REFUSED, DAMAGED, META = b"records", b"refused", b"damaged", b"meta"
# Only room in the address space; the file grows as it is filled.
LEAST_MAP = 2**30
# From this size the thread copies a record, or the event loop would stand still for it.
LARGE_BYTES = 2**16
# LMDB says what failed only in words.
_NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def key_of(seq: int) -> bytes:
    """What a record is filed under: big-endian, so that the order of bytes is the order of numbers."""
    return seq.to_bytes(8, "big")


class LmdbDisk:
    """An open journal directory. Implements `journal_disk.Disk`."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """`max_bytes`: how many bytes of records it shall be able to hold. Raises CannotOpen."""
        self.directory = directory
        self._lock = journal_directory.take(directory)
        try:
            # Twice what is kept: pages that a commit frees are used again only by the next but one, and a large
            # value needs room in one piece.
            self._env = lmdb.open(
                str(directory), map_size=LEAST_MAP + 3 * max_bytes, max_dbs=4, max_readers=64, mode=0o600
            )
            self._env.reader_check()
            with self._env.begin(write=True) as setup:
                dbs = [self._env.open_db(name, setup) for name in (RECORDS, REFUSED, DAMAGED, META)]
            self._records, self._refused, self._damaged, self._meta = dbs
            journal_directory.sync(directory)
        except (lmdb.Error, OSError) as error:
            self._lock.close()
            raise CannotOpen(f"{directory}: {error}") from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._open: lmdb.Transaction | None = None
        self._large: list[tuple[int, bytes]] = []

    # ---- into the open transaction

    def put(self, seq: int, raw: bytes) -> None:
        if self._large or len(raw) >= LARGE_BYTES:
            self._large.append((seq, raw))  # and what comes after it, for the order of the numbers
        else:
            self._put(seq, raw)

    def _put(self, seq: int, raw: bytes) -> None:
        def work(txn: lmdb.Transaction) -> None:
            if not txn.put(key_of(seq), raw, db=self._records, append=True):
                raise DiskFailed(f"record {seq} is not above the last one")

        self._do(work)

    def remove(self, seq: int) -> None:
        def work(txn: lmdb.Transaction) -> None:
            txn.delete(key_of(seq), db=self._records)
            txn.delete(key_of(seq), db=self._refused)
            txn.delete(key_of(seq), db=self._damaged)

        self._do(work)

    def refuse(self, seq: int, reason: str, at: float) -> None:
        raw = json.dumps({"reason": reason, "at": at}).encode()
        self._do(lambda txn: txn.put(key_of(seq), raw, db=self._refused))

    def accept(self, seq: int) -> None:
        self._do(lambda txn: txn.delete(key_of(seq), db=self._refused))

    def set_aside(self, seq: int) -> None:
        def work(txn: lmdb.Transaction) -> None:
            raw = txn.pop(key_of(seq), db=self._records)
            txn.put(key_of(seq), raw or b"", db=self._damaged)

        self._do(work)

    def drop_set_aside(self) -> None:
        self._do(lambda txn: txn.drop(self._damaged, delete=False))

    def note(self, name: str, text: str) -> None:
        self._do(lambda txn: txn.put(name.encode(), text.encode(), db=self._meta))

    def _do(self, work: Any) -> None:
        assert self._open is not None
        try:
            work(self._open)
        except lmdb.Error as error:
            raise _translated(error) from None

    def read(self, seq: int) -> bytes | None:
        """The committed record."""
        with self._env.begin(db=self._records) as txn:
            found: bytes | None = txn.get(key_of(seq))
            return found

    # ---- by the disk's thread

    async def commit(self) -> None:
        await self._in_thread(self._commit)

    async def roll_back(self) -> None:
        await self._in_thread(self._roll_back)

    async def close(self) -> None:
        """What was not committed is forgotten."""
        await self._in_thread(self._abort)
        self._thread.shutdown()
        self._env.close()
        self._lock.close()

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _commit(self) -> None:
        for seq, raw in self._large:
            self._put(seq, raw)
        self._large.clear()
        txn, self._open = self._open, None
        assert txn is not None
        try:
            txn.commit()
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            raise _translated(error) from None

    def _roll_back(self) -> None:
        self._abort()
        try:
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            raise DiskFailed(str(error)) from None

    def _abort(self) -> None:
        self._large.clear()
        txn, self._open = self._open, None
        if txn is not None:
            txn.abort()

    # ---- before the first transaction

    def notes(self) -> dict[str, str]:
        with self._env.begin(db=self._meta) as txn:
            return {bytes(name).decode(): bytes(text).decode() for name, text in txn.cursor()}

    def records(self, after: int, limit: int) -> list[tuple[int, memoryview]]:
        """At most `limit` records above number `after`. Their bytes are valid until the first transaction."""
        with self._env.begin(db=self._records, buffers=True) as txn:
            cursor = txn.cursor()
            if not cursor.set_range(key_of(after + 1)):
                return []
            return [(int.from_bytes(key, "big"), raw) for key, raw in _first(cursor.iternext(), limit)]

    def refusals(self) -> dict[int, tuple[str, float]]:
        """Why S3 refused records for good, and when, by number."""
        found = {}
        with self._env.begin(db=self._refused) as txn:
            for key, raw in txn.cursor():
                said = json.loads(raw)
                found[int.from_bytes(key, "big")] = (str(said["reason"]), float(said["at"]))
        return found

    def damaged(self) -> int:
        """How many records have been set aside."""
        with self._env.begin(db=self._damaged) as txn:
            return int(txn.stat(self._damaged)["entries"])

    @property
    def used_bytes(self) -> int:
        """Bytes of the file."""
        return (self.directory / "data.mdb").stat().st_size


def _first(rows: Iterator[tuple[Any, Any]], limit: int) -> Iterator[tuple[Any, Any]]:
    for _, row in zip(range(limit), rows, strict=False):
        yield row


def _translated(error: lmdb.Error) -> Exception:
    text = str(error)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or text.endswith(_NO_SPACE):
        return DiskFull(text)
    return DiskFailed(text)
