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
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from milena_cache.journal import directory as journal_directory
from milena_cache.journal import file as journal_file
from milena_cache.journal import identity as journal_identity
from milena_cache.journal.disk import CannotOpen, DiskFailed, DiskFull
from milena_cache.journal.file import DATA_FILE, ENGINE

RECORDS, REJECTED, DAMAGED, META = b"records", b"refused", b"damaged", b"meta"
DATABASES = (RECORDS, REJECTED, DAMAGED, META)
LOCK_FILE = "lock.mdb"
# Only room in the address space; the file grows as it is filled.
MIN_MAP = 2**30
# Threads and processes that may read at once.
READERS = 64
LOCK_FILE_BYTES = 2**13
# Those that ended while they read are forgotten once in so many commits.
COMMITS_PER_CHECK = 1000
# What a reader reads at once.
PAGE_RECORDS, PAGE_BYTES = 1000, 2**24
MIN_ROOM = 2**20
# From this size the thread copies a record, or the event loop would stand still for it.
LARGE_BYTES = 2**16
# LMDB says what failed only in words.
_NO_SPACE = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

T = TypeVar("T")


def key_of(seq: int) -> bytes:
    """What a record is filed under: big-endian, so that the order of bytes is the order of numbers."""
    return seq.to_bytes(8, "big")


class Unreadable(Exception):
    """The tree of pages is damaged, not only a record."""


class LmdbDisk:
    """An open journal directory. Implements `journal_disk.Disk`."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """`max_bytes`: how many bytes of records it shall be able to hold. Raises CannotOpen."""
        self.directory = directory
        self._lock = journal_directory.take(directory)
        if journal_identity.is_unborn(directory):
            (directory / DATA_FILE).unlink(missing_ok=True)
        is_new = not (directory / DATA_FILE).exists()
        try:
            journal_file.check(directory)
            identity = journal_identity.check(directory)
        except CannotOpen:
            self._lock.close()
            raise
        try:
            _allocate(directory / LOCK_FILE)
            # Twice what is kept: pages that a commit frees are used again only by the next but one, and a large
            # value needs room in one piece.
            self._env = lmdb.open(
                str(directory),
                map_size=MIN_MAP + 3 * max_bytes,
                max_dbs=len(DATABASES),
                max_readers=READERS,
                mode=0o600,
                lib_version=ENGINE,
            )
            self._env.reader_check()
            with self._env.begin(write=True) as setup:
                dbs = [self._env.open_db(name, setup) for name in DATABASES]
            self._records, self._rejected, self._damaged, self._meta = dbs
            journal_directory.sync(directory)
            self.identity = journal_identity.keep(directory, identity)
        except (lmdb.Error, OSError) as error:
            if is_new:  # half of its head may be there, which is no journal for the next one either
                (directory / DATA_FILE).unlink(missing_ok=True)
            self._lock.close()
            raise CannotOpen(_why(directory, error)) from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._open: lmdb.Transaction | None = None
        self._large: list[tuple[int, bytes]] = []
        self._commits = 0
        self._bytes = 0

    # ---- into the open transaction

    def put_record(self, seq: int, raw: bytes) -> None:
        self._bytes += len(raw)
        if self._large or len(raw) >= LARGE_BYTES:
            self._large.append((seq, raw))  # and what comes after it, for the order of the numbers
        else:
            self._put(seq, raw)

    def _put(self, seq: int, raw: bytes) -> None:
        assert self._open is not None
        try:
            above = self._open.put(seq.to_bytes(8, "big"), raw, append=True, db=self._records)
        except lmdb.Error as error:
            raise _translated(error) from None
        if not above:
            raise DiskFailed(f"record {seq} is not above the last one")

    def remove_record(self, seq: int) -> None:
        def work(txn: lmdb.Transaction) -> None:
            txn.delete(key_of(seq), db=self._records)
            txn.delete(key_of(seq), db=self._rejected)
            txn.delete(key_of(seq), db=self._damaged)

        self._do(work)

    def reject_record(self, seq: int, reason: str, at: float) -> None:
        raw = json.dumps({"reason": reason, "at": at}).encode()
        self._do(lambda txn: txn.put(key_of(seq), raw, db=self._rejected))

    def clear_rejection(self, seq: int) -> None:
        self.reject_record(seq, "", 0.0)

    def quarantine(self, seq: int) -> None:
        def work(txn: lmdb.Transaction) -> None:
            raw = txn.pop(key_of(seq), db=self._records)
            txn.put(key_of(seq), raw or b"", db=self._damaged)

        self._do(work)

    def drop_quarantined(self) -> None:
        self._do(lambda txn: txn.drop(self._damaged, delete=False))

    def set_metadata(self, name: str, text: str) -> None:
        self._do(lambda txn: txn.put(name.encode(), text.encode(), db=self._meta))

    def _do(self, work: Any) -> None:
        assert self._open is not None
        try:
            work(self._open)
        except lmdb.Error as error:
            raise _translated(error) from None

    def read_record(self, seq: int) -> bytes | None:
        """The committed record."""
        with self._env.begin(db=self._records) as txn:
            found: bytes | None = txn.get(key_of(seq))
            return found

    # ---- by the disk's thread

    def commit(self) -> Awaitable[None]:
        return self._in_thread(self._commit)

    async def roll_back(self) -> None:
        await self._in_thread(self._roll_back)

    async def close(self) -> None:
        """What was not committed is forgotten."""
        await self._in_thread(self._abort)
        self._thread.shutdown()
        self._env.close()
        self._lock.close()

    def _in_thread(self, work: Callable[[], None]) -> Awaitable[None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _commit(self) -> None:
        for seq, raw in self._large:
            self._put(seq, raw)
        self._large.clear()
        txn, self._open = self._open, None
        assert txn is not None
        try:
            txn.commit()
            self._commits += 1
            self._bytes = 0
            if not self._commits % COMMITS_PER_CHECK:
                self._env.reader_check()
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            # A write that the last free blocks take only a part of is an I/O error to LMDB.
            if str(error).endswith(os.strerror(errno.EIO)) and not self._may_grow():
                raise DiskFull(f"{error}, for want of space") from None
            raise _translated(error) from None

    def _may_grow(self) -> bool:
        """Whether the file could take what has been put in since the last commit, and something beside."""
        number = os.open(self.directory / DATA_FILE, os.O_RDWR)
        try:
            size = os.fstat(number).st_size
            os.posix_fallocate(number, size, 2 * self._bytes + MIN_ROOM)
            os.ftruncate(number, size)
        except OSError as error:
            return error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        finally:
            os.close(number)
        return True

    def _roll_back(self) -> None:
        self._abort()
        try:
            self._env.reader_check()
            self._open = self._env.begin(write=True)
        except lmdb.Error as error:
            raise DiskFailed(str(error)) from None

    def _abort(self) -> None:
        self._bytes = 0
        self._large.clear()
        txn, self._open = self._open, None
        if txn is not None:
            txn.abort()

    # ---- before the first transaction

    @contextmanager
    def _reading(self, db: Any, **options: Any) -> Iterator[Any]:
        try:
            with self._env.begin(db=db, **options) as txn:
                yield txn
        except (lmdb.Error, ValueError) as error:
            raise CannotOpen(f"{self.directory}: {error}; look at it with `milena journal verify`") from None

    def metadata(self) -> dict[str, str]:
        with self._reading(self._meta) as txn:
            return _metadata(txn)

    def records(self, after: int, limit: int) -> list[tuple[int, memoryview]]:
        """At most `limit` records above number `after`. Their bytes are valid until the first transaction."""
        with self._reading(self._records, buffers=True) as txn:
            cursor = txn.cursor()
            if not cursor.set_range(key_of(after + 1)):
                return []
            return [(int.from_bytes(key, "big"), raw) for key, raw in _first(cursor.iternext(), limit)]

    def rejections(self) -> dict[int, tuple[str, float]]:
        """Why S3 refused records for good, and when, by number."""
        with self._reading(self._rejected) as txn:
            return _rejections(txn)

    def damaged(self) -> int:
        """How many records have been set aside."""
        with self._reading(self._damaged) as txn:
            return int(txn.stat(self._damaged)["entries"])

    @property
    def used_bytes(self) -> int:
        """Bytes of the file."""
        return (self.directory / DATA_FILE).stat().st_size


class LmdbReader:
    """The journal in a directory for those who only look, also while a node writes it.

    Nothing is written, and the node's lock is not touched. Records are read in pages, a transaction each, and never
    handed out within one: pages of the file that a reader can still see cannot be used again, so one that takes its
    time would make the file grow. What a node writes or takes out meanwhile is seen, or not.
    """

    def __init__(self, directory: Path) -> None:
        """Raises CannotOpen."""
        self.directory = directory
        journal_file.check(directory, whole=False)
        try:
            self.bytes_on_disk = (directory / DATA_FILE).stat().st_size
            self._env = lmdb.open(
                str(directory),
                map_size=0,  # the writer's
                max_dbs=len(DATABASES),
                max_readers=READERS,
                readonly=True,
                create=False,
                lib_version=ENGINE,
                # Where no node ever was, a copy say, there is none to be kept from using pages again.
                lock=(directory / LOCK_FILE).exists(),
            )
            self._dbs = {name: self._env.open_db(name, create=False) for name in DATABASES}
            with self._env.begin() as txn:
                self.entries = int(txn.stat(self._dbs[RECORDS])["entries"])
                self.metadata = _metadata(txn, self._dbs[META])
                rejections = _rejections(txn, self._dbs[REJECTED])
            self.rejections = {seq: rejection for seq, rejection in rejections.items() if rejection[0]}
        except FileNotFoundError:
            raise CannotOpen(f"{directory}: is no journal, there is no {DATA_FILE}") from None
        except (lmdb.Error, OSError) as error:
            raise CannotOpen(_why(directory, error)) from None
        except ValueError as error:
            raise CannotOpen(f"{directory}: its pages are damaged: {error}") from None

    def records(self, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        """What `look` makes of each record, by number and bytes, in order. Raises Unreadable."""
        return self._pages(RECORDS, look)

    def quarantined(self, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        """The same of the damaged records that were set aside."""
        return self._pages(DAMAGED, look)

    def _pages(self, name: bytes, look: Callable[[int, memoryview], T]) -> Iterator[T]:
        last = -1
        while page := self._page(name, last + 1, look):
            last = page[-1][0]
            yield from (seen for _, seen in page)

    def _page(self, name: bytes, first: int, look: Callable[[int, memoryview], T]) -> list[tuple[int, T]]:
        page: list[tuple[int, T]] = []
        size = 0
        try:
            with self._env.begin(db=self._dbs[name], buffers=True) as txn:
                cursor = txn.cursor()
                found = cursor.set_range(key_of(first))
                while found and len(page) < PAGE_RECORDS and size < PAGE_BYTES:
                    key, raw = cursor.item()
                    seq = int.from_bytes(key, "big")
                    page.append((seq, look(seq, raw)))
                    size += len(raw)
                    found = cursor.next()
        except lmdb.Error as error:
            raise Unreadable(f"{self.directory}: {error}") from None
        return page

    def close(self) -> None:
        self._env.close()


def _metadata(txn: lmdb.Transaction, db: Any = None) -> dict[str, str]:
    return {bytes(name).decode(): bytes(text).decode() for name, text in txn.cursor(db)}


def _rejections(txn: lmdb.Transaction, db: Any = None) -> dict[int, tuple[str, float]]:
    found = {}
    for key, raw in txn.cursor(db):
        rejection = json.loads(bytes(raw))
        found[int.from_bytes(key, "big")] = (str(rejection["reason"]), float(rejection["at"]))
    return found


def _first(rows: Iterator[tuple[Any, Any]], limit: int) -> Iterator[tuple[Any, Any]]:
    for _, row in zip(range(limit), rows, strict=False):
        yield row


def _allocate(lock_file: Path) -> None:
    """Have the lock file on the disk. LMDB maps it: to write where it is not would end a process on a full disk."""
    with os.fdopen(os.open(lock_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
        file.write(bytes(max(0, LOCK_FILE_BYTES - file.tell())))


def _why(directory: Path, error: lmdb.Error | OSError) -> str:
    rejection = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{directory}: ")
    return f"{directory}: {rejection}"


def _translated(error: lmdb.Error) -> Exception:
    text = str(error)
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or text.endswith(_NO_SPACE):
        return DiskFull(text)
    return DiskFailed(text)
